//! Numbers of rows and sums of money on both sides: cards by group, payments by type, currency and year, balances of
//! users, vouchers. The checksums cover the same cells; these are the figures that an operator knows. The states of
//! cards are compared only here: MOR has no column for most of them.

use std::collections::BTreeMap;

use bigdecimal::BigDecimal;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::mor_import::card_states;
use crate::mor_import::checksum::{ComparedTable, Difference};
use crate::mor_import::error::ImportError;
use crate::mor_import::source::{self, Source};
use crate::mor_import::time_zone::TimeZone;

/// Sums of a table. The expressions are valid in both databases; the columns are texts, and NULL is one character.
struct Sums {
    table: &'static str,
    /// What the rows are grouped by.
    key: &'static [&'static str],
    /// The columns whose values are summed.
    money: &'static [&'static str],
    /// Conditions whose rows are counted.
    counted: &'static [(&'static str, &'static str)],
}

const SUMS: [Sums; 4] = [
    Sums {
        table: "cards",
        key: &["cardgroup_id"],
        money: &["balance", "frozen_balance"],
        counted: &[("sold", "sold not in ('0', '')"), ("hidden", "hidden not in ('0', '')")],
    },
    Sums {
        table: "payments",
        key: &["paymenttype", "currency", "date_added"],
        money: &["amount", "tax"],
        counted: &[],
    },
    Sums { table: "users", key: &[], money: &["balance"], counted: &[] },
    Sums {
        table: "vouchers",
        key: &["currency"],
        money: &["credit_with_vat"],
        counted: &[("open", "use_date in ('', '0000-00-00 00:00:00')")],
    },
];

