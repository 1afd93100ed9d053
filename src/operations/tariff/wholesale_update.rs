//! `tariff_wholesale_update` (`wholesale_tariff`): creates or changes a wholesale tariff.
//! Contract: `endpoints/tariff_wholesale_update.md`; published page: `source/tariff_wholesale_update.txt`.

use sqlx::{PgConnection, PgExecutor};

use crate::accounts::{Currencies, UserType};
use crate::auth::admission;
use crate::auth::caller::{Caller, RIGHT_EDIT, rights};
use crate::auth::signature::HashRule;
use crate::error::{ApiError, map_constraint};
use crate::http::context::{Access, CallContext, Operation};
use crate::idempotency::Idempotency;
use crate::operations::spec::{OperationSpec, ParamType, Parameter, ReplyType};
use crate::store::change_log::{RowChange, What};
use crate::xml::XmlReply;

/// The operation's description and handler.
pub const OPERATION: Operation = Operation {
    name: "tariff_wholesale_update",
    aliases: &["wholesale_tariff"],
    hash_rules: &[HashRule::ParamOrder(&[]), HashRule::AnyOrder(["id", "name", "currency"])],
    spec: OperationSpec {
        summary: "Creates or changes a wholesale tariff",
        description: "Creates a wholesale tariff if no id is sent. Otherwise changes the tariff with that id; the \
            reply then has no tariff_id.",
        parameters: &[&[
            Parameter::new("id", ParamType::Integer, "The tariff to change; 0 or not sent: create one.", "8"),
            Parameter::new("name", ParamType::Text, "The name of the tariff; required to create one.", "Wholesale")
                .in_example(),
            Parameter::new(
                "currency",
                ParamType::Text,
                "The name of an active currency; default for a new tariff: the caller's currency.",
                "USD",
            )
            .in_example(),
        ]],
        is_mutation: true,
        reply_type: ReplyType::Xml,
        example_reply: "<page>
  <status>ok</status>
  <tariff_id>9</tariff_id>
</page>",
    },
    access: Access::Own(authorize),
    handler: |call, caller| Box::pin(handle(call, caller)),
};

/// The wholesale tariff does not exist or has another owner.
const NOT_FOUND: ApiError = ApiError::RefusedWithoutStatus("Tariff not found");
/// An unknown user, or one without the right to change tariffs.
const BAD_LOGIN: ApiError = ApiError::RefusedWithoutStatus("Bad login");
/// The length of MOR's columns, in characters.
const NAME_LEN_MAX: usize = 255;

fn authorize(call: &CallContext, caller: Option<Caller>) -> Result<Caller, ApiError> {
    let caller = caller.ok_or(BAD_LOGIN)?;
    let right = match caller.usertype() {
        UserType::Admin | UserType::Reseller => return Ok(caller),
        UserType::Accountant if caller.right(rights::TARIFF_MANAGE) == RIGHT_EDIT => return Ok(caller),
        UserType::Accountant => rights::TARIFF_MANAGE,
        UserType::User | UserType::Partner => rights::USER_TYPE,
    };
    admission::log_missing_right(call, &caller, right);
    Err(BAD_LOGIN)
}

async fn handle(call: &CallContext, caller: &Caller) -> Result<XmlReply, ApiError> {
    let idempotency = Idempotency::new(call, caller).await?;
    let (id, owner) = (call.params.integer("id"), tariff_owner_id(call, caller));
    let created_id = idempotency.change(call.state.accounts.currencies(), async |connection, currencies| {
        if id != 0 {
            check_tariff_exists(&mut *connection, id, owner).await?;
        }
        let input = Input::read(connection, call, caller, currencies, (id != 0).then_some(id), owner).await?;
        let author = call.author(caller);
        if id == 0 {
            let id = create(&mut *connection, owner, &input).await?;
            RowChange::created(What::Tariff, id).record(connection, &author).await?;
            return Ok(Some(id));
        }
        let change = RowChange::begin(connection, What::Tariff, id).await?;
        update(&mut *connection, call, id, owner, &input).await?;
        change.record(connection, &author).await?;
        Ok(None)
    });
    Ok(created_id.await?.render(render_reply))
}

/// Returns the owner of the caller's tariffs.
fn tariff_owner_id(call: &CallContext, caller: &Caller) -> i32 {
    let owns_tariffs = caller.usertype() == UserType::Accountant && call.dialect().lets_accountants_own_tariffs();
    if owns_tariffs { caller.id() } else { caller.owner_id() }
}

