//! `/changes`: the change log.

use axum::http::StatusCode;
use mortise::back_office::export::guard_formula;
use mortise::console::access::Role;

use super::users::link;
use super::{ConsoleServer, console};

/// The ids of the changes on a page are not shown: the rows have recognizable texts instead.
async fn insert(console: &ConsoleServer, rows: &str) {
    let insert = format!(
        "insert into change_log (at, who, user_id, operator, what, target_id, target_name, before, after, request_id) values {rows}"
    );
    console.server.execute(&insert).await;
}

#[tokio::test]
async fn changed_price_is_found_in_two_clicks() {
    let console = console().await;
    console.server.execute("update cardgroups set price = 10").await;
    let reply = console.server.post_signed("cc_group_update", "u=admin&cc_group_id=6&price_with_vat=119", "6").await;
    assert!(reply.body.contains("success"), "{}", reply.body);
    insert(
        &console,
        "('2001-01-01', 'ann', null, null, 'card_group', 7, 'euro group', '{\"price\": 8.500000000000000}', '{\"price\": 9}', null),
         ('2001-01-02', 'ann', null, null, 'card_group', 7, 'euro group', '{\"description\": \"a\"}', '{\"description\": \"b\"}', null)",
    )
    .await;
    let admin = console.log_in(Role::Admin).await;
    let start = admin.get("/account").await;
    assert_eq!(link(&start, "/changes").as_deref(), Some("/changes"));
    let log = admin.get("/changes").await;
    let prices = link(&log, "field=price").unwrap();
    let prices = admin.get(&prices).await;
    prices.assert_contains("card group ten dollars (id 6) History");
    prices.assert_contains(" admin request ");
    prices.assert_contains("price (USD, without taxes) 10 → 100");
    // All times, not only the last days.
    prices.assert_contains("2001-01-01 00:00:00 ann card group euro group (id 7) History");
    prices.assert_contains("price (USD, without taxes) 8.5 → 9");
    prices.assert_lacks("description");
    prices.assert_lacks("were searched");
    let history = admin.get("/changes?what=card_group&target=7").await;
    history.assert_contains("8.5 → 9");
    history.assert_contains("description a → b");
    history.assert_lacks("ten dollars (id 6)");
}

#[tokio::test]
async fn changes_are_found_by_target_author_text_and_day() {
    let console = console().await;
    console
        .server
        .execute(
            "insert into change_log (at, who, what, target_name, cardgroup_id, number_from, number_till, after)
             values ('2026-01-05', 'command', 'card', '1111111000 - 1111111003', 6, '1111111000', '1111111003', '{\"withheld\": \"range\"}'),
                 ('2026-01-05', 'command', 'card', '11 - 19', 6, '11', '19', '{\"withheld\": \"other length\"}')",
        )
        .await;
    insert(
        &console,
        "('2026-01-01', 'shop', 3, null, 'card', 2, '1111111001', '{\"pin\": \"(hidden)\"}', '{\"callerid\": \"37011\"}', 'req-1'),
         ('2026-01-02', 'command', null, 'ann', 'card', 3, '1111111002', null, '{\"balance\": 10.084033613445400}', null),
         ('2026-01-03', 'ann', null, null, 'user', 3, 'old name', '{\"blocked\": 0}', '{\"blocked\": 1}', null),
         ('2026-01-04', 'ann', null, null, 'setting', 0, 'Allow_API', '{\"value\": \"0\"}', '{\"value\": \"\"}', null),
         (now() at time zone 'utc', 'bob', null, null, 'currency', 2, 'EUR', '{\"exchange_rate\": 1}', '{\"exchange_rate\": 2}', null)",
    )
    .await;
    let admin = console.log_in(Role::Admin).await;
    let found = async |query: &str| {
        let text = admin.get(&format!("/changes?{query}")).await.text();
        let texts = [
            "37011",
            "balance (USD) – → 10.0840336134454",
            "blocked 0 → 1",
            "value 0 → (empty)",
            "exchange_rate",
            "range",
            "other length",
        ];
        texts.into_iter().filter(|expected| text.contains(expected)).collect::<Vec<_>>()
    };
    for (query, expected) in [
        // By number: the card, and the range that contains it.
        ("target=1111111001", &["37011", "range"][..]),
        ("target=1111111002", &["balance (USD) – → 10.0840336134454", "range"]),
        // By the present name of a user, and by the old one.
        ("target=RESELLER", &["blocked 0 → 1"]),
        ("target=old+name", &["blocked 0 → 1"]),
        ("target=allow_api", &["value 0 → (empty)"]),
        ("target=3", &["balance (USD) – → 10.0840336134454", "blocked 0 → 1"]),
        ("target=3&what=user", &["blocked 0 → 1"]),
        ("target=3&what=card&who=ann", &["balance (USD) – → 10.0840336134454"]),
        ("target=3&who=bob", &[]),
        ("target=3&from=2026-01-03", &["blocked 0 → 1"]),
        ("target=3&to=2026-01-02", &["balance (USD) – → 10.0840336134454"]),
        ("who=ANN&from=2026-01-01", &["balance (USD) – → 10.0840336134454", "blocked 0 → 1", "value 0 → (empty)"]),
        ("text=REQ-1&from=2026-01-01", &["37011"]),
        ("text=37011&from=2026-01-01&to=2026-01-01", &["37011"]),
        ("field=callerid&what=card&from=2026-01-01", &["37011"]),
        ("what=currency", &["exchange_rate"]),
        ("target=nothing", &[]),
    ] {
        assert_eq!(found(query).await, expected, "{query}");
    }
    // A search that would read the whole log is limited, and says so.
    let limited = admin.get("/changes?who=bob").await;
    limited.assert_contains("Only changes since ");
    limited.assert_contains("exchange_rate");
    admin.get("/changes?who=ann").await.assert_contains("No change matches.");
    for (query, text) in [("what=nothing", "There is no kind of data \"nothing\"."), ("from=yesterday", "is not a day")]
    {
        let page = admin.get(&format!("/changes?{query}")).await;
        assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
        page.assert_contains(text);
    }
}

