//! Compares the schema of the database with the schema that the migrations make. A partial restore, or a change by
//! hand, can remove a constraint or a trigger that the correctness of money depends on.

use sqlx::PgExecutor;

/// The query that describes a schema.
const DESCRIPTION_SQL: &str = include_str!("schema.sql");
/// The result of [`DESCRIPTION_SQL`] on a new database, written by `scripts/prepare`.
const EXPECTED_DESCRIPTION: &str = include_str!("schema.txt");

/// An object of the schema: a row of the description.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
struct SchemaObject {
    /// `table`, `column`, `constraint`, `constraint index`, `index`, `trigger`, `function`, `view` or `sequence`.
    kind: String,
    /// The table of the object; its own name if it belongs to no table.
    parent: String,
    name: String,
    /// The SQL statement that creates the object; for functions and views a text to compare.
    definition: String,
    /// What is not part of the definition, for example `not valid`; usually empty.
    state: String,
}

/// A difference between the database and the migrations.
#[derive(Debug)]
pub struct Difference {
    /// What differs, in words.
    pub message: String,
    /// The action for the operator.
    pub advice: String,
    /// How bad the difference is.
    pub severity: Severity,
    /// For a check that is missing or not valid: the query for the ids of the rows that violate it.
    pub violations_query: Option<String>,
}

/// How bad a difference is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The database works correctly for now.
    Minor,
    /// Requests can fail or be slow.
    Major,
    /// Without the object a card can be sold twice, or a payment be lost: the server does not start.
    Critical,
}

impl SchemaObject {
    fn expected() -> impl Iterator<Item = Self> {
        EXPECTED_DESCRIPTION.lines().filter_map(|line| {
            let mut fields = line.split('\t').map(str::to_owned);
            let mut next = || fields.next();
            Some(Self { kind: next()?, parent: next()?, name: next()?, definition: next()?, state: next()? })
        })
    }

    fn is_same_object(&self, other: &Self) -> bool {
        (&self.kind, &self.parent, &self.name) == (&other.kind, &other.parent, &other.name)
    }

    /// Returns the table without which the object cannot exist.
    fn table(&self) -> Option<&str> {
        match self.kind.as_str() {
            "table" | "function" | "view" => None,
            "sequence" => self.definition.split_once(" owned by ")?.1.split('.').next(),
            _ => Some(&self.parent),
        }
    }

    /// Returns the kind and the name, as in "trigger cards.card_stock_update".
    fn label(&self) -> String {
        match self.kind.as_str() {
            "constraint index" => format!("index {}", self.name),
            "column" | "constraint" | "trigger" => format!("{} {}.{}", self.kind, self.parent, self.name),
            kind => format!("{kind} {}", self.name),
        }
    }

    /// The severity if the object is missing, differs or is not in force.
    fn severity(&self) -> Severity {
        let is_unique = ["UNIQUE", "PRIMARY KEY"].iter().any(|word| self.definition.contains(word));
        match self.kind.as_str() {
            "table" | "constraint index" | "trigger" | "function" => Severity::Critical,
            "constraint" | "index" if is_unique => Severity::Critical,
            _ => Severity::Major,
        }
    }

    fn missing(&self) -> Difference {
        let advice = match self.kind.as_str() {
            "column" | "constraint" | "index" => format!("run `{}`", self.definition),
            "trigger" if self.state == "enabled always" => {
                format!("run `{}; {}`", self.definition, self.enable_trigger())
            }
            "trigger" => format!("run `{}`", self.definition),
            _ => "restore it from a backup, or copy it from `pg_dump --schema-only` of a new database".to_owned(),
        };
        self.difference("is missing", advice, self.severity())
    }

    fn differing(&self, found: &Self) -> Difference {
        let (advice, text) = match self.kind.as_str() {
            "function" | "view" => (
                "copy it from `pg_dump --schema-only` of a new database".to_owned(),
                "differs from the migrations".to_owned(),
            ),
            _ => (
                format!("restore the definition `{}`", self.definition),
                format!("differs from the migrations: `{}`", found.definition),
            ),
        };
        self.difference(&text, advice, self.severity())
    }

