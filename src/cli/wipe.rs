//! `bennu admin wipe`: deletes a homeserver that has stopped, after whoever wants that has typed its name.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;
use serde_json::json;

use super::output::{Failure, Output};
use crate::node::{Config, wipe::Belongings};

/// That it is meant.
#[derive(Args)]
pub struct Wipe {
    /// The home domain, typed out: without it, it is asked for on the terminal
    #[arg(long, value_name = "DOMAIN")]
    delete_everything_of: Option<String>,
}

impl Wipe {
    /// Deletes it.
    ///
    /// # Errors
    /// If it runs, if the name is not typed as it is, or if something cannot be deleted.
    pub fn run(self, config: &Config, output: Output) -> Result<(), Failure> {
        let belongings = Belongings::of(config)?;
        let typed = match self.delete_everything_of {
            Some(typed) => typed,
            None => ask(config, &belongings)?,
        };
        if typed != config.domain.as_str() {
            return Err(Failure::new("usage", format!("that is not {}; nothing was deleted", config.domain)));
        }
        let paths: Vec<_> = belongings.paths().iter().map(|path| path.display().to_string()).collect();
        let others: Vec<_> = belongings.delete()?.iter().map(|path| path.display().to_string()).collect();
        let done = format!("{} is deleted", config.domain);
        let said = || match &others[..] {
            [] => done.clone(),
            [first] => format!("{done}; {first} is not of it and stays"),
            [first, rest @ ..] => format!("{done}; {first} and {} more are not of it and stay", rest.len()),
        };
        output.line(said, || json!({ "done": done, "deleted": paths, "left": others }))
    }
}

fn ask(config: &Config, belongings: &Belongings) -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        let how = format!("to delete it without a terminal: --delete-everything-of {}", config.domain);
        return Err(Failure::new("usage", how));
    }
    let mut out = io::stdout().lock();
    writeln!(out, "This deletes the homeserver of {}: users, queues, groups and keys, for good.", config.domain)?;
    for path in belongings.paths() {
        writeln!(out, "  {}", path.display())?;
    }
    write!(out, "Type {} to go on: ", config.domain)?;
    out.flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}
