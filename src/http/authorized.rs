//! The extractor of operations.

use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use axum::response::Response;

use crate::auth::admission;
use crate::auth::caller::Caller;
use crate::error::ApiError;
use crate::http::context::CallContext;
use crate::http::reply::{self, Refusal, ReplyFormat};
use crate::http::request::{self, ApiRequest, ApiRoute, RequestPermits};
use crate::http::upload;
use crate::state::AppState;

/// A request to an operation, admitted in the contract's order (`http.md`, "Admission").
pub struct Authorized {
    call: CallContext,
    caller: Caller,
    format: ReplyFormat,
    /// Held until the reply is built.
    _permits: RequestPermits,
}

impl FromRequest<Arc<AppState>> for Authorized {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &Arc<AppState>) -> Result<Self, Refusal> {
        let route = request.extensions().get::<ApiRoute>().copied();
        let ApiRequest { params, method, uri, headers, client, format, path_format, permits, unread_body } =
            ApiRequest::from_request(request, state).await?;
        let refuse = |format| move |error| Refusal { error, format };
        let ApiRoute { operation, alias, .. } = route.ok_or(ApiError::UnknownOperation).map_err(refuse(format))?;
        let system_settings = state.accounts.settings(0).await.map_err(ApiError::from).map_err(refuse(format))?;
        let format = format.with_settings(Some(&system_settings));
        let mut call = CallContext {
            state: state.clone(),
            operation,
            alias,
            params,
            document: None,
            system_settings,
            method,
            uri,
            headers,
            client,
        };
        let Some(body) = unread_body else {
            let caller = admission::admit(&call).await.map_err(refuse(format))?;
            return Ok(Self { call, caller, format, _permits: permits });
        };
        // Boxed: the future is large, and few operations have a document.
        let admitted = Box::pin(upload::admit(&mut call, body, permits)).await;
        // The body may have had the parameters of the format.
        let requested = request::requested_format(format.dialect, &call.params, path_format.as_ref());
        let format = ReplyFormat { xml_extension: format.xml_extension, ..requested };
        let (caller, permits) = admitted.map_err(refuse(format))?;
        Ok(Self { call, caller, format, _permits: permits })
    }
}

impl Authorized {
    /// Executes the operation and builds the response.
    pub async fn execute(self) -> Response {
        let result = (self.call.operation.handler)(&self.call, &self.caller).await;
        reply::build_response(result, self.format)
    }
}
