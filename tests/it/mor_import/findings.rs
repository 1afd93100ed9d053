//! Invalid data: what the report says of it, and what becomes of it.

use super::Import;

/// Invalid data of each kind. Cards 101 to 105 of the basics are free.
const PLANTED: &str = r"
    alter table users modify username varchar(30);
    insert into users (id, username, owner_id, currency_id) values
        (8, 'euro', 3, 3), (9, null, 3, 4), (10, 'a\0b', 3, 1);
    insert into currencies (id, name, exchange_rate) values (3, 'eur', 0.9), (4, 'DOGECOIN', 1), (5, '', 1), (6, 'LONGER', 1);
    insert into cardgroups (id, name, description, price, number_length, pin_length, created_at, valid_till, owner_id) values
        (8, 'Ten', '', 10, 10, 4, '0000-00-00 00:00:00', '2014-00-00 00:00:00', 3),
        (9, 'Free', '', 0, 10, 4, '2014-01-01 00:00:00', '2030-01-01 00:00:00', 0);
    insert into tariffs (id, name, purpose, owner_id, currency, last_update_date) values
        (1, 'Retail', 'user', 0, 'USD', '2014-03-30 03:30:00'), (2, 'Retail', 'user', 0, 'USD', '2014-10-26 03:30:00'),
        (3, 'Retail', 'user', 3, 'USD', null);

    insert into cards (id, number, pin, balance, cardgroup_id, sold, first_use) values
        (201, '1000000201', '0201', 10, 7, 0, '2014-02-01 00:00:00'), (202, '1000000202', '0202', 10, 7, 0, '2014-00-00 00:00:00'),
        (203, '1000000203', '0203', 10, 7, 0, '0000-00-00 00:00:00');
    insert into cards (id, number, pin, balance, cardgroup_id, sold, call_count, frozen_balance) values
        (204, '1000000204', '0204', 10, 7, 0, 1, 0), (205, '1000000205', '0205', 10, 7, 0, 0, 0.5),
        (206, '1000000206', '0206', 4.2, 7, 0, 0, 0), (207, '1000000207', '0207', 10, 7, 0, 0, 0),
        (208, '1000000208', '0208', 10, 7, 0, 0, 0), (209, '1000000209', '0209', 10, 7, 0, 0, 0),
        (210, '1000000210', '0210', 10, 7, 0, 0, 0), (211, '1000000211', '0211', 10, 7, 0, 0, 0),
        (212, '1000000212', '0212', 0, 7, 0, 0, 0), (213, '1000000213', '0213', null, 7, 0, 0, 0),
        (214, '1000000214', '0214', 0, 9, 0, 0, 0);
    insert into payments (id, paymenttype, amount, currency, user_id, card, date_added) values
        (1, 'Card', 10, 'USD', 207, 1, '0000-00-00 00:00:00'), (2, 'Card', 10, 'USD', 212, 1, '2014-02-30 00:00:00'),
        (3, 'manual', 10, 'USD', 101, 0, '2014-02-28 00:00:00');
    insert into ccorders (id, amount, currency) values (1, 10, 'USD');
    insert into cclineitems (id, cardgroup_id, ccorder_id, card_id, price) values
        (1, 7, 1, 208, 10), (2, 77, 78, 79, 10);
    insert into vouchers (id, number, tag, currency, active_till, use_date) values
        (1, '1000000209', '', 'USD', '2030-01-01 00:00:00', '2014-05-05 00:00:00'),
        (2, '1000000101', '', 'USD', '0000-00-00 00:00:00', '0000-00-00 00:00:00');
    insert into actions (id, date, action, target_type, target_id, data) values
        (1, '0000-00-00 00:00:00', 'test', '', null, ''), (2, '2014-06-01 12:00:00', 'card_created', 'card', 101, ''),
        (3, '0000-00-00 00:00:00', 'card_sell_over_api', 'Card', 210, ''), (4, '2014-06-02 12:00:00', 'test', '', null, '');
    insert into calls (card_id) values (211), (0), (null);

    insert into cards (id, number, pin, balance, cardgroup_id, user_id) values
        (301, '100000301', '0301', 10, 7, -1), (302, '1000000302', '', 10, 7, -1), (303, '', '0303', 10, 7, -1),
        (304, '1000000304', '30304', 10, 7, -1), (305, '1000000305', null, 10, 7, -1), (306, '1000000306', '0306', 10, 7, 3);
    insert into cards (id, number, pin, balance, cardgroup_id, sold, owner_id, hidden) values
        (401, '1000000401', '0401', 10, 7, 0, 0, 0), (402, '1000000401', '0402', 10, 8, 0, 3, 0),
        (403, '1000000403', '0403', 10, 7, 0, 0, 0), (404, '1000000403', '0404', 10, 7, 1, 0, 0),
        (405, '1000000405', '0405', 10, 7, 0, 0, 0), (406, '1000000406', '0405', 10, 7, 0, 0, 0),
        (407, '1000000407', '0407', 10, 7, 1, 0, 0), (408, '1000000408', '0407', 10, 7, 1, 0, 0),
        (409, '1000000401', '0401', 10, 7, 0, 0, 1), (410, '1000000410', '0410', 10, 7, 2, 0, 0),
        (411, '1000000411', '0411', 10, 99, 0, 3, 0), (412, '1000000412', '0412', 10, 99, 1, 3, 0),
        (413, '1000000413', '0413', 10, 7, 1, 0, -1);
    insert into cards (id, number, pin, balance, cardgroup_id, sold, callerid, hidden) values
        (501, '1000000501', '0501', 10, 7, 1, '37060000001', 1), (502, '1000000502', '0502', 10, 7, 1, '37060000001', 0),
        (503, '1000000503', '0503', 10, 7, 1, '37060000001', 0);";

