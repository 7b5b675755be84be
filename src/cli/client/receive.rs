//! `bennu client receive`.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::{
    cli::output::{Failure, Output, printable, rfc3339_millis},
    client::{Client, Event, Message},
    wire::content::Content,
};

/// Messages fetched from the state at a time.
const PAGE: u32 = 200;

/// How long to wait, and for how much.
#[derive(Args)]
pub struct Receive {
    /// Wait so long for (more) messages, or until there were --max
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=31_536_000))]
    wait: Option<u64>,
    /// Print at most so many messages
    #[arg(long, value_name = "N")]
    max: Option<u64>,
}

impl Receive {
    /// Prints what was not read yet, then what comes while waiting. What is printed is read.
    ///
    /// # Errors
    /// What the homeserver refused.
    pub async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let mut left = self.max.unwrap_or(u64::MAX);
        left -= print_unread(client, left, output).await?;
        let Some(wait) = self.wait else { return Ok(()) };
        let deadline = Instant::now() + Duration::from_secs(wait);
        let mut events = client.events();
        while left > 0 {
            let Ok(event) = timeout_at(deadline, events.next()).await else { break };
            match event {
                Some(Event::Replaced(_)) => {
                    return Err(Failure::new("replaced", "another process listens for this client now"));
                }
                Some(_) => left -= print_unread(client, left, output).await?,
                None => break,
            }
        }
        Ok(())
    }
}

/// Prints unread messages, at most `max`, and marks them read; returns how many.
///
/// # Errors
/// If the state cannot be read or standard output is closed.
pub async fn print_unread(client: &Client, max: u64, output: Output) -> Result<u64, Failure> {
    let mut printed = 0;
    while printed < max {
        let page = u32::try_from(max - printed).unwrap_or(PAGE).min(PAGE);
        let messages = client.unread(page).await?;
        let Some(last) = messages.last().map(|message| message.id) else { break };
        for message in &messages {
            output.line(|| human(message), || json(message))?;
        }
        printed += messages.len() as u64;
        // Printed first, then marked: a message may be shown twice after a crash, but is never lost.
        let read: Vec<_> = messages.iter().map(|message| message.id).collect();
        debug_assert_eq!(read.last(), Some(&last));
        client.mark_read(&read).await?;
    }
    Ok(printed)
}

/// Lists what went wrong, the oldest first.
///
/// # Errors
/// If the state cannot be read.
pub async fn problems(client: &Client, output: Output) -> Result<(), Failure> {
    for (time, text) in client.problems().await? {
        let human = || format!("{}  {}", rfc3339_millis(time), printable(&text));
        output.line(human, || json!({ "time": rfc3339_millis(time), "problem": text }))?;
    }
    Ok(())
}

fn human(message: &Message) -> String {
    let text = match &message.content {
        Content::Text(text) => printable(&text.0),
        Content::File(file) => format!("[file {} of {} bytes]", printable(&file.name.0), file.bytes.as_slice().len()),
        // It is not kept as a message.
        Content::Friendship(_) => "[for the client]".into(),
    };
    format!("{}  {}: {text}", rfc3339_millis(message.sent), printable(&message.name))
}

fn json(message: &Message) -> Value {
    let mut line = json!({
        "chat": message.chat.to_string(),
        "from": message.from.to_string(),
        "name": message.name,
        "time": rfc3339_millis(message.sent),
    });
    match &message.content {
        Content::Text(text) => line["text"] = text.0.as_str().into(),
        Content::File(file) => {
            line["base64"] = STANDARD.encode(file.bytes.as_slice()).into();
            line["file"] = file.name.0.as_str().into();
        }
        Content::Friendship(_) => {}
    }
    line
}
