//! The page Batches: files with cards that are imported and exported.

use std::fmt::Write;

use axum::http::StatusCode;
use mortise::console::access::Role;

use super::console;

const CARDS: &str = "select number, pin, balance, batch_number, owner_id from cards where id > 100 order by id";
const CHANGES: &str =
    "select who, what, target_name, after from change_log where what in ('card', 'card_group') order by id";

#[tokio::test]
async fn a_file_is_checked_and_imported() {
    let console = console().await;
    let admin = console.log_in(Role::Admin).await;
    let content = "number,pin,balance,batch_number\n0000000007,0007,8.40,I1\n0000000008,0008,0,I1\n";
    let upload = async |mode| {
        admin.upload("/batches/import", &[("group", "6"), ("mode", mode)], "file", "cards.csv", content).await
    };
    let page = upload("check").await;
    page.assert_contains("Every line is correct. The import would create 2 cards. Nothing was written yet.");
    page.assert_contains("Numbers 0000000007 to 0000000008");
    console.server.assert_rows(CARDS, &[]).await;
    console.server.assert_rows(CHANGES, &[]).await;
    let page = upload("import").await;
    page.assert_contains("2 cards were imported.");
    let cards = ["0000000007|0007|8.400000000000000|I1|0", "0000000008|0008|0.000000000000000|I1|0"];
    console.server.assert_rows(CARDS, &cards).await;
    let who = &admin.login().name;
    let row = format!("{who}|card|0000000007 - 0000000008|{{\"cards_imported\": 2}}");
    console.server.assert_rows(CHANGES, &[&row]).await;
    let page = upload("import").await;
    assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
    page.assert_contains("Nothing was written. Reasons for the refusal: 4.");
    page.assert_contains("2 number: a card has it already");
    page.assert_secret("0007,");
    console.server.assert_rows(CARDS, &cards).await;
    console.server.assert_rows(CHANGES, &[&row]).await;
}

#[tokio::test]
async fn bad_lines_are_named_and_counted() {
    let console = console().await;
    let admin = console.log_in(Role::Admin).await;
    let mut content = "number,pin,balance\n0000000007,0007,1\n".to_owned();
    for line in 0..1200 {
        writeln!(content, "<b>{line}</b>,12345678,1").unwrap();
    }
    for mode in ["check", "import"] {
        let fields = [("group", "6"), ("mode", mode)];
        let page = admin.upload("/batches/import", &fields, "file", "cards.csv", &content).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{mode}");
        page.assert_contains("Lines with cards 1201");
        page.assert_contains("Reasons for the refusal: 1200.");
        page.assert_contains("3 number: not only digits: \"<b>0</b>\"");
        page.assert_contains("202 number: not only digits: \"<b>199</b>\"");
        page.assert_lacks("<b>200</b>");
        page.assert_contains("1000 more reasons are not shown.");
        assert!(!page.body.contains("<b>0"), "{}", page.body);
        page.assert_secret("12345678");
    }
    for (content, words) in [
        ("number;pin\n".to_owned(), "The fields are separated by ';', not by commas"),
        (format!("number,pin,balance\n\"{}", "x".repeat(200_000)), "Line 2 has more than 65536 bytes without an end"),
        (String::new(), "Choose a file that is not empty."),
    ] {
        let fields = [("group", "6"), ("mode", "import")];
        let page = admin.upload("/batches/import", &fields, "file", "cards.csv", &content).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{words}");
        page.assert_contains(words);
    }
    let fields = [("group", "8"), ("mode", "import")];
    let page =
        admin.upload("/batches/import", &fields, "file", "cards.csv", "number,pin,balance\n800002,8002,1\n").await;
    page.assert_contains("The group is hidden. Restore it first.");
    console.server.assert_rows(CARDS, &[]).await;
    console.server.assert_rows(CHANGES, &[]).await;
}

