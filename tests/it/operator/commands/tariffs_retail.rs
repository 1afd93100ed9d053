//! `mortise tariff import` and `export` for retail prices and for XML.

use std::process::Stdio;

use serde_json::json;

use super::{CommandOutput, Files, command};
use crate::harness::hash;

const HEADER: &str = "destination_group,price,round_by,duration,type,start_time,end_time,day_type\n";
const TARIFFS_SQL: &str = "
    insert into tariffs (id, name, purpose, currency) values
        (7, 'Retail', 'user', 'EUR'), (8, 'Wholesale', 'user_wholesale', 'USD');
    insert into tariffs (id, name, purpose, owner_id) values (9, 'Of the reseller', 'user', 3);
    insert into destinationgroups (id, name) values (1, 'Lithuania - Fixed'), (2, 'Albania, mobile'), (3, 'Latvia'), (4, 'Estonia');
    select setval('tariffs_id_seq', 100), setval('destinationgroups_id_seq', 100)";
const PRICES: &str = "select tariff_id, g.name, a.\"from\", duration, artype, round, price, start_time, end_time, daytype
    from aratedetails a join rates r on r.id = rate_id join destinationgroups g on g.id = destinationgroup_id order by a.id";

async fn files() -> Files {
    Files::new(TARIFFS_SQL).await
}

fn import(files: &Files, content: impl AsRef<[u8]>, options: &[&str]) -> CommandOutput {
    let path = files.write("import", content);
    files.operator.run(&[&["tariff", "import", &path], options].concat())
}

/// Imports a CSV file with the header and these lines into the tariff 7.
fn import_csv(files: &Files, lines: &str, options: &[&str]) -> CommandOutput {
    import(files, format!("{HEADER}{lines}"), &[&["--tariff", "7"], options].concat())
}

async fn assert_nothing_written(files: &Files) {
    for (table, rows) in [("rates", "0"), ("aratedetails", "0"), ("change_log", "0"), ("tariffs", "3")] {
        files.operator.server.assert_rows(&format!("select count(*) from {table}"), &[rows]).await;
    }
}

#[track_caller]
fn assert_output(output: &CommandOutput, code: i32, expected: &str) {
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (code, expected, ""));
}

/// A rate as XML, on a line of its own.
fn rate(price: &str, duration: &str, day_type: &str) -> String {
    format!(
        "<rates><rate_price>{price}</rate_price><rate_round_by>1</rate_round_by>\
         <rate_duration>{duration}</rate_duration><rate_type>minute</rate_type>\
         <rate_start_time>00:00:00</rate_start_time><rate_end_time>23:59:59</rate_end_time>\
         <day_type>{day_type}</day_type></rates>\n"
    )
}

fn document(id: i32, name: &str, group: &str, rates: &[String]) -> String {
    format!(
        "<?xml version=\"1.0\"?>\n<tariff><id>{id}</id><name>{name}</name><destinations>\n<destination>\n\
         <destination_group_name>{group}</destination_group_name>\n{}</destination></destinations></tariff>\n",
        rates.concat()
    )
}

const LINES: &str = "\
albania, mobile,0.1,1,0,event,00:00:00,23:59:59,
Lithuania - Fixed,0.000000000000001,1,-1,minute,00:00:00,24:00:00,FD
Lithuania - Fixed,-0.025,60,60,minute,08:00:00,17:59:59,WD
Lithuania - Fixed,999999999999999.999999999999999,1,-1,minute,08:00:00,17:59:59,WD
";

