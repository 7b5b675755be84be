//! `bennu client chats` and `bennu client group ...`.

use clap::Subcommand;
use serde_json::json;

use crate::{
    base::{GroupId, UserId},
    cli::output::{Failure, Output, printable},
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
        /// Whom
        #[arg(required = true)]
        users: Vec<UserId>,
    },
    /// Remove members
    Remove {
        /// The group
        chat: GroupId,
        /// Whom
        #[arg(required = true)]
        users: Vec<UserId>,
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

impl Group {
    /// Does it.
    ///
    /// # Errors
    /// What the homeserver refused.
    pub async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        match self {
            Self::Create { name } => {
                let chat = client.create_group(&name).await?;
                Ok(output.line(|| format!("the chat is {chat}"), || json!({ "chat": chat.to_string() }))?)
            }
            Self::Invite { chat, users } => {
                client.invite(&chat, &users).await?;
                done(output, "invited", &chat, &users)
            }
            Self::Remove { chat, users } => {
                client.remove(&chat, &users).await?;
                done(output, "removed", &chat, &users)
            }
            Self::Members { chat } => members(client, &chat, output).await,
            Self::Delete { chat } => {
                client.delete_group(&chat).await?;
                Ok(output.line(|| "deleted".into(), || json!({ "chat": chat.to_string(), "deleted": true }))?)
            }
        }
    }
}

fn done(output: Output, what: &str, chat: &GroupId, users: &[UserId]) -> Result<(), Failure> {
    let users: Vec<_> = users.iter().map(ToString::to_string).collect();
    let json = || json!({ "chat": chat.to_string(), what: users });
    Ok(output.line(|| format!("{what} {}", users.join(", ")), json)?)
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
