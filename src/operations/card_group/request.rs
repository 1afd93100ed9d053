//! Who may create and change card groups, and as whose request.

use crate::accounts::UserType;
use crate::auth::admission;
use crate::auth::caller::{Caller, RIGHT_EDIT, rights};
use crate::error::ApiError;
use crate::http::context::CallContext;
use crate::store::card_group::GroupRequest;

/// Checks that the caller may create and change card groups.
pub(super) fn authorize(call: &CallContext, caller: Option<Caller>) -> Result<Caller, ApiError> {
    let caller = caller.ok_or(ApiError::UserUnknown)?;
    let needs_callingcard_manage = !call.dialect().requires_only_financial_data_right();
    let missing_right = match caller.usertype() {
        UserType::Admin => return Ok(caller),
        UserType::Accountant if needs_callingcard_manage && caller.right(rights::CALLINGCARD_MANAGE) <= 0 => {
            rights::CALLINGCARD_MANAGE
        }
        UserType::Accountant if caller.right(rights::SEE_FINANCIAL_DATA) > 0 => return Ok(caller),
        UserType::Accountant => rights::SEE_FINANCIAL_DATA,
        UserType::Reseller if caller.right(rights::CALLING_CARDS) == RIGHT_EDIT => return Ok(caller),
        UserType::Reseller => rights::CALLING_CARDS,
        UserType::User | UserType::Partner => rights::USER_TYPE,
    };
    admission::log_missing_right(call, &caller, missing_right);
    Err(caller.missing_right_error())
}

/// Returns the request of the caller.
pub(super) fn group_request<'a>(call: &'a CallContext, caller: &Caller) -> GroupRequest<'a> {
    GroupRequest {
        params: &call.params,
        dialect: call.dialect(),
        user_id: caller.id(),
        is_reseller: caller.usertype() == UserType::Reseller,
        owner_id: caller.owner_id(),
        owner_scope: caller.owner_scope(),
        currency_id: caller.currency_id(),
    }
}
