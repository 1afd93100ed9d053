//! Executes the rows of the contract's tables (`endpoints/card_by_cli_update.md`).

use bigdecimal::BigDecimal;
use sqlx::{Connection, PgConnection};

use super::action::Action;
use super::lookup::{Device, Group};
use super::{ActionResult, Context, Input};
use crate::error::{ApiError, is_lock_timeout};
use crate::store;
use crate::store::card::LockedCard;

/// Maximum number of random numbers and PINs that are tried; after them, free ones are searched.
const RANDOM_ATTEMPTS_MAX: usize = 40;
/// Maximum length of the numbers and PINs that are searched, in digits. There are too many longer ones.
const SCAN_DIGITS_MAX: u32 = 6;
/// The length of MOR's columns, in characters.
const NUMBER_LEN_MAX: i32 = 255;

impl Action {
    pub(super) async fn execute(
        self,
        connection: &mut PgConnection,
        context: &Context<'_>,
        input: &Input,
    ) -> Result<ActionResult, ApiError> {
        let conversion = &context.conversion;
        match self {
            Self::TopUpUser { device } => {
                top_up_user(connection, context, &device, Funds::Paid(input.amount()?)).await?;
                Ok(ActionResult::User(device))
            }
            Self::TopUpCard { card } => {
                context.ensure_taxes(connection, card.cardgroup_id).await?;
                sell_if_unsold(connection, context, &card).await?;
                top_up_card(connection, context, card.id, input.amount()?).await?;
                Ok(ActionResult::Card(card.id))
            }
            Self::ReplaceCard { card, group } => {
                store::card::retire(connection, card.id).await?;
                store::card::audit_balance_change(connection, card.id, &-&card.balance, conversion).await?;
                let card_id = create_card(connection, context, input, &group, &card.balance).await?;
                Ok(ActionResult::Card(card_id))
            }
            Self::CreateCard { group } => {
                let card_id = create_card(connection, context, input, &group, &BigDecimal::from(0)).await?;
                Ok(ActionResult::Card(card_id))
            }
            Self::TransferToUser { device, pin_card } => {
                store::card::retire(connection, pin_card.id).await?;
                store::card::audit_balance_change(connection, pin_card.id, &-&pin_card.balance, conversion).await?;
                top_up_user(connection, context, &device, Funds::Transferred(&pin_card.balance)).await?;
                Ok(ActionResult::User(device))
            }
            Self::TransferToCard { card, pin_card } => {
                context.ensure_taxes(connection, card.cardgroup_id).await?;
                store::card::retire(connection, pin_card.id).await?;
                store::card::audit_balance_change(connection, pin_card.id, &-&pin_card.balance, conversion).await?;
                sell_if_unsold(connection, context, &card).await?;
                store::card::change_balance(connection, card.id, &pin_card.balance).await?;
                store::card::audit_balance_change(connection, card.id, &pin_card.balance, conversion).await?;
                Ok(ActionResult::Card(card.id))
            }
            Self::TransferToPinCard { card, pin_card } => {
                // Tax rows are created in the order of group ids, to avoid deadlocks.
                let groups =
                    [card.cardgroup_id.min(pin_card.cardgroup_id), card.cardgroup_id.max(pin_card.cardgroup_id)];
                if context.call.dialect().refuses_invalid_cards() {
                    // An X7 server first sells the old card, though its balance is moved away afterwards.
                    context.ensure_taxes(connection, groups[0]).await?;
                    context.ensure_taxes(connection, groups[1]).await?;
                    sell_if_unsold(connection, context, &card).await?;
                }
                sell_if_unsold(connection, context, &pin_card).await?;
                store::card::retire(connection, card.id).await?;
                store::card::audit_balance_change(connection, card.id, &-&card.balance, conversion).await?;
                assign_callerid(connection, context, pin_card.id, &input.callerid).await?;
                store::card::change_balance(connection, pin_card.id, &card.balance).await?;
                store::card::audit_balance_change(connection, pin_card.id, &card.balance, conversion).await?;
                Ok(ActionResult::Card(pin_card.id))
            }
            Self::SellPinCard { pin_card } => {
                context.ensure_taxes(connection, pin_card.cardgroup_id).await?;
                sell_if_unsold(connection, context, &pin_card).await?;
                assign_callerid(connection, context, pin_card.id, &input.callerid).await?;
                Ok(ActionResult::Card(pin_card.id))
            }
        }
    }
}

