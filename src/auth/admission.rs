//! Authentication and authorization of a request (`http.md`, "Admission"). The checks run in the contract's order.

use std::sync::Arc;

use axum::http::Method;

use crate::accounts::{SecretKey, Setting, Settings, User, UserType};
use crate::audit::{self, AuditRow};
use crate::auth::attempt_limiter::AttemptKind;
use crate::auth::caller::{Caller, RIGHT_READ};
use crate::auth::passwords::PasswordAttempt;
use crate::auth::signature::SignedParams;
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::http::context::{Access, CallContext};
use crate::idempotency::Idempotency;

/// Logs that the caller lacks a right and the request, or the part of it that needs the right, is refused.
pub fn log_missing_right(call: &CallContext, caller: &Caller, right: &'static str) {
    if call.should_log_refusal(right) {
        tracing::warn!(
            user = ?call.logged_username(),
            user_id = caller.id(),
            usertype = ?caller.usertype(),
            client = %call.client,
            operation = call.operation.name,
            right,
            "missing right"
        );
    }
}

/// Logs that the request is refused before its rights are checked.
fn log_refused_login(call: &CallContext, reason: &'static str) {
    if call.should_log_refusal(reason) {
        tracing::warn!(
            user = ?call.logged_username(),
            client = %call.client,
            operation = call.operation.name,
            reason,
            "login refused"
        );
    }
}

/// Admits a request: authenticates the user and checks that the user may use the operation.
pub async fn admit(call: &CallContext) -> Result<Caller, ApiError> {
    match call.operation.access {
        Access::Strict => authorize_strict(call).await,
        Access::CallingCards(required_right) => require_calling_cards(call, required_right).await,
        Access::Own(authorize) => authorize(call, authenticate(call).await?),
    }
}

/// Authorizes a request to a "strict" operation: all six steps of "Admission" in `docs/compatibility.md`.
async fn authorize_strict(call: &CallContext) -> Result<Caller, ApiError> {
    let caller = authenticate(call).await?.ok_or(ApiError::BadLogin)?;
    if !caller.may_use_calling_cards(RIGHT_READ) {
        log_missing_right(call, &caller, caller.calling_cards_right());
        return Err(ApiError::AccessDenied);
    }
    if call.dialect().enforces_card_limit() {
        // Boxed, here and below: large futures that rarely run would enlarge the future of every request.
        Box::pin(check_card_limit(call, &caller)).await?;
    }
    Ok(caller)
}

/// Authorizes a request to an operation on calling cards that is not strict. An accountant's `callingcard_manage` must
/// be at least `required`.
async fn require_calling_cards(call: &CallContext, required: i16) -> Result<Caller, ApiError> {
    let caller = authenticate(call).await?.ok_or(ApiError::AccessDeniedInPage)?;
    if caller.may_use_calling_cards(required) {
        return Ok(caller);
    }
    log_missing_right(call, &caller, caller.calling_cards_right());
    Err(caller.missing_right_error())
}

/// Authenticates a request. Returns `None` for an unknown user or a wrong password: each operation refuses these with
/// its own error.
async fn authenticate(call: &CallContext) -> Result<Option<Caller>, ApiError> {
    let caller = match verify_credentials(call).await? {
        Ok(user) => Caller::new(user),
        Err(reason) => {
            log_refused_login(call, reason);
            // Counted for unknown names too: the limit must not reveal which names exist.
            call.record_failed_attempt(AttemptKind::Login);
            return Ok(None);
        }
    };
    let system = &call.system_settings;
    let own_settings = match caller.owner_id() {
        0 => system.clone(),
        owner_id => call.state.accounts.settings(owner_id).await?,
    };
    if !api_enabled(caller.user(), &own_settings, system) {
        log_refused_login(call, "Allow_API is off");
        return Err(ApiError::ApiDisabled);
    }
    let is_get = call.method == Method::GET || call.method == Method::HEAD && call.dialect().head_is_get();
    if is_get && !system.is_enabled(Setting::AllowGetApi) {
        log_refused_login(call, "Allow_GET_API is off");
        return Err(ApiError::GetDisabled);
    }
    check_hash(call, &caller, &own_settings, system).await?;
    Ok(Some(caller))
}

/// Returns the user named by `u`, if the password is correct or none is required; else the reason for the log, which
/// the client must not learn.
async fn verify_credentials(call: &CallContext) -> Result<Result<Arc<User>, &'static str>, ApiError> {
    let state = &call.state;
    let Some(name) = call.params.get("u") else { return Ok(Err("no user sent")) };
    let user = state.user_lookup.find(&state.accounts, &state.load, call.client, name).await?;
    let Some(user) = user else { return Ok(Err("unknown user")) };
    if user.blocked && call.dialect().refuses_blocked_users() {
        return Ok(Err("blocked user"));
    }
    let required = state.config.require_password;
    let is_valid = match call.params.raw("p") {
        None if required => return Ok(Err("no password sent")),
        None => true,
        Some(_) if !required && !call.dialect().checks_sent_password() => true,
        Some(password) => {
            let check_limit = || call.check_attempt_limit(AttemptKind::Login);
            let attempt = PasswordAttempt { user: &user, password, client: call.client, load: &state.load };
            Box::pin(state.passwords.verify(&state.pool, &attempt, check_limit)).await?
        }
    };
    Ok(if is_valid { Ok(user) } else { Err("wrong password") })
}

/// Whether the API is enabled for a user with the settings `own_settings`.
pub fn api_enabled(user: &User, own_settings: &Settings, system: &Settings) -> bool {
    own_settings.is_enabled(Setting::AllowApi) || system_fallback(user, system).is_some()
}

