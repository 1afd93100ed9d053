//! The forms of the card page.

use std::sync::Arc;

use axum::extract::State;
use minijinja::context;
use serde::Deserialize;
use sqlx::PgConnection;

use super::limit;
use super::own_card::OwnCard;
use crate::back_office::details::{self, RevealedPin};
use crate::back_office::lookup::{self, CardKey, FoundCard};
use crate::back_office::mails::{self, Retry};
use crate::back_office::reissue::Reissue;
use crate::back_office::top_up::TopUp;
use crate::back_office::void::{MissingChoice, Refund, RefundRow, Void, VoidOutcome, VoidTerms};
use crate::back_office::{parse_reason, withhold};
use crate::console::Console;
use crate::console::access::Role;
use crate::console::error::ConsoleError;
use crate::console::form::{ConfirmedForm, Form, NoFields};
use crate::console::render::PageResult;
use crate::console::submission::Done;
use crate::money::Money;
use crate::pin::Pin;

fn card_path(id: i64) -> String {
    format!("/cards/{id}")
}

fn read_reason(text: &str) -> Result<String, ConsoleError> {
    parse_reason(text.trim())
        .map_err(|message| ConsoleError::Refused(format!("The reason is missing or invalid: {message}.")))
}

#[derive(Debug, Deserialize)]
pub(super) struct TopUpFields {
    amount: String,
    #[serde(default)]
    description: String,
}

pub(super) async fn top_up(
    State(console): State<Arc<Console>>,
    OwnCard { id }: OwnCard,
    form: Form<TopUpFields>,
) -> PageResult {
    let currencies = console.app.accounts.currencies().await?;
    form.carry_out(&console, async |connection, author, session, fields| {
        let top_up =
            TopUp { card_id: id, amount: &fields.amount, description: &fields.description, currencies: &currencies };
        let done = top_up.run(&mut *connection, author).await?;
        let card_amount = limit::check(&console, connection, session, id, &done.added.clone().into()).await?;
        let [paid, added, balance] = [&done.paid, &done.added, &done.balance].map(Money::to_plain_string);
        let currency = &done.currency;
        let message = format!(
            "The card {} is topped up: {paid} {currency} paid, tax included, {added} {currency} added. Its balance is now \
             {balance} {currency}.",
            done.number
        );
        Ok(Done { card_amount, ..Done::new(card_path(id), message) })
    })
    .await
}

#[derive(Debug, Deserialize)]
pub(super) struct VoidFields {
    #[serde(default)]
    reason: String,
    /// `full`, `none` or `amount`.
    refund: String,
    /// In the currency of the sale, without tax.
    #[serde(default)]
    amount: String,
    /// The box that says that the card may have been used.
    used: Option<String>,
}

pub(super) async fn void(
    State(console): State<Arc<Console>>,
    OwnCard { id }: OwnCard,
    ConfirmedForm(form): ConfirmedForm<VoidFields>,
) -> PageResult {
    form.carry_out(&console, async |connection, author, session, fields| {
        let reason = read_reason(&fields.reason)?;
        if fields.refund != "amount" && !fields.amount.trim().is_empty() {
            let message = "You typed an amount to refund: choose \"This amount\" too, or delete the amount.";
            return Err(ConsoleError::Refused(message.to_owned()));
        }
        let refund = if fields.refund == "amount" { fields.amount.trim() } else { &fields.refund };
        let refund = Refund::parse(refund).map_err(|_| {
            ConsoleError::Refused("Choose what is refunded: everything, nothing, or an amount such as 8.40.".to_owned())
        })?;
        let used = fields.used.is_some();
        check_choices(&VoidTerms::load(&mut *connection, id).await?, used, &refund)?;
        let void = Void { card_id: id, reason: &reason, used, refund: Some(refund) };
        let (message, card_amount) = match void.run(&mut *connection, author).await? {
            VoidOutcome::AlreadyVoided { voided_on } => (format!("The card was voided on {voided_on}."), None),
            VoidOutcome::Voided { refunds, balance_removed, mails } => {
                let card_amount = match session.account.role {
                    Role::Support => {
                        let amount = limit::amount_of_void(&mut *connection, &refunds, &balance_removed).await?;
                        limit::check(&console, connection, session, id, &amount).await?
                    }
                    Role::Admin | Role::Reseller | Role::ReadOnly => None,
                };
                (describe_void(&refunds, &balance_removed, &mails), card_amount)
            }
        };
        Ok(Done { card_amount, ..Done::new(card_path(id), message) })
    })
    .await
}

