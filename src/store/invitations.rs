//! Invitations: who has the token may become a member, once, until it expires.

use super::members::{self, MemberRecord, Role, check_grant, read_role};
use super::trail::{self, By, Entry};
use super::users::{self, Email, NewUser, PasswordHash};
use super::{Connection, Rows, Store, StoreError, organisations, parsed};
use filters::id::{InvitationId, OrgId, UserId, bits};
use filters::key::{Lookup, Token};
use filters::time::EpochMs;
use serde_json::json;
use sqlx::Row;

/// What tokens of invitations begin with.
pub const INVITATION_PREFIX: &str = "tg_invite";
/// Most invitations of an organisation that nobody has answered.
const OPEN_PER_ORG_MAX: i64 = 500;

/// An invitation to be made.
#[derive(Clone, Debug)]
pub struct NewInvitation {
    /// Where to.
    pub org: OrgId,
    /// Who is meant.
    pub email: Email,
    /// What they are to be.
    pub role: Role,
    /// What they are who invite.
    pub granter: Role,
    /// Who they are; none: an operator's token, or a key.
    pub invited_by: Option<UserId>,
    /// When it ends.
    pub expires: EpochMs,
}

/// An invitation that was made, with its token for the only time.
#[derive(Debug)]
pub struct IssuedInvitation {
    /// The invitation.
    pub invitation: InvitationRecord,
    /// The secret.
    pub token: Token,
}

/// An invitation as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvitationRecord {
    /// Names it without its token.
    pub id: InvitationId,
    /// Where to.
    pub org: OrgId,
    /// Who is meant.
    pub email: String,
    /// What they are to be.
    pub role: Role,
    /// When it was made.
    pub created: EpochMs,
    /// When it ends.
    pub expires: EpochMs,
    /// When it was accepted, if so.
    pub accepted: Option<EpochMs>,
    /// When it was taken back, if so.
    pub revoked: Option<EpochMs>,
}

impl InvitationRecord {
    /// What has become of it.
    #[must_use]
    pub fn status(&self, now: EpochMs) -> &'static str {
        match (self.accepted, self.revoked) {
            (Some(_), _) => "accepted",
            (None, Some(_)) => "revoked",
            (None, None) if self.expires <= now => "expired",
            (None, None) => "open",
        }
    }
}

/// Who accepts an invitation.
#[derive(Clone, Debug)]
pub enum Guest {
    /// Somebody who has signed in.
    User(UserId),
    /// Somebody who becomes a user by it.
    New {
        /// What people call them.
        name: String,
        /// What they will sign in with.
        password: PasswordHash,
    },
}

const SELECT: &str = "SELECT id, org, email, role, created_ms, expires_ms, accepted_ms, revoked_ms FROM invitations";

impl Store {
    /// Invites somebody, as somebody may whose role is `granter`. Whom the organisation has invited already gets another one, and the one
    /// before is revoked.
    pub async fn create_invitation(
        &self,
        new: &NewInvitation,
        by: impl Into<By>,
    ) -> Result<IssuedInvitation, StoreError> {
        let by = by.into();
        let now = by.now;
        check_grant(new.granter, new.role)?;
        let (mut id, mut secret) = ([0; 10], [0; 32]);
        getrandom::fill(&mut id)?;
        getrandom::fill(&mut secret)?;
        let (id, token) = (InvitationId(bits(now, id)), Token::issue(INVITATION_PREFIX, secret));
        let mut transaction = self.database.change().await?;
        organisations::must_exist(&mut transaction, new.org).await?;
        revoke_earlier(&mut transaction, new, now).await?;
        let open: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM invitations WHERE org = $1 AND accepted_ms IS NULL AND revoked_ms IS NULL AND expires_ms > $2",
        )
        .bind(new.org.to_string())
        .bind(now.0)
        .fetch_one(&mut *transaction)
        .await?;
        if open >= OPEN_PER_ORG_MAX {
            return Err(StoreError::Refused("there can be at most 500 open invitations: revoke one"));
        }
        sqlx::query(
            "INSERT INTO invitations (id, org, email, role, lookup, invited_by, created_ms, expires_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(id.to_string())
        .bind(new.org.to_string())
        .bind(new.email.as_str())
        .bind(new.role.name())
        .bind(&self.pepper.lookup(token.reveal()).0[..])
        .bind(new.invited_by.map(|user| user.to_string()))
        .bind(now.0)
        .bind(new.expires.0)
        .execute(&mut *transaction)
        .await?;
        let invitation = one(&mut transaction, new.org, id).await?;
        invitation.record(&mut transaction, "invitation.create", &by).await?;
        transaction.commit().await?;
        Ok(IssuedInvitation { invitation, token })
    }

