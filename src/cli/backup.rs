//! `bennu admin backup`, `bennu backup` and `bennu restore`: backups of a homeserver, while it runs, and what becomes of them.

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    output::{Failure, Output, size},
    private,
};
use crate::{
    base::{Clock, SystemClock},
    node::{
        Config, NodeError,
        admin::Snapshot,
        backup::{self, Progress, Restored, Set, Source, Taken, Verified},
    },
};

/// How often progress is shown on a terminal, and elsewhere.
const ON_TERMINAL: Duration = Duration::from_millis(200);
const ELSEWHERE: Duration = Duration::from_secs(10);

/// Where to.
#[derive(Args)]
pub struct Take {
    /// Directory of backups; made if it is missing
    directory: PathBuf,
    /// Keep so many backups, and delete older ones
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
}

/// List and verify backups
#[derive(Args)]
pub struct Backups {
    /// Print one JSON object per line, errors as one on standard error
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the backups in a directory
    List {
        /// Directory of backups
        directory: PathBuf,
    },
    /// Read a backup and hold it against its checksums
    Verify {
        /// Directory of backups
        directory: PathBuf,
        /// Which; the newest if none is named
        #[arg(long, value_name = "NAME", conflicts_with = "all")]
        backup: Option<String>,
        /// All of them
        #[arg(long)]
        all: bool,
    },
}

/// What to restore, and where.
#[derive(Args)]
pub struct Restore {
    /// Directory of backups
    directory: PathBuf,
    /// Which; the newest if none is named
    #[arg(long, value_name = "NAME")]
    backup: Option<String>,
    /// Configuration file of the homeserver, whose data directory must be empty or missing
    #[arg(long, default_value = "bennu.toml")]
    config: PathBuf,
    /// Print one JSON object, errors as one on standard error
    #[arg(long)]
    pub json: bool,
}

impl Take {
    /// Takes a backup of a running homeserver.
    ///
    /// # Errors
    /// If it does not run, or what [`backup::take`] has.
    pub async fn run(self, config: &Config, output: Output) -> Result<(), Failure> {
        backup::refuse_inside(&self.directory, &config.data)?;
        let held = Snapshot::ask(&config.admin_socket).await?;
        let (directory, keep) = (self.directory, self.keep.map(|keep| keep as usize));
        let taken = on_thread(move || {
            let source = Source { files: &held.files, domain: &held.domain, incarnation: held.incarnation };
            let mut told = Told::new("copied");
            backup::take(&source, &directory, keep, SystemClock.now(), &mut |progress| told.tell(progress))
        });
        let Taken { name, files, bytes, new_bytes, deleted } = taken.await?;
        let (all, new) = (size(bytes), size(new_bytes));
        output.line(
            || {
                let gone = if deleted > 0 { format!("; {deleted} older deleted") } else { String::new() };
                format!("backup {name}: {files} files, {all}, of which {new} are new{gone}")
            },
            || json!({ "backup": name, "files": files, "bytes": bytes, "new_bytes": new_bytes, "deleted": deleted }),
        )
    }
}

impl Backups {
    /// Lists or verifies.
    ///
    /// # Errors
    /// If the directory cannot be read, or a backup is damaged.
    pub async fn run(self, output: Output) -> Result<(), Failure> {
        match self.command {
            Command::List { directory } => list(&Set::open(&directory)?, output),
            Command::Verify { directory, backup, all } => {
                let set = Set::open(&directory)?;
                let names: Vec<_> = if all { set.names()?.into_iter().map(Some).collect() } else { vec![backup] };
                if names.is_empty() {
                    let none = format!("{} has no backup yet", directory.display());
                    return Err(Failure::new("not_found", none));
                }
                let mut damaged = None;
                for name in names {
                    let directory = directory.clone();
                    let verified = on_thread(move || {
                        let mut told = Told::new("read");
                        backup::verify(&Set::open(&directory)?, name.as_deref(), &mut |progress| told.tell(progress))
                    });
                    match verified.await {
                        Ok(verified) => good(&verified, output)?,
                        Err(failure) => {
                            if let Some(before) = damaged.replace(failure) {
                                _ = output.failure(&before);
                            }
                        }
                    }
                }
                damaged.map_or(Ok(()), Err)
            }
        }
    }
}

