//! The steps of an import for one destination, without the database (`tariff_retail_import.md`, "Steps").

use std::collections::HashMap;

use crate::operations::tariff::retail_import::document::{Destination, Rate};
use crate::operations::tariff::retail_import::fields::{DayType, ENDLESS, Fault, TimeRange, ValidRate};

/// The rows that a tariff has for one destination group, as far as the steps need them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Group {
    has_every_day: bool,
    has_day_type: bool,
    chains: HashMap<(DayType, TimeRange), Chain>,
}

/// The rows of one day type and one time range.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Chain {
    /// The `from` of the next row: the seconds of a call after those of all rows; `None` if the chain has no row.
    next_from: Option<i64>,
    /// A row lasts to the end of the call.
    is_endless: bool,
    /// The document has a rate whose duration is no duration.
    is_broken: bool,
}

/// A row of `aratedetails`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named like the columns of aratedetails")]
pub struct Row {
    pub day_type: DayType,
    /// `None`: the row has no times.
    pub range: Option<TimeRange>,
    pub from: i32,
    pub duration: i32,
    pub is_minute: bool,
}

/// All rows of one day type and one time range that a tariff has for a destination group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowChain {
    /// `aratedetails.daytype`
    pub day_type: DayType,
    /// `None`: the rows have no times.
    pub range: Option<TimeRange>,
    /// The seconds of a call after those of all rows, from 1.
    pub next_from: i64,
    /// A row lasts to the end of the call.
    pub is_endless: bool,
}

/// A row to write.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct NewRow {
    pub from: i32,
    pub rate: ValidRate,
}

/// What the steps decide about the rates of a destination.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The number of rates with a day type that collides.
    pub day_type_collisions: usize,
    /// The indexes of the bad rates.
    pub bad_rates: Vec<usize>,
    /// The range of each set of rates that collide.
    pub document_collisions: Vec<TimeRange>,
    /// The range of each rate that collides with rows, and of these rows. Each range once.
    pub row_collisions: Vec<TimeRange>,
    /// The rows to write.
    pub new_rows: Vec<NewRow>,
    /// The index of each rate that is not written, and the first reason. The reply has some of them.
    pub refused: Vec<(usize, Reason)>,
}

/// Why a rate is not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A row has a day type that excludes that of the rate.
    DayType,
    /// Rates of the document collide. Their range.
    DocumentCollision(TimeRange),
    /// The rate collides with rows. Their range.
    RowCollision(TimeRange),
    /// A field breaks its rule.
    Fault(Fault),
    /// An earlier rate of the chain lasts to the end of the call.
    AfterEndless,
    /// An earlier rate of the chain has an invalid duration.
    AfterBroken,
    /// The earlier rates of the chain last for more seconds than the column can store.
    ChainTooLong,
}

impl Group {
    /// Adds a row.
    pub fn add(&mut self, row: Row) {
        // An event takes no time of the call.
        let duration = if row.duration == ENDLESS { 0 } else { row.duration };
        self.add_chain(RowChain {
            day_type: row.day_type,
            range: row.range,
            next_from: (i64::from(row.from) + i64::from(duration)).max(1),
            is_endless: row.is_minute && row.duration == ENDLESS,
        });
    }

    /// Adds the rows of a chain.
    pub fn add_chain(&mut self, rows: RowChain) {
        match rows.day_type {
            DayType::EveryDay => self.has_every_day = true,
            DayType::WorkingDays | DayType::FreeDays => self.has_day_type = true,
        }
        let Some(range) = rows.range else { return };
        let chain = self.chain(rows.day_type, range);
        chain.is_endless |= rows.is_endless;
        chain.next_from = chain.next_from.max(Some(rows.next_from));
    }

    /// Marks a chain to which no more rates can be added.
    pub fn mark_broken(&mut self, (day_type, range): (DayType, TimeRange)) {
        self.chain(day_type, range).is_broken = true;
    }

    /// Iterates over the chains that the document has broken.
    pub fn broken_chains(&self) -> impl Iterator<Item = (DayType, TimeRange)> {
        self.chains.iter().filter(|(_, chain)| chain.is_broken).map(|(key, _)| *key)
    }

    fn chain(&mut self, day_type: DayType, range: TimeRange) -> &mut Chain {
        self.chains.entry((day_type, range)).or_default()
    }

    /// Whether a row has a day type that excludes this one: step 1.
    fn excludes(&self, day_type: &str) -> bool {
        if day_type.is_empty() { self.has_day_type } else { self.has_every_day }
    }

    /// Returns the range of a rate and of the rows that it collides with, if there are any: step 3.
    fn collision(&self, rate: &Rate) -> Option<TimeRange> {
        let range = TimeRange::of_rate(rate)?;
        let with_rows = self.chains.iter().filter(|(_, chain)| chain.next_from.is_some()).map(|(key, _)| key);
        let colliding = with_rows.filter(|(day_type, chain_range)| {
            have_days_in_common(day_type.as_text(), &rate.day_type) && chain_range.collides_with(range)
        });
        colliding.fold(None, |total, (_, chain_range)| {
            let mut total = total.unwrap_or(range);
            total.extend_to(*chain_range);
            Some(total)
        })
    }

