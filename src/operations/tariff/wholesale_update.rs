//! `tariff_wholesale_update` (`wholesale_tariff`): makes or changes a wholesale tariff.
//! The spec's page: `endpoints/tariff_wholesale_update.md`; the published one: `source/tariff_wholesale_update.txt`.

use sqlx::{PgConnection, PgExecutor};

use crate::accounts::{Currencies, UserType};
use crate::auth::admission::{self, Caller};
use crate::auth::signature::HashRule;
use crate::error::{ApiError, map_constraint};
use crate::http::context::{CallContext, Operation};
use crate::idempotency::Idempotency;
use crate::operations::spec::{OperationSpec, ParamType, Parameter};
use crate::xml::XmlReply;

/// The operation.
pub const OPERATION: Operation = Operation {
    name: "tariff_wholesale_update",
    aliases: &["wholesale_tariff"],
    hash_rules: &[HashRule::ParamOrder(&[]), HashRule::AnyOrder(["id", "name", "currency"])],
    spec: OperationSpec {
        summary: "Makes or changes a wholesale tariff",
        description: "Makes a wholesale tariff where no id is sent, else changes that one and answers without a tariff_id.",
        parameters: &[&[
            Parameter::new("id", ParamType::Integer, "The tariff to change; 0 or none: a new one.", "8"),
            Parameter::new("name", ParamType::Text, "Its name; a new one must have one.", "Wholesale").in_example(),
            Parameter::new("currency", ParamType::Text, "An active currency's name; else the caller's.", "USD")
                .in_example(),
        ]],
        is_mutation: true,
        example_reply: "<page>
  <status>ok</status>
  <tariff_id>2</tariff_id>
</page>",
    },
    handler: |call| Box::pin(handle(call)),
};

/// No such wholesale tariff, or not the caller's.
const NOT_FOUND: ApiError = ApiError::RefusedWithoutStatus("Tariff not found");
/// MOR's column.
const NAME_LEN_MAX: usize = 255;

async fn handle(call: &CallContext) -> Result<XmlReply, ApiError> {
    let caller = admission::authenticate(call)
        .await?
        .filter(may_manage_tariffs)
        .ok_or(ApiError::RefusedWithoutStatus("Bad login"))?;
    let once = Idempotency::new(call, &caller).await?;
    once.replay_or_run(create_or_update(call, &caller, &once), render_reply).await
}

/// The new tariff's id; none where one was changed.
async fn create_or_update(
    call: &CallContext,
    caller: &Caller,
    once: &Idempotency<'_>,
) -> Result<Option<i64>, ApiError> {
    let owner = tariff_owner_id(call, caller);
    let id = call.params.integer("id");
    let currencies = call.state.accounts.currencies().await?;
    let mut change = once.begin().await?;
    if id != 0 {
        check_tariff_exists(&mut *change, id, owner).await?;
    }
    let wish = Input::read(&mut change, call, caller, &currencies, (id != 0).then_some(id), owner).await?;
    let made = match id {
        0 => Some(create(&mut *change, owner, &wish).await?),
        id => update(&mut *change, call, id, owner, &wish).await.map(|()| None)?,
    };
    change.commit(made).await
}

fn may_manage_tariffs(caller: &Caller) -> bool {
    match caller.usertype() {
        UserType::Admin | UserType::Reseller => true,
        UserType::Accountant => caller.right("tariff_manage") == 2,
        UserType::User | UserType::Partner => false,
    }
}

/// Whose tariffs the caller's are.
fn tariff_owner_id(call: &CallContext, caller: &Caller) -> i32 {
    let own = caller.usertype() == UserType::Accountant && call.dialect().lets_accountants_own_tariffs();
    if own { caller.id() } else { caller.owner_id() }
}

async fn check_tariff_exists(database: impl PgExecutor<'_>, id: i64, owner: i32) -> Result<(), ApiError> {
    sqlx::query!("select id from tariffs where id = $1 and owner_id = $2 and purpose = 'user_wholesale'", id, owner)
        .fetch_optional(database)
        .await?
        .map(drop)
        .ok_or(NOT_FOUND)
}

/// What the tariff is to be called and counted in. Unsent stays as it is.
#[derive(Debug)]
struct Input {
    name: Option<String>,
    currency: Option<String>,
}

impl Input {
    /// `id`: of the tariff that is changed; none when one is made. Everything that is wrong is said at once.
    async fn read(
        connection: &mut PgConnection,
        call: &CallContext,
        caller: &Caller,
        currencies: &Currencies,
        id: Option<i64>,
        owner: i32,
    ) -> Result<Self, ApiError> {
        let mut flaws = Vec::new();
        let mut name = call.params.get("name").map(str::to_owned).or_else(|| id.is_none().then(String::new));
        if call.dialect().truncates_long_text() {
            name = name.map(|name| name.chars().take(NAME_LEN_MAX).collect());
        }
        match &name {
            None => {}
            Some(name) if name.trim().is_empty() => flaws.push("Name cannot be blank"),
            Some(name) if name.chars().count() > NAME_LEN_MAX => flaws.push("Name is too long"),
            Some(name) if is_taken(connection, name, id, owner).await? => flaws.push(NOT_UNIQUE),
            Some(_) => {}
        }
        let currency = match call.params.get("currency") {
            Some(any) if call.dialect().accepts_any_tariff_currency() => Some(any.chars().take(NAME_LEN_MAX).collect()),
            Some(name) => {
                let currency = currencies.by_name(name).filter(|currency| currency.active);
                if currency.is_none() {
                    flaws.push("Currency was not found");
                }
                currency.map(|currency| currency.name.clone())
            }
            None if id.is_some() || call.dialect().accepts_any_tariff_currency() => None,
            None => currencies.user_currency(caller.currency_id()).map(|currency| currency.name.clone()),
        };
        if flaws.is_empty() { Ok(Self { name, currency }) } else { Err(ApiError::TariffNotSaved(flaws)) }
    }
}

const NOT_UNIQUE: &str = "Name must be unique";

/// An owner's tariff names are unique, whatever their purpose.
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

async fn create(database: impl PgExecutor<'_>, owner: i32, wish: &Input) -> Result<i64, ApiError> {
    sqlx::query_scalar!(
        "insert into tariffs (name, purpose, owner_id, currency, last_update_date)
         values ($1, 'user_wholesale', $2, $3, now() at time zone 'utc') returning id",
        wish.name.as_deref().unwrap_or_default(),
        owner,
        wish.currency
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
    wish: &Input,
) -> Result<(), ApiError> {
    let changed = sqlx::query!(
        "update tariffs set name = coalesce($2, name), currency = coalesce($3, currency),
             last_update_date = case when $4 then now() at time zone 'utc' else last_update_date end
         where id = $1 and owner_id = $5 and purpose = 'user_wholesale'",
        id,
        wish.name,
        wish.currency,
        call.dialect().records_tariff_update_date(),
        owner
    )
    .execute(database)
    .await
    .map_err(map_constraint([("tariffs_owner_name", ApiError::TariffNotSaved(vec![NOT_UNIQUE]))], ApiError::from))?;
    if changed.rows_affected() == 1 { Ok(()) } else { Err(NOT_FOUND) }
}

fn render_reply(made: Option<i64>) -> XmlReply {
    XmlReply::new("page", |page| {
        page.text("status", "ok");
        if let Some(id) = made {
            page.text("tariff_id", id.to_string());
        }
    })
}
