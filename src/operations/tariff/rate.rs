//! `rate_get` (`rate`): the price of a user for a number or prefix. Contract: `endpoints/rate_get.md`.

use std::collections::HashSet;
use std::sync::Arc;

use bigdecimal::BigDecimal;

use crate::accounts::{Setting, User, UserType};
use crate::auth::admission;
use crate::auth::caller::{Caller, RIGHT_READ, rights};
use crate::auth::signature::HashRule;
use crate::error::ApiError;
use crate::http::context::{Access, CallContext, Operation};
use crate::money::Money;
use crate::operations::spec::{OperationSpec, ParamType, Parameter, ReplyType};
use crate::xml::XmlReply;

/// The operation's description and handler.
pub const OPERATION: Operation = Operation {
    name: "rate_get",
    aliases: &["rate"],
    hash_rules: &[HashRule::ParamOrder(&[])],
    spec: OperationSpec {
        summary: "Shows the price of a number",
        description: "Shows the price that a user pays for a number or prefix, as price#destination#prefix. It needs \
            the setting Devices_Check_Rate.",
        parameters: &[&[
            Parameter::new("username", ParamType::Text, "The user whose price is shown.", "customer").in_example(),
            Parameter::new(
                "prefix",
                ParamType::Text,
                "The number or prefix; other characters than digits are ignored.",
                "370",
            )
            .required(),
            Parameter::new(
                "by_full_dst",
                ParamType::Flag,
                "1: if the longest prefix has no price, shorter ones count too.",
                "1",
            ),
        ]],
        is_mutation: false,
        reply_type: ReplyType::Xml,
        example_reply: "<page>
  <rate>0.02#Lithuania - Fixed#370</rate>
</page>",
    },
    access: Access::Own(authorize),
    handler: |call, caller| Box::pin(handle(call, caller)),
};

/// How many digits of the number count. No prefix of a rate is longer.
const DIGITS_MAX: usize = 20;
/// The prices of one destination that are read. Rates have a few prices, by day type, time and duration.
const PRICES_MAX: usize = 1_000;

const USER_NOT_FOUND: ApiError = ApiError::RefusedWithoutStatus("User was not found");

fn authorize(_: &CallContext, caller: Option<Caller>) -> Result<Caller, ApiError> {
    caller.ok_or(ApiError::RefusedWithoutStatus("Access Denied"))
}

async fn handle(call: &CallContext, caller: &Caller) -> Result<XmlReply, ApiError> {
    if !call.system_settings.is_enabled(Setting::DevicesCheckRate) {
        return Err(ApiError::RefusedWithoutStatus("Feature disabled"));
    }
    let user_id = find_payer(call, caller).await?;
    let digits = call.params.get("prefix").unwrap_or_default().chars().filter(char::is_ascii_digit);
    let number: String = digits.take(DIGITS_MAX).collect();
    if number.is_empty() {
        return Err(ApiError::RefusedWithoutStatus("Empty prefix"));
    }
    let lines = if call.params.integer("by_full_dst") == 1 {
        let matches = read_matches(call, user_id, &number, Scope::AllPrefixes).await?;
        if call.dialect().shows_rates_of_every_prefix() {
            lines_of_every_prefix(&matches)
        } else {
            lines_of_longest_priced(&matches)
        }
    } else {
        let matches = read_matches(call, user_id, &number, Scope::LongestPrefix).await?;
        let longest = matches.first().ok_or(ApiError::RefusedWithoutStatus("Prefix was not found"))?;
        if !longest.has_group {
            return Err(ApiError::RefusedWithoutStatus("Destination Group was not found"));
        }
        longest.effective_prices().first().map(|price| longest.line(&price.to_plain_string())).into_iter().collect()
    };
    if lines.is_empty() {
        return Err(ApiError::RefusedWithoutStatus("Rate was not found"));
    }
    Ok(XmlReply::new("page", |page| lines.iter().for_each(|line| page.text("rate", line))))
}

