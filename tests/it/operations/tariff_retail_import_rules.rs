//! `tariff_retail_import`: the steps for one destination, without the server. A second, slow implementation follows the
//! text of the contract; both must decide alike.

use mortise::operations::tariff::retail_import::document::{Destination, RATE_FIELDS, Rate};
use mortise::operations::tariff::retail_import::fields::{DayType, Fault, Time, TimeRange, ValidRate};
use mortise::operations::tariff::retail_import::rules::{Decision, Group, Reason, Row};
use proptest::prelude::*;

/// Returns a rate from `price round duration type start end day`; `-` is an empty text.
fn rate(text: &str) -> Rate {
    rate_of(&text.split(' ').collect::<Vec<_>>())
}

fn rate_of(fields: &[&str]) -> Rate {
    let mut fields = fields.iter().map(|field| if *field == "-" { String::new() } else { (*field).to_owned() });
    let mut next = || fields.next().unwrap();
    Rate {
        price: next(),
        round_by: next(),
        duration: next(),
        rate_type: next(),
        start_time: next(),
        end_time: next(),
        day_type: next(),
        line: 0,
    }
}

const VALID: &str = "0.5 60 -1 minute 00:00:00 23:59:59 -";

#[test]
fn field_rules() {
    let valid = |field: usize, values: &[&str]| {
        for value in values {
            let mut fields: Vec<&str> = VALID.split(' ').collect();
            fields[field] = value;
            let checked = ValidRate::check(&rate_of(&fields));
            assert!(checked.is_ok(), "{value}: {checked:?}");
        }
    };
    let invalid = |field: usize, values: &[&str]| {
        for value in values {
            let mut fields: Vec<&str> = VALID.split(' ').collect();
            fields[field] = value;
            let checked = ValidRate::check(&rate_of(&fields));
            assert_eq!(checked, Err(Fault::Field(RATE_FIELDS[field])), "{value}");
        }
    };
    let long_fraction = format!("1.{}", "1".repeat(20_000));
    valid(0, &["0", "-1", "+1", "1.5", "999999999999999", "999999999999999.9999999999999994", &long_fraction, "00.0"]);
    invalid(0, &["-", "abc", "1,5", "1.", ".5", "1e3", "1_0", "--1", "1234567890123456", "0x1", "٣", "1\u{a0}"]);
    // It would be rounded to 16 digits before the point.
    invalid(0, &["999999999999999.9999999999999995", "-999999999999999.9999999999999999"]);
    valid(1, &["0", "1", "60", "999999999", "000000001"]);
    invalid(1, &["-", "-1", "+1", "abc", "1.0", "1234567890", "1_0"]);
    valid(2, &["-1", "60", "61", "2147483647"]);
    invalid(2, &["-", "abc", "1,5", "1e3", "--1", "5 "]);
    valid(3, &["minute", "event"]);
    invalid(3, &["-", "Minute", "minutes"]);
    valid(4, &["00:00:00", "23:59:59"]);
    invalid(4, &["-", "8:00:00", "00:60:00", "00:00:60", "24:00:01", "25:00:00", "aa:00:00", "00-00-00"]);
    valid(5, &["24:00:00", "00:00:00"]);
    invalid(5, &["24:00:01", "23:60:00", "99:99:99", "00:00:0٣"]);
    valid(6, &["-", "WD", "FD"]);
    invalid(6, &["wd", "XX"]);
    // A range that ends before it starts.
    for times in ["12:00:00 11:59:59", "24:00:00 23:59:59"] {
        let checked = ValidRate::check(&rate(&format!("1 60 -1 minute {times} -")));
        assert_eq!(checked, Err(Fault::Field("rate_end_time")));
    }
    // Durations that are numbers.
    for text in ["1 60 0 minute", "1 60 -5 minute", "1 60 59 minute", "1 60 60.5 minute", "1 60 9999999999 minute"] {
        let checked = ValidRate::check(&rate(&format!("{text} 00:00:00 23:59:59 -")));
        assert!(matches!(checked, Err(Fault::Duration { .. })), "{text}: {checked:?}");
    }
    assert!(ValidRate::check(&rate("1 60 0 event 00:00:00 23:59:59 -")).is_ok());
    assert!(matches!(ValidRate::check(&rate("1 60 -5 event 00:00:00 23:59:59 -")), Err(Fault::Duration { .. })));
    assert!(matches!(ValidRate::check(&rate("1 0 0 minute 00:00:00 23:59:59 -")), Err(Fault::Duration { .. })));
    // The duration is not the only fault.
    assert_eq!(ValidRate::check(&rate("x 60 0 minute 00:00:00 23:59:59 -")), Err(Fault::Field("rate_price")));
}

