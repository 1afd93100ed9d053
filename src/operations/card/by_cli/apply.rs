//! The rows of the contract's tables, carried out.

use bigdecimal::BigDecimal;
use sqlx::{Connection, PgConnection};

use super::action::Action;
use super::lookup::{Device, Group};
use super::{ActionResult, Context, Input};
use crate::error::ApiError;
use crate::store;
use crate::store::card::LockedCard;

/// How often a number and PIN are drawn before the rest is looked through.
const RANDOM_ATTEMPTS_MAX: usize = 40;
/// Of longer ones there are too many to look through.
const SCAN_DIGITS_MAX: u32 = 6;
/// The SQLSTATE of a lock that was waited for in vain.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// MOR's column.
const NUMBER_LEN_MAX: i32 = 255;

impl Action {
    pub(super) async fn execute(
        self,
        connection: &mut PgConnection,
        desk: &Context<'_>,
        wish: &Input,
    ) -> Result<ActionResult, ApiError> {
        let conversion = &desk.conversion;
        match self {
            Self::TopUpUser { device } => {
                top_up_user(connection, desk, &device, Funds::Paid(&wish.amount)).await?;
                Ok(ActionResult::User(device))
            }
            Self::TopUpCard { card } => {
                desk.ensure_taxes(connection, card.cardgroup_id).await?;
                sell_if_unsold(connection, desk, &card).await?;
                top_up_card(connection, desk, card.id, &wish.amount).await?;
                Ok(ActionResult::Card(card.id))
            }
            Self::ReplaceCard { card, group } => {
                store::card::retire(connection, card.id).await?;
                store::card::audit_balance_change(connection, card.id, &-&card.balance, conversion).await?;
                let new = create_card(connection, desk, wish, &group, &card.balance).await?;
                Ok(ActionResult::Card(new))
            }
            Self::CreateCard { group } => {
                let new = create_card(connection, desk, wish, &group, &BigDecimal::from(0)).await?;
                Ok(ActionResult::Card(new))
            }
            Self::TransferToUser { device, pin_card } => {
                store::card::retire(connection, pin_card.id).await?;
                store::card::audit_balance_change(connection, pin_card.id, &-&pin_card.balance, conversion).await?;
                top_up_user(connection, desk, &device, Funds::Transferred(&pin_card.balance)).await?;
                Ok(ActionResult::User(device))
            }
            Self::TransferToCard { card, pin_card } => {
                desk.ensure_taxes(connection, card.cardgroup_id).await?;
                store::card::retire(connection, pin_card.id).await?;
                store::card::audit_balance_change(connection, pin_card.id, &-&pin_card.balance, conversion).await?;
                sell_if_unsold(connection, desk, &card).await?;
                store::card::change_balance(connection, card.id, &pin_card.balance).await?;
                store::card::audit_balance_change(connection, card.id, &pin_card.balance, conversion).await?;
                Ok(ActionResult::Card(card.id))
            }
            Self::TransferToPinCard { card, pin_card } => {
                // In one order, whoever's card is whose.
                let groups =
                    [card.cardgroup_id.min(pin_card.cardgroup_id), card.cardgroup_id.max(pin_card.cardgroup_id)];
                if desk.call.dialect().refuses_invalid_cards() {
                    // An X7 server sells the caller's card first, though it is about to be emptied.
                    desk.ensure_taxes(connection, groups[0]).await?;
                    desk.ensure_taxes(connection, groups[1]).await?;
                    sell_if_unsold(connection, desk, &card).await?;
                }
                sell_if_unsold(connection, desk, &pin_card).await?;
                store::card::retire(connection, card.id).await?;
                store::card::audit_balance_change(connection, card.id, &-&card.balance, conversion).await?;
                assign_callerid(connection, pin_card.id, &wish.callerid).await?;
                store::card::change_balance(connection, pin_card.id, &card.balance).await?;
                store::card::audit_balance_change(connection, pin_card.id, &card.balance, conversion).await?;
                Ok(ActionResult::Card(pin_card.id))
            }
            Self::SellPinCard { pin_card } => {
                desk.ensure_taxes(connection, pin_card.cardgroup_id).await?;
                sell_if_unsold(connection, desk, &pin_card).await?;
                assign_callerid(connection, pin_card.id, &wish.callerid).await?;
                Ok(ActionResult::Card(pin_card.id))
            }
        }
    }
}