#[tokio::test]
async fn pages_follow_the_time_and_lose_no_row() {
    let console = console().await;
    // Ids in another order than times, and several rows of one time.
    console
        .server
        .execute(
            "insert into change_log (at, who, what, target_id, target_name)
             select '2026-01-01'::timestamp + make_interval(secs => (i * 7 % 121) / 2), 'ann', 'user', 3, 'row' || i || '.'
             from generate_series(1, 121) i",
        )
        .await;
    let admin = console.log_in(Role::Admin).await;
    let expected =
        console.server.rows("select target_name from change_log where what = 'user' order by at desc, id desc").await;
    for query in ["target=3&what=user", "what=user&from=2026-01-01"] {
        let mut path = format!("/changes?{query}");
        let mut found: Vec<String> = Vec::new();
        for rows in [50, 50, 21] {
            let page = admin.get(&path).await;
            let text = page.text();
            let names = text.split(" user row").skip(1).map(|rest| format!("row{}.", rest.split('.').next().unwrap()));
            let before = found.len();
            found.extend(names);
            assert_eq!(found.len() - before, rows, "{text}");
            let next = link(&page, "&before=");
            assert_eq!(next.is_some(), rows == 50);
            path = next.unwrap_or_default();
        }
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn hostile_values_are_text() {
    let console = console().await;
    let evil = "<img src=x onerror=alert(1)>";
    insert(
        &console,
        &format!(
            "(now(), '{evil}', null, '{evil}', 'card_group', 6, '{evil}', '{{\"{evil}\": \"{evil}\"}}', '{{\"{evil}\": \"b\"}}', '{evil}')"
        ),
    )
    .await;
    let admin = console.log_in(Role::Admin).await;
    let page = admin.get("/changes?text=%3Cimg&field=&what=").await;
    page.assert_contains(&format!("{evil} {evil} → b"));
    assert!(!page.body.contains("<img"), "{}", page.body);
}

#[tokio::test]
async fn matching_changes_are_downloaded_without_formulas() {
    let console = console().await;
    insert(
        &console,
        "('2026-01-02', '=HYPERLINK(1)', null, null, 'card', 2, '+1234', '{\"a\": \"@x\", \"n\": -5.5}', '{\"a\": \"b,\\\"c\"}', '-1+2'),
         ('2026-01-01', 'ann', 3, null, 'user', 3, 'reseller', null, null, null)",
    )
    .await;
    console
        .server
        .execute(
            "insert into change_log (at, who, what, target_id, target_name, after)
             select '2025-01-01', 'bulk', 'tariff', i, 't' || i, '{\"x\": 1}' from generate_series(1, 2500) i",
        )
        .await;
    let admin = console.log_in(Role::Admin).await;
    let page = admin.post_confirmed("/changes/export", &[("from", "2026-01-01"), ("to", "2026-01-02")]).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text());
    assert_eq!(page.header("content-type"), Some("text/csv; charset=utf-8"));
    assert_eq!(page.header("content-disposition"), Some("attachment; filename=\"mortise-changes.csv\""));
    let lines: Vec<&str> = page.body.lines().collect();
    assert_eq!(lines[0], "id,time_utc,who,operator,user_id,request_id,kind,target_id,target,field,before,after");
    assert!(
        lines[1].ends_with(",2026-01-02 00:00:00,'=HYPERLINK(1),,,'-1+2,card,2,'+1234,a,'@x,\"b,\"\"c\""),
        "{}",
        lines[1]
    );
    assert!(lines[2].ends_with(",card,2,'+1234,n,-5.5,"), "{}", lines[2]);
    assert!(lines[3].ends_with(",2026-01-01 00:00:00,ann,,3,,user,3,reseller,,,"), "{}", lines[3]);
    assert_eq!(lines.len(), 4, "{}", page.body);
    // More rows than a statement reads.
    let page = admin.post_confirmed("/changes/export", &[("who", "bulk"), ("from", "2025-01-01")]).await;
    assert_eq!(page.body.lines().count(), 2501);
    assert_eq!(admin.post("/changes/export", &[]).await.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn the_log_is_for_admins_and_readers() {
    let console = console().await;
    let reader = console.log_in(Role::ReadOnly).await;
    let page = reader.get("/changes").await;
    assert_eq!(page.status, StatusCode::OK);
    page.assert_lacks("Download");
    assert_eq!(reader.post_confirmed("/changes/export", &[]).await.status, StatusCode::FORBIDDEN);
    for client in [console.log_in(Role::Support).await, console.log_in_reseller(3).await] {
        assert_eq!(client.get("/changes").await.status, StatusCode::FORBIDDEN);
    }
}

/// With fresh statistics and without, the statements read the log by its indexes.
#[tokio::test]
async fn searches_use_indexes() {
    let console = console().await;
    console
        .server
        .execute(
            "insert into change_log (at, who, what, target_id, target_name, after)
             select '2026-01-01'::timestamp + make_interval(secs => i), 'ann', (array['card', 'card', 'card', 'user'])[1 + i % 4], i % 900, 'n', '{}'
             from generate_series(1, 40000) i",
        )
        .await;
    let null = "null";
    let conditions = r#"'{"before_at": "infinity", "before_id": 0}'"#;
    for analyzed in [false, true] {
        if analyzed {
            console.server.execute("analyze change_log").await;
        }
        for from in [null, "'2026-01-01 10:00'"] {
            let values = [from, "'2026-01-01 11:00'", "17", null, "'ann'", null, "'x'", "51"];
            let plan =
                console.server.query_plan(&["-- Reads the change log of a range"], "force_custom_plan", &values).await;
            assert!(plan.contains("Scan Backward using change_log_at on change_log"), "{plan}");
            let condition = if from == null { "Index Cond: (at <= " } else { "Index Cond: ((at >= " };
            assert!(plan.contains(condition), "{plan}");
            assert!(!plan.contains("Seq Scan on change_log"), "{plan}");
        }
        let values = ["array['user']", "array[3]", "array['right']", "'n'", "array[6]", conditions, "51"];
        let plan = console
            .server
            .query_plan(&["-- Reads the change log about some targets"], "force_custom_plan", &values)
            .await;
        for index in ["change_log_target", "change_log_numbers", "change_log_pkey"] {
            assert!(plan.contains(index), "{index}: {plan}");
        }
        assert!(!plan.contains("Seq Scan on change_log"), "{plan}");
    }
}

/// What readers do not see on the pages API users and Settings is not here either.
#[tokio::test]
async fn readers_see_no_changes_of_users_and_settings() {
    let console = console().await;
    let kinds = ["user", "right", "setting", "key", "console_account", "card_group", "mail"];
    for kind in kinds {
        insert(
            &console,
            &format!(
                "(now(), 'ann', null, null, '{kind}', 77, 'the {kind} row', null, '{{\"a\": \"of {kind}\"}}', null)"
            ),
        )
        .await;
    }
    let (reader, admin) = (console.log_in(Role::ReadOnly).await, console.log_in(Role::Admin).await);
    for path in ["/changes", "/changes?target=77", "/changes?who=ann", "/changes?text=row"] {
        let (seen, all) = (reader.get(path).await, admin.get(path).await);
        for (index, kind) in kinds.iter().enumerate() {
            all.assert_contains(&format!("of {kind}"));
            match index {
                0..5 => seen.assert_lacks(&format!("of {kind}")),
                _ => seen.assert_contains(&format!("of {kind}")),
            }
        }
    }
    for kind in &kinds[..5] {
        reader.get(&format!("/changes?what={kind}")).await.assert_lacks(&format!("of {kind}"));
        let form = reader.get("/changes").await;
        assert!(!form.body.contains(&format!("value=\"{kind}\"")) && !form.body.contains(&format!("what={kind}")));
    }
}

#[tokio::test]
async fn a_long_search_ends() {
    let console = console().await;
    let admin = console.log_in(Role::Admin).await;
    let mut lock = console.server.pool.begin().await.unwrap();
    sqlx::query("lock table change_log in access exclusive mode").execute(&mut *lock).await.unwrap();
    let page = admin.get("/changes?from=2020-01-01&text=nothing").await;
    assert_eq!(page.status, StatusCode::UNPROCESSABLE_ENTITY);
    page.assert_contains("The search takes more than 5 seconds. Set From to a later day");
}

#[test]
fn cells_that_spreadsheets_read_as_formulas_are_guarded() {
    for text in [
        "=1+1",
        "+1",
        "-1",
        "@x",
        "\t1",
        "\r1",
        "\n=1",
        "\n1",
        " =1",
        "\u{feff}=1",
        "\u{a0}@x",
        "＝1",
        "＋1",
        "－1",
        "＠x",
    ] {
        assert_eq!(guard_formula(text), format!("'{text}"), "{text:?}");
    }
    for text in ["", "1", "a=1", " 1", "1-2", "'=1"] {
        assert_eq!(guard_formula(text), text);
    }
}