#[tokio::test]
async fn csv_prices_are_imported_and_exported_unchanged() {
    let files = files().await;
    let lines = LINES.replace("albania, mobile", "\"albania, mobile\"");
    let output = import_csv(&files, &lines, &["--dry-run"]);
    assert_output(&output, 0, "Nothing was written (--dry-run). The import would have: added 4.\n");
    assert_nothing_written(&files).await;
    let output = import_csv(&files, &lines, &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let expected = json!({ "tariff": 7, "tariff_name": "Retail", "dry_run": false, "added": 4, "refused": [] });
    assert_eq!((output.code, json), (0, expected));
    files
        .operator
        .server
        .assert_rows(
            PRICES,
            &[
                "7|Albania, mobile|1|0|event|1|0.100000000000000|00:00:00|23:59:59|",
                "7|Lithuania - Fixed|1|-1|minute|1|0.000000000000001|00:00:00|24:00:00|FD",
                "7|Lithuania - Fixed|1|60|minute|60|-0.025000000000000|08:00:00|17:59:59|WD",
                "7|Lithuania - Fixed|61|-1|minute|1|999999999999999.999999999999999|08:00:00|17:59:59|WD",
            ],
        )
        .await;
    files.operator.server.assert_rows("select count(*) from rates", &["2"]).await;
    let counts = "{\"rates\": 4, \"bad_rates\": 0, \"destinations\": 2, \"rates_written\": 4, \
                  \"day_type_collisions\": 0, \"collisions_with_rows\": 0, \"unknown_destinations\": 0, \
                  \"collisions_in_document\": 0}";
    files.operator.assert_changes(&[&format!("tariff 7 Retail -> {counts}")]).await;
    // The digits are exact.
    let path = files.path("export.csv");
    files.operator.run_ok(&["tariff", "export", "7", path.to_str().unwrap()]);
    let exported = std::fs::read_to_string(path).unwrap();
    assert_eq!(exported, format!("{HEADER}{}", lines.replace("albania", "Albania")));
    // Into another tariff, of a reseller.
    let output = import(&files, exported, &["--tariff", "9"]);
    assert_output(&output, 0, "The prices of the tariff 9 (Of the reseller) were imported: added 4.\n");
}

#[tokio::test]
async fn every_refused_line_is_reported_and_nothing_is_written() {
    let files = files().await;
    let content = [
        HEADER.as_bytes(),
        b"Latvia,1,1,-1,minute,00:00:00,23:59:59,\n\
        Latvia,1,1,-1,minute,00:00:00,23:59:59\n\
        ,1,1,-1,minute,00:00:00,23:59:59,\n\
        Lat\xffvia,1,1,-1,minute,00:00:00,23:59:59,\n\
        unknown,1,1,60,minute,00:00:00,23:59:59,\n\
        unknown,1,1,-1,minute,00:00:00,23:59:59,\n\
        Lithuania - Fixed,\"0,1\",1,-1,minute,00:00:00,23:59:59,\n\
        Lithuania - Fixed,1,x,-1,minute,00:00:00,23:59:59,\n\
        Lithuania - Fixed,1,60,59,minute,00:00:00,23:59:59,\n\
        Lithuania - Fixed,1,1,-1,minutes,00:00:00,23:59:59,\n\
        Lithuania - Fixed,1,1,-1,minute,8:00:00,23:59:59,\n\
        Estonia,1,1,-1,minute,00:00:00,24:00:01,\n\
        Lithuania - Fixed,1,1,-1,minute,00:00:00,23:59:59,YY\n\
        Lithuania - Fixed,1,1,60,minute,00:00:00,23:59:59,\n\
        \"Albania, mobile\",1,1,-1,minute,00:00:00,23:59:59,\n\
        \"Albania, mobile\",1,1,-1,minute,00:00:00,23:59:59,\n\
        \"Albania, mobile\",1,1,-1,minute,00:00:00,23:59:59,WD\n\
        Latvia,1,1,-1,minute,08:00:00,12:00:00,\n\
        \"Albania, mobile\",1,1,-1,minute,08:00:00,12:00:00,\n\
        \"Albania, mobile\",1,1,-1,minute,12:00:00,13:00:00,\n\
        \"Lat\nvia\",1,1,-1,minute,00:00:00,23:59:59,\n\
        \"Latvia\t\",1,1,-1,minute,00:00:00,23:59:59,\n",
    ]
    .concat();
    let expected = "\
line 3: the line has 7 fields, not 8
line 4: destination_group: missing
line 5: the line is not UTF-8
line 6: no destination group has the name \"unknown\"
line 7: no destination group has the name \"unknown\"
line 8: price: \"0,1\" is no price such as 0.02
line 9: round_by: \"x\" is no number of seconds, of 1 to 9 digits
line 10: duration: \"59\" is no duration: seconds, at least the rounding; -1: without an end
line 11: type: \"minutes\" is neither minute nor event
line 12: start_time: \"8:00:00\" is no time such as 08:00:00
line 13: end_time: \"24:00:01\" is no time from the start time to 24:00:00
line 14: day_type: \"YY\" is neither WD nor FD nor empty
line 15: it follows a price with an invalid duration, for the same days and times
line 17: it follows a price without an end, for the same days and times
line 18: day_type: a group has prices for every day, or for working days and free days, not both
line 19: the time overlaps another price of the tariff, between 00:00:00 and 23:59:59
line 20: the time overlaps another price of the file, between 08:00:00 and 13:00:00
line 21: the time overlaps another price of the file, between 08:00:00 and 13:00:00
line 22: a field has a control character
line 24: a field has a control character
Nothing was written: lines refused: 20. The others would have: added 2.
";
    for options in [&["--tariff", "7"][..], &["--tariff", "7", "--dry-run"]] {
        assert_output(&import(&files, &content, options), 1, expected);
    }
    assert_nothing_written(&files).await;
}

#[tokio::test]
async fn xml_documents_are_imported_as_by_the_api() {
    let files = files().await;
    let new = document(0, "New", "latvia", &[rate("0.5", "60", ""), rate("0.4", "-1", "")]);
    let output = import(&files, &new, &["--dry-run"]);
    assert_output(&output, 0, "Nothing was written (--dry-run). The import would have: added 2.\n");
    assert_nothing_written(&files).await;
    let output = import(&files, format!("\u{feff}\n {}", new.replace("<?xml version=\"1.0\"?>\n", "")), &[]);
    assert!(output.code == 0 && output.stdout.contains(" (New) were imported: added 2.\n"), "{output:?}");
    let tariffs = "select name, purpose, owner_id, currency from tariffs where id > 100";
    files.operator.server.assert_rows(tariffs, &["New|user|0|USD"]).await;
    // Into an existing tariff of any owner.
    let output = import(&files, document(9, "Of the reseller", "Latvia", &[rate("0.5", "-1", "")]), &[]);
    assert_output(&output, 0, "The prices of the tariff 9 (Of the reseller) were imported: added 1.\n");
    let wrong =
        document(9, "Of the reseller", "Latvia", &[rate("1", "-1", ""), rate("x", "-1", ""), rate("1", "-1", "WD")]);
    let before = files.operator.server.rows(PRICES).await;
    assert_output(
        &import(&files, &wrong, &[]),
        1,
        "line 5: it follows a price without an end, for the same days and times\n\
         line 6: rate_price: \"x\" is no price such as 0.02\n\
         line 7: day_type: a group has prices for every day, or for working days and free days, not both\n\
         Nothing was written: lines refused: 3. The others would have: added 0.\n",
    );
    let output = import(&files, document(9, "Of the reseller", "no", &[rate("1", "-1", "")]), &[]);
    assert!(output.stdout.starts_with("line 3: no destination group has the name \"no\"\n"), "{output:?}");
    assert_eq!(files.operator.server.rows(PRICES).await, before);
}

#[tokio::test]
async fn other_files_and_tariffs_are_refused() {
    let files = files().await;
    for (content, options, code, message) in [
        (HEADER.to_owned(), &[][..], 2, "a CSV file needs the option --tariff"),
        (HEADER.to_owned(), &["--tariff", "8"], 1, "the tariff 8 is no retail tariff"),
        (HEADER.to_owned(), &["--tariff", "99"], 3, "there is no tariff 99"),
        (HEADER.replace(',', ";"), &["--tariff", "7"], 1, "the first line must be prefix,rate,"),
        ("<tariff>".to_owned(), &[], 1, "line 1, column 9: the XML document is malformed"),
        ("<tariff>\n <id>7</name>".to_owned(), &[], 1, "line 2, column 7: the XML document is malformed"),
        ("<tariff><name>a</name></tariff>".to_owned(), &[], 1, "No tariff id"),
        (document(8, "Wholesale", "Latvia", &[]), &[], 1, "Tariff is not a retail tariff"),
        (document(7, "retail", "Latvia", &[]), &[], 1, "TARIFF NAME WITH THIS ID DO NOT MATCH !!!FOUND Retail"),
        (document(0, "Retail", "Latvia", &[]), &[], 1, "TARIFF with same name exists, ID:7!!! CHANGE NAME OR ID"),
        (document(7, "Retail", "Latvia", &[]), &["--tariff", "7"], 2, "an XML document names its tariff itself"),
    ] {
        let output = import(&files, &content, options);
        assert!(output.code == code && output.stderr.contains(message), "{content}: {output:?}");
    }
    assert_nothing_written(&files).await;
}

#[tokio::test]
async fn exported_xml_is_the_reply_of_the_api() {
    let files = files().await;
    let lines = LINES.replace("albania, mobile", "\"albania, mobile\"");
    import_csv(&files, &lines, &[]);
    files
        .operator
        .server
        .execute(
            "insert into destinations (id, prefix, name) values (1, '370', 'Lithuania & <others>');
             insert into rates (tariff_id, destination_id) values (8, 1);
             insert into ratedetails (rate_id, rate, increment_s, min_time) select max(id), 0.015, 1, 0 from rates",
        )
        .await;
    for (tariff, prices) in [("7", 4), ("8", 1)] {
        let path = files.path(&format!("{tariff}.xml"));
        let path = path.to_str().unwrap();
        let output = files.operator.run_ok(&["tariff", "export", tariff, path, "--format", "xml"]);
        assert_eq!(output, format!("{prices} prices of the tariff {tariff} were written to {path}.\n"));
        let form = format!("u=admin&test=1&tariff_id={tariff}");
        let reply = files.operator.server.post_signed("tariff_rates_get", &form, tariff).await;
        assert_eq!(std::fs::read_to_string(path).unwrap(), reply.body);
    }
    let path = files.path("missing.xml");
    let export = ["tariff", "export", "99", path.to_str().unwrap(), "--format", "xml"];
    files.operator.assert_error(&export, 3, "there is no tariff 99");
    assert!(!path.exists());
}

/// Several batches, and lines of a group that do not follow each other.
#[tokio::test]
async fn large_file_is_imported_in_batches() {
    let files = files().await;
    files
        .operator
        .server
        .execute("insert into destinationgroups (name) select 'group ' || n from generate_series(1, 2500) n")
        .await;
    let line = |group: usize, duration: &str| format!("group {group},0.1,1,{duration},minute,00:00:00,23:59:59,\n");
    let first: String = (1..=2500).map(|group| line(group, "60")).collect();
    let second: String = (1..=2500).map(|group| line(group, "-1")).collect();
    let output = import_csv(&files, &format!("{first}{second}"), &[]);
    assert_output(&output, 0, "The prices of the tariff 7 (Retail) were imported: added 5000.\n");
    let rows = "select \"from\", count(*), count(distinct rate_id) from aratedetails group by 1 order by 1";
    files.operator.server.assert_rows(rows, &["1|2500|2500", "61|2500|2500"]).await;
}

/// A command that is killed leaves nothing. Imports into one tariff run one after the other, also beside the API.
#[tokio::test(flavor = "multi_thread")]
async fn killed_and_concurrent_imports() {
    let files = files().await;
    let server = &files.operator.server;
    let path = files.path("prices.csv");
    std::fs::write(&path, format!("{HEADER}Latvia,1,1,60,minute,00:00:00,23:59:59,\n")).unwrap();
    let start = || {
        let mut command = command(&["tariff", "import", path.to_str().unwrap(), "--tariff", "7"]);
        command.env("DATABASE_URL", &files.operator.url).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    // It has written all prices, and waits to write the change log.
    let mut lock = server.pool.begin().await.unwrap();
    sqlx::query("lock table change_log in share mode").execute(&mut *lock).await.unwrap();
    let mut killed = start();
    server.wait_for_lock_waiter().await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    lock.commit().await.unwrap();
    assert_nothing_written(&files).await;

    let mut lock = server.pool.begin().await.unwrap();
    sqlx::query("select from tariffs where id = 7 for update").execute(&mut *lock).await.unwrap();
    let mut children = [start(), start()];
    let xml = document(7, "Retail", "Latvia", &[rate("1", "60", "")]).replace('"', "'");
    let form = format!("u=admin&hash={}&xml={xml}", hash("", "secret"));
    let request = tokio::spawn({
        let server = server.clone();
        async move { server.post("tariff_retail_import", &form).await }
    });
    server.wait_for_lock_waiter().await;
    lock.commit().await.unwrap();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    assert!(request.await.unwrap().body.contains("<tariff_id>7</tariff_id>"));
    server.assert_rows("select \"from\" from aratedetails order by id", &["1", "61", "121"]).await;
    server.assert_rows("select count(*) from rates", &["1"]).await;
}
