//! Claims what an answer makes for whoever asked, before the bytes leave that name it.

use super::log_unclaimed;
use crate::clock;
use crate::proxy::Gateway;
use crate::proxy::attempt::Exchange;
use crate::proxy::relay::Opening;
use filters::objects::{Finder, Object, ObjectKind};
use filters::pipeline::Admitted;
use filters::route::Route;
use std::sync::Arc;

/// Reads an answer and claims the objects in it.
pub(in crate::proxy) struct Claimer {
    finder: Finder,
    /// What is claimed is like this one but for its id and kind.
    like: Object,
    last: Arc<str>,
    response: Option<Arc<str>>,
    /// Responses go on when their request has ended.
    is_background: bool,
}

impl Claimer {
    /// For the answer of a call; none if it makes nothing.
    pub(in crate::proxy) fn of_call(call: &Admitted, opening: &Opening) -> Option<Self> {
        let exchange = &opening.exchange;
        if opening.is_deserted || !exchange.head().status.is_success() {
            return None;
        }
        // Most answers make nothing.
        let finder = Finder::of_call(call.head(), opening.is_stream)?;
        let intent = call.intent();
        let like = Object {
            id: Arc::default(),
            kind: ObjectKind::Response,
            org: intent.org,
            key: intent.key,
            call: intent.call,
            provider: Arc::clone(&exchange.provider().name),
            credential: opening.credential,
            at: clock::now(),
        };
        Some(Self { finder, like, last: Arc::default(), response: None, is_background: call.head().in_background })
    }

    /// For what a provider says of an object: it may name what the object has made since.
    pub(super) fn of_object(route: Route, object: &Object, exchange: &Exchange, is_stream: bool) -> Option<Self> {
        if !exchange.head().status.is_success() {
            return None;
        }
        Some(Self {
            finder: Finder::of_object(route, is_stream)?,
            like: object.clone(),
            last: Arc::default(),
            response: None,
            is_background: false,
        })
    }

    /// The response that the answer is, with the credential that made it, where its id can stand in a path as it is.
    pub(in crate::proxy) fn response(&self) -> Option<(Arc<str>, u16)> {
        let id = self.response.as_ref()?;
        let is_plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        is_plain.then(|| (Arc::clone(id), self.like.credential))
    }

    /// Claims what these bytes name.
    pub(in crate::proxy) fn read(&mut self, gateway: &Gateway, bytes: &[u8]) {
        let Self { finder, like, last, response, is_background } = self;
        finder.feed(bytes, &mut |kind, id| {
            // Streams name an object in event after event.
            if **last == *id {
                return;
            }
            *last = id.into();
            if kind == ObjectKind::Response && response.is_none() {
                *response = Some(Arc::clone(last));
            }
            let kind = match kind {
                ObjectKind::Response if *is_background => ObjectKind::BackgroundResponse,
                kind => kind,
            };
            let object = Object { id: Arc::clone(last), kind, ..like.clone() };
            if gateway.objects.claim(&object).is_err() {
                log_unclaimed(like.call, kind);
            }
        });
    }
}
