//! `rate_get` (`endpoints/rate_get.md`).

use crate::harness::proxy::CountingProxy;
use crate::harness::{FIXTURE_SQL, Reply, Server, hash, postgres, server_on_database, server_with_connect_options};

const GET: &str = "rate_get";
/// The tariffs and rates of the tests of `rate_get` and `tariff_rates_get`.
pub const RATES_SQL: &str = include_str!("tariff_rates.sql");

/// A server with [`RATES_SQL`].
async fn rates_server(dialect: &str) -> Server {
    let server = server_on_database(&postgres::create_database(FIXTURE_SQL).await, &[("dialect", dialect)]).await;
    server.execute(RATES_SQL).await;
    server
}

/// Sends a signed request; `form` has no `u`. Resellers sign with their own key, and so do their users.
async fn rate(server: &Server, user: &str, form: &str) -> Reply {
    let username = form.split('&').find_map(|pair| pair.strip_prefix("username="));
    let key = if ["reseller", "customer"].contains(&user) { "reskey" } else { "secret" };
    server.post(GET, &format!("u={user}&{form}&hash={}", hash(username.unwrap_or_default(), key))).await
}

/// The message of an error, which is checked byte by byte, or the texts of the rates.
fn outcome(reply: &Reply) -> String {
    match reply.element_texts("error").first() {
        Some(error) => {
            reply.assert_body(&format!("<page>\n  <error>{error}</error>\n</page>"));
            (*error).to_owned()
        }
        None => reply.element_texts("rate").join(" | "),
    }
}

/// Each request breaks the rule of its line and of all lines below it, so that the order of the checks is visible.
#[tokio::test]
async fn errors_in_documented_order() {
    for dialect in ["documented", "x7"] {
        let server = rates_server(dialect).await;
        let x7 = dialect == "x7";
        let own_or_unknown = if x7 { "Empty prefix" } else { "User was not found" };
        let errors = [
            ("unknown", "", "Access Denied"),
            ("unknown", "username=user&prefix=370", "Access Denied"),
            ("admin", "", "User was not found"),
            ("admin", "username=&prefix=370", "User was not found"),
            ("admin", "username=no-such-user", "User was not found"),
            ("user", "username=no-such-user", "User was not found"),
            ("user", "username=customer", own_or_unknown),
            ("user", "username=admin", own_or_unknown),
            ("partner", "username=user", own_or_unknown),
            ("user", "username= ", if x7 { "User was not found" } else { "Empty prefix" }),
            ("user", "", if x7 { "User was not found" } else { "Empty prefix" }),
            // Group 1 has both rights, group 2 and 3 one of them, group 0 none.
            ("accountant_none", "username=customer", "You are not authorized to view this page"),
            ("accountant_read", "username=customer", "You are not authorized to view this page"),
            ("accountant_zero", "username=user", "You are not authorized to view this page"),
            ("accountant", "username=customer", "User belongs to reseller"),
            ("accountant", "username=reseller", "Empty prefix"),
            ("reseller", "username=user", "User was not found"),
            ("reseller", "username=reseller_read", "User was not found"),
            ("reseller", "username=reseller", "Empty prefix"),
            ("reseller", "username=customer", "Empty prefix"),
            ("reseller", "username=accountant", "Empty prefix"),
            ("admin", "username=user", "Empty prefix"),
            ("admin", "username=user&prefix=", "Empty prefix"),
            ("admin", "username=user&prefix=x-%D9%A3", "Empty prefix"),
            ("admin", "username=user&prefix=12", "Prefix was not found"),
            ("admin", "username=accountant&prefix=12", "Prefix was not found"),
            // Its destination has the group 0, and the next one a group that does not exist.
            ("admin", "username=user&prefix=9990", "Destination Group was not found"),
            ("admin", "username=user&prefix=998", "Destination Group was not found"),
            // The longest prefix is 3706, for which the wholesale tariff has no rate.
            ("admin", "username=user&prefix=3706", "Rate was not found"),
            ("admin", "username=admin&prefix=370", "Rate was not found"),
            ("admin", "username=accountant&prefix=370&by_full_dst=1", "Rate was not found"),
            ("admin", "username=reseller_none&prefix=370", "Rate was not found"),
            ("admin", "username=user&prefix=12&by_full_dst=1", "Rate was not found"),
            ("admin", "username=user&prefix=12&by_full_dst=2", "Prefix was not found"),
            // The rate has no price.
            ("admin", "username=user&prefix=355", "Rate was not found"),
            ("admin", "username=reseller&prefix=3706", "Rate was not found"),
        ];
        for (user, form, error) in errors {
            let reply = rate(&server, user, form).await;
            assert_eq!(outcome(&reply), error, "{dialect} {user} {form}");
        }
        server.execute("update conflines set value = '0' where name = 'Devices_Check_Rate'").await;
        for (user, error) in [("unknown", "Access Denied"), ("accountant_none", "Feature disabled")] {
            assert_eq!(outcome(&rate(&server, user, "").await), error, "{dialect} {user}");
        }
        server.post(GET, "u=admin&username=user&prefix=370").await.assert_status_error("Incorrect hash");
    }
}

