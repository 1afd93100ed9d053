//! `mortise user`: manages users.

use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use super::database::with_database;
use super::right::find_permission_group_id;
use super::{CommandError, Report, UserRow, author, find_user, secret};
use crate::auth::passwords;
use crate::config::Config;
use crate::input;
use crate::store::change_log::{Change, RowChange, Target, What};

/// Subcommands of `mortise user`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a user; type the password, or send it on standard input
    Add(NewUser),
    /// List users
    List {
        /// Only users of this type
        #[arg(long, value_name = "TYPE")]
        r#type: Option<UserType>,
    },
    /// Set a password; type it, or send it on standard input
    SetPassword {
        /// The user's name
        name: String,
        /// Also store MOR's SHA-1 hash, for other programs that read it
        #[arg(long)]
        sha1: bool,
    },
    /// Delete MOR's SHA-1 hash of each password that also has an argon2id hash
    ClearSha1,
    /// Block a user
    Block {
        /// The user's name
        name: String,
    },
    /// Unblock a user
    Unblock {
        /// The user's name
        name: String,
    },
}

/// Options of `mortise user add`.
#[derive(Debug, clap::Args)]
pub struct NewUser {
    /// The login name: the parameter u of requests
    #[arg(value_parser = input::parse_name)]
    name: String,
    /// The type of the user
    #[arg(long, value_name = "TYPE")]
    r#type: UserType,
    /// The owner of the user [default: the admin]
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// The permission group, as in `mortise right list`; accountants and resellers can do little without one
    #[arg(long, value_name = "GROUP")]
    rights: Option<String>,
    /// Also store MOR's SHA-1 hash of the password, for other programs that read it
    #[arg(long)]
    sha1: bool,
}

/// MOR's types of users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "MOR's names")]
pub enum UserType {
    Admin,
    Accountant,
    Reseller,
    User,
    Partner,
}

impl UserType {
    fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Accountant => "accountant",
            Self::Reseller => "reseller",
            Self::User => "user",
            Self::Partner => "partner",
        }
    }
}

/// Runs the command.
pub async fn run(command: &Command, config: &Config) -> Result<Report, CommandError> {
    match command {
        Command::Add(new) => add(new, config).await,
        Command::List { r#type } => list(*r#type, config).await,
        Command::SetPassword { name, sha1 } => set_password(name, *sha1, config).await,
        Command::ClearSha1 => clear_sha1_hashes(config).await,
        Command::Block { name } => set_blocked(name, true, config).await,
        Command::Unblock { name } => set_blocked(name, false, config).await,
    }
}

/// The stored hashes of a password. No password matches an empty SHA-1 hash.
struct PasswordHashes {
    sha1: String,
    argon2: String,
}

impl PasswordHashes {
    fn read(with_sha1: bool) -> Result<Self, CommandError> {
        let password = secret::read_password()?;
        let argon2 =
            passwords::hash_argon2(&password).ok_or_else(|| CommandError::failed("cannot hash the password"))?;
        Ok(Self { sha1: if with_sha1 { passwords::hash_sha1(&password) } else { String::new() }, argon2 })
    }
}

async fn add(new: &NewUser, config: &Config) -> Result<Report, CommandError> {
    let name = new.name.as_str();
    if name.is_empty() || name.len() > 255 {
        return Err(CommandError::Usage("a name has 1 to 255 characters".to_owned()));
    }
    let hashes = PasswordHashes::read(new.sha1)?;
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        // The lock prevents a concurrent insert of a name that compares equal: MOR ignores letter case and trailing
        // spaces.
        sqlx::query!("lock table users in share row exclusive mode").execute(&mut *transaction).await?;
        match find_user(&mut *transaction, name).await {
            Err(CommandError::NotFound(_)) => {}
            Ok(existing) => {
                return Err(CommandError::Failed(format!(
                    "the user {:?} already exists (id {})",
                    existing.username, existing.id
                )));
            }
            Err(error) => return Err(error),
        }
        let owner = match &new.owner {
            Some(owner) => find_user(&mut *transaction, owner).await?.id,
            None => super::ADMIN_ID,
        };
        let group = match &new.rights {
            Some(group) => find_permission_group_id(&mut transaction, group, new.r#type.name()).await?,
            None => 0,
        };
        let id = insert_user(&mut transaction, new, owner, group, &hashes).await?;
        RowChange::created(What::User, id).record(&mut transaction, &author()).await?;
        transaction.commit().await?;
        let kind = new.r#type.name();
        Ok(Report::new(format!("The {kind} {name} was added, with id {id}."), json!({ "id": id, "username": name })))
    })
    .await
}

