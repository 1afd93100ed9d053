//! All differences between the published API pages and deployed MOR X7 servers, except the messages of errors, which
//! are in [`error`](crate::error). Each difference is a method; its callers have the same code for both dialects.

use bigdecimal::BigDecimal;
use serde::Deserialize;

use crate::number;

/// Characters in MOR's text columns (`varchar(255)`).
pub const TEXT_LEN_MAX: usize = 255;

/// The API variant that the server implements (the spec's README).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// As described on the published pages.
    Documented,
    /// As implemented by a MOR X7 server, byte for byte (`x7.md`).
    X7,
}

impl Dialect {
    fn is_x7(self) -> bool {
        self == Self::X7
    }

    /// Returns the suffixes that may follow an operation's name in the path.
    pub fn path_suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Documented => &["xml", "json", "csv"],
            Self::X7 => &["xml", "json", "csv", "html"],
        }
    }

    /// Whether, with `test=1`, the path's suffix or `format=` determines the content type.
    pub fn format_sets_content_type(self) -> bool {
        self.is_x7()
    }

    /// Whether the id in a parameter consists of digits. For an X7 server, one line of digits in the text is
    /// sufficient.
    pub fn is_valid_id(self, text: &str) -> bool {
        if self.is_x7() { text.split('\n').any(number::is_digits) } else { number::is_digits(text) }
    }

    /// Fits a text into a MOR column of `len_max` characters. An X7 server truncates a longer text, as MySQL does; the
    /// documented dialect returns `None`.
    pub fn fit_to_column(self, text: &str, len_max: usize) -> Option<String> {
        match self.is_x7() {
            true => Some(text.chars().take(len_max).collect()),
            false => Some(text.to_owned()).filter(|text| text.chars().count() <= len_max),
        }
    }

    /// Parses a text that contains only a number. An X7 server accepts hexadecimal numbers (`0x…`) too.
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

    /// Parses an amount, a tax or a quantity. The documented dialect requires that the text is only a number. An X7
    /// server reads the number at the start of the text, or 0.
    pub fn parse_amount(self, text: &str) -> Option<BigDecimal> {
        if self.is_x7() { Some(number::parse_decimal(text)) } else { number::parse_whole_decimal(text) }
    }

    /// Whether a `number` that is not a positive number is ignored: the next free cards are sold.
    pub fn ignores_invalid_card_numbers(self) -> bool {
        self.is_x7()
    }

    /// Whether `Allow_GET_API` applies to HEAD too.
    pub fn head_is_get(self) -> bool {
        !self.is_x7()
    }

    /// Whether blocked and hidden users are refused like unknown users.
    pub fn refuses_blocked_users(self) -> bool {
        !self.is_x7()
    }

    /// Whether the parameter `p` is checked if it is sent, even if `require_password` is off.
    pub fn checks_sent_password(self) -> bool {
        !self.is_x7()
    }

    /// Whether the hash may have upper-case hex digits.
    pub fn accepts_uppercase_hash(self) -> bool {
        !self.is_x7()
    }

    /// Whether a reseller's own key is valid even if the reseller's own `Allow_API` is off.
    pub fn accepts_key_of_disabled_reseller(self) -> bool {
        !self.is_x7()
    }

    /// Whether a reseller without a valid key gets the error for a wrong hash instead of the error for a missing key.
    pub fn hides_missing_key_from_resellers(self) -> bool {
        self.is_x7()
    }

    /// Whether groups with more than ten cards are refused without `CC_Active`.
    pub fn enforces_card_limit(self) -> bool {
        self.is_x7()
    }

    /// Whether amounts are multiplied by the caller's currency rate, although they are labelled with the system
    /// currency.
    pub fn converts_to_caller_currency(self) -> bool {
        self.is_x7()
    }

    /// Whether an accountant can search cards by PIN without the right to see PINs.
    pub fn allows_hidden_pin_search(self) -> bool {
        self.is_x7()
    }

    /// Whether an amount in a search may have a decimal comma.
    pub fn accepts_decimal_comma(self) -> bool {
        self.is_x7()
    }

    /// Whether the language `All` and the distributor -1 match all cards in a search.
    pub fn accepts_wildcard_filters(self) -> bool {
        self.is_x7()
    }

    /// Whether a payment without a currency parameter requires the system currency to be active.
    pub fn requires_active_system_currency(self) -> bool {
        self.is_x7()
    }

    /// Whether the balance of a card without a balance is shown as empty instead of 0.
    pub fn leaves_missing_balance_empty(self) -> bool {
        self.is_x7()
    }

    /// Whether a card that does not exist is reported with the message for an unknown operation.
    pub fn reports_missing_card_as_unknown_operation(self) -> bool {
        self.is_x7()
    }

    /// Whether a card's dates may be before 1970.
    pub fn accepts_negative_dates(self) -> bool {
        self.is_x7()
    }

    /// Returns the number of decimal places of a card's minimum balance.
    pub fn min_balance_scale(self) -> i64 {
        if self.is_x7() { 9 } else { 15 }
    }

    /// Whether new cards belong to the caller instead of the owner of the group.
    pub fn assigns_new_cards_to_caller(self) -> bool {
        self.is_x7()
    }

    /// Whether the list of card groups contains each group's currency.
    pub fn shows_group_currency(self) -> bool {
        !self.is_x7()
    }

    /// Whether a sale's payment is in the group's currency, and `curr` is ignored.
    pub fn pays_in_group_currency(self) -> bool {
        self.is_x7()
    }

    /// Whether a card that violates MOR's validation rules is not sold. The reply then has an error in its place.
    pub fn refuses_invalid_cards(self) -> bool {
        self.is_x7()
    }

    /// Whether a missing tax row of a group or user is created.
    pub fn creates_missing_taxes(self) -> bool {
        self.is_x7()
    }

    /// Whether a group that is assigned another group's tax row shares the row and changes it, instead of getting a
    /// copy.
    pub fn shares_tax_rows(self) -> bool {
        self.is_x7()
    }

    /// Whether text that is longer than MOR's column is truncated, as MySQL does, instead of refused. The currency of a
    /// card group is then stored as sent, with its trailing spaces.
    pub fn truncates_long_text(self) -> bool {
        self.is_x7()
    }

    /// Whether the defaults of card groups are fixed: tariff 1, LCR 1 (without these, a reseller's own), valid until
    /// now; a reseller's default location comes from a setting. The X7 rules for a group's dates apply too.
    pub fn has_fixed_defaults(self) -> bool {
        self.is_x7()
    }

    /// Whether amounts, taxes and the lengths of a group's numbers and PINs are parsed without validation, negative
    /// ones included. A payment is then also made if taxes of -100 % or less change its sign.
    pub fn accepts_any_amount(self) -> bool {
        self.is_x7()
    }

    /// Whether the price of a card group is stored without taxes.
    pub fn stores_net_prices(self) -> bool {
        !self.is_x7()
    }

    /// Whether the currency of a card group may be inactive.
    pub fn accepts_inactive_currencies(self) -> bool {
        self.is_x7()
    }

    /// Whether an accountant needs only the right `see_financial_data` for card groups. Otherwise `callingcard_manage`
    /// is needed too.
    pub fn requires_only_financial_data_right(self) -> bool {
        self.is_x7()
    }

    /// Whether the tariffs of an accountant belong to the accountant instead of owner 0.
    pub fn lets_accountants_own_tariffs(self) -> bool {
        self.is_x7()
    }

    /// Whether the currency of a tariff may be any text, and is empty if it is not sent.
    pub fn accepts_any_tariff_currency(self) -> bool {
        self.is_x7()
    }

    /// Whether a change of a tariff updates its `last_update_date`.
    pub fn records_tariff_update_date(self) -> bool {
        !self.is_x7()
    }

    /// Whether `tariff_rates_get` shows every caller the tariff of any user.
    pub fn shows_tariff_of_any_user(self) -> bool {
        self.is_x7()
    }

    /// Whether `tariff_rates_get` shows a reseller, by its id, the tariff that is assigned to the reseller.
    pub fn shows_assigned_tariff_to_resellers(self) -> bool {
        !self.is_x7()
    }

    /// Whether the rates of a wholesale tariff are shown with the time from which they are in force.
    pub fn shows_effective_from(self) -> bool {
        !self.is_x7()
    }

    /// Whether `rate_get` answers a simple user or partner who names another user with the caller's own price.
    /// Otherwise that user counts as unknown.
    pub fn replaces_other_rate_users(self) -> bool {
        self.is_x7()
    }

    /// Whether a simple user or partner who sends no `username` to `rate_get` gets the own price.
    pub fn assumes_rate_user(self) -> bool {
        !self.is_x7()
    }

    /// Whether `by_full_dst` of `rate_get` shows the prices of every prefix of a retail tariff, without custom rates,
    /// and of the shortest prefix of other tariffs. Otherwise it shows those of the longest prefix that has a price.
    pub fn shows_rates_of_every_prefix(self) -> bool {
        self.is_x7()
    }

    /// Whether every user may import tariffs, which belong to that user. Otherwise an accountant needs the right
    /// `tariff_manage` and acts for owner 0, and simple users and partners are refused.
    pub fn lets_every_user_import_tariffs(self) -> bool {
        self.is_x7()
    }

    /// Whether retail rates can be imported into a tariff of another purpose.
    pub fn imports_into_any_tariff(self) -> bool {
        self.is_x7()
    }

    /// Whether the reply to an import lists the rates that cannot follow those before them.
    pub fn reports_dropped_rates(self) -> bool {
        !self.is_x7()
    }

    /// Whether each entry in the reply to an import has an element of its own, without the group's type.
    pub fn wraps_import_entries(self) -> bool {
        self.is_x7()
    }

    /// Whether a caller id belongs to a device if one of the device's caller ids contains it, regardless of the setting
    /// `match_partial_callerids`.
    pub fn matches_partial_callerids(self) -> bool {
        self.is_x7()
    }

    /// Whether a blank `cardgroup_id` is an unknown group instead of a parameter that was not sent.
    pub fn treats_blank_group_as_unknown(self) -> bool {
        self.is_x7()
    }

    /// Whether a new card has a single payment for its whole balance, moved and added amounts included. Otherwise the
    /// added amount is a payment of its own, a top-up.
    pub fn records_single_payment_for_new_card(self) -> bool {
        self.is_x7()
    }

    /// Whether a top-up by 0 creates a payment.
    pub fn records_zero_payments(self) -> bool {
        self.is_x7()
    }

    /// Whether an amount in an unknown currency counts as 0 instead of being refused.
    pub fn treats_unknown_currency_as_zero(self) -> bool {
        self.is_x7()
    }

    /// Whether a user's payment contains the user's first and last name.
    pub fn records_payer_name(self) -> bool {
        self.is_x7()
    }

    /// Whether the reply of `card_by_cli_update` is wrapped in `<response>`, and the card's balance with taxes is
    /// added.
    pub fn wraps_in_response(self) -> bool {
        self.is_x7()
    }

    /// Whether an empty `email` also creates the order rows.
    pub fn creates_order_for_blank_email(self) -> bool {
        self.is_x7()
    }
}
