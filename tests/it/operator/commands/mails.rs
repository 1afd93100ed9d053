//! `mortise mail`, with a real mail server.

use super::{CommandOutput, Operator, command, run_command};
use crate::harness::smtp::{MailServer, ScriptedAction};
use crate::harness::{hash, with_timeout};
use crate::mail::settings_sql;

/// A shop whose e-mails the mail server gets, and its operator.
struct Office {
    operator: Operator,
    mail: MailServer,
}

impl Office {
    async fn new() -> Self {
        let operator = Operator::with(&[("mail_tls", "off")]).await;
        let mail = MailServer::start().await;
        operator.server.execute(&settings_sql(0, mail.address.port(), "Card Shop <shop@example.com>")).await;
        Self { operator, mail }
    }

    fn run(&self, arguments: &[&str]) -> CommandOutput {
        let mut command = command(&[&["mail"], arguments].concat());
        command.env("DATABASE_URL", &self.operator.url).env("MORTISE_MAIL_TLS", "off");
        run_command(command, "")
    }

    #[track_caller]
    fn run_ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{arguments:?}: {}", output.stdout);
        output.stdout
    }

    /// Sells a card of group 6, and waits until the outbox has the condition.
    async fn sell_to(&self, address: &str, condition: &str) {
        let form = format!("u=admin&id=6&email={address}&hash={}", hash(&format!("{address}6"), "secret"));
        let reply = self.operator.server.post("card_from_group_sell", &form).await;
        assert_eq!(reply.element_texts("pin").len(), 1, "{}", reply.body);
        let matching = format!("select id from email_outbox where address = '{address}' and {condition}");
        self.operator.server.wait_for_rows(&matching, |rows| !rows.is_empty()).await;
    }
}

#[tokio::test]
async fn stuck_mails_are_listed_with_their_reason_and_sent_again() {
    let office = Office::new().await;
    office.mail.script_action("RCPT TO:<a@x.test>", ScriptedAction::Respond("450 greylisted"));
    office.mail.script_action("RCPT TO:<b@x.test>", ScriptedAction::Respond("550 unknown user"));
    office.sell_to("a@x.test", "last_error is not null").await;
    office.sell_to("b@x.test", "failed_at is not null").await;
    office.sell_to("c@x.test", "sent_at is not null").await;
    let list = |arguments: &[&str]| -> Vec<String> {
        let output = office.run_ok(&[&["list", "--json"], arguments].concat());
        let mails: serde_json::Value = serde_json::from_str(&output).unwrap();
        let line = |mail: &serde_json::Value| {
            ["id", "state", "owner", "address", "cards", "attempts", "reason"]
                .map(|field| mail[field].as_str().map_or_else(|| mail[field].to_string(), str::to_owned))
                .join(" ")
        };
        mails.as_array().unwrap().iter().map(line).collect()
    };
    let failed = "2 failed admin b@x.test 1 1 RCPT TO: 550 unknown user";
    assert_eq!(list(&[]), ["1 waiting admin a@x.test 1 1 RCPT TO: 450 greylisted", failed]);
    assert_eq!(list(&["--failed"]), [failed]);
    assert_eq!(list(&["--sent"]), ["3 sent admin c@x.test 1 1 null"]);
    assert_eq!(list(&["--limit", "1"]).len(), 1);
    let text = office.run_ok(&["list", "--failed"]);
    assert!(text.starts_with("ID  STATE   OWNER  ADDRESS   CARDS  SALE (UTC)"), "{text}");

    office.mail.clear_script();
    assert_eq!(
        office.run_ok(&["retry", "2"]),
        "E-mails to send now: 1. A running server sends them within a second, if Email_Sending_Enabled is on.\n"
    );
    with_timeout("the failed e-mail", office.mail.wait_for_mails(2)).await;
    let failed_is_sent = "select from email_outbox where id = 2 and sent_at is not null";
    office.operator.server.wait_for_rows(failed_is_sent, |rows| !rows.is_empty()).await;
    office.run_ok(&["retry", "--all"]);
    let mails = with_timeout("the waiting e-mail", office.mail.wait_for_mails(3)).await;
    assert_eq!(mails.iter().map(|mail| mail.to.as_str()).collect::<Vec<_>>(), ["c@x.test", "b@x.test", "a@x.test"]);
    office
        .operator
        .server
        .wait_for_rows("select from email_outbox where sent_at is null", |rows| rows.is_empty())
        .await;
    assert_eq!(list(&[]), Vec::<String>::new());
    // All were sent: nothing to do, and no row of the change log.
    assert!(office.run_ok(&["retry", "--all"]).starts_with("E-mails to send now: 0."));
    let sent = office.run(&["retry", "3"]);
    assert!(sent.code == 1 && sent.stderr.contains("the e-mail 3 was sent: --again sends it again"), "{sent:?}");
    office.run_ok(&["retry", "3", "--again"]);
    with_timeout("the same e-mail", office.mail.wait_for_mails(4)).await;
    // The card was replaced meanwhile.
    office.operator.server.execute("update cards set retired_at = now() where id = any ((select card_ids from email_outbox where id = 1)::bigint[])").await;
    let refused = office.run(&["retry", "1", "--again"]);
    assert!(refused.code == 1 && refused.stderr.contains("the e-mail 1 has a retired card"), "{refused:?}");
    assert!(!refused.stderr.contains("--again sends"), "{refused:?}");
    office
        .operator
        .assert_changes(&[
            "mail outbox -> {\"ids\": [2], \"retried\": 1}",
            "mail outbox -> {\"retried\": 1}",
            "mail outbox -> {\"ids\": [3], \"retried\": 1}",
        ])
        .await;
    for (arguments, code, message) in [
        (&["retry", "99"][..], 3, "there is no e-mail 99"),
        (&["retry"], 2, "required arguments were not provided"),
        (&["retry", "1", "--all"], 2, "cannot be used with"),
    ] {
        let output = office.run(arguments);
        assert!(output.code == code && output.stderr.contains(message), "{arguments:?}: {output:?}");
    }
}

