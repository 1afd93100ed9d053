//! `mortise cards export`: the selection and the formats. `cards.rs` tests the files and the CSV of a group.

use super::Operator;

/// The numbers in a CSV export.
fn numbers(csv: &str) -> Vec<&str> {
    csv.lines().skip(1).map(|line| line.split(',').next().unwrap()).collect()
}

#[tokio::test]
async fn cards_are_selected_by_batch_and_numbers() {
    let operator = Operator::new().await;
    operator
        .server
        .execute(
            "update cards set batch_number = 'B1' where id in (2, 4, 5, 7, 12);
             insert into cards (cardgroup_id, pin, batch_number) values (6, '7777', 'B1');
             insert into cards (cardgroup_id, number, pin) values (6, '11111110015', '7778')",
        )
        .await;
    let batch = operator.run_ok(&["cards", "export", "--batch", "B1"]);
    assert_eq!(numbers(&batch), ["1111111000", "1111111001", "", "700001", "120001"]);
    operator
        .assert_changes(&[
            "card_group 6 ten dollars -> {\"free\": false, \"cards\": \"exported\", \"batch_number\": \"B1\"}",
            "card_group 7 euro group -> {\"free\": false, \"cards\": \"exported\", \"batch_number\": \"B1\"}",
            "card_group 12 the reseller's -> {\"free\": false, \"cards\": \"exported\", \"batch_number\": \"B1\"}",
        ])
        .await;
    let range = operator.run_ok(&["cards", "export", "--from", "1111111001", "--till", "1111111002"]);
    assert_eq!(numbers(&range), ["1111111001", "1111111002"]);
    let both = operator.run_ok(&["cards", "export", "--from", "1111111000", "--till", "1111111002", "--batch", "B1"]);
    assert_eq!(numbers(&both), ["1111111000", "1111111001"]);
    let free = operator.run_ok(&["cards", "export", "--batch", "B1", "--group", "6", "--free"]);
    assert_eq!(numbers(&free), ["1111111001"]);
    operator.assert_error(&["cards", "export", "--batch", "B2"], 3, "there is no card in batch B2");
    operator.assert_error(&["cards", "export", "--batch", "B1", "--group", "11"], 3, "there is no card in batch B1");
    operator.assert_error(&["cards", "export"], 2, "name a batch, a card group, or a range of numbers");
}

/// More cards than one page, with a selection that begins and ends within pages.
#[tokio::test]
async fn range_over_several_pages_is_complete() {
    let operator = Operator::new().await;
    operator.server.execute("update cardgroups set number_length = 6, pin_length = 8 where id = 11").await;
    operator.run_ok(&["cards", "generate", "--group", "11", "--quantity", "3500", "--from", "200000"]);
    let csv = operator.run_ok(&["cards", "export", "--from", "200500", "--till", "202999"]);
    let expected: Vec<String> = (200_500..203_000).map(|number| number.to_string()).collect();
    assert_eq!(numbers(&csv), expected);
}

/// A spreadsheet reads no cell as a formula; leading zeros stay.
#[tokio::test]
async fn formulas_are_quoted() {
    let operator = Operator::new().await;
    operator
        .server
        .execute(
            "update cards set name = '=1+1', language = '-2', batch_number = '@SUM(A1)', callerid = '+3706', serial = E'\\t0',
                 first_use = '2026-11-03', daily_charge_paid_till = '2026-11-04 05:06:07', balance = -1 where id = 6",
        )
        .await;
    let csv = operator.run_ok(&["cards", "export", "--from", "0000000042", "--till", "0000000042"]);
    let line = csv.lines().nth(1).unwrap();
    assert_eq!(
        line,
        "0000000042,0042,-1.0,0,'@SUM(A1),'-2,'=1+1,'+3706,6,'\t0,2026-11-03 00:00:00,2026-11-04 05:06:07"
    );
}

#[tokio::test]
async fn json_is_an_array() {
    let operator = Operator::new().await;
    let json = operator.run_ok(&["cards", "export", "--group", "7", "--format", "json"]);
    let cards: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&cards[0]["number"], &cards[0]["balance"]), (&"700001".into(), &"1.366026910730141".into()));
    let empty = operator.run_ok(&["cards", "export", "--group", "11", "--format", "json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&empty).unwrap(), serde_json::json!([]));
}

#[tokio::test]
async fn sheets_are_printed_by_a_template() {
    let operator = Operator::new().await;
    operator.server.execute("update cardgroups set name = '<b>ten' where id = 6").await;
    let html = operator.run_ok(&["cards", "export", "--group", "6", "--format", "html"]);
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>\n"), "{html}");
    assert_eq!((html.matches("<article").count(), html.matches("<section").count()), (5, 1), "{html}");
    assert!(html.contains("&lt;b&gt;ten") && html.contains("<dd class=\"pin\">0042</dd>"), "{html}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sheet.html");
    let with_template = |template: &str| {
        std::fs::write(&path, template).unwrap();
        operator.run(&["cards", "export", "--group", "6", "--format", "html", "--template", path.to_str().unwrap()])
    };
    let pages = with_template(
        "{% set cards_per_page = 2 %}page {{ page }}{% if is_first %} first{% endif %}{% if is_last %} last{% endif %}:\
         {% for card in cards %} {{ card.number }} {{ card.balance }}{% endfor %}\n",
    );
    assert_eq!(
        pages.stdout,
        "page 1 first: 0000000042 10.08 1111111000 10.08page 2: 1111111001 10.08 1111111002 10.08page 3 last: 1111111003 10.08",
        "{pages:?}"
    );
    let none = with_template("{% for card in cards %}{{ card.number }}{% endfor %}");
    assert!(none.code == 2 && none.stderr.contains("the template must set cards_per_page"), "{none:?}");
    let unknown = with_template("{% set cards_per_page = 2 %}{{ unknown }}");
    assert!(unknown.code == 2 && unknown.stderr.contains("the template is invalid"), "{unknown:?}");
    operator.assert_error(&["cards", "export", "--group", "6", "--template", "x"], 2, "--template needs --format html");
}