#[tokio::test]
async fn cards_are_exported_with_the_right_to_reveal_pins() {
    let console = console().await;
    console.server.execute("update cards set batch_number = 'B/1', name = '=1+1' where id in (1, 2, 4)").await;
    let admin = console.log_in(Role::Admin).await;
    let fields = [("group", "6"), ("number", "B/1"), ("format", "csv")];
    let page = admin.post_confirmed("/batches/export", &fields).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
    page.assert_contains("Your account may not show PINs");
    admin.get("/batches/export?group=6").await.assert_contains("Your account may not show PINs");
    console.server.assert_rows(CHANGES, &[]).await;

    let clerk = console.log_in_with_pins(Role::Admin).await;
    clerk.get("/batches/export?group=6&number=B%2F1").await.assert_contains("the group ten dollars");
    let wrong = [&fields[..], &[("confirm", "000000")]].concat();
    assert_eq!(clerk.post("/batches/export", &wrong).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    console.server.assert_rows(CHANGES, &[]).await;
    let page = clerk.post_confirmed("/batches/export", &fields).await;
    assert_eq!(page.header("content-type"), Some("text/csv; charset=utf-8"));
    assert_eq!(page.header("content-disposition"), Some("attachment; filename=\"cards-6-B1.csv\""));
    assert_eq!(page.header("cache-control"), Some("no-store"));
    let lines: Vec<&str> = page.body.lines().collect();
    assert_eq!(lines.len(), 4, "{}", page.body);
    assert_eq!(lines[1], "1111111000,1000,10.0840336134454,1,B/1,en,'=1+1,3701111,4,,,");
    let who = &clerk.login().name;
    let row = |free| {
        format!("{who}|card_group|ten dollars|{{\"free\": {free}, \"cards\": \"exported\", \"batch_number\": \"B/1\"}}")
    };
    console.server.assert_rows(CHANGES, &[&row(false)]).await;

    let free =
        [&fields[..2], &[("format", "json"), ("free", "1"), ("from", "1111111002"), ("till", "1111111009")]].concat();
    let page = clerk.post_confirmed("/batches/export", &free).await;
    let cards: serde_json::Value = serde_json::from_str(&page.body).unwrap();
    assert_eq!((cards.as_array().unwrap().len(), &cards[0]["pin"]), (1, &"1003".into()), "{cards}");
    let sheets = [&fields[..2], &[("format", "html")]].concat();
    let page = clerk.post_confirmed("/batches/export", &sheets).await;
    assert_eq!(page.header("content-disposition"), Some("attachment; filename=\"cards-6-B1.html\""));
    page.assert_contains("1003");
    for (field, value, status) in [
        ("number", "unknown", StatusCode::NOT_FOUND),
        ("format", "pdf", StatusCode::UNPROCESSABLE_ENTITY),
        ("from", "1", StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let mut fields = fields.to_vec();
        fields.retain(|(name, _)| *name != field);
        fields.push((field, value));
        assert_eq!(clerk.post_confirmed("/batches/export", &fields).await.status, status, "{field}");
    }
    assert_eq!(console.server.rows(CHANGES).await.len(), 3);
}

/// A reseller with the right exports the own cards.
#[tokio::test]
async fn resellers_export_their_own_cards() {
    let console = console().await;
    console.server.execute("update cards set batch_number = 'B1'").await;
    let login = console.create_account(Role::Reseller, Some(3), true).await;
    let shop = console.log_in_as(&login).await;
    let page = shop.post_confirmed("/batches/export", &[("group", "12"), ("number", "B1"), ("format", "csv")]).await;
    assert_eq!(page.body.lines().count(), 3, "{}", page.body);
    assert!(page.body.contains("1201") && !page.body.contains("1003"), "{}", page.body);
}

/// A large export is complete, and its pages follow each other.
#[tokio::test]
async fn large_exports_are_complete() {
    let console = console().await;
    console
        .server
        .execute(
            "insert into cards (cardgroup_id, number, pin, balance)
             select 11, lpad(i::text, 6, '0'), '9' || i, 1 from generate_series(1, 2500) i",
        )
        .await;
    let clerk = console.log_in_with_pins(Role::Admin).await;
    let page = clerk.post_confirmed("/batches/export", &[("group", "11"), ("format", "csv"), ("free", "1")]).await;
    let numbers: Vec<&str> = page.body.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
    let expected: Vec<String> = (1..=2500).map(|number| format!("{number:06}")).collect();
    assert_eq!(numbers, expected);
}

/// Lines without a batch number get that of the form.
#[tokio::test]
async fn imported_cards_get_the_batch_number_of_the_form() {
    let console = console().await;
    let admin = console.log_in(Role::Admin).await;
    let content = "number,pin,balance,batch_number\n1111112001,2001,1,\n1111112002,2002,1,own\n";
    let import = async |mode, batch| {
        let fields = [("group", "6"), ("mode", mode), ("batch_number", batch)];
        admin.upload("/batches/import", &fields, "file", "cards.csv", content).await
    };
    // The next step proposes it again.
    assert_eq!(import("check", " N&7 ").await.field_value("batch_number"), "N&7");
    let page = import("import", "N\u{200b}7").await;
    assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
    page.assert_contains("Batch number: it has the invisible character U+200B");
    import("import", "N&7").await.assert_contains("2 cards were imported.");
    let rows = "select number, batch_number from cards where id > 100 order by number";
    console.server.assert_rows(rows, &["1111112001|N&7", "1111112002|own"]).await;
    admin.get("/batches?group=6").await.assert_contains("N&7");
}

/// A reseller who imports cards does not find out the PINs of others.
#[tokio::test]
async fn imports_of_resellers_do_not_name_used_pins() {
    let console = console().await;
    console.server.execute("update cards set owner_id = 3 where id in (12, 13)").await;
    let shop = console.log_in_reseller(3).await;
    let upload = async |mode, content: &str| {
        shop.upload("/batches/import", &[("group", "12"), ("mode", mode)], "file", "cards.csv", content).await
    };
    upload("check", "number,pin,balance\n120007,1007,1\n").await.assert_contains("Every line is correct.");
    console.server.assert_rows(CHANGES, &[]).await;
    // PINs of cards of the admin, and an own number.
    let used = "number,pin,balance\n120007,1007,1\n120008,1003,1\n120009,1002,1\n120001,1010,1\n";
    for mode in ["check", "import"] {
        let page = upload(mode, used).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY, "{mode}");
        page.assert_contains("Nothing was written. Other cards have some numbers or PINs of the file.");
        page.assert_lacks("a card has it already");
        page.assert_lacks("Reasons for the refusal");
    }
    let who = &shop.login().name;
    let row = format!(
        "{who}|card_group|the reseller's|{{\"lines\": 4, \"import_refused\": \"numbers or PINs are used already\"}}"
    );
    console.server.assert_rows(CHANGES, &[&row, &row]).await;
    // A mistake in the file itself is named.
    let page = upload("check", "number,pin,balance\n120007,1007,1\n120008,1007,1\n").await;
    page.assert_contains("3 pin: line 2 has the same");
    for _ in 0..8 {
        assert_eq!(upload("check", used).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
    let page = upload("check", "number,pin,balance\n120007,1007,1\n").await;
    assert_eq!(page.status, StatusCode::TOO_MANY_REQUESTS);
    page.assert_contains("files with used numbers or PINs");
    console.server.assert_rows(CARDS, &[]).await;
    // Admins see which lines, without a limit.
    let admin = console.log_in(Role::Admin).await;
    let fields = [("group", "12"), ("mode", "check")];
    let page = admin.upload("/batches/import", &fields, "file", "cards.csv", used).await;
    page.assert_contains("3 pin: a card has it already");
}
