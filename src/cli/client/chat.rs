//! `bennu client chat`: an interactive session. Every line that is typed is sent, everything that happens is shown.

use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::receive::print_unread;
use crate::{
    base::GroupId,
    cli::output::{Failure, Output, printable},
    client::{Client, Event},
    wire::{Text, content::Content},
};

/// Runs until the end of input.
///
/// # Errors
/// What the homeserver refused, where going on makes no sense.
pub async fn run(client: &Client, chat: &GroupId, output: Output) -> Result<(), Failure> {
    // Fails for a chat that is not there.
    let members = client.members(chat).await?;
    let names: Vec<_> = members.iter().map(|member| printable(&member.name)).collect();
    if output == Output::Human {
        eprintln!("in the chat: {}. Type to send, Ctrl-D to end.", names.join(", "));
    }
    print_unread(client, u64::MAX, output).await?;
    let mut events = client.events();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                if line.trim().is_empty() {
                    continue;
                }
                if let Err(error) = client.send(chat, Content::Text(Text(line))).await {
                    eprintln!("not sent: {error}");
                }
            }
            event = events.next() => {
                let Some(event) = event else { return Ok(()) };
                if let Some(notice) = notice(&event, chat) {
                    eprintln!("{notice}");
                }
                print_unread(client, u64::MAX, output).await?;
                if matches!(event, Event::Replaced(_)) {
                    return Err(Failure::new("replaced", "another process listens for this client now"));
                }
            }
        }
    }
}

/// What is said about an event beside the messages.
fn notice(event: &Event, here: &GroupId) -> Option<String> {
    match event {
        Event::Request { name, from, .. } => Some(format!("* {} ({from}) wants to connect", printable(name))),
        Event::Connected { user, .. } => Some(format!("* you are connected with {user}")),
        Event::Declined { user: Some(user), .. } => Some(format!("* {user} has declined")),
        Event::Declined { user: None, chat } => Some(format!("* the offer of {chat} was declined")),
        Event::Joined { chat, by } => Some(format!("* {by} has added you to {chat}")),
        Event::MemberJoined { chat, user } if chat == here => Some(format!("* {user} is a member now")),
        Event::MemberLeft { chat, user } if chat == here => Some(format!("* {user} is no member any more")),
        Event::Leaving { chat, user } if chat == here => Some(format!("* {user} leaves")),
        Event::AdminsChanged { chat } if chat == here => Some("* the group has other admins now".into()),
        Event::Renamed { chat, name } if chat == here => Some(format!("* the group is called {} now", printable(name))),
        Event::Removed { chat } => Some(format!("* you were removed from {chat}")),
        Event::Deleted { chat } => Some(format!("* {chat} was deleted")),
        Event::IdentityChanged { user } => Some(format!("* {user} has a new identity key, unsigned by the old one")),
        Event::Problem(what) => Some(format!("* something received could not be used: {what}")),
        Event::Gap(_) => Some("* messages may be missing".into()),
        Event::Interrupted(_) => Some("* connection lost, reconnecting".into()),
        Event::MemberJoined { .. }
        | Event::MemberLeft { .. }
        | Event::Leaving { .. }
        | Event::AdminsChanged { .. }
        | Event::Renamed { .. }
        | Event::Changed { .. }
        | Event::Message { .. }
        | Event::Listening(_)
        | Event::Replaced(_) => None,
    }
}
