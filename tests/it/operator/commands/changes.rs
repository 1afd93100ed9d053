//! The change log of every command: the list of commands is read from the program's help.

use std::collections::BTreeMap;

use super::Operator;

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Changes data. The change log says that data of this kind was changed.
    Changes(&'static str),
    /// Prints or exports secrets. The change log says of what kind.
    Discloses(&'static str),
    Reads,
}
use Effect::{Changes, Discloses, Reads};

/// Each command in the order of execution: name, arguments, standard input, effect.
const COMMANDS: [(&str, &[&str], &str, Effect); 48] = [
    ("audit", &[], "", Reads),
    ("cards check", &["--repair"], "", Changes("card")),
    ("cards check", &[], "", Reads),
    ("cards export", &["--group", "6"], "", Discloses("card_group")),
    ("cards generate", &["--group", "11", "--quantity", "1"], "", Changes("card")),
    ("config", &[], "", Reads),
    ("console add", &["ann"], "twelve letters and more", Changes("console_account")),
    ("console block", &["ann"], "", Changes("console_account")),
    ("console list", &[], "", Reads),
    ("console password", &["ann"], "other letters and more", Changes("console_account")),
    ("console pins", &["ann", "on"], "", Changes("console_account")),
    ("console second-factor", &["ann"], "", Changes("console_account")),
    ("console unblock", &["ann"], "", Changes("console_account")),
    ("currency add", &["GBP", "0.8"], "", Changes("currency")),
    ("currency list", &[], "", Reads),
    ("currency set", &["EUR", "--rate", "0.9"], "", Changes("currency")),
    ("doctor", &[], "", Reads),
    ("explain-hash", &["http://x/api/card_from_group_sell?u=admin&id=6&hash=0"], "", Reads),
    ("group list", &[], "", Reads),
    ("key end", &[], "", Changes("key")),
    ("key rotate", &[], "", Changes("key")),
    ("key set", &[], "another key that is long", Changes("key")),
    ("key show", &["--yes"], "", Discloses("key")),
    ("report reconcile", &["$DIRECTORY/list.csv"], "", Reads),
    ("report sales", &[], "", Reads),
    ("report statement", &["reseller"], "", Reads),
    ("report stock", &[], "", Reads),
    ("report tax", &[], "", Reads),
    ("reseller create", &["agent"], "", Changes("user")),
    ("right give", &["Clerks", "accountant_none"], "", Changes("user")),
    ("right list", &[], "", Reads),
    ("right set", &["Clerks", "callingcard_manage", "none"], "", Changes("right")),
    ("setting get", &["Allow_API"], "", Reads),
    ("setting list", &[], "", Reads),
    ("setting set", &["Email_Sending_Enabled", "on"], "", Changes("setting")),
    ("sign", &["card_from_group_sell", "id=6", "--key-of", "admin"], "", Reads),
    ("tariff export", &["8", "$DIRECTORY/tariff.csv"], "", Reads),
    ("tariff import", &["$DIRECTORY/rates.csv", "--tariff", "8"], "", Changes("tariff")),
    ("tariff list", &[], "", Reads),
    ("user add", &["clerk", "--type", "user"], "a long password", Changes("user")),
    ("user block", &["customer"], "", Changes("user")),
    ("user unblock", &["customer"], "", Changes("user")),
    ("user clear-sha1", &[], "", Changes("user")),
    ("user list", &[], "", Reads),
    ("user set-password", &["customer"], "a long password", Changes("user")),
    ("user set-password", &["customer", "--sha1"], "a long password", Changes("user")),
    ("mail list", &[], "", Reads),
    // Last: the server sends the e-mail at any time from here on.
    ("mail correct", &["1", "anna@example.com"], "", Changes("mail")),
];

/// Not run here: the tests of the command check its rows, or it changes no data of the shop.
const ELSEWHERE: [&str; 21] = [
    "backup",
    "card block",
    "card reissue",
    "card settle",
    "card show",
    "card unblock",
    "card void",
    "cards assign",
    "cards block",
    "cards import",
    "cards list",
    "cards release",
    "cards unblock",
    "healthcheck",
    "import",
    "mail retry",
    "mail test",
    "migrate",
    "reconcile",
    "restore",
    "serve",
];

/// The commands without subcommands, from the help.
fn leaf_commands(operator: &Operator, parents: &[&str]) -> Vec<String> {
    let help = operator.run_ok(&[parents, &["--help"]].concat());
    let Some((_, commands)) = help.split_once("\nCommands:\n") else { return vec![parents.join(" ")] };
    let lines = commands.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|name| !name.is_empty()));
    names
        .filter(|name| *name != "help")
        .flat_map(|name| leaf_commands(operator, &[parents, &[name]].concat()))
        .collect()
}

