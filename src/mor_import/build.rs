//! Fills the tables of Mortise from the staged ones, within the caller's transaction. Indexes and foreign keys are
//! dropped before and created again at the end, with the same definitions.

use sqlx::{AssertSqlSafe, PgConnection};

use crate::mor_import::error::ImportError;
use crate::mor_import::inspect::{Column, HISTORY, Inspection, Table};
use crate::mor_import::target::{self, Kind, execute, literal, quote};

/// The statements that drop and create an index or a constraint.
#[derive(sqlx::FromRow)]
struct Definition {
    drop_sql: String,
    create_sql: String,
}

/// Locks the tables of Mortise until the transaction ends: what is found out about them then stays true.
pub async fn lock(target: &mut PgConnection) -> Result<(), ImportError> {
    let tables = target::filled_tables(target).await?;
    execute(target, format!("lock table {} in access exclusive mode", tables.join(", "))).await?;
    Ok(())
}

/// Empties the tables of Mortise and fills them. The caller has [locked](lock) them. Of the log, rows before `history`
/// are left out.
pub async fn build(
    target: &mut PgConnection,
    inspection: &Inspection,
    history: Option<&str>,
) -> Result<(), ImportError> {
    let tables = target::filled_tables(target).await?;
    // A trigger empties the stock with the cards.
    let emptied: Vec<&str> = tables.iter().copied().filter(|table| *table != "card_stock").collect();
    execute(target, format!("truncate {}", emptied.join(", "))).await?;
    let definitions = read_definitions(target, &tables).await?;
    for definition in &definitions {
        execute(target, definition.drop_sql.as_str()).await?;
    }
    let triggers = disable_triggers(target, &tables).await?;
    for table in &inspection.tables {
        insert_rows(target, table, history).await?;
        match table.name {
            "cardgroups" => insert_orphan_groups(target).await?,
            "cards" => mark_shared_numbers(target).await?,
            _ => {}
        }
        // After all rows: the ids of the added groups follow MOR's.
        reset_sequence(target, table).await?;
    }
    // In reverse: a foreign key needs the key that it refers to.
    for definition in definitions.iter().rev() {
        execute(target, definition.create_sql.as_str()).await?;
    }
    // No payment of MOR has a kind: none of these cards was sold here.
    execute(
        target,
        "insert into card_stock (cardgroup_id, number, card_id)
         select cardgroup_id, number, id from cards where is_in_stock(cards) order by cardgroup_id, number collate \"C\", id",
    )
    .await?;
    for trigger in triggers {
        execute(target, trigger).await?;
    }
    Ok(())
}

/// The indexes and constraints that slow inserts down, in the order in which they are dropped: foreign keys first.
async fn read_definitions(target: &mut PgConnection, tables: &[&str]) -> sqlx::Result<Vec<Definition>> {
    sqlx::query_as(
        "with relation as (
             select oid, quote_ident(relname) as name from pg_class
             where relnamespace = quote_ident(current_schema())::regnamespace and relname = any ($1)
                 and relname <> 'card_stock'
         )
         select drop_sql, create_sql
         from (
             select contype <> 'f' as is_late, conname as object_name,
                 format('alter table %s drop constraint %I', relation.name, conname) as drop_sql,
                 format('alter table %s add constraint %I %s', relation.name, conname, pg_get_constraintdef(con.oid))
                     as create_sql
             from relation join pg_constraint con on conrelid = relation.oid
             where contype in ('f', 'u')
             union all
             select true, index.relname, format('drop index %I', index.relname), pg_get_indexdef(index.oid)
             from relation
             join pg_index on indrelid = relation.oid and not indisprimary
             join pg_class index on index.oid = indexrelid
             where not exists (select from pg_constraint where conindid = index.oid and contype in ('p', 'u', 'x'))
         ) definition
         order by is_late, object_name",
    )
    .bind(tables)
    .fetch_all(target)
    .await
}

/// Disables the triggers of the program. Returns the statements that enable them as before.
async fn disable_triggers(target: &mut PgConnection, tables: &[&str]) -> Result<Vec<String>, ImportError> {
    let triggers: Vec<(String, String)> = sqlx::query_as(
        "select format('alter table %I disable trigger %I', relname, tgname),
             format('alter table %I enable %s trigger %I', relname,
                 case tgenabled when 'A' then 'always' when 'R' then 'replica' else '' end, tgname)
         from pg_trigger join pg_class on pg_class.oid = tgrelid
         where relnamespace = quote_ident(current_schema())::regnamespace and relname = any ($1)
             and not tgisinternal and tgenabled <> 'D'",
    )
    .bind(tables)
    .fetch_all(&mut *target)
    .await?;
    let (disable, enable): (Vec<String>, Vec<String>) = triggers.into_iter().unzip();
    for statement in disable {
        execute(target, statement).await?;
    }
    Ok(enable)
}

