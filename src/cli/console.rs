//! `mortise console`: manages the accounts of the console.

use clap::Subcommand;
use qrcode::QrCode;
use qrcode::render::unicode;
use serde::Serialize;
use serde_json::json;

use super::database::with_database;
use super::{CommandError, Report, author, find_user, secret};
use crate::auth::passwords;
use crate::config::{Config, OnOff};
use crate::console::access::Role;
use crate::console::accounts::{self, Account, NewAccount};
use crate::console::totp;
use crate::input;

/// Subcommands of `mortise console`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create an account; type its password, or send it on standard input. An admin gets the QR code of a second factor
    Add {
        /// The login name
        #[arg(value_parser = input::parse_user_name)]
        name: String,
        /// What the account may do
        #[arg(long, value_enum, default_value = "admin")]
        role: Role,
        /// For the role reseller: the user whose groups, cards and sales the account sees
        #[arg(long, value_name = "USER", required_if_eq("role", "reseller"))]
        user: Option<String>,
        /// The account may show PINs. Each time, a row of the change log is written
        #[arg(long)]
        reveal_pins: bool,
    },
    /// List the accounts
    List,
    /// Block an account, and end its sessions
    Block {
        /// The login name
        name: String,
    },
    /// Unblock an account
    Unblock {
        /// The login name
        name: String,
    },
    /// Give an account the right to PINs (it may show PINs and export cards), or take it away
    Pins {
        /// The login name
        name: String,
        /// on or off
        #[arg(value_enum)]
        state: OnOff,
    },
    /// Set a new password, and end the sessions of the account; type it, or send it on standard input
    Password {
        /// The login name
        name: String,
    },
    /// Replace the second factor, for a lost phone: print a new QR code, and end the sessions of the account
    SecondFactor {
        /// The login name
        name: String,
    },
}

/// Runs the command.
pub async fn run(command: &Command, config: &Config) -> Result<Report, CommandError> {
    match command {
        Command::Add { name, role, user, reveal_pins } => {
            let new = New { name, role: *role, user: user.as_deref(), can_reveal_pins: *reveal_pins };
            add(&new, config).await
        }
        Command::List => list(config).await,
        Command::Block { name } => set_blocked(name, true, config).await,
        Command::Unblock { name } => set_blocked(name, false, config).await,
        Command::Pins { name, state } => set_right_to_pins(name, *state == OnOff::On, config).await,
        Command::Password { name } => set_password(name, config).await,
        Command::SecondFactor { name } => replace_second_factor(name, config).await,
    }
}

/// An account to add, as the command line names it.
struct New<'a> {
    name: &'a str,
    role: Role,
    user: Option<&'a str>,
    can_reveal_pins: bool,
}

async fn add(new: &New<'_>, config: &Config) -> Result<Report, CommandError> {
    let New { name, role, user, can_reveal_pins } = *new;
    if user.is_some() && role != Role::Reseller {
        return Err(CommandError::Usage("--user is for the role reseller only".to_owned()));
    }
    if can_reveal_pins && role == Role::ReadOnly {
        return Err(CommandError::Usage("--reveal-pins is not for the role read-only".to_owned()));
    }
    let hash = hash_password(&secret::read_password()?)?;
    let second_factor = (role == Role::Admin).then(random_secret).transpose()?;
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        let user_id = match user {
            Some(user) => Some(find_user(&mut *transaction, user).await?.id),
            None => None,
        };
        let account = NewAccount {
            name,
            role,
            user_id,
            can_reveal_pins,
            is_demo: false,
            password_argon2: &hash,
            totp_secret: second_factor.as_ref().map(<[u8; totp::SECRET_BYTES]>::as_slice),
        };
        if account.insert(&mut transaction, &author()).await?.is_none() {
            return Err(CommandError::failed(format!("there is an account {name} already")));
        }
        transaction.commit().await?;
        Ok(())
    })
    .await?;
    let text = format!("The account {name} was created, with the role {}.", role.name().replace('_', "-"));
    Ok(match second_factor {
        Some(secret) => report_second_factor(&text, name, &secret)?,
        None => Report::new(text, json!({ "name": name, "role": role.name() })),
    })
}

/// Returns a report with the QR code, which is shown only this once.
fn report_second_factor(text: &str, name: &str, secret: &[u8]) -> Result<Report, CommandError> {
    let uri = totp::key_uri(name, secret);
    let code = QrCode::new(&uri).map_err(|error| CommandError::failed(error.to_string()))?;
    let code = code.render::<unicode::Dense1x2>().build();
    let text = format!(
        "{text}\nScan this code with an authenticator program. It is shown only this once.\n\n{code}\n\n{uri}\n\n\
         Without a camera, type the key: {}",
        totp::base32(secret)
    );
    Ok(Report::new(text, json!({ "name": name, "otpauth": uri })))
}

