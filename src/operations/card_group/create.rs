//! `cc_group_create`: creates a card group with its own tax row.
//! Contract: `endpoints/cc_group_create.md`; published page: `source/cc_group_create.txt`.

use std::sync::Arc;

use sqlx::PgConnection;

use super::input::{self, Input, Taxes};
use super::lookups::Lookups;
use super::parameters::PARAMETERS;
use crate::accounts::{Currencies, Setting, UserType};
use crate::auth::caller::Caller;
use crate::auth::signature::HashRule;
use crate::error::{ApiError, map_constraint};
use crate::http::context::{Access, CallContext, Operation};
use crate::idempotency::Idempotency;
use crate::number;
use crate::operations::spec::{OperationSpec, ParamType, Parameter};
use crate::xml::XmlReply;

/// The operation's description and handler.
pub const OPERATION: Operation = Operation {
    name: "cc_group_create",
    aliases: &[],
    hash_rules: &[HashRule::Exactly(&["name"])],
    spec: OperationSpec {
        summary: "Creates a card group",
        description: "Creates a card group with its own taxes. Parameters that are not sent have defaults. After an \
            error nothing is created.",
        parameters: &[
            &[
                Parameter::new("name", ParamType::Text, "The name; no other group may have it.", "Eleven dollar cards")
                    .required(),
                Parameter::new(
                    "pin_length",
                    ParamType::Integer,
                    "How many digits the PINs have, 1 to 30; default: 6.",
                    "8",
                )
                .in_example(),
                Parameter::new(
                    "number_length",
                    ParamType::Integer,
                    "How many digits the card numbers have, 1 to 30; default: 10.",
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
    access: Access::Own(input::authorize),
    handler: |call, caller| Box::pin(handle(call, caller)),
};

async fn handle(call: &CallContext, caller: &Caller) -> Result<XmlReply, ApiError> {
    let idempotency = Idempotency::new(call, caller).await?;
    let created = idempotency.change(prepare(call, caller), async |connection, (currencies, default_location)| {
        let lookups = Lookups::load(&mut *connection, call, caller, *default_location, None).await?;
        let input = Input::read(call, caller, currencies, &lookups, None)?;
        let tax_id = create_tax_row(connection, &input.taxes).await?;
        create(connection, call, caller, tax_id, &input).await
    });
    Ok(created.await?.render(|()| XmlReply::status("success", "Card Group was successfully created")))
}

/// Returns the currencies and the default location of the group.
async fn prepare(call: &CallContext, caller: &Caller) -> Result<(Arc<Currencies>, Option<i64>), ApiError> {
    Ok((call.state.accounts.currencies().await?, find_default_location(call, caller).await?))
}

/// Returns the default location of a reseller's groups on an X7 server, which is a setting of the reseller.
async fn find_default_location(call: &CallContext, caller: &Caller) -> Result<Option<i64>, ApiError> {
    if !call.dialect().has_fixed_defaults() || caller.usertype() != UserType::Reseller {
        return Ok(None);
    }
    let settings = call.state.accounts.settings(caller.id()).await?;
    Ok(settings.text(Setting::DefaultDeviceLocation).map(number::parse_integer))
}

/// Creates the group. The statement subtracts the taxes from the price and converts amounts to the system's currency,
/// because PostgreSQL divides decimals exactly.
async fn create(
    connection: &mut PgConnection,
    call: &CallContext,
    caller: &Caller,
    tax_id: i32,
    input: &Input,
) -> Result<(), ApiError> {
    let inserted = sqlx::query!(
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
        input.name,
        input.description,
        caller.owner_id(),
        tax_id,
        input.tariff,
        input.lcr,
        input.location,
        input.currency,
        input.flags[0],
        input.flags[1],
        input.flags[2],
        input.flags[3],
        input.flags[4],
        input.flags[5],
        input.flags[6],
        input.valid_from,
        input.valid_till,
        input.valid_after_first_use,
        input.pin_length,
        input.number_length,
        input.ghost_min_perc,
        input.ghost_balance_perc,
        input.price,
        input.setup_fee,
        input.daily_charge,
        input.rate,
        call.dialect().stores_net_prices()
    )
    .execute(connection)
    .await
    .map_err(map_constraint([("cardgroups_name", ApiError::CardGroupNameTaken)], ApiError::from))?;
    // No row: taxes of -100 % or less, which would change the sign of the price.
    if inserted.rows_affected() == 0 {
        return Err(ApiError::TransactionFailed);
    }
    Ok(())
}

/// Creates the group's tax row: a copy of the named one, or one with the sent values.
async fn create_tax_row(connection: &mut PgConnection, taxes: &Taxes) -> sqlx::Result<i32> {
    let Taxes { source_id, total_name, names, values, enabled, compound } = taxes;
    if let Some(source_id) = source_id {
        return sqlx::query_scalar!(r#"select copy_taxes(t) as "id!" from taxes t where id = $1"#, source_id)
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
