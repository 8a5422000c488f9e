//! Members: which users an organisation has, and what each may do in it.

use super::trail::{self, By, Entry};
use super::{Connection, Rows, Store, StoreError, organisations, parsed, users};
use filters::id::{OrgId, UserId};
use filters::time::EpochMs;
use serde_json::json;
use sqlx::Row;

/// Most organisations of one user: each of their requests reads all of them.
const ORGS_PER_USER_MAX: i64 = 1_000;

/// What a user is in an organisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// May do everything, and make owners.
    Owner,
    /// May do everything but make owners or touch them.
    Admin,
    /// Makes keys and projects, and sees what they use.
    Developer,
    /// Sees money and usage.
    Billing,
    /// Sees, and changes nothing.
    Viewer,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Owner, Self::Admin, Self::Developer, Self::Billing, Self::Viewer];

    /// The name in tables and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Developer => "developer",
            Self::Billing => "billing",
            Self::Viewer => "viewer",
        }
    }

    /// The role of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Whether who has this role may give the other one, or take it away: nobody grants more than they have.
    #[must_use]
    pub fn may_grant(self, role: Self) -> bool {
        match self {
            Self::Owner => true,
            Self::Admin => role != Self::Owner,
            Self::Developer | Self::Billing | Self::Viewer => false,
        }
    }
}

/// A user's place in an organisation, as the user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The organisation.
    pub org: OrgId,
    /// What it is called.
    pub org_name: String,
    /// When it was made.
    pub org_created: EpochMs,
    /// Since when its keys are refused, if they are.
    pub suspended: Option<EpochMs>,
    /// What the user is in it.
    pub role: Role,
}

/// A user's place in an organisation, as the organisation sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRecord {
    /// The organisation.
    pub org: OrgId,
    /// The user.
    pub user: UserId,
    /// What they sign in as.
    pub email: String,
    /// What people call them.
    pub name: String,
    /// What they are in it.
    pub role: Role,
    /// Since when.
    pub joined: EpochMs,
    /// Since when they can't sign in, if so.
    pub disabled: Option<EpochMs>,
}

const SELECT: &str = "SELECT m.org, m.user_id, m.role, m.joined_ms, u.email, u.name, u.disabled_ms FROM members m \
     JOIN users u ON u.id = m.user_id";

impl Store {
    /// An organisation's members in the order in which they became users, those after `after`, at most `limit`.
    pub async fn members(
        &self,
        org: OrgId,
        after: Option<UserId>,
        limit: u32,
    ) -> Result<Vec<MemberRecord>, StoreError> {
        let text = format!("{SELECT} WHERE m.org = $1 AND m.user_id > $2 ORDER BY m.user_id LIMIT $3");
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(org.to_string())
            .bind(after.map(|id| id.to_string()).unwrap_or_default())
            .bind(i64::from(limit))
            .fetch_all(&self.database.reader)
            .await?;
        rows.iter().map(read_row).collect()
    }

    /// One member.
    pub async fn member(&self, org: OrgId, user: UserId) -> Result<MemberRecord, StoreError> {
        let mut reader = self.database.reader.acquire().await?;
        one(&mut reader, org, user).await?.ok_or_else(|| unknown(user))
    }

    /// Makes a user a member.
    pub async fn add_member(
        &self,
        org: OrgId,
        user: UserId,
        role: Role,
        by: impl Into<By>,
    ) -> Result<MemberRecord, StoreError> {
        let by = by.into();
        let mut transaction = self.database.change().await?;
        organisations::must_exist(&mut transaction, org).await?;
        users::by_id(&mut transaction, user).await?;
        let member = insert(&mut transaction, org, user, role, &by).await?;
        transaction.commit().await?;
        Ok(member)
    }

    /// Gives a member another role, as somebody may whose own is `granter`. An organisation keeps its last owner.
    pub async fn change_role(
        &self,
        org: OrgId,
        user: UserId,
        role: Role,
        granter: Role,
        by: impl Into<By>,
    ) -> Result<MemberRecord, StoreError> {
        let by = by.into();
        let mut transaction = self.database.change().await?;
        let before = must_be_touchable(&mut transaction, org, user, granter).await?;
        check_grant(granter, role)?;
        if role != Role::Owner {
            must_not_be_last_owner(&mut transaction, &before).await?;
        }
        sqlx::query("UPDATE members SET role = $1 WHERE org = $2 AND user_id = $3")
            .bind(role.name())
            .bind(org.to_string())
            .bind(user.to_string())
            .execute(&mut *transaction)
            .await?;
        super::invitations::revoke_of(&mut transaction, &before, Some(role), &by).await?;
        let after = MemberRecord { role, ..before.clone() };
        after.record(&mut transaction, "member.change", Some(&before), &by).await?;
        transaction.commit().await?;
        Ok(after)
    }

