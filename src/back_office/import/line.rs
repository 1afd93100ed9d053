//! The lines of a CSV file with cards.

use bigdecimal::BigDecimal;
use csv::StringRecord;

use crate::input;
use crate::money::AMOUNT_MAX_EXCLUSIVE;
use crate::number;
use crate::pin::Pin;
use crate::store::bulk_create::Group;

/// The columns, as the header names them. The first three are required.
const COLUMNS: [&str; 7] = ["number", "pin", "balance", "batch_number", "serial", "language", "name"];
const REQUIRED_COLUMNS: usize = 3;
/// The lengths of MOR's columns, in characters.
const TEXT_LEN_MAX: usize = 255;
const LANGUAGE_LEN_MAX: usize = 10;
const DECIMALS_MAX: i64 = 15;

/// The positions of the columns in the records of a file.
#[derive(Debug)]
pub(super) struct Header([Option<usize>; COLUMNS.len()]);

impl Header {
    /// Reads the header, whose columns may have any order.
    ///
    /// # Errors
    ///
    /// What is wrong with the file.
    pub(super) fn read(record: &StringRecord) -> Result<Self, String> {
        let names: Vec<&str> = record.iter().map(|name| name.trim_start_matches('\u{feff}').trim()).collect();
        let expected = || format!("the first line must be {}, the last four if needed", COLUMNS.join(","));
        if let [single] = names[..]
            && let Some(separator) = single.chars().find(|char| [';', '\t', '|'].contains(char))
        {
            return Err(format!("the fields are separated by {separator:?}, not by commas; {}", expected()));
        }
        let mut positions = [None; COLUMNS.len()];
        for (position, name) in names.iter().enumerate() {
            let column = COLUMNS.iter().position(|column| column == name);
            let column = column.ok_or_else(|| match name.chars().any(|char| char.is_ascii_digit()) {
                // Not shown, because it can be the PIN of a card: the file has no header.
                true => format!("field {} of the first line names no column: {}", position + 1, expected()),
                false => format!("the column {name:?} is unknown: {}", expected()),
            })?;
            if positions[column].replace(position).is_some() {
                return Err(format!("the column {name} is there twice"));
            }
        }
        match COLUMNS.iter().zip(positions).take(REQUIRED_COLUMNS).find(|(_, position)| position.is_none()) {
            Some((column, _)) => Err(format!("the column {column} is missing: {}", expected())),
            None => Ok(Self(positions)),
        }
    }

    fn len(&self) -> usize {
        self.0.iter().flatten().count()
    }
}

/// A card to create.
#[derive(Debug)]
pub(super) struct CardLine {
    pub(super) number: String,
    pub(super) pin: Pin,
    /// In the system's currency, without tax.
    pub(super) balance: BigDecimal,
    pub(super) batch_number: String,
    pub(super) serial: Option<String>,
    pub(super) language: String,
    pub(super) name: String,
}

impl CardLine {
    /// Reads a line. `default_batch`: the batch number of a line without one.
    ///
    /// # Errors
    ///
    /// The reason why the line is refused, for the operator. It does not contain the PIN.
    pub(super) fn read(
        record: &StringRecord,
        header: &Header,
        group: &Group,
        default_batch: &str,
    ) -> Result<Self, String> {
        if record.len() != header.len() {
            return Err(format!("the line has {} fields, not {}", record.len(), header.len()));
        }
        let fields = header.0.map(|position| position.and_then(|position| record.get(position)).unwrap_or_default());
        let [number, pin, balance, batch_number, serial, language, name] = fields.map(str::trim);
        let texts = [
            ("batch_number", batch_number, TEXT_LEN_MAX),
            ("serial", serial, TEXT_LEN_MAX),
            ("name", name, TEXT_LEN_MAX),
        ];
        for (column, text, len_max) in texts.into_iter().chain([("language", language, LANGUAGE_LEN_MAX)]) {
            if text.chars().count() > len_max {
                return Err(format!("{column}: more than {len_max} characters"));
            }
            if let Some(invisible) = input::find_invisible(text) {
                return Err(format!("{column}: it has {invisible}"));
            }
        }
        check_digits("number", number, group.number_length).map_err(|reason| match number.is_empty() {
            true => reason,
            false => format!("{reason}: {number:?}"),
        })?;
        check_digits("pin", pin, group.pin_length)?;
        Ok(Self {
            number: number.to_owned(),
            pin: pin.into(),
            balance: parse_balance(balance)?,
            batch_number: if batch_number.is_empty() { default_batch } else { batch_number }.to_owned(),
            serial: Some(serial.to_owned()).filter(|serial| !serial.is_empty()),
            language: if language.is_empty() { "en" } else { language }.to_owned(),
            name: name.to_owned(),
        })
    }
}

fn check_digits(column: &str, text: &str, length: i32) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("{column}: missing"));
    }
    if !number::is_digits(text) {
        return Err(format!("{column}: not only digits"));
    }
    if i32::try_from(text.len()) != Ok(length) {
        return Err(format!("{column}: {} digits, but those of the card group have {length}", text.len()));
    }
    Ok(())
}

fn parse_balance(text: &str) -> Result<BigDecimal, String> {
    let amount = number::parse_whole_decimal(text).map(|amount| amount.normalized());
    amount
        .filter(|amount| {
            *amount >= 0 && *amount < AMOUNT_MAX_EXCLUSIVE && amount.fractional_digit_count() <= DECIMALS_MAX
        })
        .ok_or_else(|| format!("balance: {text:?} is no amount of at least 0 with up to 15 decimals, such as 8.40"))
}