/// Inserts a user and returns its id. Taxes, tariff, LCR and currency are copied from the owner, as in MOR.
async fn insert_user(
    connection: &mut PgConnection,
    new: &NewUser,
    owner: i32,
    group: i32,
    hashes: &PasswordHashes,
) -> Result<i32, CommandError> {
    let id = sqlx::query_scalar!(
        "insert into users (username, password, password_argon2, usertype, owner_id, acc_group_id, tax_id, tariff_id, lcr_id,
             currency_id)
         select $1, $2, $3, $4, owner.id, $6,
             coalesce((select copy_taxes(t) from taxes t where t.id = owner.tax_id), copy_taxes(default_taxes())),
             owner.tariff_id, owner.lcr_id, owner.currency_id
         from users owner where owner.id = $5
         returning id",
        new.name,
        hashes.sha1,
        hashes.argon2,
        new.r#type.name(),
        owner,
        group
    );
    id.fetch_optional(connection)
        .await?
        .ok_or_else(|| CommandError::failed("there is no admin (id 0): `mortise serve` creates it at the first start"))
}

/// A row of `mortise user list`.
#[derive(Debug, Serialize)]
struct UserListRow {
    id: i32,
    username: String,
    r#type: String,
    owner: Option<String>,
    rights: Option<String>,
    blocked: bool,
    /// The stored hashes: `argon2id`, `sha1`, `both` or `none`.
    password: String,
}

async fn list(kind: Option<UserType>, config: &Config) -> Result<Report, CommandError> {
    let users = with_database(config, async |pool| {
        let users = sqlx::query_as!(
            UserListRow,
            r#"select u.id, u.username, u.usertype as "type", owner.username as "owner?", g.name as "rights?",
                   u.blocked = 1 or u.hidden = 1 as "blocked!",
                   case when u.password_argon2 is not null and u.password <> '' then 'both'
                       when u.password_argon2 is not null then 'argon2id'
                       when u.password <> '' then 'sha1' else 'none' end as "password!"
               from users u
               left join users owner on owner.id = u.owner_id and u.id <> 0
               left join acc_groups g on g.id = u.acc_group_id
               where $1::text is null or u.usertype = $1
               order by u.id"#,
            kind.map(UserType::name)
        );
        Ok(users.fetch_all(pool).await?)
    })
    .await?;
    Ok(Report::table(["ID", "NAME", "TYPE", "OWNER", "RIGHTS", "BLOCKED", "PASSWORD"], &users, |user| {
        [
            user.id.to_string(),
            user.username.clone(),
            user.r#type.clone(),
            user.owner.clone().unwrap_or_default(),
            user.rights.clone().unwrap_or_default(),
            if user.blocked { "yes" } else { "" }.to_owned(),
            user.password.clone(),
        ]
    }))
}

async fn set_password(name: &str, with_sha1: bool, config: &Config) -> Result<Report, CommandError> {
    let hashes = PasswordHashes::read(with_sha1)?;
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        let user = lock_user(&mut transaction, name).await?;
        let change = RowChange::begin(&mut transaction, What::User, user.id).await?;
        sqlx::query!(
            "update users set password = $2, password_argon2 = $3 where id = $1",
            user.id,
            hashes.sha1,
            hashes.argon2
        )
        .execute(&mut *transaction)
        .await?;
        change.record(&mut transaction, &author()).await?;
        transaction.commit().await?;
        Ok(Report::done(format!("The password of {} was set.", user.username)))
    })
    .await
}

async fn clear_sha1_hashes(config: &Config) -> Result<Report, CommandError> {
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        let deleted =
            sqlx::query!("update users set password = '' where password <> '' and password_argon2 is not null")
                .execute(&mut *transaction)
                .await?
                .rows_affected();
        let left = sqlx::query_scalar!(r#"select count(*) as "count!" from users where password <> ''"#)
            .fetch_one(&mut *transaction)
            .await?;
        let after = json!({ "sha1_hashes_deleted": deleted }).to_string();
        let change = Change { what: What::User, target: Target::Named("all users"), before: None, after: Some(after) };
        change.record(&mut transaction, &author()).await?;
        transaction.commit().await?;
        let text =
            format!("SHA-1 hashes deleted: {deleted}; left: {left}, of users that have not sent their password yet.");
        Ok(Report::new(text, json!({ "deleted": deleted, "left": left })))
    })
    .await
}

async fn set_blocked(name: &str, blocked: bool, config: &Config) -> Result<Report, CommandError> {
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        let user = lock_user(&mut transaction, name).await?;
        let change = RowChange::begin(&mut transaction, What::User, user.id).await?;
        sqlx::query!("update users set blocked = $2 where id = $1", user.id, i16::from(blocked))
            .execute(&mut *transaction)
            .await?;
        change.record(&mut transaction, &author()).await?;
        transaction.commit().await?;
        let is_ineffective = blocked && !config.dialect.refuses_blocked_users();
        Ok(Report::done(match (blocked, is_ineffective) {
            (true, false) => format!("{} is blocked.", user.username),
            (true, true) => format!(
                "{} is blocked, but the dialect x7 admits blocked users, as MOR does: \
                 remove the key or the rights too.",
                user.username
            ),
            (false, _) => format!("{} is unblocked.", user.username),
        }))
    })
    .await
}

/// Finds a user by name, and locks it until the end of the transaction.
async fn lock_user(connection: &mut PgConnection, name: &str) -> Result<UserRow, CommandError> {
    let user = find_user(&mut *connection, name).await?;
    sqlx::query!("select id from users where id = $1 for no key update", user.id).fetch_optional(connection).await?;
    Ok(user)
}
