//! Roles × routes × own, another's and missing organisations: made from the document, so that a new route is in it, and held
//! against a table of who may do what that is written down here once more.

use crate::support::{Control, Gateway, Key, Request};
use serde_json::json;

/// An organisation that there is not.
const NOWHERE: &str = "org_0000000000000000000000000z";

/// Who calls: a member by role, or a key by scope.
const ROLES: [&str; 5] = ["owner", "admin", "developer", "billing", "viewer"];
const SCOPES: [&str; 7] =
    ["model:invoke", "usage:read", "analytics:read", "keys:read", "keys:write", "admin", "inference:write"];

/// Who may do what: a permission, the roles, and the scopes of keys.
const MAY: [(&str, &[&str], &[&str]); 16] = [
    ("org:read", &ROLES, &["admin"]),
    ("org:write", &["owner", "admin"], &["admin"]),
    ("members:read", &["owner", "admin", "developer", "viewer"], &["admin"]),
    ("members:write", &["owner", "admin"], &[]),
    ("projects:read", &ROLES, &["keys:read", "keys:write", "admin"]),
    ("projects:write", &["owner", "admin"], &["admin"]),
    ("keys:read", &["owner", "admin", "developer", "viewer"], &["keys:read", "keys:write", "admin"]),
    ("keys:write", &["owner", "admin", "developer"], &["keys:write", "admin"]),
    ("usage:read", &ROLES, &["usage:read", "analytics:read", "admin"]),
    ("calls:read", &["owner", "admin", "developer"], &["analytics:read", "admin"]),
    ("money:read", &["owner", "admin", "billing"], &["admin"]),
    ("credentials:read", &["owner", "admin"], &["admin"]),
    ("credentials:write", &["owner", "admin"], &["admin"]),
    ("events:read", &["owner", "admin", "developer"], &["admin"]),
    ("events:write", &["owner", "admin"], &["admin"]),
    ("trail:read", &["owner", "admin"], &["admin"]),
];

/// A row of the matrix.
struct Route {
    method: &'static str,
    path: String,
    needs: String,
}

fn routes(gateway: &Gateway) -> Vec<Route> {
    let document = gateway.operator().read("/openapi.json");
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let Some(needs) = item[method.to_lowercase()]["x-needs"].as_str() else { continue };
            routes.push(Route { method, path: path.clone(), needs: needs.to_owned() });
        }
    }
    assert!(routes.len() > 40, "{}", routes.len());
    routes
}

impl Route {
    /// Whether its object lies in an organisation that the caller names.
    fn is_within(&self) -> bool {
        self.path.contains("{org}") || !self.path.contains('{')
    }

    /// The request about an organisation; the objects in it that the path names are a key of it, or missing.
    fn request(&self, org: &str, key: &str) -> Request {
        let filled = self.path.replace("{org}", org).replace("{key}", key).replace("{month}", "2026-01");
        let parts = filled.split('/').map(|part| if part.starts_with('{') { missing(part) } else { part });
        let mut path = parts.collect::<Vec<_>>().join("/");
        let mut body = json!({});
        if !self.path.contains('{') {
            match self.method {
                "GET" => path = format!("{path}?org={org}"),
                _ => body = json!({"org": org}),
            }
        }
        match self.method {
            "GET" | "DELETE" => Request { method: self.method, ..Request::get(&path) },
            _ => Request { method: self.method, ..Request::post(&path, body.to_string()) },
        }
    }
}

/// An identifier of the right kind that nothing has.
fn missing(part: &str) -> &'static str {
    match part {
        "{user}" => "user_0000000000000000000000000z",
        "{project}" => "proj_0000000000000000000000000z",
        "{invitation}" => "inv_0000000000000000000000000z",
        "{credential}" => "cred_0000000000000000000000000z",
        "{webhook}" => "hook_0000000000000000000000000z",
        "{delivery}" => "evt_0000000000000000000000000z",
        "{operator}" => "op_0000000000000000000000000z",
        "{session}" => "sess_0000000000000000000000000z",
        other => panic!("no identifier for {other}: give it one here"),
    }
}

