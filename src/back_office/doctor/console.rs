//! The check of the console: its address, and its accounts.

use sqlx::PgConnection;

use super::{Check, join_limited};
use crate::config::Config;
use crate::db::seed;

/// An account that is not blocked.
struct AccountRow {
    name: String,
    is_demo: bool,
    /// An admin that has no second factor yet.
    must_enroll: bool,
    /// The user of a reseller does not exist, or is no reseller.
    has_wrong_user: bool,
}

/// Checks that the console can start, that it has accounts, and that none of them is a risk.
pub async fn check(config: &Config, connection: &mut PgConnection) -> sqlx::Result<Check> {
    const NAME: &str = "console";
    if let Some(address) = config.console_listen.filter(|address| !address.ip().is_loopback())
        && config.console_url.is_none()
    {
        let message =
            format!("console_listen ({address}) can be reached from other machines, and console_url is empty");
        return Ok(Check::problem(NAME, message, "set console_url, https://…: the server does not start"));
    }
    let accounts = sqlx::query_as!(
        AccountRow,
        r#"select a.name, a.is_demo, a.role = 'admin' and a.totp_secret is null and not a.is_demo as "must_enroll!",
               a.role = 'reseller' and (u.usertype = 'reseller') is not true as "has_wrong_user!"
           from console_accounts a left join users u on u.id = a.user_id where a.blocked_at is null order by fold_case(a.name)"#
    );
    let accounts = accounts.fetch_all(&mut *connection).await?;
    let names = |is_named: fn(&AccountRow) -> bool| -> Vec<String> {
        accounts.iter().filter(|account| is_named(account)).map(|account| account.name.clone()).collect()
    };
    let demo = names(|account| account.is_demo);
    if !demo.is_empty() && !seed::has_demo_key(connection).await? {
        let message = "this database is not the demo's any more, and the password of its account demo is public";
        return Ok(Check::warning(NAME, message, "run `mortise console block demo`"));
    }
    let wrong = names(|account| account.has_wrong_user);
    if !wrong.is_empty() {
        let message =
            format!("accounts of resellers whose user does not exist, or is no reseller: {}", join_limited(&wrong));
        return Ok(Check::warning(NAME, message, "run `mortise console block NAME`, and add another account"));
    }
    let Some(address) = config.console_listen else {
        return Ok(Check::ok(NAME, "the console is off"));
    };
    if accounts.len() == demo.len() {
        let message = "the console is on, and there is no account to log in with";
        return Ok(Check::warning(NAME, message, "run `mortise console add NAME`"));
    }
    let without = names(|account| account.must_enroll);
    Ok(if without.is_empty() {
        let message = format!("listens on {address}; accounts: {}", accounts.len());
        Check::ok(NAME, message)
    } else {
        let message = format!("admins without a second factor: {}", join_limited(&without));
        let advice = "they set it up at their next login, or run `mortise console second-factor NAME`";
        Check::warning(NAME, message, advice)
    })
}
