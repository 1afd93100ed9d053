//! Where the published pages and the servers in the field part ways, all of it on one page: what each dialect does is data
//! here, and the code that asks is the same for both. An error's words in each dialect are in `fault.rs`.

use bigdecimal::BigDecimal;
use serde::Deserialize;

use crate::number;

/// Whose manners the server has (the spec's README).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// What the published pages say.
    Documented,
    /// What a MOR X7 server sends, byte for byte (`x7.md`).
    X7,
}

impl Dialect {
    fn is_x7(self) -> bool {
        self == Self::X7
    }

    /// What may stand behind an operation's name in the path and is ignored.
    pub fn path_suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Documented => &["xml", "json", "csv"],
            Self::X7 => &["xml", "json", "csv", "html"],
        }
    }

    /// With `test=1`, a suffix or `format=` chooses the content type.
    pub fn format_sets_content_type(self) -> bool {
        self.is_x7()
    }

    /// Whether a parameter by which something is looked up is digits, as it must be. An X7 server is content when one of its lines is.
    pub fn is_valid_id(self, text: &str) -> bool {
        if self.is_x7() { text.split('\n').any(number::is_digits) } else { number::is_digits(text) }
    }

    /// A text for a column of MOR's that holds `longest` characters. An X7 server cuts it, as MySQL does; else `None` where
    /// it is longer.
    pub fn fit_to_column(self, text: &str, longest: usize) -> Option<String> {
        match self.is_x7() {
            true => Some(text.chars().take(longest).collect()),
            false => Some(text.to_owned()).filter(|text| text.chars().count() <= longest),
        }
    }

    /// A text that is a number and nothing else. An X7 server takes hexadecimal digits too.
    pub fn parse_number(self, text: &str) -> Option<BigDecimal> {
        let hexadecimal =
            || text.trim().strip_prefix("0x").filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        match number::is_decimal(text) {
            true => Some(number::parse_decimal(text)),
            false if self.is_x7() => {
                hexadecimal().and_then(|digits| i128::from_str_radix(digits, 16).ok()).map(BigDecimal::from)
            }
            false => None,
        }
    }

    /// `Allow_GET_API` is asked about HEAD as well.
    pub fn head_is_get(self) -> bool {
        !self.is_x7()
    }

    /// A blocked or hidden user is refused like an unknown one.
    pub fn refuses_blocked_users(self) -> bool {
        !self.is_x7()
    }

    /// The parameter `p` is checked where it is sent, though nothing demands it.
    pub fn checks_sent_password(self) -> bool {
        !self.is_x7()
    }

    /// A hash may be written in capitals.
    pub fn accepts_uppercase_hash(self) -> bool {
        !self.is_x7()
    }

    /// A reseller's own key counts even while the reseller's own `Allow_API` is off.
    pub fn accepts_key_of_disabled_reseller(self) -> bool {
        !self.is_x7()
    }

    /// A reseller without a usable key hears of a wrong hash, not of a missing key.
    pub fn hides_missing_key_from_resellers(self) -> bool {
        self.is_x7()
    }

    /// Without `CC_Active`, a group of more than ten cards is out of bounds.
    pub fn enforces_card_limit(self) -> bool {
        self.is_x7()
    }

    /// Amounts are multiplied by the caller's currency rate (while labelled with the system currency).
    pub fn converts_to_caller_currency(self) -> bool {
        self.is_x7()
    }

    /// An accountant who isn't shown PINs can look for cards by them.
    pub fn allows_hidden_pin_search(self) -> bool {
        self.is_x7()
    }

    /// An amount that is searched for may be written with a comma.
    pub fn accepts_decimal_comma(self) -> bool {
        self.is_x7()
    }

    /// The language `All` and the distributor -1 stand for every one.
    pub fn accepts_wildcard_filters(self) -> bool {
        self.is_x7()
    }

    /// A payment that names no currency needs the system's to be active.
    pub fn requires_active_system_currency(self) -> bool {
        self.is_x7()
    }

    /// A card without a balance shows none; else it shows 0.
    pub fn leaves_missing_balance_empty(self) -> bool {
        self.is_x7()
    }

    /// Of a card that isn't there it is said that there is no such API.
    pub fn reports_missing_card_as_unknown_operation(self) -> bool {
        self.is_x7()
    }

    /// A card's dates may lie before 1970.
    pub fn accepts_negative_dates(self) -> bool {
        self.is_x7()
    }

    /// To how many decimals a card's least balance is kept.
    pub fn min_balance_scale(self) -> i64 {
        if self.is_x7() { 9 } else { 15 }
    }

    /// New cards belong to who makes them, not to whom their group belongs.
    pub fn assigns_new_cards_to_caller(self) -> bool {
        self.is_x7()
    }

    /// The list of card groups says each group's currency.
    pub fn shows_group_currency(self) -> bool {
        !self.is_x7()
    }

    /// A sale's payment is in the group's currency, and `curr` is ignored.
    pub fn pays_in_group_currency(self) -> bool {
        self.is_x7()
    }

    /// A card that breaks MOR's rules isn't sold, but named as an error among the others.
    pub fn refuses_invalid_cards(self) -> bool {
        self.is_x7()
    }

    /// A group without its tax row is given one.
    pub fn creates_missing_taxes(self) -> bool {
        self.is_x7()
    }

    /// A group that is given another's tax row shares it, and writes into it; else it gets a copy.
    pub fn shares_tax_rows(self) -> bool {
        self.is_x7()
    }

    /// Text longer than MOR's column is cut, as MySQL cuts it; else it is refused.
    pub fn truncates_long_text(self) -> bool {
        self.is_x7()
    }

    /// Defaults are fixed ids and moments: tariff and LCR 1, valid till now; a reseller's location is a setting.
    pub fn has_fixed_defaults(self) -> bool {
        self.is_x7()
    }

    /// Amounts and taxes are whatever number can be read from them, below nothing too.
    pub fn accepts_any_amount(self) -> bool {
        self.is_x7()
    }

    /// A new card group's price is stored without its taxes.
    pub fn stores_net_prices(self) -> bool {
        !self.is_x7()
    }

    /// A card group's currency may be one that isn't active.
    pub fn accepts_inactive_currencies(self) -> bool {
        self.is_x7()
    }

    /// For card groups an accountant needs `see_financial_data`, and not `callingcard_manage` besides.
    pub fn requires_only_financial_data_right(self) -> bool {
        self.is_x7()
    }

    /// An accountant's tariffs are the accountant's own, not owner 0's.
    pub fn lets_accountants_own_tariffs(self) -> bool {
        self.is_x7()
    }

    /// A tariff's currency may be any text, and none when it isn't sent.
    pub fn accepts_any_tariff_currency(self) -> bool {
        self.is_x7()
    }

    /// A change of a tariff changes its `last_update_date`.
    pub fn records_tariff_update_date(self) -> bool {
        !self.is_x7()
    }

    /// A caller id belongs to a device when one of the device's contains it, whatever the setting says.
    pub fn matches_partial_callerids(self) -> bool {
        self.is_x7()
    }

    /// A `cardgroup_id` that is sent blank names a group, and there is none of that name.
    pub fn treats_blank_group_as_unknown(self) -> bool {
        self.is_x7()
    }

    /// A new card's one payment is for its whole balance, be it moved or added; else what is added is a top-up.
    pub fn records_single_payment_for_new_card(self) -> bool {
        self.is_x7()
    }

    /// A top-up by nothing is a payment too.
    pub fn records_zero_payments(self) -> bool {
        self.is_x7()
    }

    /// An amount in a currency that nobody knows counts as nothing; else it is refused.
    pub fn treats_unknown_currency_as_zero(self) -> bool {
        self.is_x7()
    }

    /// A user's payment carries the user's first and last name.
    pub fn records_payer_name(self) -> bool {
        self.is_x7()
    }

    /// The reply of `card_by_cli_update` stands in a `<response>`, with the balance with taxes.
    pub fn wraps_in_response(self) -> bool {
        self.is_x7()
    }

    /// An `email` that is sent empty writes the order rows all the same.
    pub fn creates_order_for_blank_email(self) -> bool {
        self.is_x7()
    }
}
