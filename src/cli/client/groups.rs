//! `bennu client chats` and `bennu client group ...`.

use clap::Subcommand;
use serde_json::json;

use crate::{
    base::{GroupId, UserId},
    cli::{
        output::{Failure, Output, printable},
        typed::typed,
    },
    client::{ChatKind, ChatState, Client},
};

/// What to do with a group.
#[derive(Subcommand)]
pub enum Group {
    /// Create a group
    Create {
        /// What it is called
        name: String,
    },
    /// Add contacts
    Invite {
        /// The group
        chat: GroupId,
        /// Whom, as <uuid>@<domain>
        #[arg(required = true, value_parser = typed::<UserId>)]
        users: Vec<UserId>,
    },
    /// Remove members
    Remove {
        /// The group
        chat: GroupId,
        /// Whom, as <uuid>@<domain>
        #[arg(required = true, value_parser = typed::<UserId>)]
        users: Vec<UserId>,
    },
    /// Leave the group
    Leave {
        /// The group
        chat: GroupId,
    },
    /// Change what the group is called
    Rename {
        /// The group
        chat: GroupId,
        /// What it is called from now on
        name: String,
    },
    /// Say who may change the group
    Admin {
        /// What to do
        #[command(subcommand)]
        action: Admin,
    },
    /// List members
    Members {
        /// The group
        chat: GroupId,
    },
    /// Delete the group for everybody
    Delete {
        /// The group
        chat: GroupId,
    },
}

/// What to do with admins.
#[derive(Subcommand)]
pub enum Admin {
    /// Make members admins
    Add {
        /// The group
        chat: GroupId,
        /// Whom, as <uuid>@<domain>
        #[arg(required = true, value_parser = typed::<UserId>)]
        users: Vec<UserId>,
    },
    /// Make admins ordinary members
    Remove {
        /// The group
        chat: GroupId,
        /// Whom, as <uuid>@<domain>
        #[arg(required = true, value_parser = typed::<UserId>)]
        users: Vec<UserId>,
    },
}

impl Group {
    /// Does it.
    ///
    /// # Errors
    /// What the homeserver refused.
    pub async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        match self {
            Self::Create { name } => {
                let chat = client.create_group(&name).await?;
                output.line(|| format!("the chat is {chat}"), || json!({ "chat": chat.to_string() }))
            }
            Self::Invite { chat, users } => {
                client.invite(&chat, &users).await?;
                done(output, "invited", &chat, &users)
            }
            Self::Remove { chat, users } => {
                client.remove(&chat, &users).await?;
                done(output, "removed", &chat, &users)
            }
            Self::Leave { chat } => {
                client.leave(&chat).await?;
                output.line(|| "you have left".into(), || json!({ "chat": chat.to_string(), "left": true }))
            }
            Self::Rename { chat, name } => {
                client.rename(&chat, &name).await?;
                let json = || json!({ "chat": chat.to_string(), "name": name });
                output.line(|| format!("the group is called {} now", printable(&name)), json)
            }
            Self::Admin { action: Admin::Add { chat, users } } => {
                client.add_admins(&chat, &users).await?;
                done(output, "made_admins", &chat, &users)
            }
            Self::Admin { action: Admin::Remove { chat, users } } => {
                client.remove_admins(&chat, &users).await?;
                done(output, "admins_no_more", &chat, &users)
            }
            Self::Members { chat } => members(client, &chat, output).await,
            Self::Delete { chat } => {
                client.delete_group(&chat).await?;
                output.line(|| "deleted".into(), || json!({ "chat": chat.to_string(), "deleted": true }))
            }
        }
    }
}

fn done(output: Output, what: &str, chat: &GroupId, users: &[UserId]) -> Result<(), Failure> {
    let users: Vec<_> = users.iter().map(ToString::to_string).collect();
    let json = || json!({ "chat": chat.to_string(), what: users });
    output.line(|| format!("{} {}", what.replace('_', " "), users.join(", ")), json)
}

async fn members(client: &Client, chat: &GroupId, output: Output) -> Result<(), Failure> {
    for member in client.members(chat).await? {
        let user = member.user.as_ref().map(ToString::to_string);
        let human = || {
            let mark = match (member.quarantined, member.admin) {
                (true, _) => "  NOT VERIFIED",
                (false, true) => "  admin",
                (false, false) => "",
            };
            format!("{}  {}{mark}", user.as_deref().unwrap_or("?"), printable(&member.name))
        };
        let json = || {
            json!({
                "user_id": user,
                "name": member.name,
                "admin": member.admin,
                "quarantined": member.quarantined,
            })
        };
        output.line(human, json)?;
    }
    Ok(())
}

/// Lists chats.
///
/// # Errors
/// If the state cannot be read.
pub async fn chats(client: &Client, output: Output) -> Result<(), Failure> {
    for chat in client.chats().await? {
        let kind = match chat.kind {
            ChatKind::Connection => "connection",
            ChatKind::Group => "group",
        };
        let state = state_name(chat.state);
        let members: Vec<_> = chat.members.iter().map(ToString::to_string).collect();
        let human =
            || format!("{}  {kind}  {state}  {}  ({} members)", chat.chat, printable(&chat.name), members.len());
        let json = || {
            json!({
                "chat": chat.chat.to_string(),
                "kind": kind,
                "state": state,
                "name": chat.name,
                "members": members,
            })
        };
        output.line(human, json)?;
    }
    Ok(())
}

fn state_name(state: ChatState) -> String {
    format!("{state:?}").to_lowercase()
}
