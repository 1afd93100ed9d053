//! `mortise cards import`.

use std::fmt::Write;
use std::path::PathBuf;

use mortise::back_office::import::CardImport;
use mortise::store::change_log::Author;
use tempfile::TempDir;

use super::{CommandOutput, Operator, command, run_command};

/// A file to import into the group 6, whose numbers have 10 digits and whose PINs have 4.
struct CsvFile {
    _folder: TempDir,
    path: PathBuf,
}

impl CsvFile {
    fn new(content: impl AsRef<[u8]>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cards.csv");
        std::fs::write(&path, content).unwrap();
        Self { _folder: folder, path }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

impl Operator {
    fn import(&self, content: impl AsRef<[u8]>, options: &[&str]) -> CommandOutput {
        let file = CsvFile::new(content);
        self.run(&[&["cards", "import", file.path(), "--group", "6"], options].concat())
    }

    /// Asserts that the file is refused with these lines, and that nothing was written.
    #[track_caller]
    fn assert_refused(&self, content: impl AsRef<[u8]>, lines: &[&str]) {
        let output = self.import(content, &[]);
        let refused: Vec<&str> = output.stdout.lines().filter(|line| line.starts_with("line ")).collect();
        assert_eq!(refused, lines, "{output:?}");
        assert!(output.code == 1 && output.stdout.contains("Nothing was written."), "{output:?}");
    }
}

const NEW_CARDS: &str = "select number, pin, balance, batch_number, serial, language, name, owner_id, user_id, sold
    from cards where id > 100 order by id";

#[tokio::test]
async fn cards_of_a_file_are_created() {
    let operator = Operator::new().await;
    let content = "number,pin,balance,batch_number,serial,language,name\n\
                   0000000007,0007,8.40,B1,S-1,lt,\"Ann, a\"\n\
                   0000000008,0008,0,,,,\n";
    let dry = operator.import(content, &["--dry-run"]);
    assert_eq!(dry.stdout, "Nothing was written (--dry-run). The import would create 2 cards.\n", "{dry:?}");
    operator.server.assert_rows(NEW_CARDS, &[]).await;
    let output = operator.import(content, &[]);
    assert_eq!(output.stdout, "2 cards were created in group 6, from 0000000007 to 0000000008.\n", "{output:?}");
    operator
        .server
        .assert_rows(
            NEW_CARDS,
            &[
                "0000000007|0007|8.400000000000000|B1|S-1|lt|Ann, a|0|-1|0",
                "0000000008|0008|0.000000000000000||∅|en||0|-1|0",
            ],
        )
        .await;
    operator.server.assert_rows("select count(*) from card_stock where card_id > 100", &["2"]).await;
    operator.assert_changes(&["card 0000000007 - 0000000008 6 -> {\"cards_imported\": 2}"]).await;
    // Again: every line is refused.
    operator.assert_refused(
        content,
        &[
            "line 2: number: a card has it already",
            "line 2: pin: a card has it already",
            "line 3: number: a card has it already",
            "line 3: pin: a card has it already",
        ],
    );
    operator.server.assert_rows("select count(*) from cards where id > 100", &["2"]).await;
    operator.server.assert_rows("select count(*) from change_log", &["1"]).await;
}

/// A spreadsheet writes a byte order mark and CRLF, and quotes cells. Columns may have any order.
#[tokio::test]
async fn files_of_spreadsheets_are_read() {
    let operator = Operator::new().await;
    let output = operator.import("\u{feff}pin,balance,number\r\n\"0007\", 8.40 ,0000000007\r\n\r\n", &[]);
    assert_eq!(output.code, 0, "{output:?}");
    operator.server.assert_rows("select number, pin from cards where id > 100", &["0000000007|0007"]).await;
}

#[tokio::test]
async fn each_bad_line_is_named_with_its_reason() {
    let operator = Operator::new().await;
    operator.server.execute("update cards set pin = '9999', hidden = 1 where id = 3").await;
    let mut content = b"number,pin,balance,language\n\
        0000000007,0007,8.40,en\n\
        0000000007,0008,8.40,en\n\
        0000000009,0007,8.40,en\n\
        1111111001,0010,8.40,en\n\
        0000000011,9999,8.40,en\n\
        42,0012,8.40,en\n\
        1.23457E+9,0013,8.40,en\n\
        ,0014,8.40,en\n\
        0000000015,15,8.40,en\n\
        0000000016,abcd,8.40,en\n\
        0000000017,0017,\"8,40\",en\n\
        0000000018,0018,-1,en\n\
        0000000019,0019,,en\n\
        0000000020,0020,1e20,en\n\
        0000000021,0021,8.40\n\
        0000000022;0022;8.40;en\n\
        0000000023,0023,8.40,englishenglish\n\
        0000000024,0024,8.40,\"e\tn\"\n\
        0000000025,0025,8.40,"
        .to_vec();
    content.extend(b"\xff\n");
    operator.assert_refused(
        content,
        &[
            "line 3: number: line 2 has the same",
            "line 4: pin: line 2 has the same",
            "line 5: number: a card has it already",
            "line 6: pin: a card has it already",
            "line 7: number: 2 digits, but those of the card group have 10: \"42\"",
            "line 8: number: not only digits: \"1.23457E+9\"",
            "line 9: number: missing",
            "line 10: pin: 2 digits, but those of the card group have 4",
            "line 11: pin: not only digits",
            "line 12: balance: \"8,40\" is no amount of at least 0 with up to 15 decimals, such as 8.40",
            "line 13: balance: \"-1\" is no amount of at least 0 with up to 15 decimals, such as 8.40",
            "line 14: balance: \"\" is no amount of at least 0 with up to 15 decimals, such as 8.40",
            "line 15: balance: \"1e20\" is no amount of at least 0 with up to 15 decimals, such as 8.40",
            "line 16: the line has 3 fields, not 4",
            "line 17: the line has 1 fields, not 4",
            "line 18: language: more than 10 characters",
            "line 19: language: it has the invisible character U+0009 at position 2",
            "line 20: the line is not UTF-8",
        ],
    );
    operator.server.assert_rows("select count(*) from cards where id > 100", &["0"]).await;
    operator.server.assert_rows("select count(*) from change_log", &["0"]).await;
}

#[tokio::test]
async fn wrong_files_are_refused() {
    let operator = Operator::new().await;
    let utf16: Vec<u8> = "\u{feff}number,pin,balance\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (content, message) in [
        (b"".to_vec(), "the file is empty"),
        (utf16, "the file is not UTF-8"),
        (b"number;pin;balance\n".to_vec(), "the fields are separated by ';', not by commas"),
        (b"number\tpin\tbalance\n".to_vec(), "the fields are separated by '\\t', not by commas"),
        (b"number,pin\n".to_vec(), "the column balance is missing"),
        (b"number,pin,balance,price\n".to_vec(), "the column \"price\" is unknown"),
        (b"number,pin,balance,pin\n".to_vec(), "the column pin is there twice"),
        (b"0000000007,0007,8.40\n".to_vec(), "field 1 of the first line names no column: the first line must be"),
        (b"number,pin,balance\n\n".to_vec(), "the file has no line with a card"),
    ] {
        let output = operator.import(&content, &[]);
        assert!(output.code == 1 && output.stderr.contains(message), "{message}: {output:?}");
    }
    // The line with the quotation mark is named, not the last one; also without a line break at the end of the file.
    for (content, line) in [
        ("number,pin,balance,serial\n0000000007,0007,8.40,a\n\n0000000008,0008,8.40,\"b\n0000000009,0009,8.40,c\n", 4),
        ("number,pin,balance,serial\n0000000007,0007,8.40,\"a\n0000000008,0008,8.40,b", 2),
        ("number,pin,balance,serial\r\n0000000007,0007,8.40,\"a\r\n", 2),
    ] {
        let output = operator.import(content.as_bytes(), &[]);
        let expected = format!("line {line}: a quotation mark is not closed\n");
        assert!(output.code == 1 && output.stdout.starts_with(&expected), "{content:?}: {output:?}");
    }
    for closed in [
        "number,pin,balance,serial\n0000000007,0007,8.40,\"a\n\"\n0000000008,0008,8.40,b\n",
        "number,pin,balance,serial\n0000000008,0008,8.40,b\n0000000007,0007,8.40,\"a\n\"\n",
        "number,pin,balance,serial\n0000000008,0008,8.40,b\n0000000007,0007,8.40,\"a\n\"",
    ] {
        let output = operator.import(closed.as_bytes(), &["--dry-run"]);
        assert!(output.stdout.ends_with("The import would create 2 cards.\n"), "{closed:?}: {output:?}");
    }
    operator.assert_error(&["cards", "import", "/no/file", "--group", "6"], 1, "cannot read /no/file");
    let file = CsvFile::new("number,pin,balance\n");
    operator.assert_error(&["cards", "import", file.path(), "--group", "99"], 3, "there is no card group 99");
}

/// 2,000 of the 10,000 PINs of 4 digits may be in use; the fixture has 13.
#[tokio::test]
async fn a_fifth_of_the_pins_may_be_in_use() {
    let operator = Operator::new().await;
    let file = |count: usize| {
        let mut content = "number,pin,balance\n".to_owned();
        for i in 0..count {
            writeln!(content, "{:010},{:04},1", 5_000_000_000_u64 + i as u64, 2000 + i).unwrap();
        }
        content
    };
    let output = operator.import(file(1988), &[]);
    assert!(output.code == 1 && output.stdout.contains("more than a fifth of all PINs of 4 digits"), "{output:?}");
    operator.server.assert_rows("select count(*) from cards where id > 100", &["0"]).await;
    assert_eq!(operator.import(file(1987), &["--dry-run"]).code, 0);
}

/// The PIN of a line appears in no message.
#[tokio::test]
async fn messages_contain_no_pin() {
    let operator = Operator::new().await;
    let output = operator.import("number,pin,balance\n0000000007,98765,1\n0000000007,9876x,1\n1,1234,1\n", &["--json"]);
    for pin in ["98765", "9876x", "1234"] {
        assert!(!output.stdout.contains(pin) && !output.stderr.contains(pin), "{output:?}");
    }
    let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((&json["created"], &json["refused"][0]["line"]), (&0.into(), &2.into()));
}

/// The first thousand refused lines are named, the others are counted.
#[tokio::test]
async fn refused_lines_are_named_up_to_a_limit() {
    let operator = Operator::new().await;
    let mut content = "number,pin,balance\n".to_owned();
    for line in 0..1200 {
        writeln!(content, "0000000007,{line:04},1").unwrap();
    }
    for line in 0..100 {
        writeln!(content, "x,{line:04},1").unwrap();
    }
    let output = operator.import(&content, &[]);
    let lines: Vec<&str> = output.stdout.lines().collect();
    // 1,199 have the number of the first line; the PINs of 5 cards are in use, and 100 numbers are no digits.
    assert_eq!((lines.len(), output.code), (1002, 1), "{}", lines.len());
    assert_eq!(lines[0], "line 3: number: line 2 has the same");
    let json: serde_json::Value = serde_json::from_str(&operator.import(&content, &["--json"]).stdout).unwrap();
    let total = json["refused_count"].as_u64().unwrap();
    assert!(total > 1299 && json["refused"].as_array().unwrap().len() == 1000, "{total}");
    let numbers: Vec<i64> =
        json["refused"].as_array().unwrap().iter().map(|line| line["line"].as_i64().unwrap()).collect();
    assert!(numbers.is_sorted() && numbers[999] < 1002, "{numbers:?}");
    assert_eq!(lines[1000], format!("… and {} more", total - 1000));
    assert_eq!(lines[1001], format!("Nothing was written. Lines: 1300, reasons to refuse: {total}."));
    operator.server.assert_rows("select count(*) from cards where id > 100", &["0"]).await;
}

/// A quotation mark that is missing makes the rest of the file one line. It must not fill the memory.
#[tokio::test]
async fn a_line_without_an_end_is_refused() {
    let operator = Operator::new().await;
    for content in ["x".repeat(200_000), format!("number,pin,balance\n0000000007,0007,1\n\"{}", "1,\n".repeat(100_000))]
    {
        let output = operator.import(&content, &[]);
        assert!(output.stderr.contains("has more than 65536 bytes without an end"), "{output:?}");
        assert_eq!(output.code, 1);
    }
    operator.server.assert_rows("select count(*) from cards where id > 100", &["0"]).await;
    // Many short lines are no long line.
    let mut content = "number,pin,balance\n".to_owned();
    for card in 0..1900 {
        writeln!(
            content,
            "{:010},{:04},1.000000000000000000000000000000000000000000",
            5_000_000_000_u64 + card,
            2000 + card
        )
        .unwrap();
    }
    assert_eq!(operator.import(&content, &["--dry-run"]).code, 0);
}

/// A killed import leaves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn import_is_all_or_nothing() {
    let operator = Operator::new().await;
    let file = CsvFile::new("number,pin,balance\n0000000007,0007,1\n");
    let mut lock = operator.server.pool.begin().await.unwrap();
    sqlx::query("lock table change_log in exclusive mode").execute(&mut *lock).await.unwrap();
    let mut import = command(&["cards", "import", file.path(), "--group", "6"]);
    let mut child = import.env("DATABASE_URL", &operator.url).spawn().unwrap();
    operator.server.wait_for_lock_waiter().await;
    child.kill().unwrap();
    child.wait().unwrap();
    lock.rollback().await.unwrap();
    let sessions = "select pid from pg_stat_activity where datname = current_database() and state like '%transaction%'";
    operator.server.wait_for_rows(sessions, <[String]>::is_empty).await;
    operator.server.assert_rows("select count(*) from cards where id > 100", &["0"]).await;
    let mut import = command(&["cards", "import", file.path(), "--group", "6"]);
    import.env("DATABASE_URL", &operator.url);
    assert_eq!(run_command(import, "").code, 0);
}