#[tokio::test]
async fn shows_the_price_of_the_longest_prefix() {
    for dialect in ["documented", "x7"] {
        let server = rates_server(dialect).await;
        rate(&server, "admin", "username=user&prefix=370").await.assert_body(
            "
            <page>
              <rate>0.375#Lithuania - Fixed#370</rate>
            </page>
        ",
        );
        let prices = [
            // The first price by id of the rate in force: the higher id of the two latest ones.
            ("admin", "username=user&prefix=%2B370 99", "0.375#Lithuania - Fixed#370"),
            ("admin", "username=USER &prefix=37x099999999999999999999999", "0.375#Lithuania - Fixed#370"),
            ("admin", "username=reseller&prefix=355", "0.2#Albania - Fixed#355"),
            ("admin", "username=reseller&prefix=370", "0.123456789012345#Lithuania - Fixed#370"),
            // The partner's own price, the first one by id.
            ("accountant", "username=partner&prefix=370", "0.011#Lithuania - Fixed#370"),
            ("admin", "username=partner&prefix=355", "0.2#Albania - Fixed#355"),
            ("reseller", "username=customer&prefix=3701", "0.07#Lithuania - Fixed#370"),
            ("user", "username=user&prefix=370", "0.375#Lithuania - Fixed#370"),
        ];
        for (user, form, expected) in prices {
            assert_eq!(outcome(&rate(&server, user, form).await), expected, "{dialect} {user} {form}");
        }
        // A user who is not the caller's: shown with the setting.
        server
            .execute("insert into conflines (name, value) values ('Allow_Resellers_to_use_Admin_Tariffs', '1')")
            .await;
        let reply = rate(&server, "reseller", "username=user&prefix=370").await;
        assert_eq!(outcome(&reply), "0.375#Lithuania - Fixed#370");
        // The rate of 2020 counts until a later one does.
        server.execute("update rates set effective_from = null where id = 3").await;
        assert_eq!(outcome(&rate(&server, "admin", "username=user&prefix=370").await), "2.0#Lithuania - Fixed#370");
    }
}

#[tokio::test]
async fn by_full_dst_looks_at_shorter_prefixes() {
    let (documented, x7) = (rates_server("documented").await, rates_server("x7").await);
    for server in [&documented, &x7] {
        server.execute("insert into rates (id, tariff_id, destination_id) values (30, 20, 3)").await;
        server.execute("insert into destinations (id, prefix, name) values (30, '37', 'Both')").await;
    }
    let prices = [
        // Wholesale: the longest prefix with a price; x7: the shortest one.
        ("username=user&prefix=37061", "0.375#Lithuania - Fixed#370", "0.375000000000000#Lithuania - Fixed#370"),
        (
            "username=reseller&prefix=37061",
            "0.123456789012345#Lithuania - Fixed#370",
            "0.123456789012345#Lithuania - Fixed#370",
        ),
        // Retail: all prices, by day type, start and from; equal ones once.
        (
            "username=reseller&prefix=355",
            "0.0#Albania - Fixed#355 | 0.15#Albania - Fixed#355 | 0.25#Albania - Fixed#355 | 0.2#Albania - Fixed#355",
            "0.0#Albania - Fixed#355 | 0.15#Albania - Fixed#355 | 0.25#Albania - Fixed#355 | 0.2#Albania - Fixed#355",
        ),
        // Custom rates count in the documented dialect only.
        (
            "username=partner&prefix=37061",
            "0.011#Lithuania - Fixed#370 | 0.012#Lithuania - Fixed#370",
            "0.123456789012345#Lithuania - Fixed#370",
        ),
    ];
    for (form, expected, x7_expected) in prices {
        let form = format!("{form}&by_full_dst=1x");
        assert_eq!(outcome(&rate(&documented, "admin", &form).await), expected, "{form}");
        assert_eq!(outcome(&rate(&x7, "admin", &form).await), x7_expected, "{form}");
    }
    for server in [&documented, &x7] {
        server
            .execute(
                "insert into ratedetails (id, rate_id, rate) values (40, 30, 0.5);
                 insert into aratedetails (id, rate_id, duration, artype, price) values (40, 13, -1, 'minute', 0.6)",
            )
            .await;
    }
    let wholesale = "username=user&prefix=37061&by_full_dst=1";
    assert_eq!(outcome(&rate(&documented, "admin", wholesale).await), "0.5#Lithuania - Mobile#3706");
    assert_eq!(outcome(&rate(&x7, "admin", wholesale).await), "0.375000000000000#Lithuania - Fixed#370");
    let retail = "username=reseller&prefix=37061&by_full_dst=1";
    assert_eq!(outcome(&rate(&documented, "admin", retail).await), "0.6#Lithuania - Mobile#3706");
    assert_eq!(
        outcome(&rate(&x7, "admin", retail).await),
        "0.6#Lithuania - Mobile#3706 | 0.123456789012345#Lithuania - Fixed#370"
    );
}

