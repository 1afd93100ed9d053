//! The parameters of card groups, for those who write clients: the same when a group is made and when it is changed.

use crate::operations::spec::{Kind, Parameter};

/// All but the name, which only a new group must have, and the lengths, which only a new one may say.
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter::new("description", Kind::Text, "What customers read of it.", "Ten dollars of calls").usual(),
    Parameter::new(
        "price_with_vat",
        Kind::Decimal,
        "A card's price, the group's taxes included, in the caller's currency.",
        "11.90",
    )
    .usual(),
    Parameter::new("setup_fee", Kind::Decimal, "Charged once, in the caller's currency.", "0"),
    Parameter::new("daily_charge", Kind::Decimal, "Charged each day of use, in the caller's currency.", "0"),
    Parameter::new("ghost_min_perc", Kind::Decimal, "Percentage of the real time that callers hear of.", "100"),
    Parameter::new("ghost_balance_perc", Kind::Decimal, "Percentage of the real balance that callers hear of.", "100"),
    Parameter::new("tariff_id", Kind::Integer, "The tariff; else the first that the caller may use.", "1"),
    Parameter::new("lcr_id", Kind::Integer, "The LCR; else the first that the caller may use.", "1"),
    Parameter::new("location_id", Kind::Integer, "The location; else location 1.", "1"),
    Parameter::new("currency", Kind::Text, "An active currency's name; else the caller's.", "USD"),
    Parameter::new(
        "tell_balance_in_currency",
        Kind::Text,
        "0: the system's currency, whatever currency says; any other word but 1: as currency.",
        "0",
    ),
    Parameter::new(
        "date_from",
        Kind::Moment,
        "Cards are valid from then on; else from the beginning of today.",
        "1767225600",
    ),
    Parameter::new("date_till", Kind::Moment, "Cards are valid till then; else till the end of today.", "1924991999"),
    Parameter::new(
        "valid_after_first_use",
        Kind::Integer,
        "How many days a card is valid after its first use; up to 4 characters.",
        "365",
    ),
    Parameter::new("use_external_function", Kind::Switch, "An external script is used.", "0"),
    Parameter::new("allow_loss_calls", Kind::Switch, "Calls at a loss are let through.", "0"),
    Parameter::new("tell_cents", Kind::Switch, "Callers hear the cents of their balance.", "1"),
    Parameter::new("solo_pinless", Kind::Switch, "A card that has a caller id can't be used twice at a time.", "0"),
    Parameter::new("disable_voucher", Kind::Switch, "Vouchers are switched off.", "0"),
    Parameter::new("callerid_leave", Kind::Switch, "A caller id stays with an empty card.", "0"),
    Parameter::new(
        "disable_topup_from_cards_with_cid",
        Kind::Switch,
        "Cards that have a caller id don't top up others.",
        "0",
    ),
    Parameter::new("tax_id", Kind::Integer, "A tax row whose values the group gets.", "2").usual(),
    Parameter::new("total_tax_name", Kind::Text, "What all taxes together are called.", "VAT"),
    Parameter::new("tax1_name", Kind::Text, "The name of tax 1, which is always on.", "VAT"),
    Parameter::new("tax2_name", Kind::Text, "The name of tax 2.", "City tax"),
    Parameter::new("tax3_name", Kind::Text, "The name of tax 3.", ""),
    Parameter::new("tax4_name", Kind::Text, "The name of tax 4.", ""),
    Parameter::new("tax1_value", Kind::Decimal, "Tax 1 in percent.", "19"),
    Parameter::new("tax2_value", Kind::Decimal, "Tax 2 in percent.", "1.5"),
    Parameter::new("tax3_value", Kind::Decimal, "Tax 3 in percent.", "0"),
    Parameter::new("tax4_value", Kind::Decimal, "Tax 4 in percent.", "0"),
    Parameter::new("tax2_enabled", Kind::Switch, "Tax 2 counts.", "0"),
    Parameter::new("tax3_enabled", Kind::Switch, "Tax 3 counts.", "0"),
    Parameter::new("tax4_enabled", Kind::Switch, "Tax 4 counts.", "0"),
    Parameter::new("compound_tax", Kind::Switch, "Each tax is taken of the amount with the taxes before it.", "1"),
];
