//! Carries out an import in a transaction: reads the document in batches, decides, writes.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io;

use sqlx::PgConnection;
use tokio::sync::mpsc;

use crate::error::ApiError;
use crate::number::parse_integer;
use crate::operations::tariff::retail_import::document::{
    DESTINATION_RATES_MAX, Destination, Head, ReadError, ReadFault, Source,
};
use crate::operations::tariff::retail_import::fields::{DayType, TimeRange};
use crate::operations::tariff::retail_import::order::Import;
use crate::operations::tariff::retail_import::refusals::{Counts, Imported, Refusals};
use crate::operations::tariff::retail_import::rows;
use crate::operations::tariff::retail_import::rules::{Group, NewRow, RowChain};
use crate::spool;
use crate::store::change_log::{Change, Target, What};

/// Limits of a batch: destinations, rates, and bytes of texts.
const BATCH_DESTINATIONS: usize = 1_000;
const BATCH_RATES: usize = 10_000;
const BATCH_BYTES: usize = 1024 * 1024;

/// Characters of a tariff's name.
const NAME_LEN_MAX: usize = 255;

/// Reads the whole document and checks everything that needs no database.
///
/// # Errors
///
/// [`ApiError::ImportRefused`] with the reason; [`ApiError::BadRequest`] if the document is not UTF-8.
pub async fn check(source: &impl Source) -> Result<Head, ApiError> {
    check_head(read_head(source).await?)
}

/// Reads the whole document.
///
/// # Errors
///
/// [`ReadError`], with the place of the fault.
pub async fn read_head(source: &impl Source) -> Result<Head, ReadError> {
    let source = source.clone();
    spool::blocking(move || Ok(source.read(|_| true))).await?
}

/// Checks what a document says of its tariff.
///
/// # Errors
///
/// [`ApiError::ImportRefused`] with the reason.
pub fn check_head(head: Head) -> Result<Head, ApiError> {
    for (text, message) in [(&head.id, "No tariff id"), (&head.name, "No tariff name")] {
        if text.trim().is_empty() {
            return Err(refused(message));
        }
    }
    Ok(head)
}

/// Imports a document whose [`Head`] was [checked](check). The caller commits the transaction, or rolls it back: after
/// an error, or to see what an import would do.
///
/// # Errors
///
/// [`ApiError::ImportRefused`] with the reason, and those of the database.
pub async fn import<R: Refusals>(
    connection: &mut PgConnection,
    import: &Import,
    head: &Head,
    source: &impl Source,
    refusals: R,
) -> Result<Imported<R>, ApiError> {
    let TargetTariff { id: tariff_id, name: tariff_name, is_new } =
        lock_or_create_tariff(connection, import, head).await?;
    if head.rates.max(head.destinations) > import.rates_max || head.destination_rates > DESTINATION_RATES_MAX {
        return Err(refused("Too many rates"));
    }
    let counts = Counts { destinations: head.destinations, rates: head.rates, ..Counts::default() };
    let mut decisions = Decisions { reports_dropped: import.dialect.reports_dropped_rates(), counts, refusals };
    if head.destinations > 0 {
        let rates = rows::load_rates(connection, tariff_id).await?;
        let mut tariff = TariffRows { connection, tariff_id, rates, broken: HashMap::new() };
        let mut batches = read_batches(source);
        let mut received = 0;
        while let Some(batch) = batches.recv().await {
            let batch = batch?;
            received += batch.len();
            let loaded = tariff.load(&batch).await?;
            // The rules may need the processor for long.
            let decide = move || decisions.decide(&batch, loaded);
            let decided;
            (decisions, decided) = spool::blocking(decide).await.map_err(ApiError::from_file_error)?;
            tariff.write(decided).await?;
        }
        // The reader may have ended early, for example because the server stops.
        if received != head.destinations {
            return Err(ApiError::TransactionFailed);
        }
    }
    let Decisions { counts, refusals, .. } = decisions;
    if is_new || counts.rates_written > 0 {
        let mut after = serde_json::to_value(counts).map_err(|_| ApiError::TransactionFailed)?;
        if is_new {
            after["is_new"] = true.into();
        }
        let target = Target::Row { id: tariff_id, name: &tariff_name };
        let change = Change { what: What::Tariff, target, before: None, after: Some(after.to_string()) };
        change.record(connection, &import.author).await?;
    }
    Ok(Imported { tariff_id, tariff_name, counts, refusals })
}