/// Compares the sums of a table.
pub async fn compare(
    source: &mut Source,
    target: &mut PgConnection,
    table: &ComparedTable<'_>,
    zone: &TimeZone,
    run_id: i64,
) -> Result<Vec<Difference>, ImportError> {
    let Some(sums) = SUMS.iter().find(|sums| sums.table == table.name) else { return Ok(Vec::new()) };
    let columns: Vec<_> = table.columns.iter().filter(|column| sums.uses(&column.target.name)).collect();
    let has = |name: &str| columns.iter().any(|column| column.target.name == name);
    let present = |names: &[&'static str]| names.iter().copied().filter(|&name| has(name)).collect::<Vec<_>>();
    let (keys, money) = (present(sums.key), present(sums.money));
    let counted: Vec<_> =
        sums.counted.iter().filter(|(_, condition)| has(condition.split(' ').next().unwrap_or_default())).collect();

    let states: &[&str] = if table.name == "cards" { &card_states::STATES } else { &[] };

    let mut there = {
        let cells: Vec<String> = columns
            .iter()
            .map(|column| {
                let cell = ComparedTable::source_cell(column);
                format!("nullif({cell}, char(30 using utf8mb4)) as {}", source::quote(&column.target.name))
            })
            .collect();
        // Grouped by bytes: the collation of a column could put different texts into one group.
        let key: Vec<String> = keys.iter().map(|name| format!("hex(coalesce({}, char(30)))", prefix(name))).collect();
        let mut values = vec!["count(*)".to_owned()];
        values.extend(
            money
                .iter()
                .map(|name| format!("cast(coalesce(sum(cast({name} as decimal(30, 15))), 0) as decimal(60, 15))")),
        );
        values.extend(counted.iter().map(|(_, condition)| format!("coalesce(sum({}), 0)", coalesced(condition))));
        values.extend(states.iter().map(|state| match *state {
            card_states::FREE => format!("coalesce(sum({}), 0)", card_states::is_free(has)),
            _ => "0".to_owned(),
        }));
        let key = format!("concat_ws(' ', 'sum'{})", key.iter().map(|key| format!(", {key}")).collect::<String>());
        let mut there = BTreeMap::new();
        for condition in table.source_conditions() {
            let sql = format!(
                "select {key}, {} from (select {} from {} where {condition}) as live group by 1",
                values.join(", "),
                cells.join(", "),
                source::quote(table.name)
            );
            for row in source.rows(&sql).await? {
                add(&mut there, row.into_iter().map(Option::unwrap_or_default))?;
            }
        }
        there
    };
    let here = {
        let mut cells: Vec<String> = columns
            .iter()
            .map(|column| format!("nullif({}, chr(30)) as \"{}\"", table.target_cell(column, zone), column.target.name))
            .collect();
        if !states.is_empty() {
            cells.push(format!("live.id, {} as state", card_states::STATE));
        }
        let key: Vec<String> = keys
            .iter()
            .map(|name| format!("upper(encode(convert_to(coalesce({}, chr(30)), 'UTF8'), 'hex'))", prefix(name)))
            .collect();
        let mut values = vec!["count(*)::text".to_owned()];
        values.extend(money.iter().map(|name| format!("round(coalesce(sum({name}::numeric), 0), 15)::text")));
        values.extend(
            counted.iter().map(|(_, condition)| format!("coalesce(sum(({})::integer), 0)::text", coalesced(condition))),
        );
        values.extend(states.iter().map(|state| format!("coalesce(sum((state = '{state}')::integer), 0)::text")));
        let key = format!("concat_ws(' ', 'sum'{})", key.iter().map(|key| format!(", {key}")).collect::<String>());
        let rows = format!("(select {} from {}) row", cells.join(", "), table.target_rows(run_id));
        if !states.is_empty() {
            let first = 1 + money.len() + counted.len();
            for moved in card_states::moved_by_findings(target, &key, &card_states::is_free(has), &rows, run_id).await?
            {
                for (state, cards) in [(card_states::FREE, -moved.from_free), (moved.state.as_str(), moved.cards)] {
                    let index = states.iter().position(|name| *name == state).map(|position| first + position);
                    if let Some(sum) =
                        there.get_mut(&moved.key).zip(index).and_then(|(sums, index)| sums.get_mut(index))
                    {
                        *sum += BigDecimal::from(cards);
                    }
                }
            }
        }
        let sql = format!("select array[{key}, {}] from {rows} group by {key}", values.join(", "));
        let rows: Vec<Vec<String>> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(target).await?;
        let mut here = BTreeMap::new();
        for row in rows {
            add(&mut here, row.into_iter())?;
        }
        here
    };
    let sums = std::iter::once("rows").chain(money.iter().copied()).chain(counted.iter().map(|(name, _)| *name));
    let names: Vec<(&str, &str)> =
        sums.map(|name| (name, "in MOR")).chain(states.iter().map(|state| (*state, "expected"))).collect();
    Ok(differences(table.name, &names, there, here))
}

impl Sums {
    fn uses(&self, column: &str) -> bool {
        let is_counted = self.counted.iter().any(|(_, condition)| condition.starts_with(&format!("{column} ")));
        self.key.contains(&column) || self.money.contains(&column) || is_counted
    }
}

/// The year of a date, else the whole value.
fn prefix(column: &str) -> String {
    if column == "date_added" { format!("left({column}, 4)") } else { column.to_owned() }
}

/// The condition, with NULL as an empty text.
fn coalesced(condition: &str) -> String {
    let (column, rest) = condition.split_once(' ').unwrap_or((condition, ""));
    format!("coalesce({column}, '') {rest}")
}

/// The sums of each key, in the order of their names.
type SumsByKey = BTreeMap<String, Vec<BigDecimal>>;

/// Adds a row, a key and its sums, to the sums of the same key. Refuses a sum that is no number.
fn add(sums: &mut SumsByKey, mut row: impl Iterator<Item = String>) -> Result<(), ImportError> {
    let entry = sums.entry(row.next().unwrap_or_default()).or_default();
    for (index, text) in row.enumerate() {
        let value: BigDecimal =
            text.parse().map_err(|_| ImportError::refused(format!("the sum {text:?} is no number")))?;
        match entry.get_mut(index) {
            Some(sum) => *sum += &value,
            None => entry.push(value),
        }
    }
    Ok(())
}

/// `names`: what each sum is, and what MOR's value is.
fn differences(table: &str, names: &[(&str, &str)], there: SumsByKey, mut here: SumsByKey) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut add = |key: &str, text: String| {
        let text = format!("{}{text}", describe_key(key));
        differences.push(Difference { table: table.to_owned(), id: None, column: None, text, changed_in: None });
    };
    for (key, there) in there {
        let here = here.remove(&key).unwrap_or_default();
        for (index, (name, origin)) in names.iter().enumerate() {
            let value = |row: &[BigDecimal]| row.get(index).cloned().unwrap_or_default();
            let (there, here) = (value(&there), value(&here));
            if there != here {
                let [there, here] = [there, here].map(|value| value.to_plain_string());
                add(&key, format!("{name}: {there} {origin}, {here} in Mortise"));
            }
        }
    }
    for key in here.into_keys() {
        add(&key, "rows in Mortise only".to_owned());
    }
    differences
}

fn describe_key(key: &str) -> String {
    let parts = key.split(' ').skip(1).map(|part| match hex::decode(part) {
        Ok(bytes) if bytes == [30] => "NULL".to_owned(),
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => part.to_owned(),
    });
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() { String::new() } else { format!("{}: ", parts.join(", ")) }
}