    /// The object exists with its definition, but is not in force.
    fn inactive(&self, found: &Self) -> Difference {
        let (text, advice, severity) = match (self.kind.as_str(), found.state.as_str()) {
            ("constraint", "not valid") => (
                "has not been validated: rows can violate it".to_owned(),
                format!("correct the rows, then run `alter table {} validate constraint {}`", self.parent, self.name),
                Severity::Minor,
            ),
            ("constraint", _) => (
                "is not enforced: its internal triggers are disabled".to_owned(),
                format!("run `alter table {} enable trigger all` on both tables, as a superuser", self.parent),
                self.severity(),
            ),
            ("index" | "constraint index", _) => {
                ("is invalid".to_owned(), format!("run `reindex index concurrently {}`", self.name), self.severity())
            }
            ("trigger", state) => (
                format!("is {state}, expected {}", self.state),
                format!("run `{}`", self.enable_trigger()),
                self.severity(),
            ),
            (_, state) => (
                format!("has {state}"),
                format!("run `alter table {} disable row level security`", self.parent),
                self.severity(),
            ),
        };
        self.difference(&text, advice, severity)
    }

    /// An object that the migrations do not make, if it can refuse or change what the server writes.
    fn unexpected(&self) -> Option<Difference> {
        let has_effect = match self.kind.as_str() {
            "constraint" | "trigger" => true,
            "index" => self.definition.contains("UNIQUE"),
            "column" => self.definition.contains(" not null") && !self.definition.contains(" default "),
            _ => false,
        };
        has_effect.then(|| {
            let advice = "check that it refuses nothing that the server writes, else drop it";
            let difference = self.difference("is not from the migrations", advice.to_owned(), Severity::Minor);
            Difference { violations_query: None, ..difference }
        })
    }

    fn enable_trigger(&self) -> String {
        let how = if self.state == "enabled always" { "enable always" } else { "enable" };
        format!("alter table {} {how} trigger {}", self.parent, self.name)
    }

    fn difference(&self, text: &str, advice: String, severity: Severity) -> Difference {
        let check = self.definition.split_once(" CHECK ").filter(|_| self.kind == "constraint");
        Difference {
            message: format!("{} {text}", self.label()),
            advice,
            severity,
            violations_query: check.map(|(_, condition)| {
                format!("select id::text from {} where not {condition} order by id limit 11", self.parent)
            }),
        }
    }
}

/// Returns the differences between the database's schema and the migrations of this program, which must be applied.
/// Tables, indexes that are not unique, functions and views that the operator has added are no differences.
pub async fn find_differences(database: impl PgExecutor<'_>) -> sqlx::Result<Vec<Difference>> {
    let found: Vec<SchemaObject> = sqlx::query_as(DESCRIPTION_SQL).fetch_all(database).await?;
    let expected: Vec<SchemaObject> = SchemaObject::expected().collect();
    let has_table = |objects: &[SchemaObject], name: &str| {
        objects.iter().any(|object| object.kind == "table" && object.name == name)
    };
    let mut differences = Vec::new();
    for object in &expected {
        // If its table is missing, only that is a difference.
        if object.table().is_some_and(|table| !has_table(&found, table)) {
            continue;
        }
        let candidates = || found.iter().filter(|found| found.is_same_object(object));
        match candidates().find(|found| found.definition == object.definition).or_else(|| candidates().next()) {
            // Its constraint is missing, which is a difference.
            None if object.kind == "constraint index" => {}
            None => differences.push(object.missing()),
            Some(found) if found.definition != object.definition => differences.push(object.differing(found)),
            Some(found) if found.state != object.state => differences.push(object.inactive(found)),
            Some(_) => {}
        }
    }
    let is_unexpected = |object: &&SchemaObject| {
        has_table(&expected, &object.parent) && !expected.iter().any(|expected| expected.is_same_object(object))
    };
    differences.extend(found.iter().filter(is_unexpected).filter_map(SchemaObject::unexpected));
    Ok(differences)
}