/// Checks that the tariff exists, and locks it.
async fn check_tariff_exists(database: impl PgExecutor<'_>, id: i64, owner: i32) -> Result<(), ApiError> {
    let tariff = sqlx::query!(
        "select id from tariffs where id = $1 and owner_id = $2 and purpose = 'user_wholesale' for no key update",
        id,
        owner
    );
    tariff.fetch_optional(database).await?.map(drop).ok_or(NOT_FOUND)
}

/// The name and currency to write. When a tariff is changed, `None` keeps the stored value.
#[derive(Debug)]
struct Input {
    name: Option<String>,
    currency: Option<String>,
}

impl Input {
    /// Reads and checks the parameters. `id`: the tariff to change, `None` to create one.
    ///
    /// # Errors
    ///
    /// [`ApiError::TariffNotSaved`] with all messages, not only the first.
    async fn read(
        connection: &mut PgConnection,
        call: &CallContext,
        caller: &Caller,
        currencies: &Currencies,
        id: Option<i64>,
        owner: i32,
    ) -> Result<Self, ApiError> {
        let mut messages = Vec::new();
        let mut name = call.params.get("name").map(str::to_owned).or_else(|| id.is_none().then(String::new));
        if call.dialect().truncates_long_text() {
            name = name.map(|name| name.chars().take(NAME_LEN_MAX).collect());
        }
        match &name {
            None => {}
            Some(name) if name.trim().is_empty() => messages.push("Name cannot be blank"),
            Some(name) if name.chars().count() > NAME_LEN_MAX => messages.push("Name is too long"),
            Some(name) if is_taken(connection, name, id, owner).await? => messages.push(NOT_UNIQUE),
            Some(_) => {}
        }
        let currency = match call.params.get("currency") {
            Some(text) if call.dialect().accepts_any_tariff_currency() => {
                Some(text.chars().take(NAME_LEN_MAX).collect())
            }
            Some(name) => {
                let currency = currencies.by_name(name).filter(|currency| currency.active);
                if currency.is_none() {
                    messages.push("Currency was not found");
                }
                currency.map(|currency| currency.name.clone())
            }
            None if id.is_some() || call.dialect().accepts_any_tariff_currency() => None,
            None => currencies.user_currency(caller.currency_id()).map(|currency| currency.name.clone()),
        };
        if messages.is_empty() { Ok(Self { name, currency }) } else { Err(ApiError::TariffNotSaved(messages)) }
    }
}

const NOT_UNIQUE: &str = "Name must be unique";

/// Whether another tariff of the owner has the name. Names are unique across purposes.
async fn is_taken(database: impl PgExecutor<'_>, name: &str, id: Option<i64>, owner: i32) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from tariffs where owner_id = $1 and name = $2 and id is distinct from $3) as "taken!""#,
        owner,
        name,
        id
    )
    .fetch_one(database)
    .await
}

async fn create(database: impl PgExecutor<'_>, owner: i32, input: &Input) -> Result<i64, ApiError> {
    sqlx::query_scalar!(
        "insert into tariffs (name, purpose, owner_id, currency, last_update_date)
         values ($1, 'user_wholesale', $2, $3, now() at time zone 'utc') returning id",
        input.name.as_deref().unwrap_or_default(),
        owner,
        input.currency
    )
    .fetch_one(database)
    .await
    .map_err(map_constraint([("tariffs_owner_name", ApiError::TariffNotSaved(vec![NOT_UNIQUE]))], ApiError::from))
}

async fn update(
    database: impl PgExecutor<'_>,
    call: &CallContext,
    id: i64,
    owner: i32,
    input: &Input,
) -> Result<(), ApiError> {
    let changed = sqlx::query!(
        "update tariffs set name = coalesce($2, name), currency = coalesce($3, currency),
             last_update_date = case when $4 then now() at time zone 'utc' else last_update_date end
         where id = $1 and owner_id = $5 and purpose = 'user_wholesale'",
        id,
        input.name,
        input.currency,
        call.dialect().records_tariff_update_date(),
        owner
    )
    .execute(database)
    .await
    .map_err(map_constraint([("tariffs_owner_name", ApiError::TariffNotSaved(vec![NOT_UNIQUE]))], ApiError::from))?;
    if changed.rows_affected() == 1 { Ok(()) } else { Err(NOT_FOUND) }
}

fn render_reply(created_id: Option<i64>) -> XmlReply {
    XmlReply::new("page", |page| {
        page.text("status", "ok");
        if let Some(id) = created_id {
            page.text("tariff_id", id.to_string());
        }
    })
}
