//! `bennu client send`.

use std::{io::Read, path::PathBuf};

use clap::Args;
use serde_json::json;

use crate::{
    base::GroupId,
    cli::output::{Failure, Output},
    client::{Client, MAX_CONTENT},
    wire::{
        Text,
        content::{Content, File},
    },
};

/// What to send, and where.
#[derive(Args)]
pub struct Send {
    /// The chat
    chat: GroupId,
    /// The text; standard input if neither text nor file is given
    #[arg(conflicts_with = "file")]
    text: Option<String>,
    /// A file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Send {
    /// Sends the message.
    ///
    /// # Errors
    /// What the homeserver refused.
    pub async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        let content = match (self.text, self.file) {
            (Some(text), _) => Content::Text(Text(text)),
            (None, Some(path)) => {
                let failed = |error| Failure::new("io", format!("{}: {error}", path.display()));
                let bytes = bounded(std::fs::File::open(&path).map_err(failed)?).map_err(failed)?;
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                Content::File(File { name: Text(name), bytes: bytes.into() })
            }
            (None, None) => {
                let bytes = bounded(std::io::stdin().lock())?;
                match String::from_utf8(bytes) {
                    Ok(text) => Content::Text(Text(text)),
                    Err(error) => Content::File(File { name: Text::default(), bytes: error.into_bytes().into() }),
                }
            }
        };
        let receipt = client.send(&self.chat, content).await?;
        let human = || match receipt.unreached {
            0 => "sent".into(),
            unreached => format!("sent; {unreached} members could not be reached"),
        };
        output.line(human, || json!({ "sent": true, "unreached": receipt.unreached }))
    }
}

/// Reads to the end, but not more than a message can hold (and one byte, so that too much is noticed).
fn bounded(reader: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_CONTENT as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