/// Whether the user's hashes are not checked.
pub fn hash_check_disabled(user: &User, own_settings: &Settings, system: &Settings) -> bool {
    [Some(own_settings), system_fallback(user, system)]
        .into_iter()
        .flatten()
        .any(|settings| settings.is_enabled(Setting::DisableHashChecking))
}

/// Returns the secret keys with which the user's hashes are valid. For a reseller these are its own keys, and the
/// system's keys while the system's API is enabled.
pub fn accepted_keys<'a>(
    user: &User,
    own_settings: &'a Settings,
    system: &'a Settings,
    dialect: Dialect,
) -> Vec<SecretKey<'a>> {
    let own_accepted = own_settings.is_enabled(Setting::AllowApi) || dialect.accepts_key_of_disabled_reseller();
    [own_accepted.then_some(own_settings), system_fallback(user, system)]
        .into_iter()
        .flatten()
        .flat_map(Settings::secret_keys)
        .collect()
}

/// Returns the system's settings if the user is a reseller and the system's API is enabled.
fn system_fallback<'a>(user: &User, system: &'a Settings) -> Option<&'a Settings> {
    (user.usertype == UserType::Reseller && system.is_enabled(Setting::AllowApi)).then_some(system)
}

/// Verifies the request hash: step 4 of the contract.
async fn check_hash(
    call: &CallContext,
    caller: &Caller,
    own_settings: &Settings,
    system: &Settings,
) -> Result<(), ApiError> {
    let dialect = call.dialect();
    if hash_check_disabled(caller.user(), own_settings, system) {
        return Ok(());
    }
    call.check_attempt_limit(AttemptKind::Login)?;
    let keys = accepted_keys(caller.user(), own_settings, system, dialect);
    let accept_legacy = call.state.config.legacy_hashes;
    let candidates: Vec<SignedParams<'_>> =
        call.operation.hash_rules.iter().flat_map(|rule| rule.signed_params(&call.params, call.alias)).collect();
    let hash = call.params.get("hash").unwrap_or_default();
    let is_valid = |signed: &&SignedParams<'_>| {
        // All keys are tried, so that the response time does not reveal which one is valid.
        keys.iter().fold(false, |valid, key| signed.verify(hash, key.text, dialect) | valid)
    };
    if let Some(signed) = candidates.iter().filter(|signed| accept_legacy || !signed.is_legacy).find(is_valid) {
        if signed.is_legacy {
            tracing::warn!(
                user = caller.id(),
                client = %call.client,
                hashed = signed.joined_names(),
                "legacy hash accepted: it does not sign the amount; legacy_hashes = false refuses such hashes"
            );
        }
        let verify_with =
            |previous| keys.iter().any(|key| key.is_previous == previous && signed.verify(hash, key.text, dialect));
        if verify_with(true) && !verify_with(false) {
            tracing::info!(
                user = caller.id(),
                client = %call.client,
                "previous secret key used: it is valid until the time in value2 of API_Secret_Key_Previous"
            );
        }
        return Ok(());
    }
    let hide_missing_key = caller.usertype() == UserType::Reseller && dialect.hides_missing_key_from_resellers();
    let error = if keys.is_empty() && !hide_missing_key { ApiError::NoSecretKey } else { ApiError::IncorrectHash };
    if error == ApiError::IncorrectHash {
        call.state.metrics.record_refused_hash(caller.id());
        call.record_failed_attempt(AttemptKind::Login);
    }
    let message = if keys.is_empty() { "API : API must have Secret key" } else { "API : Incorrect hash" };
    if record_refusal(call, message).await? {
        tracing::warn!(
            user = caller.id(),
            operation = call.operation.name,
            client = %call.client,
            hashed = candidates.first().map(SignedParams::joined_names),
            reason = message,
            "hash refused: it must be the SHA-1 of the values of the parameters in `hashed`, then the secret key"
        );
    }
    Err(error)
}

/// Writes or queues the audit row of a refused request. Returns `false` if the queue is full and the row was dropped.
async fn record_refusal(call: &CallContext, message: &'static str) -> Result<bool, ApiError> {
    let row = || AuditRow {
        message,
        url: call.masked_url(),
        client_addr: call.client.to_string(),
        // The names, joined by commas. The first 255 characters of names that may be long.
        parameter_names: call
            .params
            .names()
            .flat_map(|name| [", ", name])
            .flat_map(str::chars)
            .skip(2)
            .take(255)
            .collect(),
    };
    if call.state.accounts.is_enabled() {
        return Ok(call.state.audit.enqueue(row));
    }
    Box::pin(async {
        let mut connection = call.state.pool.acquire().await?;
        call.state.pool.limit_commit(audit::insert(&mut *connection, &[row()])).await?;
        connection.release_clean();
        Ok(true)
    })
    .await
}

/// Checks MOR's limit without the calling-card add-on: groups of up to ten cards (`x7.md`, "Admission").
async fn check_card_limit(call: &CallContext, caller: &Caller) -> Result<(), ApiError> {
    if call.system_settings.is_enabled(Setting::CcActive) || call.params.get("cardgroup_id").is_none() {
        return Ok(());
    }
    let mut connection = call.state.pool.acquire().await?;
    let card_count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from (
               select from cards where cardgroup_id = $1 and hidden = 0 and quarantined_at is null
               union all
               select from cards where cardgroup_id = $1 and hidden <> 0 and quarantined_at is null
               limit 11
           ) few"#,
        i32::try_from(call.params.integer("cardgroup_id")).unwrap_or(-1)
    )
    .fetch_one(&mut *connection)
    .await?;
    connection.release_clean();
    // The eleventh card may have been created by this same request when it was first sent.
    let admitted = card_count <= 10 || Idempotency::new(call, caller).await?.has_stored_reply().await?;
    if admitted { Ok(()) } else { Err(ApiError::LimitedVersion) }
}
