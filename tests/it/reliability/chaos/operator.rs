//! An operator who voids and replaces cards while clients use them. A change whose outcome is unknown is repeated, as
//! when a command is run again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mortise::back_office::BackOfficeError;
use mortise::back_office::reissue::Reissue;
use mortise::back_office::void::{Refund, Void};
use mortise::store::change_log::Author;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tokio::task::JoinHandle;

use super::environment::TestEnvironment;

/// The pause after each change, and after a failed connection.
const PAUSE: Duration = Duration::from_millis(20);

/// A sold card that no e-mail has: the audit of e-mails expects that they are sent.
const RANDOM_CARD_QUERY: &str = "
    select id from cards c
    where sold = 1 and cardgroup_id >= 70 and not exists (select from cclineitems where card_id = c.id)
    order by random() limit 1";

/// A change that was carried out once, however often it was repeated.
#[derive(Debug, Clone, Copy)]
pub enum OperatorChange {
    Void(i64),
    Reissue(i64),
}

impl OperatorChange {
    /// The query that counts the change in the database.
    pub fn count_query(self) -> String {
        match self {
            Self::Void(id) => format!("select count(*) from change_log where target_id = {id} and after ? 'voided'"),
            Self::Reissue(id) => format!("select count(*) from payments where replaces_card = {id}"),
        }
    }

    /// Returns whether the change was carried out. `false`: it was refused.
    async fn run(self, options: &PgConnectOptions) -> Result<bool, BackOfficeError> {
        let author = Author::Command { operator: "chaos".to_owned() };
        let mut connection = options.connect().await?;
        let mut transaction = connection.begin().await?;
        let result = match self {
            Self::Void(card_id) => {
                let void = Void { card_id, reason: "chaos", used: true, refund: Some(Refund::Full) };
                void.run(&mut transaction, &author).await.map(drop)
            }
            Self::Reissue(card_id) => {
                let reissue = Reissue { card_id, reason: "chaos", to: None };
                reissue.run(&mut transaction, &author).await.map(drop)
            }
        };
        match result {
            Ok(()) => {
                transaction.commit().await?;
                Ok(true)
            }
            Err(BackOfficeError::Refused(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

pub struct Operator {
    stop_requested: Arc<AtomicBool>,
    task: JoinHandle<Vec<OperatorChange>>,
}

impl Operator {
    pub fn start(environment: &TestEnvironment, mut random: fastrand::Rng) -> Self {
        let stop_requested = Arc::new(AtomicBool::new(false));
        let stop = stop_requested.clone();
        let options = environment.connect_options();
        let task = tokio::spawn(async move {
            let mut changes = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                tokio::time::sleep(PAUSE).await;
                let Ok(Some(id)) = find_card(&options).await else { continue };
                let change = if random.bool() { OperatorChange::Void(id) } else { OperatorChange::Reissue(id) };
                // Until the outcome is known.
                let is_done = loop {
                    match change.run(&options).await {
                        Ok(is_done) => break is_done,
                        Err(_) => tokio::time::sleep(PAUSE).await,
                    }
                };
                if is_done {
                    changes.push(change);
                }
            }
            changes
        });
        Self { stop_requested, task }
    }

    /// Stops the operator after the present change; returns the changes that were carried out.
    pub async fn finish(self) -> Vec<OperatorChange> {
        self.stop_requested.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

async fn find_card(options: &PgConnectOptions) -> sqlx::Result<Option<i64>> {
    let mut connection = options.connect().await?;
    sqlx::query_scalar(RANDOM_CARD_QUERY).fetch_optional(&mut connection).await
}
