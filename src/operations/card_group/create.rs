//! `cc_group_create`: makes a card group, with a tax row of its own.
//! The spec's page: `endpoints/cc_group_create.md`; the published one: `source/cc_group_create.txt`.

use sqlx::PgConnection;

use super::input::{self, Input, Taxes};
use super::lookups::Lookups;
use super::parameters::PARAMETERS;
use crate::accounts::{Setting, UserType};
use crate::auth::admission::{self, Caller};
use crate::auth::signature::HashRule;
use crate::error::{ApiError, map_constraint};
use crate::http::context::{CallContext, Operation};
use crate::idempotency::Idempotency;
use crate::number;
use crate::operations::spec::{OperationSpec, ParamType, Parameter};
use crate::xml::XmlReply;

/// The operation.
pub const OPERATION: Operation = Operation {
    name: "cc_group_create",
    aliases: &[],
    hash_rules: &[HashRule::Exactly(&["name"])],
    spec: OperationSpec {
        summary: "Makes a card group",
        description: "Makes a card group, with taxes of its own. What isn't sent has a default; at the first thing that is wrong nothing \
            is made.",
        parameters: &[
            &[
                Parameter::new("name", ParamType::Text, "Its name, which no other group has.", "Eleven dollar cards")
                    .required(),
                Parameter::new(
                    "pin_length",
                    ParamType::Integer,
                    "How many digits its PINs have, 1 to 30; else 6.",
                    "8",
                )
                .in_example(),
                Parameter::new(
                    "number_length",
                    ParamType::Integer,
                    "How many digits its numbers have, 1 to 30; else 10.",
                    "10",
                )
                .in_example(),
            ],
            PARAMETERS,
        ],
        is_mutation: true,
        example_reply: "<page>
  <status>
    <success>Card Group was successfully created</success>
  </status>
</page>",
    },
    handler: |call| Box::pin(handle(call)),
};

async fn handle(call: &CallContext) -> Result<XmlReply, ApiError> {
    let caller = input::authorize(admission::authenticate(call).await?, call.dialect())?;
    let once = Idempotency::new(call, &caller).await?;
    let reply = |()| XmlReply::status("success", "Card Group was successfully created");
    once.replay_or_run(create(call, &caller, &once), reply).await
}

/// An X7 server knows a reseller's usual location.
async fn find_default_location(call: &CallContext, caller: &Caller) -> Result<Option<i64>, ApiError> {
    if !call.dialect().has_fixed_defaults() || caller.usertype() != UserType::Reseller {
        return Ok(None);
    }
    let own = call.state.accounts.settings(caller.id()).await?;
    Ok(own.text(Setting::DefaultDeviceLocation).map(number::parse_integer))
}

/// The tax row and the group, in one transaction. Amounts lose their taxes and become the system's currency here, where
/// division is exact.
async fn create(call: &CallContext, caller: &Caller, once: &Idempotency<'_>) -> Result<(), ApiError> {
    let currencies = call.state.accounts.currencies().await?;
    let usual_location = find_default_location(call, caller).await?;
    let mut change = once.begin().await?;
    let facts = Lookups::load(&mut *change, call, caller, usual_location, None).await?;
    let wish = &Input::read(call, caller, &currencies, &facts, None)?;
    let tax = create_tax_row(&mut change, &wish.taxes).await?;
    let made = sqlx::query!(
        "insert into cardgroups (name, description, owner_id, tax_id, tariff_id, lcr_id, location_id, tell_balance_in_currency,
             use_external_function, allow_loss_calls, tell_cents, solo_pinless, disable_voucher, callerid_leave,
             disable_topup_from_cards_with_cid, created_at, valid_from, valid_till, valid_after_first_use, pin_length, number_length,
             ghost_min_perc, ghost_balance_perc, price, setup_fee, daily_charge)
         select $1, coalesce($2, ''), $3, $4, $5, $6, $7, $8, coalesce($9::smallint, 0), coalesce($10::smallint, 0),
             coalesce($11::smallint, 0), coalesce($12::smallint, 0), coalesce($13::smallint, 0), coalesce($14::smallint, 0),
             coalesce($15::smallint, 0), now() at time zone 'utc', to_timestamp($16::bigint) at time zone 'utc',
             to_timestamp($17::bigint) at time zone 'utc', coalesce($18::integer, 0), coalesce($19::integer, 6), coalesce($20::integer, 10),
             coalesce($21::numeric, 100), coalesce($22::numeric, 100),
             divide_rounded(coalesce($23::numeric, 0), $26::numeric * case when $27 then 1 + tax_rate(t) else 1 end),
             divide_rounded(coalesce($24::numeric, 0), $26::numeric), divide_rounded(coalesce($25::numeric, 0), $26::numeric)
         from taxes t where t.id = $4 and (not $27 or tax_rate(t) > -1)",
        wish.name,
        wish.description,
        caller.owner_id(),
        tax,
        wish.tariff,
        wish.lcr,
        wish.location,
        wish.currency,
        wish.flags[0],
        wish.flags[1],
        wish.flags[2],
        wish.flags[3],
        wish.flags[4],
        wish.flags[5],
        wish.flags[6],
        wish.valid_from,
        wish.valid_till,
        wish.valid_after_first_use,
        wish.pin_length,
        wish.number_length,
        wish.ghost_min_perc,
        wish.ghost_balance_perc,
        wish.price,
        wish.setup_fee,
        wish.daily_charge,
        wish.rate,
        call.dialect().stores_net_prices()
    )
    .execute(&mut *change)
    .await
    .map_err(map_constraint([("cardgroups_name", ApiError::CardGroupNameTaken)], ApiError::from))?;
    // Taxes of less than nothing would turn the price round.
    if made.rows_affected() == 0 {
        return Err(ApiError::TransactionFailed);
    }
    change.commit(()).await
}

/// A tax row of the group's own: a copy of the one named, or what was sent.
async fn create_tax_row(connection: &mut PgConnection, taxes: &Taxes) -> sqlx::Result<i32> {
    let Taxes { source_id: row, total_name, names, values, enabled, compound } = taxes;
    if let Some(row) = row {
        return sqlx::query_scalar!(r#"select copy_taxes(t) as "id!" from taxes t where id = $1"#, row)
            .fetch_one(connection)
            .await;
    }
    sqlx::query_scalar!(
        "insert into taxes (total_tax_name, tax1_name, tax2_name, tax3_name, tax4_name, tax1_value, tax2_value, tax3_value, tax4_value,
             tax1_enabled, tax2_enabled, tax3_enabled, tax4_enabled, compound_tax)
         values (coalesce($1, 'TAX'), coalesce($2, $1, 'TAX'), coalesce($3, ''), coalesce($4, ''), coalesce($5, ''),
             coalesce($6::numeric, 0), coalesce($7::numeric, 0), coalesce($8::numeric, 0), coalesce($9::numeric, 0),
             1, coalesce($10::smallint, 0), coalesce($11::smallint, 0), coalesce($12::smallint, 0), coalesce($13::smallint, 1))
         returning id",
        total_name.as_deref(),
        names[0],
        names[1],
        names[2],
        names[3],
        values[0],
        values[1],
        values[2],
        values[3],
        enabled[1],
        enabled[2],
        enabled[3],
        *compound
    )
    .fetch_one(connection)
    .await
}
