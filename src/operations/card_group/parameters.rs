//! The parameters of card groups, for those who write clients: the same when a group is made and when it is changed.

use crate::operations::spec::{ParamType, Parameter};

/// All but the name, which only a new group must have, and the lengths, which only a new one may say.
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter::new("description", ParamType::Text, "What customers read of it.", "Ten dollars of calls").in_example(),
    Parameter::new(
        "price_with_vat",
        ParamType::Decimal,
        "A card's price, the group's taxes included, in the caller's currency.",
        "11.90",
    )
    .in_example(),
    Parameter::new("setup_fee", ParamType::Decimal, "Charged once, in the caller's currency.", "0"),
    Parameter::new("daily_charge", ParamType::Decimal, "Charged each day of use, in the caller's currency.", "0"),
    Parameter::new("ghost_min_perc", ParamType::Decimal, "Percentage of the real time that callers hear of.", "100"),
    Parameter::new(
        "ghost_balance_perc",
        ParamType::Decimal,
        "Percentage of the real balance that callers hear of.",
        "100",
    ),
    Parameter::new("tariff_id", ParamType::Integer, "The tariff; else the first that the caller may use.", "1"),
    Parameter::new("lcr_id", ParamType::Integer, "The LCR; else the first that the caller may use.", "1"),
    Parameter::new("location_id", ParamType::Integer, "The location; else location 1.", "1"),
    Parameter::new("currency", ParamType::Text, "An active currency's name; else the caller's.", "USD"),
    Parameter::new(
        "tell_balance_in_currency",
        ParamType::Text,
        "0: the system's currency, whatever currency says; any other word but 1: as currency.",
        "0",
    ),
    Parameter::new(
        "date_from",
        ParamType::UnixTime,
        "Cards are valid from then on; else from the beginning of today.",
        "1767225600",
    ),
    Parameter::new(
        "date_till",
        ParamType::UnixTime,
        "Cards are valid till then; else till the end of today.",
        "1924991999",
    ),
    Parameter::new(
        "valid_after_first_use",
        ParamType::Integer,
        "How many days a card is valid after its first use; up to 4 characters.",
        "365",
    ),
    Parameter::new("use_external_function", ParamType::Flag, "An external script is used.", "0"),
    Parameter::new("allow_loss_calls", ParamType::Flag, "Calls at a loss are let through.", "0"),
    Parameter::new("tell_cents", ParamType::Flag, "Callers hear the cents of their balance.", "1"),
    Parameter::new("solo_pinless", ParamType::Flag, "A card that has a caller id can't be used twice at a time.", "0"),
    Parameter::new("disable_voucher", ParamType::Flag, "Vouchers are switched off.", "0"),
    Parameter::new("callerid_leave", ParamType::Flag, "A caller id stays with an empty card.", "0"),
    Parameter::new(
        "disable_topup_from_cards_with_cid",
        ParamType::Flag,
        "Cards that have a caller id don't top up others.",
        "0",
    ),
    Parameter::new("tax_id", ParamType::Integer, "A tax row whose values the group gets.", "2").in_example(),
    Parameter::new("total_tax_name", ParamType::Text, "What all taxes together are called.", "VAT"),
    Parameter::new("tax1_name", ParamType::Text, "The name of tax 1, which is always on.", "VAT"),
    Parameter::new("tax2_name", ParamType::Text, "The name of tax 2.", "City tax"),
    Parameter::new("tax3_name", ParamType::Text, "The name of tax 3.", ""),
    Parameter::new("tax4_name", ParamType::Text, "The name of tax 4.", ""),
    Parameter::new("tax1_value", ParamType::Decimal, "Tax 1 in percent.", "19"),
    Parameter::new("tax2_value", ParamType::Decimal, "Tax 2 in percent.", "1.5"),
    Parameter::new("tax3_value", ParamType::Decimal, "Tax 3 in percent.", "0"),
    Parameter::new("tax4_value", ParamType::Decimal, "Tax 4 in percent.", "0"),
    Parameter::new("tax2_enabled", ParamType::Flag, "Tax 2 counts.", "0"),
    Parameter::new("tax3_enabled", ParamType::Flag, "Tax 3 counts.", "0"),
    Parameter::new("tax4_enabled", ParamType::Flag, "Tax 4 counts.", "0"),
    Parameter::new("compound_tax", ParamType::Flag, "Each tax is taken of the amount with the taxes before it.", "1"),
];
