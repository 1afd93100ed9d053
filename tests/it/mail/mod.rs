//! E-mails to buyers, through a real mail server.

mod endless_replies;
mod message;
mod once;
mod refusals;
mod table_lock;

use crate::harness::smtp::{MailServer, ReceivedMail};
use crate::harness::{Reply, Server, postgres, server_on_database, server_without_jobs};

pub const SELL: &str = "card_from_group_sell";
const PENDING: &str = "select id from email_outbox where sent_at is null and failed_at is null";

/// A server, its database, and the mail server of the admin's settings.
pub struct Shop {
    pub database: String,
    pub server: Server,
    pub mail: MailServer,
}

impl Shop {
    pub async fn open() -> Self {
        Self::open_with(&[]).await
    }

    pub async fn open_with(settings: &[(&str, &str)]) -> Self {
        let database = postgres::create_database(crate::harness::FIXTURE_SQL).await;
        let mail = MailServer::start().await;
        let server = server_on_database(&database, &[&[("mail_tls", "off")], settings].concat()).await;
        server.execute(&settings_sql(0, mail.address.port(), "Card Shop <shop@example.com>")).await;
        Self { database, server, mail }
    }

    /// Opens a shop whose server runs no background jobs: another server has to send its mails.
    pub async fn open_without_jobs() -> Self {
        let database = postgres::create_database(crate::harness::FIXTURE_SQL).await;
        let mail = MailServer::start().await;
        let server = server_without_jobs(&database, &[]).await;
        server.execute(&settings_sql(0, mail.address.port(), "shop@example.com")).await;
        Self { database, server, mail }
    }

    /// Sells a card of group 6.
    pub async fn sell_to(&self, address: &str) -> Reply {
        sell(&self.server, 6, address).await
    }

    /// Sells a card and returns the resulting mail.
    pub async fn mail_to(&self, address: &str) -> ReceivedMail {
        let before = self.mail.received_mails().len();
        assert_eq!(self.sell_to(address).await.element_texts("pin").len(), 1);
        self.mail.wait_for_mails(before + 1).await.pop().unwrap()
    }

    /// Waits until the outbox has a row that meets the condition. Another task changes the outbox.
    pub async fn wait_until(&self, condition: &str) {
        let matching = format!("select id from email_outbox where {condition}");
        self.server.wait_for_rows(&matching, |rows| !rows.is_empty()).await;
    }

    /// Waits until all mails are sent or have failed.
    pub async fn wait_until_done(&self) {
        self.server.wait_for_rows(PENDING, |rows| rows.is_empty()).await;
    }

    /// Makes all mails due now.
    pub async fn make_due(&self) {
        self.server.execute("update email_outbox set next_attempt_at = now() at time zone 'utc'").await;
    }
}

/// SQL that inserts the e-mail settings of an owner, with a mail server on localhost.
pub fn settings_sql(owner: i32, port: u16, sender: &str) -> String {
    format!(
        "insert into conflines (owner_id, name, value) values ({owner}, 'Email_Sending_Enabled', '1'),
             ({owner}, 'Email_Smtp_Server', 'localhost'), ({owner}, 'Email_port', '{port}'), ({owner}, 'Email_from', '{sender}')"
    )
}

pub async fn sell(server: &Server, group: u32, address: &str) -> Reply {
    let encoded = percent_encoding::utf8_percent_encode(address, percent_encoding::NON_ALPHANUMERIC);
    server.post_signed(SELL, &format!("u=admin&id={group}&email={encoded}"), &format!("{address}{group}")).await
}
