//! What is refunded for a card, and the payments of the refunds.

use bigdecimal::{BigDecimal, RoundingMode};
use serde::Serialize;
use sqlx::PgConnection;

use crate::back_office::BackOfficeError;
use crate::back_office::payments::audit_payments;
use crate::money::Money;
use crate::store::change_log::Author;

/// A refund.
#[derive(Debug, Clone, Serialize)]
pub struct RefundRow {
    /// The payment that it undoes.
    pub reverses: i64,
    /// Without tax, unless `tax_included`.
    pub amount: Money,
    /// The tax.
    pub tax: Money,
    /// The currency of both.
    pub currency: String,
    /// Whether the amount includes tax, as that of a top-up by `card_payment_add`.
    pub tax_included: bool,
}

/// A payment of the card, or of a card that it replaces, without refunds.
pub(super) struct PaidAmount {
    id: i64,
    amount: BigDecimal,
    tax: BigDecimal,
    currency: String,
    tax_included: bool,
}

/// Returns the refunds of everything that was paid.
pub(super) fn refund_all(paid: &[PaidAmount]) -> Vec<RefundRow> {
    paid.iter().map(|paid| paid.refund(&paid.without_tax())).collect()
}

/// Returns the refunds of an amount without tax: from the sale first, then from the top-ups in the sale's currency.
///
/// # Errors
///
/// [`BackOfficeError::Refused`] if less was paid.
pub(super) fn refund_amount(paid: &[PaidAmount], amount: &BigDecimal) -> Result<Vec<RefundRow>, BackOfficeError> {
    let Some(sale) = paid.first() else { return Ok(Vec::new()) };
    let mut left = amount.clone();
    let mut refunds = Vec::new();
    for paid in paid.iter().filter(|paid| paid.currency == sale.currency && paid.amount > 0) {
        let part = left.clone().min(paid.without_tax());
        if part > 0 {
            refunds.push(paid.refund(&part));
            left -= part;
        }
    }
    if left > 0 {
        let most = Money::from(amount - left).to_plain_string();
        return Err(BackOfficeError::Refused(format!("only {most} {} were paid, without tax", sale.currency)));
    }
    Ok(refunds)
}

impl PaidAmount {
    fn without_tax(&self) -> BigDecimal {
        without_tax(&self.amount, &self.tax, self.tax_included)
    }

    /// The refund of a part of the amount without tax. The columns of the payment are refunded in proportion.
    fn refund(&self, part: &BigDecimal) -> RefundRow {
        let whole = self.without_tax();
        let share = |value: &BigDecimal| match *part == whole {
            true => -value,
            false => -(value * part / &whole).with_scale_round(15, RoundingMode::HalfUp),
        };
        RefundRow {
            reverses: self.id,
            amount: share(&self.amount).into(),
            tax: share(&self.tax).into(),
            currency: self.currency.clone(),
            tax_included: self.tax_included,
        }
    }
}

impl RefundRow {
    /// What is refunded without tax, above 0.
    pub fn without_tax(&self) -> BigDecimal {
        let [amount, tax] = [&self.amount, &self.tax].map(|money| -BigDecimal::from(money.clone()));
        without_tax(&amount, &tax, self.tax_included)
    }
}

/// Returns an amount without tax. If the amount includes tax, the tax is the amount times the rate, as in MOR: at 19 %,
/// 2.261 of 11.9.
fn without_tax(amount: &BigDecimal, tax: &BigDecimal, tax_included: bool) -> BigDecimal {
    let divisor = amount + tax;
    match tax_included && divisor > 0 {
        true => (amount * amount / divisor).with_scale_round(15, RoundingMode::HalfUp),
        false => amount.clone(),
    }
}

/// Returns the sales and top-ups of the cards that have no refund: the sale first.
pub(super) async fn find_paid_amounts(connection: &mut PgConnection, cards: &[i64]) -> sqlx::Result<Vec<PaidAmount>> {
    sqlx::query_as!(
        PaidAmount,
        r#"select id, coalesce(amount, 0) as "amount!", coalesce(tax, 0) as "tax!", currency,
               coalesce(tax_included, false) as "tax_included!"
           from payments p
           where user_id = any ($1) and card = 1 and kind in ('sale', 'top_up')
               and not exists (select from payments refund where refund.reverses = p.id)
           order by kind, date_added, id"#,
        cards
    )
    .fetch_all(connection)
    .await
}

/// Writes the refunds. The first one has the balance that is removed from the card.
pub(super) async fn write_refunds(
    connection: &mut PgConnection,
    refunds: &[RefundRow],
    balance: &BigDecimal,
    author: &Author,
) -> sqlx::Result<()> {
    let reversed: Vec<i64> = refunds.iter().map(|refund| refund.reverses).collect();
    let amounts: Vec<BigDecimal> = refunds.iter().map(|refund| refund.amount.clone().into()).collect();
    let taxes: Vec<BigDecimal> = refunds.iter().map(|refund| refund.tax.clone().into()).collect();
    let ids = sqlx::query_scalar!(
        r#"insert into payments (paymenttype, kind, amount, currency, tax, user_id, owner_id, card, completed, date_added,
               shipped_at, description, caller_id, reverses, tax_included, balance_change)
           select 'Card', 'refund', refund.amount, p.currency, refund.tax, p.user_id, p.owner_id, 1, 1, now() at time zone 'utc',
               now() at time zone 'utc', '', $4, p.id, p.tax_included, case when position = 1 then -$5::numeric end
           from unnest($1::bigint[], $2::numeric[], $3::numeric[]) with ordinality refund (reverses, amount, tax, position)
           join payments p on p.id = refund.reverses
           order by position
           returning id"#,
        &reversed,
        &amounts,
        &taxes,
        author.user_id(),
        balance
    );
    let ids = ids.fetch_all(&mut *connection).await?;
    audit_payments(connection, &ids, author).await
}