/// Returns the id of the user whose price is shown, after the checks of the contract.
async fn find_payer(call: &CallContext, caller: &Caller) -> Result<i32, ApiError> {
    let dialect = call.dialect();
    let sees_own_only = matches!(caller.usertype(), UserType::User | UserType::Partner);
    let Some(name) = call.params.get("username").filter(|name| !name.trim().is_empty()) else {
        return if sees_own_only && dialect.assumes_rate_user() { Ok(caller.id()) } else { Err(USER_NOT_FOUND) };
    };
    let user = call.state.user_lookup.find(&call.state.accounts, &call.state.load, call.client, name).await?;
    let user: Arc<User> = user.ok_or(USER_NOT_FOUND)?;
    match caller.usertype() {
        UserType::Admin => {}
        UserType::User | UserType::Partner if user.id == caller.id() => {}
        UserType::User | UserType::Partner if dialect.replaces_other_rate_users() => return Ok(caller.id()),
        UserType::User | UserType::Partner => return Err(USER_NOT_FOUND),
        UserType::Accountant => {
            for right in [rights::SEE_FINANCIAL_DATA, rights::TARIFF_MANAGE] {
                if caller.right(right) < RIGHT_READ {
                    admission::log_missing_right(call, caller, right);
                    return Err(ApiError::RefusedWithoutStatus("You are not authorized to view this page"));
                }
            }
            if user.owner_id != 0 {
                return Err(ApiError::RefusedWithoutStatus("User belongs to reseller"));
            }
        }
        UserType::Reseller => {
            let shares_admin_tariffs = call.system_settings.is_enabled(Setting::AllowResellersAdminTariffs);
            let may_see = user.id == caller.id()
                || user.owner_id == caller.id()
                || matches!(user.usertype, UserType::Admin | UserType::Accountant)
                || shares_admin_tariffs && user.owner_id == 0;
            if !may_see {
                return Err(USER_NOT_FOUND);
            }
        }
    }
    Ok(user.id)
}

/// Which destinations are read, and how many of their prices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// The one with the longest prefix of the number, and its first price.
    LongestPrefix,
    /// Those of all prefixes, with all prices.
    AllPrefixes,
}

/// A destination whose prefix begins the number, and the user's prices for it.
#[derive(Debug)]
struct Match {
    prefix: String,
    name: String,
    /// Whether the destination's group exists.
    has_group: bool,
    /// Whether the user's tariff is a retail tariff. `None`: the user has no tariff.
    is_retail: Option<bool>,
    /// The user's own prices, for a retail tariff.
    custom_prices: Option<Vec<BigDecimal>>,
    /// The tariff's prices.
    prices: Vec<BigDecimal>,
}

impl Match {
    /// The prices that the user pays: the user's own, else the tariff's.
    fn effective_prices(&self) -> Vec<Money> {
        let custom = self.custom_prices.as_deref().filter(|prices| !prices.is_empty());
        custom.unwrap_or(&self.prices).iter().cloned().map(Money::from).collect()
    }

    fn line(&self, price: &str) -> String {
        format!("{price}#{}#{}", self.name, self.prefix)
    }

    fn plain_lines(&self, prices: &[Money]) -> Vec<String> {
        prices.iter().map(|price| self.line(&price.to_plain_string())).collect()
    }
}

async fn read_matches(call: &CallContext, user_id: i32, number: &str, scope: Scope) -> Result<Vec<Match>, ApiError> {
    let prefixes: Vec<String> = (1..=number.len()).map(|length| number[..length].to_owned()).collect();
    let longest_only = scope == Scope::LongestPrefix;
    let mut connection = call.state.pool.acquire().await?;
    let matches = sqlx::query_file_as!(Match, "src/operations/tariff/rate.sql", user_id, &prefixes, longest_only)
        .fetch_all(&mut *connection)
        .await?;
    connection.release_clean();
    // The statement reads one price more than are shown, so that no price is left out silently.
    if matches.iter().any(|found| found.prices.len().max(found.custom_prices.as_ref().map_or(0, Vec::len)) > PRICES_MAX)
    {
        return Err(ApiError::RefusedWithoutStatus("Too many rates"));
    }
    Ok(matches)
}

/// The prices of the longest prefix for which the user has one.
fn lines_of_longest_priced(matches: &[Match]) -> Vec<String> {
    let lines = matches.iter().map(|found| found.plain_lines(&found.effective_prices()));
    distinct(lines.into_iter().find(|lines| !lines.is_empty()).unwrap_or_default())
}

/// The prices as an X7 server shows them: of every prefix of a retail tariff, without custom rates, or of the shortest
/// prefix of another tariff, with all decimals.
fn lines_of_every_prefix(matches: &[Match]) -> Vec<String> {
    let prices = |found: &Match| -> Vec<Money> { found.prices.iter().cloned().map(Money::from).collect() };
    if matches.first().is_some_and(|found| found.is_retail == Some(true)) {
        return distinct(matches.iter().flat_map(|found| found.plain_lines(&prices(found))).collect());
    }
    let shortest = matches.iter().rev().find_map(|found| Some((found, prices(found).into_iter().next()?)));
    shortest.map(|(found, price)| found.line(&price.to_full_string())).into_iter().collect()
}

/// Removes lines that are equal to an earlier one.
fn distinct(mut lines: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    lines.retain(|line| seen.insert(line.clone()));
    lines
}
