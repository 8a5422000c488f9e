//! Limits that an operator has set for an organisation: its own people see them and can't change them, and set others beside them.

use super::{LimitChange, Owner};
use crate::store::quotas::window_columns;
use crate::store::trail::{ActorKind, By};
use crate::store::{Connection, StoreError};

/// Whether a limit of the owner belongs to whoever sets it: a project's and a key's are the organisation's own affair.
fn is_kept(owner: Owner) -> bool {
    match owner {
        Owner::Organisation(_) => true,
        Owner::Project(_) | Owner::Key(_) => false,
    }
}

fn is_by_operator(by: &By) -> bool {
    match by.actor.kind {
        ActorKind::Local | ActorKind::Operator | ActorKind::System => true,
        ActorKind::User | ActorKind::Key => false,
    }
}

/// Refuses changes of an operator's limits to all others.
pub(super) async fn check(
    connection: &mut Connection,
    owner: Owner,
    changes: &[LimitChange],
    by: &By,
) -> Result<(), StoreError> {
    if !is_kept(owner) || is_by_operator(by) {
        return Ok(());
    }
    for change in changes {
        let [unit, align, zone] = window_columns(&change.window);
        let held: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM quotas WHERE owner = $1 AND kind = $2 AND unit = $3 AND align = $4 AND zone = $5 \
             AND model = $6 AND by_operator = 1 AND removed_ms IS NULL",
        )
        .bind(owner.to_string())
        .bind(change.kind.name())
        .bind(unit)
        .bind(align)
        .bind(zone)
        .bind(change.model.as_ref().map_or("", |model| &model.0))
        .fetch_one(&mut *connection)
        .await?;
        if held > 0 {
            return Err(StoreError::Refused("an operator has set this limit: ask them to change it"));
        }
    }
    Ok(())
}

/// Writes down who has set the limits that were changed.
pub(super) async fn mark(
    connection: &mut Connection,
    owner: Owner,
    changes: &[LimitChange],
    by: &By,
) -> Result<(), StoreError> {
    if !is_kept(owner) {
        return Ok(());
    }
    for change in changes {
        let [unit, align, zone] = window_columns(&change.window);
        sqlx::query(
            "UPDATE quotas SET by_operator = $1 WHERE owner = $2 AND kind = $3 AND unit = $4 AND align = $5 \
             AND zone = $6 AND model = $7",
        )
        .bind(i64::from(is_by_operator(by)))
        .bind(owner.to_string())
        .bind(change.kind.name())
        .bind(unit)
        .bind(align)
        .bind(zone)
        .bind(change.model.as_ref().map_or("", |model| &model.0))
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixture::{Books, NOW};
    use crate::store::limits::Amount;
    use crate::store::quotas::QuotaKind;
    use crate::store::trail::Actor;

    #[tokio::test]
    async fn an_operators_limit_is_the_operators_to_change() {
        let books = Books::open().await;
        let user = By { actor: Actor::without_request(ActorKind::User), now: NOW };
        let owner = Owner::Organisation(books.org);
        let requests = |amount| LimitChange::of(QuotaKind::Requests, amount);
        let tokens = |amount| LimitChange::of(QuotaKind::Tokens, amount);
        let change = async |changes: &[LimitChange], by: &By| {
            let changed = books.store.change_limits(owner, changes, by.clone()).await;
            changed.map(|rows| rows.len() - 1).map_err(|refusal| refusal.to_string())
        };
        let (few, many) = (Amount::Of(5), Amount::Of(9));
        assert_eq!(change(&[requests(few)], &NOW.into()).await, Ok(1));
        let refused = Err("an operator has set this limit: ask them to change it".to_owned());
        for amount in [many, Amount::None] {
            assert_eq!(change(&[tokens(few), requests(amount)], &user).await, refused);
        }
        assert_eq!(change(&[tokens(few)], &user).await, Ok(2));
        assert_eq!(change(&[tokens(many)], &user).await, Ok(2));
        assert_eq!(change(&[tokens(few)], &NOW.into()).await, Ok(2));
        assert_eq!(change(&[tokens(Amount::None)], &user).await, refused);
        // What an operator has removed is nobody's.
        assert_eq!(change(&[requests(Amount::None)], &NOW.into()).await, Ok(1));
        assert_eq!(change(&[requests(many)], &user).await, Ok(2));
        assert_eq!(change(&[requests(Amount::None)], &user).await, Ok(1));
    }

    #[tokio::test]
    async fn projects_limits_are_the_organisations_own() {
        let books = Books::open().await;
        let limits = [crate::store::limits::Limit::plain(QuotaKind::Requests, 5)];
        let project = books.store.create_project(books.org, "web", &limits, NOW).await.expect("made");
        let user = By { actor: Actor::without_request(ActorKind::User), now: NOW };
        let change = LimitChange::of(QuotaKind::Requests, Amount::None);
        books.store.change_limits(Owner::Project(project.id), &[change], user).await.expect("removed");
    }
}
