//! `cc_group_update`: changes a card group and its taxes. Parameters that are not sent leave their values unchanged.
//! Contract: `endpoints/cc_group_update.md`.

use super::parameters::PARAMETERS;
use super::request::{authorize, group_request};
use crate::auth::caller::Caller;
use crate::auth::signature::HashRule;
use crate::error::ApiError;
use crate::http::context::{Access, CallContext, Operation};
use crate::idempotency::Idempotency;
use crate::operations::spec::{OperationSpec, ParamType, Parameter, ReplyType};
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
    access: Access::Own(authorize),
    handler: |call, caller| Box::pin(handle(call, caller)),
};

async fn handle(call: &CallContext, caller: &Caller) -> Result<XmlReply, ApiError> {
    let idempotency = Idempotency::new(call, caller).await?;
    let updated = idempotency.change(call.state.accounts.currencies(), async |connection, currencies| {
        group_request(call, caller).update(connection, currencies, &call.author(caller)).await
    });
    Ok(updated.await?.render(|()| XmlReply::status("success", "Card Group was successfully updated")))
}