/// The report of [`PLANTED`], without the digests of PINs.
const EXPECTED: &str = "\
ambiguous_hour\ttariffs\t*\t1 cells of the column last_update_date\t\tdefault
bad_currency\tcurrencies\t4\tDOGECOIN\t\tundecided
bad_currency\tcurrencies\t5\t\t\tdefault
bad_currency\tcurrencies\t6\tLONGER\t\tdefault
currency_merged\tusers\t8\teur\t\tdefault
dangling_line\tcclineitems\t2\tcard 79\t10.000000000000000\tdefault
dangling_line\tcclineitems\t2\tgroup 77\t10.000000000000000\tdefault
dangling_line\tcclineitems\t2\torder 78\t10.000000000000000\tdefault
distributor\tcards\t306\tdistributor 3\t10.000000000000000\tundecided
doubled_currency\tcurrencies\t3\teur\t\tdefault
doubled_name\tcardgroups\t8\tTen\t\tdefault
doubled_name\ttariffs\t2\tRetail\t\tdefault
duplicate_callerid\tcards\t501\t37060000001\t10.000000000000000\tdefault
duplicate_callerid\tcards\t503\t37060000001\t10.000000000000000\tdefault
duplicate_number\tcards\t403\t1000000403\t10.000000000000000\tdefault
duplicate_pin\tcards\t406\t*\t10.000000000000000\tdefault
duplicate_pin\tcards\t407\t*\t10.000000000000000\tundecided
duplicate_pin\tcards\t408\t*\t10.000000000000000\tundecided
emptied\tcards\t212\t1000000212\t0.000000000000000\tdefault
hidden_below_0\tcards\t413\t-1\t10.000000000000000\tdefault
null_value\tusers\t*\t1 cells of the column username\t\tdefault
nul_byte\tusers\t10\ta\\\\0b\t\tdefault
number_other_owner\tcards\t401\t1000000401\t10.000000000000000\tdefault
number_other_owner\tcards\t402\t1000000401\t10.000000000000000\tdefault
orphan_card\tcards\t411\t99\t10.000000000000000\tdefault
orphan_card\tcards\t412\t99\t10.000000000000000\tdefault
skipped_hour\ttariffs\t*\t1 cells of the column last_update_date\t\tdefault
sold_above_1\tcards\t410\t2\t10.000000000000000\tdefault
unsellable\tcards\t301\t100000301\t10.000000000000000\tdefault
unsellable\tcards\t302\tno PIN\t10.000000000000000\tdefault
unsellable\tcards\t303\tno number\t10.000000000000000\tdefault
unsellable\tcards\t304\tPIN of 5 characters\t10.000000000000000\tdefault
unsellable\tcards\t305\tno PIN\t10.000000000000000\tdefault
used_unsold\tcards\t201\t1000000201\t10.000000000000000\tdefault
used_unsold\tcards\t202\t1000000202\t10.000000000000000\tdefault
used_unsold\tcards\t204\t1000000204\t10.000000000000000\tdefault
used_unsold\tcards\t205\t1000000205\t10.000000000000000\tdefault
used_unsold\tcards\t206\t1000000206\t4.200000000000000\tdefault
used_unsold\tcards\t207\t1000000207\t10.000000000000000\tdefault
used_unsold\tcards\t208\t1000000208\t10.000000000000000\tdefault
used_unsold\tcards\t209\t1000000209\t10.000000000000000\tdefault
used_unsold\tcards\t210\t1000000210\t10.000000000000000\tdefault
used_unsold\tcards\t211\t1000000211\t10.000000000000000\tdefault
used_unsold\tcards\t213\t1000000213\t0\tdefault
zero_date\tactions\t*\t2 cells of the column date\t\tdefault
zero_date\tcardgroups\t*\t1 cells of the column created_at\t\tdefault
zero_date\tcardgroups\t*\t2 cells of the column valid_from\t\tdefault
zero_date\tcardgroups\t*\t1 cells of the column valid_till\t\tdefault
zero_date\tcards\t*\t2 cells of the column first_use\t\tdefault
zero_date\tpayments\t*\t2 cells of the column date_added\t\tdefault
zero_date\tvouchers\t*\t1 cells of the column active_till\t\tdefault
zero_date\tvouchers\t*\t1 cells of the column use_date\t\tdefault";