/// Everybody who may call, with what they are allowed.
struct World {
    gateway: Gateway,
    /// Another organisation, and a key of it.
    other: (String, String),
    members: Vec<(&'static str, Control)>,
    keys: Vec<(&'static str, Control)>,
}

impl World {
    fn new() -> Self {
        let gateway = Gateway::start();
        let members = ROLES.map(|role| (role, gateway.member(role).0));
        let keys = SCOPES.map(|scope| (scope, gateway.control_of(&gateway.create_key(&["--scope", scope]).token)));
        let operator = gateway.operator();
        let other = operator.make("/api/orgs", &json!({"name": "other"}))["id"].as_str().expect("an id").to_owned();
        let key = operator.make("/api/keys", &json!({"org": other, "name": "other"}))["id"].as_str().map(str::to_owned);
        Self { gateway, other: (other, key.expect("an id")), members: members.into(), keys: keys.into() }
    }

    fn key(&self) -> Key {
        self.gateway.create_key(&[])
    }

    /// Everybody, and whether a permission is theirs in the gateway's own organisation.
    fn callers<'a>(&'a self, needs: &str) -> Vec<(&'static str, &'a Control, bool)> {
        let (_, roles, scopes) =
            MAY.iter().find(|(name, ..)| *name == needs).unwrap_or_else(|| panic!("no row for {needs}: add one"));
        let members = self.members.iter().map(|(role, control)| (*role, control, roles.contains(role)));
        let keys = self.keys.iter().map(|(scope, control)| (*scope, control, scopes.contains(scope)));
        members.chain(keys).collect()
    }
}

#[test]
fn each_may_what_the_table_says_and_nobody_learns_of_others() {
    let world = World::new();
    let own = world.gateway.org.clone();
    for route in routes(&world.gateway) {
        let what = format!("{} {}", route.method, route.path);
        match route.needs.as_str() {
            "nothing" => continue,
            "a session" => signed_in(&world, &route),
            "an operator's token" => operators_alone(&world, &route),
            permission => {
                let stranger = world.gateway.control_of("").send(route.request(&own, &world.gateway.key.id));
                assert_eq!(stranger.status, 401, "{what} by nobody");
                for (who, control, may) in world.callers(permission) {
                    let key = if route.path.contains("{key}") { world.key().id } else { String::new() };
                    let answer = control.send(route.request(&own, &key));
                    let is_denied = matches!(answer.status, 401 | 403);
                    assert_eq!(is_denied, !may, "{what} by {who}: {} {}", answer.status, answer.text());
                    assert!(answer.status < 500, "{what} by {who}: {}", answer.text());
                    others_look_missing(&world, &route, (who, control), may);
                }
            }
        }
    }
}

/// Another organisation's things are answered as if there were none.
fn others_look_missing(world: &World, route: &Route, (who, control): (&str, &Control), may: bool) {
    let (other, key) = (&world.other.0, &world.other.1);
    let theirs = control.send(route.request(other, key));
    let nothing = "key_0000000000000000000000000z";
    let none = control.send(route.request(if route.is_within() { NOWHERE } else { other }, nothing));
    let (mut theirs, mut none) = ((theirs.status, theirs.json()), (none.status, none.json()));
    for answer in [&mut theirs, &mut none] {
        answer.1["error"]["request_id"] = json!("");
    }
    assert_eq!(theirs, none, "{} {} by {who}", route.method, route.path);
    let expected = if may { 404 } else { theirs.0 };
    assert_eq!(theirs.0, expected, "{} {} by {who}: {}", route.method, route.path, theirs.1);
    assert!(matches!(theirs.0, 403 | 404), "{} {} by {who}: {}", route.method, route.path, theirs.1);
}

/// What people do with their own account is no business of keys.
fn signed_in(world: &World, route: &Route) {
    let request = route.request(&world.gateway.org, "");
    assert_eq!(world.gateway.control_of("").send(request.clone()).status, 401, "{} {}", route.method, route.path);
    for (scope, key) in &world.keys {
        assert_eq!(key.send(request.clone()).status, 403, "{} {} by {scope}", route.method, route.path);
    }
}

/// What is for operators is for nobody else, and on the public listener for nobody.
fn operators_alone(world: &World, route: &Route) {
    let request = route.request(NOWHERE, "key_0000000000000000000000000z");
    let what = format!("{} {}", route.method, route.path);
    assert_eq!(world.gateway.control_of("").send(request.clone()).status, 401, "{what}");
    for (who, control) in world.members.iter().chain(&world.keys) {
        let answer = control.send(request.clone());
        assert!(matches!(answer.status, 403 | 404), "{what} by {who}: {}", answer.text());
    }
    let answer = world.gateway.operator().send(request.clone());
    assert!(!matches!(answer.status, 401 | 403 | 500..), "{what}: {}", answer.text());
    let public = world.gateway.public_of(crate::support::OPERATOR).send(request);
    assert!(matches!(public.status, 401 | 404 | 405), "{what} in public: {}", public.text());
}
