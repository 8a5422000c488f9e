//! What is asked of a server for commands about users and members.

use super::super::CliError;
use super::super::member::{MemberCommand, MemberName};
use super::super::moment::Moment;
use super::super::user::UserCommand;
use super::ask::{Ask, not_from_afar};
use filters::id::UserId;
use serde_json::json;

const USERS: &[&str] = &["id", "email", "name", "created_at", "disabled_at"];
const MEMBERS: &[&str] = &["user", "email", "name", "role"];
/// How long an invitation is open, if nothing else is typed.
const OPEN_MS: i64 = 7 * 86_400_000;

pub(super) fn of_user(command: &UserCommand) -> Result<Ask, CliError> {
    let path = |id: &UserId| format!("/api/users/{id}");
    Ok(match command {
        UserCommand::Create { email, name, password, .. } => {
            Ask::post("/api/users", json!({"email": email.as_str(), "name": name, "password": password.text()?}))
        }
        UserCommand::List { .. } => Ask::list("/api/users", USERS),
        UserCommand::Disable { id, .. } => Ask::patch(path(id), json!({"disabled": true})),
        UserCommand::Enable { id, .. } => Ask::patch(path(id), json!({"disabled": false})),
        UserCommand::Password { id, password, .. } => Ask::patch(path(id), json!({"password": password.text()?})),
    })
}

pub(super) fn of_member(command: &MemberCommand) -> Result<Ask, CliError> {
    let path = |MemberName { org, user }: &MemberName| format!("/api/orgs/{org}/members/{user}");
    Ok(match command {
        MemberCommand::Add { member, role, .. } => {
            let body = json!({"user": member.user.to_string(), "role": role.name()});
            Ask::post(format!("/api/orgs/{}/members", member.org), body)
        }
        MemberCommand::List { org, .. } => Ask::list(format!("/api/orgs/{org}/members"), MEMBERS),
        MemberCommand::Role { member, role, .. } => Ask::patch(path(member), json!({"role": role.name()})),
        MemberCommand::Remove { member, .. } => {
            Ask::delete(path(member), format!("{} is in {} no more.", member.user, member.org))
        }
        MemberCommand::Invite { org, email, role, expiry, .. } => {
            if expiry.expires != Moment::Within(OPEN_MS) {
                return not_from_afar("how long invitations are open is configured at the server");
            }
            let body = json!({"email": email.as_str(), "role": role.name()});
            Ask::post(format!("/api/orgs/{org}/invitations"), body)
        }
    })
}