/// The decisions that [`PLANTED`] needs.
const DECISIONS: &str = "\
# A comment.
bad_currency\tcurrencies\t*\t\t\tleave-out
duplicate_pin\tcards\t407\t\t10.000000000000000\tkeep
duplicate_pin\tcards\t408\t\t10.000000000000000\tquarantine
distributor\tcards\t306\t\t10.000000000000000\tstock
unsellable\tcards\t301\t\t10.000000000000000\tstock
";

#[tokio::test]
async fn each_kind_of_invalid_data_is_reported() {
    let import = Import::new(PLANTED).await;
    let findings: Vec<String> = import
        .findings()
        .iter()
        .map(|line| {
            let mut fields: Vec<&str> = line.split('\t').collect();
            if fields[0] == "duplicate_pin" {
                assert_eq!(fields[3].len(), 12, "{line}");
                fields[3] = "*";
            }
            fields.join("\t")
        })
        .collect();
    let expected: Vec<&str> = EXPECTED.lines().collect();
    let differences: Vec<String> = findings
        .iter()
        .filter(|line| !expected.contains(&line.as_str()))
        .map(|line| format!("+ {line}"))
        .chain(
            expected.iter().filter(|line| !findings.iter().any(|found| found == *line)).map(|line| format!("- {line}")),
        )
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(findings.len(), expected.len());
}

#[tokio::test]
async fn undecided_findings_stop_the_import() {
    let import = Import::new(PLANTED).await;
    let output = import.import(&[]);
    assert!(output.code == 1 && output.stdout.contains("3 findings need a decision"), "{output:?}");
    let server = import.server().await;
    server.assert_rows("select (select count(*) from users), (select count(*) from cards)", &["0|0"]).await;
}

#[tokio::test]
async fn invalid_data_is_imported_as_decided() {
    let import = Import::new(PLANTED).await;
    let decisions = import.file("decisions.tsv");
    std::fs::write(&decisions, DECISIONS).unwrap();
    let output = import.import_ok(&["--decisions", decisions.to_str().unwrap()]);
    assert!(output.stdout.contains("every row and every checksum agrees"), "{output:?}");
    let server = import.server().await;
    for (query, rows) in [
        // A card that was used or emptied is never in stock, nor one that cannot be sold.
        (
            "select string_agg(card_id::text, ' ' order by card_id) from card_stock",
            &["101 102 103 104 105 203 214 301 306 401 402 405"][..],
        ),
        (
            "select string_agg(id::text, ' ' order by id) from cards where quarantined_at is not null",
            &["201 202 204 205 206 207 208 209 210 211 213 403 406 408"],
        ),
        ("select string_agg(id::text, ' ' order by id) from cards where retired_at is not null", &["212"]),
        ("select string_agg(id::text, ' ' order by id) from cards where shares_number", &["402"]),
        (
            "select string_agg(id::text, ' ' order by id) from cards where withheld = 'reserved'",
            &["302 303 304 305 411"],
        ),
        ("select balance from cards where id in (206, 213) order by id", &["4.200000000000000", "∅"]),
        ("select id, sold, hidden from cards where id in (410, 413) order by id", &["410|1|0", "413|1|1"]),
        ("select id, callerid from cards where id > 500 order by id", &["501|∅", "502|37060000001", "503|∅"]),
        (
            "select g.name, g.owner_id, g.hidden, count(*) from cards join cardgroups g on g.id = cardgroup_id
             where cards.id in (411, 412) group by g.id",
            &["Imported orphans 3|3|1|2"],
        ),
        // The group of the orphans has the next id of MOR.
        ("select nextval('cardgroups_id_seq') > max(id) as next from cardgroups", &["true"]),
        ("select id, name from cardgroups where id < 10 order by id", &["7|Ten", "8|Ten (8)", "9|Free"]),
        (
            "select id, name, last_update_date from tariffs order by id",
            &["1|Retail|2014-03-30T01:30:00", "2|Retail (2)|2014-10-26T00:30:00", "3|Retail|∅"],
        ),
        ("select id, name from currencies order by id", &["1|USD", "2|EUR"]),
        (
            "select id, username, currency_id from users where id > 7 order by id",
            &["8|euro|2", "9||4", "10|a\u{fffd}b|1"],
        ),
        ("select cardgroup_id, ccorder_id, card_id from cclineitems order by id", &["7|1|208", "∅|∅|∅"]),
        ("select id, date_added from payments order by id", &["1|∅", "2|∅", "3|2014-02-27T22:00:00"]),
        (
            "select id, date from actions order by id",
            &["1|2014-06-01T09:00:00", "2|2014-06-01T09:00:00", "3|2014-06-01T09:00:00", "4|2014-06-02T09:00:00"],
        ),
        ("select valid_till, created_at from cardgroups where id = 8", &["∅|∅"]),
        ("select count(*) from card_stock_differences", &["0"]),
        (
            "select rule, id, \"column\", original, decision from import_findings
             where rule in ('nul_byte', 'orphan_card', 'emptied', 'bad_currency') order by rule, id limit 6",
            &[
                "bad_currency|4|∅|DOGECOIN|leave-out",
                "bad_currency|5|∅||leave-out",
                "bad_currency|6|∅|LONGER|leave-out",
                "emptied|212|∅|1000000212|retire",
                "nul_byte|10|username|a\\0b|replaced",
                "orphan_card|411|cardgroup_id|99|reserve",
            ],
        ),
    ] {
        server.assert_rows(query, rows).await;
    }
    server.close().await;
    let output = import.run(&["reconcile", &import.mor.url()]);
    assert_eq!(output.code, 0, "{output:?}");
}

