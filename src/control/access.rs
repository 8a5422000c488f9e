//! Who may do what: one row a method and path, one table of roles, one of scopes. What has no row is refused.

pub use crate::store::members::Role;
use axum::http::Method;
use filters::scope::{Scope, Scopes};

/// What a route asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Open,
    /// Nothing; who the caller is makes a difference.
    Anyone,
    /// A person who has signed in, or an operator.
    SignedIn,
    /// A permission in the organisation that the request is about.
    Org(Permission),
    /// An operator's token. Never forwarded by the public listener.
    Operator,
}

/// What somebody may do in an organisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Permission {
    OrgRead = 1,
    OrgWrite = 1 << 1,
    MembersRead = 1 << 2,
    MembersWrite = 1 << 3,
    ProjectsRead = 1 << 4,
    ProjectsWrite = 1 << 5,
    KeysRead = 1 << 6,
    KeysWrite = 1 << 7,
    UsageRead = 1 << 8,
    CallsRead = 1 << 9,
    MoneyRead = 1 << 10,
    CredentialsRead = 1 << 11,
    CredentialsWrite = 1 << 12,
    EventsRead = 1 << 13,
    EventsWrite = 1 << 14,
    TrailRead = 1 << 15,
}

impl Permission {
    /// Every permission.
    pub const ALL: [Self; 16] = [
        Self::OrgRead,
        Self::OrgWrite,
        Self::MembersRead,
        Self::MembersWrite,
        Self::ProjectsRead,
        Self::ProjectsWrite,
        Self::KeysRead,
        Self::KeysWrite,
        Self::UsageRead,
        Self::CallsRead,
        Self::MoneyRead,
        Self::CredentialsRead,
        Self::CredentialsWrite,
        Self::EventsRead,
        Self::EventsWrite,
        Self::TrailRead,
    ];

    /// The name in answers and documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OrgRead => "org:read",
            Self::OrgWrite => "org:write",
            Self::MembersRead => "members:read",
            Self::MembersWrite => "members:write",
            Self::ProjectsRead => "projects:read",
            Self::ProjectsWrite => "projects:write",
            Self::KeysRead => "keys:read",
            Self::KeysWrite => "keys:write",
            Self::UsageRead => "usage:read",
            Self::CallsRead => "calls:read",
            Self::MoneyRead => "money:read",
            Self::CredentialsRead => "credentials:read",
            Self::CredentialsWrite => "credentials:write",
            Self::EventsRead => "events:read",
            Self::EventsWrite => "events:write",
            Self::TrailRead => "trail:read",
        }
    }
}

/// A set of permissions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions(u32);

impl Permissions {
    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Self::of(&Permission::ALL)
    }

    fn of(permissions: &[Permission]) -> Self {
        Self(permissions.iter().fold(0, |set, permission| set | *permission as u32))
    }

    fn without(self, permission: Permission) -> Self {
        Self(self.0 & !(permission as u32))
    }

    fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether a permission is among them.
    #[must_use]
    pub fn has(self, permission: Permission) -> bool {
        self.0 & permission as u32 != 0
    }

    /// Whether all of others are among them: nobody grants more than they have.
    #[must_use]
    pub fn covers(self, others: Self) -> bool {
        others.0 & !self.0 == 0
    }

    /// Their names, in the table's order.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        Permission::ALL.into_iter().filter(|permission| self.has(*permission)).map(Permission::name).collect()
    }
}

impl Role {
    /// What the role may do. Owners may make owners: that is a matter of the role, not of a permission.
    #[must_use]
    pub fn permissions(self) -> Permissions {
        use Permission as P;
        match self {
            Self::Owner | Self::Admin => Permissions::all(),
            Self::Developer => Permissions::of(&[
                P::OrgRead,
                P::MembersRead,
                P::ProjectsRead,
                P::KeysRead,
                P::KeysWrite,
                P::UsageRead,
                P::CallsRead,
                P::EventsRead,
            ]),
            Self::Billing => Permissions::of(&[P::OrgRead, P::ProjectsRead, P::UsageRead, P::MoneyRead]),
            Self::Viewer => Permissions::of(&[P::OrgRead, P::MembersRead, P::ProjectsRead, P::KeysRead, P::UsageRead]),
        }
    }
}

/// What the scopes of a key permit on these routes. None of them lets a key say who its organisation's members are.
#[must_use]
pub fn permissions_of(scopes: Scopes) -> Permissions {
    use Permission as P;
    Scope::ALL.into_iter().filter(|scope| scopes.grants(*scope)).fold(Permissions::default(), |set, scope| {
        set.and(match scope {
            Scope::ModelInvoke | Scope::InferenceRead | Scope::InferenceWrite => Permissions::default(),
            Scope::UsageRead => Permissions::of(&[P::UsageRead]),
            Scope::AnalyticsRead => Permissions::of(&[P::UsageRead, P::CallsRead]),
            Scope::KeysRead => Permissions::of(&[P::KeysRead, P::ProjectsRead]),
            Scope::KeysWrite => Permissions::of(&[P::KeysRead, P::KeysWrite, P::ProjectsRead]),
            Scope::Admin => Permissions::all().without(P::MembersWrite),
        })
    })
}

