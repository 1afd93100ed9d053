//! The page Groups: lists, changes and their rows, and what resellers see.

use axum::http::StatusCode;
use mortise::console::access::Role;

use super::{Client, ConsoleServer, Page, console, random_id};
use crate::harness::with_timeout;

const PREPARE: &str = "
    insert into tariffs (id, name, owner_id) values (1, 'Default', 0), (8, 'Own', 3);
    insert into lcrs (id, name, user_id) values (1, 'Default', 0), (8, 'Own', 3);
    insert into locations (id, name, user_id) values (1, 'Global', 0), (8, 'Own', 3);
    update cardgroups set price = 8.403361344537815 where id = 6";
const CHANGES: &str = "select who, what, target_id, target_name from change_log where what = 'card_group' order by id";

async fn start() -> ConsoleServer {
    let console = console().await;
    console.server.execute(PREPARE).await;
    console
}

impl Client {
    /// Loads the form of a group, and sends it with these fields changed, as a browser does.
    async fn change_group(&self, id: i32, changed: &[(&str, &str)]) -> Page {
        let path = format!("/groups/{id}/edit");
        let form = self.get(&path).await;
        let names = ["name", "description", "price_with_vat", "date_from", "date_till", "tax1_value"];
        let values: Vec<(String, String)> = names
            .iter()
            .flat_map(|name| {
                let was = form.field_value(&format!("was_{name}"));
                let value = changed
                    .iter()
                    .find(|(changed, _)| changed == name)
                    .map_or(was.clone(), |(_, value)| (*value).to_owned());
                [((*name).to_owned(), value), (format!("was_{name}"), was)]
            })
            .collect();
        let fields: Vec<(&str, &str)> = values.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.post(&path, &fields).await
    }
}

#[tokio::test]
async fn a_group_is_created_and_changed() {
    let console = start().await;
    let admin = console.log_in(Role::Admin).await;
    let name = "Eleven <script>alert(1)</script>";
    let fields = [
        ("name", name),
        ("description", "\"><img src=x onerror=alert(1)>"),
        ("price_with_vat", "11.90"),
        ("currency", "EUR"),
        ("date_from", "2026-01-01"),
        ("date_till", "2030-12-31"),
        ("number_length", "8"),
        ("pin_length", "7"),
        ("tax1_name", "VAT"),
        ("tax1_value", "19"),
        ("tariff_id", "1"),
        ("disable_voucher", "1"),
    ];
    let page = admin.submit("/groups/new", &fields).await;
    page.assert_contains("The group was created.");
    page.assert_contains(name);
    page.assert_contains("10.0 USD");
    page.assert_contains("11.90 USD");
    assert!(!page.body.contains("<script>alert") && !page.body.contains("<img src"), "{}", page.body);
    let columns = "id, name, price, owner_id, tell_balance_in_currency, valid_from, valid_till, number_length, pin_length, disable_voucher";
    console
        .server
        .assert_rows(
            &format!("select {columns} from cardgroups where id > 100"),
            &[&format!("101|{name}|10.000000000000000|0|EUR|2026-01-01T00:00:00|2030-12-31T23:59:59|8|7|1")],
        )
        .await;
    let who = admin.login().name.clone();
    console.server.assert_rows(CHANGES, &[&format!("{who}|card_group|101|{name}")]).await;

    let page = admin.change_group(101, &[("description", "For all customers")]).await;
    assert!(page.location.unwrap().starts_with("/groups/101?done="));
    let taxes = "select description, price, tax1_value, tax1_name from cardgroups g join taxes t on t.id = g.tax_id where g.id = 101";
    console.server.assert_rows(taxes, &["For all customers|10.000000000000000|19.000000000000000|VAT"]).await;
    let last = "select before, after from change_log where what = 'card_group' order by id desc limit 1";
    console
        .server
        .assert_rows(
            last,
            &["{\"description\": \"\\\"><img src=x onerror=alert(1)>\"}|{\"description\": \"For all customers\"}"],
        )
        .await;
    admin.get("/groups/101").await.assert_contains("description \"><img src=x onerror=alert(1)> → For all customers");
}