    /// An organisation's invitations in the order in which they were made, those after `after`, at most `limit`.
    pub async fn invitations(
        &self,
        org: OrgId,
        after: Option<InvitationId>,
        limit: u32,
    ) -> Result<Vec<InvitationRecord>, StoreError> {
        let rows =
            sqlx::query(sqlx::AssertSqlSafe(format!("{SELECT} WHERE org = $1 AND id > $2 ORDER BY id LIMIT $3")))
                .bind(org.to_string())
                .bind(after.map(|id| id.to_string()).unwrap_or_default())
                .bind(i64::from(limit))
                .fetch_all(&self.database.reader)
                .await?;
        rows.iter().map(read_row).collect()
    }

    /// Takes an invitation back that nobody has accepted.
    pub async fn revoke_invitation(
        &self,
        org: OrgId,
        id: InvitationId,
        by: impl Into<By>,
    ) -> Result<InvitationRecord, StoreError> {
        let by = by.into();
        let mut transaction = self.database.change().await?;
        let before = one(&mut transaction, org, id).await?;
        if before.accepted.is_some() {
            return Err(StoreError::Refused("the invitation was accepted: remove the member instead"));
        }
        let revoked = before.revoked.unwrap_or(by.now);
        sqlx::query("UPDATE invitations SET revoked_ms = $1 WHERE id = $2")
            .bind(revoked.0)
            .bind(id.to_string())
            .execute(&mut *transaction)
            .await?;
        before.record(&mut transaction, "invitation.revoke", &by).await?;
        transaction.commit().await?;
        Ok(InvitationRecord { revoked: Some(revoked), ..before })
    }

    /// Refuses a token that opens nothing.
    pub async fn must_be_open(&self, lookup: Lookup, now: EpochMs) -> Result<(), StoreError> {
        let mut reader = self.database.reader.acquire().await?;
        open(&mut reader, lookup, now).await.map(drop)
    }

    /// Makes whoever has the token a member. It is for the address that was invited and for nobody else.
    pub async fn accept_invitation(
        &self,
        lookup: Lookup,
        guest: &Guest,
        by: impl Into<By>,
    ) -> Result<MemberRecord, StoreError> {
        let mut by = by.into();
        let mut transaction = self.database.change().await?;
        let invitation = open(&mut transaction, lookup, by.now).await?;
        let user = match guest {
            Guest::User(id) => users::by_id(&mut transaction, *id).await?,
            Guest::New { name, password } => {
                let email: Email = invitation.email.parse().map_err(StoreError::Refused)?;
                let new = NewUser { email, name: name.clone(), password: Some(password.clone()) };
                users::insert(&mut transaction, &new, &by).await?
            }
        };
        if user.email.as_str() != invitation.email {
            return Err(StoreError::Refused("the invitation is for another e-mail address: sign in as that one"));
        }
        // Whoever had the token is known from now on.
        by.actor.id = user.id.to_string();
        let member = members::insert(&mut transaction, invitation.org, user.id, invitation.role, &by).await?;
        sqlx::query("UPDATE invitations SET accepted_ms = $1, accepted_by = $2 WHERE id = $3")
            .bind(by.now.0)
            .bind(user.id.to_string())
            .bind(invitation.id.to_string())
            .execute(&mut *transaction)
            .await?;
        invitation.record(&mut transaction, "invitation.accept", &by).await?;
        transaction.commit().await?;
        Ok(member)
    }
}

impl InvitationRecord {
    async fn record(&self, connection: &mut Connection, action: &'static str, by: &By) -> Result<(), StoreError> {
        let is = trail::json(&json!({"email": self.email, "role": self.role.name()}));
        let entry = Entry { org: Some(self.org), action, object: self.id.to_string(), before: None, after: Some(&is) };
        trail::record(connection, by, entry).await
    }
}

