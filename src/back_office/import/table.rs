//! The temporary table with the lines of an import, where PostgreSQL compares them with each other and with the cards.

use bigdecimal::BigDecimal;
use sqlx::{PgConnection, Row};

use super::line::CardLine;
use super::{ImportOutcome, Progress, REFUSED_LINES_MAX, RefusedLine};
use crate::back_office::{BackOfficeError, pin_capacity};
use crate::store::bulk_create::Group;

/// Cards that one statement creates.
const BATCH_CARDS: i64 = 20_000;

/// Numbers and PINs have the collation of those of cards: with another one, the indexes of `cards` cannot be used.
const CREATE_TABLE: &str = "
    create temporary table card_import_lines (
        line bigint primary key, number text not null, pin text not null, balance numeric not null,
        batch_number text not null, serial text, language text not null, name text not null
    ) on commit drop";
const INSERT_LINES: &str = "
    insert into card_import_lines
    select * from unnest($1::bigint[], $2::text[], $3::text[], $4::numeric[], $5::text[], $6::text[], $7::text[], $8::text[])";

/// Queries that return the first refused lines, with their reasons, and how many there are. $1 is the card group, $2
/// the number of lines to return. `true`: a card has the number or the PIN.
const REFUSAL_QUERIES: [(&str, bool); 4] = [
    (
        "select line, 'number: line ' || first_line || ' has the same' as reason, count(*) over () as total
     from (select line, min(line) over (partition by number) as first_line from card_import_lines) numbered
     where line > first_line and $1::integer is not null order by line limit $2",
        false,
    ),
    (
        "select line, 'pin: line ' || first_line || ' has the same' as reason, count(*) over () as total
     from (select line, min(line) over (partition by pin) as first_line from card_import_lines) numbered
     where line > first_line and $1::integer is not null order by line limit $2",
        false,
    ),
    (
        "select line, 'number: a card has it already' as reason, count(*) over () as total
     from card_import_lines where is_number_used(number, $1::integer) order by line limit $2",
        true,
    ),
    (
        "select line, 'pin: a card has it already' as reason, count(*) over () as total
     from card_import_lines where is_pin_used(pin) and $1::integer is not null order by line limit $2",
        true,
    ),
];
const INSERT_CARDS: &str = "
    insert into cards (number, pin, balance, batch_number, serial, language, name, cardgroup_id, owner_id)
    select number, pin, balance, batch_number, serial, language, name, $3, $4
    from card_import_lines where line > $1 and line <= $2
    order by line";

/// Creates the table. It ends with the transaction.
pub(super) async fn create(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::raw_sql(CREATE_TABLE).execute(connection).await?;
    Ok(())
}

pub(super) async fn insert_lines(connection: &mut PgConnection, batch: Vec<(u64, CardLine)>) -> sqlx::Result<()> {
    let lines: Vec<i64> = batch.iter().map(|(line, _)| i64::try_from(*line).unwrap_or(i64::MAX)).collect();
    let balances: Vec<BigDecimal> = batch.iter().map(|(_, card)| card.balance.clone()).collect();
    let column = |field: fn(&CardLine) -> &str| batch.iter().map(|(_, card)| field(card)).collect::<Vec<_>>();
    let serials: Vec<Option<&str>> = batch.iter().map(|(_, card)| card.serial.as_deref()).collect();
    sqlx::query(INSERT_LINES)
        .bind(lines)
        .bind(column(|card| &card.number))
        .bind(column(|card| card.pin.expose()))
        .bind(balances)
        .bind(column(|card| &card.batch_number))
        .bind(serials)
        .bind(column(|card| &card.language))
        .bind(column(|card| &card.name))
        .execute(connection)
        .await?;
    Ok(())
}

/// Compares the lines with each other and with the cards, and counts the PINs.
pub(super) async fn check(
    connection: &mut PgConnection,
    group: &Group,
    outcome: &mut ImportOutcome,
    hides_used: bool,
) -> Result<(), BackOfficeError> {
    let count = u32::try_from(outcome.lines).unwrap_or(u32::MAX);
    outcome.problem = pin_capacity::refusal(&mut *connection, group.pin_length, count).await?;
    // Each number and PIN is looked up by its index.
    sqlx::raw_sql("set local enable_seqscan = off; analyze card_import_lines").execute(&mut *connection).await?;
    let kept_max = i64::try_from(REFUSED_LINES_MAX).unwrap_or(i64::MAX);
    for (query, is_used) in REFUSAL_QUERIES {
        let rows = sqlx::query(query).bind(group.id).bind(kept_max).fetch_all(&mut *connection).await?;
        outcome.has_used |= is_used && !rows.is_empty();
        if is_used && hides_used {
            continue;
        }
        if let Some(row) = rows.first() {
            outcome.refused_count += u64::try_from(row.try_get::<i64, _>("total")?).unwrap_or(0);
        }
        for row in rows {
            outcome.refused.push(RefusedLine { line: row.try_get("line")?, reason: row.try_get("reason")? });
        }
    }
    outcome.refused.sort_by_key(|refused| refused.line);
    outcome.refused.truncate(REFUSED_LINES_MAX);
    let ends = sqlx::query(
        r#"select min(number collate "C") as first, max(number collate "C") as last from card_import_lines"#,
    );
    let ends = ends.fetch_one(connection).await?;
    (outcome.first, outcome.last) = (ends.try_get("first")?, ends.try_get("last")?);
    Ok(())
}

/// Creates the cards of the lines.
pub(super) async fn create_cards(
    connection: &mut PgConnection,
    group: &Group,
    outcome: &mut ImportOutcome,
    mut progress: impl FnMut(Progress),
) -> Result<(), BackOfficeError> {
    let last_line = sqlx::query("select coalesce(max(line), 0) as line from card_import_lines");
    let last_line: i64 = last_line.fetch_one(&mut *connection).await?.try_get("line")?;
    for after in (0..last_line).step_by(usize::try_from(BATCH_CARDS).unwrap_or(usize::MAX)) {
        let created = sqlx::query(INSERT_CARDS)
            .bind(after)
            .bind(after + BATCH_CARDS)
            .bind(group.id)
            .bind(group.owner_id)
            .execute(&mut *connection)
            .await
            .map_err(|error| match error.as_database_error().is_some_and(|error| error.is_unique_violation()) {
                true => BackOfficeError::refused("a card took one of the numbers or PINs at the same time: try again"),
                false => error.into(),
            })?;
        outcome.created += created.rows_affected();
        progress(Progress::Created(outcome.created, outcome.lines));
    }
    Ok(())
}
