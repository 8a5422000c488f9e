//! Whose request is it, and may that key be used now?

use crate::denied::Denied;
use crate::key::{self, Key, Pepper, Presented, Status};
use crate::route::Route;
use crate::time::EpochMs;

/// A token that may have been issued by us, as it is to be looked for; others are refused without a lookup.
pub(crate) fn presented(token: Option<&str>, prefix: &str, pepper: &Pepper) -> Result<Presented, Denied> {
    let token = token.ok_or(Denied::MissingCredentials)?;
    if !key::is_plausible(token, prefix) {
        return Err(Denied::InvalidApiKey);
    }
    Ok(pepper.present(token))
}

/// Refuses a key that may not be used now.
pub(crate) fn is_usable(key: &Key, now: EpochMs) -> Result<(), Denied> {
    if key.secret_ends.is_some_and(|ends| ends <= now) {
        return Err(Denied::SecretReplaced);
    }
    match key.status {
        Status::Live => {}
        Status::Disabled => return Err(Denied::KeyDisabled),
        Status::Archived => return Err(Denied::KeyArchived),
        Status::Deleted => return Err(Denied::InvalidApiKey),
    }
    if key.expires.is_some_and(|expires| expires <= now) {
        return Err(Denied::KeyExpired);
    }
    if key.org_suspended {
        return Err(Denied::OrganisationSuspended);
    }
    Ok(())
}

/// Refuses a route that none of the key's scopes opens.
pub(crate) fn may_take(key: &Key, route: Route) -> Result<(), Denied> {
    let required = route.scopes();
    if required.is_empty() || required.iter().any(|scope| key.scopes.grants(*scope)) {
        return Ok(());
    }
    Err(Denied::RouteScopeDenied { required, granted: key.scopes })
}
