//! The request hash: the hashed parameters, their order, and the verification of a hash (`http.md`, "The request hash";
//! `hash-parameters.md`).

use std::collections::HashMap;
use std::sync::LazyLock;

use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;

use crate::dialect::Dialect;
use crate::http::params::Params;

/// Replaces the secret key in hash inputs that people read.
const KEY_PLACEHOLDER: &str = "<secret key>";

/// A rule by which a request may be signed. Every operation has one or more.
#[derive(Debug, Clone, Copy)]
pub enum HashRule {
    /// Every sent parameter that is in `PARAM_ORDER`, in its order, without the excluded ones.
    ParamOrder(Excluded),
    /// These three parameters, in any order.
    AnyOrder([&'static str; 3]),
    /// Exactly these parameters; a missing one has an empty value.
    Exactly(&'static [&'static str]),
    /// Exactly these parameters, for a request under an old name of the operation, unless the setting `legacy_hashes`
    /// is off.
    Legacy(&'static str, &'static [&'static str]),
}

/// Names in `PARAM_ORDER` that are not hashed.
pub type Excluded = &'static [&'static str];

/// The hashed parameters of a request, in order. Without `Debug`: they can have PINs.
pub struct SignedParams<'a> {
    values: Vec<(&'static str, &'a str)>,
    /// Whether the rule is [`HashRule::Legacy`], which leaves the amount unsigned.
    pub is_legacy: bool,
}

impl HashRule {
    /// Returns the hashed parameters of a request that was sent under the name `alias`. There are several candidates if
    /// the client may choose the order, and none if the rule does not apply to the request.
    pub fn signed_params<'a>(&self, params: &'a Params, alias: &str) -> Vec<SignedParams<'a>> {
        let hashed = |(name, value): (&'static str, &'a str)| Some((name, hashed_value(name, value)?));
        let hashed_values = |names: &[&'static str]| -> Vec<_> {
            names.iter().filter_map(|name| hashed((name, params.raw(name)?))).collect()
        };
        let signed = |values| SignedParams { values, is_legacy: false };
        match self {
            Self::ParamOrder(excluded) => {
                vec![signed(select_in_param_order(params.raw_pairs(), excluded).filter_map(hashed).collect())]
            }
            Self::AnyOrder([a, b, c]) => [[a, b, c], [a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]]
                .map(|order| signed(hashed_values(&order.map(|name| *name))))
                .into_iter()
                .collect(),
            Self::Exactly(names) => vec![signed(hashed_values(names))],
            // Without the last parameter the hash would cover only the secret key, for any amount.
            Self::Legacy(name, names)
                if *name == alias && names.last().is_some_and(|last| params.non_blank(last).is_some()) =>
            {
                vec![SignedParams { values: hashed_values(names), is_legacy: true }]
            }
            Self::Legacy(..) => Vec::new(),
        }
    }

    /// Returns the hashed names among those that an operation reads, in their order. `None`: the rule does not apply to
    /// the name `alias`.
    pub fn hashed_names<'a>(&self, read: impl Iterator<Item = &'a str>, alias: &str) -> Option<Vec<&'static str>> {
        match self {
            Self::ParamOrder(excluded) => {
                Some(select_in_param_order(read.map(|name| (name, ())), excluded).map(|(name, ())| name).collect())
            }
            Self::AnyOrder(names) => Some(names.to_vec()),
            Self::Exactly(names) => Some(names.to_vec()),
            Self::Legacy(name, names) => (*name == alias).then(|| names.to_vec()),
        }
    }
}

/// Returns the items whose names are in `PARAM_ORDER` and not excluded, in its order.
fn select_in_param_order<'a, T>(
    items: impl Iterator<Item = (&'a str, T)>,
    excluded: Excluded,
) -> impl Iterator<Item = (&'static str, T)> {
    let mut listed: Vec<(usize, T)> = items.filter_map(|(name, item)| Some((*PARAM_INDEX.get(name)?, item))).collect();
    listed.sort_unstable_by_key(|(index, _)| *index);
    listed.into_iter().map(|(index, item)| (PARAM_ORDER[index], item)).filter(|(name, _)| !excluded.contains(name))
}

impl SignedParams<'_> {
    /// Returns the text that is hashed, with a placeholder for the key. PINs may be in it.
    pub fn masked_input(&self) -> String {
        self.values().map(|(_, value)| value).chain([KEY_PLACEHOLDER]).collect()
    }

    /// Returns the SHA-1 of the values, joined without separators, followed by the secret key.
    pub fn digest(&self, key: &str) -> [u8; 20] {
        let mut sha1 = Sha1::new();
        for (_, value) in &self.values {
            sha1.update(value.as_bytes());
        }
        sha1.update(key.as_bytes());
        sha1.finalize().into()
    }

    /// Whether `hash`, as sent, is valid for the secret key. Compares in constant time.
    pub fn verify(&self, hash: &str, key: &str, dialect: Dialect) -> bool {
        let mut sent = [0; 20];
        let is_hex = hex::decode_to_slice(hash, &mut sent).is_ok()
            && (dialect.accepts_uppercase_hash() || !hash.bytes().any(|byte| byte.is_ascii_uppercase()));
        is_hex && bool::from(sent.ct_eq(&self.digest(key)))
    }

    /// Iterates over the names and values that are hashed before the key, in order. PINs may be among them.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values.iter().copied()
    }

    /// Returns the names in order, for the log. Values are left out because a PIN may be among them.
    pub fn joined_names(&self) -> String {
        self.values.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }
}