async fn sell_if_unsold(connection: &mut PgConnection, desk: &Context<'_>, card: &LockedCard) -> Result<(), ApiError> {
    if card.sold { Ok(()) } else { desk.sell(connection, card.id, card.cardgroup_id).await }
}

async fn top_up_card(
    connection: &mut PgConnection,
    desk: &Context<'_>,
    card: i64,
    amount: &BigDecimal,
) -> Result<(), ApiError> {
    if *amount != 0 || desk.call.dialect().records_zero_payments() {
        store::card::top_up(connection, card, amount, &desk.conversion).await?;
    }
    Ok(())
}

async fn assign_callerid(connection: &mut PgConnection, card: i64, callerid: &str) -> Result<(), ApiError> {
    store::caller_id::clear_deleted(connection, callerid).await?;
    sqlx::query!("update cards set callerid = $2 where id = $1", card, callerid).execute(connection).await?;
    Ok(())
}

/// A new card of the group, sold, with what was moved to it and what is added.
async fn create_card(
    connection: &mut PgConnection,
    desk: &Context<'_>,
    wish: &Input,
    group: &Group,
    moved: &BigDecimal,
) -> Result<i64, ApiError> {
    desk.ensure_taxes(connection, group.id).await?;
    store::caller_id::clear_deleted(connection, &wish.callerid).await?;
    let at_once = desk.call.dialect().records_single_payment_for_new_card();
    let (numbers, pins) = (group.number_length, group.pin_length);
    if ![numbers, pins].iter().all(|length| (1..=NUMBER_LEN_MAX).contains(length)) {
        return Err(ApiError::CallerIdTransactionFailed);
    }
    let held_off = store::bulk_create::try_block_bulk(connection).await?;
    for draw in 0..=RANDOM_ATTEMPTS_MAX {
        let (mut number, mut pin) = (store::random::digits(numbers)?, store::random::digits(pins)?);
        if draw == RANDOM_ATTEMPTS_MAX {
            // Nearly all are in use: look for one that isn't, from there on.
            number = find_unused(connection, UniqueField::Number(group.id), &number).await?;
            pin = find_unused(connection, UniqueField::Pin, &pin).await?;
        }
        let new = NewCard { group: group.id, number, pin, transferred_balance: moved, includes_top_up: at_once };
        let card = if held_off {
            new.insert(connection, desk, wish).await?
        } else {
            new.insert_with_savepoint(connection, desk, wish).await?
        };
        if let Some(card) = card {
            if !held_off {
                store::bulk_create::reset_lock_timeout(connection, desk.call.state.config.database_acquire_timeout)
                    .await?;
            }
            desk.sell(connection, card, group.id).await?;
            if !at_once {
                top_up_card(connection, desk, card, &wish.amount).await?;
            }
            return Ok(card);
        }
    }
    tracing::warn!(group = group.id, "no free number or PIN: the group's lengths are too short");
    Err(ApiError::CallerIdTransactionFailed)
}

/// A card that isn't there yet.
struct NewCard<'a> {
    group: i32,
    number: String,
    pin: String,
    transferred_balance: &'a BigDecimal,
    /// What is added is added at once.
    includes_top_up: bool,
}

impl NewCard<'_> {
    /// `None`: the number or the PIN is in use.
    async fn insert(
        &self,
        connection: &mut PgConnection,
        desk: &Context<'_>,
        wish: &Input,
    ) -> sqlx::Result<Option<i64>> {
        sqlx::query_scalar!(
            "insert into cards (cardgroup_id, owner_id, number, pin, callerid, balance)
             select g.id, g.owner_id, $2, $3, $4, $5::numeric + case when $6 then
                 divide_rounded($7, (1 + effective_tax_rate(g.tax_id, g.owner_id)) * exchange_rate_to(g.tell_balance_in_currency) * $8::numeric) else 0 end
             from cardgroups g
             where g.id = $1 and not exists (select from cards where pin <> '' and pin = $3)
                 and not exists (select from cards where number = $2 and hidden = 0)
                 and not exists (select from cards where cardgroup_id = $1 and number = $2)
             on conflict do nothing returning id",
            self.group,
            self.number,
            self.pin,
            wish.callerid,
            self.transferred_balance,
            self.includes_top_up,
            wish.amount,
            desk.conversion.caller_rate
        )
        .fetch_optional(connection)
        .await
    }

    /// Beside somebody who makes cards by the thousand: what can't be had within a moment counts as in use.
    async fn insert_with_savepoint(
        &self,
        connection: &mut PgConnection,
        desk: &Context<'_>,
        wish: &Input,
    ) -> sqlx::Result<Option<i64>> {
        let mut savepoint = connection.begin().await?;
        match self.insert(&mut savepoint, desk, wish).await {
            Ok(card) => savepoint.commit().await.map(|()| card),
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(LOCK_NOT_AVAILABLE) => {
                savepoint.rollback().await.map(|()| None)
            }
            Err(error) => Err(error),
        }
    }
}