/// A hash of the rows of each table but the change log.
async fn table_hashes(operator: &Operator) -> BTreeMap<String, String> {
    let tables = "select relname from pg_class
        where relkind = 'r' and relnamespace = 'public'::regnamespace and relname not in ('change_log', '_sqlx_migrations')";
    let mut hashes = BTreeMap::new();
    for table in operator.server.rows(tables).await {
        let query = format!("select md5(string_agg(r::text, ' ' order by r::text)) from {table} r");
        hashes.insert(table, operator.server.rows(&query).await.concat());
    }
    hashes
}

#[tokio::test]
async fn every_command_that_changes_data_writes_to_the_change_log() {
    let operator = Operator::new().await;
    let listed: Vec<&str> = COMMANDS.map(|command| command.0).into_iter().chain(ELSEWHERE).collect();
    for command in leaf_commands(&operator, &[]) {
        assert!(listed.contains(&command.as_str()), "`mortise {command}` is in none of the lists of this file");
    }

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    std::fs::write(directory.path().join("list.csv"), "reference,amount,currency\nA-1,1,USD\n").unwrap();
    std::fs::write(
        directory.path().join("rates.csv"),
        "prefix,rate,connection_fee,increment,min_time,effective_from\n370,0.1,0,1,0,\n",
    )
    .unwrap();
    operator
        .server
        .execute(
            "insert into acc_groups (id, name, group_type) values (1, 'Clerks', 'accountant');
             insert into tariffs (id, name, purpose, currency) values (8, 'Wholesale', 'user_wholesale', 'USD');
             insert into destinations (prefix, name) values ('370', 'Lithuania');
             insert into conflines (name, value, value2) values ('API_Secret_Key_Previous', 'old', '2999-01-01 00:00:00');
             select setval('currencies_id_seq', 100), setval('acc_groups_id_seq', 100);
             update users set password_argon2 = 'kept' where id = 2;
             insert into email_outbox (id, owner_id, user_id, address, message_id, card_ids, balances, currency, failed_at, last_error)
             values (1, 0, 0, 'anna@example', 'm@shop.test', '{4}', '{1}', 'USD', now(), 'unknown host');
             delete from card_stock where card_id = 1",
        )
        .await;
    let mut before = table_hashes(&operator).await;
    for (command, arguments, input, effect) in COMMANDS {
        operator.server.execute("truncate change_log").await;
        let arguments: Vec<String> = arguments.iter().map(|argument| argument.replace("$DIRECTORY", path)).collect();
        let arguments: Vec<&str> = command.split(' ').chain(arguments.iter().map(String::as_str)).collect();
        let output = operator.run_with_input(input, &arguments);
        // The doctor reports problems of the fixtures, the hash is wrong, and the listed payment is missing.
        let is_negative = ["doctor", "explain-hash", "report reconcile"].contains(&command);
        assert_eq!(output.code, i32::from(is_negative), "{arguments:?}: {output:?}");
        let after = table_hashes(&operator).await;
        let logged = operator.server.rows("select distinct what from change_log").await;
        match effect {
            Changes(what) | Discloses(what) => {
                assert!(logged.iter().any(|kind| kind == what), "{arguments:?}: {logged:?}")
            }
            Reads => assert!(logged.is_empty(), "{arguments:?}: {logged:?}"),
        }
        assert_eq!(before != after, matches!(effect, Changes(_)), "{arguments:?}");
        before = after;
    }
}
