//! `tariff_rates_get` (`get_tariff`): all rates of a tariff, as a zip file unless `test=1`. The reply is streamed, so
//! that it needs little memory. Contract: `endpoints/tariff_rates_get.md`.

mod stream;
mod text;

use sqlx::PgConnection;

use crate::accounts::{Setting, UserType};
use crate::auth::caller::Caller;
use crate::auth::signature::HashRule;
use crate::error::ApiError;
use crate::http::context::{Access, CallContext, Operation};
use crate::number;
use crate::operations::spec::{OperationSpec, ParamType, Parameter, ReplyType};
use crate::xml::{FileReply, XmlReply};

pub use self::text::{RateTextFormat, text_chunks};

/// The operation's description and handler.
pub const OPERATION: Operation = Operation {
    name: "tariff_rates_get",
    aliases: &["get_tariff"],
    hash_rules: &[HashRule::ParamOrder(&[])],
    spec: OperationSpec {
        summary: "Lists the rates of a tariff",
        description: "Lists all rates of a tariff: of the named user, else the named one, else the caller's own. The \
            reply is a zip file with one XML file; with test=1 it is the XML text.",
        parameters: &[&[
            Parameter::new("user_id", ParamType::Integer, "The user whose tariff is listed, with custom rates.", "4"),
            Parameter::new("tariff_id", ParamType::Integer, "The tariff; ignored if user_id is sent.", "8")
                .in_example(),
        ]],
        is_mutation: false,
        reply_type: ReplyType::ZipOrXml,
        example_reply: EXAMPLE_REPLY,
    },
    access: Access::Own(authorize),
    handler: |call, caller| Box::pin(handle(call, caller)),
};

/// The reply to the example, without the XML declaration.
const EXAMPLE_REPLY: &str = include_str!("example.xml");

fn authorize(_: &CallContext, caller: Option<Caller>) -> Result<Caller, ApiError> {
    caller.ok_or(ApiError::TariffRatesRefused("Bad login"))
}

async fn handle(call: &CallContext, caller: &Caller) -> Result<XmlReply, ApiError> {
    let mut connection = call.state.pool.acquire().await?;
    let list = find_list(&mut connection, call, caller).await?;
    connection.release_clean();
    let list = list.ok_or(ApiError::TariffRatesRefused("No tariff found"))?;
    let format = RateTextFormat {
        nice_digits: call.system_settings.nice_digits(),
        shows_effective_from: call.dialect().shows_effective_from(),
    };
    let permit = call.acquire_stream_permit(caller.id()).await?;
    let connection = call.state.pool.acquire().await?;
    let text = stream::stream_text(connection, permit, list, format, call.state.config.stream_timeout);
    Ok(XmlReply::File(FileReply::of_tariff(text)))
}

/// The list of rates that a request gets.
#[derive(Debug, Clone)]
pub struct RateList {
    /// The tariff.
    pub tariff_id: i64,
    /// `tariffs.name`.
    pub name: String,
    /// `tariffs.purpose`: `user` is a retail tariff.
    pub purpose: String,
    /// `tariffs.currency`.
    pub currency: Option<String>,
    /// Whether the tariff is a retail tariff: its rates name destination groups.
    pub is_retail: bool,
    /// The user whose custom rates are listed before those of the retail tariff.
    pub custom_rates: Option<CustomRates>,
}

/// The custom rates of a user.
#[derive(Debug, Clone)]
pub struct CustomRates {
    /// The user.
    pub user_id: i32,
    /// The name of the user's currency.
    pub currency: Option<String>,
}