    /// Decides about the rates of a destination, and adds the new rows to the group. `report_dropped`: rates that step
    /// 5 drops are reported.
    pub fn decide(&mut self, destination: &Destination, report_dropped: bool) -> Decision {
        let rates = &destination.rates;
        let mut decision = Decision::default();
        let mut remaining = vec![true; rates.len()];
        for (index, _) in rates.iter().enumerate().filter(|(_, rate)| self.excludes(&rate.day_type)) {
            remaining[index] = false;
            decision.day_type_collisions += 1;
            decision.refused.push((index, Reason::DayType));
        }
        for set in colliding_sets(rates) {
            decision.document_collisions.push(set.range);
            for index in set.rates {
                if std::mem::take(&mut remaining[index]) {
                    decision.refused.push((index, Reason::DocumentCollision(set.range)));
                }
            }
        }
        for (index, rate) in rates.iter().enumerate() {
            if let Some(range) = self.collision(rate).filter(|_| remaining[index]) {
                remaining[index] = false;
                decision.refused.push((index, Reason::RowCollision(range)));
                if !decision.row_collisions.contains(&range) {
                    decision.row_collisions.push(range);
                }
            }
        }
        for (index, rate) in rates.iter().enumerate().filter(|(index, _)| remaining[*index]) {
            self.decide_rate(index, rate, report_dropped, &mut decision);
        }
        decision
    }

    /// Steps 4 to 6.
    fn decide_rate(&mut self, index: usize, rate: &Rate, report_dropped: bool, decision: &mut Decision) {
        let rate = match ValidRate::check(rate) {
            Ok(rate) => rate,
            Err(fault) => {
                decision.bad_rates.push(index);
                decision.refused.push((index, Reason::Fault(fault)));
                if let Fault::Duration { range, day_type } = fault {
                    self.mark_broken((day_type, range));
                }
                return;
            }
        };
        let chain = *self.chain(rate.day_type, rate.range);
        let from = match chain {
            Chain { is_endless: true, .. } => Err(Reason::AfterEndless),
            Chain { is_broken: true, .. } => Err(Reason::AfterBroken),
            // No call lasts 68 years: it can only follow an absurd duration.
            Chain { next_from, .. } => i32::try_from(next_from.unwrap_or(1)).map_err(|_| Reason::ChainTooLong),
        };
        let from = match from {
            Ok(from) => from,
            Err(reason) => {
                decision.refused.push((index, reason));
                if report_dropped {
                    decision.bad_rates.push(index);
                }
                return;
            }
        };
        if self.excludes(rate.day_type.as_text()) {
            decision.day_type_collisions += usize::from(report_dropped);
            decision.refused.push((index, Reason::DayType));
            return;
        }
        self.add(Row {
            day_type: rate.day_type,
            range: Some(rate.range),
            from,
            duration: rate.duration,
            is_minute: rate.is_minute,
        });
        decision.new_rows.push(NewRow { from, rate });
    }
}

fn have_days_in_common(one: &str, other: &str) -> bool {
    one == other || one.is_empty() || other.is_empty()
}

/// Rates that collide, directly or through others.
struct CollidingSet {
    range: TimeRange,
    rates: Vec<usize>,
}

/// Returns the sets of rates that collide, in the order of their first rates: step 2.
fn colliding_sets(rates: &[Rate]) -> Vec<CollidingSet> {
    // Equal rates collide with the same others, and not with each other.
    let mut nodes: Vec<(&str, TimeRange)> = Vec::new();
    let mut index_of_node = HashMap::new();
    let timed_rates =
        rates.iter().enumerate().filter_map(|(index, rate)| Some((index, rate, TimeRange::of_rate(rate)?)));
    let node_of_rate: Vec<(usize, usize)> = timed_rates
        .map(|(index, rate, range)| {
            let node = (rate.day_type.as_str(), range);
            let position = *index_of_node.entry(node).or_insert_with(|| {
                nodes.push(node);
                nodes.len() - 1
            });
            (index, position)
        })
        .collect();
    let mut parents: Vec<usize> = (0..nodes.len()).collect();
    let mut collides = vec![false; nodes.len()];
    for (one, (days, range)) in nodes.iter().enumerate() {
        for (other, (other_days, other_range)) in nodes[..one].iter().enumerate() {
            if range.collides_with(*other_range) && have_days_in_common(days, other_days) {
                (collides[one], collides[other]) = (true, true);
                let (one_root, other_root) = (root(&mut parents, one), root(&mut parents, other));
                parents[one_root] = other_root;
            }
        }
    }
    let mut sets: Vec<CollidingSet> = Vec::new();
    let mut set_of_root = HashMap::new();
    for (rate, node) in node_of_rate.into_iter().filter(|(_, node)| collides[*node]) {
        let range = nodes[node].1;
        let position = *set_of_root.entry(root(&mut parents, node)).or_insert_with(|| {
            sets.push(CollidingSet { range, rates: Vec::new() });
            sets.len() - 1
        });
        sets[position].range.extend_to(range);
        sets[position].rates.push(rate);
    }
    sets
}

/// Returns the representative of a set, and shortens the path to it.
fn root(parents: &mut [usize], mut node: usize) -> usize {
    while parents[node] != node {
        parents[node] = parents[parents[node]];
        node = parents[node];
    }
    node
}
