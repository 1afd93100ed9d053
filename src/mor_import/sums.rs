//! Numbers of rows and sums of money on both sides: cards by group, payments by type, currency and year, balances of
//! users, vouchers. The checksums cover the same cells; these are the figures that an operator knows. The states of
//! cards are compared only here: MOR has no column for most of them.

use std::collections::BTreeMap;

use bigdecimal::BigDecimal;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::mor_import::card_states;
use crate::mor_import::checksum::{ComparedTable, Difference};
use crate::mor_import::error::ImportError;
use crate::mor_import::inspect::Column;
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
    let comparison = Comparison::new(sums, table);
    let mut there = comparison.source_sums(source).await?;
    let rows = comparison.target_rows(zone, run_id);
    comparison.move_cards(&mut there, target, &rows, run_id).await?;
    let here = comparison.target_sums(target, &rows).await?;
    Ok(differences(table.name, &comparison.names(), there, here))
}

/// The sums of a table over the columns that MOR has. Each method returns or changes the values of a key in one order:
/// the number of rows, `money`, `counted`, `states`.
struct Comparison<'a> {
    table: &'a ComparedTable<'a>,
    columns: Vec<&'a Column>,
    key: Vec<&'static str>,
    money: Vec<&'static str>,
    counted: Vec<(&'static str, &'static str)>,
    /// The states of cards; none for another table.
    states: &'static [&'static str],
    /// The condition of a free card.
    is_free: String,
}

impl<'a> Comparison<'a> {
    fn new(sums: &'static Sums, table: &'a ComparedTable<'a>) -> Self {
        let columns: Vec<_> = table.columns.iter().copied().filter(|column| sums.uses(&column.target.name)).collect();
        let has = |column: &str| columns.iter().any(|compared| compared.target.name == column);
        let present = |names: &[&'static str]| -> Vec<_> { names.iter().copied().filter(|name| has(name)).collect() };
        let is_present = |condition: &str| has(condition.split(' ').next().unwrap_or_default());
        Self {
            key: present(sums.key),
            money: present(sums.money),
            counted: sums.counted.iter().copied().filter(|(_, condition)| is_present(condition)).collect(),
            states: if table.name == "cards" { &card_states::STATES } else { &[] },
            is_free: card_states::is_free(has),
            table,
            columns,
        }
    }

    /// What each sum is, and what MOR's value is.
    fn names(&self) -> Vec<(&'static str, &'static str)> {
        let counted = self.counted.iter().map(|(name, _)| *name);
        let sums = std::iter::once("rows").chain(self.money.iter().copied()).chain(counted);
        sums.map(|name| (name, "in MOR")).chain(self.states.iter().map(|state| (*state, "expected"))).collect()
    }

    /// Returns MOR's sums. Of the states of cards they have only the free ones.
    async fn source_sums(&self, source: &mut Source) -> Result<SumsByKey, ImportError> {
        let cells: Vec<String> = self
            .columns
            .iter()
            .map(|column| {
                let cell = ComparedTable::source_cell(column);
                format!("nullif({cell}, char(30 using utf8mb4)) as {}", source::quote(&column.target.name))
            })
            .collect();
        // Grouped by bytes: the collation of a column could put different texts into one group.
        let key = self.key(|column| format!("hex(coalesce({column}, char(30)))"));
        let mut values = vec!["count(*)".to_owned()];
        let decimal = |name| format!("cast(coalesce(sum(cast({name} as decimal(30, 15))), 0) as decimal(60, 15))");
        values.extend(self.money.iter().map(decimal));
        values.extend(self.counted.iter().map(|(_, condition)| format!("coalesce(sum({}), 0)", coalesced(condition))));
        values.extend(self.states.iter().map(|state| match *state {
            card_states::FREE => format!("coalesce(sum({}), 0)", self.is_free),
            _ => "0".to_owned(),
        }));
        let mut sums = SumsByKey::new();
        for condition in self.table.source_conditions() {
            let sql = format!(
                "select {key}, {} from (select {} from {} where {condition}) as live group by 1",
                values.join(", "),
                cells.join(", "),
                source::quote(self.table.name)
            );
            for row in source.rows(&sql).await? {
                add(&mut sums, row.into_iter().map(Option::unwrap_or_default))?;
            }
        }
        Ok(sums)
    }

    /// Returns the imported rows as PostgreSQL reads them: a subquery with the texts of the columns, for cards also the
    /// id and the state.
    fn target_rows(&self, zone: &TimeZone, run_id: i64) -> String {
        let cell = |column: &&Column| {
            format!("nullif({}, chr(30)) as \"{}\"", self.table.target_cell(column, zone), column.target.name)
        };
        let mut cells: Vec<String> = self.columns.iter().map(cell).collect();
        if !self.states.is_empty() {
            cells.push(format!("live.id, {} as state", card_states::STATE));
        }
        format!("(select {} from {}) row", cells.join(", "), self.table.target_rows(run_id))
    }

    /// Returns the sums of the imported rows.
    async fn target_sums(&self, target: &mut PgConnection, rows: &str) -> Result<SumsByKey, ImportError> {
        let mut values = vec!["count(*)::text".to_owned()];
        values.extend(self.money.iter().map(|name| format!("round(coalesce(sum({name}::numeric), 0), 15)::text")));
        let counted = |condition: &str| format!("coalesce(sum(({condition})::integer), 0)::text");
        values.extend(self.counted.iter().map(|(_, condition)| counted(&coalesced(condition))));
        values.extend(self.states.iter().map(|state| counted(&format!("state = '{state}'"))));
        let key = self.target_key();
        let sql = format!("select array[{key}, {}] from {rows} group by {key}", values.join(", "));
        let rows: Vec<Vec<String>> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(target).await?;
        let mut sums = SumsByKey::new();
        for row in rows {
            add(&mut sums, row.into_iter())?;
        }
        Ok(sums)
    }

    /// Moves the cards that findings have put into another state, in MOR's sums.
    async fn move_cards(
        &self,
        sums: &mut SumsByKey,
        target: &mut PgConnection,
        rows: &str,
        run_id: i64,
    ) -> Result<(), ImportError> {
        if self.states.is_empty() {
            return Ok(());
        }
        let first = 1 + self.money.len() + self.counted.len();
        let moved = card_states::moved_by_findings(target, &self.target_key(), &self.is_free, rows, run_id).await?;
        for moved in moved {
            for (state, cards) in [(card_states::FREE, -moved.from_free), (moved.state.as_str(), moved.cards)] {
                let index = self.states.iter().position(|name| *name == state).map(|position| first + position);
                let sums = sums.get_mut(&moved.key).zip(index);
                if let Some(sum) = sums.and_then(|(sums, index)| sums.get_mut(index)) {
                    *sum += BigDecimal::from(cards);
                }
            }
        }
        Ok(())
    }

    fn target_key(&self) -> String {
        self.key(|column| format!("upper(encode(convert_to(coalesce({column}, chr(30)), 'UTF8'), 'hex'))"))
    }

    /// Returns the key as an expression of both databases: a word, and each column as `encode` writes it.
    fn key(&self, encode: impl Fn(&str) -> String) -> String {
        let columns: String = self.key.iter().map(|name| format!(", {}", encode(&prefix(name)))).collect();
        format!("concat_ws(' ', 'sum'{columns})")
    }
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