/// A field that the reader leaves alone is not written, even if it shows less digits than the column has, or another
/// account has changed it.
#[tokio::test]
async fn only_changed_fields_are_written() {
    let console = start().await;
    let admin = console.log_in(Role::Admin).await;
    console.server.execute("update cardgroups set valid_till = '2030-06-30 12:34:56' where id = 6; update cardgroups set tax_id = 2 where id = 7").await;
    let form = admin.get("/groups/6/edit").await;
    assert_eq!((form.field_value("price_with_vat"), form.field_value("date_till")), ("10".into(), "2030-06-30".into()));
    let values = "select name, price, valid_till, description from cardgroups where id = 6";
    admin.change_group(6, &[("description", "new")]).await;
    console.server.assert_rows(values, &["ten dollars|8.403361344537815|2030-06-30T12:34:56|new"]).await;

    // Another account has changed the name since the page was loaded.
    let fields = [
        ("name", "ten dollars"),
        ("was_name", "ten dollars"),
        ("price_with_vat", "11.9"),
        ("was_price_with_vat", "10"),
    ];
    console.server.execute("update cardgroups set name = 'ten' where id = 6").await;
    admin.submit("/groups/6/edit", &fields).await.assert_contains("The changes are saved.");
    console.server.assert_rows(values, &["ten|10.000000000000000|2030-06-30T12:34:56|new"]).await;
    // The taxes of a group that shares its row become its own.
    admin.change_group(6, &[("tax1_value", "20")]).await;
    console
        .server
        .assert_rows("select price, tax_id > 100 as own from cardgroups where id = 6", &["10.000000000000000|true"])
        .await;
    console.server.assert_rows("select tax1_value from taxes where id = 2", &["19.000000000000000"]).await;
}

#[tokio::test]
async fn a_hidden_group_sells_nothing() {
    let console = start().await;
    let admin = console.log_in(Role::Admin).await;
    let sell = async || console.server.post_signed("card_from_group_sell", "u=admin&id=6", "6").await.body;
    admin.submit("/groups/6/hide", &[]).await.assert_contains("The group is hidden. It sells nothing.");
    assert!(sell().await.contains("<error>"));
    admin.get("/groups").await.assert_lacks("ten dollars");
    admin.get("/groups?hidden=1").await.assert_contains("ten dollars 6 hidden");
    admin.get("/groups/6/edit").await.assert_contains("Restore it before you change it");
    assert_eq!(admin.post("/groups/6/edit", &[("name", "new")]).await.status, StatusCode::NOT_FOUND);
    // Again: nothing is written.
    admin.submit("/groups/6/hide", &[]).await;
    admin.submit("/groups/6/restore", &[]).await.assert_contains("The group is restored.");
    assert!(!sell().await.contains("<error>"));
    let who = admin.login().name.clone();
    let rows = [
        format!("{who}|6|ten dollars|{{\"hidden\": 0}}|{{\"hidden\": 1}}"),
        format!("{who}|6|ten dollars|{{\"hidden\": 1}}|{{\"hidden\": 0}}"),
    ];
    let changes =
        "select who, target_id, target_name, before, after from change_log where what = 'card_group' order by id";
    console.server.assert_rows(changes, &rows.each_ref().map(String::as_str)).await;
}

#[tokio::test]
async fn wrong_values_are_named_in_words() {
    let console = start().await;
    let admin = console.log_in(Role::Admin).await;
    for (field, value, words) in [
        ("name", " ", "Name: enter one."),
        ("name", "ten dollars", "Name: another group has it."),
        ("name", "hidden", "Hidden groups count too."),
        ("price_with_vat", "1,5", "Price with taxes: a number of at least 0, with a point, such as 10.50."),
        ("price_with_vat", "-1", "Price with taxes: a number"),
        ("currency", "JPY", "Currency of sales: it is unknown, or not active."),
        ("date_from", "yesterday", "Valid from: enter a day such as 2026-11-30."),
        ("date_till", "2020-02-30", "Valid till: enter a day"),
        ("date_till", "2020-01-01", "Valid from is after Valid till."),
        ("number_length", "31", "Digits of a card number: a number from 1 to 30."),
        ("pin_length", "0", "Digits of a PIN: a number from 1 to 30."),
        ("tax1_value", "x", "The percent of a tax: a number"),
        ("tax2_enabled", "2", "Use tax 2: choose yes or no."),
        ("tell_cents", "2", "Tell cents: choose yes or no."),
        ("tariff_id", "99", "Tariff: choose one from the list."),
        ("valid_after_first_use", "12345", "Days valid after the first use: a number of at most 4 digits."),
    ] {
        let mut fields = vec![
            ("name", "new"),
            ("description", "kept text"),
            ("date_from", "2026-01-01"),
            ("date_till", "2030-12-31"),
        ];
        fields.retain(|(name, _)| *name != field);
        fields.push((field, value));
        let page = admin.post("/groups/new", &fields).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{field}");
        page.assert_contains(words);
        assert_eq!(page.field_value("description"), "kept text", "{field}");
    }
    console.server.assert_rows("select count(*) from cardgroups where id > 100", &["0"]).await;
    console.server.assert_rows(CHANGES, &[]).await;
    let page = admin.change_group(6, &[("name", "hidden")]).await;
    assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
    page.assert_contains("Name: another group has it.");
}

