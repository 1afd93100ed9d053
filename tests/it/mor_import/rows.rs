//! The rows of MOR arrive as they are.

use super::Import;

/// Rows whose texts, numbers and times are easily changed on the way.
const HARD_ROWS: &str = r"
    insert into users (id, username, password, first_name, last_name, balance, credit, owner_id, time_zone)
        values (4, 'łukasz', '', 'tab\tnew\nline', 'quote\'s \\N \\.', -0.000000000000001, 123456789012345.123456789012345, 3,
                'Vilnius'),
               (5, '', '', '', '', null, null, null, '');
    insert into addresses (id, email, address) values (1, 'café@example.net', 'Straße ¥ €'), (4, null, '');
    alter table conflines convert to character set utf8mb4;
    insert into conflines (id, name, value, owner_id) values
        (1, 'Email_Subject', '🂡 emoji', 0), (2, 'Double', 'a', 0), (3, 'Double', 'b', 0), (4, null, null, null);
    insert into payments (id, paymenttype, amount, currency, date_added, shipped_at, user_id, card) values
        (11, 'Card', 10.000000000000001, 'USD', '2014-03-30 02:59:59', null, 103, 1),
        (12, 'manual', -5, 'EUR', '2014-07-01 12:00:00', '2014-12-01 12:00:00', 3, 0);
    update cards set sold = 1, balance = 3.333333333333333, first_use = '2014-08-01 00:30:00' where id = 103;
    insert into actions (id, user_id, date, action, data, target_type, target_id) values
        (21, 0, '2014-10-26 03:30:00', 'card_payment_created', '103', 'Payment', 11);
    insert into ccorders (id, amount, currency, email, date_added) values (31, 10, 'USD', 'a@b', '2014-01-01 00:00:00');
    insert into cclineitems (id, cardgroup_id, quantity, ccorder_id, card_id, price) values (41, 7, 1, 31, 103, 10);
    insert into vouchers (id, number, tag, credit_with_vat, currency, active_till)
        values (51, '123456', '', 5, 'USD', '2020-01-01 00:00:00');
    insert into destinationgroups (id, name) values (61, 'Lithuania');
    insert into tariffs (id, name, purpose, owner_id, currency) values (1, 'Retail', 'user', 0, 'USD');
    insert into rates (id, tariff_id, destination_id, destinationgroup_id) values (71, 1, 0, 61);
    insert into aratedetails (id, `from`, duration, artype, round, price, rate_id, start_time, end_time, daytype)
        values (81, 1, -1, 'minute', 60, 0.05, 71, '00:00:00', '23:59:59', 'WD');
    alter table cards auto_increment = 5000;
    alter table payments auto_increment = 40";

/// The import in the change log.
const CHANGE: &str = r#"command|ann|import|1|{"imported": 28, "left_out": 0, "quarantined": 0}"#;

#[tokio::test]
async fn all_values_arrive_unchanged() {
    let import = Import::new(HARD_ROWS).await;
    let output = import.import_ok(&[]);
    assert!(output.stdout.contains("every row and every checksum agrees"), "{output:?}");
    assert!(output.stdout.contains("cards: 5 rows in MOR, 5 imported, 0 quarantined, 0 left out"), "{output:?}");
    let server = import.server().await;
    for (query, rows) in [
        (
            "select id, username, first_name, last_name, balance, credit, owner_id from users where id in (4, 5) order by id",
            &[
                "4|łukasz|tab\tnew\nline|quote's \\N \\.|-0.000000000000001|123456789012345.123456789012345|3",
                "5||||∅|∅|∅",
            ][..],
        ),
        ("select id, email, address from addresses order by id", &["1|café@example.net|Straße ¥ €", "4|∅|"]),
        (
            "select id, name, value, owner_id from conflines order by id",
            &["1|Email_Subject|🂡 emoji|0", "2|Double|a|0", "3|Double|b|0", "4|∅|∅|∅"],
        ),
        // Local times of Vilnius, stored in UTC.
        (
            "select id, amount, date_added, shipped_at, kind from payments order by id",
            &[
                "11|10.000000000000001|2014-03-30T00:59:59|∅|∅",
                "12|-5.000000000000000|2014-07-01T09:00:00|2014-12-01T10:00:00|∅",
            ],
        ),
        ("select balance, sold, first_use from cards where id = 103", &["3.333333333333333|1|2014-07-31T21:30:00"]),
        // The hour that the clocks repeat: the earlier reading.
        ("select date from actions", &["2014-10-26T00:30:00"]),
        // A timestamp is UTC already; these dates of a group are compared as they are.
        ("select last_update from currencies where id = 1", &["2014-05-01T10:00:00"]),
        ("select valid_from, created_at from cardgroups", &["2014-01-01T00:00:00|2014-01-01T10:00:00"]),
        ("select \"from\", price, start_time, daytype from aratedetails", &["1|0.050000000000000|00:00:00|WD"]),
        ("select card_id, ccorder_id from cclineitems", &["103|31"]),
        ("select card_id from card_stock order by card_id", &["101", "102", "104", "105"]),
        ("select count(*) from card_stock_differences", &["0"]),
        ("select who, operator, what, target_id, after from change_log", &[CHANGE]),
        // Ids continue after those that MOR gave, also after ids of deleted rows.
        ("select nextval('cards_id_seq'), nextval('payments_id_seq'), nextval('vouchers_id_seq')", &["5000|40|52"]),
    ] {
        server.assert_rows(query, rows).await;
    }
    server.close().await;
}

