//! Who asks, and may they (`http.md`, "Admission"): the checks in the contract's order, from top to bottom.

use std::sync::Arc;

use axum::http::Method;
use smallvec::SmallVec;

use crate::accounts::{Key, Setting, Settings, User, UserType};
use crate::audit::{self, Refusal};
use crate::auth::attempt_limiter::Guess;
use crate::auth::signature::Signed;
use crate::dialect::Dialect;
use crate::error::Fault;
use crate::http::context::Call;
use crate::idempotency::Once;

/// Somebody whose request was admitted. There is no other way to come by one, so having it is the proof.
#[derive(Debug, Clone)]
pub struct Caller(Arc<User>);

impl Caller {
    /// The user's id, for audit rows.
    pub fn id(&self) -> i32 {
        self.0.id
    }

    /// Whose settings count and whose card groups are the caller's.
    pub fn owner(&self) -> i32 {
        self.0.settings_owner()
    }

    /// Whose card groups the caller sees where the admin sees everybody's (`None`).
    pub fn confined_to(&self) -> Option<i32> {
        (self.0.usertype != UserType::Admin).then(|| self.owner())
    }

    /// The id of the user's own currency.
    pub fn currency(&self) -> Option<i32> {
        self.0.currency_id
    }

    /// What kind of user.
    pub fn usertype(&self) -> UserType {
        self.0.usertype
    }

    /// The value of a right, by its name in lower case: 0 none, 1 read, 2 edit.
    pub fn right(&self, name: &str) -> i16 {
        self.0.right(name)
    }

    /// How operations that aren't strict refuse a user who lacks a right.
    pub fn refusal(&self) -> Fault {
        match self.0.usertype {
            UserType::User | UserType::Partner => Fault::AccessDeniedOnPage,
            UserType::Admin | UserType::Accountant | UserType::Reseller => Fault::NotAuthorized,
        }
    }

    /// Whether the user may use calling cards; an accountant's `callingcard_manage` must be at least `manage`.
    fn may_use_calling_cards(&self, manage: i16) -> bool {
        match self.0.usertype {
            UserType::Admin => true,
            UserType::Accountant => self.0.right("callingcard_manage") >= manage,
            UserType::Reseller => self.0.right("calling_cards") == 2,
            UserType::User | UserType::Partner => false,
        }
    }
}

/// Admission to the "strict" operations: all five steps.
pub async fn admit_strictly(call: &Call) -> Result<Caller, Fault> {
    let caller = admit(call).await?.ok_or(Fault::BadLogin)?;
    if !caller.may_use_calling_cards(READ) {
        return Err(Fault::AccessDenied);
    }
    if call.dialect().has_limited_version() {
        // In a box, here and below: what is large and rare makes no room for itself in every request.
        Box::pin(limited_version(call, &caller)).await?;
    }
    Ok(caller)
}

/// The values of a right.
pub const READ: i16 = 1;
/// Likewise.
pub const EDIT: i16 = 2;

/// Admission to the operations on calling cards that aren't strict. An accountant's `callingcard_manage` must be at least
/// `manage`.
pub async fn admit_to_calling_cards(call: &Call, manage: i16) -> Result<Caller, Fault> {
    let caller = admit(call).await?.ok_or(Fault::AccessDeniedOnPage)?;
    if caller.may_use_calling_cards(manage) { Ok(caller) } else { Err(caller.refusal()) }
}

/// Admission to the other operations: an unknown user passes (`None`), and is refused by the operation in its own words.
pub async fn admit(call: &Call) -> Result<Option<Caller>, Fault> {
    let Some(user) = known_user(call).await? else {
        // Whether nobody has the name or the password is wrong: it must not show here either.
        call.guessed_wrong(Guess::Login);
        return Ok(None);
    };
    let caller = Caller(user);
    let system = &call.system;
    let own = match caller.owner() {
        0 => system.clone(),
        owner => call.app.directory.settings(owner).await?,
    };
    if !is_on_for(&caller.0, &own, system) {
        return Err(Fault::ApiDisabled);
    }
    let is_get = call.method == Method::GET || call.method == Method::HEAD && call.dialect().head_is_get();
    if is_get && !system.on(Setting::AllowGetApi) {
        return Err(Fault::GetDisabled);
    }
    check_hash(call, &caller, &own, system).await?;
    Ok(Some(caller))
}

/// The user named by `u`, if the password is right where one is asked for.
async fn known_user(call: &Call) -> Result<Option<Arc<User>>, Fault> {
    let app = &call.app;
    let Some(name) = call.params.get("u") else { return Ok(None) };
    let Some(user) = app.directory.user(name).await? else { return Ok(None) };
    if user.shut_out && call.dialect().refuses_blocked_users() {
        return Ok(None);
    }
    let required = app.config.require_password;
    let right = match call.params.as_sent("p") {
        None => !required,
        Some(_) if !required && !call.dialect().checks_sent_password() => true,
        Some(password) => {
            let may_go_on = || call.may_guess(Guess::Login);
            Box::pin(app.passwords.is_right(&app.pool, &user, password, may_go_on)).await?
        }
    };
    Ok(right.then_some(user))
}