enum UniqueField {
    /// Of this group.
    Number(i32),
    Pin,
}

/// The first that isn't in use from `start` on, or from the beginning; `start` itself where there are too many to look
/// through. All have its length.
async fn find_unused(connection: &mut PgConnection, what: UniqueField, start: &str) -> Result<String, ApiError> {
    let (Ok(length @ ..=SCAN_DIGITS_MAX), Ok(first)) = (u32::try_from(start.len()), start.parse::<i32>()) else {
        return Ok(start.to_owned());
    };
    let last = 10_i32.pow(length) - 1;
    let group = match what {
        UniqueField::Number(group) => Some(group),
        UniqueField::Pin => None,
    };
    let found = sqlx::query_scalar!(
        r#"select lpad(i::text, length($1), '0') as "text!" from (
               select * from generate_series($2::integer, $3::integer) i union all select * from generate_series(0, $2::integer - 1)
           ) all_of_them (i)
           where case when $4::integer is null
               then not exists (select from cards where pin <> '' and pin = lpad(i::text, length($1), '0'))
               else not exists (select from cards where number = lpad(i::text, length($1), '0') and hidden = 0)
                   and not exists (select from cards where cardgroup_id = $4 and number = lpad(i::text, length($1), '0'))
           end limit 1"#,
        start,
        first,
        last,
        group
    )
    .fetch_optional(connection)
    .await?;
    Ok(found.unwrap_or_else(|| start.to_owned()))
}

/// What a user is topped up with.
enum Funds<'a> {
    /// An amount, tax included.
    Paid(&'a BigDecimal),
    /// A card's balance.
    Transferred(&'a BigDecimal),
}

async fn top_up_user(
    connection: &mut PgConnection,
    desk: &Context<'_>,
    device: &Device,
    funds: Funds<'_>,
) -> Result<(), ApiError> {
    let dialect = desk.call.dialect();
    if dialect.creates_missing_taxes() {
        store::tax::ensure_user_taxes(connection, device.user_id).await?;
    }
    let (amount, is_paid) = match funds {
        Funds::Paid(amount) if *amount == 0 && !dialect.records_zero_payments() => return Ok(()),
        Funds::Paid(amount) => (amount, true),
        Funds::Transferred(balance) => (balance, false),
    };
    sqlx::query!(
        "with refilled as (
             update users set balance = coalesce(balance, 0)
                 + case when $3 then divide_rounded($2, (1 + effective_tax_rate(users.tax_id, users.owner_id)) * $4::numeric) else $2 end
             where id = $1
             returning id, owner_id, first_name, last_name, currency_id, effective_tax_rate(users.tax_id, users.owner_id) as tax_rate
         )
         insert into payments (paymenttype, kind, amount, currency, user_id, owner_id, card, completed, date_added, shipped_at, description,
             first_name, last_name)
         select 'card_refill', case when $3 then 'refill' else 'transfer' end,
             case when $3 then divide_rounded($2, 1 + tax_rate) else $2 * $4::numeric end * case when c.id is null then 1 else exchange_rate_to(c.name) end,
             coalesce(c.name, (select name from currencies where id = 1), ''), r.id, r.owner_id, 0, 1,
             now() at time zone 'utc', now() at time zone 'utc', '',
             case when $5 then first_name end, case when $5 then last_name end
         from refilled r left join currencies c on c.id = r.currency_id",
        device.user_id,
        amount,
        is_paid,
        desk.conversion.caller_rate,
        dialect.records_payer_name()
    )
    .execute(connection)
    .await?;
    Ok(())
}
