//! `cc_group_create`: creates a card group with its own tax row.
//! Contract: `endpoints/cc_group_create.md`; published page: `source/cc_group_create.txt`.

use std::sync::Arc;

use super::parameters::PARAMETERS;
use super::request::{authorize, group_request};
use crate::accounts::{Currencies, Setting, UserType};
use crate::auth::caller::Caller;
use crate::auth::signature::HashRule;
use crate::error::ApiError;
use crate::http::context::{Access, CallContext, Operation};
use crate::idempotency::Idempotency;
use crate::number;
use crate::operations::spec::{OperationSpec, ParamType, Parameter, ReplyType};
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
    access: Access::Own(authorize),
    handler: |call, caller| Box::pin(handle(call, caller)),
};

async fn handle(call: &CallContext, caller: &Caller) -> Result<XmlReply, ApiError> {
    let idempotency = Idempotency::new(call, caller).await?;
    let created = idempotency.change(prepare(call, caller), async |connection, (currencies, default_location)| {
        let request = group_request(call, caller);
        request.create(connection, currencies, *default_location, &call.author(caller)).await
    });
    Ok(created.await?.render(|_| XmlReply::status("success", "Card Group was successfully created")))
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
