//! What is kept in memory, and how soon it is forgotten. No test looks at a clock: what never comes true never ends.

use crate::harness::proxy::CountingProxy;
use crate::harness::{
    FIXTURE_SQL, Server, hash, postgres, server_on_database, server_with_connect_options, with_timeout,
};

// Asked again and again until something holds, they are wrong many times a second.
const ON: &[(&str, &str)] = &[("cache", "on"), ("failed_attempts_max", "0")];

const CARDS: &str =
    "insert into cards (cardgroup_id, number, pin) select 11, i::text, i::text from generate_series(500000, 500999) i";

async fn ask(server: &Server, user: &str, key: &str) -> String {
    let form = format!("u={user}&id=11&hash={}", hash("11", key));
    server.post("card_from_group_sell", &form).await.element_texts("error").concat()
}

/// Asks until the answer is this one.
async fn until(server: &Server, user: &str, key: &str, words: &str) {
    while ask(server, user, key).await != words {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_common_sale_is_one_round_trip() {
    let tap = CountingProxy::new().await;
    let server =
        server_with_connect_options(tap.connect_options(&postgres::create_database(FIXTURE_SQL).await), ON).await;
    server.execute(CARDS).await;
    let sell = async || {
        let reply = server.post_signed("card_from_group_sell", "u=accountant&id=11&quantity=7&email=a", "a117").await;
        assert_eq!(reply.element_texts("pin").len(), 7, "{}", reply.body);
    };
    assert_eq!(tap.min_round_trips(&server, sell).await, 1);
}

/// A sale leaves its connection sound: the next one gets it as it is, unless it lay idle for a second meanwhile.
#[tokio::test]
async fn between_sales_no_connection_is_asked_for_a_sign_of_life() {
    let tap = CountingProxy::new().await;
    let server =
        server_with_connect_options(tap.connect_options(&postgres::create_database(FIXTURE_SQL).await), ON).await;
    server.execute(CARDS).await;
    let sell = async || server.post_signed("card_from_group_sell", "u=accountant&id=11&quantity=1", "111").await;
    let without_signs = async || loop {
        let signs = tap.signs_of_life();
        for _ in 0..3 {
            assert_eq!(sell().await.element_texts("pin").len(), 1);
        }
        if tap.signs_of_life() == signs {
            break;
        }
    };
    with_timeout("sales without signs of life", without_signs()).await;
}

#[tokio::test]
async fn every_server_hears_of_a_change() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let servers = [server_on_database(&database, ON).await, server_on_database(&database, ON).await];
    for (change, user, key, words) in [
        (
            "update conflines set value = 'new' where name = 'API_Secret_Key'",
            "admin",
            "new",
            "Free cards was not found",
        ),
        ("update acc_group_rights set value = 0 where acc_group_id = 1", "accountant", "new", "Access Denied"),
        ("update users set blocked = 1 where id = 7", "accountant_read", "new", "Bad login"),
        ("update users set acc_group_id = 4 where id = 4", "reseller_read", "new", "Cardgroup was not found"),
        ("update users set username = 'someone' where id = 0", "admin", "new", "Bad login"),
        (
            "insert into users (username, usertype) values ('admin', 'admin')",
            "admin",
            "new",
            "Free cards was not found",
        ),
        ("delete from acc_rights where id = 2", "reseller_read", "new", "Access Denied"),
        ("truncate conflines", "admin", "new", "API Requests are disabled"),
    ] {
        for server in &servers {
            ask(server, user, key).await;
        }
        servers[0].execute(change).await;
        for server in &servers {
            until(server, user, key, words).await;
        }
    }
}

#[tokio::test]
async fn a_change_under_a_replica_role_is_heard_too() {
    let server = server_on_database(&postgres::create_database(FIXTURE_SQL).await, ON).await;
    ask(&server, "admin", "secret").await;
    server.execute("set session_replication_role = replica; update conflines set value = 'new' where name = 'API_Secret_Key'; set session_replication_role = origin").await;
    until(&server, "admin", "new", "Free cards was not found").await;
}

#[tokio::test]
async fn a_servers_listening_connection_may_be_cut() {
    let server = server_on_database(&postgres::create_database(FIXTURE_SQL).await, ON).await;
    for key in ["one", "two", "three"] {
        until(&server, "admin", "secret", "Free cards was not found").await;
        server
            .execute(&format!(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = current_database() and pid <> pg_backend_pid() and query in ('LISTEN \"mortise_changes\"', 'select 1');
                 update conflines set value = '{key}' where name = 'API_Secret_Key'"
            ))
            .await;
        until(&server, "admin", key, "Free cards was not found").await;
        server.execute("update conflines set value = 'secret' where name = 'API_Secret_Key'").await;
    }
}

#[tokio::test]
async fn a_users_balance_is_nobodys_news() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_on_database(&database, &[]).await;
    let mut listener = sqlx::postgres::PgListener::connect_with(&server.pool).await.unwrap();
    listener.listen("mortise_changes").await.unwrap();
    server.execute("update users set balance = balance + 1, credit = 5").await;
    server.execute("update currencies set exchange_rate = 2 where id = 2").await;
    assert_eq!(listener.recv().await.unwrap().payload(), "currencies");
}

/// What the large statements' speed rests on.
#[tokio::test]
async fn every_connection_fixes_how_statements_are_planned() {
    let server =
        server_on_database(&postgres::create_database(FIXTURE_SQL).await, &[("database_acquire_timeout_ms", "61234")])
            .await;
    let mut held = server.hold_connections().await;
    let connection = &mut held[0];
    for (setting, value) in [
        ("jit", "off"),
        ("plan_cache_mode", "force_generic_plan"),
        ("lock_timeout", "61234ms"),
        ("TimeZone", "UTC"),
        ("client_connection_check_interval", "1s"),
        ("enable_seqscan", "off"),
        ("enable_bitmapscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("enable_sort", "off"),
    ] {
        let set = sqlx::query_scalar("select current_setting($1)").bind(setting);
        let set: String = set.fetch_one(&mut **connection).await.unwrap();
        assert_eq!(set, value, "{setting}");
    }
}

/// Spaces behind a name don't count: without a limit anybody could fill memory with them.
#[tokio::test]
async fn a_name_of_any_length_finds_its_user_and_is_not_remembered() {
    let tap = CountingProxy::new().await;
    let server =
        server_with_connect_options(tap.connect_options(&postgres::create_database(FIXTURE_SQL).await), ON).await;
    server.execute(CARDS).await;
    for (spaces, round_trips) in [(200, 1), (300, 2)] {
        let form = format!("u=admin{}&id=11", "+".repeat(spaces));
        let sell = async || {
            assert_eq!(server.post_signed("card_from_group_sell", &form, "11").await.element_texts("pin").len(), 1)
        };
        assert_eq!(tap.min_round_trips(&server, sell).await, round_trips, "{spaces} spaces");
    }
}

/// Two names that one lower-casing takes for the same and another doesn't.
#[tokio::test]
async fn nobody_becomes_somebody_else_in_memory() {
    let server = server_on_database(&postgres::create_database(FIXTURE_SQL).await, ON).await;
    server
        .execute("update users set username = 'ασ' where id = 6; update users set username = 'ας' where id = 2")
        .await;
    until(&server, "ας", "secret", "Access Denied").await;
    ask(&server, "ΑΣ", "secret").await;
    assert_eq!(ask(&server, "ας", "secret").await, "Access Denied");
}
