//! `mortise group`: lists card groups.

use clap::Subcommand;
use serde::Serialize;

use super::database::{begin_read_only, with_database};
use super::{CommandError, Report};
use crate::config::Config;
use crate::money::Money;

/// Subcommands of `mortise group`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the card groups with their prices and stock
    List,
}

/// Runs the command.
pub async fn run(command: &Command, config: &Config) -> Result<Report, CommandError> {
    match command {
        Command::List => list(config).await,
    }
}

/// A row of `mortise group list`.
#[derive(Debug, Serialize)]
struct CardGroupRow {
    id: i32,
    name: String,
    owner: Option<String>,
    price: Money,
    number_length: i32,
    pin_length: i32,
    free: i64,
    sold: i64,
    hidden: bool,
}

async fn list(config: &Config) -> Result<Report, CommandError> {
    let groups = with_database(config, async |pool| {
        let mut transaction = begin_read_only(pool).await?;
        let groups = sqlx::query_as!(
            CardGroupRow,
            r#"with free as materialized (select cardgroup_id, count(*) as count from card_stock group by cardgroup_id),
                    sold as materialized (
                        select cardgroup_id, count(*) as count from cards where sold = 1 and hidden = 0 group by cardgroup_id)
               select g.id, g.name, u.username as "owner?", coalesce(g.price, 0) as "price!: Money", g.number_length, g.pin_length,
                   coalesce(free.count, 0) as "free!", coalesce(sold.count, 0) as "sold!", g.hidden <> 0 as "hidden!"
               from cardgroups g left join users u on u.id = g.owner_id
               left join free on free.cardgroup_id = g.id left join sold on sold.cardgroup_id = g.id
               order by g.id"#
        );
        Ok(groups.fetch_all(&mut *transaction).await?)
    })
    .await?;
    let headings = ["ID", "NAME", "OWNER", "PRICE", "NUMBER", "PIN", "FREE", "SOLD", "HIDDEN"];
    Ok(Report::table(headings, &groups, |group| {
        [
            group.id.to_string(),
            group.name.clone(),
            group.owner.clone().unwrap_or_default(),
            group.price.to_plain_string(),
            group.number_length.to_string(),
            group.pin_length.to_string(),
            group.free.to_string(),
            group.sold.to_string(),
            if group.hidden { "yes" } else { "" }.to_owned(),
        ]
    }))
}
