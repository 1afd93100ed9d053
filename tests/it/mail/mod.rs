//! E-mails to buyers, through a real mail server.

mod message;
mod once;
mod refusals;

use crate::harness::smtp::{MailServer, ReceivedMail};
use crate::harness::{Reply, Server, postgres, server_on_database, server_without_jobs};

pub const SELL: &str = "card_from_group_sell";
const WAITING: &str = "select id from email_outbox where sent_at is null and failed_at is null";

/// Servers on one database, and the mail server that the admin's settings name.
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
        server.execute(&settings_for(0, mail.address.port(), "Card Shop <shop@example.com>")).await;
        Self { database, server, mail }
    }

    /// One whose e-mails somebody else has to send.
    pub async fn open_quietly() -> Self {
        let database = postgres::create_database(crate::harness::FIXTURE_SQL).await;
        let mail = MailServer::start().await;
        let server = server_without_jobs(&database, &[]).await;
        server.execute(&settings_for(0, mail.address.port(), "shop@example.com")).await;
        Self { database, server, mail }
    }

    /// Sells a card of group 6.
    pub async fn sell_to(&self, address: &str) -> Reply {
        sell(&self.server, 6, address).await
    }

    /// Sells a card, and the e-mail that comes of it.
    pub async fn mail_to(&self, address: &str) -> ReceivedMail {
        let before = self.mail.received_mails().len();
        assert_eq!(self.sell_to(address).await.element_texts("pin").len(), 1);
        self.mail.wait_for_mails(before + 1).await.pop().unwrap()
    }

    /// Until the outbox has rows like that. What changes it is under way in another task.
    pub async fn until(&self, condition: &str) {
        while self.server.rows(&format!("select id from email_outbox where {condition}")).await.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    /// Until nothing waits.
    pub async fn until_done(&self) {
        while !self.server.rows(WAITING).await.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    /// As if all pauses had ended.
    pub async fn hurry(&self) {
        self.server.execute("update email_outbox set next_attempt_at = now() at time zone 'utc'").await;
    }
}

/// What an owner must have set, with a mail server on this machine.
pub fn settings_for(owner: i32, port: u16, sender: &str) -> String {
    format!(
        "insert into conflines (owner_id, name, value) values ({owner}, 'Email_Sending_Enabled', '1'),
             ({owner}, 'Email_Smtp_Server', 'localhost'), ({owner}, 'Email_port', '{port}'), ({owner}, 'Email_from', '{sender}')"
    )
}

pub async fn sell(server: &Server, group: u32, address: &str) -> Reply {
    let encoded = percent_encoding::utf8_percent_encode(address, percent_encoding::NON_ALPHANUMERIC);
    server.post_signed(SELL, &format!("u=admin&id={group}&email={encoded}"), &format!("{address}{group}")).await
}
