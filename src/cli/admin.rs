//! `bennu admin`: what an operator does to a running homeserver, over its admin socket.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    backup::Take,
    federation::{self, Federation},
    output::{Failure, Output, rfc3339, time, word},
    top::Top,
    typed::lower,
    wipe::Wipe,
};
use crate::{
    base::hex,
    crypto::{
        CryptoError,
        credential::{fingerprint, sign_intermediate},
        signature::SigningKey,
    },
    node::{
        Config,
        admin::{self, Command as Ask, Rotation},
    },
    wire::{
        Decode, Encode,
        credential::{AsCredential, AsIntermediateRequest},
    },
};

/// How often it is looked at whether something waits for other homeservers.
const DRAIN_PERIOD: Duration = Duration::from_secs(2);

/// Which homeserver, and what is to be done.
#[derive(Args)]
pub struct Arguments {
    /// Configuration file of the running homeserver
    #[arg(long, default_value = "bennu.toml")]
    config: PathBuf,
    /// Print one JSON object per line, errors as one on standard error
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List, disable, enable and delete users
    #[command(subcommand)]
    User(User),
    /// Delete aliases
    #[command(subcommand)]
    Alias(Alias),
    /// Make, list and revoke invitation codes
    #[command(subcommand)]
    Invite(Invite),
    /// List, rotate and revoke keys, and keep the root's elsewhere
    #[command(subcommand)]
    Keys(Keys),
    /// Decide with which other homeservers this one deals, and see how it gets on with them
    #[command(subcommand)]
    Federation(Federation),
    /// Count what there is
    Stats,
    /// Say what is logged, or change it until the homeserver ends
    Log {
        /// What to log, for each module, as in "bennu=info,bennu::federation=debug"
        filter: Option<String>,
    },
    /// Take in nobody new, because the homeserver is to be stopped or moved
    Drain {
        /// Take in everybody again
        #[arg(long)]
        undo: bool,
        /// Wait until nothing waits for other homeservers any more
        #[arg(long, conflicts_with = "undo")]
        wait: bool,
    },
    /// Take a backup while it runs; what earlier ones have is not copied again
    Backup(Take),
    /// Delete the homeserver, which must not run, with everything of its own
    Wipe(Wipe),
    /// Watch how it does: requests, queues, disk, other homeservers
    Top(Top),
}

#[derive(Subcommand)]
enum User {
    /// List users
    List,
    /// Take a user out of use: its credential stops to work at once
    Disable {
        /// The user, as <uuid>@<domain>
        user: String,
    },
    /// Take a user back into use
    Enable {
        /// The user
        user: String,
    },
    /// Delete a user and everything that belongs to it
    Delete {
        /// The user
        user: String,
    },
}

#[derive(Subcommand)]
enum Alias {
    /// Delete an alias; whoever had it keeps its account
    Delete {
        /// The alias
        alias: String,
    },
}

#[derive(Subcommand)]
enum Invite {
    /// Make a code; it is shown once
    Create {
        /// How many may register with it
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// For how many days
        #[arg(long, default_value_t = 7)]
        days: u32,
        /// A note for yourself
        #[arg(long, default_value = "")]
        note: String,
    },
    /// List codes by their names; the codes themselves are not kept
    List,
    /// Take a code back
    Revoke {
        /// Its name
        id: String,
    },
}

