//! `cc_group_update`: changes a card group and its taxes. Parameters that are not sent leave their values unchanged.
//! Contract: `endpoints/cc_group_update.md`.

use sqlx::PgConnection;
use sqlx::types::Json;

use super::input::{self, Input};
use super::lookups::{ExistingGroup, Lookups};
use super::parameters::PARAMETERS;
use super::taxes::Taxes;
use crate::auth::caller::Caller;
use crate::auth::signature::HashRule;
use crate::error::{ApiError, map_constraint};
use crate::http::context::{Access, CallContext, Operation};
use crate::idempotency::Idempotency;
use crate::number;
use crate::operations::spec::{OperationSpec, ParamType, Parameter, ReplyType};
use crate::store;
use crate::store::change_log::{RowChange, What};
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
        reply_type: ReplyType::Xml,
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
        let change = RowChange::begin(connection, What::CardGroup, existing.id).await?;
        let tax_id = write_taxes(connection, call, &existing, &input.taxes).await?;
        write(connection, call, existing.id, tax_id, &input).await?;
        Ok(change.record(connection, &call.author(caller)).await?)
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
    taxes.write(connection, target_id, taxes.source_id.unwrap_or(target_id)).await?;
    Ok(target_id)
}

async fn write(
    connection: &mut PgConnection,
    call: &CallContext,
    group_id: i32,
    tax_id: i32,
    input: &Input,
) -> Result<(), ApiError> {
    let changed = sqlx::query_file!(
        "src/operations/card_group/update.sql",
        Json(input) as _,
        group_id,
        tax_id,
        call.dialect().stores_net_prices()
    )
    .execute(connection)
    .await
    .map_err(map_constraint([("cardgroups_name", ApiError::CardGroupNameTaken)], ApiError::from))?;
    // No row: taxes of -100 % or less, which would change the sign of the price.
    if changed.rows_affected() == 1 { Ok(()) } else { Err(ApiError::TransactionFailed) }
}