/// Finds the tariff that the caller asks for. `None`: it does not exist, or the caller may not see it.
async fn find_list(
    connection: &mut PgConnection,
    call: &CallContext,
    caller: &Caller,
) -> sqlx::Result<Option<RateList>> {
    if let Some(user_id) = id_param(call, "user_id") {
        return find_of_user(connection, call, caller, user_id).await;
    }
    let tariff_id = id_param(call, "tariff_id");
    match (caller.usertype(), tariff_id) {
        (UserType::Admin, Some(id)) => find(connection, id).await,
        (UserType::Reseller, Some(id)) => find_for_reseller(connection, call, caller, id).await,
        (_, None) => find_of_user(connection, call, caller, i64::from(caller.id())).await,
        // Others get their own tariff, whatever they ask for, but then without custom rates.
        (_, Some(_)) => {
            let list = find_of_user(connection, call, caller, i64::from(caller.id())).await?;
            Ok(list.map(|list| RateList { custom_rates: None, ..list }))
        }
    }
}

/// Reads an id that consists of digits; an empty one is 0. Any other text counts as not sent.
fn id_param(call: &CallContext, name: &str) -> Option<i64> {
    let text = call.params.get(name)?;
    (text.is_empty() || number::is_digits(text)).then(|| number::parse_integer(text))
}

/// Finds a tariff.
///
/// # Errors
///
/// Database errors.
pub async fn find(connection: &mut PgConnection, tariff_id: i64) -> sqlx::Result<Option<RateList>> {
    let row = sqlx::query!(
        "select id, name, purpose, purpose = 'user' as \"is_retail!\", currency from tariffs where id = $1",
        tariff_id
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| RateList {
        tariff_id: row.id,
        name: row.name,
        purpose: row.purpose,
        currency: row.currency,
        is_retail: row.is_retail,
        custom_rates: None,
    }))
}

/// Finds a tariff that the reseller may see.
async fn find_for_reseller(
    connection: &mut PgConnection,
    call: &CallContext,
    caller: &Caller,
    tariff_id: i64,
) -> sqlx::Result<Option<RateList>> {
    let is_visible = sqlx::query_scalar!(
        r#"select t.owner_id = $2
               or $3 and t.owner_id = 0 and t.purpose <> 'provider'
               or $4 and exists (select from users u where u.id = $2 and u.tariff_id = t.id) as "is_visible!"
           from tariffs t where t.id = $1 and t.owner_id is not null"#,
        tariff_id,
        caller.id(),
        call.system_settings.is_enabled(Setting::AllowResellersAdminTariffs),
        call.dialect().shows_assigned_tariff_to_resellers()
    )
    .fetch_optional(&mut *connection)
    .await?;
    if is_visible == Some(true) { find(connection, tariff_id).await } else { Ok(None) }
}

/// Finds the tariff of a user whose tariff the caller may see.
async fn find_of_user(
    connection: &mut PgConnection,
    call: &CallContext,
    caller: &Caller,
    user_id: i64,
) -> sqlx::Result<Option<RateList>> {
    let Ok(user_id) = i32::try_from(user_id) else { return Ok(None) };
    let user = sqlx::query!(
        r#"select u.tariff_id, coalesce(u.owner_id, 0) as "owner_id!", c.name as "currency?",
               exists (select from customrates r where r.user_id = u.id) as "has_custom_rates!"
           from users u left join currencies c on c.id = u.currency_id where u.id = $1"#,
        user_id
    )
    .fetch_optional(&mut *connection)
    .await?;
    let may_see = |owner_id: i32| {
        user_id == caller.id()
            || call.dialect().shows_tariff_of_any_user()
            || match caller.usertype() {
                UserType::Admin => true,
                UserType::Accountant => owner_id == 0,
                UserType::Reseller => owner_id == caller.id(),
                UserType::User | UserType::Partner => false,
            }
    };
    let Some(user) = user.filter(|user| may_see(user.owner_id)) else { return Ok(None) };
    let list = find(connection, user.tariff_id).await?;
    let custom_rates = user.has_custom_rates.then_some(CustomRates { user_id, currency: user.currency });
    Ok(list.map(|list| RateList { custom_rates: custom_rates.filter(|_| list.is_retail), ..list }))
}
