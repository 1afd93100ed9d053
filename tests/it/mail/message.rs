//! Contents and sender of mails.

use std::path::Path;

use mortise::config::{Config, Override};
use mortise::mail::Mailer;

use super::{SELL, Shop, settings_sql};
use crate::harness::hash;
use crate::harness::smtp::MailServer;

#[tokio::test]
async fn mail_lists_every_card_in_text_and_html() {
    let shop = Shop::open().await;
    let reply = shop.server.post_signed(SELL, "u=admin&id=6&quantity=2&email=b%40x.test&curr=EUR", "b@x.test62").await;
    assert_eq!(reply.element_texts("balance_without_vat"), ["7.50352941176472214", "7.50352941176472214"]);
    let mail = shop.mail.wait_for_mails(1).await.remove(0);
    assert_eq!((mail.from.as_str(), mail.to.as_str()), ("shop@example.com", "b@x.test"));
    assert_eq!(mail.header("From").unwrap(), "\"Card Shop\" <shop@example.com>");
    assert_eq!(mail.header("To").unwrap(), "b@x.test");
    assert_eq!(mail.header("Subject").unwrap(), "Your calling cards");
    assert_eq!(mail.header("Auto-Submitted").unwrap(), "auto-generated");
    let row =
        "select '<' || message_id || '>', to_char(created_at, 'Dy, DD Mon YYYY HH24:MI:SS +0000') from email_outbox";
    shop.server
        .assert_rows(row, &[&format!("{}|{}", mail.header("Message-ID").unwrap(), mail.header("Date").unwrap())])
        .await;
    let content_type = mail.header("Content-Type").unwrap();
    assert!(content_type.starts_with("multipart/alternative; boundary="), "{content_type}");
    let text = "Thank you for your purchase.\n\nten dollars\n  Number:  0000000042\n  PIN:     0042\n  Balance: 7.50 EUR\n\n\
                ten dollars\n  Number:  1111111001\n  PIN:     1001\n  Balance: 7.50 EUR\n\n\
                Anyone who has a PIN can use its card. Keep this message private.";
    assert!(mail.message.contains(text), "{}", mail.message);
    let html = "<tr><td>ten dollars</td><td>0000000042</td><td><b>0042</b></td><td align=\"right\">7.50 EUR</td></tr>";
    assert!(mail.message.replace("=\n", "").replace("=3D", "=").contains(html), "{}", mail.message);
    shop.wait_until_done().await;
    shop.server
        .assert_rows(
            "select owner_id, user_id, address, card_ids, currency, attempts, sent_at is not null, last_error from email_outbox",
            &["0|0|b@x.test|[6,2]|EUR|1|true|∅"],
        )
        .await;
    shop.server.assert_rows("select * from actions where action = 'error'", &[]).await;
}

#[tokio::test]
async fn outbox_contains_no_pins() {
    let shop = Shop::open().await;
    shop.server.execute("update cards set pin = 'x9137y' where id = 6").await;
    assert!(shop.mail_to("b@x.test").await.message.contains("x9137y"));
    let rows = shop.server.rows("select * from email_outbox").await.join("\n");
    assert!(!rows.contains("x9137y") && rows.contains("b@x.test"), "{rows}");
}

#[tokio::test]
async fn no_mail_without_address_or_with_sending_disabled() {
    let shop = Shop::open().await;
    shop.sell_to("").await;
    shop.sell_to("  ").await;
    shop.server.execute("update conflines set value = '0' where name = 'Email_Sending_Enabled'").await;
    assert_eq!(shop.sell_to("b@x.test").await.element_texts("pin").len(), 1);
    shop.server.assert_rows("select count(*) from email_outbox", &["0"]).await;
    shop.server.assert_rows("select email from ccorders", &["b@x.test"]).await;
    shop.server.assert_rows("select * from actions where action = 'error'", &[]).await;
}

#[tokio::test]
async fn reseller_settings_override_the_admins() {
    let shop = Shop::open().await;
    let own = MailServer::start().await;
    let sell = async || {
        let form = format!("u=reseller&id=12&email=b%40x.test&hash={}", hash("b@x.test12", "reskey"));
        assert_eq!(shop.server.post(SELL, &form).await.element_texts("pin").len(), 1);
    };
    shop.server
        .execute("insert into cards (cardgroup_id, number, pin, balance) values (12, '120003', '1203', 1)")
        .await;
    sell().await;
    assert_eq!(shop.mail.wait_for_mails(1).await[0].from, "shop@example.com");
    shop.server
        .execute("insert into conflines (owner_id, name, value) values (3, 'Company_Email', 'res@eller.test')")
        .await;
    sell().await;
    assert_eq!(shop.mail.wait_for_mails(2).await[1].from, "res@eller.test");
    // The admin's login isn't used for the reseller's server.
    shop.server
        .execute("insert into conflines (name, value) values ('Email_Login', 'admin'), ('Email_Password', 'pass')")
        .await;
    shop.server.execute(&settings_sql(3, own.address.port(), "cards@eller.test")).await;
    sell().await;
    assert_eq!(own.wait_for_mails(1).await[0].from, "cards@eller.test");
    assert_eq!(shop.mail.received_mails().len(), 2);
    shop.server.assert_rows("select owner_id from email_outbox", &["3", "3", "3"]).await;
}

