//! Whose request is it, and may that key be used now?

use crate::denied::Denied;
use crate::key::{self, Key, Lookup, Pepper, Status};
use crate::route::Route;
use crate::time::EpochMs;

/// The lookup id of a token that may have been issued by us; others are refused without a lookup.
pub(crate) fn lookup(token: Option<&str>, prefix: &str, pepper: &Pepper) -> Result<Lookup, Denied> {
    let token = token.ok_or(Denied::MissingCredentials)?;
    if !key::is_plausible(token, prefix) {
        return Err(Denied::InvalidApiKey);
    }
    Ok(pepper.lookup(token))
}

/// Refuses a key that may not be used now.
pub(crate) fn is_usable(key: &Key, now: EpochMs) -> Result<(), Denied> {
    match key.status {
        Status::Live => {}
        Status::Disabled => return Err(Denied::KeyDisabled),
        Status::Archived => return Err(Denied::KeyArchived),
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
