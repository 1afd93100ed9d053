//! The statement of a reseller: what was sold from the reseller's card groups, and the reseller's own balance.

use serde::Serialize;
use sqlx::{PgConnection, PgPool};

use super::period::{Days, Period};
use crate::back_office::BackOfficeError;
use crate::money::Money;

/// The statement.
#[derive(Debug, Serialize)]
pub struct Statement {
    /// The days.
    #[serde(flatten)]
    pub period: Period,
    /// The reseller's id.
    pub user_id: i32,
    /// The reseller's name.
    pub user: String,
    /// The payments for cards of the reseller and for users of the reseller, ordered by kind and currency.
    pub payments: Vec<StatementRow>,
    /// The reseller's own balance.
    pub balance: OwnBalance,
}

/// Sums of payments of one kind in one currency.
#[derive(Debug, Serialize)]
pub struct StatementRow {
    /// `sale`, `top_up` (of a card), `refill` (of a user's balance) or `refund`.
    pub kind: String,
    /// The currency of the amounts.
    pub currency: String,
    /// The number of payments.
    pub count: i64,
    /// The sum of the amounts without tax. Refunds are negative.
    pub amount: Money,
    /// The sum of the taxes. Those of refunds are negative.
    pub tax: Money,
}

/// The balance of a user, in the system's currency. It is counted back from the current balance by the payments since.
/// What other programs change, such as the price of calls, has no payments: it counts as if it was there before the
/// period.
#[derive(Debug, Serialize)]
pub struct OwnBalance {
    /// The system's currency.
    pub currency: String,
    /// At the start of the period.
    pub opening: Money,
    /// What the payments of the period added.
    pub added: Money,
    /// At the end of the period.
    pub closing: Money,
}

/// The reseller, or the admin.
#[derive(Debug, Clone)]
pub struct Owner {
    id: i32,
    username: String,
}

/// Returns the statement of a reseller or of the admin.
///
/// # Errors
///
/// As [`Period::resolve`] and [`Owner::find`].
pub async fn report(pool: &PgPool, name: &str, days: &Days, time_zone: &str) -> Result<Statement, BackOfficeError> {
    let mut connection = pool.acquire().await?;
    let owner = Owner::find(&mut connection, name).await?;
    let period = Period::resolve(&mut connection, days, time_zone).await?;
    drop(connection);
    Ok(report_period(pool, owner, period).await?)
}

/// Returns the statement for a period.
///
/// # Errors
///
/// Database errors.
pub async fn report_period(pool: &PgPool, owner: Owner, period: Period) -> sqlx::Result<Statement> {
    let mut transaction = period.begin(pool).await?;
    // Both queries read one snapshot.
    sqlx::raw_sql("set transaction isolation level repeatable read").execute(&mut *transaction).await?;
    let payments = sqlx::query_as!(
        StatementRow,
        r#"select kind as "kind!", currency, count(*) as "count!", sum(coalesce(amount, 0)) as "amount!: Money",
               sum(coalesce(tax, 0)) as "tax!: Money"
           from payments
           where date_added >= $1::text::timestamp and date_added < $2::text::timestamp and owner_id = $3
               and kind in ('sale', 'top_up', 'refill', 'refund')
           group by kind, currency
           order by array_position(array['sale', 'top_up', 'refill', 'refund'], kind), currency"#,
        period.starts_at,
        period.ends_at,
        owner.id
    );
    let payments = payments.fetch_all(&mut *transaction).await?;
    // A refill adds balance_change. A transfer from a card has none: of an old one, only the amount in the user's
    // currency is known.
    let balance = sqlx::query_as!(
        OwnBalance,
        r#"with added as (
               select coalesce(sum(change) filter (where date_added < $2::text::timestamp), 0) as in_period,
                   coalesce(sum(change), 0) as since
               from (
                   select date_added, case when kind = 'transfer'
                       then coalesce(transferred, divide_rounded(amount, exchange_rate_to(currency)))
                       else coalesce(balance_change, 0) end as change
                   from payments
                   where user_id = $3 and card = 0 and kind is not null
                       -- Not a range of the index of dates: the payments of one user are fewer.
                       and (date_added >= $1::text::timestamp) is true
               ) changes)
           select coalesce((select name from currencies where id = 1), '') as "currency!",
               coalesce(u.balance, 0) - since as "opening!: Money", in_period as "added!: Money",
               coalesce(u.balance, 0) - since + in_period as "closing!: Money"
           from users u, added where u.id = $3::bigint"#,
        period.starts_at,
        period.ends_at,
        i64::from(owner.id)
    );
    let balance = balance.fetch_one(&mut *transaction).await?;
    Ok(Statement { period, user_id: owner.id, user: owner.username, payments, balance })
}

impl Owner {
    /// Finds an owner by the name.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::NotFound`]: there is no such user; [`BackOfficeError::Refused`]: the user is of another type
    /// and owns no card groups.
    pub async fn find(connection: &mut PgConnection, name: &str) -> Result<Self, BackOfficeError> {
        let user = sqlx::query!(
            "select id, username, usertype from users where fold_case(rtrim(username)) = fold_case(rtrim($1)) order by id limit 1",
            name
        );
        let user = user.fetch_optional(connection).await?;
        let user = user.ok_or_else(|| BackOfficeError::NotFound(format!("there is no user {name:?}")))?;
        if !["admin", "reseller"].contains(&user.usertype.as_str()) {
            return Err(BackOfficeError::refused(format!(
                "{} has the type {} and owns no card groups: `mortise report sales --by user` shows what each user sold",
                user.username, user.usertype
            )));
        }
        Ok(Self { id: user.id, username: user.username })
    }

    /// Returns the first 10,000 owners, by their ids; or the only one, with the id `only`.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn list(connection: &mut PgConnection, only: Option<i32>) -> sqlx::Result<Vec<Self>> {
        sqlx::query_as!(
            Owner,
            "select id, username from users
             where usertype in ('admin', 'reseller') and ($1::integer is null or id = $1) order by id limit 10000",
            only
        )
        .fetch_all(connection)
        .await
    }

    /// The id of the user.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// The name of the user.
    pub fn name(&self) -> &str {
        &self.username
    }
}