#[tokio::test]
async fn resellers_see_and_change_only_their_groups() {
    let console = start().await;
    let shop = console.log_in_reseller(3).await;
    let list = shop.get("/groups?hidden=1").await;
    list.assert_contains("the reseller's");
    list.assert_lacks("ten dollars");
    let rows = "select md5(string_agg(g::text, ' ' order by id)) from cardgroups g";
    let before = console.server.rows(rows).await;
    let foreign = shop.get("/groups/6").await;
    foreign.assert_contains("There is no card group 6.");
    // As if it did not exist.
    assert_eq!(foreign.text().replace('6', "999"), shop.get("/groups/999").await.text());
    for path in ["/groups/6", "/groups/6/edit", "/groups/999"] {
        assert_eq!(shop.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    for path in ["/groups/6/edit", "/groups/6/hide", "/groups/8/restore"] {
        // Another group's id among the fields changes nothing either.
        let page = shop.post(path, &[("name", "stolen"), ("cc_group_id", "6")]).await;
        assert_eq!(page.status, StatusCode::NOT_FOUND, "{path}");
    }
    for field in ["tariff_id", "lcr_id", "location_id"] {
        let page = shop.post("/groups/12/edit", &[("cc_group_id", "6"), (field, "1")]).await;
        page.assert_contains("choose one from the list");
    }
    assert_eq!(console.server.rows(rows).await, before);
    console.server.assert_rows(CHANGES, &[]).await;

    shop.submit("/groups/12/edit", &[("description", "own"), ("cc_group_id", "6"), ("tariff_id", "8")]).await;
    // The list of changes names no account of others.
    let admin = console.log_in(Role::Admin).await;
    admin.submit("/groups/12/edit", &[("description", "changed by another account")]).await;
    let page = shop.get("/groups/12").await;
    page.assert_contains(&format!("{} Changed fields", shop.login().name));
    page.assert_contains("operator Changed fields");
    page.assert_lacks(&format!("{} Changed fields", admin.login().name));
    shop.submit("/groups/12/edit", &[("description", "own")]).await;
    console.server.assert_rows("select id, tariff_id from cardgroups where description = 'own'", &["12|8"]).await;
    shop.submit("/groups/new", &[("name", "mine")]).await.assert_contains("The group was created.");
    console
        .server
        .assert_rows(
            "select name, owner_id, tariff_id, lcr_id, tell_balance_in_currency from cardgroups where id > 100",
            &["mine|3|8|8|USD"],
        )
        .await;
}

#[tokio::test]
async fn read_only_accounts_see_groups_and_change_nothing() {
    let console = start().await;
    let reader = console.log_in(Role::ReadOnly).await;
    for path in ["/groups", "/groups/6", "/groups/6/edit", "/groups/new"] {
        let page = reader.get(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        assert!(!page.body.contains("<button class=\"main\""), "{path}: {}", page.body);
    }
    for path in ["/groups/new", "/groups/6/edit", "/groups/6/hide", "/groups/6/restore"] {
        assert_eq!(reader.post(path, &[("name", "new")]).await.status, StatusCode::FORBIDDEN, "{path}");
    }
    let support = console.log_in(Role::Support).await;
    assert_eq!(support.get("/groups").await.status, StatusCode::FORBIDDEN);
    console.server.assert_rows(CHANGES, &[]).await;
}

#[tokio::test]
async fn a_double_click_creates_one_group() {
    let console = start().await;
    let admin = console.log_in(Role::Admin).await;
    let once = random_id();
    let fields = [("token", admin.token.as_str()), ("once", &once), ("name", "new")];
    let clicks = with_timeout("both replies", async {
        tokio::join!(admin.post_plain("/groups/new", &fields), admin.post_plain("/groups/new", &fields))
    });
    let (first, second) = clicks.await;
    assert_eq!((first.status, &first.location), (StatusCode::SEE_OTHER, &second.location), "{}", second.text());
    console.server.assert_rows("select count(*) from cardgroups where name = 'new'", &["1"]).await;
}

#[tokio::test]
async fn lists_are_read_in_pages() {
    let console = start().await;
    console
        .server
        .execute(
            "insert into cardgroups (id, name, owner_id) select 200 + i, 'many ' || i, 0 from generate_series(1, 30) i;
             insert into change_log (who, what, target_id, before, after)
             select 'clerk ' || i, 'card_group', 6, '{\"name\": \"a\"}', '{\"name\": \"b\"}' from generate_series(1, 25) i;
             insert into change_log (who, what, target_id, after) values ('the third', 'card_group', 7, '{\"name\": \"c\"}')",
        )
        .await;
    let admin = console.log_in(Role::Admin).await;
    let page = admin.get("/groups?q=MANY").await;
    page.assert_contains("many 30 230");
    page.assert_contains("many 6 206");
    page.assert_lacks("many 5 205");
    page.assert_contains("Older groups");
    let page = admin.get("/groups?q=MANY&before=206").await;
    page.assert_contains("many 5 205");
    page.assert_contains("many 1 201");
    page.assert_lacks("Older groups");
    page.assert_lacks("ten dollars");
    let page = admin.get("/groups/6").await;
    page.assert_contains("clerk 25");
    page.assert_contains("clerk 6 Changed fields Field Before After name a → b");
    page.assert_lacks("clerk 5 ");
    page.assert_lacks("the third");
    let oldest = console.server.rows("select id from change_log where who = 'clerk 6'").await.concat();
    let page = admin.get(&format!("/groups/6?before={oldest}")).await;
    page.assert_contains("clerk 5 Changed fields Field Before After name a → b");
    page.assert_lacks("clerk 6 ");
}

/// The stock is counted up to a limit.
#[tokio::test]
async fn large_stocks_are_not_counted() {
    let console = start().await;
    console
        .server
        .execute(
            "insert into cards (cardgroup_id, number, pin, balance)
             select 11, lpad(i::text, 6, '0'), '9' || i, 1 from generate_series(1, 10001) i",
        )
        .await;
    let admin = console.log_in(Role::Admin).await;
    admin.get("/groups").await.assert_contains("empty 11 10000 or more");
    admin.get("/groups/11").await.assert_contains("Cards in stock 10000 or more");
}

#[tokio::test]
async fn lists_use_indexes() {
    let console = start().await;
    let values = ["null", "false", "null", "''", "null", "10000", "26"];
    let plan =
        console.server.query_plan(&["-- Lists card groups, the newest first"], "force_generic_plan", &values).await;
    assert!(plan.contains("Backward using cardgroups_pkey on cardgroups"), "{plan}");
    assert!(plan.contains("on card_stock s") && !plan.contains("Seq Scan on card_stock"), "{plan}");
}

/// The history has the author of a command, and amounts with their currency. It has no other group's changes, even if
/// that group's name is the id.
#[tokio::test]
async fn history_says_who_and_how_much() {
    let console = start().await;
    console
        .server
        .execute(
            "insert into change_log (who, operator, what, target_id, target_name, before, after) values
                 ('command', 'root', 'card_group', 12, 'twelve', '{\"price\": 8.400000000000000}', '{\"price\": 10.500000000000000}'),
                 ('foreign', null, 'card_group', 6, '12', '{\"price\": 1}', '{\"price\": 2}');
             update cardgroups set name = '12' where id = 6",
        )
        .await;
    let change = "price (USD, without taxes) 8.4 → 10.5";
    let page = console.log_in(Role::Admin).await.get("/groups/12").await;
    page.assert_contains("command (root) ");
    page.assert_contains(change);
    page.assert_lacks("foreign");
    // A reseller does not see the users of the server's operating system.
    let page = console.log_in_reseller(3).await.get("/groups/12").await;
    page.assert_contains(change);
    page.assert_lacks("root");
    page.assert_lacks("foreign");
    assert!(!page.body.contains("/changes"), "{}", page.body);
}

/// A new group is valid for a year, unless another day is entered.
#[tokio::test]
async fn the_form_of_a_new_group_proposes_a_last_day() {
    let console = start().await;
    let admin = console.log_in(Role::Admin).await;
    let proposed = admin.get("/groups/new").await.field_value("date_till");
    let days = format!("select '{proposed}'::date - (now() at time zone 'utc')::date");
    console.server.assert_rows(&days, &["365"]).await;
}
