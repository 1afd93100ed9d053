//! A CSV file with retail prices, as a document of destinations.

use std::io::Read;

use csv::StringRecord;

use super::csv_lines::CsvLines;
use super::{RETAIL_HEADINGS, RefusedLine};
use crate::operations::tariff::retail_import::document::{
    DESTINATION_RATES_MAX, Destination, Head, Rate, ReadError, ReadFault,
};

/// Reads a file. Lines of one group that follow each other are a destination. Passes each destination to `receive`, in
/// order, until it returns `false`, and each line that is no price to `refuse`.
///
/// # Errors
///
/// Those of the file, and [`ReadFault::Stopped`].
pub(super) fn read(
    file: impl Read,
    mut receive: impl FnMut(Destination) -> bool,
    mut refuse: impl FnMut(RefusedLine),
) -> Result<Head, ReadError> {
    let mut head = Head::default();
    let mut send = |destination: Destination| {
        head.destinations += 1;
        head.rates += destination.rates.len();
        head.destination_rates = head.destination_rates.max(destination.rates.len());
        if receive(destination) { Ok(()) } else { Err(ReadError::from(ReadFault::Stopped)) }
    };
    let mut open: Option<Destination> = None;
    let (mut lines, _) = CsvLines::begin(file)?;
    while let Some((line, record)) = lines.next_line()? {
        let (group_name, rate) = match record.map_err(str::to_owned).and_then(|record| read_line(line, record)) {
            Ok(price) => price,
            Err(reason) => {
                refuse(RefusedLine { line, reason });
                continue;
            }
        };
        match &mut open {
            Some(destination)
                if destination.group_name == group_name && destination.rates.len() < DESTINATION_RATES_MAX =>
            {
                destination.rates.push(rate);
            }
            _ => {
                let destination = Destination { group_name, line, rates: vec![rate], ..Destination::default() };
                open.replace(destination).map_or(Ok(()), &mut send)?;
            }
        }
    }
    open.map_or(Ok(()), send)?;
    Ok(head)
}

/// Returns the name of the destination group, and the rate; or the reason why the line is refused.
fn read_line(line: u64, record: &StringRecord) -> Result<(String, Rate), String> {
    let fields: Vec<&str> = record.iter().map(str::trim).collect();
    let [group_name, price, round_by, duration, rate_type, start_time, end_time, day_type] = fields[..] else {
        return Err(format!("the line has {} fields, not {}", fields.len(), RETAIL_HEADINGS.len()));
    };
    if group_name.is_empty() {
        return Err("destination_group: missing".to_owned());
    }
    let [price, round_by, duration, rate_type, start_time, end_time, day_type] =
        [price, round_by, duration, rate_type, start_time, end_time, day_type].map(str::to_owned);
    // A name can begin with spaces; those at its end do not count.
    let group_name = record.get(0).unwrap_or_default().trim_end_matches(' ').to_owned();
    Ok((group_name, Rate { price, round_by, duration, rate_type, start_time, end_time, day_type, line }))
}
