//! `cc_group_update`: changes a card group and its taxes. Parameters that are not sent leave their values unchanged.
//! Contract: `endpoints/cc_group_update.md`.

use sqlx::PgConnection;

use super::input::{self, Input, Taxes};
use super::lookups::{ExistingGroup, Lookups};
use super::parameters::PARAMETERS;
use crate::auth::caller::Caller;
use crate::auth::signature::HashRule;
use crate::error::{ApiError, map_constraint};
use crate::http::context::{Access, CallContext, Operation};
use crate::idempotency::Idempotency;
use crate::number;
use crate::operations::spec::{OperationSpec, ParamType, Parameter};
use crate::store;
use crate::xml::XmlReply;

/// The operation's description and handler.
pub const OPERATION: Operation = Operation {
    name: "cc_group_update",
    aliases: &[],
    hash_rules: &[HashRule::Exactly(&["cc_group_id"])],
    spec: OperationSpec {
        summary: "Changes a card group",
        description: "Changes the sent values of a card group and its taxes. A parameter that is not sent or is blank \
            stays unchanged. After an error nothing is changed.",
        parameters: &[
            &[
                Parameter::new("cc_group_id", ParamType::Integer, "The card group.", "3").required(),
                Parameter::new("name", ParamType::Text, "The name; no other group may have it.", "Caller ID cards"),
            ],
            PARAMETERS,
        ],
        is_mutation: true,
        example_reply: "<page>
  <status>
    <success>Card Group was successfully updated</success>
  </status>
</page>",
    },
    access: Access::Own(input::authorize),
    handler: |call, caller| Box::pin(handle(call, caller)),
};

async fn handle(call: &CallContext, caller: &Caller) -> Result<XmlReply, ApiError> {
    let idempotency = Idempotency::new(call, caller).await?;
    let updated = idempotency.change(call.state.accounts.currencies(), async |connection, currencies| {
        let existing = find(connection, call, caller).await?;
        let lookups = Lookups::load(&mut *connection, call, caller, None, Some(&existing)).await?;
        let input = Input::read(call, caller, currencies, &lookups, Some(&existing))?;
        let tax_id = write_taxes(connection, call, &existing, &input.taxes).await?;
        write(connection, call, existing.id, tax_id, &input).await
    });
    Ok(updated.await?.render(|()| XmlReply::status("success", "Card Group was successfully updated")))
}

/// Finds and locks the group. It must not be hidden. It must belong to the caller's owner, unless the caller is the
/// admin.
async fn find(connection: &mut PgConnection, call: &CallContext, caller: &Caller) -> Result<ExistingGroup, ApiError> {
    let id = call.params.get("cc_group_id").filter(|id| call.dialect().is_valid_id(id));
    sqlx::query_as!(
        ExistingGroup,
        r#"select id, tax_id, extract(epoch from valid_from)::bigint as valid_from, extract(epoch from valid_till)::bigint as valid_till
           from cardgroups where id = $1::bigint and hidden = 0 and ($2::integer is null or owner_id = $2)
           for no key update"#,
        id.map(number::parse_integer),
        caller.owner_scope()
    )
    .fetch_optional(connection)
    .await?
    .ok_or(ApiError::NotFound("Card Group"))
}

/// Writes the sent tax values. Returns the id of the group's tax row after the change.
async fn write_taxes(
    connection: &mut PgConnection,
    call: &CallContext,
    existing: &ExistingGroup,
    taxes: &Taxes,
) -> Result<i32, ApiError> {
    let own_id = if call.dialect().creates_missing_taxes() {
        store::tax::ensure_taxes(connection, existing.id).await?;
        store::tax::group_tax_id(connection, existing.id).await?
    } else {
        existing.tax_id
    };
    if taxes.is_empty() {
        return Ok(own_id);
    }
    // An X7 server links the named row and writes into it, even if other groups use it.
    let target_id = match taxes.source_id {
        Some(source_id) if call.dialect().shares_tax_rows() => source_id,
        _ if call.dialect().shares_tax_rows() => own_id,
        _ => store::tax::ensure_unshared_row(connection, existing.id).await?,
    };
    sqlx::query!(
        "update taxes set
             total_tax_name = coalesce($3, source.total_tax_name),
             tax1_name = coalesce($4, source.tax1_name), tax2_name = coalesce($5, source.tax2_name),
             tax3_name = coalesce($6, source.tax3_name), tax4_name = coalesce($7, source.tax4_name),
             tax1_value = coalesce($8, source.tax1_value), tax2_value = coalesce($9, source.tax2_value),
             tax3_value = coalesce($10, source.tax3_value), tax4_value = coalesce($11, source.tax4_value),
             tax1_enabled = source.tax1_enabled, tax2_enabled = coalesce($12, source.tax2_enabled),
             tax3_enabled = coalesce($13, source.tax3_enabled), tax4_enabled = coalesce($14, source.tax4_enabled),
             compound_tax = coalesce($15, source.compound_tax)
         from taxes source where taxes.id = $1 and source.id = $2",
        target_id,
        taxes.source_id.unwrap_or(target_id),
        taxes.total_name,
        taxes.names[0],
        taxes.names[1],
        taxes.names[2],
        taxes.names[3],
        taxes.values[0],
        taxes.values[1],
        taxes.values[2],
        taxes.values[3],
        taxes.enabled[1],
        taxes.enabled[2],
        taxes.enabled[3],
        taxes.compound
    )
    .execute(connection)
    .await?;
    Ok(target_id)
}

/// Writes the group's values. The statement subtracts the taxes that the group has after the request from the price and
/// converts amounts to the system's currency, because PostgreSQL divides decimals exactly.
async fn write(
    connection: &mut PgConnection,
    call: &CallContext,
    group_id: i32,
    tax_id: i32,
    input: &Input,
) -> Result<(), ApiError> {
    let changed = sqlx::query!(
        "update cardgroups set
             name = coalesce($2, name), description = coalesce($3, description), tax_id = $4,
             tariff_id = coalesce($5, tariff_id), lcr_id = coalesce($6, lcr_id), location_id = coalesce($7, location_id),
             tell_balance_in_currency = coalesce($8, tell_balance_in_currency),
             use_external_function = coalesce($9::smallint, use_external_function),
             allow_loss_calls = coalesce($10, allow_loss_calls), tell_cents = coalesce($11, tell_cents),
             solo_pinless = coalesce($12, solo_pinless), disable_voucher = coalesce($13, disable_voucher),
             callerid_leave = coalesce($14, callerid_leave),
             disable_topup_from_cards_with_cid = coalesce($15, disable_topup_from_cards_with_cid),
             valid_from = coalesce(to_timestamp($16::bigint) at time zone 'utc', valid_from),
             valid_till = coalesce(to_timestamp($17::bigint) at time zone 'utc', valid_till),
             valid_after_first_use = coalesce($18, valid_after_first_use),
             ghost_min_perc = coalesce($19, ghost_min_perc), ghost_balance_perc = coalesce($20, ghost_balance_perc),
             price = case when $21::numeric is null then price
                 else divide_rounded($21, $24::numeric * case when $25 then 1 + effective_tax_rate($4, owner_id) else 1 end) end,
             setup_fee = case when $22::numeric is null then setup_fee else divide_rounded($22, $24) end,
             daily_charge = case when $23::numeric is null then daily_charge else divide_rounded($23, $24) end
         where id = $1 and ($21::numeric is null or not $25 or effective_tax_rate($4, owner_id) > -1)",
        group_id,
        input.name,
        input.description,
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
    if changed.rows_affected() == 1 { Ok(()) } else { Err(ApiError::TransactionFailed) }
}
