//! Descriptions of the parameters that `cc_group_create` and `cc_group_update` share.

use crate::operations::spec::{ParamType, Parameter};

/// All parameters but `name`, which only a new group requires, and the lengths, which an existing group cannot change.
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter::new("description", ParamType::Text, "The description for customers.", "Ten dollars of calls")
        .in_example(),
    Parameter::new(
        "price_with_vat",
        ParamType::Decimal,
        "The price of a card, the group's taxes included, in the caller's currency.",
        "11.90",
    )
    .in_example(),
    Parameter::new("setup_fee", ParamType::Decimal, "Charged once, in the caller's currency.", "0"),
    Parameter::new("daily_charge", ParamType::Decimal, "Charged each day of use, in the caller's currency.", "0"),
    Parameter::new(
        "ghost_min_perc",
        ParamType::Decimal,
        "The percentage of the real time that is announced to callers.",
        "100",
    ),
    Parameter::new(
        "ghost_balance_perc",
        ParamType::Decimal,
        "The percentage of the real balance that is announced to callers.",
        "100",
    ),
    Parameter::new("tariff_id", ParamType::Integer, "The tariff; default: the first one that the caller may use.", "1"),
    Parameter::new("lcr_id", ParamType::Integer, "The LCR; default: the first one that the caller may use.", "1"),
    Parameter::new("location_id", ParamType::Integer, "The location; default: location 1.", "1"),
    Parameter::new(
        "currency",
        ParamType::Text,
        "The name of an active currency; default: the caller's currency.",
        "USD",
    ),
    Parameter::new(
        "tell_balance_in_currency",
        ParamType::Text,
        "0: the system's currency, and currency is ignored; other values except 1: used if currency is not sent.",
        "0",
    ),
    Parameter::new(
        "date_from",
        ParamType::UnixTime,
        "The start of the cards' validity; default: the start of today (UTC).",
        "1767225600",
    ),
    Parameter::new(
        "date_till",
        ParamType::UnixTime,
        "The end of the cards' validity; default: the end of today (UTC).",
        "1924991999",
    ),
    Parameter::new(
        "valid_after_first_use",
        ParamType::Integer,
        "How many days a card is valid after its first use; up to 4 characters.",
        "365",
    ),
    Parameter::new("use_external_function", ParamType::Flag, "Use an external script.", "0"),
    Parameter::new("allow_loss_calls", ParamType::Flag, "Allow calls that cost more than they earn.", "0"),
    Parameter::new("tell_cents", ParamType::Flag, "Announce the cents of the balance.", "1"),
    Parameter::new(
        "solo_pinless",
        ParamType::Flag,
        "A card that has a caller id cannot be used twice at the same time.",
        "0",
    ),
    Parameter::new("disable_voucher", ParamType::Flag, "Disable vouchers.", "0"),
    Parameter::new("callerid_leave", ParamType::Flag, "An empty card keeps its caller id.", "0"),
    Parameter::new(
        "disable_topup_from_cards_with_cid",
        ParamType::Flag,
        "Cards that have a caller id cannot top up other cards.",
        "0",
    ),
    Parameter::new("tax_id", ParamType::Integer, "The tax row whose values the group gets.", "2").in_example(),
    Parameter::new("total_tax_name", ParamType::Text, "The name of the sum of all taxes.", "VAT"),
    Parameter::new("tax1_name", ParamType::Text, "The name of tax 1, which is always enabled.", "VAT"),
    Parameter::new("tax2_name", ParamType::Text, "The name of tax 2.", "City tax"),
    Parameter::new("tax3_name", ParamType::Text, "The name of tax 3.", ""),
    Parameter::new("tax4_name", ParamType::Text, "The name of tax 4.", ""),
    Parameter::new("tax1_value", ParamType::Decimal, "Tax 1, in percent.", "19"),
    Parameter::new("tax2_value", ParamType::Decimal, "Tax 2, in percent.", "1.5"),
    Parameter::new("tax3_value", ParamType::Decimal, "Tax 3, in percent.", "0"),
    Parameter::new("tax4_value", ParamType::Decimal, "Tax 4, in percent.", "0"),
    Parameter::new("tax2_enabled", ParamType::Flag, "Enables tax 2.", "0"),
    Parameter::new("tax3_enabled", ParamType::Flag, "Enables tax 3.", "0"),
    Parameter::new("tax4_enabled", ParamType::Flag, "Enables tax 4.", "0"),
    Parameter::new(
        "compound_tax",
        ParamType::Flag,
        "Each tax applies to the amount with the previous taxes included.",
        "1",
    ),
];
