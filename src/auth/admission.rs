//! Who asks, and may they (`http.md`, "Admission"): the checks in the contract's order, from top to bottom.

use std::sync::Arc;

use axum::http::Method;
use smallvec::SmallVec;

use crate::accounts::{SecretKey, Setting, Settings, User, UserType};
use crate::audit::{self, AuditRow};
use crate::auth::attempt_limiter::AttemptKind;
use crate::auth::signature::SignedParams;
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::http::context::CallContext;
use crate::idempotency::Idempotency;

/// Somebody whose request was admitted. There is no other way to come by one, so having it is the proof.
#[derive(Debug, Clone)]
pub struct Caller(Arc<User>);

impl Caller {
    /// The user's id, for audit rows.
    pub fn id(&self) -> i32 {
        self.0.id
    }

    /// Whose settings count and whose card groups are the caller's.
    pub fn owner_id(&self) -> i32 {
        self.0.settings_owner()
    }

    /// Whose card groups the caller sees where the admin sees everybody's (`None`).
    pub fn owner_scope(&self) -> Option<i32> {
        (self.0.usertype != UserType::Admin).then(|| self.owner_id())
    }

    /// The id of the user's own currency.
    pub fn currency_id(&self) -> Option<i32> {
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
    pub fn missing_right_error(&self) -> ApiError {
        match self.0.usertype {
            UserType::User | UserType::Partner => ApiError::AccessDeniedInPage,
            UserType::Admin | UserType::Accountant | UserType::Reseller => ApiError::NotAuthorized,
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
pub async fn authorize_strict(call: &CallContext) -> Result<Caller, ApiError> {
    let caller = authenticate(call).await?.ok_or(ApiError::BadLogin)?;
    if !caller.may_use_calling_cards(RIGHT_READ) {
        return Err(ApiError::AccessDenied);
    }
    if call.dialect().enforces_card_limit() {
        // In a box, here and below: what is large and rare makes no room for itself in every request.
        Box::pin(check_card_limit(call, &caller)).await?;
    }
    Ok(caller)
}

/// The values of a right.
pub const RIGHT_READ: i16 = 1;
/// Likewise.
pub const RIGHT_EDIT: i16 = 2;

/// Admission to the operations on calling cards that aren't strict. An accountant's `callingcard_manage` must be at least
/// `manage`.
pub async fn require_calling_cards(call: &CallContext, manage: i16) -> Result<Caller, ApiError> {
    let caller = authenticate(call).await?.ok_or(ApiError::AccessDeniedInPage)?;
    if caller.may_use_calling_cards(manage) { Ok(caller) } else { Err(caller.missing_right_error()) }
}

/// Admission to the other operations: an unknown user passes (`None`), and is refused by the operation in its own words.
pub async fn authenticate(call: &CallContext) -> Result<Option<Caller>, ApiError> {
    let Some(user) = verify_credentials(call).await? else {
        // Whether nobody has the name or the password is wrong: it must not show here either.
        call.record_failed_attempt(AttemptKind::Login);
        return Ok(None);
    };
    let caller = Caller(user);
    let system = &call.system_settings;
    let own = match caller.owner_id() {
        0 => system.clone(),
        owner => call.state.accounts.settings(owner).await?,
    };
    if !api_enabled(&caller.0, &own, system) {
        return Err(ApiError::ApiDisabled);
    }
    let is_get = call.method == Method::GET || call.method == Method::HEAD && call.dialect().head_is_get();
    if is_get && !system.is_enabled(Setting::AllowGetApi) {
        return Err(ApiError::GetDisabled);
    }
    check_hash(call, &caller, &own, system).await?;
    Ok(Some(caller))
}

/// The user named by `u`, if the password is right where one is asked for.
async fn verify_credentials(call: &CallContext) -> Result<Option<Arc<User>>, ApiError> {
    let state = &call.state;
    let Some(name) = call.params.get("u") else { return Ok(None) };
    let Some(user) = state.accounts.user(name).await? else { return Ok(None) };
    if user.blocked && call.dialect().refuses_blocked_users() {
        return Ok(None);
    }
    let required = state.config.require_password;
    let right = match call.params.raw("p") {
        None => !required,
        Some(_) if !required && !call.dialect().checks_sent_password() => true,
        Some(password) => {
            let may_go_on = || call.check_attempt_limit(AttemptKind::Login);
            Box::pin(state.passwords.verify(&state.pool, &user, password, may_go_on)).await?
        }
    };
    Ok(right.then_some(user))
}

/// Whether the API is on for a user, who has the settings `own`.
pub fn api_enabled(user: &User, own: &Settings, system: &Settings) -> bool {
    own.is_enabled(Setting::AllowApi) || system_fallback(user, system).is_some()
}

/// Whether nobody looks at the user's hashes.
pub fn hash_check_disabled(user: &User, own: &Settings, system: &Settings) -> bool {
    [Some(own), system_fallback(user, system)]
        .into_iter()
        .flatten()
        .any(|settings| settings.is_enabled(Setting::DisableHashChecking))
}

/// The keys that make a hash of the user's right: a reseller's own key counts, and the system's as well while the system's API
/// is on.
pub fn accepted_keys<'a>(
    user: &User,
    own: &'a Settings,
    system: &'a Settings,
    dialect: Dialect,
) -> SmallVec<[SecretKey<'a>; 2]> {
    let own_counts = own.is_enabled(Setting::AllowApi) || dialect.accepts_key_of_disabled_reseller();
    [own_counts.then_some(own), system_fallback(user, system)]
        .into_iter()
        .flatten()
        .flat_map(Settings::secret_keys)
        .collect()
}

/// The system's settings, where a reseller may use its API.
fn system_fallback<'a>(user: &User, system: &'a Settings) -> Option<&'a Settings> {
    (user.usertype == UserType::Reseller && system.is_enabled(Setting::AllowApi)).then_some(system)
}

/// Step 4.
async fn check_hash(call: &CallContext, caller: &Caller, own: &Settings, system: &Settings) -> Result<(), ApiError> {
    let dialect = call.dialect();
    if hash_check_disabled(&caller.0, own, system) {
        return Ok(());
    }
    call.check_attempt_limit(AttemptKind::Login)?;
    let keys = accepted_keys(&caller.0, own, system, dialect);
    let legacy = call.state.config.legacy_hashes;
    let signed: SmallVec<[SignedParams<'_>; 1]> =
        call.operation.hash_rules.iter().flat_map(|rule| rule.signed_params(&call.params, call.alias)).collect();
    let hash = call.params.get("hash").unwrap_or_default();
    let is_right = |signed: &&SignedParams<'_>| {
        // Every key is tried, so that the time taken doesn't say which was right.
        keys.iter().fold(false, |right, key| signed.verify(hash, key.text, dialect) | right)
    };
    if let Some(right) = signed.iter().filter(|signed| legacy || !signed.is_legacy).find(is_right) {
        if right.is_legacy {
            tracing::warn!(
                user = caller.id(),
                client = %call.client,
                hashed = right.joined_names(),
                "a hash by the older rule, which leaves the amount unsigned; the setting legacy_hashes refuses such"
            );
        }
        let by = |previous| keys.iter().any(|key| key.is_previous == previous && right.verify(hash, key.text, dialect));
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
    let fault = if keys.is_empty() && !hidden { ApiError::NoSecretKey } else { ApiError::IncorrectHash };
    if fault == ApiError::IncorrectHash {
        call.state.metrics.record_refused_hash(caller.id());
        call.record_failed_attempt(AttemptKind::Login);
    }
    let what = if keys.is_empty() { "API : API must have Secret key" } else { "API : Incorrect hash" };
    if record_refusal(call, what).await? {
        tracing::warn!(
            user = caller.id(),
            operation = call.operation.name,
            client = %call.client,
            hashed = signed.first().map(SignedParams::joined_names),
            "{what}. The hash is the SHA-1 of these parameters' values in this order, then the secret key"
        );
    }
    Err(fault)
}

/// Takes a refusal down for the audit; `false` in a flood of them.
async fn record_refusal(call: &CallContext, what: &'static str) -> Result<bool, ApiError> {
    let refusal = || AuditRow {
        message: what,
        url: call.masked_url(),
        client_addr: call.client.to_string(),
        parameter_names: call.params.names().collect::<Vec<_>>().join(", ").chars().take(255).collect(),
    };
    if call.state.accounts.is_enabled() {
        return Ok(call.state.audit.enqueue(refusal));
    }
    Box::pin(async {
        let mut connection = call.state.pool.acquire().await?;
        audit::insert(&mut *connection, &[refusal()]).await?;
        connection.release_clean();
        Ok(true)
    })
    .await
}

/// What MOR sells without the calling-card add-on: groups of ten cards (`x7.md`, "Admission").
async fn check_card_limit(call: &CallContext, caller: &Caller) -> Result<(), ApiError> {
    if call.system_settings.is_enabled(Setting::CcActive) || call.params.get("cardgroup_id").is_none() {
        return Ok(());
    }
    let mut connection = call.state.pool.acquire().await?;
    let cards = sqlx::query_scalar!(
        r#"select count(*) as "count!" from (select from cards where cardgroup_id = $1 limit 11) few"#,
        i32::try_from(call.params.integer("cardgroup_id")).unwrap_or(-1)
    )
    .fetch_one(&mut *connection)
    .await?;
    connection.release_clean();
    // The card that is one too many may be what the same request made when it came first.
    let admitted = cards <= 10 || Idempotency::new(call, caller).await?.has_stored_reply().await?;
    if admitted { Ok(()) } else { Err(ApiError::LimitedVersion) }
}
