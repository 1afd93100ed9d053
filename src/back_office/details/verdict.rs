//! The state of a card in words.

use super::{CardRow, PaymentOfCard};
use crate::back_office::void_and_exchange::VoidAndExchange;
use crate::money::Money;

/// Describes the state of a card in words.
pub(super) fn describe(card: &CardRow, payments: &[PaymentOfCard], void_and_exchange: &VoidAndExchange) -> String {
    let mut parts = vec![match card.state.as_str() {
        "retired" => describe_retirement(card, void_and_exchange),
        "quarantined" => {
            let rule = card.import_rule.as_ref().map(|rule| format!(" ({rule})")).unwrap_or_default();
            let on = card.quarantined_on.as_deref().unwrap_or_default();
            format!("set aside by the import on {on}{rule}: an operator decides with `mortise card settle {}`", card.id)
        }
        "assigned" => format!("assigned to {}, not for sale", card.distributor.as_deref().unwrap_or("a distributor")),
        "reserved" => "reserved, not for sale".to_owned(),
        "blocked" => "blocked: it can neither be used nor sold".to_owned(),
        "sold" => describe_sale(card, payments),
        state => state.to_owned(),
    }];
    if card.state != "sold" && (card.sold || payments.iter().any(PaymentOfCard::is_sale)) {
        parts.push(describe_sale(card, payments));
    }
    if card.sold {
        parts.push(match (&card.first_used_on, card.call_count) {
            (Some(on), calls) => format!("first used on {on}, calls: {calls}"),
            (None, 0) => "never used".to_owned(),
            (None, calls) => format!("calls: {calls}"),
        });
    }
    if card.cardgroup_deleted {
        parts.push("its card group is hidden".to_owned());
    }
    if let Some(on) = &card.begins_on {
        parts.push(format!("the card group becomes valid on {on}"));
    }
    if let Some(on) = &card.expired_on {
        parts.push(format!("the card group expired on {on}"));
    }
    if card.sold && card.valid_after_first_use > 0 {
        parts.push(match &card.expired_after_use_on {
            Some(on) => format!("expired on {on}, {} days after the first use", card.valid_after_first_use),
            None => format!("valid for {} days after the first use", card.valid_after_first_use),
        });
    }
    if card.sold && card.balance == Money::zero() {
        parts.push("its balance is 0".to_owned());
    }
    if card.pin_length.is_none() {
        parts.push("it has no PIN".to_owned());
    }
    if is_usable(card) {
        parts.push("nothing stops its use".to_owned());
    }
    parts.join("; ")
}

/// Whether a caller can use the card: it is sold and valid, and has a balance and a PIN.
fn is_usable(card: &CardRow) -> bool {
    let is_valid = card.begins_on.is_none() && card.expired_on.is_none() && card.expired_after_use_on.is_none();
    card.state == "sold" && is_valid && card.pin_length.is_some() && card.balance > Money::zero()
}

fn describe_retirement(card: &CardRow, void_and_exchange: &VoidAndExchange) -> String {
    let on = card.retired_on.as_deref().unwrap_or_default();
    match (&void_and_exchange.voided, &void_and_exchange.replaced_by_number) {
        (Some(voided), _) => format!("retired because it was voided on {voided}"),
        (None, Some(number)) => format!("retired because it was replaced by the card {number} on {on}"),
        (None, None) if card.quarantined_on.is_some() => {
            format!("retired on {on} by a decision about the import's quarantine")
        }
        (None, None) => format!("retired because its balance was moved to another card or user on {on}"),
    }
}

fn describe_sale(card: &CardRow, payments: &[PaymentOfCard]) -> String {
    let Some(sale) = payments.iter().find(|payment| payment.is_sale()) else { return "sold in MOR".to_owned() };
    let on = sale.on.as_deref().unwrap_or_default();
    if let Some(number) = &sale.replaced_number {
        return format!("issued on {on} to replace the card {number}");
    }
    let by = sale.user.as_ref().map(|user| format!(" by {user}")).unwrap_or_default();
    let refunded = if payments.iter().any(|payment| payment.reverses == Some(sale.id)) { ", refunded" } else { "" };
    let unsold = if card.sold || card.retired { "" } else { ", but it is not marked as sold" };
    format!("sold on {on}{by} for {} {}{refunded}{unsold}", sale.amount.to_plain_string(), sale.currency)
}
