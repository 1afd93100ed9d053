//! Mortise's side: the PostgreSQL session of an import, and the tables and columns that it fills.

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use crate::db::session;
use crate::mor_import::error::ImportError;

/// MOR's tables that Mortise has, in an order in which rows can be inserted.
pub const TABLES: [&str; 29] = [
    "currencies",
    "taxes",
    "conflines",
    "acc_groups",
    "acc_rights",
    "acc_group_rights",
    "tariffs",
    "lcrs",
    "locations",
    "addresses",
    "users",
    "cardgroups",
    "cards",
    "payments",
    "ccorders",
    "cclineitems",
    "devices",
    "callerids",
    "providers",
    "vouchers",
    "actions",
    "directions",
    "destinationgroups",
    "destinations",
    "rates",
    "ratedetails",
    "aratedetails",
    "customrates",
    "acustratedetails",
];

/// Tables of Mortise that name cards or payments by id.
pub const DEPENDENT_TABLES: [&str; 3] = ["card_stock", "email_outbox", "idempotency_keys"];

/// How many rows a first start writes into a table. Any row in another table of [`TABLES`] means that the database is
/// in use. The admin has the id 0 and is not counted.
const SEEDED_ROWS: [(&str, i64); 7] = [
    ("currencies", 2),
    ("taxes", 1),
    ("conflines", 17),
    ("acc_rights", 5),
    ("tariffs", 1),
    ("lcrs", 1),
    ("locations", 1),
];

/// Columns that Mortise added to MOR's tables.
const OWN_COLUMNS: [(&str, &str); 15] = [
    ("users", "password_argon2"),
    ("cards", "retired_at"),
    ("cards", "withheld"),
    ("cards", "quarantined_at"),
    ("cards", "serial"),
    ("cards", "shares_number"),
    ("cards", "unblocked_as"),
    ("payments", "kind"),
    ("payments", "reverses"),
    ("payments", "replaces_card"),
    ("payments", "caller_id"),
    ("payments", "reference"),
    ("payments", "balance_change"),
    ("payments", "tax_included"),
    ("payments", "transferred"),
];

/// The settings of the session: no limit of time, and plans that read whole tables.
const SESSION: &str =
    "set statement_timeout = 0; set idle_in_transaction_session_timeout = 0; set lock_timeout = '30s';
    set plan_cache_mode = force_custom_plan; set enable_seqscan = on; set enable_bitmapscan = on;
    set enable_hashjoin = on; set enable_mergejoin = on; set enable_sort = on; set work_mem = '128MB';
    set maintenance_work_mem = '512MB'";

/// How the values of a column are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the types of PostgreSQL")]
pub enum Kind {
    Integer,
    Numeric,
    Text,
    Timestamp,
    Time,
}

/// A column of Mortise that MOR has too.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct TargetColumn {
    pub name: String,
    pub kind: Kind,
    /// The type in PostgreSQL's words.
    pub type_name: String,
    pub is_nullable: bool,
    /// The default, as an SQL expression.
    pub default: Option<String>,
}

/// Opens the connection of an import.
pub async fn connect(pool: &PgPool) -> sqlx::Result<PgConnection> {
    let options: PgConnectOptions = pool.connect_options().as_ref().clone();
    let mut connection = session::connect(&options.application_name(session::IMPORT_NAME)).await?;
    sqlx::raw_sql(SESSION).execute(&mut connection).await?;
    Ok(connection)
}

/// Returns the columns of a table that come from MOR; none if Mortise does not have the table.
pub async fn columns(connection: &mut PgConnection, table: &str) -> Result<Vec<TargetColumn>, ImportError> {
    let rows: Vec<(String, String, bool, Option<String>)> = sqlx::query_as(
        "select attname::text, format_type(atttypid, atttypmod), not attnotnull, pg_get_expr(adbin, adrelid)
         from pg_class
         join pg_attribute on attrelid = pg_class.oid and attnum > 0 and not attisdropped
         left join pg_attrdef on adrelid = attrelid and adnum = attnum
         where relnamespace = quote_ident(current_schema())::regnamespace and relkind = 'r' and relname = $1
         order by attnum",
    )
    .bind(table)
    .fetch_all(connection)
    .await?;
    let from_mor = rows.into_iter().filter(|(name, ..)| !OWN_COLUMNS.contains(&(table, name.as_str())));
    from_mor
        .map(|(name, type_name, is_nullable, default)| {
            let kind = match type_name.as_str() {
                "smallint" | "integer" | "bigint" => Kind::Integer,
                "text" => Kind::Text,
                "timestamp without time zone" => Kind::Timestamp,
                "time without time zone" => Kind::Time,
                numeric if numeric.starts_with("numeric") => Kind::Numeric,
                varying if varying.starts_with("character varying") => Kind::Text,
                other => {
                    return Err(ImportError::refused(format!(
                        "{table}.{name} has the type {other}: run `mortise doctor`"
                    )));
                }
            };
            Ok(TargetColumn { name, kind, type_name, is_nullable, default })
        })
        .collect()
}

/// Returns the tables of Mortise that an import fills or empties.
pub async fn filled_tables(connection: &mut PgConnection) -> sqlx::Result<Vec<&'static str>> {
    let mut tables = Vec::new();
    for name in TABLES.into_iter().chain(DEPENDENT_TABLES) {
        if table_exists(connection, name).await? {
            tables.push(name);
        }
    }
    Ok(tables)
}

/// Returns the name of a table that contains more than a first start writes.
pub async fn find_used_table(connection: &mut PgConnection) -> sqlx::Result<Option<&'static str>> {
    for table in TABLES.into_iter().chain(DEPENDENT_TABLES).chain(["change_log"]) {
        if !table_exists(connection, table).await? {
            continue;
        }
        let condition = match table {
            "users" => "where id <> 0",
            "change_log" => "where what <> 'import'",
            _ => "",
        };
        let rows_max = SEEDED_ROWS.iter().find(|(name, _)| *name == table).map_or(0, |(_, rows)| *rows);
        let sql = format!(
            "select count(*) > {rows_max} from (select from {table} {condition} limit {}) counted",
            rows_max + 1
        );
        if sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut *connection).await? {
            return Ok(Some(table));
        }
    }
    Ok(None)
}

/// Whether the schema of Mortise has this table.
pub async fn table_exists(connection: &mut PgConnection, table: &str) -> sqlx::Result<bool> {
    let exists = sqlx::query_scalar("select to_regclass(format('%I.%I', current_schema(), $1::text)) is not null");
    exists.bind(table).fetch_one(connection).await
}

/// Executes statements.
pub async fn execute(connection: &mut PgConnection, sql: impl Into<String>) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(connection).await.map(|_| ())
}

/// Quotes the name of a table or column.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