async fn sell_if_unsold(
    connection: &mut PgConnection,
    context: &Context<'_>,
    card: &LockedCard,
) -> Result<(), ApiError> {
    if card.sold { Ok(()) } else { context.sell(connection, card.id, card.cardgroup_id).await }
}

async fn top_up_card(
    connection: &mut PgConnection,
    context: &Context<'_>,
    card_id: i64,
    amount: &BigDecimal,
) -> Result<(), ApiError> {
    if *amount != 0 || context.call.dialect().records_zero_payments() {
        store::card::top_up(connection, card_id, amount, &context.conversion).await?;
    }
    Ok(())
}

async fn assign_callerid(
    connection: &mut PgConnection,
    context: &Context<'_>,
    card_id: i64,
    callerid: &str,
) -> Result<(), ApiError> {
    store::caller_id::clear_deleted(connection, callerid, &context.call.author(context.caller)).await?;
    sqlx::query!("update cards set callerid = $2 where id = $1", card_id, callerid).execute(connection).await?;
    Ok(())
}

/// Creates and sells a card of the group, with the `transferred` balance of another card and the amount of the request.
async fn create_card(
    connection: &mut PgConnection,
    context: &Context<'_>,
    input: &Input,
    group: &Group,
    transferred: &BigDecimal,
) -> Result<i64, ApiError> {
    context.ensure_taxes(connection, group.id).await?;
    store::caller_id::clear_deleted(connection, &input.callerid, &context.call.author(context.caller)).await?;
    let includes_top_up = context.call.dialect().records_single_payment_for_new_card();
    let (number_length, pin_length) = (group.number_length, group.pin_length);
    if ![number_length, pin_length].iter().all(|length| (1..=NUMBER_LEN_MAX).contains(length)) {
        return Err(ApiError::CallerIdTransactionFailed);
    }
    let bulk_blocked = store::bulk_create::try_block_bulk(connection).await?;
    for attempt in 0..=RANDOM_ATTEMPTS_MAX {
        let (mut number, mut pin) = (store::random::digits(number_length)?, store::random::digits(pin_length)?);
        if attempt == RANDOM_ATTEMPTS_MAX {
            // Nearly all numbers or PINs are in use: search for free ones, starting at the random ones.
            number = find_unused(connection, UniqueField::Number(group.id), &number).await?;
            pin = find_unused(connection, UniqueField::Pin, &pin).await?;
        }
        let new_card = NewCard { group_id: group.id, number, pin, transferred_balance: transferred, includes_top_up };
        let card_id = if bulk_blocked {
            new_card.insert(connection, context, input).await?
        } else {
            new_card.insert_with_savepoint(connection, context, input).await?
        };
        if let Some(card_id) = card_id {
            if !bulk_blocked {
                store::bulk_create::reset_lock_timeout(connection, context.call.state.config.database_acquire_timeout)
                    .await?;
            }
            context.sell(connection, card_id, group.id).await?;
            if !includes_top_up {
                top_up_card(connection, context, card_id, input.amount()?).await?;
            }
            return Ok(card_id);
        }
    }
    tracing::warn!(group = group.id, "no free card number or PIN: use a card group with longer numbers and PINs");
    Err(ApiError::CallerIdTransactionFailed)
}

/// A card to insert.
struct NewCard<'a> {
    group_id: i32,
    number: String,
    pin: String,
    transferred_balance: &'a BigDecimal,
    /// Whether the request's amount is added to the inserted balance.
    includes_top_up: bool,
}