async fn insert_orphan_groups(target: &mut PgConnection) -> Result<(), ImportError> {
    execute(
        target,
        r#"insert into cardgroups (id, name, description, owner_id, hidden)
           select id, format('Imported orphans %s', owner_id), 'Cards whose group did not exist in MOR', owner_id, 1
           from mor_import.orphan_groups;
           insert into mor_import.findings (rule, "table", id, value, default_action)
           select 'orphan_group', 'cardgroups', id, format('Imported orphans %s', owner_id), 'added'
           from mor_import.orphan_groups"#,
    )
    .await?;
    Ok(())
}

async fn insert_rows(target: &mut PgConnection, table: &Table, history: Option<&str>) -> Result<(), ImportError> {
    let altered: Vec<String> =
        sqlx::query_scalar("select distinct \"column\" from mor_import.cells where \"table\" = $1")
            .bind(table.name)
            .fetch_all(&mut *target)
            .await?;
    let mut names: Vec<String> = table.columns.iter().map(|column| quote(&column.target.name)).collect();
    let mut values: Vec<String> = table.columns.iter().map(|column| value(column, &altered)).collect();
    let mut joins: Vec<String> = altered
        .iter()
        .map(|column| {
            let alias = quote(&format!("cell {column}"));
            format!(
                "left join mor_import.cells {alias} on {alias}.id = staged.id and {alias}.\"table\" = {} and {alias}.\"column\" = {}",
                literal(table.name),
                literal(column)
            )
        })
        .collect();
    if table.name == "cards" {
        joins.push("left join mor_import.card_outcomes outcome on outcome.id = staged.id".to_owned());
        for (column, condition, value) in [
            ("quarantined_at", "outcome.is_quarantined", "now() at time zone 'utc'"),
            ("retired_at", "outcome.is_retired", "now() at time zone 'utc'"),
            ("withheld", "outcome.is_reserved", "'reserved'"),
        ] {
            names.push(column.to_owned());
            values.push(format!("case when {condition} then {value} end"));
        }
    }
    let recent = match history {
        Some(from) if table.name == HISTORY.0 => {
            let date = format!("staged.{}", quote(HISTORY.1));
            format!("(coalesce({date}, '') < '0001' or {date} >= {})", literal(from))
        }
        _ => "true".to_owned(),
    };
    let sql = format!(
        "insert into {name} ({names})
         select {values} from mor_import.{name} staged {joins}
         where {recent} and not exists (
             select from mor_import.left_out where \"table\" = '{name}' and left_out.id = staged.id)",
        name = table.name,
        names = names.join(", "),
        values = values.join(", "),
        joins = joins.join(" ")
    );
    let result = sqlx::raw_sql(AssertSqlSafe(sql)).execute(target).await;
    result.map(|_| ()).map_err(|error| ImportError::refused(format!("the rows of {} are refused: {error}", table.name)))
}

/// Marks the cards with a number of another owner's card: all but those of the owner whose card has the lowest id.
async fn mark_shared_numbers(target: &mut PgConnection) -> Result<(), ImportError> {
    execute(
        target,
        r#"with card as (
               select cards.id, coalesce(owner_id, 0) as owner_id,
                   first_value(coalesce(owner_id, 0)) over (partition by number order by cards.id) as first_owner_id
               from cards join mor_import.findings finding on finding.id = cards.id
               where finding.rule = 'number_other_owner' and finding."table" = 'cards'
           )
           update cards set shares_number = true from card
           where cards.id = card.id and card.owner_id <> card.first_owner_id"#,
    )
    .await?;
    Ok(())
}

/// The SQL expression of the value to store.
fn value(column: &Column, altered: &[String]) -> String {
    let TargetValue { staged, cell } = TargetValue::new(column, altered);
    let convert = |text: String| match column.target.kind {
        Kind::Timestamp if column.is_local_time => format!("mor_import.to_utc({text}::timestamp)"),
        _ => format!("{text}::{}", column.target.type_name),
    };
    match cell {
        None => convert(staged),
        Some(cell) => {
            format!(
                "case when {cell}.id is null then {} else {} end",
                convert(staged),
                convert(format!("{cell}.replacement"))
            )
        }
    }
}

/// Where a value comes from.
struct TargetValue {
    staged: String,
    /// The alias of the joined new values; `None` if no cell of the column was altered.
    cell: Option<String>,
}

impl TargetValue {
    fn new(column: &Column, altered: &[String]) -> Self {
        let name = &column.target.name;
        let cell = altered.contains(name).then(|| quote(&format!("cell {name}")));
        Self { staged: format!("staged.{}", quote(name)), cell }
    }
}

/// Ids continue where MOR's would: the id of a row that was deleted there is not used again.
async fn reset_sequence(target: &mut PgConnection, table: &Table) -> Result<(), ImportError> {
    let sql = format!(
        "select setval(pg_get_serial_sequence('{0}', 'id'),
             greatest((select next_id from mor_import.auto_increments where \"table\" = '{0}'),
                      (select max(id) + 1 from {0})), false)",
        table.name
    );
    execute(target, sql).await?;
    Ok(())
}
