//! `cc_group_create`: creates a card group with its own tax row.
//! Contract: `endpoints/cc_group_create.md`; published page: `source/cc_group_create.txt`.

use std::sync::Arc;

use sqlx::PgConnection;
use sqlx::types::Json;

use super::input::{self, Input};
use super::lookups::Lookups;
use super::parameters::PARAMETERS;
use crate::accounts::{Currencies, Setting, UserType};
use crate::auth::caller::Caller;
use crate::auth::signature::HashRule;
use crate::error::{ApiError, map_constraint};
use crate::http::context::{Access, CallContext, Operation};
use crate::idempotency::Idempotency;
use crate::number;
use crate::operations::spec::{OperationSpec, ParamType, Parameter, ReplyType};
use crate::store::change_log::{RowChange, What};
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
        reply_type: ReplyType::Xml,
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
        let tax_id = input.taxes.create_row(connection).await?;
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

async fn create(
    connection: &mut PgConnection,
    call: &CallContext,
    caller: &Caller,
    tax_id: i32,
    input: &Input,
) -> Result<(), ApiError> {
    let id = sqlx::query_file_scalar!(
        "src/operations/card_group/create.sql",
        Json(input) as _,
        caller.owner_id(),
        tax_id,
        call.dialect().stores_net_prices()
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(map_constraint([("cardgroups_name", ApiError::CardGroupNameTaken)], ApiError::from))?;
    // No row: taxes of -100 % or less, which would change the sign of the price.
    let id = id.ok_or(ApiError::TransactionFailed)?;
    Ok(RowChange::created(What::CardGroup, id).record(connection, &call.author(caller)).await?)
}