/// The files of Windows and of old Macs have other line breaks. Blank lines count.
#[tokio::test]
async fn line_numbers_are_right_for_all_line_breaks() {
    let operator = Operator::new().await;
    for line_break in ["\n", "\r\n", "\r"] {
        let lines =
            ["number,pin,balance", "0000000007,0007,1", "", "", "0000000008,x,1", "\"00\n1\",0009,1", "42,0010,1"];
        operator.assert_refused(
            lines.join(line_break),
            &[
                "line 5: pin: not only digits",
                "line 6: number: not only digits: \"00\\n1\"",
                "line 8: number: 2 digits, but those of the card group have 10: \"42\"",
            ],
        );
    }
}

/// Each number and PIN is looked up by its index, also before the cards are analyzed.
#[tokio::test]
async fn cards_are_looked_up_by_indexes() {
    let Operator { server, .. } = Operator::new().await;
    server
        .execute(
            "alter table cards set (autovacuum_enabled = off);
             insert into cardgroups (id, name, number_length, pin_length) values (400, 'twelve', 12, 12);
             insert into cards (cardgroup_id, number, pin)
             select 400, (100000000000 + i)::text, (200000000000 + i)::text from generate_series(1, 20000) i",
        )
        .await;
    let mut file = "number,pin,balance\n".to_owned();
    for line in 1..=50 {
        writeln!(file, "{},{},1", 300_000_000_000_u64 + line, 400_000_000_000_u64 + line).unwrap();
    }
    let import = CardImport {
        source: file.as_bytes(),
        group: 400,
        is_dry_run: true,
        batch_number: String::new(),
        lines_max: None,
        hides_used: false,
    };
    let mut transaction = server.pool.begin().await.unwrap();
    let author = Author::Command { operator: "ann".to_owned() };
    assert!(import.run(&mut transaction, &author, |_| {}).await.unwrap().is_accepted());
    let read = "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'cards'";
    let rows: i64 = sqlx::query_scalar(read).fetch_one(&mut *transaction).await.unwrap();
    assert!(rows < 100, "{rows} cards were read");
}