#[derive(Subcommand)]
enum Keys {
    /// List the credentials of the Authentication Service
    List,
    /// Put a new key into use; those before it stay valid
    Rotate {
        /// Which kind
        #[arg(value_enum)]
        key: Which,
    },
    /// Make a key for an intermediate and write the request for it, with the root's credential, to be signed where the
    /// root's key is
    Request {
        /// Where to write the request
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Check a request, sign it with the root's key and tell what was signed, on any machine; no homeserver is asked
    Sign {
        /// The root's key, as export-root wrote it
        #[arg(long, value_name = "FILE")]
        root: PathBuf,
        /// The request, as `request` wrote it
        request: PathBuf,
        /// Where to write the signed credential
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Take in a signed intermediate: it signs from now on
    Import {
        /// The signed credential
        credential: PathBuf,
    },
    /// Take the root's key out of the homeserver, to be kept elsewhere
    ExportRoot {
        /// Where to write it
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Bring the root's key back
    ImportRoot {
        /// The key, as export-root wrote it
        root: PathBuf,
    },
    /// Revoke a credential that is not in use for new ones, and with it all that it signed
    Revoke {
        /// Its fingerprint
        fingerprint: String,
        /// Revoke a root, although clients that have not connected since it was rotated are shut out for good
        #[arg(long)]
        sure: bool,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Which {
    /// The root, and an intermediate under it
    Root,
    /// The intermediate that signs users' credentials
    Intermediate,
    /// The key that issues tokens to this homeserver's users
    Tokens,
    /// The key that issues tokens to clients of other homeservers
    ForeignTokens,
    /// The key that clients seal to where their messages go
    QueueConfigs,
    /// The key that signs what is delivered to other homeservers
    Deliveries,
}

impl Arguments {
    /// Runs the command.
    ///
    /// # Errors
    /// What the homeserver refuses, or that none answers.
    pub async fn run(self) -> Result<(), Failure> {
        let output = Output::new(self.json);
        if let Command::Keys(Keys::Sign { root, request, out }) = &self.command {
            return sign(root, request, out, output);
        }
        let config = Config::load(&self.config)?;
        if let Command::Wipe(command) = self.command {
            return command.run(&config, output);
        }
        let socket = config.admin_socket.clone();
        let ask = async |command| admin::ask(&socket, &command).await.map_err(Failure::from);
        match self.command {
            Command::User(User::List) => show(output, &ask(Ask::UserList {}).await?, user_line),
            Command::User(command) => {
                ask(command.ask()).await?;
                done(output, "done")
            }
            Command::Alias(Alias::Delete { alias }) => {
                ask(Ask::AliasDelete { alias }).await?;
                done(output, "the alias is deleted")
            }
            Command::Invite(command) => show(output, &ask(command.ask()).await?, invitation_line),
            Command::Federation(command @ (Federation::List | Federation::Peers)) => {
                show(output, &ask(command.ask()).await?, federation::line)
            }
            Command::Federation(command) => {
                ask(command.ask()).await?;
                done(output, "done")
            }
            Command::Log { filter } => {
                show(output, &ask(Ask::Log { filter }).await?, |log| word(log, "log").to_owned())
            }
            Command::Drain { undo, wait } => loop {
                let left = ask(Ask::Drain { undo }).await?;
                show(output, &left, drain_line)?;
                if !wait || left.first().is_some_and(|left| left["messages_waiting"] == 0) {
                    return Ok(());
                }
                tokio::time::sleep(DRAIN_PERIOD).await;
            },
            // Done without a homeserver, above.
            Command::Wipe(_) => Ok(()),
            Command::Top(top) => top.run(&socket, output).await,
            Command::Backup(take) => take.run(&config, output).await,
            Command::Stats => show(output, &ask(Ask::Stats {}).await?, stats_line),
            Command::Keys(Keys::Request { out }) => {
                // Made first: a request that cannot be written must not take the place of an earlier one.
                write_new(&out, "")?;
                let found = ask(Ask::KeysRequest {}).await.inspect_err(|_| _ = fs::remove_file(&out))?;
                write_all(&out, &format!("{}\n{}", text(&found, "request")?, text(&found, "root")?))?;
                done(output, &format!("the request is in {}", out.display()))
            }
            Command::Keys(Keys::ExportRoot { out }) => {
                // Written first, and only then taken out of the homeserver: it must not get lost in between.
                let key = text(&ask(Ask::KeysExportRoot {}).await?, "key")?;
                write_new(&out, &key)?;
                ask(Ask::KeysForgetRoot { key: key.into() }).await?;
                done(output, &format!("the root's key is in {}, and the homeserver has it no more", out.display()))
            }
            Command::Keys(command @ (Keys::Import { .. } | Keys::ImportRoot { .. } | Keys::Revoke { .. })) => {
                ask(command.ask()?).await?;
                done(output, "done")
            }
            Command::Keys(command) => show(output, &ask(command.ask()?).await?, key_line),
        }
    }
}

impl User {
    fn ask(self) -> Ask {
        match self {
            Self::List => Ask::UserList {},
            Self::Disable { user } => Ask::UserDisable { user: lower(&user) },
            Self::Enable { user } => Ask::UserEnable { user: lower(&user) },
            Self::Delete { user } => Ask::UserDelete { user: lower(&user) },
        }
    }
}

impl Invite {
    fn ask(self) -> Ask {
        match self {
            Self::Create { uses, days, note } => Ask::InviteCreate { uses, days, note },
            Self::List => Ask::InviteList {},
            Self::Revoke { id } => Ask::InviteRevoke { id },
        }
    }
}

impl Keys {
    /// What to ask the homeserver for; files are read here.
    fn ask(self) -> Result<Ask, Failure> {
        Ok(match self {
            Self::Import { credential } => Ask::KeysImport { credential: read(&credential)? },
            Self::ImportRoot { root } => Ask::KeysImportRoot { key: read(&root)?.into() },
            Self::Revoke { fingerprint, sure } => Ask::KeysRevoke { fingerprint, sure },
            Self::Rotate { key } => Ask::KeysRotate { key: key.into() },
            Self::List | Self::Request { .. } | Self::Sign { .. } | Self::ExportRoot { .. } => Ask::KeysList {},
        })
    }
}

impl From<Which> for Rotation {
    fn from(which: Which) -> Self {
        match which {
            Which::Root => Self::Root,
            Which::Intermediate => Self::Intermediate,
            Which::Tokens => Self::Tokens,
            Which::ForeignTokens => Self::ForeignTokens,
            Which::QueueConfigs => Self::QueueConfigs,
            Which::Deliveries => Self::Deliveries,
        }
    }
}

/// Signs a request where the root's key is. The root's credential comes with the request: it is the root's because the
/// key at hand has signed it, whoever brought it.
fn sign(root: &Path, request: &Path, out: &Path, output: Output) -> Result<(), Failure> {
    let invalid = |what: &str| Failure::new("invalid", what);
    let key = hex::decode(&read(root)?).and_then(|key| <[u8; 32]>::try_from(key).ok());
    let key =
        key.and_then(|key| SigningKey::from_seed(key.into()).ok()).ok_or_else(|| invalid("this is no root key"))?;
    let text = read(request)?;
    let (request, root) = requested(&text)
        .ok_or_else(|| invalid("this is no request for an intermediate credential with the root that it is for"))?;
    if root.payload.verifying_key != key.verifying_key() {
        return Err(invalid("the request is for a root with another key"));
    }
    let asked = request.payload.clone();
    let signed = sign_intermediate(request, &root, &key).map_err(|error| {
        invalid(match error {
            CryptoError::UnknownSigner => "the request names another root than the one that comes with it",
            CryptoError::Subject => "the request is for another domain or ciphersuite than the root's",
            CryptoError::Expired => "the request is for a time that is not within the root's validity",
            _ => "a signature in the request or in the root does not verify",
        })
    })?;
    write_new(out, &hex::encode(&signed.to_vec()))?;
    let (name, signer) = (hex::encode(&fingerprint(&signed)), hex::encode(&asked.signer));
    let [from, until] = [asked.validity.not_before, asked.validity.not_after].map(|time| rfc3339(admin::at(time)));
    let done = format!("the signed credential is in {}", out.display());
    let signed = format!("signed an intermediate for {} from {from} until {until}", asked.domain);
    output.line(
        || format!("{signed}\n  root        {signer}\n  credential  {name}\n{done}"),
        || {
            json!({
                "done": done,
                "domain": asked.domain.to_string(),
                "valid_from": asked.validity.not_before,
                "valid_until": asked.validity.not_after,
                "signer": signer,
                "fingerprint": name,
            })
        },
    )
}

/// The request, and the root that it is for: a line each.
fn requested(text: &str) -> Option<(AsIntermediateRequest, AsCredential)> {
    let (request, root) = text.split_once('\n')?;
    let request = AsIntermediateRequest::from_slice(&hex::decode(request.trim())?).ok()?;
    Some((request, AsCredential::from_slice(&hex::decode(root.trim())?).ok()?))
}

fn read(path: &Path) -> Result<String, Failure> {
    let failed = |error| Failure::new("io", format!("{}: {error}", path.display()));
    Ok(fs::read_to_string(path).map_err(failed)?.trim().to_owned())
}

/// Writes a file for its owner alone, and overwrites none. When this returns it is on the disk.
fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    write(OpenOptions::new().write(true).create_new(true).mode(0o600), path, text)
}

/// Fills a file that [`write_new`] has made.
fn write_all(path: &Path, text: &str) -> Result<(), Failure> {
    write(OpenOptions::new().write(true).truncate(true), path, text)
}

fn write(options: &OpenOptions, path: &Path, text: &str) -> Result<(), Failure> {
    let written = options.open(path).and_then(|mut file| {
        writeln!(file, "{text}")?;
        file.sync_all()?;
        // Its name as well: a file that nobody finds again is lost.
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    });
    written.map_err(|error| Failure::new("io", format!("{}: {error}", path.display())))
}

fn text(found: &[Value], name: &str) -> Result<String, Failure> {
    let value = found.first().and_then(|found| found[name].as_str());
    value.map(ToOwned::to_owned).ok_or_else(|| Failure::new("internal", "the homeserver's answer is not understood"))
}

fn done(output: Output, what: &str) -> Result<(), Failure> {
    output.line(|| what.to_owned(), || json!({ "done": what }))
}

fn show(output: Output, results: &[Value], line: impl Fn(&Value) -> String) -> Result<(), Failure> {
    for result in results {
        output.line(|| line(result), || result.clone())?;
    }
    Ok(())
}

fn user_line(user: &Value) -> String {
    let state = if user["disabled"] == true { "disabled" } else { "active" };
    format!("{}  {state}  until {}", word(user, "user_id"), time(user, "valid_until"))
}

fn invitation_line(invitation: &Value) -> String {
    let (uses, until) = (&invitation["uses"], time(invitation, "expires"));
    match invitation["code"].as_str() {
        Some(code) => format!("{code}  for {uses} until {until}  ({})", word(invitation, "id")),
        None => format!("{}  {uses} left until {until}  {}", word(invitation, "id"), word(invitation, "note")),
    }
}

fn stats_line(stats: &Value) -> String {
    let rows = stats.as_object().into_iter().flatten();
    rows.map(|(name, count)| format!("{:<21} {count}", name.replace('_', " "))).collect::<Vec<_>>().join("\n")
}

fn drain_line(left: &Value) -> String {
    let new = if left["draining"] == true { "nobody new is taken in" } else { "everybody is taken in" };
    format!("{new}; {} connections, {} messages for other homeservers", left["connections"], left["messages_waiting"])
}

fn key_line(key: &Value) -> String {
    let (kind, name) = (word(key, "kind"), word(key, "fingerprint"));
    let mut line = format!("{kind:<14}  {name}");
    if !key["valid_until"].is_null() {
        line += &format!("  until {}", time(key, "valid_until"));
    }
    for (is, said) in [
        (key["preferred"] == true, "  in use"),
        (key["key"] == "elsewhere", "  key kept elsewhere"),
        (key["valid"] == false, "  not valid now"),
    ] {
        if is {
            line += said;
        }
    }
    line
}
