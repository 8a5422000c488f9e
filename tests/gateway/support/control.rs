//! The control plane as its users meet it: requests with a token, answers as JSON.

use super::{Answer, Gateway, Request, Wire};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// The operator's token of every gateway of the tests.
pub(crate) const OPERATOR: &str = "tg_op_of-the-tests-0123456789";

/// Somebody who speaks with a control plane.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    address: SocketAddr,
    token: String,
}

impl Gateway {
    /// Its control plane, with the operator's token.
    pub(crate) fn operator(&self) -> Control {
        self.control_of(OPERATOR)
    }

    /// Its control plane, with this token; an empty one is none.
    pub(crate) fn control_of(&self, token: &str) -> Control {
        Control { address: self.control, token: token.to_owned() }
    }

    /// The same routes on the public listener.
    pub(crate) fn public_of(&self, token: &str) -> Control {
        Control { address: self.address, token: token.to_owned() }
    }
}

impl Control {
    /// Sends a request with the token, if there is one.
    pub(crate) fn send(&self, request: Request) -> Answer {
        let request = if self.token.is_empty() { request } else { request.bearer(&self.token) };
        Wire::connect(self.address).exchange(&request.bytes())
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Request::post(path, body.to_string()))
    }

    pub(crate) fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send(Request { method: "PATCH", ..Request::post(path, body.to_string()) })
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.send(Request { method: "DELETE", ..Request::get(path) })
    }

    /// What a successful `GET` answers.
    pub(crate) fn read(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.text());
        answer.json()
    }

    /// What a successful `POST` answers.
    pub(crate) fn make(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body);
        assert!(matches!(answer.status, 200 | 201), "POST {path} {body}: {}", answer.text());
        answer.json()
    }
}

/// The password of every user of the tests.
pub(crate) const PASSWORD: &str = "correct horse battery staple";

impl Gateway {
    /// A new user who has signed in; with their identifier.
    pub(crate) fn user(&self, email: &str) -> (Control, String) {
        let new = json!({"email": email, "name": "Somebody", "password": PASSWORD});
        let user = self.operator().make("/api/users", &new)["id"].as_str().expect("an id").to_owned();
        (self.sign_in(email), user)
    }

    /// A user who signs in.
    pub(crate) fn sign_in(&self, email: &str) -> Control {
        let session = self.control_of("").make("/api/sessions", &json!({"email": email, "password": PASSWORD}));
        self.control_of(session["token"].as_str().expect("a token"))
    }

    /// A new user who is a member of the gateway's own organisation.
    pub(crate) fn member(&self, role: &str) -> (Control, String) {
        let (control, user) = self.user(&format!("{role}@example.com"));
        let members = format!("/api/orgs/{}/members", self.org);
        self.operator().make(&members, &json!({"user": user, "role": role}));
        (control, user)
    }
}