/// Refuses, in the words of the page, what [`Void`] would refuse in those of the command.
fn check_choices(terms: &VoidTerms, used: bool, refund: &Refund) -> Result<(), ConsoleError> {
    let message = match terms.missing_choice(used, Some(refund)).filter(|_| terms.refused.is_none()) {
        None => return Ok(()),
        Some(MissingChoice::Used) => "The card was used. Tick the box that says so, and choose what is refunded.",
        Some(MissingChoice::NoRefund) => {
            "The card was sold in MOR. Mortise does not know the payment, and cannot refund it."
        }
    };
    Err(ConsoleError::Refused(message.to_owned()))
}

fn describe_void(refunds: &[RefundRow], balance_removed: &Money, mails: &[i64]) -> String {
    let mut text = format!("The card is void. The balance {} was removed.", balance_removed.to_plain_string());
    for RefundRow { reverses, amount, tax, currency, tax_included } in refunds {
        let tax = if *tax_included { "tax included".to_owned() } else { format!("tax {}", tax.to_plain_string()) };
        text += &format!(" Refund of the payment {reverses}: {} {currency}, {tax}.", amount.to_plain_string());
    }
    text += match refunds.is_empty() {
        true => " Nothing was refunded.",
        false => " Pay the money back with the payment provider: it is only recorded here.",
    };
    text + &describe_mails("The card", mails)
}

