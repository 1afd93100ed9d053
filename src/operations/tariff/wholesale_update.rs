//! `tariff_wholesale_update` (`wholesale_tariff`): makes or changes a wholesale tariff.
//! The spec's page: `endpoints/tariff_wholesale_update.md`; the published one: `source/tariff_wholesale_update.txt`.

use sqlx::{PgConnection, PgExecutor};

use crate::accounts::{Currencies, UserType};
use crate::auth::admission::{self, Caller};
use crate::auth::signature::Rule;
use crate::error::{Fault, on_constraints};
use crate::http::context::{Call, Operation};
use crate::idempotency::Once;
use crate::operations::spec::{Kind, Page, Parameter};
use crate::xml::Document;

/// The operation.
pub const OPERATION: Operation = Operation {
    name: "tariff_wholesale_update",
    aliases: &["wholesale_tariff"],
    hashed: &[Rule::Listed(&[]), Rule::AnyOrder(["id", "name", "currency"])],
    page: Page {
        summary: "Makes or changes a wholesale tariff",
        description: "Makes a wholesale tariff where no id is sent, else changes that one and answers without a tariff_id.",
        parameters: &[&[
            Parameter::new("id", Kind::Integer, "The tariff to change; 0 or none: a new one.", "8"),
            Parameter::new("name", Kind::Text, "Its name; a new one must have one.", "Wholesale").usual(),
            Parameter::new("currency", Kind::Text, "An active currency's name; else the caller's.", "USD").usual(),
        ]],
        changes: true,
        reply: "<page>
  <status>ok</status>
  <tariff_id>2</tariff_id>
</page>",
    },
    handler: |call| Box::pin(answer(call)),
};

/// No such wholesale tariff, or not the caller's.
const NOT_FOUND: Fault = Fault::RefusedOnPage("Tariff not found");
/// MOR's column.
const LONGEST_NAME: usize = 255;

async fn answer(call: &Call) -> Result<Document, Fault> {
    let caller = admission::admit(call).await?.filter(may_manage_tariffs).ok_or(Fault::RefusedOnPage("Bad login"))?;
    let once = Once::new(call, &caller).await?;
    once.answer(create_or_update(call, &caller, &once), reply).await
}

/// The new tariff's id; none where one was changed.
async fn create_or_update(call: &Call, caller: &Caller, once: &Once<'_>) -> Result<Option<i64>, Fault> {
    let owner = owner(call, caller);
    let id = call.params.integer("id");
    let currencies = call.app.directory.currencies().await?;
    let mut change = once.begin().await?;
    if id != 0 {
        find(&mut *change, id, owner).await?;
    }
    let wish = Wish::read(&mut change, call, caller, &currencies, (id != 0).then_some(id), owner).await?;
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
fn owner(call: &Call, caller: &Caller) -> i32 {
    let own = caller.usertype() == UserType::Accountant && call.dialect().gives_tariffs_to_accountants();
    if own { caller.id() } else { caller.owner() }
}

async fn find(database: impl PgExecutor<'_>, id: i64, owner: i32) -> Result<(), Fault> {
    sqlx::query!("select id from tariffs where id = $1 and owner_id = $2 and purpose = 'user_wholesale'", id, owner)
        .fetch_optional(database)
        .await?
        .map(drop)
        .ok_or(NOT_FOUND)
}

/// What the tariff is to be called and counted in. Unsent stays as it is.
#[derive(Debug)]
struct Wish {
    name: Option<String>,
    currency: Option<String>,
}

impl Wish {
    /// `id`: of the tariff that is changed; none when one is made. Everything that is wrong is said at once.
    async fn read(
        connection: &mut PgConnection,
        call: &Call,
        caller: &Caller,
        currencies: &Currencies,
        id: Option<i64>,
        owner: i32,
    ) -> Result<Self, Fault> {
        let mut flaws = Vec::new();
        let mut name = call.params.get("name").map(str::to_owned).or_else(|| id.is_none().then(String::new));
        if call.dialect().cuts_long_texts() {
            name = name.map(|name| name.chars().take(LONGEST_NAME).collect());
        }
        match &name {
            None => {}
            Some(name) if name.trim().is_empty() => flaws.push("Name cannot be blank"),
            Some(name) if name.chars().count() > LONGEST_NAME => flaws.push("Name is too long"),
            Some(name) if is_taken(connection, name, id, owner).await? => flaws.push(NOT_UNIQUE),
            Some(_) => {}
        }
        let currency = match call.params.get("currency") {
            Some(any) if call.dialect().takes_any_tariff_currency() => Some(any.chars().take(LONGEST_NAME).collect()),
            Some(name) => {
                let currency = currencies.by_name(name).filter(|currency| currency.active);
                if currency.is_none() {
                    flaws.push("Currency was not found");
                }
                currency.map(|currency| currency.name.clone())
            }
            None if id.is_some() || call.dialect().takes_any_tariff_currency() => None,
            None => currencies.of_user(caller.currency()).map(|currency| currency.name.clone()),
        };
        if flaws.is_empty() { Ok(Self { name, currency }) } else { Err(Fault::TariffNotSaved(flaws)) }
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

async fn create(database: impl PgExecutor<'_>, owner: i32, wish: &Wish) -> Result<i64, Fault> {
    sqlx::query_scalar!(
        "insert into tariffs (name, purpose, owner_id, currency, last_update_date)
         values ($1, 'user_wholesale', $2, $3, now() at time zone 'utc') returning id",
        wish.name.as_deref().unwrap_or_default(),
        owner,
        wish.currency
    )
    .fetch_one(database)
    .await
    .map_err(on_constraints([("tariffs_owner_name", Fault::TariffNotSaved(vec![NOT_UNIQUE]))], Fault::from))
}

async fn update(database: impl PgExecutor<'_>, call: &Call, id: i64, owner: i32, wish: &Wish) -> Result<(), Fault> {
    let changed = sqlx::query!(
        "update tariffs set name = coalesce($2, name), currency = coalesce($3, currency),
             last_update_date = case when $4 then now() at time zone 'utc' else last_update_date end
         where id = $1 and owner_id = $5 and purpose = 'user_wholesale'",
        id,
        wish.name,
        wish.currency,
        call.dialect().dates_tariff_updates(),
        owner
    )
    .execute(database)
    .await
    .map_err(on_constraints([("tariffs_owner_name", Fault::TariffNotSaved(vec![NOT_UNIQUE]))], Fault::from))?;
    if changed.rows_affected() == 1 { Ok(()) } else { Err(NOT_FOUND) }
}

fn reply(made: Option<i64>) -> Document {
    Document::new("page", |page| {
        page.text("status", "ok");
        if let Some(id) = made {
            page.text("tariff_id", id.to_string());
        }
    })
}