/// Findings that the report only counts have one line for a column, with the id `*`.
#[tokio::test]
async fn counted_findings_are_decided_by_their_line() {
    let import = Import::new(PLANTED).await;
    let decisions = import.file("decisions.tsv");
    let lines =
        "zero_date\tcards\t*\t2 cells of the column first_use\t\tquarantine\nzero_date\tcards\t*\t\t\tdefault\n";
    std::fs::write(&decisions, format!("{DECISIONS}{lines}")).unwrap();
    import.import_ok(&["--decisions", decisions.to_str().unwrap()]);
    let server = import.server().await;
    server
        .assert_rows("select count(*) from cards where id in (202, 203) and quarantined_at is not null", &["2"])
        .await;
    server.assert_rows("select count(*) from card_stock where card_id = 203", &["0"]).await;
    server.close().await;

    std::fs::write(&decisions, format!("{DECISIONS}zero_date\tpayments\t*\t\t\tundecided\n")).unwrap();
    let other = Import::new(PLANTED).await;
    let output = other.import(&["--decisions", decisions.to_str().unwrap()]);
    assert!(output.code == 1 && output.stdout.contains("2 findings need a decision"), "{output:?}");
}

#[tokio::test]
async fn decisions_that_are_not_possible_are_refused() {
    let import = Import::new(PLANTED).await;
    for (line, expected) in [
        ("used_unsold\tcards\t201\t\t10.000000000000000\tstock", "does not accept the decision \"stock\""),
        ("used_unsold\tcards\t201\t\t10.000000000000000\tkeep", "does not accept the decision \"keep\""),
        ("emptied\tcards\t212\t\t0.000000000000000\treserve", "does not accept the decision \"reserve\""),
        ("dangling_line\tcclineitems\t2\t\t\tleave-out", "does not accept the decision"),
        ("distributor\tcards\t306\t\t9.000000000000000\tstock", "line 7: the amount is 10.000000000000000 now"),
        ("distributor\tcards\tx\t\t\tstock", "neither an id nor *"),
        ("distributor cards 306 stock", "expected six fields"),
        ("duplicate_pin\tcards\t408\t\t10.000000000000000\tkeep", "cannot both be kept: 407 and 408"),
    ] {
        let decisions = import.file("decisions.tsv");
        std::fs::write(&decisions, format!("{DECISIONS}{line}\n")).unwrap();
        let output = import.import(&["--decisions", decisions.to_str().unwrap()]);
        assert!(output.code == 1 && output.stderr.contains(expected), "{line}: {output:?}");
    }
    let server = import.server().await;
    server.assert_rows("select count(*) from cards", &["0"]).await;
}