#[test]
fn prices_keep_what_decides_their_rounding() {
    let price =
        |text: &str| ValidRate::check(&rate(&format!("{text} 60 -1 minute 00:00:00 23:59:59 -"))).unwrap().price;
    assert_eq!(price("-1.00000000000000049999"), "-1.0000000000000004");
    assert_eq!(price("+7"), "7.0");
}

/// Decides about these rates for a group with these rows, given as `day start end from duration`.
fn decide(rows: &[&str], rates: &[&str]) -> Decision {
    let mut group = Group::default();
    for row in rows {
        let fields: Vec<&str> = row.split(' ').collect();
        group.add(Row {
            day_type: DayType::parse(fields[0].trim_matches('-')).unwrap(),
            range: Some(range(fields[1], fields[2])),
            from: fields[3].parse().unwrap(),
            duration: fields[4].parse().unwrap(),
            is_minute: true,
        });
    }
    let rates = rates.iter().map(|text| rate(text)).collect();
    group.decide(&Destination { rates, ..Destination::default() }, true)
}

fn range(start: &str, end: &str) -> TimeRange {
    TimeRange { start: Time::parse(start).unwrap(), end: Time::parse(end).unwrap() }
}

fn froms(decision: &Decision) -> Vec<i32> {
    decision.new_rows.iter().map(|row| row.from).collect()
}

#[test]
fn chains_continue_until_a_rate_is_endless() {
    let decision = decide(
        &[],
        &[
            "1 60 60 minute 00:00:00 23:59:59 -",
            "1 60 120 minute 00:00:00 23:59:59 -",
            "1 60 -1 minute 00:00:00 23:59:59 -",
            "1 60 60 minute 00:00:00 23:59:59 -",
        ],
    );
    assert_eq!(froms(&decision), [1, 61, 181]);
    assert_eq!(decision.bad_rates, [3]);
    // After the rows of the database.
    let decision = decide(&["- 00:00:00 23:59:59 1 120"], &["1 60 -1 minute 00:00:00 23:59:59 -"]);
    assert_eq!(froms(&decision), [121]);
    // An event takes no time.
    let decision = decide(&[], &["1 60 -1 event 00:00:00 23:59:59 -", VALID, VALID]);
    assert_eq!((froms(&decision), decision.bad_rates), (vec![1, 1], vec![2]));
    // A rate with an invalid duration breaks the chain of its days and times, and no other one.
    let decision = decide(
        &[],
        &[
            "1 60 60 minute 00:00:00 11:59:59 -",
            "1 60 0 minute 00:00:00 11:59:59 -",
            "1 60 60 minute 00:00:00 11:59:59 -",
            "1 60 60 minute 12:00:00 23:59:59 -",
        ],
    );
    assert_eq!((froms(&decision), decision.bad_rates), (vec![1, 1], vec![1, 2]));
    // The largest `from` of the column.
    let decision = decide(&["- 00:00:00 23:59:59 1 2147483647"], &[VALID]);
    assert_eq!((froms(&decision), decision.bad_rates), (vec![], vec![0]));
}

