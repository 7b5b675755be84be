//! `bennu admin top`: the essentials of a running homeserver, again and again.

use std::{
    io::{self, IsTerminal},
    path::Path,
    time::Duration,
};

use clap::Args;
use serde_json::Value;

use super::output::{Failure, Output, print, size, word};
use crate::node::admin::{self, Command as Ask};

/// Clears the terminal and begins at its top.
const HOME: &str = "\x1b[H\x1b[2J";

/// How often to look.
#[derive(Args)]
pub struct Top {
    /// Seconds between two looks; figures are taken every five
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    every: u64,
    /// Look once and end, as is done where there is no terminal
    #[arg(long)]
    once: bool,
}

impl Top {
    /// Looks until it is interrupted.
    ///
    /// # Errors
    /// If no homeserver answers.
    pub async fn run(self, socket: &Path, output: Output) -> Result<(), Failure> {
        let again = !self.once && io::stdout().is_terminal();
        loop {
            let figures = admin::ask(socket, &Ask::Figures {}).await?;
            let figures = figures.first().ok_or_else(|| Failure::new("internal", "the homeserver says nothing"))?;
            match output {
                Output::Json => output.line(String::new, || figures.clone())?,
                Output::Human => print(String::from(if again { HOME } else { "" }) + &text(figures))?,
            }
            if !again {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs(self.every)).await;
        }
    }
}

/// How it stands, for a terminal of 80 columns.
fn text(figures: &Value) -> String {
    let history = &figures["history"];
    let fields = history["fields"].as_array().cloned().unwrap_or_default();
    let last = history["rows"].as_array().and_then(|rows| rows.last()).cloned().unwrap_or_default();
    let field = |name: &str| {
        let at = fields.iter().position(|field| field == name);
        at.and_then(|at| last.get(at)).and_then(Value::as_f64)
    };
    let number = |name: &str| field(name).map_or_else(|| "-".into(), short);
    let millis = |name: &str| field(name).map_or_else(|| "-".into(), |value| format!("{} ms", short(value)));
    let bytes = |name: &str| field(name).map_or_else(|| "-".into(), |value| size(value as u64));
    let mut text = format!(
        "{}  {}  bennu {}  up {}\n\n",
        word(figures, "domain"),
        word(figures, "condition"),
        word(figures, "version"),
        duration(figures["uptime"].as_u64().unwrap_or_default()),
    );
    for (name, one, other) in [
        ("requests/s", number("requests"), format!("of them messages to groups {}", number("messages"))),
        ("answered in", millis("p50"), format!("99 of 100 in {}", millis("p99"))),
        (
            "refused/s",
            number("overloaded"),
            format!("too often {}, failures {}", number("limited"), number("internal")),
        ),
        ("connections", number("connections"), format!("exchanges under way {}", number("exchanges"))),
        (
            "writes/s",
            number("writes"),
            format!("{} batches in each, {} each", number("batches_per_write"), millis("write_ms")),
        ),
        ("queue entries", number("queued"), format!("waiting for other homeservers {}", number("relayed"))),
        ("processors", number("cpu"), format!("memory {}, free on the disk {}", bytes("memory"), bytes("disk_free"))),
    ] {
        text += &format!("{name:<14} {one:>10}   {other}\n");
    }
    let failing = figures["peers"].as_array().into_iter().flatten().filter(|peer| peer[1] == "failing");
    for peer in failing.take(10) {
        let (domain, why) = (peer[0].as_str().unwrap_or_default(), peer[5].as_str().unwrap_or_default());
        text += &format!("{domain}: not reached {} times in a row, {} waiting: {why}\n", peer[3], peer[2]);
    }
    text
}

/// A number in few characters.
fn short(value: f64) -> String {
    match value {
        _ if value >= 1e7 => format!("{:.1}M", value / 1e6),
        _ if value >= 1e4 => format!("{:.1}k", value / 1e3),
        _ if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

fn duration(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_essentials_are_shown_and_what_is_not_known_yet_is_not_made_up() {
        let mut figures = json!({
            "domain": "a.test", "condition": "ready", "version": "1", "uptime": 93_784,
            "history": { "fields": ["requests", "p50"], "rows": [[12_345.0, 0.25]] },
            "peers": [["b.test", "failing", 7, 3, 9, "nobody answers"], ["c.test", "idle", 0, 0, null, ""]],
        });
        let shown = text(&figures);
        for part in
            ["a.test  ready", "up 1 d 2 h", "12.3k", "0.25 ms", "b.test: not reached 3 times in a row, 7 waiting"]
        {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!shown.contains("c.test"));
        figures["history"]["rows"] = json!([]);
        assert!(text(&figures).contains("requests/s              -"));
    }
}