#[tokio::test]
async fn names_and_addresses_inject_neither_html_nor_headers() {
    let shop = Shop::open().await;
    let name = "<b>x</b> & \"y\"\r\nBcc: spy@x.test\r\n.\r\nRCPT TO:<spy@x.test>";
    shop.server
        .execute(&format!("update cardgroups set name = e'{}' where id = 6", name.replace("\r\n", "\\r\\n")))
        .await;
    let directory = templates(&[("cards_sold.subject", "Cards of {{ cards[0].group }} ü")]);
    let settings = [("mail_templates", directory.path().to_str().unwrap()), ("mail_tls", "off")];
    let server = crate::harness::server_on_database(&shop.database, &settings).await;
    // The shop's own server may also send the mail, with the built-in templates.
    assert_eq!(super::sell(&server, 6, "b@x.test").await.element_texts("pin").len(), 1);
    let mail = shop.mail.wait_for_mails(1).await.remove(0);
    assert_eq!(mail.to, "b@x.test");
    assert_eq!(mail.header("Bcc"), None, "{}", mail.message);
    let html = mail.message.split("text/html").nth(1).unwrap().replace("=\n", "").replace("=3D", "=");
    assert!(html.contains("&lt;b&gt;x&lt;&#x2f;b&gt; &amp; &quot;y&quot;"), "{html}");
    for address in
        ["b@x.test\r\nBcc: spy@x.test", "b@x.test,c@x.test", "b@x.test c@x.test", "<b@x.test>", "\"a\rb\"@x.test"]
    {
        assert_eq!(super::sell(&server, 7, address).await.element_texts("pin").len(), 1, "{address}");
        shop.server
            .execute("insert into cards (cardgroup_id, number, pin) select 7, max(id)::text, max(id)::text from cards")
            .await;
    }
    shop.server.assert_rows("select count(*), count(failed_at) from email_outbox where id > 1", &["5|5"]).await;
    assert_eq!(shop.mail.wait_for_mails(1).await.len(), 1);
}

fn templates(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

#[tokio::test]
async fn operator_templates_replace_the_built_in_ones() {
    let directory = templates(&[
        ("cards_sold.subject", "{{ cards|length }} for {{ address }},\n {{ cards[0].group }}\n"),
        (
            "cards_sold.txt",
            "{% for card in cards %}{{ card.pin }} {{ card.exact_balance }} {{ currency }} żółw{% endfor %}",
        ),
        ("cards_sold.html", "\n"),
    ]);
    let shop = Shop::open_with(&[("mail_templates", directory.path().to_str().unwrap())]).await;
    shop.server.execute("update cardgroups set name = e'a\\r\\nBcc: spy@x.test' where id = 6").await;
    let mail = shop.mail_to("b@x.test").await;
    assert_eq!(mail.header("Subject").unwrap(), "1 for b@x.test, a Bcc: spy@x.test");
    assert_eq!(mail.header("Bcc"), None);
    // With an empty HTML template the mail is plain text.
    assert_eq!(mail.header("Content-Type").unwrap(), "text/plain; charset=utf-8");
    assert!(mail.message.contains("0042 10.0840336134454 USD =C5=BC=C3=B3=C5=82w"), "{}", mail.message);
}

#[test]
fn invalid_template_prevents_the_start() {
    let error = |name: &str, value: &Path| {
        let options = [Override::new(name, value.to_str().unwrap(), "the test")];
        let config = Config::load(None, std::iter::empty(), &options).unwrap();
        Mailer::new(&config).err().map(|error| error.to_string()).unwrap_or_default()
    };
    for (name, text, message) in [
        ("cards_sold.txt", "{% for card in cards %}", "the template cards_sold.txt is invalid: syntax error"),
        ("cards_sold.html", "{{ nombre }}", "the template cards_sold.html uses the unknown variable nombre"),
        ("cards_sold.txt", "{% if false %}{{ nombre }}{% endif %}", "cards_sold.txt uses the unknown variable nombre"),
        ("cards_sold.txt", "{{ cards[0].pim }}", "the template cards_sold.txt is invalid: undefined value"),
        ("cards_sold.subject", "{{ currency|loud }}", "the template cards_sold.subject is invalid: unknown filter"),
        ("cards-sold.txt", "", "has none of cards_sold.subject, cards_sold.txt and cards_sold.html"),
    ] {
        let directory = templates(&[(name, text)]);
        let error = error("mail_templates", directory.path());
        assert!(error.contains(message), "{error}");
    }
    let directory = templates(&[("ca.pem", "nothing")]);
    assert!(error("mail_templates", &directory.path().join("nowhere")).contains("has none of"));
    assert!(error("mail_ca", &directory.path().join("nowhere.pem")).contains("No such file"));
    assert!(error("mail_ca", &directory.path().join("ca.pem")).starts_with("cannot use mail_ca ("));
}
