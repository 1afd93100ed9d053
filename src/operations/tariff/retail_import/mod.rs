//! `tariff_retail_import` (`import_tariff_retail`): creates a retail tariff, or adds rates to one, from an XML
//! document.
//! Contract: `endpoints/tariff_retail_import.md`.
//!
//! [`document`] reads the document, [`rules`] and [`fields`] decide about its rates, [`rows`] reads and writes the
//! database, [`refusals`] and [`report`] collect the reply, [`order`] says for whom, and [`import`] joins them.
//! `http::upload` receives the document.

use std::borrow::Cow;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::accounts::UserType;
use crate::auth::admission;
use crate::auth::caller::{Caller, RIGHT_EDIT, rights};
use crate::auth::signature::HashRule;
use crate::error::ApiError;
use crate::http::context::{Access, CallContext, Operation};
use crate::idempotency::{ChangeOutcome, Idempotency};
use crate::operations::spec::{OperationSpec, ParamType, Parameter, ReplyType};
use crate::operations::tariff::retail_import::document::{Destination, Head, ReadError, Source};
use crate::operations::tariff::retail_import::order::Import;
use crate::operations::tariff::retail_import::report::{Outcome, Report};
use crate::spool::{self, Spooled};
use crate::xml::XmlReply;

pub mod document;
pub mod fields;
pub mod import;
pub mod order;
pub mod refusals;
pub mod report;
pub mod rows;
pub mod rules;
mod syntax;

/// The operation's description and handler.
pub const OPERATION: Operation = Operation {
    name: "tariff_retail_import",
    aliases: &["import_tariff_retail"],
    hash_rules: &[HashRule::ParamOrder(&[])],
    spec: OperationSpec {
        summary: "Creates a retail tariff, or adds rates to one",
        description: "Reads a tariff as an XML document. A tariff with the document's id and name gets the rates; if \
            no tariff has this id, one is created, with another id. Each destination is a destination group, by \
            name. The reply lists the destinations and rates that were not written. Everything is written in one transaction. \
            The body may be much larger than that of other operations (setting max_import_body); send u and hash in \
            the query string, so that a request without them is refused before its body is sent.",
        parameters: &[&[Parameter::new(
            "xml",
            ParamType::Document,
            "The document: a parameter, a multipart field or a multipart file of this name.",
            "<tariff><id>0</id><name>Imported</name><destinations><destination>\
             <destination_group_name>Lithuania - Fixed</destination_group_name><rates><rate_price>0.02</rate_price>\
             <rate_round_by>1</rate_round_by><rate_duration>-1</rate_duration><rate_type>minute</rate_type>\
             <rate_start_time>00:00:00</rate_start_time><rate_end_time>23:59:59</rate_end_time><day_type></day_type>\
             </rates></destination></destinations></tariff>",
        )
        .required()]],
        reply_type: ReplyType::Xml,
        is_mutation: true,
        example_reply: "<response>
  <tariff_id>9</tariff_id>
  <tariff_name>Imported</tariff_name>
  <bad_destinations>
  </bad_destinations>
  <destination_with_day_type_collision>
  </destination_with_day_type_collision>
  <destination_with_bad_rates>
  </destination_with_bad_rates>
  <destination_with_time_collisions_in_xml>
  </destination_with_time_collisions_in_xml>
  <destination_with_time_collisions_in_db>
  </destination_with_time_collisions_in_db>
</response>",
    },
    access: Access::Own(authorize),
    handler: |call, caller| Box::pin(handle(call, caller)),
};

/// How long an import waits for another one into the same tariff, or of the same name. Less than the time limit of a
/// statement.
const LOCK_TIMEOUT: &str = "110s";

fn authorize(call: &CallContext, caller: Option<Caller>) -> Result<Caller, ApiError> {
    let caller = caller.ok_or(ApiError::ImportRefused(Cow::Borrowed("Bad login")))?;
    let right = match caller.usertype() {
        _ if call.dialect().lets_every_user_import_tariffs() => return Ok(caller),
        UserType::Admin | UserType::Reseller => return Ok(caller),
        UserType::Accountant if caller.right(rights::TARIFF_MANAGE) == RIGHT_EDIT => return Ok(caller),
        UserType::Accountant => rights::TARIFF_MANAGE,
        UserType::User | UserType::Partner => rights::USER_TYPE,
    };
    admission::log_missing_right(call, &caller, right);
    Err(ApiError::ImportRefused(Cow::Borrowed("Access Denied")))
}

async fn handle(call: &CallContext, caller: &Caller) -> Result<XmlReply, ApiError> {
    let idempotency = Idempotency::new(call, caller).await?;
    let prepare = async {
        let document = call.document.as_ref().filter(|document| document.len > 0);
        let document = document.ok_or(ApiError::ImportDocumentMissing)?;
        let content = SentDocument { content: document.content.clone(), _permit: document.permit.clone() };
        let head = import::check(&content).await?;
        let currencies = call.state.accounts.currencies().await?;
        let owns_tariffs = call.dialect().lets_every_user_import_tariffs();
        let order = Import {
            dialect: call.dialect(),
            author: call.author(caller),
            owner_id: if owns_tariffs { caller.id() } else { caller.owner_id() },
            currency: currencies.user_currency(caller.currency_id()).map(|currency| currency.name.clone()),
            rates_max: call.state.config.max_import_rates.get(),
            lock_timeout: LOCK_TIMEOUT,
        };
        Ok::<_, ApiError>((order, head, content))
    };
    let outcome = idempotency.change(prepare, async |connection, (order, head, content)| {
        let report = Report::new(order.dialect, &call.state.temp_dir);
        let imported = import::import(connection, order, head, content, report).await?;
        let outcome = spool::blocking(|| Outcome::new(imported)).await.map_err(ApiError::from_file_error)?;
        if idempotency.key().is_some() && !outcome.is_storable().map_err(ApiError::from_file_error)? {
            return Err(ApiError::ImportRefused(Cow::Borrowed("Too many refused rates for an idempotency key")));
        }
        Ok(outcome)
    });
    let permit = call.document.as_ref().and_then(|document| document.permit.clone());
    let outcome = match outcome.await? {
        // The client may read slowly.
        ChangeOutcome::Replayed(outcome) => {
            let directory = call.state.temp_dir.clone();
            let outcome = spool::blocking(move || outcome.into_spooled(&directory)).await;
            ChangeOutcome::Replayed(outcome.map_err(ApiError::from_file_error)?)
        }
        outcome => outcome,
    };
    Ok(outcome.render(|outcome| outcome.into_reply(permit)))
}

/// The document of a request. A thread that reads it holds the permit of the import, also after the request has ended.
#[derive(Clone)]
struct SentDocument {
    content: Spooled,
    _permit: Option<Arc<OwnedSemaphorePermit>>,
}

impl Source for SentDocument {
    fn read(&self, receive: impl FnMut(Destination) -> bool) -> Result<Head, ReadError> {
        self.content.read(receive)
    }
}