/// Returns the value as it is hashed. `None`: the parameter is hashed only in a valid form, and the value does not have
/// it.
fn hashed_value<'a>(name: &str, value: &'a str) -> Option<&'a str> {
    let is_digits = || !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let unchanged_if = |valid: bool| valid.then_some(value);
    match name {
        // Empty counts as 0.
        "user_id" | "period_start" | "period_end" | "tariff_id" | "only_did" => {
            value.bytes().all(|byte| byte.is_ascii_digit()).then(|| {
                let number = value.trim_start_matches('0');
                if number.is_empty() { "0" } else { number }
            })
        }
        "mtype" | "s_user" | "s_user_id" | "s_from" | "s_till" => unchanged_if(is_digits()),
        "device" | "s_device" | "s_provider" | "s_hgc" | "s_did" => unchanged_if(is_digits() || value == "all"),
        "balance" => {
            unchanged_if(!value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit() || b".-+".contains(&byte)))
        }
        "direction" => unchanged_if(matches!(value, "outgoing" | "incoming")),
        "users" => unchanged_if(
            matches!(value, "postpaid" | "prepaid" | "all")
                || !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit() || byte == b','),
        ),
        "block" => unchanged_if(value.contains("true") || value.contains("false")),
        "calltype" => unchanged_if(matches!(
            value,
            "all"
                | "answered"
                | "busy"
                | "no_answer"
                | "failed"
                | "missed"
                | "missed_inc"
                | "missed_inc_all"
                | "missed_not_processed_inc"
        )),
        _ => Some(value),
    }
}

/// The index of each name in `PARAM_ORDER`.
static PARAM_INDEX: LazyLock<HashMap<&str, usize>> =
    LazyLock::new(|| PARAM_ORDER.iter().enumerate().map(|(index, name)| (*name, index)).collect());

/// All parameters that can be hashed, in the order in which they are hashed (`hash-parameters.md`).
#[rustfmt::skip]
const PARAM_ORDER: &[&str] = &[
    "user_id", "period_start", "period_end", "direction", "calltype", "device", "balance", "users", "block", "email",
    "mtype", "tariff_id", "u0", "u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8", "u9", "u10", "u11", "u12", "u13",
    "u14", "u15", "u16", "u17", "u18", "u19", "u20", "u21", "u22", "u23", "u24", "u25", "u26", "u27", "u28", "ay",
    "am", "ad", "by", "bm", "bd", "pswd", "pcsv", "ppdf", "recording_forced_enabled", "i4", "tax4_enabled",
    "tax2_enabled", "accountant_type_invalid", "block_at_conditional", "tax3_enabled", "accountant_type",
    "tax1_value", "show_zero_calls", "warning_email_active", "compound_tax", "tax4_name", "allow_loss_calls",
    "tax3_name", "tax2_name", "credit", "tax1_name", "total_tax_name", "tax2_value", "tax4_value", "i1", "tax3_value",
    "cyberplat_active", "i2", "i3", "recording_enabled", "email_warning_sent_test", "own_providers", "a0", "a1", "a2",
    "a3", "a4", "a5", "a6", "a7", "a8", "a9", "s_user", "s_call_type", "s_device", "s_provider", "s_hgc", "s_did",
    "s_destination", "order_by", "order_desc", "only_did", "description", "pin", "type", "devicegroup_id",
    "phonebook_id", "number", "name", "speeddial", "s_user_id", "s_from", "provider_id", "s_till", "s_transaction",
    "s_completed", "s_username", "s_first_name", "s_last_name", "s_paymenttype", "s_amount_max", "s_currency",
    "s_number", "s_pin", "p_currency", "paymenttype", "tax_in_amount", "amount", "transaction", "payer_email", "fee",
    "id", "quantity", "callerid", "cardgroup_id", "status", "date_from", "date_till", "s_reseller_did",
    "s_did_pattern", "lcr_id", "dst", "src", "message", "server_ip", "device_type", "device_username",
    "device_password", "login_url", "login_username", "username", "first_name", "last_name", "full_name",
    "nice_balance", "warning_email_balance", "nice_warning_email_balance", "currency", "user_email", "company_email",
    "company", "primary_device_pin", "login_password", "user_ip", "date", "auth_code", "transaction_id",
    "customer_name", "company_name", "url", "trans_id", "cc_purchase_details", "payment_amount",
    "payment_payer_first_name", "payment_payer_last_name", "payment_payer_email", "payment_seller_email",
    "payment_receiver_email", "payment_date", "payment_free", "payment_currency", "payment_type", "payment_fee",
    "call_list", "email_name", "email_to_user_id", "caller_id", "device_id", "calldate", "source", "destination",
    "billsec", "calls_string", "did", "forward_to", "callflow_action", "state", "forward_to_device",
    "external_number", "did_id", "src_callerid", "custom", "fax_device", "device_location_id", "location_id",
    "cli_number", "new_service_name", "new_service_type", "service_id",
];
