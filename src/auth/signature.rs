//! The request hash: which parameters count, in which order, and whether a hash is right (`http.md`, "The request hash";
//! `hash-parameters.md`).

use std::collections::HashMap;
use std::sync::LazyLock;

use foldhash::fast::FixedState;
use sha1::{Digest, Sha1};
use smallvec::{SmallVec, smallvec};
use subtle::ConstantTimeEq;

use crate::dialect::Dialect;
use crate::http::params::Params;

/// One of the ways in which a request may be signed. Every operation has one or more.
#[derive(Debug, Clone, Copy)]
pub enum HashRule {
    /// Every parameter of the long list that the request carries, in the list's order, but for those named here.
    ParamOrder(Excluded),
    /// These, in whichever order.
    AnyOrder([&'static str; 3]),
    /// Exactly these, a missing one counting as empty.
    Exactly(&'static [&'static str]),
    /// What clients of an earlier name sent: these, under that name, unless the setting `legacy_hashes` is off.
    Legacy(&'static str, &'static [&'static str]),
}

/// Names that are left out though they stand in the list.
pub type Excluded = &'static [&'static str];

/// The parameters of one request that are hashed, in order.
#[derive(Debug)]
pub struct SignedParams<'a> {
    values: Vec<(&'static str, &'a str)>,
    /// Whether the rule leaves something unsigned that should be.
    pub is_legacy: bool,
}

impl HashRule {
    /// What of `params` enters the hash; for a request that came under the name `called`. More than one where the order
    /// is the client's choice, none where the rule isn't for that request.
    pub fn signed_params<'a>(&self, params: &'a Params, called: &str) -> SmallVec<[SignedParams<'a>; 1]> {
        let proper = |(name, value): (&'static str, &'a str)| Some((name, hashed_value(name, value)?));
        let sent = |names: &[&'static str]| -> Vec<_> {
            names.iter().filter_map(|name| proper((name, params.raw(name)?))).collect()
        };
        let signed = |values| SignedParams { values, is_legacy: false };
        match self {
            Self::ParamOrder(except) => {
                smallvec![signed(select_in_param_order(params.raw_pairs(), except).filter_map(proper).collect())]
            }
            Self::AnyOrder([a, b, c]) => [[a, b, c], [a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]]
                .map(|order| signed(sent(&order.map(|name| *name))))
                .into_iter()
                .collect(),
            Self::Exactly(names) => smallvec![signed(sent(names))],
            // Without its last parameter it would be the key alone that is hashed, whatever the amount.
            Self::Legacy(name, names)
                if *name == called && names.last().is_some_and(|last| params.non_blank(last).is_some()) =>
            {
                smallvec![SignedParams { values: sent(names), is_legacy: true }]
            }
            Self::Legacy(..) => SmallVec::new(),
        }
    }

    /// Which of the names that an operation reads enter the hash, in the order in which they do; `None` where the rule isn't for
    /// the name by which it is called.
    pub fn hashed_names<'a>(&self, read: impl Iterator<Item = &'a str>, called: &str) -> Option<Vec<&'static str>> {
        match self {
            Self::ParamOrder(except) => {
                Some(select_in_param_order(read.map(|name| (name, ())), except).map(|(name, ())| name).collect())
            }
            Self::AnyOrder(names) => Some(names.to_vec()),
            Self::Exactly(names) => Some(names.to_vec()),
            Self::Legacy(name, names) => (*name == called).then(|| names.to_vec()),
        }
    }
}

/// What comes with those of the names that stand in the long list, in its order.
fn select_in_param_order<'a, T>(
    named: impl Iterator<Item = (&'a str, T)>,
    except: Excluded,
) -> impl Iterator<Item = (&'static str, T)> {
    let mut listed: SmallVec<[(usize, T); 8]> =
        named.filter_map(|(name, what)| Some((*PARAM_INDEX.get(name)?, what))).collect();
    listed.sort_unstable_by_key(|(place, _)| *place);
    listed.into_iter().map(|(place, what)| (PARAM_ORDER[place], what)).filter(|(name, _)| !except.contains(name))
}

impl SignedParams<'_> {
    /// The SHA-1 of the values, joined without separators, and the key behind them.
    pub fn digest(&self, key: &str) -> [u8; 20] {
        let mut sha1 = Sha1::new();
        for (_, value) in &self.values {
            sha1.update(value.as_bytes());
        }
        sha1.update(key.as_bytes());
        sha1.finalize().into()
    }

    /// Whether `hash`, as sent, is right for the key. Takes as long whichever byte differs.
    pub fn verify(&self, hash: &str, key: &str, dialect: Dialect) -> bool {
        let mut sent = [0; 20];
        let readable = hex::decode_to_slice(hash, &mut sent).is_ok()
            && (dialect.accepts_uppercase_hash() || !hash.bytes().any(|byte| byte.is_ascii_uppercase()));
        readable && bool::from(sent.ct_eq(&self.digest(key)))
    }

    /// What is hashed before the key: names and values, in order. PINs may be among them.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values.iter().copied()
    }

    /// The names in order, for people who look for the mistake in their client. Never the values: a PIN may be among them.
    pub fn joined_names(&self) -> String {
        self.values.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }
}

/// The value as it enters the hash; `None` where the parameter counts only in a proper form and hasn't got it.
fn hashed_value<'a>(name: &str, value: &'a str) -> Option<&'a str> {
    let digits = || !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let as_sent = |proper: bool| proper.then_some(value);
    match name {
        "user_id" | "period_start" | "period_end" | "tariff_id" | "only_did" => digits().then(|| {
            let number = value.trim_start_matches('0');
            if number.is_empty() { "0" } else { number }
        }),
        "mtype" | "s_user" | "s_user_id" | "s_from" | "s_till" => as_sent(digits()),
        "device" | "s_device" | "s_provider" | "s_hgc" | "s_did" => as_sent(digits() || value == "all"),
        "balance" => {
            as_sent(!value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit() || b".-+".contains(&byte)))
        }
        "direction" => as_sent(matches!(value, "outgoing" | "incoming")),
        "users" => as_sent(
            matches!(value, "postpaid" | "prepaid" | "all")
                || !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit() || byte == b','),
        ),
        "block" => as_sent(value.contains("true") || value.contains("false")),
        "calltype" => as_sent(matches!(
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

/// Where each name stands in the long list.
static PARAM_INDEX: LazyLock<HashMap<&str, usize, FixedState>> =
    LazyLock::new(|| PARAM_ORDER.iter().enumerate().map(|(place, name)| (*name, place)).collect());

/// Every parameter that can enter a hash, in the order in which it does (`hash-parameters.md`).
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