#[test]
fn day_types_exclude_each_other() {
    let decision = decide(&["- 00:00:00 11:59:59 1 -1"], &["1 60 -1 minute 12:00:00 23:59:59 WD", VALID]);
    assert_eq!((decision.day_type_collisions, decision.row_collisions.len(), froms(&decision).len()), (1, 0, 0));
    // Any other text is another day type too.
    assert_eq!(decide(&["- 00:00:00 11:59:59 1 -1"], &["1 60 -1 minute 12:00:00 23:59:59 xx"]).day_type_collisions, 1);
    assert_eq!(decide(&["FD 00:00:00 11:59:59 1 -1"], &[VALID]).day_type_collisions, 1);
    assert_eq!(froms(&decide(&["FD 00:00:00 23:59:59 1 -1"], &["1 60 -1 minute 12:00:00 23:59:59 WD"])), [1]);
    // With a row of this document: step 5.
    let decision = decide(&[], &[VALID, "1 60 -1 minute 00:00:00 23:59:59 FD"]);
    assert_eq!((decision.day_type_collisions, froms(&decision).len()), (1, 1));
}

#[test]
fn colliding_rates_form_sets() {
    let decision = decide(
        &[],
        &[
            "1 60 -1 minute 20:00:00 23:00:00 WD",
            "1 60 -1 minute 00:00:00 04:00:00 -",
            "x x x x 04:00:00 08:00:00 x",
            "1 60 -1 minute 08:00:01 09:00:00 -",
            "1 60 -1 minute 21:00:00 23:00:00 WD",
            "1 60 -1 minute 21:00:00 23:00:00 FD",
        ],
    );
    assert_eq!(decision.document_collisions, [range("20:00:00", "23:00:00"), range("00:00:00", "08:00:00")]);
    assert_eq!(froms(&decision).len(), 1);
    assert_eq!(decision.bad_rates, Vec::<usize>::new());
    // Not of the form, or equal ranges.
    let decision = decide(&[], &[VALID, "1 60 -1 minute 8:00:00 12:00:00 -", VALID]);
    assert_eq!(decision.document_collisions, []);
    assert_eq!(decision.bad_rates, [1, 2]);
}

#[test]
fn rates_collide_with_rows() {
    let rows = ["WD 08:00:00 12:00:00 1 -1", "WD 12:00:01 16:00:00 1 -1", "FD 00:00:00 23:59:59 1 -1"];
    let decision = decide(&rows, &["1 60 -1 minute 11:00:00 13:00:00 WD", "1 60 -1 minute 11:00:00 13:00:00 WD"]);
    // The same range once.
    assert_eq!(decision.row_collisions, [range("08:00:00", "16:00:00")]);
    assert_eq!(froms(&decision).len(), 0);
    assert_eq!(froms(&decide(&rows, &["1 60 -1 minute 16:00:01 23:00:00 WD"])), [1]);
    assert_eq!(decide(&rows, &["1 60 -1 minute 16:00:00 23:00:00 WD"]).row_collisions.len(), 1);
}

#[test]
fn each_refused_rate_has_a_reason() {
    let reasons = |rows: &[&str], rates: &[&str]| decide(rows, rates).refused;
    let all_day = range("00:00:00", "23:59:59");
    assert_eq!(reasons(&["WD 00:00:00 23:59:59 1 60"], &[VALID]), [(0, Reason::DayType)]);
    // With a row of this document.
    assert_eq!(reasons(&[], &["1 60 -1 minute 00:00:00 23:59:59 FD", VALID]), [(1, Reason::DayType)]);
    let half = "1 60 -1 minute 00:00:00 12:00:00 -";
    assert_eq!(reasons(&[], &[half, VALID]), [0, 1].map(|index| (index, Reason::DocumentCollision(all_day))));
    assert_eq!(reasons(&["- 00:00:00 23:59:59 1 60"], &[half]), [(0, Reason::RowCollision(all_day))]);
    assert_eq!(reasons(&[], &["x 60 -1 minute 00:00:00 23:59:59 -"]), [(0, Reason::Fault(Fault::Field("rate_price")))]);
    assert_eq!(reasons(&[], &[VALID, VALID]), [(1, Reason::AfterEndless)]);
    let reasons_of_broken = reasons(&[], &["1 60 0 minute 00:00:00 23:59:59 -", VALID]);
    assert!(matches!(reasons_of_broken[0], (0, Reason::Fault(Fault::Duration { .. }))));
    assert_eq!(reasons_of_broken[1..], [(1, Reason::AfterBroken)]);
    assert_eq!(reasons(&["- 00:00:00 23:59:59 1 2147483647"], &[VALID]), [(0, Reason::ChainTooLong)]);
}