/// The invitation of a token, if it can be accepted.
async fn open(connection: &mut Connection, lookup: Lookup, now: EpochMs) -> Result<InvitationRecord, StoreError> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!("{SELECT} WHERE lookup = $1")))
        .bind(&lookup.0[..])
        .fetch_optional(connection)
        .await?;
    let invitation = row.as_ref().map(read_row).transpose()?.filter(|invitation| invitation.status(now) == "open");
    invitation.ok_or_else(|| StoreError::NotFound("invitation that this token opens".to_owned()))
}

/// Revokes a member's open invitations that somebody of the role they have now could not make; all of them if they have none.
pub(super) async fn revoke_of(
    connection: &mut Connection,
    member: &MemberRecord,
    role: Option<Role>,
    by: &By,
) -> Result<(), StoreError> {
    for lost in Role::ALL.into_iter().filter(|other| !role.is_some_and(|role| role.may_grant(*other))) {
        sqlx::query(
            "UPDATE invitations SET revoked_ms = $1 WHERE org = $2 AND invited_by = $3 AND role = $4 \
             AND accepted_ms IS NULL AND revoked_ms IS NULL",
        )
        .bind(by.now.0)
        .bind(member.org.to_string())
        .bind(member.user.to_string())
        .bind(lost.name())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Of two invitations of one address, the later one counts.
async fn revoke_earlier(connection: &mut Connection, new: &NewInvitation, now: EpochMs) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE invitations SET revoked_ms = $1 WHERE org = $2 AND email = $3 AND accepted_ms IS NULL AND revoked_ms IS NULL",
    )
    .bind(now.0)
    .bind(new.org.to_string())
    .bind(new.email.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

async fn one(connection: &mut Connection, org: OrgId, id: InvitationId) -> Result<InvitationRecord, StoreError> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!("{SELECT} WHERE org = $1 AND id = $2")))
        .bind(org.to_string())
        .bind(id.to_string())
        .fetch_optional(connection)
        .await?;
    read_row(&row.ok_or_else(|| StoreError::NotFound(format!("invitation {id}")))?)
}