#[tokio::test]
async fn the_schema_is_intact_and_the_comparison_can_be_repeated() {
    let import = Import::new(HARD_ROWS).await;
    import.import_ok(&[]);
    let doctor = import.run(&["doctor"]);
    assert!(!doctor.stdout.contains("schema differs") && !doctor.stdout.contains("is missing"), "{doctor:?}");
    let output = import.run(&["reconcile", &import.mor.url()]);
    assert!(output.code == 0 && output.stdout.contains("Equal:"), "{output:?}");
    // A change on either side is named.
    import.mor.execute("update payments set amount = 11 where id = 12; delete from vouchers").await;
    let server = import.server().await;
    // A row that no range contains changes the checksum of the nearest one.
    let negative = "insert into currencies (id, name, exchange_rate) values (-5, 'NEG', 1)";
    server.execute(&format!("update cards set name = 'changed' where id = 104; {negative}")).await;
    server.close().await;
    let output = import.run(&["reconcile", &import.mor.url()]);
    assert_eq!(output.code, 1, "{output:?}");
    for difference in [
        "DIFFERENCE payments 12 amount: \"11.000000000000000\" in MOR, \"-5.000000000000000\" in Mortise",
        "DIFFERENCE payments: manual, EUR, 2014: amount: 11.000000000000000 in MOR, -5.000000000000000 in Mortise",
        "DIFFERENCE cards 104 name: \"\" in MOR, \"changed\" in Mortise",
        "DIFFERENCE vouchers 51: the row is in Mortise only",
        "DIFFERENCE currencies: the checksums of the rows with the ids 0 to 1023, or near them, differ",
    ] {
        assert!(output.stdout.contains(difference), "{difference}: {}", output.stdout);
    }
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let import = Import::new(HARD_ROWS).await;
    let output = import.import_ok(&["--dry-run"]);
    assert!(output.stdout.contains("this was a dry run"), "{output:?}");
    let server = import.server().await;
    server.assert_rows("select (select count(*) from users), (select count(*) from import_runs)", &["0|0"]).await;
    server.assert_rows("select to_regnamespace('mor_import')", &["∅"]).await;
    server.close().await;
    // It can be followed by the import.
    import.import_ok(&[]);
}

#[tokio::test]
async fn columns_that_an_older_schema_lacks_get_defaults() {
    let import = Import::new(
        "alter table cards drop column frozen_balance, drop column callerid, drop column batch_number,
             modify balance double, modify hidden bit(1) not null default 0, modify call_count tinyint unsigned default 0;
         alter table users modify balance double;
         update users set balance = 0.1 where id = 3;
         update cards set hidden = 1, call_count = 255 where id = 105;
         drop table vouchers",
    )
    .await;
    let output = import.import_ok(&[]);
    for note in ["MOR has no table vouchers: it stays empty", "frozen_balance (0), callerid (NULL), batch_number ('')"]
    {
        assert!(output.stderr.contains(note), "{note}: {output:?}");
    }
    let server = import.server().await;
    server
        .assert_rows(
            "select frozen_balance, callerid, batch_number, balance, hidden, call_count from cards where id = 105",
            &["0.000000000000000|∅||10.000000000000000|1|255"],
        )
        .await;
    server.assert_rows("select balance from users where id = 3", &["0.100000000000000"]).await;
    server.close().await;
}

#[tokio::test]
async fn what_mortise_does_not_have_is_named() {
    let import = Import::new("insert into dids (did) values ('370'), ('371')").await;
    let output = import.import_ok(&[]);
    assert!(output.stderr.contains("dids (2 rows)"), "{output:?}");
    assert!(output.stderr.contains("users: columns that Mortise does not have: logged (about "), "{output:?}");
    assert!(output.stderr.contains("valid_from and valid_till of 1 rows stay local times"), "{output:?}");
}

#[tokio::test]
async fn an_imported_card_is_sold() {
    let import = Import::new(
        "insert into conflines (name, value, owner_id) values
             ('Allow_API', '1', 0), ('Allow_GET_API', '1', 0), ('API_Secret_Key', 'secret', 0)",
    )
    .await;
    import.import_ok(&[]);
    let server = import.server().await;
    let reply = server.post_signed("card_from_group_sell", "u=admin&id=7", "7").await;
    assert_eq!(reply.element_texts("number"), ["1000000101"], "{}", reply.body);
}