/// The steps as the contract writes them, over lists.
fn decide_slowly(rows: &mut Vec<Row>, rates: &[Rate]) -> Decision {
    let mut decision = Decision::default();
    let excluded =
        |rows: &[Row], days: &str| rows.iter().any(|row| (row.day_type == DayType::EveryDay) != days.is_empty());
    let common = |one: &str, other: &str| one == other || one.is_empty() || other.is_empty();
    let within = |time: &str, rate: &(String, String)| rate.0.as_str() <= time && time <= rate.1.as_str();
    let collide = |one: &(String, String), other: &(String, String)| {
        one != other && (within(&one.0, other) || within(&other.0, one))
    };
    let times = |rate: &Rate| {
        let is_time = |text: &str| {
            text.len() == 8
                && text.bytes().enumerate().all(
                    |(index, byte)| {
                        if index % 3 == 2 { byte == b':' } else { byte.is_ascii_digit() }
                    },
                )
        };
        (is_time(&rate.start_time) && is_time(&rate.end_time)).then(|| (rate.start_time.clone(), rate.end_time.clone()))
    };
    let mut out = vec![false; rates.len()];
    for (index, rate) in rates.iter().enumerate() {
        if excluded(rows, &rate.day_type) {
            out[index] = true;
            decision.day_type_collisions += 1;
        }
    }
    let mut seen = vec![false; rates.len()];
    for first in 0..rates.len() {
        if seen[first] || times(&rates[first]).is_none() {
            continue;
        }
        let mut set = vec![first];
        let mut next = 0;
        while next < set.len() {
            let one = &rates[set[next]];
            for (other, rate) in rates.iter().enumerate() {
                let Some(other_times) = times(rate) else { continue };
                if !set.contains(&other)
                    && common(&one.day_type, &rate.day_type)
                    && collide(&times(one).unwrap(), &other_times)
                {
                    set.push(other);
                }
            }
            next += 1;
        }
        set.iter().for_each(|index| seen[*index] = true);
        if set.len() > 1 {
            let start = set.iter().map(|index| &rates[*index].start_time).min().unwrap();
            let end = set.iter().map(|index| &rates[*index].end_time).max().unwrap();
            decision.document_collisions.push(range(start, end));
            set.iter().for_each(|index| out[*index] = true);
        }
    }
    for (index, rate) in rates.iter().enumerate() {
        let Some(own) = times(rate).filter(|_| !out[index]) else { continue };
        let colliding: Vec<(String, String)> = rows
            .iter()
            .filter(|row| common(row.day_type.as_text(), &rate.day_type))
            .filter_map(|row| row.range.map(|range| (range.start.to_string(), range.end.to_string())))
            .filter(|row| collide(&own, row))
            .chain([own.clone()])
            .collect();
        if colliding.len() > 1 {
            out[index] = true;
            let total = range(
                &colliding.iter().map(|times| times.0.clone()).min().unwrap(),
                &colliding.iter().map(|times| times.1.clone()).max().unwrap(),
            );
            if !decision.row_collisions.contains(&total) {
                decision.row_collisions.push(total);
            }
        }
    }
    let mut broken = Vec::new();
    for (index, rate) in rates.iter().enumerate().filter(|(index, _)| !out[*index]) {
        match ValidRate::check(rate) {
            Err(fault) => {
                decision.bad_rates.push(index);
                if let Fault::Duration { range, day_type } = fault {
                    broken.push((day_type, range));
                }
            }
            Ok(rate) => {
                let chain: Vec<&Row> =
                    rows.iter().filter(|row| (row.day_type, row.range) == (rate.day_type, Some(rate.range))).collect();
                let end = |row: &&Row| row.from + row.duration.max(0);
                let from = chain.iter().map(end).max().unwrap_or(1).max(1);
                if broken.contains(&(rate.day_type, rate.range))
                    || chain.iter().any(|row| row.is_minute && row.duration == -1)
                {
                    decision.bad_rates.push(index);
                } else if excluded(rows, rate.day_type.as_text()) {
                    decision.day_type_collisions += 1;
                } else {
                    let (day_type, range) = (rate.day_type, Some(rate.range));
                    rows.push(Row { day_type, range, from, duration: rate.duration, is_minute: rate.is_minute });
                    decision.new_rows.push(mortise::operations::tariff::retail_import::rules::NewRow { from, rate });
                }
            }
        }
    }
    decision
}