/// Whether the API is on for a user, who has the settings `own`.
pub fn is_on_for(user: &User, own: &Settings, system: &Settings) -> bool {
    own.on(Setting::AllowApi) || shared(user, system).is_some()
}

/// Whether nobody looks at the user's hashes.
pub fn is_unchecked(user: &User, own: &Settings, system: &Settings) -> bool {
    [Some(own), shared(user, system)].into_iter().flatten().any(|settings| settings.on(Setting::DisableHashChecking))
}

/// The keys that make a hash of the user's right: a reseller's own key counts, and the system's as well while the system's API
/// is on.
pub fn keys<'a>(user: &User, own: &'a Settings, system: &'a Settings, dialect: Dialect) -> SmallVec<[Key<'a>; 2]> {
    let own_counts = own.on(Setting::AllowApi) || dialect.takes_key_of_switched_off_reseller();
    [own_counts.then_some(own), shared(user, system)].into_iter().flatten().flat_map(Settings::keys).collect()
}

/// The system's settings, where a reseller may use its API.
fn shared<'a>(user: &User, system: &'a Settings) -> Option<&'a Settings> {
    (user.usertype == UserType::Reseller && system.on(Setting::AllowApi)).then_some(system)
}

/// Step 4.
async fn check_hash(call: &Call, caller: &Caller, own: &Settings, system: &Settings) -> Result<(), Fault> {
    let dialect = call.dialect();
    if is_unchecked(&caller.0, own, system) {
        return Ok(());
    }
    call.may_guess(Guess::Login)?;
    let keys = keys(&caller.0, own, system, dialect);
    let legacy = call.app.config.legacy_hashes;
    let signed: SmallVec<[Signed<'_>; 1]> =
        call.operation.hashed.iter().flat_map(|rule| rule.of(&call.params, call.called)).collect();
    let hash = call.params.get("hash").unwrap_or_default();
    let is_right = |signed: &&Signed<'_>| {
        // Every key is tried, so that the time taken doesn't say which was right.
        keys.iter().fold(false, |right, key| signed.is_right(hash, key.text, dialect) | right)
    };
    if let Some(right) = signed.iter().filter(|signed| legacy || !signed.legacy).find(is_right) {
        if right.legacy {
            tracing::warn!(
                user = caller.id(),
                client = %call.client,
                hashed = right.names(),
                "a hash by the older rule, which leaves the amount unsigned; the setting legacy_hashes refuses such"
            );
        }
        let by =
            |previous| keys.iter().any(|key| key.is_previous == previous && right.is_right(hash, key.text, dialect));
        if by(true) && !by(false) {
            tracing::info!(
                user = caller.id(),
                client = %call.client,
                "a hash with the previous key, which counts only until the time in value2 of API_Secret_Key_Previous"
            );
        }
        return Ok(());
    }
    let hidden = caller.usertype() == UserType::Reseller && dialect.hides_missing_key_from_resellers();
    let fault = if keys.is_empty() && !hidden { Fault::NoSecretKey } else { Fault::IncorrectHash };
    if fault == Fault::IncorrectHash {
        call.app.figures.refused_hash(caller.id());
        call.guessed_wrong(Guess::Login);
    }
    let what = if keys.is_empty() { "API : API must have Secret key" } else { "API : Incorrect hash" };
    if note(call, what).await? {
        tracing::warn!(
            user = caller.id(),
            operation = call.operation.name,
            client = %call.client,
            hashed = signed.first().map(Signed::names),
            "{what}. The hash is the SHA-1 of these parameters' values in this order, then the secret key"
        );
    }
    Err(fault)
}

/// Takes a refusal down for the audit; `false` in a flood of them.
async fn note(call: &Call, what: &'static str) -> Result<bool, Fault> {
    let refusal = || Refusal {
        what,
        url: call.masked_url(),
        address: call.client.to_string(),
        parameters: call.params.names().collect::<Vec<_>>().join(", ").chars().take(255).collect(),
    };
    if call.app.directory.remembers() {
        return Ok(call.app.audit.note(refusal));
    }
    Box::pin(async {
        let mut connection = call.app.pool.acquire().await?;
        audit::insert(&mut *connection, &[refusal()]).await?;
        connection.keep();
        Ok(true)
    })
    .await
}

/// What MOR sells without the calling-card add-on: groups of ten cards (`x7.md`, "Admission").
async fn limited_version(call: &Call, caller: &Caller) -> Result<(), Fault> {
    if call.system.on(Setting::CcActive) || call.params.get("cardgroup_id").is_none() {
        return Ok(());
    }
    let mut connection = call.app.pool.acquire().await?;
    let cards = sqlx::query_scalar!(
        r#"select count(*) as "count!" from (select from cards where cardgroup_id = $1 limit 11) few"#,
        i32::try_from(call.params.integer("cardgroup_id")).unwrap_or(-1)
    )
    .fetch_one(&mut *connection)
    .await?;
    connection.keep();
    // The card that is one too many may be what the same request made when it came first.
    let admitted = cards <= 10 || Once::new(call, caller).await?.is_answered().await?;
    if admitted { Ok(()) } else { Err(Fault::LimitedVersion) }
}
