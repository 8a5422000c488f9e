//! How the public listener reaches the control plane: within the process, on the runtime that has the store's connections.

use super::BACKGROUND;
use crate::control::Origin;
use crate::proxy::{ControlAnswer, ControlBody, ControlPlane};
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use filters::id::CallId;
use http_body_util::{BodyExt, Empty};
use std::net::IpAddr;
use tower_service::Service;

/// The control plane as the data plane sees it.
pub(super) struct PublicControl(pub(super) Router);

impl ControlPlane for PublicControl {
    fn answer(&self, request: http::Request<Bytes>, address: IpAddr, call: CallId) -> ControlAnswer {
        let mut request = request.map(Body::from);
        request.extensions_mut().insert(Origin { address, call, is_public: true });
        let mut routes = self.0.clone();
        let answered = BACKGROUND.spawn(async move { routes.call(request).await });
        Box::pin(async move {
            match answered.await {
                Ok(Ok(answer)) => answer.map(|body| body.map_err(Into::into).boxed_unsync()),
                Ok(Err(never)) => match never {},
                // A handler panicked, which is in the log.
                Err(_) => unanswered(),
            }
        })
    }
}

fn unanswered() -> http::Response<ControlBody> {
    let mut answer = http::Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
    answer
}
