//! The one table with every URL of the control plane.

use super::credentials;
use super::{Control, caller, document};
use super::{calls, usage};
use super::{credits, keys, retention, statements};
use super::{deliveries, events, webhooks};
use super::{invitations, members, operators, orgs, projects, sessions, trail, users};
use crate::error::{Refusal, RefusalCode};
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use filters::denied::{Code, Denied};
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// Every route with its handler. What each asks of its caller is in `access::TABLE`.
fn routes() -> OpenApiRouter<Arc<Control>> {
    OpenApiRouter::default()
        .routes(routes!(operators::list, operators::create))
        .routes(routes!(operators::revoke))
        .routes(routes!(credits::show))
        .routes(routes!(credits::entries))
        .routes(routes!(credits::top_up))
        .routes(routes!(credits::adjust))
        .routes(routes!(credits::refund))
        .routes(routes!(statements::show))
        .routes(routes!(retention::show, retention::set))
        .routes(routes!(sessions::list, sessions::create, sessions::end_others))
        .routes(routes!(sessions::end_current))
        .routes(routes!(sessions::end))
        .routes(routes!(users::me, users::change_me))
        .routes(routes!(users::change_password))
        .routes(routes!(users::list, users::create))
        .routes(routes!(users::show, users::change))
        .routes(routes!(orgs::list, orgs::create))
        .routes(routes!(orgs::show, orgs::change))
        .routes(routes!(orgs::suspend))
        .routes(routes!(orgs::resume))
        .routes(routes!(members::list, members::add))
        .routes(routes!(members::change, members::remove))
        .routes(routes!(invitations::list, invitations::create))
        .routes(routes!(invitations::revoke))
        .routes(routes!(invitations::accept))
        .routes(routes!(projects::list, projects::create))
        .routes(routes!(projects::show, projects::change))
        .routes(routes!(trail::of_org))
        .routes(routes!(trail::export_of_org))
        .routes(routes!(trail::list))
        .routes(routes!(trail::export))
        .routes(routes!(events::list))
        .routes(routes!(events::notices, events::set_notices))
        .routes(routes!(webhooks::list, webhooks::create))
        .routes(routes!(webhooks::show, webhooks::update, webhooks::delete))
        .routes(routes!(webhooks::rotate_secret))
        .routes(routes!(webhooks::test))
        .routes(routes!(deliveries::list))
        .routes(routes!(deliveries::redeliver))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::show, keys::change, keys::delete))
        .routes(routes!(keys::rotate))
        .routes(routes!(keys::disable))
        .routes(routes!(keys::enable))
        .routes(routes!(keys::archive))
        .routes(routes!(calls::list))
        .routes(routes!(usage::read))
        .routes(routes!(credentials::list, credentials::create))
        .routes(routes!(credentials::show, credentials::change, credentials::delete))
        .routes(routes!(credentials::rotate))
        .routes(routes!(credentials::test))
}

/// The router over them all.
pub(super) fn router(control: &Arc<Control>) -> Router {
    let (routes, paths) = routes().split_for_parts();
    let document = document::complete(&paths).to_string();
    routes
        .route("/openapi.json", get(move || async { ([(CONTENT_TYPE, "application/json")], document) }))
        .route_layer(from_fn_with_state(Arc::clone(control), caller::authorise))
        .method_not_allowed_fallback(|| async {
            let message = "The path does not take this method; the header `Allow` says which it takes.";
            Refusal::new(RefusalCode::Shared(Code::MethodNotAllowed), message)
        })
        .fallback(|| async { Refusal::of(&Denied::NotFound) })
        .with_state(Arc::clone(control))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::access::{self, Access};
    use axum::http::Method;
    use filters::route::{Route, Target};
    use std::collections::BTreeSet;

    #[test]
    fn every_route_has_a_row_of_access_and_every_row_a_route() {
        let (_, paths) = routes().split_for_parts();
        let document = serde_json::to_value(&paths).expect("JSON");
        let mut served = BTreeSet::from([("GET".to_owned(), "/openapi.json".to_owned())]);
        for (path, item) in document["paths"].as_object().expect("paths") {
            for method in item.as_object().expect("methods").keys() {
                served.insert((method.to_uppercase(), path.clone()));
            }
        }
        let rows =
            access::TABLE.iter().map(|(method, path, _): &(Method, _, _)| (method.to_string(), (*path).to_owned()));
        assert_eq!(rows.collect::<BTreeSet<_>>(), served);
    }

    #[test]
    fn the_public_listener_hands_over_all_that_is_not_for_operators_alone() {
        for (_, path, access) in access::TABLE {
            let found = Target::at(path, false).map(|target| target.route);
            assert!(found == Some(Route::Control) || *access == Access::Operator, "{path}");
        }
        for (alias, ..) in document::ALIASES {
            assert_eq!(Target::at(&format!("{alias}/key_1"), true).map(|target| target.route), Some(Route::Control));
        }
    }
}
