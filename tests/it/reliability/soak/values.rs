//! Random values for the parameters of the contract.

use proptest::prelude::RngExt;
use proptest::test_runner::TestRng;

use self::ValueKind::{
    Amount, Callerid, Card, CardsFrom, CardsTill, Count, Currency, Document, Flag, Group, Length, Name, NewPin, Number,
    Pin, Required, Seconds, Text, Username,
};

/// As in `fixtures.sql`.
pub const ADMIN_KEY: &str = "KEY-of-the-admin-0f84cb";
pub const RESELLER_KEY: &str = "KEY-of-the-reseller-77ab";
pub const USERS: &[&str] = &[
    "admin",
    "user",
    "reseller",
    "reseller_read",
    "reseller_none",
    "accountant",
    "accountant_read",
    "accountant_zero",
    "accountant_none",
    "partner",
    "customer",
    "no_such_user",
];

/// The meaning of a parameter.
#[derive(Debug, Clone, Copy)]
pub enum ValueKind {
    Group,
    Card,
    Number,
    Pin,
    NewPin,
    Callerid,
    Amount,
    Count,
    Currency,
    Name,
    Flag,
    Seconds,
    Length,
    Text,
    Username,
    CardsFrom,
    CardsTill,
    /// An import of a few rates.
    Document,
    /// A value of this kind that is always sent: without it the operation does nothing.
    Required(&'static ValueKind),
}

impl ValueKind {
    pub fn is_required(self) -> bool {
        matches!(self, Required(_))
    }
}

/// The parameters of an operation.
#[rustfmt::skip]
pub fn parameters(operation: &str) -> &'static [(&'static str, ValueKind)] {
    match operation {
        "card_from_group_sell" => &[
            ("id", Required(&Group)), ("quantity", Count), ("number", Number), ("email", Text), ("curr", Currency),
            ("payment_ref", Text),
        ],
        "card_by_cli_update" => &[
            ("callerid", Required(&Callerid)), ("pin", Pin), ("amount", Amount), ("cardgroup_id", Group),
            ("cardgroup", Group), ("calleridid", Callerid), ("payment_ref", Text),
        ],
        "calling_cards_create" => &[
            ("card_group_id", Required(&Group)), ("cards_from", Required(&CardsFrom)),
            ("cards_till", Required(&CardsTill)), ("batch_number", Text), ("min_balance", Amount), ("language", Text),
            ("distributor_id", Count),
        ],
        // Paging is always sent: a long run would spend most of its time on complete lists.
        "calling_cards_get" => &[
            ("per_page", Required(&Count)), ("page", Required(&Count)), ("number", Number), ("name", Text),
            ("pin", Pin), ("batch_number", Text), ("callerid", Callerid), ("min_balance", Amount),
            ("max_balance", Amount), ("language", Text), ("sold", Flag), ("distributor", Count),
        ],
        "calling_card_update" => &[
            ("card_id", Required(&Card)), ("number", Number), ("name", Text), ("batch_number", Text),
            ("language", Text), ("pin", NewPin), ("callerid", Callerid), ("min_balance", Amount),
            ("daily_charge_paid_till", Seconds), ("first_use", Seconds), ("distributor", Count),
        ],
        "card_balance_get" => &[("number", Required(&Number))],
        "card_payment_add" => &[
            ("description", Text), ("number", Required(&Number)), ("amount", Required(&Amount)), ("currency", Currency),
            ("payment_ref", Text),
        ],
        "cc_group_create" | "cc_group_update" => &[
            ("name", Required(&Name)), ("cc_group_id", Required(&Group)), ("description", Text), ("compound_tax", Flag),
            ("tax2_enabled", Flag), ("tax3_enabled", Flag), ("tax4_enabled", Flag), ("tax1_name", Text),
            ("total_tax_name", Text), ("tax1_value", Amount), ("tax2_value", Amount), ("use_external_function", Flag),
            ("allow_loss_calls", Flag), ("tell_cents", Flag), ("solo_pinless", Flag), ("disable_voucher", Flag),
            ("callerid_leave", Flag), ("disable_topup_from_cards_with_cid", Flag), ("date_from", Seconds),
            ("date_till", Seconds), ("tariff_id", Count), ("lcr_id", Count), ("location_id", Count),
            ("currency", Currency), ("tell_balance_in_currency", Currency), ("tax_id", Count),
            ("valid_after_first_use", Count), ("price_with_vat", Amount), ("pin_length", Length),
            ("number_length", Length), ("setup_fee", Amount), ("ghost_min_perc", Amount),
            ("ghost_balance_perc", Amount), ("daily_charge", Amount),
        ],
        "card_group_get" => &[("id", Required(&Group))],
        "cc_groups_get" => &[("cc_group_id", Group)],
        "rate_get" => &[("username", Required(&Username)), ("prefix", Required(&Number)), ("by_full_dst", Flag)],
        "tariff_rates_get" => &[("user_id", Count), ("tariff_id", Count)],
        "tariff_wholesale_update" => &[("id", Count), ("name", Required(&Name)), ("currency", Currency)],
        "tariff_retail_import" => &[("xml", Required(&Document))],
        other => panic!("no parameters are defined for {other}"),
    }
}