fn read_row(row: &Rows) -> Result<InvitationRecord, StoreError> {
    Ok(InvitationRecord {
        id: parsed(row, "id")?,
        org: parsed(row, "org")?,
        email: row.try_get("email")?,
        role: read_role(row)?,
        created: EpochMs(row.try_get("created_ms")?),
        expires: EpochMs(row.try_get("expires_ms")?),
        accepted: row.try_get::<Option<i64>, _>("accepted_ms")?.map(EpochMs),
        revoked: row.try_get::<Option<i64>, _>("revoked_ms")?.map(EpochMs),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, NOW, new_user};

    fn invitation(books: &Books, email: &str, role: Role) -> NewInvitation {
        let email = email.parse().expect("an address");
        let expires = NOW.plus(1_000);
        NewInvitation { org: books.org, email, role, granter: Role::Owner, invited_by: None, expires }
    }

    async fn invite(books: &Books, email: &str, role: Role) -> IssuedInvitation {
        books.store.create_invitation(&invitation(books, email, role), NOW).await.expect("made")
    }

    async fn accept(books: &Books, token: &Token, guest: &Guest, at: EpochMs) -> Result<MemberRecord, StoreError> {
        books.store.accept_invitation(books.store.pepper().lookup(token.reveal()), guest, at).await
    }

    fn newcomer() -> Guest {
        Guest::New { name: "Ada".to_owned(), password: PasswordHash("a hash".to_owned()) }
    }

    #[tokio::test]
    async fn a_newcomer_becomes_a_user_and_a_member_once() {
        let books = Books::open().await;
        let issued = invite(&books, "ada@example.com", Role::Developer).await;
        let member = accept(&books, &issued.token, &newcomer(), NOW).await.expect("accepted");
        assert_eq!(
            (member.org, &*member.email, &*member.name, member.role),
            (books.org, "ada@example.com", "Ada", Role::Developer)
        );
        let again = accept(&books, &issued.token, &Guest::User(member.user), NOW).await;
        assert!(matches!(again, Err(StoreError::NotFound(_))));
        let listed = books.store.invitations(books.org, None, 9).await.expect("listed");
        assert_eq!(listed[0].status(NOW), "accepted");
        let id = issued.invitation.id;
        assert!(matches!(books.store.revoke_invitation(books.org, id, NOW).await, Err(StoreError::Refused(_))));
    }

    #[tokio::test]
    async fn an_invitation_is_for_the_address_that_it_names() {
        let books = Books::open().await;
        let ada = books.store.create_user(&new_user("ada@example.com"), NOW).await.expect("made").id;
        let bob = books.store.create_user(&new_user("bob@example.com"), NOW).await.expect("made").id;
        let issued = invite(&books, "Ada@example.com", Role::Viewer).await;
        for guest in [Guest::User(bob), newcomer()] {
            let refused = accept(&books, &issued.token, &guest, NOW).await;
            assert!(matches!(refused, Err(StoreError::Refused(_))), "{guest:?}");
        }
        assert_eq!(accept(&books, &issued.token, &Guest::User(ada), NOW).await.expect("accepted").user, ada);
        assert!(books.store.member(books.org, bob).await.is_err());
    }

    #[tokio::test]
    async fn what_is_late_revoked_or_replaced_is_as_good_as_unknown() {
        let books = Books::open().await;
        let late = invite(&books, "late@example.com", Role::Viewer).await;
        let revoked = invite(&books, "revoked@example.com", Role::Viewer).await;
        let replaced = invite(&books, "replaced@example.com", Role::Viewer).await;
        let id = revoked.invitation.id;
        let elsewhere = books.store.revoke_invitation(OrgId(1), id, NOW).await;
        assert!(matches!(elsewhere, Err(StoreError::NotFound(_))));
        assert_eq!(books.store.revoke_invitation(books.org, id, NOW).await.expect("revoked").status(NOW), "revoked");
        invite(&books, "replaced@example.com", Role::Viewer).await;
        let unknown = Token::issue(INVITATION_PREFIX, [7; 32]);
        for (token, at) in [(&late.token, 1_000), (&revoked.token, 0), (&replaced.token, 0), (&unknown, 0)] {
            let refused = accept(&books, token, &newcomer(), NOW.plus(at)).await;
            assert!(matches!(refused, Err(StoreError::NotFound(_))), "{refused:?}");
        }
        assert!(books.store.users(None, 9).await.expect("listed").is_empty());
    }

    #[tokio::test]
    async fn nobody_invites_to_more_than_they_have() {
        let books = Books::open().await;
        let owner = NewInvitation { granter: Role::Admin, ..invitation(&books, "ada@example.com", Role::Owner) };
        assert!(matches!(books.store.create_invitation(&owner, NOW).await, Err(StoreError::Refused(_))));
        let nowhere = NewInvitation { org: OrgId(1), ..invitation(&books, "ada@example.com", Role::Viewer) };
        assert!(matches!(books.store.create_invitation(&nowhere, NOW).await, Err(StoreError::NotFound(_))));
    }

    #[tokio::test]
    async fn who_may_invite_no_longer_has_invited_nobody() {
        let books = Books::open().await;
        let mut admins = Vec::new();
        for name in ["ada", "bob", "eve"] {
            let user = books.store.create_user(&new_user(&format!("{name}@example.com")), NOW).await.expect("made").id;
            books.store.add_member(books.org, user, Role::Owner, NOW).await.expect("added");
            for role in [Role::Owner, Role::Viewer] {
                let email = &format!("{}-of-{name}@example.com", role.name());
                let new = NewInvitation { invited_by: Some(user), ..invitation(&books, email, role) };
                books.store.create_invitation(&new, NOW).await.expect("made");
            }
            admins.push(user);
        }
        books.store.remove_member(books.org, admins[0], Role::Owner, NOW).await.expect("removed");
        books.store.change_role(books.org, admins[1], Role::Admin, Role::Owner, NOW).await.expect("changed");
        let listed = books.store.invitations(books.org, None, 9).await.expect("listed");
        let mut open: Vec<_> = listed
            .iter()
            .filter(|invitation| invitation.status(NOW) == "open")
            .map(|invitation| &*invitation.email)
            .collect();
        open.sort_unstable();
        assert_eq!(open, ["owner-of-eve@example.com", "viewer-of-bob@example.com", "viewer-of-eve@example.com"]);
    }
}
