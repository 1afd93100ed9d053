//! Kinds of invalid and of difficult data, as a database of MOR can contain them.

/// Rows that are planted together. In the texts, `{a}` `{b}` `{c}` are new ids, `{na}` and `{pa}` the number and PIN of
/// the card `{a}`, `{x}` a currency's name made of `{a}`, `{y}` the same in small letters.
pub struct Kind {
    /// The statements that insert the rows.
    pub sql: &'static str,
    /// `rule|table|id|value|money|decision`; for a rule that only counts `rule|table|column`.
    pub findings: &'static [&'static str],
    /// What the import changes: `table|id|column=value`, with `∅` for NULL; or `table|id|` and one of `quarantined`,
    /// `retired`, `reserved`, `left out`.
    pub changes: &'static [&'static str],
    /// The decisions that it needs, as lines of a report.
    pub decisions: &'static [&'static str],
}

const fn kind(sql: &'static str, findings: &'static [&'static str], changes: &'static [&'static str]) -> Kind {
    Kind { sql, findings, changes, decisions: &[] }
}

/// A free card, with columns in addition.
macro_rules! card {
    ($columns:literal, $values:literal) => {
        concat!(
            "insert into cards (id, number, pin, balance, cardgroup_id",
            $columns,
            ") values ({a}, '{na}', '{pa}', 10, 7",
            $values,
            ");"
        )
    };
}

const USED: &[&str] = &["used_unsold|cards|{a}|{na}|10|default"];
const QUARANTINED: &[&str] = &["cards|{a}|quarantined"];

/// All kinds.
pub const KINDS: [Kind; 62] = [
    // Dates.
    kind(card!(", first_use", ", '0000-00-00 00:00:00'"), &["zero_date|cards|first_use"], &["cards|{a}|first_use=∅"]),
    kind(
        card!(", first_use", ", '2014-00-00 00:00:00'"),
        &["zero_date|cards|first_use", "used_unsold|cards|{a}|{na}|10|default"],
        &["cards|{a}|first_use=∅", "cards|{a}|quarantined"],
    ),
    kind(
        "insert into payments (id, amount, currency, date_added) values ({a}, 1, 'USD', '2014-02-30 10:00:00')",
        &["zero_date|payments|date_added"],
        &["payments|{a}|date_added=∅"],
    ),
    kind(
        "insert into payments (id, amount, currency, shipped_at) values ({a}, 1, 'USD', '0000-00-00 00:00:00')",
        &["zero_date|payments|shipped_at"],
        &["payments|{a}|shipped_at=∅"],
    ),
    kind(
        "insert into actions (id, date, action) values ({a}, '2014-06-01 12:00:00', 'x'), ({b}, '0000-00-00 00:00:00', 'x')",
        &["zero_date|actions|date"],
        &["actions|{b}|date=2014-06-01 09:00:00"],
    ),
    kind(
        "insert into ccorders (id, amount, currency, date_added) values ({a}, 1, 'USD', '2014-13-01 00:00:00')",
        &["zero_date|ccorders|date_added"],
        &["ccorders|{a}|date_added=∅"],
    ),
    kind(
        "insert into cardgroups (id, name, description, price, number_length, pin_length, created_at, valid_from, valid_till)
         values ({a}, 'Group {a}', '', 1, 10, 8, '2014-01-01 00:00:00', '0000-00-00 00:00:00', '2030-01-01 00:00:00')",
        &["zero_date|cardgroups|valid_from"],
        &["cardgroups|{a}|valid_from=∅"],
    ),
    kind(
        "insert into tariffs (id, name, owner_id, last_update_date) values ({a}, 'Tariff {a}', 0, '2014-04-31 01:00:00')",
        &["zero_date|tariffs|last_update_date"],
        &["tariffs|{a}|last_update_date=∅"],
    ),
    kind(
        "insert into payments (id, amount, currency, date_added) values ({a}, 1, 'USD', '2014-03-30 03:30:00')",
        &["skipped_hour|payments|date_added"],
        &[],
    ),
    kind(
        "insert into payments (id, amount, currency, date_added) values ({a}, 1, 'USD', '2014-10-26 03:30:00')",
        &["ambiguous_hour|payments|date_added"],
        &[],
    ),
    // Each way in which a card that is not sold was used.
    kind(card!(", first_use", ", '2014-02-01 00:00:00'"), USED, QUARANTINED),
    kind(card!(", call_count", ", 1"), USED, QUARANTINED),
    kind(card!(", frozen_balance", ", 0.5"), USED, QUARANTINED),
    kind(
        concat!(card!("", ""), "insert into payments (id, amount, currency, user_id, card) values ({b}, 10, 'USD', {a}, 1)"),
        USED,
        QUARANTINED,
    ),
    kind(
        concat!(
            card!("", ""),
            "insert into ccorders (id, amount, currency) values ({b}, 10, 'USD');
             insert into cclineitems (id, cardgroup_id, ccorder_id, card_id, price) values ({c}, 7, {b}, {a}, 10)"
        ),
        USED,
        QUARANTINED,
    ),
    kind(
        concat!(
            card!("", ""),
            "insert into vouchers (id, number, tag, currency, active_till, use_date)
             values ({b}, '{na}', '', 'USD', '2030-01-01 00:00:00', '2014-05-05 00:00:00')"
        ),
        USED,
        QUARANTINED,
    ),
    kind(
        concat!(
            card!("", ""),
            "insert into actions (id, date, action, target_type, target_id)
             values ({b}, '2014-06-01 12:00:00', 'card_sell_over_api', 'Card', {a})"
        ),
        USED,
        QUARANTINED,
    ),
    kind(
        concat!(
            card!("", ""),
            "insert into actions (id, date, action, data, target_type, target_id)
             values ({b}, '2014-06-01 12:00:00', 'card_payment_created', '{a}', 'Payment', 1)"
        ),
        USED,
        QUARANTINED,
    ),
    kind(concat!(card!("", ""), "insert into calls (card_id) values ({a})"), USED, QUARANTINED),
    kind(
        concat!(card!("", ""), "update cards set balance = 4.2 where id = {a}"),
        &["used_unsold|cards|{a}|{na}|4.2|default"],
        QUARANTINED,
    ),
    kind(
        concat!(card!("", ""), "update cards set balance = null where id = {a}"),
        &["used_unsold|cards|{a}|{na}|=0|default"],
        QUARANTINED,
    ),
    kind(
        concat!(
            card!("", ""),
            "update cards set balance = 0 where id = {a};
             insert into payments (id, amount, currency, user_id, card) values ({b}, 10, 'USD', {a}, 1)"
        ),
        &["emptied|cards|{a}|{na}|0|default"],
        &["cards|{a}|retired"],
    ),
    // Not used: a new card's own row of the log, a voucher and a payment of others.
    kind(
        concat!(
            card!("", ""),
            "insert into actions (id, date, action, target_type, target_id)
             values ({b}, '2014-06-01 12:00:00', 'card_created', 'card', {a});
             insert into vouchers (id, number, tag, currency, active_till, use_date)
             values ({b}, '{na}', '', 'USD', '2030-01-01 00:00:00', null);
             insert into payments (id, amount, currency, user_id, card) values ({b}, 10, 'USD', {a}, 0)"
        ),
        &[],
        &[],
    ),
    // Free cards that cannot be sold.
    kind(
        concat!(card!("", ""), "update cards set number = '9{a}' where id = {a}"),
        &["unsellable|cards|{a}|9{a}|10|default"],
        &["cards|{a}|reserved"],
    ),
    kind(
        concat!(card!("", ""), "update cards set number = null where id = {a}"),
        &["unsellable|cards|{a}|no number|10|default"],
        &["cards|{a}|reserved"],
    ),
    kind(
        concat!(card!("", ""), "update cards set pin = '' where id = {a}"),
        &["unsellable|cards|{a}|no PIN|10|default"],
        &["cards|{a}|reserved"],
    ),
    kind(
        concat!(card!("", ""), "update cards set pin = null where id = {a}"),
        &["unsellable|cards|{a}|no PIN|10|default"],
        &["cards|{a}|reserved"],
    ),
    kind(
        concat!(card!("", ""), "update cards set pin = 'pin{a}' where id = {a}"),
        &["unsellable|cards|{a}|PIN of 10 characters|10|default"],
        &["cards|{a}|reserved"],
    ),
    kind(
        card!(", user_id", ", 3"),
        &["distributor|cards|{a}|distributor 3|10|undecided"],
        &["cards|{a}|reserved"],
    ),
    // Numbers, PINs and caller ids that several cards have.
    kind(
        "insert into cardgroups (id, name, description, price, number_length, pin_length, created_at, valid_from, valid_till,
             owner_id)
         values ({c}, 'Group {c}', '', 10, 10, 8, '2014-01-01 00:00:00', '2014-01-01 00:00:00', '2030-01-01 00:00:00', 3);
         insert into cards (id, number, pin, balance, cardgroup_id, owner_id)
         values ({a}, '{na}', '{pa}', 10, 7, 0), ({b}, '{na}', '{pb}', 10, {c}, 3)",
        &["number_other_owner|cards|{a}|{na}|10|default", "number_other_owner|cards|{b}|{na}|10|default"],
        &[],
    ),
    kind(
        "insert into cards (id, number, pin, balance, cardgroup_id)
         values ({a}, '{na}', '{pa}', 10, 7), ({b}, '{na}', '{pb}', 10, 7)",
        &["duplicate_number|cards|{b}|{na}|10|default"],
        &["cards|{b}|quarantined"],
    ),
    kind(
        "insert into cards (id, number, pin, balance, cardgroup_id, sold)
         values ({a}, '{na}', '{pa}', 10, 7, 0), ({b}, '{na}', '{pb}', 10, 7, 1)",
        &["duplicate_number|cards|{a}|{na}|10|default"],
        &["cards|{a}|quarantined"],
    ),
    Kind {
        sql: "insert into cards (id, number, pin, balance, cardgroup_id, sold)
              values ({a}, '{na}', '{pa}', 10, 7, 1), ({b}, '{na}', '{pb}', 10, 7, 1)",
        findings: &["duplicate_number|cards|{a}|{na}|10|undecided", "duplicate_number|cards|{b}|{na}|10|undecided"],
        changes: &["cards|{a}|quarantined"],
        decisions: &["duplicate_number|cards|{a}||10|quarantine", "duplicate_number|cards|{b}||10|keep"],
    },
    kind(
        "insert into cards (id, number, pin, balance, cardgroup_id)
         values ({a}, '{na}', '{pa}', 10, 7), ({b}, '{nb}', '{pa}', 10, 7)",
        &["duplicate_pin|cards|{b}|*|10|default"],
        &["cards|{b}|quarantined"],
    ),
    kind(
        "insert into cards (id, number, pin, balance, cardgroup_id, call_count)
         values ({a}, '{na}', '{pa}', 10, 7, 0), ({b}, '{nb}', '{pa}', 10, 7, 0);
         update cards set sold = 1 where id = {b}",
        &["duplicate_pin|cards|{a}|*|10|default"],
        &["cards|{a}|quarantined"],
    ),
    // A hidden card is no conflict.
    kind(
        "insert into cards (id, number, pin, balance, cardgroup_id, hidden)
         values ({a}, '{na}', '{pa}', 10, 7, 0), ({b}, '{na}', '{pa}', 10, 7, 1)",
        &[],
        &[],
    ),
    kind(
        "insert into cards (id, number, pin, balance, cardgroup_id, sold, hidden, callerid)
         values ({a}, '{na}', '{pa}', 10, 7, 1, 1, '370{a}'), ({b}, '{nb}', '{pb}', 10, 7, 1, 0, '370{a}'),
             ({c}, '{nc}', '{pc}', 10, 7, 1, 0, '370{a}')",
        &["duplicate_callerid|cards|{a}|370{a}|10|default", "duplicate_callerid|cards|{c}|370{a}|10|default"],
        &["cards|{a}|callerid=∅", "cards|{c}|callerid=∅"],
    ),
    // Flags.
    kind(card!(", sold", ", 2"), &["sold_above_1|cards|{a}|2|10|default"], &["cards|{a}|sold=1"]),
    kind(card!(", sold, hidden", ", 1, -1"), &["hidden_below_0|cards|{a}|-1|10|default"], &["cards|{a}|hidden=1"]),
    // References to rows that do not exist.
    kind(
        concat!(card!(", owner_id", ", 3"), "update cards set cardgroup_id = 99 where id = {a}"),
        &["orphan_card|cards|{a}|99|10|default"],
        &["cards|{a}|cardgroup_id=*", "cards|{a}|reserved"],
    ),
    kind(
        concat!(card!(", sold", ", 1"), "update cards set cardgroup_id = 99 where id = {a}"),
        &["orphan_card|cards|{a}|99|10|default"],
        &["cards|{a}|cardgroup_id=*"],
    ),
    kind(
        "insert into cclineitems (id, card_id, price) values ({a}, {b}, 10)",
        &["dangling_line|cclineitems|{a}|card {b}|10|default"],
        &["cclineitems|{a}|card_id=∅"],
    ),
    kind(
        "insert into cclineitems (id, ccorder_id, price) values ({a}, {b}, 10)",
        &["dangling_line|cclineitems|{a}|order {b}|10|default"],
        &["cclineitems|{a}|ccorder_id=∅"],
    ),
    kind(
        "insert into cclineitems (id, cardgroup_id, price) values ({a}, {b}, 10)",
        &["dangling_line|cclineitems|{a}|group {b}|10|default"],
        &["cclineitems|{a}|cardgroup_id=∅"],
    ),
    kind(
        "insert into users (id, username, password, first_name, last_name, tax_id, tariff_id, lcr_id, address_id, balance)
         values ({a}, 'same name', '', '', '', {b}, {b}, {b}, {b}, null)",
        &[],
        &[],
    ),
    // Names that exist twice.
    kind(
        "insert into cardgroups (id, name, description, price, number_length, pin_length, created_at, valid_from, valid_till)
         values ({a}, 'Same {a}', '', 1, 10, 8, '2014-01-01 00:00:00', '2014-01-01 00:00:00', '2030-01-01 00:00:00'),
             ({b}, 'Same {a}', '', 1, 10, 8, '2014-01-01 00:00:00', '2014-01-01 00:00:00', '2030-01-01 00:00:00')",
        &["doubled_name|cardgroups|{b}|Same {a}||default"],
        &["cardgroups|{b}|name=Same {a} ({b})"],
    ),
    kind(
        "insert into tariffs (id, name, owner_id) values ({a}, 'Same {a}', 0), ({b}, 'Same {a}', 0), ({c}, 'Same {a}', 3)",
        &["doubled_name|tariffs|{b}|Same {a}||default"],
        &["tariffs|{b}|name=Same {a} ({b})"],
    ),
    kind(
        "insert into acc_rights (id, name) values ({a}, 'same {a}'), ({b}, 'SAME {a}')",
        &["doubled_name|acc_rights|{b}|SAME {a}||default"],
        &["acc_rights|{b}|name=SAME {a} ({b})"],
    ),
    kind(
        "insert into currencies (id, name) values ({a}, '{x}'), ({b}, '{y}');
         insert into users (id, username, password, first_name, last_name, currency_id) values ({c}, 'u{c}', '', '', '', {b})",
        &["doubled_currency|currencies|{b}|{y}||default", "currency_merged|users|{c}|{y}||default"],
        &["currencies|{b}|left out", "users|{c}|currency_id={a}"],
    ),
    kind(
        "insert into currencies (id, name) values ({a}, '{x}'), ({b}, '{y}');
         insert into cardgroups (id, name, description, price, number_length, pin_length, created_at, valid_from, valid_till,
             tell_balance_in_currency)
         values ({c}, 'Group {c}', '', 1, 10, 8, '2014-01-01 00:00:00', '2014-01-01 00:00:00', '2030-01-01 00:00:00', '{y}')",
        &["doubled_currency|currencies|{b}|{y}||default", "currency_merged|cardgroups|{c}|{y}||default"],
        &["currencies|{b}|left out", "cardgroups|{c}|tell_balance_in_currency={x}"],
    ),
    kind(
        "insert into currencies (id, name) values ({a}, 'LONG{a}')",
        &["bad_currency|currencies|{a}|LONG{a}||default"],
        &["currencies|{a}|left out"],
    ),
    kind(
        "insert into currencies (id, name) values ({a}, '')",
        &["bad_currency|currencies|{a}|||default"],
        &["currencies|{a}|left out"],
    ),
    Kind {
        sql: "insert into currencies (id, name) values ({a}, 'USED{a}');
              insert into users (id, username, password, first_name, last_name, currency_id)
              values ({b}, 'u{b}', '', '', '', {a})",
        findings: &["bad_currency|currencies|{a}|USED{a}||undecided"],
        changes: &["currencies|{a}|left out"],
        decisions: &["bad_currency|currencies|{a}|||leave-out"],
    },
    // Values.
    kind(
        "insert into users (id, username, password, first_name, last_name) values ({a}, null, '', '', '')",
        &["null_value|users|username"],
        &["users|{a}|username="],
    ),
    Kind {
        sql: card!(", sold, call_count", ", 1, 5000000000"),
        findings: &["out_of_range|cards|{a}|5000000000|10|undecided"],
        changes: &["cards|{a}|left out"],
        decisions: &["out_of_range|cards|{a}||10|leave-out"],
    },
    kind(
        "insert into aratedetails (id, start_time, end_time) values ({a}, '25:00:00', '838:59:59')",
        &["long_time|aratedetails|start_time", "long_time|aratedetails|end_time"],
        &["aratedetails|{a}|start_time=24:00:00", "aratedetails|{a}|end_time=24:00:00"],
    ),
    kind(
        "insert into aratedetails (id, artype, daytype) values ({a}, 'neither', 'WD')",
        &["unknown_value|aratedetails|artype"],
        &["aratedetails|{a}|artype=∅"],
    ),
    // Texts.
    kind(
        r"insert into users (id, username, password, first_name, last_name) values ({a}, 'u{a}', '', 'a\0b', '')",
        &[r"nul_byte|users|{a}|a\\0b||default"],
        &["users|{a}|first_name=a\u{fffd}b"],
    ),
    kind(
        r"insert into users (id, username, password, first_name, last_name)
          values ({a}, 'u{a}', '', 'tab\tline\nquote\'s', '\\N \\. \\\\ \Z')",
        &[],
        &[],
    ),
    kind("insert into conflines (id, name, value, owner_id) values ({a}, 'Subject', '🂡 {a} \u{1}', 0)", &[], &[]),
    kind(
        "insert into addresses (id, city) values ({a}, convert(cast('Šiauliai {a}' as binary) using latin1)), ({b}, 'café ¥ €')",
        &["charset_repaired|addresses|city"],
        &["addresses|{a}|city=Šiauliai {a}"],
    ),
    kind(
        "insert into conflines (id, name, value, owner_id) values ({a}, null, null, null), ({b}, 'Same', 'a', 0), ({c}, 'Same', 'b', 0)",
        &[],
        &[],
    ),
];