fn refused(message: &'static str) -> ApiError {
    ApiError::ImportRefused(Cow::Borrowed(message))
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error.fault {
            ReadFault::Malformed => refused("Bad XML data"),
            ReadFault::NotUtf8 => Self::BadRequest("Parameters are not valid UTF-8"),
            ReadFault::Io(error) => Self::from_file_error(error),
            ReadFault::Stopped => Self::TransactionFailed,
        }
    }
}

/// The tariff that gets the rates.
struct TargetTariff {
    id: i64,
    name: String,
    is_new: bool,
}

/// Returns the tariff that the document names. Its row is locked, so imports into one tariff run one
/// after the other.
async fn lock_or_create_tariff(
    connection: &mut PgConnection,
    import: &Import,
    head: &Head,
) -> Result<TargetTariff, ApiError> {
    let name = import.dialect.fit_to_column(&head.name, NAME_LEN_MAX).ok_or(refused("Tariff name is too long"))?;
    let tariff = rows::lock_tariff(connection, parse_integer(&head.id), import.lock_timeout).await?;
    match tariff.filter(|tariff| tariff.id >= 1) {
        None => {
            let currency = import.currency.as_deref();
            let id = rows::create_tariff(connection, &name, import.owner_id, currency).await?;
            Ok(TargetTariff { id, name, is_new: true })
        }
        Some(tariff) if tariff.owner_id != Some(import.owner_id) => Err(refused("Tariff belongs to other user!")),
        Some(tariff) if tariff.name != name => {
            let message = format!("TARIFF NAME WITH THIS ID DO NOT MATCH !!!FOUND {}", tariff.name);
            Err(ApiError::ImportRefused(Cow::Owned(message)))
        }
        Some(tariff) if tariff.purpose != "user" && !import.dialect.imports_into_any_tariff() => {
            Err(refused("Tariff is not a retail tariff"))
        }
        Some(tariff) => Ok(TargetTariff { id: tariff.id, name, is_new: false }),
    }
}

/// Reads the destinations on a thread of its own, while earlier ones are written.
fn read_batches(source: &impl Source) -> mpsc::Receiver<Result<Vec<Destination>, ReadError>> {
    let (sender, receiver) = mpsc::channel(1);
    let source = source.clone();
    tokio::task::spawn_blocking(move || {
        let (mut batch, mut rates, mut bytes) = (Vec::new(), 0, 0);
        let result = source.read(|destination| {
            rates += destination.rates.len();
            bytes += destination.text_len();
            batch.push(destination);
            if batch.len() < BATCH_DESTINATIONS && rates < BATCH_RATES && bytes < BATCH_BYTES {
                return true;
            }
            (rates, bytes) = (0, 0);
            sender.blocking_send(Ok(std::mem::take(&mut batch))).is_ok()
        });
        // A failed send: the import was given up.
        _ = match result {
            Ok(_) => sender.blocking_send(Ok(batch)),
            Err(error) => sender.blocking_send(Err(error)),
        };
    });
    receiver
}

/// What the tariff has for the destinations of a batch.
struct Loaded {
    /// The group of each destination.
    group_ids: Vec<Option<i32>>,
    /// The chains of rows, each with its group.
    chains: Vec<(i32, RowChain)>,
    /// The chains that the document has broken, each with its group.
    broken: Vec<(i32, (DayType, TimeRange))>,
}

impl Loaded {
    fn groups(&self) -> HashMap<i32, Group> {
        let mut groups: HashMap<i32, Group> = HashMap::new();
        for (group_id, chain) in &self.chains {
            groups.entry(*group_id).or_default().add_chain(*chain);
        }
        for (group_id, chain) in &self.broken {
            groups.entry(*group_id).or_default().mark_broken(*chain);
        }
        groups
    }
}

