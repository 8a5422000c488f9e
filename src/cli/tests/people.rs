//! Users, members and the trail as people type them.

use super::{objects, text, type_in};
use serde_json::json;

#[tokio::test]
async fn users_become_members_and_are_switched_off() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("password"), "correct horse battery\n").expect("written");
    std::fs::write(dir.path().join("short"), "short\n").expect("written");
    let org = objects(dir.path(), "org create Acme").await.remove(0);
    let org = text(&org["id"]);
    let create = "user create Ada@example.com --name Ada --password-file DIR";
    let made = objects(dir.path(), &format!("{create}/password")).await.remove(0);
    let user = text(&made["id"]);
    assert_eq!((text(&made["email"]), &made["disabled_ms"]), ("ada@example.com", &json!(null)));
    for (line, problem) in [
        (format!("{create}/password"), "there is a user of this e-mail address already"),
        (format!("{create}/short"), "at least 12 characters"),
        (format!("{create}/nowhere"), "can't be read"),
        (format!("member add --org {org} --user {user} --role king"), "a role is"),
        (format!("user disable {}", user.replace(&user[5..], &"0".repeat(26))), "there is no user"),
    ] {
        let (code, printed) = type_in(dir.path(), &format!("{line} --data DIR")).await;
        assert!(code == 2 && printed.contains(problem), "{line}: {printed}");
    }
    objects(dir.path(), &format!("member add --org {org} --user {user} --role viewer")).await;
    objects(dir.path(), &format!("member role --org {org} --user {user} --role owner")).await;
    let listed = objects(dir.path(), &format!("member list --org {org}")).await;
    assert_eq!((listed.len(), text(&listed[0]["role"])), (1, "owner"));
    let (code, printed) = type_in(dir.path(), &format!("member remove --org {org} --user {user} --data DIR")).await;
    assert!(code == 2 && printed.contains("the last owner stays"), "{printed}");
    let off = objects(dir.path(), &format!("user disable {user}")).await.remove(0);
    assert!(off["disabled_ms"].is_i64());
    let on = objects(dir.path(), &format!("user enable {user}")).await.remove(0);
    assert_eq!(on["disabled_ms"], json!(null));
    objects(dir.path(), &format!("user password {user} --password-file DIR/password")).await;
    let (_, table) = type_in(dir.path(), "user list --data DIR").await;
    assert!(table.contains("ada@example.com") && !table.contains("argon2"), "{table}");
}

#[tokio::test]
async fn what_was_typed_is_in_the_trail() {
    let dir = tempfile::tempdir().expect("a directory");
    let org = objects(dir.path(), "org create Acme").await.remove(0);
    let org = text(&org["id"]);
    let invite = format!("member invite --org {org} --email bob@example.com --role billing");
    let invited = objects(dir.path(), &invite).await.remove(0);
    assert!(text(&invited["token"]).starts_with("tg_invite_"));
    let (code, printed) = type_in(dir.path(), &format!("{invite} --expires 2020-01-01 --data DIR")).await;
    assert!(code == 2 && printed.contains("past"), "{printed}");
    objects(dir.path(), &format!("org suspend {org}")).await;
    objects(dir.path(), &format!("org resume {org}")).await;
    let entries = objects(dir.path(), &format!("trail --org {org} --since 1d")).await;
    let actions: Vec<&str> = entries.iter().map(|entry| text(&entry["action"])).collect();
    assert_eq!(actions, ["org.resume", "org.suspend", "invitation.create", "org.create"]);
    let one = objects(dir.path(), "trail --action invitation.create").await.remove(0);
    assert_eq!(
        (&one["after"], text(&one["actor_kind"])),
        (&json!({"email": "bob@example.com", "role": "billing"}), "local")
    );
    let (_, table) = type_in(dir.path(), &format!("trail --object {org} --data DIR")).await;
    assert!(table.contains("org.suspend") && table.starts_with("WHEN"), "{table}");
}