/// A row of the table: a method, a path as the router knows it, and what it asks.
pub type Row = (Method, &'static str, Access);

/// The table. The paths under `/v1/api-keys` are those under `/api/keys`.
pub const TABLE: &[Row] = &[
    (Method::GET, "/openapi.json", Access::Open),
    (Method::GET, "/api/operators", Access::Operator),
    (Method::POST, "/api/operators", Access::Operator),
    (Method::DELETE, "/api/operators/{operator}", Access::Operator),
    (Method::GET, "/api/orgs/{org}/credits", Access::Org(Permission::MoneyRead)),
    (Method::GET, "/api/orgs/{org}/credits/entries", Access::Org(Permission::MoneyRead)),
    (Method::POST, "/api/orgs/{org}/credits/topups", Access::Operator),
    (Method::POST, "/api/orgs/{org}/credits/adjustments", Access::Operator),
    (Method::POST, "/api/orgs/{org}/credits/refunds", Access::Operator),
    (Method::GET, "/api/orgs/{org}/statements/{month}", Access::Org(Permission::MoneyRead)),
    (Method::GET, "/api/orgs/{org}/retention", Access::Org(Permission::OrgRead)),
    (Method::PUT, "/api/orgs/{org}/retention", Access::Operator),
    (Method::POST, "/api/sessions", Access::Open),
    (Method::GET, "/api/sessions", Access::SignedIn),
    (Method::DELETE, "/api/sessions", Access::SignedIn),
    (Method::DELETE, "/api/sessions/current", Access::SignedIn),
    (Method::DELETE, "/api/sessions/{session}", Access::SignedIn),
    (Method::GET, "/api/me", Access::SignedIn),
    (Method::PATCH, "/api/me", Access::SignedIn),
    (Method::POST, "/api/me/password", Access::SignedIn),
    (Method::GET, "/api/users", Access::Operator),
    (Method::POST, "/api/users", Access::Operator),
    (Method::GET, "/api/users/{user}", Access::Operator),
    (Method::PATCH, "/api/users/{user}", Access::Operator),
    (Method::GET, "/api/orgs", Access::SignedIn),
    (Method::POST, "/api/orgs", Access::Operator),
    (Method::GET, "/api/orgs/{org}", Access::Org(Permission::OrgRead)),
    (Method::PATCH, "/api/orgs/{org}", Access::Org(Permission::OrgWrite)),
    (Method::POST, "/api/orgs/{org}/suspend", Access::Operator),
    (Method::POST, "/api/orgs/{org}/resume", Access::Operator),
    (Method::GET, "/api/orgs/{org}/members", Access::Org(Permission::MembersRead)),
    (Method::POST, "/api/orgs/{org}/members", Access::Operator),
    (Method::PATCH, "/api/orgs/{org}/members/{user}", Access::Org(Permission::MembersWrite)),
    (Method::DELETE, "/api/orgs/{org}/members/{user}", Access::Org(Permission::MembersWrite)),
    (Method::GET, "/api/orgs/{org}/invitations", Access::Org(Permission::MembersRead)),
    (Method::POST, "/api/orgs/{org}/invitations", Access::Org(Permission::MembersWrite)),
    (Method::DELETE, "/api/orgs/{org}/invitations/{invitation}", Access::Org(Permission::MembersWrite)),
    (Method::POST, "/api/invitations/accept", Access::Anyone),
    (Method::GET, "/api/orgs/{org}/projects", Access::Org(Permission::ProjectsRead)),
    (Method::POST, "/api/orgs/{org}/projects", Access::Org(Permission::ProjectsWrite)),
    (Method::GET, "/api/orgs/{org}/projects/{project}", Access::Org(Permission::ProjectsRead)),
    (Method::PATCH, "/api/orgs/{org}/projects/{project}", Access::Org(Permission::ProjectsWrite)),
    (Method::GET, "/api/orgs/{org}/trail", Access::Org(Permission::TrailRead)),
    (Method::GET, "/api/orgs/{org}/trail/export", Access::Org(Permission::TrailRead)),
    (Method::GET, "/api/trail", Access::Operator),
    (Method::GET, "/api/trail/export", Access::Operator),
    (Method::GET, "/api/orgs/{org}/events", Access::Org(Permission::EventsRead)),
    (Method::GET, "/api/orgs/{org}/notices", Access::Org(Permission::EventsRead)),
    (Method::PUT, "/api/orgs/{org}/notices", Access::Org(Permission::EventsWrite)),
    (Method::GET, "/api/orgs/{org}/webhooks", Access::Org(Permission::EventsRead)),
    (Method::POST, "/api/orgs/{org}/webhooks", Access::Org(Permission::EventsWrite)),
    (Method::GET, "/api/orgs/{org}/webhooks/{webhook}", Access::Org(Permission::EventsRead)),
    (Method::PATCH, "/api/orgs/{org}/webhooks/{webhook}", Access::Org(Permission::EventsWrite)),
    (Method::DELETE, "/api/orgs/{org}/webhooks/{webhook}", Access::Org(Permission::EventsWrite)),
    (Method::POST, "/api/orgs/{org}/webhooks/{webhook}/rotate-secret", Access::Org(Permission::EventsWrite)),
    (Method::POST, "/api/orgs/{org}/webhooks/{webhook}/test", Access::Org(Permission::EventsWrite)),
    (Method::GET, "/api/orgs/{org}/webhooks/{webhook}/deliveries", Access::Org(Permission::EventsRead)),
    (
        Method::POST,
        "/api/orgs/{org}/webhooks/{webhook}/deliveries/{delivery}/redeliver",
        Access::Org(Permission::EventsWrite),
    ),
    (Method::GET, "/api/keys", Access::Org(Permission::KeysRead)),
    (Method::POST, "/api/keys", Access::Org(Permission::KeysWrite)),
    (Method::GET, "/api/keys/{key}", Access::Org(Permission::KeysRead)),
    (Method::PATCH, "/api/keys/{key}", Access::Org(Permission::KeysWrite)),
    (Method::DELETE, "/api/keys/{key}", Access::Org(Permission::KeysWrite)),
    (Method::POST, "/api/keys/{key}/rotate", Access::Org(Permission::KeysWrite)),
    (Method::POST, "/api/keys/{key}/disable", Access::Org(Permission::KeysWrite)),
    (Method::POST, "/api/keys/{key}/enable", Access::Org(Permission::KeysWrite)),
    (Method::POST, "/api/keys/{key}/archive", Access::Org(Permission::KeysWrite)),
    (Method::GET, "/api/keys/{key}/calls", Access::Org(Permission::CallsRead)),
    (Method::GET, "/api/usage", Access::Org(Permission::UsageRead)),
    (Method::GET, "/api/orgs/{org}/credentials", Access::Org(Permission::CredentialsRead)),
    (Method::POST, "/api/orgs/{org}/credentials", Access::Org(Permission::CredentialsWrite)),
    (Method::GET, "/api/orgs/{org}/credentials/{credential}", Access::Org(Permission::CredentialsRead)),
    (Method::PATCH, "/api/orgs/{org}/credentials/{credential}", Access::Org(Permission::CredentialsWrite)),
    (Method::DELETE, "/api/orgs/{org}/credentials/{credential}", Access::Org(Permission::CredentialsWrite)),
    (Method::POST, "/api/orgs/{org}/credentials/{credential}/rotate", Access::Org(Permission::CredentialsWrite)),
    (Method::POST, "/api/orgs/{org}/credentials/{credential}/test", Access::Org(Permission::CredentialsWrite)),
];

/// What a route asks; none: it has no row, and is refused.
#[must_use]
pub fn of(method: &Method, path: &str) -> Option<Access> {
    let asked = if method == Method::HEAD { &Method::GET } else { method };
    TABLE.iter().find(|(row, at, _)| row == asked && *at == path).map(|(.., access)| *access)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_numbered_by_bits_and_have_names_of_their_own() {
        let bits: std::collections::HashSet<_> = Permission::ALL.iter().map(|permission| *permission as u32).collect();
        let names: std::collections::HashSet<_> = Permission::ALL.iter().map(|permission| permission.name()).collect();
        assert_eq!((bits.len(), names.len()), (Permission::ALL.len(), Permission::ALL.len()));
    }

    #[test]
    fn no_key_may_change_members_and_no_model_key_may_change_anything() {
        for scope in Scope::ALL {
            assert!(!permissions_of(Scopes::default().with(scope)).has(Permission::MembersWrite), "{scope:?}");
        }
        let model = Scopes::parse("model:invoke inference:read inference:write usage:read analytics:read");
        let permissions = permissions_of(model.expect("known scopes"));
        assert_eq!(permissions.names(), ["usage:read", "calls:read"]);
    }

    #[test]
    fn each_role_may_what_the_viewer_may_but_for_billing() {
        for role in [Role::Owner, Role::Admin, Role::Developer] {
            assert!(role.permissions().covers(Role::Viewer.permissions()), "{role:?}");
        }
        assert!(!Role::Billing.permissions().has(Permission::KeysRead));
    }
}