/// The number of prices of a destination is bounded: nothing is left out silently.
#[tokio::test]
async fn too_many_prices_are_an_error() {
    let server = rates_server("documented").await;
    let insert = |rows: i32| {
        format!(
            "delete from aratedetails where rate_id = 10;
             insert into aratedetails (id, rate_id, duration, artype, price)
             select 1000 + i, 10, -1, 'minute', i / 100.0 from generate_series(1, {rows}) i"
        )
    };
    let form = "username=reseller&prefix=355&by_full_dst=1";
    server.execute(&insert(1_000)).await;
    let reply = rate(&server, "admin", form).await;
    assert_eq!(reply.element_texts("rate").len(), 1_000);
    server.execute(&insert(1_001)).await;
    assert_eq!(outcome(&rate(&server, "admin", form).await), "Too many rates");
    // One price needs no others.
    let first = rate(&server, "admin", "username=reseller&prefix=355").await;
    assert_eq!(first.element_texts("rate").len(), 1);
}

#[tokio::test]
async fn own_price_of_a_simple_user() {
    let (documented, x7) = (rates_server("documented").await, rates_server("x7").await);
    for user in ["user", "partner"] {
        let own = if user == "user" { "0.375#Lithuania - Fixed#370" } else { "0.011#Lithuania - Fixed#370" };
        assert_eq!(outcome(&rate(&documented, user, "prefix=370").await), own);
        assert_eq!(outcome(&rate(&x7, user, "username=admin&prefix=370").await), own);
    }
    // The alias, by GET, with a name that needs escaping.
    x7.execute("update destinations set name = 'Litauen & <Co> #2' where id = 2").await;
    let reply =
        x7.get(&format!("/billing/api/rate?u=admin&username=user&prefix=370&hash={}", hash("user", "secret"))).await;
    assert_eq!(outcome(&reply), "0.375#Litauen &amp; &lt;Co&gt; #2#370");
}

#[tokio::test]
async fn takes_one_round_trip() {
    let proxy = CountingProxy::new().await;
    let server = server_with_connect_options(
        proxy.connect_options(&postgres::create_database(&format!("{FIXTURE_SQL}{RATES_SQL}")).await),
        &[("cache", "on")],
    )
    .await;
    for form in ["username=user&prefix=370", "username=partner&prefix=37061&by_full_dst=1"] {
        let get = async || assert_eq!(rate(&server, "admin", form).await.element_texts("rate").is_empty(), false);
        assert_eq!(proxy.min_round_trips(&server, get).await, 1, "{form}");
    }
}

/// The hash of `hash-parameters.md`.
#[tokio::test]
async fn published_hash_is_accepted() {
    let server = rates_server("documented").await;
    let form = "u=admin&username=user_admin&prefix=370&hash=79e75e75f9cd6821e7b661250a45294b4579f262";
    assert_eq!(outcome(&server.post(GET, form).await), "User was not found");
}