/// What was decided about the destinations of a batch.
struct Decided {
    groups: HashMap<i32, Group>,
    /// Each with the id of its destination group.
    new_rows: Vec<(i32, NewRow)>,
}

/// The result of the decisions so far.
struct Decisions<R> {
    reports_dropped: bool,
    counts: Counts,
    refusals: R,
}

impl<R: Refusals> Decisions<R> {
    /// Decides about the destinations of a batch. Blocks the thread.
    fn decide(mut self, batch: &[Destination], loaded: Loaded) -> io::Result<(Self, Decided)> {
        let (mut groups, mut new_rows) = (loaded.groups(), Vec::new());
        for (destination, group_id) in batch.iter().zip(loaded.group_ids) {
            let Some(group_id) = group_id else {
                self.counts.unknown_destinations += 1;
                self.refusals.add_unknown(destination)?;
                continue;
            };
            let decision = groups.entry(group_id).or_default().decide(destination, self.reports_dropped);
            self.counts.add(&decision);
            self.refusals.add(destination, &decision)?;
            new_rows.extend(decision.new_rows.into_iter().map(|row| (group_id, row)));
        }
        Ok((self, Decided { groups, new_rows }))
    }
}

/// The rows of the tariff, between the batches of an import.
struct TariffRows<'a> {
    connection: &'a mut PgConnection,
    tariff_id: i64,
    /// The rate of each destination group.
    rates: HashMap<i32, i64>,
    /// The chains of each destination group that the document has broken.
    broken: HashMap<i32, Vec<(DayType, TimeRange)>>,
}

impl TariffRows<'_> {
    /// Returns what the tariff has for the destinations of a batch.
    async fn load(&mut self, batch: &[Destination]) -> Result<Loaded, ApiError> {
        let names: Vec<String> = batch.iter().map(|destination| destination.group_name.clone()).collect();
        let group_ids = rows::find_groups(self.connection, &names).await?;
        let distinct_ids: HashSet<i32> = group_ids.iter().flatten().copied().collect();
        let rate_and_group = |group_id: &i32| Some((*self.rates.get(group_id)?, *group_id));
        let group_of_rate: HashMap<i64, i32> = distinct_ids.iter().filter_map(rate_and_group).collect();
        let rate_ids: Vec<i64> = group_of_rate.keys().copied().collect();
        let chains = match rate_ids.is_empty() {
            true => Vec::new(),
            false => rows::load_chains(self.connection, &rate_ids).await?,
        };
        let chains = chains.into_iter().filter_map(|(rate_id, chain)| Some((*group_of_rate.get(&rate_id)?, chain)));
        let chains = chains.collect();
        let broken_of = |group_id: &i32| Some((*group_id, self.broken.get(group_id)?));
        let broken = distinct_ids.iter().filter_map(broken_of);
        let broken = broken.flat_map(|(group_id, chains)| chains.iter().map(move |chain| (group_id, *chain))).collect();
        Ok(Loaded { group_ids, chains, broken })
    }

    /// Writes the new rows of a batch, and the rates that they need.
    async fn write(&mut self, decided: Decided) -> Result<(), ApiError> {
        for (group_id, group) in decided.groups {
            let broken: Vec<_> = group.broken_chains().collect();
            if !broken.is_empty() {
                self.broken.insert(group_id, broken);
            }
        }
        let mut groups_without_rate = Vec::new();
        for (group_id, _) in &decided.new_rows {
            if let Entry::Vacant(entry) = self.rates.entry(*group_id) {
                groups_without_rate.push(*group_id);
                entry.insert(0);
            }
        }
        if !groups_without_rate.is_empty() {
            self.rates.extend(rows::insert_rates(self.connection, self.tariff_id, &groups_without_rate).await?);
        }
        let rate_of = |(group_id, row): (i32, NewRow)| Some((*self.rates.get(&group_id)?, row));
        let rows: Vec<_> = decided.new_rows.into_iter().filter_map(rate_of).collect();
        if !rows.is_empty() {
            rows::insert_rows(self.connection, &rows).await?;
        }
        Ok(())
    }
}