/// The e-mails that have lost the card.
fn describe_mails(card: &str, mails: &[i64]) -> String {
    let mails: Vec<String> = mails.iter().map(i64::to_string).collect();
    match mails.is_empty() {
        true => String::new(),
        false => format!(" {card} was taken out of e-mails that were not sent: {}.", mails.join(", ")),
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct ReissueFields {
    #[serde(default)]
    reason: String,
    /// The number of the new card. Blank: the next free one.
    #[serde(default)]
    to: String,
}

/// Replaces the card, and shows the new one.
pub(super) async fn reissue(
    State(console): State<Arc<Console>>,
    OwnCard { id }: OwnCard,
    ConfirmedForm(form): ConfirmedForm<ReissueFields>,
) -> PageResult {
    form.carry_out(&console, async |connection, author, session, fields| {
        let reason = read_reason(&fields.reason)?;
        let to = Some(fields.to.trim()).filter(|number| !number.is_empty());
        if let (Some(number), Some(owner_id)) = (to, session.owner_id()) {
            check_own_number(&mut *connection, id, number, owner_id).await?;
        }
        let new = Reissue { card_id: id, reason: &reason, to }.run(&mut *connection, author).await?;
        let (number, balance) = (&new.number, new.balance.to_plain_string());
        if new.already_replaced {
            let message = format!("The card was replaced before by this card, {number}. Nothing was changed.");
            return Ok(Done::new(card_path(new.id), message));
        }
        let card_amount = limit::check(&console, connection, session, id, &new.balance.clone().into()).await?;
        let message = format!(
            "The card is replaced by this card, {number}, with the balance {balance}.{} The customer does not get an \
             e-mail: give the customer the new card. An account with the right to PINs can show its PIN.",
            describe_mails("The old card", &new.mails)
        );
        Ok(Done { card_amount, ..Done::new(card_path(new.id), message) })
    })
    .await
}

/// Refuses a number that no card of the same group has, before `Reissue` would say whose card has it.
async fn check_own_number(
    connection: &mut PgConnection,
    card_id: i64,
    number: &str,
    owner_id: i32,
) -> Result<(), ConsoleError> {
    let keys = [CardKey::Id(card_id), CardKey::Number(number.to_owned())];
    let found = lookup::search(connection, &keys, Some(owner_id)).await?.cards;
    let old = found.iter().find(|card| card.id == card_id);
    let is_in_group = |card: &FoundCard| old.is_some_and(|old| old.cardgroup_id == card.cardgroup_id);
    let has_new = found.iter().any(|card| card.in_use && card.number.as_deref() == Some(number) && is_in_group(card));
    match has_new {
        true => Ok(()),
        false => Err(ConsoleError::Refused(format!("The card group has no card with the number {number}."))),
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct ReasonFields {
    #[serde(default)]
    reason: String,
}

pub(super) async fn block(state: State<Arc<Console>>, card: OwnCard, form: Form<ReasonFields>) -> PageResult {
    set_blocked(state, card, form, true).await
}

pub(super) async fn unblock(state: State<Arc<Console>>, card: OwnCard, form: Form<ReasonFields>) -> PageResult {
    set_blocked(state, card, form, false).await
}

async fn set_blocked(
    State(console): State<Arc<Console>>,
    OwnCard { id }: OwnCard,
    form: Form<ReasonFields>,
    block: bool,
) -> PageResult {
    form.carry_out(&console, async |connection, author, _, fields| {
        let reason = read_reason(&fields.reason)?;
        let changed = withhold::block_card(connection, id, block, Some(&reason), author).await?;
        let message = match (block, changed) {
            (true, true) => "The card is blocked: it can neither be used nor sold.",
            (true, false) => "The card was blocked before.",
            (false, true) => "The card is unblocked.",
            (false, false) => "The card was not blocked.",
        };
        Ok(Done::new(card_path(id), message))
    })
    .await
}

#[derive(Debug, Deserialize)]
pub(super) struct SendFields {
    /// The id of the e-mail.
    mail: i64,
    /// Also if it was sent before.
    again: Option<String>,
}

/// Sends an e-mail of the card at once, also one that has failed or was sent.
pub(super) async fn send_again(
    State(console): State<Arc<Console>>,
    OwnCard { id }: OwnCard,
    form: Form<SendFields>,
) -> PageResult {
    form.carry_out(&console, async |connection, author, _, fields| {
        let mails = details::load_mails(&mut *connection, id).await?;
        let mail = mails.into_iter().find(|mail| mail.mail_id == Some(fields.mail));
        let mail = mail.ok_or_else(|| ConsoleError::NotFound("The card has no such e-mail.".to_owned()))?;
        let sent_too = fields.again.is_some();
        if mail.mail.as_deref() == Some("sent") && !sent_too {
            let message = "The e-mail was sent meanwhile. Load the page again to send it a second time.";
            return Err(ConsoleError::Refused(message.to_owned()));
        }
        let retry = Retry::Ids { ids: &[fields.mail], sent_too };
        mails::retry(connection, &retry, author).await?;
        let message = format!("The e-mail to {} is sent now. The list below says when it was sent.", mail.address);
        Ok(Done::new(card_path(id), message))
    })
    .await
}

/// Shows the PIN, once for each form. The change log says who has seen it.
pub(super) async fn reveal_pin(
    State(console): State<Arc<Console>>,
    OwnCard { id }: OwnCard,
    ConfirmedForm(form): ConfirmedForm<NoFields>,
) -> PageResult {
    if !form.session.may_reveal_pins() {
        return Err(ConsoleError::Forbidden(
            "Your account may not show PINs. An operator can allow it: mortise console pins NAME on.".to_owned(),
        ));
    }
    let page_console = console.clone();
    let result = form.carry_out_and_show(
        &console,
        async |connection, author, _, NoFields {}| {
            let revealed = details::reveal_pin(connection, id, author).await?;
            let message = "The PIN was shown once. To see it again, send the form again.";
            Ok((Done::new(card_path(id), message), revealed))
        },
        |session, RevealedPin { number, pin }| {
            let pin = pin.as_ref().map(Pin::expose);
            page_console.render(session, "card_pin.html", context! { id, number, pin })
        },
    );
    result.await
}
