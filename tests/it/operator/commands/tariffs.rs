//! `mortise tariff`.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::{CommandOutput, Files};

const HEADER: &str = "prefix,rate,connection_fee,increment,min_time,effective_from\n";
/// The wholesale tariff 8 with two rates, and an empty retail tariff.
const TARIFFS_SQL: &str = "
    insert into tariffs (id, name, purpose, currency) values
        (7, 'Retail', 'user', 'EUR'), (8, 'Wholesale', 'user_wholesale', 'USD');
    insert into tariffs (id, name, purpose, owner_id) values (9, 'Empty', 'provider', 3);
    insert into destinations (id, prefix, name) values
        (1, '370', 'Lithuania'), (2, '3706', 'Lithuania Mobile'), (3, '49', 'Germany'), (4, '#93', 'Special');
    insert into rates (id, tariff_id, prefix, destination_id, effective_from) values
        (11, 8, '370', 1, null), (12, 8, '370', 1, '2026-11-01 08:00:00');
    insert into ratedetails (id, rate_id, rate, connection_fee, increment_s, min_time) values
        (21, 11, 0.015, 0, 1, 0), (22, 12, 0.0123456789, 0.1, 60, 30);
    select setval('destinations_id_seq', 100), setval('rates_id_seq', 100), setval('ratedetails_id_seq', 100)";
const EXPORTED: &str = "370,0.015,0.0,1,0,\n370,0.0123456789,0.1,60,30,2026-11-01 08:00:00\n";
const RATES: &str =
    "select r.prefix, destination_id, effective_from, rate, connection_fee, increment_s, min_time, daytype
    from rates r join ratedetails on rate_id = r.id where tariff_id = 8 order by r.prefix, effective_from nulls first";

async fn files() -> Files {
    Files::new(TARIFFS_SQL).await
}

/// Imports a file with the header and these lines into the tariff 8.
fn import(files: &Files, lines: impl AsRef<[u8]>, options: &[&str]) -> CommandOutput {
    import_file(files, [HEADER.as_bytes(), lines.as_ref()].concat(), options)
}

fn import_file(files: &Files, content: impl AsRef<[u8]>, options: &[&str]) -> CommandOutput {
    let path = files.write("import.csv", content);
    files.operator.run(&[&["tariff", "import", &path, "--tariff", "8"], options].concat())
}