fn any_rate() -> impl Strategy<Value = Rate> {
    let time = || {
        prop::sample::select(
            &["00:00:00", "06:00:00", "11:59:59", "12:00:00", "18:30:00", "23:59:59", "24:00:00", "25:00:00", "1:00"][..],
        )
    };
    (
        prop::sample::select(&["0.5", "1", "x"][..]),
        prop::sample::select(&["0", "60"][..]),
        prop::sample::select(&["-1", "60", "120", "0", "59.5", "-7", "x"][..]),
        prop::sample::select(&["minute", "minute", "event", "x"][..]),
        time(),
        time(),
        prop::sample::select(&["", "", "WD", "FD", "x"][..]),
    )
        .prop_map(|(price, round_by, duration, rate_type, start_time, end_time, day_type)| Rate {
            price: price.into(),
            round_by: round_by.into(),
            duration: duration.into(),
            rate_type: rate_type.into(),
            start_time: start_time.into(),
            end_time: end_time.into(),
            day_type: day_type.into(),
            line: 0,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// Several destinations of one group, one after the other.
    #[test]
    fn both_implementations_decide_alike(
        destinations in prop::collection::vec(prop::collection::vec(any_rate(), 0..7), 1..4),
    ) {
        let (mut group, mut rows) = (Group::default(), Vec::new());
        for rates in destinations {
            // Each destination starts with unbroken chains here: the slow implementation forgets them.
            let mut fresh = Group::default();
            rows.iter().for_each(|row| fresh.add(*row));
            let expected = decide_slowly(&mut rows, &rates);
            let destination = Destination { rates, ..Destination::default() };
            let decision = fresh.decide(&destination, true);
            // Each rate is written, or refused for one reason.
            let mut refused: Vec<usize> = decision.refused.iter().map(|(index, _)| *index).collect();
            refused.sort_unstable();
            refused.dedup();
            prop_assert_eq!(refused.len(), decision.refused.len());
            prop_assert_eq!(refused.len() + decision.new_rows.len(), destination.rates.len());
            prop_assert_eq!(Decision { refused: Vec::new(), ..decision }, expected);
            let silent = group.decide(&destination, false);
            prop_assert!(silent.bad_rates.iter().all(|index| ValidRate::check(&destination.rates[*index]).is_err()));
        }
        check_rows(&rows)?;
    }
}

/// What must hold after an import into an empty tariff.
fn check_rows(rows: &[Row]) -> Result<(), TestCaseError> {
    let has_every_day = rows.iter().any(|row| row.day_type == DayType::EveryDay);
    prop_assert!(!has_every_day || rows.iter().all(|row| row.day_type == DayType::EveryDay));
    for (index, row) in rows.iter().enumerate() {
        for other in &rows[..index] {
            let overlap = row.day_type == other.day_type && row.range.unwrap().collides_with(other.range.unwrap());
            prop_assert!(!overlap, "{row:?} {other:?}");
        }
        // The seconds of a chain are contiguous from 1, and an endless rate is the last one.
        let chain = rows[..index].iter().rev().find(|other| (other.day_type, other.range) == (row.day_type, row.range));
        match chain {
            None => prop_assert_eq!(row.from, 1),
            Some(previous) => {
                prop_assert!(!(previous.is_minute && previous.duration == -1));
                prop_assert_eq!(row.from, previous.from + previous.duration.max(0));
            }
        }
    }
    Ok(())
}
