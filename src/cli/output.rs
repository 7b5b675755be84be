//! How results and failures are told: for people, or as one JSON object per line.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{base::Timestamp, client::ClientError, node::NodeError};

/// Status of a failure that nobody is told of: nobody reads standard output any more.
const UNREAD: &str = "unread";

/// Exit code of a program in a pipeline that ended because of that: 128 and the number of SIGPIPE.
const PIPE: u8 = 141;

/// Why a command failed.
pub struct Failure {
    status: String,
    message: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(status: impl Into<String>, message: impl ToString) -> Self {
        Self { status: status.into(), message: message.to_string() }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::new(error.status(), error)
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        let status = if let NodeError::Refused(refusal) = &error { refusal.status.name() } else { "node" };
        Self::new(status, error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new("io", error)
    }
}

/// For whom a command prints.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// People.
    Human,
    /// Programs.
    Json,
}

impl Output {
    /// As `--json` says.
    pub const fn new(json: bool) -> Self {
        if json { Self::Json } else { Self::Human }
    }

    /// Prints one result, in either form, as one line that is flushed.
    ///
    /// # Errors
    /// As [`print`].
    pub fn line(self, human: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> Result<(), Failure> {
        let line = match self {
            Self::Human => human(),
            Self::Json => json().to_string(),
        };
        print(line + "\n")
    }

    /// Prints a failure, but that of whoever has read enough, as in `bennu ... | head`; gives the exit code.
    pub fn failure(self, failure: &Failure) -> ExitCode {
        let Failure { status, message } = failure;
        if status == UNREAD {
            return ExitCode::from(PIPE);
        }
        let line = match self {
            Self::Human => format!("error: {message}"),
            Self::Json => json!({ "error": { "status": status, "message": message } }).to_string(),
        };
        // Where standard error is closed there is nobody to tell.
        let _ = writeln!(io::stderr().lock(), "{line}");
        ExitCode::FAILURE
    }
}

/// Prints to standard output, at once.
///
/// # Errors
/// If standard output is closed, or nobody reads it any more.
pub fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::new(UNREAD, error),
        _ => error.into(),
    })
}

/// Tells people something beside the result. Where standard error is closed there is nobody to tell.
pub fn tell(what: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{what}");
}

/// Text from other people as it may be shown on a terminal: without control characters.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// A time in UTC, to the second. One that no calendar has is shown as its number.
pub fn rfc3339(time: Timestamp) -> String {
    i64::try_from(time.seconds())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| time.0.to_string())
}

/// The same to the millisecond, all three digits of it.
pub fn rfc3339_millis(time: Timestamp) -> String {
    let seconds = rfc3339(time);
    match seconds.strip_suffix('Z') {
        Some(seconds) => format!("{seconds}.{:03}Z", time.0 % 1_000),
        None => seconds,
    }
}

/// A number of bytes, for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, "bytes");
    for next in UNITS {
        if value < 1_024.0 {
            break;
        }
        (value, unit) = (value / 1_024.0, next);
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.1} {unit}") }
}

/// A text in a result.
pub fn word<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// A time in a result, in seconds there, for people.
pub fn time(value: &Value, name: &str) -> String {
    rfc3339(Timestamp(value[name].as_u64().unwrap_or_default().saturating_mul(1_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_units_that_fit() {
        let told = [0, 1_023, 1_024, 1_536, 5 << 20, 7 << 40].map(size);
        assert_eq!(told, ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "5.0 MiB", "7.0 TiB"]);
    }

    #[test]
    fn a_time_has_as_many_digits_as_any_other() {
        let times = [0, 999, 1_795_814_389_000, 1_795_814_389_450].map(Timestamp);
        assert_eq!(
            times.map(rfc3339_millis),
            [
                "1970-01-01T00:00:00.000Z",
                "1970-01-01T00:00:00.999Z",
                "2026-11-27T21:19:49.000Z",
                "2026-11-27T21:19:49.450Z"
            ]
        );
        assert_eq!(rfc3339(times[3]), "2026-11-27T21:19:49Z");
        let never = u64::MAX.to_string();
        assert_eq!([rfc3339(Timestamp(u64::MAX)), rfc3339_millis(Timestamp(u64::MAX))], [never.clone(), never]);
    }
}