impl NewCard<'_> {
    /// Inserts the card and returns its id. `None`: the number or the PIN is in use.
    async fn insert(
        &self,
        connection: &mut PgConnection,
        context: &Context<'_>,
        input: &Input,
    ) -> sqlx::Result<Option<i64>> {
        sqlx::query_scalar!(
            "insert into cards (cardgroup_id, owner_id, number, pin, callerid, balance)
             select g.id, g.owner_id, $2, $3, $4, $5::numeric + case when $6 then
                 divide_rounded($7, (1 + effective_tax_rate(g.tax_id, g.owner_id)) * exchange_rate_to(g.tell_balance_in_currency) * $8::numeric) else 0 end
             from cardgroups g
             where g.id = $1 and not is_pin_used($3) and not is_number_used($2, $1)
             on conflict do nothing returning id",
            self.group_id,
            self.number,
            self.pin,
            input.callerid,
            self.transferred_balance,
            self.includes_top_up,
            input.amount,
            context.conversion.caller_rate
        )
        .fetch_optional(connection)
        .await
    }

    /// Inserts the card while a bulk creation runs. After a lock timeout the number and the PIN count as in use.
    async fn insert_with_savepoint(
        &self,
        connection: &mut PgConnection,
        context: &Context<'_>,
        input: &Input,
    ) -> sqlx::Result<Option<i64>> {
        let mut savepoint = connection.begin().await?;
        match self.insert(&mut savepoint, context, input).await {
            Ok(card_id) => savepoint.commit().await.map(|()| card_id),
            Err(error) if is_lock_timeout(&error) => savepoint.rollback().await.map(|()| None),
            Err(error) => Err(error),
        }
    }
}

enum UniqueField {
    /// The number, in the group with this id.
    Number(i32),
    Pin,
}

/// Returns the first unused value of the length of `start`, searching upwards from `start` and then from 0. Returns
/// `start` if there are too many values to search, or if all are in use.
async fn find_unused(connection: &mut PgConnection, field: UniqueField, start: &str) -> Result<String, ApiError> {
    let (Ok(length @ ..=SCAN_DIGITS_MAX), Ok(first)) = (u32::try_from(start.len()), start.parse::<i32>()) else {
        return Ok(start.to_owned());
    };
    let last = 10_i32.pow(length) - 1;
    let group_id = match field {
        UniqueField::Number(group_id) => Some(group_id),
        UniqueField::Pin => None,
    };
    let unused = sqlx::query_scalar!(
        r#"select lpad(i::text, length($1), '0') as "text!" from (
               select * from generate_series($2::integer, $3::integer) i union all select * from generate_series(0, $2::integer - 1)
           ) candidate (i)
           where case when $4::integer is null
               then not is_pin_used(lpad(i::text, length($1), '0'))
               else not is_number_used(lpad(i::text, length($1), '0'), $4)
           end limit 1"#,
        start,
        first,
        last,
        group_id
    )
    .fetch_optional(connection)
    .await?;
    Ok(unused.unwrap_or_else(|| start.to_owned()))
}

/// The funds that are added to a user's balance.
enum Funds<'a> {
    /// An amount, taxes included.
    Paid(&'a BigDecimal),
    /// The balance of a card.
    Transferred(&'a BigDecimal),
}

async fn top_up_user(
    connection: &mut PgConnection,
    context: &Context<'_>,
    device: &Device,
    funds: Funds<'_>,
) -> Result<(), ApiError> {
    let dialect = context.call.dialect();
    if dialect.creates_missing_taxes() {
        store::tax::ensure_user_taxes(connection, device.user_id).await?;
    }
    let (amount, is_paid) = match funds {
        Funds::Paid(amount) if *amount == 0 && !dialect.records_zero_payments() => return Ok(()),
        Funds::Paid(amount) => (amount, true),
        Funds::Transferred(balance) => (balance, false),
    };
    sqlx::query_file!(
        "src/operations/card/by_cli/top_up_user.sql",
        device.user_id,
        amount,
        is_paid,
        context.conversion.caller_rate,
        dialect.records_payer_name(),
        context.caller.id(),
        context.conversion.reference
    )
    .execute(connection)
    .await?;
    Ok(())
}