fn export(files: &Files, name: &str) -> String {
    let path = files.path(name);
    files.operator.run_ok(&["tariff", "export", "8", path.to_str().unwrap()]);
    std::fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn tariffs_are_listed_with_the_number_of_rates() {
    let files = files().await;
    assert_eq!(
        files.operator.run_ok(&["tariff", "list"]),
        "ID  NAME       OWNER     PURPOSE         CURRENCY  RATES\n\
         7   Retail     admin     user            EUR       0\n\
         8   Wholesale  admin     user_wholesale  USD       2\n\
         9   Empty      reseller  provider                  0\n"
    );
    let json = files.operator.run_json(&["tariff", "list"]);
    let expected = json!({ "id": 8, "name": "Wholesale", "owner": "admin", "purpose": "user_wholesale",
        "currency": "USD", "rates": 2 });
    assert_eq!(json[1], expected);
}

#[tokio::test]
async fn exported_rates_are_imported_unchanged() {
    let files = files().await;
    let path = files.path("rates.csv");
    let path = path.to_str().unwrap();
    let output = files.operator.run_ok(&["tariff", "export", "8", path]);
    assert_eq!(output, format!("2 prices of the tariff 8 were written to {path}.\n"));
    assert_eq!(std::fs::read_to_string(path).unwrap(), format!("{HEADER}{EXPORTED}"));
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    files.operator.assert_error(&["tariff", "export", "8", path], 1, "File exists");
    let before = files.operator.server.rows(RATES).await;
    assert_eq!(
        files.operator.run_ok(&["tariff", "import", path, "--tariff", "8"]),
        "The rates of the tariff 8 were imported: added 0, changed 0, unchanged 2.\n"
    );
    assert_eq!(files.operator.server.rows(RATES).await, before);
    // Into another tariff it adds them.
    files.operator.run_ok(&["tariff", "import", path, "--tariff", "9"]);
    let copy = files.path("copy.csv");
    files.operator.run_ok(&["tariff", "export", "9", copy.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(copy).unwrap(), format!("{HEADER}{EXPORTED}"));
}

#[tokio::test]
async fn lines_add_rates_and_change_prices() {
    let files = files().await;
    let lines = "370,0.02,0,1,0,\n49, 0.0000000000000005 ,.5,6,3,2026-12-01\n3706,-1,0,1,0,\n#93,5,0,1,0,\n";
    let output = import(&files, lines, &["--dry-run", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let expected = json!({ "tariff": 8, "dry_run": true, "added": 3, "changed": 1, "unchanged": 0, "refused": [] });
    assert_eq!((output.code, json), (0, expected));
    assert_eq!(export(&files, "before.csv"), format!("{HEADER}{EXPORTED}"));
    files.operator.server.assert_rows("select count(*) from change_log", &["0"]).await;

    let output = import(&files, lines, &[]);
    let expected = "The rates of the tariff 8 were imported: added 3, changed 1, unchanged 0.\n";
    assert_eq!((output.code, output.stdout.as_str()), (0, expected));
    files
        .operator
        .server
        .assert_rows(
            RATES,
            &[
                "#93|4|∅|5.000000000000000|0.000000000000000|1|0|",
                "370|1|∅|0.020000000000000|0.000000000000000|1|0|",
                "370|1|2026-11-01T08:00:00|0.012345678900000|0.100000000000000|60|30|",
                "3706|2|∅|-1.000000000000000|0.000000000000000|1|0|",
                "49|3|2026-12-01T00:00:00|0.000000000000001|0.500000000000000|6|3|",
            ],
        )
        .await;
    let change = r#"tariff 8 Wholesale -> {"rates_added": 3, "rates_changed": 1}"#;
    files.operator.assert_changes(&[change]).await;
    // The second time nothing changes.
    let output = import(&files, lines, &[]);
    assert!(output.stdout.contains("added 0, changed 0, unchanged 4"), "{output:?}");
    files.operator.server.assert_rows("select count(*) from change_log", &["1"]).await;
}

#[tokio::test]
async fn every_refused_line_is_reported_and_nothing_is_written() {
    let files = files().await;
    let lines = b"49,0.1,0,1,0,\n\
        49,0.1,0,1,0\n\
        ,0.1,0,1,0,\n\
        49,\"0,1\",0,1,0,\n\
        49,1000000000000000,0,1,0,\n\
        49,0.1,-1,1,0,\n\
        49,0.1,0,0,0,\n\
        49,0.1,0,1,-1,\n\
        49,0.1,0,1,99999999999,\n\
        49,0.1,0,1,0,2026-02-29\n\
        49,0.1,0,1,0,2026-11-29T00:00:00\n\
        49,0.1,0,1,0,2026-11-29 24:00:00\n\
        4\xff9,0.1,0,1,0,\n\
        998,0.1,0,1,0,\n\
        49,0.2,0,1,0,\n\
        49,0.2,0,1,0,2028-02-29\n\
        49,0.3,0,1,0,2028-02-29 00:00:00\n\
        49,0.3\x0b,0,1,0,\n";
    let expected = "\
line 3: the line has 5 fields, not 6
line 4: prefix: missing
line 5: rate: \"0,1\" is no amount such as 0.015
line 6: rate: \"1000000000000000\" is no amount such as 0.015
line 7: connection_fee: \"-1\" is no amount of at least 0
line 8: increment: \"0\" is no number of seconds from 1
line 9: min_time: \"-1\" is no number of seconds from 0
line 10: min_time: \"99999999999\" is no number of seconds from 0
line 11: effective_from: \"2026-02-29\" is no date such as 2026-11-29 08:00:00
line 12: effective_from: \"2026-11-29T00:00:00\" is no date such as 2026-11-29 08:00:00
line 13: effective_from: \"2026-11-29 24:00:00\" is no date such as 2026-11-29 08:00:00
line 14: the line is not UTF-8
line 15: no destination has the prefix \"998\"
line 16: line 2 has the same prefix and effective_from
line 18: line 17 has the same prefix and effective_from
line 19: a field has a control character
Nothing was written: lines refused: 16. The others would have: added 2, changed 0, unchanged 0.
";
    for options in [&[][..], &["--dry-run"]] {
        let output = import(&files, lines, options);
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (1, expected, ""), "{options:?}");
    }
    assert_eq!(export(&files, "after.csv"), format!("{HEADER}{EXPORTED}"));
    files.operator.server.assert_rows("select count(*) from change_log", &["0"]).await;
}

#[tokio::test]
async fn other_files_and_tariffs_are_refused() {
    let files = files().await;
    for content in ["", "prefix;rate\n", "370,0.1,0,1,0,\n"] {
        let output = import_file(&files, content, &[]);
        let message = "the first line must be prefix,rate,connection_fee,increment,min_time,effective_from";
        assert!(output.code == 1 && output.stderr.contains(message), "{content}: {output:?}");
    }
    // Spreadsheets write a byte order mark and other line ends.
    let output = import_file(
        &files,
        "\u{feff}prefix,rate,connection_fee,increment,min_time,effective_from\r\n370,1,0,1,0,\r\n",
        &[],
    );
    assert!(output.stdout.contains("changed 1"), "{output:?}");
    let (missing, export) = (files.path("missing.csv"), files.path("export.csv"));
    let (missing, export) = (missing.to_str().unwrap(), export.to_str().unwrap());
    let operator = &files.operator;
    operator.assert_error(&["tariff", "import", missing, "--tariff", "8"], 1, "cannot read");
    let import = files.path("import.csv");
    let import = import.to_str().unwrap();
    operator.assert_error(&["tariff", "import", import, "--tariff", "99"], 3, "there is no tariff 99");
    operator.assert_error(&["tariff", "import", import, "--tariff", "7"], 1, "the tariff 7 is a retail tariff");
    operator.assert_error(&["tariff", "export", "99", export], 3, "there is no tariff 99");
    assert!(!files.path("export.csv").exists());
}

/// A line has one price for all times: the file must neither lose nor replace other prices.
#[tokio::test]
async fn prices_by_time_are_neither_lost_nor_replaced() {
    let files = files().await;
    let path = files.path("export.csv");
    for change in [
        "update ratedetails set daytype = 'WD' where id = 21",
        "update ratedetails set daytype = '', end_time = '17:59:59' where id = 21",
        "update ratedetails set end_time = '23:59:59' where id = 21; insert into ratedetails (rate_id) values (11)",
    ] {
        files.operator.server.execute(change).await;
        files.operator.assert_error(
            &["tariff", "export", "8", path.to_str().unwrap()],
            1,
            "a CSV file cannot hold 1 of the 2 rates of the tariff 8",
        );
        let output = import(&files, "370,1,0,1,0,\n", &[]);
        let reason = "line 2: the tariff has several prices for this prefix, by time of day or day of week\n";
        assert!(output.code == 1 && output.stdout.starts_with(reason), "{change}: {output:?}");
    }
    files
        .operator
        .server
        .assert_rows("select rate from ratedetails where rate_id = 11 and id = 21", &["0.015000000000000"])
        .await;
    // A rate without a price gets one.
    files.operator.server.execute("delete from ratedetails where rate_id = 11").await;
    let output = import(&files, "370,1,0,1,0,\n", &[]);
    assert!(output.stdout.contains("added 0, changed 1"), "{output:?}");
    assert!(export(&files, "complete.csv").contains("370,1.0,0.0,1,0,\n"));
    // A rate without a destination is not in the file.
    files.operator.server.execute("insert into rates (tariff_id, destination_id) values (8, 999)").await;
    let output = files.operator.run_ok(&["tariff", "export", "8", files.path("partly.csv").to_str().unwrap()]);
    assert!(output.ends_with("does not exist: 1.\n"), "{output}");
}

#[tokio::test]
async fn retail_prices_are_exported_in_order() {
    let files = files().await;
    let path = files.path("retail.csv");
    let export = ["tariff", "export", "7", path.to_str().unwrap()];
    let header = "destination_group,price,round_by,duration,type,start_time,end_time,day_type\n";
    files
        .operator
        .server
        .execute(
            "insert into destinationgroups (id, name) values (1, 'Lithuania, fixed'), (2, 'albania');
             insert into rates (id, tariff_id, destinationgroup_id) values (31, 7, 1), (32, 7, 2), (33, 7, 99);
             insert into aratedetails (id, rate_id, \"from\", duration, artype, round, price, start_time, end_time, daytype)
             values (41, 31, 61, -1, 'minute', 1, 0.02, '08:00:00', '17:59:59', 'WD'),
                 (42, 31, 1, 60, 'minute', 60, 0.025, '08:00:00', '17:59:59', 'WD'),
                 (43, 31, 1, -1, 'minute', 1, 0.01, '00:00:00', '24:00:00', 'FD'),
                 (44, 32, 1, 0, 'event', 1, 0.1, '00:00:00', '23:59:59', ''),
                 (45, 32, 1, -1, 'minute', 1, 5, '00:00:00', '23:59:59', null)",
        )
        .await;
    files.operator.run_ok(&export);
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        format!(
            "{header}albania,0.1,1,0,event,00:00:00,23:59:59,\n\
             albania,5.0,1,-1,minute,00:00:00,23:59:59,\n\
             \"Lithuania, fixed\",0.01,1,-1,minute,00:00:00,24:00:00,FD\n\
             \"Lithuania, fixed\",0.025,60,60,minute,08:00:00,17:59:59,WD\n\
             \"Lithuania, fixed\",0.02,1,-1,minute,08:00:00,17:59:59,WD\n"
        )
    );
    let note = "Rates left out because their destination or destination group does not exist: 1.\n";
    std::fs::remove_file(&path).unwrap();
    assert!(files.operator.run_ok(&export).ends_with(note));
    // What an import would read otherwise is not exported.
    for (change, restore) in [
        ("update aratedetails set \"from\" = 62 where id = 41", "update aratedetails set \"from\" = 61 where id = 41"),
        ("update rates set effective_from = '2026-01-01' where id = 32", "update rates set effective_from = null"),
        ("update aratedetails set round = null where id = 41", "update aratedetails set round = 1 where id = 41"),
        (
            "insert into destinationgroups (id, name) values (0, 'LITHUANIA, fixed ')",
            "delete from destinationgroups where id = 0",
        ),
    ] {
        std::fs::remove_file(&path).unwrap_or_default();
        files.operator.server.execute(change).await;
        files.operator.assert_error(&export, 1, " of the 5 prices of the tariff 7: a field is missing");
        files.operator.server.execute(restore).await;
    }
    files.operator.run_ok(&export);
}

#[tokio::test]
async fn large_file_is_imported_in_batches() {
    let files = files().await;
    files
        .operator
        .server
        .execute("insert into destinations (prefix, name) select 10000 + n, 'x' from generate_series(1, 2500) n")
        .await;
    let mut lines: String = (1..=2500).map(|n| format!("{},0.{n},0,1,0,\n", 10_000 + n)).collect();
    let output = import(&files, &lines, &[]);
    assert!(output.stdout.contains("added 2500, changed 0, unchanged 0"), "{output:?}");
    // A line in a later batch that repeats the first one.
    lines += "10001,7,0,1,0,\n10002,7,0,1,0,\n";
    let output = import(&files, &lines, &[]);
    assert!(output.stdout.starts_with("line 2502: line 2 has the same"), "{output:?}");
    assert!(output.stdout.contains("line 2503: line 3 has the same"), "{output:?}");
}