/// An account in the list.
#[derive(Debug, Serialize)]
struct AccountRow {
    name: String,
    role: String,
    user: Option<String>,
    can_reveal_pins: bool,
    second_factor: bool,
    is_blocked: bool,
    last_seen: Option<String>,
}

async fn list(config: &Config) -> Result<Report, CommandError> {
    let accounts = with_database(config, async |pool| {
        let accounts = sqlx::query_as!(
            AccountRow,
            r#"select name, role, coalesce(u.username, 'user ' || user_id) as user, can_reveal_pins,
                   totp_secret is not null as "second_factor!", a.blocked_at is not null as "is_blocked!",
                   (select to_char(max(last_seen_at), 'YYYY-MM-DD HH24:MI') from console_sessions s where s.account_id = a.id)
                       as last_seen
               from console_accounts a left join users u on u.id = a.user_id order by fold_case(name)"#
        );
        Ok(accounts.fetch_all(pool).await?)
    })
    .await?;
    let yes_no = |value: bool| if value { "yes" } else { "no" }.to_owned();
    let header = ["NAME", "ROLE", "USER", "PINS", "SECOND FACTOR", "BLOCKED", "LAST SEEN (UTC)"];
    Ok(Report::table(header, &accounts, |account| {
        [
            account.name.clone(),
            account.role.replace('_', "-"),
            account.user.clone().unwrap_or_default(),
            yes_no(account.can_reveal_pins),
            yes_no(account.second_factor),
            yes_no(account.is_blocked),
            account.last_seen.clone().unwrap_or_default(),
        ]
    }))
}

async fn set_blocked(name: &str, is_blocked: bool, config: &Config) -> Result<Report, CommandError> {
    change(name, config, async |connection, account| {
        Ok(account.set_blocked(connection, is_blocked, &author()).await?)
    })
    .await?;
    Ok(Report::done(match is_blocked {
        true => format!("The account {name} was blocked, and its sessions have ended."),
        false => format!("The account {name} was unblocked."),
    }))
}

async fn set_right_to_pins(name: &str, can_reveal: bool, config: &Config) -> Result<Report, CommandError> {
    change(name, config, async |connection, account| {
        if can_reveal && account.role == Role::ReadOnly {
            return Err(CommandError::failed("accounts with the role read-only do not get the right to PINs"));
        }
        Ok(account.set_can_reveal_pins(connection, can_reveal, &author()).await?)
    })
    .await?;
    Ok(Report::done(match can_reveal {
        true => format!("The account {name} has the right to PINs."),
        false => format!("The account {name} does not have the right to PINs."),
    }))
}

async fn set_password(name: &str, config: &Config) -> Result<Report, CommandError> {
    let hash = hash_password(&secret::read_password()?)?;
    change(name, config, async |connection, account| {
        Ok(account.set_password(connection, &hash, None, &author()).await?)
    })
    .await?;
    Ok(Report::done(format!("The password of {name} was set, and the sessions of the account have ended.")))
}

async fn replace_second_factor(name: &str, config: &Config) -> Result<Report, CommandError> {
    let secret = random_secret()?;
    change(name, config, async |connection, account| {
        Ok(account.set_totp(connection, &secret, None, &author()).await?)
    })
    .await?;
    report_second_factor(
        &format!("The account {name} has a new second factor. Its sessions have ended."),
        name,
        &secret,
    )
}

/// Changes the account in one transaction.
async fn change(
    name: &str,
    config: &Config,
    work: impl AsyncFnOnce(&mut sqlx::PgConnection, &Account) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        let account = accounts::find(&mut transaction, name).await?;
        let account = account.ok_or_else(|| CommandError::NotFound(format!("there is no console account {name:?}")))?;
        work(&mut transaction, &account).await?;
        Ok(transaction.commit().await?)
    })
    .await
}

fn hash_password(password: &str) -> Result<String, CommandError> {
    passwords::hash_argon2(password).ok_or_else(|| CommandError::failed("cannot hash the password"))
}

fn random_secret() -> Result<[u8; totp::SECRET_BYTES], CommandError> {
    totp::new_secret().map_err(|error| CommandError::failed(format!("cannot get random bytes: {error}")))
}