    /// Removes a member, as somebody may whose own role is `granter`. An organisation keeps its last owner.
    pub async fn remove_member(
        &self,
        org: OrgId,
        user: UserId,
        granter: Role,
        by: impl Into<By>,
    ) -> Result<(), StoreError> {
        let by = by.into();
        let mut transaction = self.database.change().await?;
        let before = must_be_touchable(&mut transaction, org, user, granter).await?;
        must_not_be_last_owner(&mut transaction, &before).await?;
        sqlx::query("DELETE FROM members WHERE org = $1 AND user_id = $2")
            .bind(org.to_string())
            .bind(user.to_string())
            .execute(&mut *transaction)
            .await?;
        super::invitations::revoke_of(&mut transaction, &before, None, &by).await?;
        let was = before.entry();
        let entry = Entry {
            org: Some(org),
            action: "member.remove",
            object: user.to_string(),
            before: Some(&was),
            after: None,
        };
        trail::record(&mut transaction, &by, entry).await?;
        Ok(transaction.commit().await?)
    }
}

/// Makes a user a member who is none yet.
pub(super) async fn insert(
    connection: &mut Connection,
    org: OrgId,
    user: UserId,
    role: Role,
    by: &By,
) -> Result<MemberRecord, StoreError> {
    let held: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM members WHERE user_id = $1")
        .bind(user.to_string())
        .fetch_one(&mut *connection)
        .await?;
    if held >= ORGS_PER_USER_MAX {
        return Err(StoreError::Refused("a user can be in at most 1000 organisations"));
    }
    let made = sqlx::query(
        "INSERT INTO members (org, user_id, role, joined_ms) VALUES ($1, $2, $3, $4) ON CONFLICT (org, user_id) DO NOTHING",
    )
    .bind(org.to_string())
    .bind(user.to_string())
    .bind(role.name())
    .bind(by.now.0)
    .execute(&mut *connection)
    .await?;
    if made.rows_affected() == 0 {
        return Err(StoreError::Refused("the user is a member already: change the role instead"));
    }
    let member = one(connection, org, user).await?.ok_or_else(|| unknown(user))?;
    member.record(connection, "member.add", None, by).await?;
    Ok(member)
}

impl MemberRecord {
    /// The member as the trail has them.
    fn entry(&self) -> String {
        trail::json(&json!({"email": self.email, "role": self.role.name()}))
    }

    async fn record(
        &self,
        connection: &mut Connection,
        action: &'static str,
        before: Option<&Self>,
        by: &By,
    ) -> Result<(), StoreError> {
        let (was, is) = (before.map(Self::entry), self.entry());
        let object = self.user.to_string();
        let entry = Entry { org: Some(self.org), action, object, before: was.as_deref(), after: Some(&is) };
        trail::record(connection, by, entry).await
    }
}

/// A user's organisations, in the order in which those were made.
pub(super) async fn of_user(connection: &mut Connection, user: UserId) -> Result<Vec<Membership>, StoreError> {
    let rows = sqlx::query(
        "SELECT m.org, m.role, o.name, o.created_ms, o.suspended_ms FROM members m JOIN organisations o ON o.id = m.org \
         WHERE m.user_id = $1 ORDER BY m.org",
    )
    .bind(user.to_string())
    .fetch_all(connection)
    .await?;
    let membership = |row: &Rows| {
        Ok(Membership {
            org: parsed(row, "org")?,
            org_name: row.try_get("name")?,
            org_created: EpochMs(row.try_get("created_ms")?),
            suspended: row.try_get::<Option<i64>, _>("suspended_ms")?.map(EpochMs),
            role: read_role(row)?,
        })
    };
    rows.iter().map(membership).collect()
}

async fn one(connection: &mut Connection, org: OrgId, user: UserId) -> Result<Option<MemberRecord>, StoreError> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!("{SELECT} WHERE m.org = $1 AND m.user_id = $2")))
        .bind(org.to_string())
        .bind(user.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read_row).transpose()
}

/// The member, if somebody of that role may change or remove who has theirs.
async fn must_be_touchable(
    connection: &mut Connection,
    org: OrgId,
    user: UserId,
    granter: Role,
) -> Result<MemberRecord, StoreError> {
    let member = one(connection, org, user).await?.ok_or_else(|| unknown(user))?;
    check_grant(granter, member.role)?;
    Ok(member)
}

/// Refuses a grant of more than the granter has.
pub(super) fn check_grant(granter: Role, role: Role) -> Result<(), StoreError> {
    if granter.may_grant(role) {
        Ok(())
    } else {
        Err(StoreError::Refused("nobody grants or takes away more than they have: only owners make or change owners"))
    }
}

