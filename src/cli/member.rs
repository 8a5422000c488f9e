//! `tollgate member`: who is in an organisation, and as what.

use super::moment::Moment;
use super::{CliError, Place, Surroundings};
use crate::store::invitations::NewInvitation;
use crate::store::members::{MemberRecord, Role};
use crate::store::users::Email;
use filters::id::{OrgId, UserId};
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;

/// Members of one page.
const PAGE: u32 = 500;
const HEADINGS: [&str; 4] = ["USER", "EMAIL", "NAME", "ROLE"];

/// What to do with members.
#[derive(Debug, clap::Subcommand)]
pub enum MemberCommand {
    /// Make a user a member, without asking them.
    Add {
        #[command(flatten)]
        member: MemberName,
        /// owner, admin, developer, billing or viewer.
        #[arg(long, value_parser = read_role)]
        role: Role,
        #[command(flatten)]
        place: Place,
    },
    /// List an organisation's members.
    List {
        /// The organisation, `org_…`.
        #[arg(long)]
        org: OrgId,
        #[command(flatten)]
        place: Place,
    },
    /// Give a member another role.
    Role {
        #[command(flatten)]
        member: MemberName,
        /// owner, admin, developer, billing or viewer.
        #[arg(long, value_parser = read_role)]
        role: Role,
        #[command(flatten)]
        place: Place,
    },
    /// Remove a member. The last owner stays.
    Remove {
        #[command(flatten)]
        member: MemberName,
        #[command(flatten)]
        place: Place,
    },
    /// Invite somebody by their e-mail address; prints the token to hand to them.
    Invite {
        /// The organisation, `org_…`.
        #[arg(long)]
        org: OrgId,
        /// Who is meant: nobody else can accept.
        #[arg(long)]
        email: Email,
        /// owner, admin, developer, billing or viewer.
        #[arg(long, value_parser = read_role)]
        role: Role,
        #[command(flatten)]
        expiry: Expiry,
        #[command(flatten)]
        place: Place,
    },
}

/// Until when.
#[derive(Debug, clap::Args)]
pub struct Expiry {
    /// Until when it can be accepted: a date, or how long from now.
    #[arg(long, value_name = "WHEN", default_value = "7d")]
    pub(super) expires: Moment,
}

/// Which member.
#[derive(Debug, clap::Args)]
pub struct MemberName {
    /// The organisation, `org_…`.
    #[arg(long)]
    pub(super) org: OrgId,
    /// The user, `user_…`.
    #[arg(long)]
    pub(super) user: UserId,
}

#[derive(Serialize)]
struct MemberLine {
    org: String,
    user: String,
    email: String,
    name: String,
    role: &'static str,
    joined_ms: i64,
}

#[derive(Serialize)]
struct InvitationLine {
    id: String,
    org: String,
    email: String,
    role: &'static str,
    expires_ms: i64,
    token: String,
}

impl From<&MemberRecord> for MemberLine {
    fn from(record: &MemberRecord) -> Self {
        Self {
            org: record.org.to_string(),
            user: record.user.to_string(),
            email: record.email.clone(),
            name: record.name.clone(),
            role: record.role.name(),
            joined_ms: record.joined.0,
        }
    }
}

fn read_role(text: &str) -> Result<Role, String> {
    Role::named(text).ok_or_else(|| "a role is owner, admin, developer, billing or viewer".to_owned())
}

impl MemberCommand {
    pub(super) fn place(&self) -> &Place {
        match self {
            Self::Add { place, .. }
            | Self::List { place, .. }
            | Self::Role { place, .. }
            | Self::Remove { place, .. }
            | Self::Invite { place, .. } => place,
        }
    }
}

pub(super) async fn run(command: MemberCommand, surroundings: Surroundings<'_>) -> Result<ExitCode, CliError> {
    let Surroundings { now, out, .. } = surroundings;
    // Whoever has the books in hand may what an owner may.
    let granter = Role::Owner;
    let (place, member) = match command {
        MemberCommand::Add { member, role, place } => {
            let store = place.open_store().await?;
            let added = store.add_member(member.org, member.user, role, now).await?;
            (place, added)
        }
        MemberCommand::Role { member, role, place } => {
            let store = place.open_store().await?;
            let changed = store.change_role(member.org, member.user, role, granter, now).await?;
            (place, changed)
        }
        MemberCommand::Remove { member, place } => {
            let store = place.open_store().await?;
            let removed = store.member(member.org, member.user).await?;
            store.remove_member(member.org, member.user, granter, now).await?;
            let line = MemberLine::from(&removed);
            place.printer(out).one(&line, || format!("{} is in {} no more.", removed.email, removed.org))?;
            return Ok(ExitCode::SUCCESS);
        }
        MemberCommand::List { org, place } => {
            list(org, &place, out).await?;
            return Ok(ExitCode::SUCCESS);
        }
        MemberCommand::Invite { org, email, role, expiry, place } => {
            let new = NewInvitation { org, email, role, granter, invited_by: None, expires: expiry.expires.after(now) };
            if new.expires <= now {
                return Err(CliError::BadInput("--expires lies in the past: name a later date".to_owned()));
            }
            let issued = place.open_store().await?.create_invitation(&new, now).await?;
            let token = issued.token.reveal().to_owned();
            let line = InvitationLine {
                id: issued.invitation.id.to_string(),
                org: org.to_string(),
                email: issued.invitation.email,
                role: role.name(),
                expires_ms: new.expires.0,
                token: token.clone(),
            };
            place
                .printer(out)
                .one(&line, || format!("Invited {} as {}. Token (shown once): {token}", line.email, line.role))?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let line = MemberLine::from(&member);
    place.printer(out).one(&line, || format!("{} is {} in {}.", line.email, line.role, line.org))?;
    Ok(ExitCode::SUCCESS)
}

async fn list(org: OrgId, place: &Place, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
    let store = place.open_store().await?;
    store.must_have_organisation(org).await?;
    let mut printer = place.printer(out);
    let (mut after, mut headings) = (None, Some(&HEADINGS[..]));
    loop {
        let page = store.members(org, after, PAGE).await?;
        let lines: Vec<MemberLine> = page.iter().map(MemberLine::from).collect();
        printer.many(&lines, headings.take(), |line| {
            vec![line.user.clone(), line.email.clone(), line.name.clone(), line.role.to_owned()]
        })?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.user);
    }
}
