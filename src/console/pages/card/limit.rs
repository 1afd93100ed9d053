//! How much accounts with the role support may change on one card and day: the setting `console_support_max`.

use bigdecimal::{BigDecimal, RoundingMode};
use sqlx::PgConnection;

use crate::back_office::replaced_cards;
use crate::back_office::void::RefundRow;
use crate::console::Console;
use crate::console::access::Role;
use crate::console::error::ConsoleError;
use crate::console::session::Session;
use crate::money::Money;

/// Returns what support accounts may still change on the card today, in the system's currency without tax. What they
/// have changed on the cards that it replaces counts too.
pub(super) async fn load_left(
    console: &Console,
    connection: &mut PgConnection,
    card_id: i64,
) -> sqlx::Result<BigDecimal> {
    let cards = replaced_cards(&mut *connection, card_id).await?;
    let changed = sqlx::query_scalar!(
        r#"select coalesce(sum(s.amount), 0) as "changed!"
           from console_submissions s join console_accounts a on a.id = s.account_id
           where s.card_id = any ($1) and a.role = 'support' and s.created_at >= date_trunc('day', now() at time zone 'utc')"#,
        &cards
    );
    Ok(&console.app.config.console_support_max - changed.fetch_one(connection).await?)
}

/// Checks a change of a support account, after it was made in the transaction: from then on the card is locked, so that
/// another form cannot use the same rest of the limit. Returns what counts from now on.
///
/// # Errors
///
/// [`ConsoleError::Refused`] if the limit is exceeded. The caller rolls back.
pub(super) async fn check(
    console: &Console,
    connection: &mut PgConnection,
    session: &Session,
    card_id: i64,
    amount: &BigDecimal,
) -> Result<Option<(i64, BigDecimal)>, ConsoleError> {
    if session.account.role != Role::Support {
        return Ok(None);
    }
    // A balance can be below 0.
    let amount = amount.abs();
    let left = load_left(console, connection, card_id).await?;
    if amount <= left {
        return Ok(Some((card_id, amount)));
    }
    let currency = console.system_currency().await?;
    let max = console.app.config.console_support_max.clone();
    let [max, left, amount] =
        [max, left.max(BigDecimal::from(0)), amount].map(|amount| Money::from(amount).to_plain_string());
    Err(ConsoleError::Refused(format!(
        "Support accounts may change at most {max} {currency} without tax on one card and day (UTC). For this card \
         {left} {currency} are left today, and this change is {amount} {currency}. Ask an admin."
    )))
}

/// Returns what a void changes, in the system's currency without tax: the refunds, or the removed balance if that is
/// more.
///
/// # Errors
///
/// [`ConsoleError::Refused`] if the rate of a currency is unknown.
pub(super) async fn amount_of_void(
    connection: &mut PgConnection,
    refunds: &[RefundRow],
    balance_removed: &Money,
) -> Result<BigDecimal, ConsoleError> {
    let mut refunded = BigDecimal::from(0);
    for refund in refunds {
        let rate = sqlx::query_scalar!(r#"select exchange_rate_to($1) as "rate!""#, refund.currency);
        let rate = rate.fetch_one(&mut *connection).await?;
        if rate <= 0 {
            let text = format!("The exchange rate of {} is unknown. Ask an admin to void the card.", refund.currency);
            return Err(ConsoleError::Refused(text));
        }
        refunded += (refund.without_tax() / rate).with_scale_round(15, RoundingMode::HalfUp);
    }
    Ok(refunded.max(BigDecimal::from(balance_removed.clone()).abs()))
}
