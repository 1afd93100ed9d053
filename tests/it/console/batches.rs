//! The page Batches: lists, counts, and the changes of a batch.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use mortise::console::access::Role;

use super::sales::load_counted;
use super::{Page, console, random_id};

const CARDS: &str = "
    update cards set batch_number = 'B1' where id in (1, 2, 3, 4);
    update cards set batch_number = 'B2' where id = 7;
    update cards set batch_number = 'B1' where id in (12, 13)";
const STATES: &str = "select id, coalesce(withheld, ''), user_id from cards where batch_number <> '' order by id";
const CHANGES: &str =
    "select who, what, target_name, cardgroup_id, after from change_log where what = 'card' order by id";

/// The rows of the list: batch, group and numbers.
fn batches(page: &Page) -> Vec<String> {
    let table = page.body.split("<tbody>").nth(1).unwrap_or_default().split("</tbody>").next().unwrap_or_default();
    let text = |cell: &str| {
        cell.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text)).collect::<String>()
    };
    let rows = table.split("<tr>").skip(1);
    rows.map(|row| {
        row.split("<td").skip(1).map(|cell| text(&format!("<td{cell}")).trim().to_owned()).collect::<Vec<_>>().join("|")
    })
    .collect()
}

#[tokio::test]
async fn batches_are_listed_with_their_counts() {
    let console = console().await;
    console.server.execute(CARDS).await;
    console
        .server
        .execute(
            "update cards set withheld = 'blocked', pin = 'secret7531' where id = 1; update cards set withheld = 'assigned', user_id = 2 where id = 2;
             update cards set batch_number = 'B9', hidden = 1 where id = 11;
             update cards set batch_number = '<b>B3</b>' where id = 9",
        )
        .await;
    let admin = console.log_in(Role::Admin).await;
    let page = admin.get("/batches").await;
    assert_eq!(
        batches(&page),
        [
            "B1|the reseller&#x27;s 12|2|0 (0 %)|0|0|reseller",
            "&lt;b&gt;B3&lt;&#x2f;b&gt;|vouchers 9|1|0 (0 %)|0|0|admin",
            "B2|euro group 7|1|0 (0 %)|0|0|admin",
            "B1|ten dollars 6|4|1 (25 %)|1|1|admin",
        ]
    );
    assert_eq!(batches(&admin.get("/batches?group=6").await).len(), 1);
    let page = load_counted(&admin, "/batches/batch?group=6&number=B1").await;
    page.assert_contains("Cards 4");
    page.assert_contains("Sold 25 %");
    page.assert_contains("Numbers 1111111000 to 1111111003");
    for state in ["assigned 1", "blocked 1", "free 1", "sold 1"] {
        page.assert_contains(state);
    }
    page.assert_secret("secret7531");
    let page = admin.get("/batches/batch?group=9&number=%3Cb%3EB3%3C%2Fb%3E").await;
    page.assert_contains("Batch <b>B3</b>");
    assert!(!page.body.contains("<b>B3"), "{}", page.body);
    for path in ["/batches/batch?group=6&number=B2", "/batches/batch?group=999&number=B1", "/batches?group=999"] {
        assert_eq!(admin.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

/// Each batch is on one page, also if a group has more of them than a page, or ends with one.
#[tokio::test]
async fn batches_are_read_in_pages() {
    let console = console().await;
    console
        .server
        .execute(
            "insert into cards (cardgroup_id, number, pin, balance, batch_number)
             select group_id, (800000 + group_id * 1000 + i)::text, '9' || group_id * 1000 + i, 1, 'B&' || i / 2
             from (values (9, 40), (10, 2), (11, 86), (12, 6)) g (group_id, cards), generate_series(0, cards - 1) i",
        )
        .await;
    for (client, condition) in
        [(console.log_in(Role::Admin).await, "true"), (console.log_in_reseller(3).await, "cardgroup_id = 12")]
    {
        let mut found = Vec::new();
        let mut path = "/batches".to_owned();
        loop {
            let page = client.get(&path).await;
            let rows = batches(&page);
            assert!(rows.len() <= 20, "{rows:?}");
            found.extend(rows.iter().map(|row| {
                let cells: Vec<&str> = row.split('|').collect();
                format!("{}|{}", cells[1].rsplit(' ').next().unwrap(), cells[0].replace("&amp;", "&"))
            }));
            let Some((_, link)) = page.body.split_once("href=\"/batches?after_group=") else { break };
            let link = link.split('"').next().unwrap().replace("&amp;", "&");
            path = format!("/batches?after_group={link}");
        }
        let expected = format!(
            "select cardgroup_id, batch_number from cards where batch_number <> '' and {condition}
             group by 1, 2 order by 1 desc, 2 desc"
        );
        assert_eq!(found, console.server.rows(&expected).await);
        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len());
    }
}

#[tokio::test]
async fn a_batch_is_blocked_assigned_and_released() {
    let console = console().await;
    console.server.execute(CARDS).await;
    let admin = console.log_in(Role::Admin).await;
    let batch = [("group", "6"), ("number", "B1")];
    let path = "/batches/batch?group=6&number=B1";
    load_counted(&admin, path).await.assert_contains("free 3");
    let page = admin.submit("/batches/block", &batch).await;
    page.assert_contains("Cards blocked: 4.");
    load_counted(&admin, path).await.assert_contains("blocked 4");
    let others = ["7||-1", "12||-1", "13||-1"];
    let states = |own: [&'static str; 4]| [&own[..], &others[..]].concat();
    console.server.assert_rows(STATES, &states(["1|blocked|-1", "2|blocked|-1", "3|blocked|-1", "4|blocked|-1"])).await;
    admin.submit("/batches/unblock", &batch).await.assert_contains("Cards unblocked: 4.");
    let assign = [&batch[..], &[("distributor", "USER ")]].concat();
    let page = admin.submit("/batches/assign", &assign).await;
    page.assert_contains("Cards assigned to USER: 3.");
    console.server.assert_rows(STATES, &states(["1|assigned|2", "2|assigned|2", "3|assigned|2", "4||-1"])).await;
    console.server.execute("update cards set first_use = now() where id = 3").await;
    let page = admin.submit("/batches/release", &batch).await;
    page.assert_contains("Cards released into stock: 2. Not released, because they were used: 1.");
    console.server.assert_rows(STATES, &states(["1||-1", "2||-1", "3|assigned|2", "4||-1"])).await;
    let keep = [&assign[..], &[("keep_in_stock", "1")]].concat();
    admin.submit("/batches/assign", &keep).await.assert_contains("Cards assigned to USER: 2.");
    console.server.assert_rows(STATES, &states(["1||2", "2||2", "3|assigned|2", "4||-1"])).await;
    let who = &admin.login().name;
    let rows = console.server.rows(CHANGES).await;
    assert_eq!(rows.len(), 5, "{rows:?}");
    assert!(rows.iter().all(|row| row.starts_with(&format!("{who}|card|11111110"))), "{rows:?}");
    assert!(
        rows[0].contains("|1111111000 - 1111111003|6|") && rows[0].contains("\"withheld\": \"blocked\""),
        "{rows:?}"
    );

    for (field, value, words) in [
        ("distributor", "customer", "The group's owner has no user with this name."),
        (
            "distributor",
            "accountant",
            "The distributor must be a user of the type user, of the owner of the card group 6.",
        ),
        ("number", "", "Enter a batch number."),
    ] {
        let mut fields = assign.clone();
        fields.retain(|(name, _)| *name != field);
        fields.push((field, value));
        let page = admin.post("/batches/assign", &fields).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{value}");
        page.assert_contains(words);
    }
    assert_eq!(
        admin.post("/batches/block", &[("group", "6"), ("number", "")]).await.status,
        StatusCode::UNPROCESSABLE_ENTITY
    );
    assert_eq!(console.server.rows(CHANGES).await.len(), 5);
}

/// A part of a batch: by its numbers, or a number of cards for a distributor.
#[tokio::test]
async fn a_part_of_a_batch_is_changed() {
    let console = console().await;
    console.server.execute(CARDS).await;
    let admin = console.log_in(Role::Admin).await;
    let batch = [("group", "6"), ("number", "B1")];
    let part = |from, till| [&batch[..], &[("from", from), ("till", till)]].concat();
    let middle = part("1111111001", " 1111111002 ");
    let states = |own: [&'static str; 4]| [&own[..], &["7||-1", "12||-1", "13||-1"]].concat();
    let page = admin.submit("/batches/block", &middle).await;
    page.assert_contains("Cards blocked: 2. Numbers: 1111111001 to 1111111002.");
    console.server.assert_rows(STATES, &states(["1||-1", "2|blocked|-1", "3|blocked|-1", "4||-1"])).await;
    admin.submit("/batches/unblock", &part("1111111001", "1111111001")).await.assert_contains("Cards unblocked: 1.");
    admin.submit("/batches/unblock", &batch).await.assert_contains("Cards unblocked: 1.");
    // The card with the highest number is free, and not among the first two.
    let give = |count| [&batch[..], &[("distributor", "user"), ("count", count)]].concat();
    let page = admin.submit("/batches/assign", &give("2")).await;
    page.assert_contains("Cards assigned to user: 2. Numbers: 1111111001 to 1111111002.");
    console.server.assert_rows(STATES, &states(["1||-1", "2|assigned|2", "3|assigned|2", "4||-1"])).await;
    admin.submit("/batches/release", &part("1111111002", "1111111009")).await.assert_contains("into stock: 1.");
    console.server.assert_rows(STATES, &states(["1||-1", "2|assigned|2", "3||-1", "4||-1"])).await;
    let changes = console.server.rows(CHANGES).await;
    for (fields, words) in [
        (
            give("3"),
            "Only 2 of the selected cards can be given: the others are not in stock, or have another distributor.",
        ),
        (give("0"), "Number of cards: a whole number of at least 1."),
        (give("x"), "Number of cards: a whole number"),
        (part("1111111001", ""), "Enter both numbers, or none"),
        (part("1111111002", "1111111001"), "is no range of numbers"),
    ] {
        let path = if fields.len() == 4 && fields[2].0 == "from" { "/batches/block" } else { "/batches/assign" };
        let page = admin.post(path, &fields).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{fields:?}");
        page.assert_contains(words);
    }
    console.server.assert_rows(STATES, &states(["1||-1", "2|assigned|2", "3||-1", "4||-1"])).await;
    assert_eq!(console.server.rows(CHANGES).await, changes);
}

#[tokio::test]
async fn a_batch_is_generated() {
    let console = console().await;
    let admin = console.log_in(Role::Admin).await;
    admin.get("/batches/generate?group=6").await.assert_contains("ten dollars (6)");
    let once = random_id();
    let fields = [
        ("token", admin.token.as_str()),
        ("once", &once),
        ("group", "6"),
        ("quantity", "3"),
        ("batch_number", "N&1"),
        ("from", ""),
        ("balance", "8.4"),
        ("language", "lt"),
    ];
    let created = admin.post_plain("/batches/generate", &fields).await;
    // The double click creates no further cards.
    assert_eq!(admin.post_plain("/batches/generate", &fields).await.location, created.location);
    let page = load_counted(&admin, &created.location.unwrap()).await;
    page.assert_contains("Batch N&1");
    page.assert_contains("3 cards were created, with the numbers 1111111004 to 1111111006.");
    page.assert_contains("free 3");
    console
        .server
        .assert_rows(
            "select number, balance, batch_number, language, owner_id from cards where id > 100 order by id",
            &[
                "1111111004|8.400000000000000|N&1|lt|0",
                "1111111005|8.400000000000000|N&1|lt|0",
                "1111111006|8.400000000000000|N&1|lt|0",
            ],
        )
        .await;
    let who = &admin.login().name;
    let row = format!("{who}|card|1111111004 - 1111111006|6|{{\"batch_number\": \"N&1\", \"cards_created\": 3}}");
    console.server.assert_rows(CHANGES, &[&row]).await;
    for (field, value, words) in [
        ("group", "", "Group: choose one."),
        ("group", "8", "The group is hidden. Restore it first."),
        ("quantity", "0", "Number of cards: from 1 to 1000000."),
        ("quantity", "1000001", "Number of cards: from 1 to 1000000."),
        ("quantity", "3000", "3000 more cards would use more than a fifth of all PINs of 4 digits"),
        ("batch_number", " ", "Batch number: 1 to 255 characters."),
        ("batch_number", "B\u{200b}1", "Batch number: it has the invisible character U+200B"),
        ("from", "123", "First number: the numbers of this group have 10 digits."),
        ("from", "9999999999", "There are not enough numbers of 10 digits"),
        ("balance", "-1", "Balance: expected an amount of at least 0"),
        ("language", "languagetoolong", "Language: 1 to 10 characters."),
    ] {
        let mut fields = vec![
            ("group", "6"),
            ("quantity", "3"),
            ("batch_number", "N2"),
            ("from", ""),
            ("balance", ""),
            ("language", "en"),
        ];
        fields.retain(|(name, _)| *name != field);
        fields.push((field, value));
        let page = admin.post("/batches/generate", &fields).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{value}: {}", page.text());
        page.assert_contains(words);
    }
    console.server.assert_rows("select count(*) from cards where id > 100 and batch_number <> 'N&1'", &["0"]).await;
}

#[tokio::test]
async fn resellers_see_and_change_only_their_batches() {
    let console = console().await;
    console.server.execute(CARDS).await;
    let login = console.create_account(Role::Reseller, Some(3), true).await;
    let shop = console.log_in_as(&login).await;
    assert_eq!(batches(&shop.get("/batches").await), ["B1|the reseller&#x27;s 12|2|0 (0 %)|0|0|reseller"]);
    assert!(!shop.get("/batches/generate").await.text().contains("ten dollars"));
    assert!(!shop.get("/batches/import").await.text().contains("ten dollars"));
    for path in [
        "/batches?group=6",
        "/batches/batch?group=6&number=B1",
        "/batches/generate?group=6",
        "/batches/import?group=6",
        "/batches/export?group=6",
    ] {
        let page = shop.get(path).await;
        assert_eq!(page.status, StatusCode::NOT_FOUND, "{path}");
        page.assert_contains("There is no card group 6.");
    }
    assert_eq!(batches(&shop.get("/batches?after_group=7&after=B2").await), [""; 0]);
    let foreign = [
        ("group", "6"),
        ("number", "B1"),
        ("distributor", "user"),
        ("quantity", "1"),
        ("batch_number", "N"),
        ("from", ""),
        ("balance", ""),
        ("language", "en"),
        ("format", "csv"),
        ("mode", "import"),
    ];
    let cards = "select md5(string_agg(c::text, ' ' order by id)) from cards c";
    let before = console.server.rows(cards).await;
    for path in ["block", "unblock", "assign", "release", "generate", "export"] {
        let page = shop.post_confirmed(&format!("/batches/{path}"), &foreign).await;
        assert_eq!(page.status, StatusCode::NOT_FOUND, "{path}: {}", page.text());
    }
    let content = "number,pin,balance\n0000000007,0007,1\n";
    let page = shop.upload("/batches/import", &foreign[..1], "file", "cards.csv", content).await;
    assert_ne!(page.status, StatusCode::OK);
    let page =
        shop.upload("/batches/import", &[("group", "6"), ("mode", "import")], "file", "cards.csv", content).await;
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    // A user of another owner is unknown.
    let page = shop.post("/batches/assign", &[("group", "12"), ("number", "B1"), ("distributor", "user")]).await;
    page.assert_contains("The group's owner has no user with this name.");
    assert_eq!(console.server.rows(cards).await, before);
    console.server.assert_rows("select count(*) from change_log where what in ('card', 'card_group')", &["0"]).await;
    // The batch of the same name in a foreign group stays as it is.
    shop.submit("/batches/block", &[("group", "12"), ("number", "B1")]).await.assert_contains("Cards blocked: 2.");
    console.server.assert_rows("select id from cards where withheld = 'blocked' order by id", &["12", "13"]).await;
}

#[tokio::test]
async fn read_only_accounts_see_batches_and_change_nothing() {
    let console = console().await;
    console.server.execute(CARDS).await;
    let reader = console.log_in(Role::ReadOnly).await;
    for path in [
        "/batches",
        "/batches/batch?group=6&number=B1",
        "/batches/generate",
        "/batches/import",
        "/batches/export?group=6",
    ] {
        let page = reader.get(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        assert!(!page.body.contains("action=\"/batches/"), "{path}: {}", page.body);
    }
    let fields = [("group", "6"), ("number", "B1"), ("distributor", "user"), ("format", "csv")];
    for path in ["block", "unblock", "assign", "release", "generate", "export", "import"] {
        let page = reader.post_confirmed(&format!("/batches/{path}"), &fields).await;
        assert_eq!(page.status, StatusCode::FORBIDDEN, "{path}");
    }
    console.server.assert_rows(CHANGES, &[]).await;
}

/// The batches of a group are found by look-ups, however many cards they have.
#[tokio::test]
async fn batches_are_found_by_an_index() {
    let console = console().await;
    console
        .server
        .execute(
            "insert into cards (cardgroup_id, number, pin, balance, batch_number)
             select 6 + i % 2, (2000000000 + i)::text, '9' || i, 1, 'B' || i % 40 from generate_series(1, 20000) i",
        )
        .await;
    for analyze in ["select", "analyze"] {
        console.server.execute(analyze).await;
        for values in [
            ["null", "null", "null", "null", "21", "5000"],
            ["3", "null", "7", "'B7'", "21", "5000"],
            ["null", "6", "6", "'B7'", "21", "5000"],
        ] {
            let plan = console.server.query_plan(&["-- Lists batches"], "force_custom_plan", &values).await;
            let scans = plan.lines().filter(|line| line.contains(" on cards")).collect::<Vec<_>>();
            assert!(scans.len() >= 4, "{plan}");
            assert!(scans.iter().all(|line| line.contains("using cards_group_batch on cards")), "{plan}");
            assert!(!plan.contains("Seq Scan on cards"), "{plan}");
        }
    }
}

/// The page of a batch does not wait for its counts, and counts again after a change.
#[tokio::test]
async fn a_batch_is_counted_in_the_background() {
    let console = console().await;
    console.server.execute(CARDS).await;
    let admin = console.log_in(Role::Admin).await;
    let path = "/batches/batch?group=6&number=B1";
    let counts = &console.console.counts.batches;
    let key = || (6, "B1".to_owned());
    // A statement that takes long.
    assert!(counts.get(key(), std::future::pending).await.is_running());
    let page = admin.get(path).await;
    page.assert_contains("It is being counted.");
    page.assert_contains("The free cards go to the distributor.");
    assert!(page.body.contains("data-refresh-seconds"), "{}", page.body);
    // Too many cards.
    counts.forget(|_| true);
    let slow = async || {
        // The result is used again for a hundred times as long.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        Ok(None)
    };
    while counts.get(key(), slow).await.is_running() {}
    admin.get(path).await.assert_contains("too many cards to count them within 20 seconds");
    admin.submit("/batches/block", &[("group", "6"), ("number", "B1")]).await.assert_contains("Cards blocked: 4.");
    load_counted(&admin, path).await.assert_contains("blocked 4");
}