impl Restore {
    /// Restores.
    ///
    /// # Errors
    /// What [`backup::restore`] has.
    pub async fn run(self, output: Output) -> Result<(), Failure> {
        let config = Config::load(&self.config)?;
        if std::os::unix::net::UnixStream::connect(&config.admin_socket).is_ok() {
            return Err(NodeError::Config("the homeserver runs: stop it first".into()).into());
        }
        private();
        let (set, mut told) = (Set::open(&self.directory)?, Told::new("restored"));
        let restored =
            backup::restore(&config, &set, self.backup.as_deref(), &mut |progress| told.tell(progress)).await;
        told.end();
        let Restored { name, bytes, withdrawn } = restored?;
        let (packages, connections) = (withdrawn.key_packages, withdrawn.connection_packages);
        output.line(
            || {
                format!(
                    "restored backup {name}, {}, into {}\n\
                     {packages} KeyPackages and {connections} connection packages may have been given out since the backup \
                     and are withdrawn: clients publish others\n\
                     the homeserver can be started: bennu serve --config {}",
                    size(bytes),
                    config.data.display(),
                    self.config.display()
                )
            },
            || {
                json!({
                    "backup": name, "bytes": bytes, "data": config.data.display().to_string(),
                    "key_packages_withdrawn": packages, "connection_packages_withdrawn": connections,
                })
            },
        )
    }
}

fn list(set: &Set, output: Output) -> Result<(), Failure> {
    for name in set.names()? {
        let (bytes, files, problem) = match set.list(Some(&name)) {
            Ok(list) => (list.size(), list.files.len(), None),
            Err(error) => (0, 0, Some(error.to_string())),
        };
        output.line(
            || match &problem {
                None => format!("{name}  {files} files, {}", size(bytes)),
                Some(problem) => format!("{name}  damaged: {problem}"),
            },
            || json!({ "backup": name, "domain": set.domain.as_str(), "files": files, "bytes": bytes, "problem": problem }),
        )?;
    }
    Ok(())
}

fn good(verified: &Verified, output: Output) -> Result<(), Failure> {
    let Verified { name, files, bytes } = verified;
    output.line(
        || format!("backup {name} is good: {files} files, {}", size(*bytes)),
        || json!({ "backup": name, "files": files, "bytes": bytes }),
    )
}

/// Reads and writes that take long are nobody else's business.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NodeError> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::new("internal", error))?.map_err(Failure::from)
}

/// Tells on standard error how far something has come.
struct Told {
    what: &'static str,
    last: Instant,
    is_terminal: bool,
    is_open: bool,
}

impl Told {
    fn new(what: &'static str) -> Self {
        Self { what, last: Instant::now(), is_terminal: std::io::stderr().is_terminal(), is_open: false }
    }

    fn tell(&mut self, Progress { done, of }: Progress) {
        let period = if self.is_terminal { ON_TERMINAL } else { ELSEWHERE };
        if self.last.elapsed() < period {
            return;
        }
        self.last = Instant::now();
        let percent = done.saturating_mul(100) / of.max(1);
        let (begin, end) = if self.is_terminal { ("\r", "   ") } else { ("", "\n") };
        let mut out = std::io::stderr().lock();
        // Where nobody can see it, nobody is told.
        _ = write!(out, "{begin}{} {} of {} ({percent} %){end}", self.what, size(done), size(of));
        _ = out.flush();
        self.is_open = self.is_terminal;
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.is_open) {
            _ = writeln!(std::io::stderr());
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.end();
    }
}