pub const BOUNDARIES: &[&str] = &[
    "0",
    "-0",
    "1",
    "-1",
    "255",
    "256",
    "32767",
    "32768",
    "2147483647",
    "2147483648",
    "-2147483649",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775809",
    "999999999999999",
    "1000000000000000",
    "0.000000000000001",
    "1e15",
    "1e-15",
    "1e400",
    "-1e400",
    "1.",
    ".5",
    "1_000",
    "1__0",
    "00000000000000000007",
    " 7",
    "7 ",
    "+7",
    "1,5",
];

pub const HOSTILE: &[&str] = &[
    "",
    " ",
    "'",
    "'; drop table cards; --",
    "\"",
    "\\",
    "%",
    "%\\",
    "_",
    "%%%%%%%%_%_%_%",
    "<x>&amp;</x>",
    "]]>",
    "<!--",
    "&#0;",
    "\u{1}",
    "\u{7f}",
    "\r\nX-Evil: 1",
    "\t",
    "漢字💳",
    "\u{202e}",
    "\u{feff}",
    "\u{fffe}",
    "e\u{301}",
    "٣",
    "NaN",
    "Infinity",
    "-Infinity",
    "0x10",
    "1e",
    ".",
    "+",
    "-",
    "null",
    "true",
    "{}",
    "[]",
    "$1",
    "{{7*7}}",
    "../../etc/passwd",
    "\0",
];

/// Generates values.
#[derive(Default)]
pub struct ValueGenerator {
    /// The request's value of `cards_from`.
    cards_from: u64,
    /// Generates no boundary and hostile values.
    pub sensible_only: bool,
}

impl ValueGenerator {
    pub fn generate(&mut self, kind: ValueKind, rng: &mut TestRng) -> String {
        let pick = |values: &[&str], rng: &mut TestRng| values[rng.random_range(0..values.len())].to_owned();
        let kind = if let Required(kind) = kind { *kind } else { kind };
        match rng.random_range(0..1000) {
            _ if self.sensible_only => self.generate_sensible(kind, rng),
            0..100 => pick(BOUNDARIES, rng),
            100..200 => pick(HOSTILE, rng),
            200..205 => "a".repeat(rng.random_range(1..6000)),
            205..210 => "9".repeat(rng.random_range(20..4000)),
            _ => self.generate_sensible(kind, rng),
        }
    }

    fn generate_sensible(&mut self, kind: ValueKind, rng: &mut TestRng) -> String {
        let group = rng.random_range(6..13);
        let card = rng.random_range(1..401);
        match kind {
            Group if rng.random_ratio(1, 10) => rng.random_range(100..120).to_string(),
            Group => group.to_string(),
            Card => rng.random_range(1..3000).to_string(),
            Number => format!("{:2>width$}", group * 10_000 + card, width = if group == 6 { 10 } else { 6 }),
            Pin => format!("9137{:08}", group * 1000 + card),
            NewPin => format!("9138{:08}", rng.random_range(0..100_000_000)),
            Callerid if rng.random_ratio(1, 8) => rng.random_range(555..559).to_string(),
            Callerid => rng.random_range(7000..7080).to_string(),
            Amount => format!("{}.{:02}", rng.random_range(0..200), rng.random_range(0..100)),
            Count => rng.random_range(0..12).to_string(),
            Currency => ["USD", "EUR", "jpy", "LTL", "XXX", "eur "][rng.random_range(0..6)].to_owned(),
            // Few names, so that a long run does not fill the tables: most names are already taken.
            Name => format!("name {}", rng.random_range(0..60)),
            Flag => rng.random_range(0..2).to_string(),
            Seconds => rng.random_range(-10..4_200_000_000_i64).to_string(),
            Length => rng.random_range(4..14).to_string(),
            Text => ["text", "a&b", "<b>", "zwei Wörter", "x=1&y=2", "e@mail.test"][rng.random_range(0..6)].to_owned(),
            Username => USERS[rng.random_range(0..USERS.len())].to_owned(),
            CardsFrom => {
                self.cards_from = 300_000 + rng.random_range(0..500) * 10;
                self.cards_from.to_string()
            }
            CardsTill => (self.cards_from + rng.random_range(0..12)).to_string(),
            Document => {
                let text = |texts: &[&str], rng: &mut TestRng| texts[rng.random_range(0..texts.len())].to_owned();
                let name = text(&["Lithuania", "Latvia", "none", "&amp;"], rng);
                let price = text(&["0.5", "-1", "x"], rng);
                let duration = text(&["-1", "60", "0"], rng);
                let day_type = text(&["", "WD", "FD"], rng);
                format!(
                    "<tariff><id>0</id><name>name {}</name><destinations><destination><destination_group_name>{name}\
                     </destination_group_name><rates><rate_price>{price}</rate_price><rate_round_by>1</rate_round_by>\
                     <rate_duration>{duration}</rate_duration><rate_type>minute</rate_type>\
                     <rate_start_time>00:00:00</rate_start_time><rate_end_time>23:59:59</rate_end_time>\
                     <day_type>{day_type}</day_type></rates></destination></destinations></tariff>",
                    rng.random_range(0..60)
                )
            }
            Required(kind) => self.generate_sensible(*kind, rng),
        }
    }
}