#[tokio::test]
async fn corrected_address_gets_the_mail() {
    let office = Office::new().await;
    office.sell_to("typo", "failed_at is not null").await;
    let wrong = office.run(&["correct", "1", "still wrong"]);
    assert!(wrong.code == 1 && wrong.stderr.contains("\"still wrong\" is not an e-mail address"), "{wrong:?}");
    assert_eq!(
        office.run_ok(&["correct", "1", "buyer@x.test"]),
        "The e-mail 1 is sent to buyer@x.test now (it was for typo).\n"
    );
    let mails = with_timeout("the e-mail", office.mail.wait_for_mails(1)).await;
    assert_eq!(mails[0].to, "buyer@x.test");
    office
        .operator
        .server
        .wait_for_rows("select from email_outbox where sent_at is null", |rows| rows.is_empty())
        .await;
    office
        .operator
        .assert_changes(&["mail 1 buyer@x.test {\"address\": \"typo\"} -> {\"address\": \"buyer@x.test\"}"])
        .await;
    let sent = office.run(&["correct", "1", "other@x.test"]);
    assert!(sent.code == 1 && sent.stderr.contains("the e-mail 1 was sent to buyer@x.test"), "{sent:?}");
    assert_eq!(office.run(&["correct", "99", "other@x.test"]).code, 3);
}

#[tokio::test]
async fn cancelled_mails_are_sent_only_by_their_ids() {
    let office = Office::new().await;
    office.mail.script_action("RCPT TO", ScriptedAction::Respond("550 unknown user"));
    office.sell_to("a@x.test", "failed_at is not null").await;
    office.sell_to("b@x.test", "failed_at is not null").await;
    office.operator.server.execute("update email_outbox set last_error = 'given up' where id = 2").await;
    office.mail.clear_script();
    assert!(office.run_ok(&["retry", "--all"]).starts_with("E-mails to send now: 0."));
    assert!(office.run_ok(&["retry", "--failed"]).starts_with("E-mails to send now: 1."));
    let mails = with_timeout("the failed e-mail", office.mail.wait_for_mails(1)).await;
    assert_eq!(mails[0].to, "a@x.test");
    assert!(office.run_ok(&["retry", "2"]).starts_with("E-mails to send now: 1."));
    let mails = with_timeout("the cancelled e-mail", office.mail.wait_for_mails(2)).await;
    assert_eq!(mails[1].to, "b@x.test");
}

/// Else the e-mail would go to the old address, and would count as sent to the new one.
#[tokio::test]
async fn address_is_not_corrected_while_the_mail_is_being_sent() {
    let office = Office::new().await;
    office.mail.script_action("RCPT TO", ScriptedAction::Stall);
    office.sell_to("a@x.test", "claimed_until is not null").await;
    with_timeout("the attempt", office.mail.wait_for_lines("RCPT TO", 1)).await;
    let refused = office.run(&["correct", "1", "b@x.test"]);
    let message = "the e-mail 1 is being sent to a@x.test now: try again in ";
    assert!(refused.code == 1 && refused.stderr.contains(message), "{refused:?}");
    office.mail.clear_script();
    let mails = with_timeout("the e-mail", office.mail.wait_for_mails(1)).await;
    assert_eq!(mails[0].to, "a@x.test");
    let sent = "select address from email_outbox where sent_at is not null";
    office.operator.server.wait_for_rows(sent, |rows| rows == ["a@x.test"]).await;
}

/// The mail server answers while the test waits for the command.
#[tokio::test(flavor = "multi_thread")]
async fn test_mail_shows_whether_the_settings_work() {
    let office = Office::new().await;
    let output = office.run_ok(&["test", "operator@x.test"]);
    let server = format!("localhost:{}", office.mail.address.port());
    let sender = "Card Shop <shop@example.com>";
    assert_eq!(output, format!("{server} accepted the test e-mail from {sender} to operator@x.test.\n"));
    let mail = with_timeout("the test e-mail", office.mail.wait_for_mails(1)).await.remove(0);
    assert_eq!((mail.from.as_str(), mail.to.as_str()), ("shop@example.com", "operator@x.test"));
    assert_eq!(mail.header("Subject").as_deref(), Some("Test e-mail of Mortise"));
    // A reseller without mail settings of its own has the admin's.
    office.run_ok(&["test", "operator@x.test", "--user", "reseller"]);

    office.mail.script_action("MAIL FROM", ScriptedAction::Respond("550 not from you"));
    let refused = office.run(&["test", "operator@x.test"]);
    let message = format!("mortise: {server} did not accept the e-mail: MAIL FROM: 550 not from you\n");
    assert_eq!((refused.code, refused.stderr.as_str()), (1, message.as_str()));
    let invalid = office.run(&["test", "operator"]);
    assert!(invalid.code == 2 && invalid.stderr.contains("\"operator\" is not an e-mail address"), "{invalid:?}");
    office.operator.server.execute("delete from conflines where name = 'Email_Smtp_Server'").await;
    let incomplete = office.run(&["test", "operator@x.test"]);
    assert!(
        incomplete.code == 1
            && incomplete.stderr.contains("the mail settings are incomplete: Email_Smtp_Server isn't set"),
        "{incomplete:?}"
    );
    // No test e-mail is in the outbox.
    office.operator.server.assert_rows("select count(*) from email_outbox", &["0"]).await;
}