async fn must_not_be_last_owner(connection: &mut Connection, member: &MemberRecord) -> Result<(), StoreError> {
    if member.role != Role::Owner {
        return Ok(());
    }
    let owners: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM members WHERE org = $1 AND role = $2")
        .bind(member.org.to_string())
        .bind(Role::Owner.name())
        .fetch_one(connection)
        .await?;
    if owners > 1 {
        Ok(())
    } else {
        Err(StoreError::Refused("the last owner stays: make somebody else an owner first"))
    }
}

fn unknown(user: UserId) -> StoreError {
    StoreError::NotFound(format!("member {user}"))
}

fn read_row(row: &Rows) -> Result<MemberRecord, StoreError> {
    Ok(MemberRecord {
        org: parsed(row, "org")?,
        user: parsed(row, "user_id")?,
        email: row.try_get("email")?,
        name: row.try_get("name")?,
        role: read_role(row)?,
        joined: EpochMs(row.try_get("joined_ms")?),
        disabled: row.try_get::<Option<i64>, _>("disabled_ms")?.map(EpochMs),
    })
}

pub(super) fn read_role(row: &Rows) -> Result<Role, StoreError> {
    let content: String = row.try_get("role")?;
    Role::named(&content).ok_or(StoreError::Corrupt { column: "role", content })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, NOW, new_user};

    /// A user who is a member.
    async fn member(books: &Books, email: &str, role: Role) -> UserId {
        let user = books.store.create_user(&new_user(email), NOW).await.expect("made").id;
        books.store.add_member(books.org, user, role, NOW).await.expect("added");
        user
    }

    fn is_refused<T>(done: Result<T, StoreError>) -> bool {
        matches!(done, Err(StoreError::Refused(_)))
    }

    #[tokio::test]
    async fn members_are_added_once_and_listed_page_by_page() {
        let books = Books::open().await;
        let ada = member(&books, "ada@example.com", Role::Owner).await;
        let bob = member(&books, "bob@example.com", Role::Viewer).await;
        assert!(is_refused(books.store.add_member(books.org, bob, Role::Admin, NOW).await));
        let page = books.store.members(books.org, None, 1).await.expect("listed");
        let rest = books.store.members(books.org, Some(page[0].user), 9).await.expect("listed");
        let mut users = [page[0].user, rest[0].user];
        users.sort();
        let mut expected = [ada, bob];
        expected.sort();
        assert_eq!((users, page.len(), rest.len()), (expected, 1, 1));
        assert_eq!(books.store.member(books.org, bob).await.expect("read").role, Role::Viewer);
        let stranger = books.store.add_member(books.org, UserId(1), Role::Viewer, NOW).await;
        assert!(matches!(stranger, Err(StoreError::NotFound(_))));
        let nowhere = books.store.add_member(OrgId(1), bob, Role::Viewer, NOW).await;
        assert!(matches!(nowhere, Err(StoreError::NotFound(_))));
    }

    #[tokio::test]
    async fn the_last_owner_stays() {
        let books = Books::open().await;
        let ada = member(&books, "ada@example.com", Role::Owner).await;
        let store = &books.store;
        assert!(is_refused(store.remove_member(books.org, ada, Role::Owner, NOW).await));
        assert!(is_refused(store.change_role(books.org, ada, Role::Admin, Role::Owner, NOW).await));
        let bob = member(&books, "bob@example.com", Role::Viewer).await;
        store.change_role(books.org, bob, Role::Owner, Role::Owner, NOW).await.expect("changed");
        store.remove_member(books.org, ada, Role::Owner, NOW).await.expect("removed");
        assert!(matches!(store.member(books.org, ada).await, Err(StoreError::NotFound(_))));
        assert!(is_refused(store.remove_member(books.org, bob, Role::Owner, NOW).await));
    }

    #[tokio::test]
    async fn nobody_grants_or_takes_away_more_than_they_have() {
        let books = Books::open().await;
        let ada = member(&books, "ada@example.com", Role::Owner).await;
        let bob = member(&books, "bob@example.com", Role::Viewer).await;
        let store = &books.store;
        for granter in [Role::Admin, Role::Developer, Role::Billing, Role::Viewer] {
            assert!(is_refused(store.change_role(books.org, bob, Role::Owner, granter, NOW).await), "{granter:?}");
            assert!(is_refused(store.change_role(books.org, ada, Role::Viewer, granter, NOW).await), "{granter:?}");
            assert!(is_refused(store.remove_member(books.org, ada, granter, NOW).await), "{granter:?}");
        }
        let admin = store.change_role(books.org, bob, Role::Admin, Role::Admin, NOW).await.expect("changed");
        assert_eq!(admin.role, Role::Admin);
        let stranger = store.change_role(books.org, UserId(1), Role::Viewer, Role::Owner, NOW).await;
        assert!(matches!(stranger, Err(StoreError::NotFound(_))));
    }
}
