//! The admin socket: a Unix socket that only the operator's user can open. One line of JSON asks, lines of JSON answer:
//! a result each, and at the end `{"done":true}` or `{"error":{...}}`.

mod command;
mod snapshot;

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Semaphore,
    time::timeout,
};

use zeroize::Zeroizing;

use super::{NodeError, logging, watch::Condition};
use crate::{
    authentication::issuers::Kind,
    base::{Clock, Day, Domain, Refusal, Secret, Status, Timestamp, UserId, hex},
    crypto::{alias::Alias, credential::fingerprint, sha256},
    dispatch::Dispatcher,
    federation::{
        Mode, Rule,
        peers::{Peer, State},
    },
    store::Table,
    wire::{Decode, Encode, authentication::RevocationReason, credential::AsIntermediateCredential},
};

pub use command::{Command, RootKey, Rotation};
pub use snapshot::{Snapshot, Snapshots};

/// Longest request in bytes.
const MAX_REQUEST: u64 = 64 << 10;

/// How long whoever has connected may take to ask.
const DEADLINE: Duration = Duration::from_secs(10);

/// Operators at a time.
const MAX_OPERATORS: usize = 8;

/// Pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

const DAY: Duration = Duration::from_secs(86_400);

/// The socket while the homeserver runs.
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Whose the socket is.
    owner: u32,
}

impl AdminSocket {
    /// Makes the socket. One that a homeserver which was killed has left is replaced.
    ///
    /// # Errors
    /// [`NodeError::File`] if it cannot be made, or another homeserver answers on it.
    pub fn bind(path: &Path) -> Result<Self, NodeError> {
        let failed = |error| NodeError::File { path: path.to_owned(), error };
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(failed(io::Error::new(io::ErrorKind::AddrInUse, "another homeserver answers here")));
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let owner = fs::metadata(path).map_err(failed)?.uid();
        Ok(Self { listener, path: path.to_owned(), owner })
    }

    /// Answers operators until it is dropped.
    pub async fn serve(self, operator: Operator) {
        let (operator, places) = (Arc::new(operator), Arc::new(Semaphore::new(MAX_OPERATORS)));
        while let Ok(place) = places.clone().acquire_owned().await {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the admin socket does not accept");
                    // What is missing, descriptors for example, is not there again at once.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // The mode of the socket says so already; not every system asks for it.
            let allowed = stream.peer_cred().is_ok_and(|peer| peer.uid() == self.owner || peer.uid() == 0);
            if allowed {
                let operator = operator.clone();
                tokio::spawn(async move {
                    // An operator who goes away is not told.
                    let _ = operator.converse(stream).await;
                    drop(place);
                });
            }
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // It is replaced at the next start in any case.
        let _ = fs::remove_file(&self.path);
    }
}

/// Carries out what operators ask for.
pub struct Operator {
    /// The services.
    pub dispatcher: Arc<Dispatcher>,
    /// The home domain.
    pub domain: Domain,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How it is, with its figures.
    pub condition: Condition,
    /// The files of the database, for backups.
    pub snapshots: Snapshots,
}

impl Operator {
    async fn converse(&self, stream: UnixStream) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut line = String::new();
        let mut reader = BufReader::new(reader.take(MAX_REQUEST));
        timeout(DEADLINE, reader.read_line(&mut line)).await??;
        let mut held = None;
        let outcome = match serde_json::from_str(&line) {
            Ok(Command::Snapshot {}) => self.snapshots.hold().await.map(|of| vec![held.insert(of).described()]),
            Ok(command) => self.carry_out(command).await,
            Err(error) => Err(Refusal::malformed(format!("this is no command: {error}"))),
        };
        let mut answer = String::new();
        let last = match outcome {
            Ok(results) => {
                results.iter().for_each(|result| answer += &format!("{result}\n"));
                json!({ "done": true })
            }
            Err(refusal) => json!({ "error": { "status": refusal.status.name(), "message": refusal.message } }),
        };
        answer += &format!("{last}\n");
        writer.write_all(answer.as_bytes()).await?;
        if let Some(held) = held {
            // Whoever has asked says nothing more, and goes when the files are copied.
            let _ = reader.read_line(&mut line).await;
            held.end().await;
        }
        writer.shutdown().await
    }

    /// Carries out a command; gives its results.
    ///
    /// # Errors
    /// Why it was not carried out.
    pub async fn carry_out(&self, command: Command) -> Result<Vec<Value>, Refusal> {
        let node = &self.dispatcher;
        match command {
            Command::UserList {} => self.users().await,
            Command::UserDisable { user } => none(node.set_disabled(&self.user(&user)?, true).await),
            Command::UserEnable { user } => none(node.set_disabled(&self.user(&user)?, false).await),
            Command::UserDelete { user } => none(node.delete_user_by_operator(&self.user(&user)?).await),
            Command::AliasDelete { alias } => {
                let alias = Alias::parse(&alias).map_err(|error| Refusal::malformed(error.to_string()))?;
                none(node.delete_alias_by_operator(&alias).await)
            }
            Command::Stats {} => self.stats().await,
            Command::Log { filter } => {
                if let Some(filter) = filter {
                    logging::set(&filter)?;
                    tracing::info!(%filter, "what is logged was changed");
                }
                Ok(vec![json!({ "log": logging::current() })])
            }
            Command::Drain { undo } => self.drain(!undo).await,
            Command::Snapshot {} => Err(Refusal::malformed("a snapshot is held for a connection")),
            Command::Figures {} => {
                let figures = self.condition.json().await;
                figures.map(|figures| vec![figures]).map_err(|why| Refusal::new(Status::Overloaded, why))
            }
            Command::InviteCreate { uses, days, note } => self.invite(uses, days, note).await,
            Command::InviteList {} => {
                let listed = node.invitations().await?;
                let row = |of: &crate::authentication::invitations::Invitation| json!({ "id": of.id, "uses": of.uses, "expires": of.expires, "note": of.note });
                Ok(listed.iter().map(row).collect())
            }
            Command::InviteRevoke { id } => none(node.revoke_invitation(&id).await),
            Command::KeysList {} => Ok(self.keys()),
            Command::KeysRotate { key } => self.rotate(key).await,
            Command::KeysRequest {} => {
                let now = self.clock.now();
                let request = node.change_keyring(|keys, context| keys.request_intermediate(now, context.rng)).await?;
                let keyring = node.keyring();
                let mut roots = keyring.roots().iter().map(|root| &root.credential);
                let root = roots.find(|root| fingerprint(*root) == request.payload.signer);
                let root = root.ok_or_else(|| Refusal::not_found("its root was revoked at the same moment"))?;
                Ok(vec![json!({ "request": hex::encode(&request.to_vec()), "root": hex::encode(&root.to_vec()) })])
            }
            Command::KeysImport { credential } => {
                let credential = hex::decode(credential.trim())
                    .and_then(|bytes| AsIntermediateCredential::from_slice(&bytes).ok())
                    .ok_or_else(|| Refusal::malformed("this is no signed intermediate credential"))?;
                let now = self.clock.now();
                none(node.change_keyring(|keys, _| keys.import_intermediate(credential, now)).await)
            }
            Command::KeysExportRoot {} => {
                let key = node.keyring().export_root()?;
                Ok(vec![json!({ "key": hex::encode(key.expose()) })])
            }
            Command::KeysForgetRoot { key } => {
                let key = root_key(&key.0)?;
                none(node.change_keyring(|keys, _| keys.forget_root(&key)).await)
            }
            Command::KeysImportRoot { key } => {
                let key = root_key(&key.0)?;
                none(node.change_keyring(|keys, _| keys.import_root(key)).await)
            }
            Command::FederationAllow { domain } => self.decide(&domain, Some(Rule::Allowed)).await,
            Command::FederationBlock { domain } => self.decide(&domain, Some(Rule::Blocked)).await,
            Command::FederationForget { domain } => self.decide(&domain, None).await,
            Command::FederationList {} => Ok(self.rules()),
            Command::FederationPeers {} => self.peers().await,
            Command::KeysRevoke { fingerprint, sure } => {
                let name = hex::decode(fingerprint.trim()).and_then(|name| <[u8; 32]>::try_from(name).ok());
                let name = name.ok_or_else(|| Refusal::malformed("this is no fingerprint of 32 bytes"))?;
                none(node.revoke_signer(name, sure).await)
            }
        }
    }

    fn user(&self, text: &str) -> Result<UserId, Refusal> {
        let user: UserId = text.parse().map_err(|error| Refusal::malformed(format!("{text}: {error}")))?;
        if user.domain == self.domain { Ok(user) } else { Err(Refusal::not_found("there is no such user here")) }
    }

    async fn decide(&self, domain: &str, rule: Option<Rule>) -> Result<Vec<Value>, Refusal> {
        let named = domain.parse().map_err(|error| Refusal::malformed(format!("{domain}: {error}")))?;
        none(self.dispatcher.set_federation_rule(named, rule).await)
    }

    fn rules(&self) -> Vec<Value> {
        let (mode, rules) = self.dispatcher.federation_rules();
        let (policy, rule) = if mode == Mode::Open { ("open", "allowed") } else { ("allowlist", "blocked") };
        let others = json!({ "domain": null, "rule": rule, "policy": policy });
        let rule = |(domain, rule): (Domain, Rule)| json!({ "domain": domain.as_str(), "rule": if rule == Rule::Allowed { "allowed" } else { "blocked" } });
        std::iter::once(others).chain(rules.into_iter().map(rule)).collect()
    }

    async fn peers(&self) -> Result<Vec<Value>, Refusal> {
        let peers = self.dispatcher.federation_peers().await?;
        let entry = |peer: Peer| {
            let state = peer.state.name();
            let (failures, why, next) = match peer.state {
                State::Failing { failures, why, next } => (failures, Some(why), Some(next.seconds())),
                _ => (0, None, None),
            };
            json!({
                "domain": peer.domain.as_str(),
                "state": state,
                "failures": failures,
                "why": why,
                "next_attempt": next,
                "waiting": peer.head.waiting(),
                "waiting_bytes": peer.head.bytes(),
                "oldest": peer.oldest,
                "delivered": peer.head.delivered,
                "expired": peer.head.expired,
            })
        };
        Ok(peers.into_iter().map(entry).collect())
    }

    async fn users(&self) -> Result<Vec<Value>, Refusal> {
        let mut results = Vec::new();
        let mut after = None;
        loop {
            let page = self.dispatcher.users(after.as_ref()).await?;
            let Some(last) = page.last() else { return Ok(results) };
            after = Some(last.user.clone());
            results.extend(page.iter().map(|entry| {
                json!({
                    "user_id": entry.user.to_string(),
                    "disabled": entry.disabled,
                    "valid_until": entry.valid_until,
                })
            }));
        }
    }

    /// Counts. None of them joins a user with anything.
    async fn drain(&self, draining: bool) -> Result<Vec<Value>, Refusal> {
        let connections = self.condition.set_draining(draining);
        let heads = self.dispatcher.federation_heads().await?;
        let waiting: u64 = heads.iter().map(|(_, head)| head.waiting()).sum();
        tracing::info!(draining, "the operator has decided whether new connections are taken in");
        Ok(vec![json!({ "draining": draining, "connections": connections, "messages_waiting": waiting })])
    }

    async fn stats(&self) -> Result<Vec<Value>, Refusal> {
        let count = async |table| self.dispatcher.count(table).await;
        let pushes = self.dispatcher.push_counts();
        let heads = self.dispatcher.federation_heads().await?;
        let waiting = heads.iter().map(|(_, head)| head.waiting()).filter(|waiting| *waiting > 0);
        Ok(vec![json!({
            "users": count(Table::AsClients).await?,
            "aliases": count(Table::AsAliases).await?,
            "invitations": count(Table::AsInvitations).await?,
            "revoked_credentials": self.dispatcher.revoked().len(),
            "queue_clients": count(Table::QsClients).await?,
            "queued_entries": count(Table::QueueEntries).await?,
            "groups": count(Table::DsMeta).await?,
            "peers_waited_for": waiting.clone().count(),
            "peer_messages_waiting": waiting.sum::<u64>(),
            // Ever.
            "peer_messages_dropped": heads.iter().map(|(_, head)| head.expired).sum::<u64>(),
            // Since the start.
            "pushes_sent": pushes.sent(),
            "pushes_failed": pushes.failed(),
            "pushes_dropped": pushes.dropped(),
            "push_tokens_gone": pushes.gone(),
        })])
    }

    async fn invite(&self, uses: u32, days: u32, note: String) -> Result<Vec<Value>, Refusal> {
        if uses == 0 || days == 0 || days > 3_650 || note.len() > 256 {
            return Err(Refusal::malformed(
                "a code is for at least one use, for 1 to 3650 days, with a note of 256 bytes",
            ));
        }
        let expires = self.clock.now().after(DAY * days);
        let (code, made) = self.dispatcher.create_invitation(uses, expires, note).await?;
        Ok(vec![json!({ "code": code, "id": made.id, "uses": made.uses, "expires": made.expires })])
    }

    fn keys(&self) -> Vec<Value> {
        let (keyring, now) = (self.dispatcher.keyring(), self.clock.now());
        let mut results = Vec::new();
        for (at, root) in keyring.roots().iter().enumerate() {
            let validity = &root.credential.payload.validity;
            results.push(json!({
                "kind": "root",
                "fingerprint": hex::encode(&fingerprint(&root.credential)),
                "preferred": at == 0,
                "valid": validity.covers(now),
                "valid_until": validity.not_after,
                "key": if root.is_here() {
                    "here"
                } else if at == 0 {
                    "elsewhere"
                } else {
                    "gone"
                },
            }));
        }
        for (at, credential) in keyring.intermediates().enumerate() {
            let payload = &credential.request.payload;
            results.push(json!({
                "kind": "intermediate",
                "fingerprint": hex::encode(&fingerprint(credential)),
                "preferred": at == 0,
                "valid": payload.validity.covers(now),
                "valid_until": payload.validity.not_after,
                "signer": hex::encode(&payload.signer),
            }));
        }
        results.extend(self.dispatcher.issuer_keys().into_iter().map(|key| {
            json!({
                "kind": if key.foreign { "foreign tokens" } else { "tokens" },
                "fingerprint": hex::encode(&sha256(key.public_key.as_slice())),
                "preferred": key.issues_until >= now.seconds(),
                "valid": key.not_after >= now.seconds(),
                "valid_until": key.not_after,
            })
        }));
        results.extend(self.dispatcher.config_keys().into_iter().enumerate().map(|(at, (id, until))| {
            let until = (until != Day(u32::MAX)).then(|| until.plus(1).start().seconds());
            json!({
                "kind": "queue configs", "fingerprint": hex::encode(&id), "preferred": at == 0, "valid": true,
                "valid_until": until,
            })
        }));
        let revoked = self.dispatcher.revoked().into_iter();
        results.extend(revoked.map(|of| {
            let kind = match of.reason {
                RevocationReason::Revoked => "revoked",
                RevocationReason::OnHold => "on hold",
            };
            json!({ "kind": kind, "fingerprint": hex::encode(&of.credential) })
        }));
        results
    }

    async fn rotate(&self, key: Rotation) -> Result<Vec<Value>, Refusal> {
        let (node, now) = (&self.dispatcher, self.clock.now());
        match key {
            Rotation::Root => {
                node.change_keyring(|keys, context| keys.rotate_root(context.domain, now, context.rng)).await?;
            }
            Rotation::Intermediate => {
                node.change_keyring(|keys, context| keys.rotate_intermediate(now, context.rng)).await?;
            }
            Rotation::Tokens => _ = node.rotate_issuer(Kind::Own).await?,
            Rotation::QueueConfigs => node.rotate_config_key().await?,
            Rotation::Deliveries => node.rotate_queuing_key().await?,
            Rotation::ForeignTokens => _ = node.rotate_issuer(Kind::Foreign).await?,
        }
        Ok(self.keys())
    }
}

fn root_key(text: &str) -> Result<Secret, Refusal> {
    let key = hex::decode(text.trim()).and_then(|key| <[u8; 32]>::try_from(key).ok());
    key.map(Secret::new).ok_or_else(|| Refusal::malformed("this is no key of 32 bytes"))
}

fn none(outcome: Result<(), Refusal>) -> Result<Vec<Value>, Refusal> {
    outcome.map(|()| Vec::new())
}

/// A command under way on a homeserver's admin socket.
struct Asking {
    path: PathBuf,
    lines: Lines<BufReader<OwnedReadHalf>>,
    _writer: OwnedWriteHalf,
}

impl Asking {
    /// Asks for a command.
    async fn begin(path: &Path, command: &Command) -> Result<Self, NodeError> {
        let failed = |error| NodeError::File { path: path.to_owned(), error };
        let stream = UnixStream::connect(path).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => NodeError::NotRunning(path.to_owned()),
            _ => failed(error),
        })?;
        let (reader, mut writer) = stream.into_split();
        let line = serde_json::to_string(command).map_err(|error| failed(error.into()))?;
        let line = Zeroizing::new(line + "\n");
        writer.write_all(line.as_bytes()).await.map_err(failed)?;
        Ok(Self { path: path.to_owned(), lines: BufReader::new(reader).lines(), _writer: writer })
    }

    /// The next result; none if there are no more.
    async fn next(&mut self) -> Result<Option<Value>, NodeError> {
        let failed = |error| NodeError::File { path: self.path.clone(), error };
        let line = self.lines.next_line().await.map_err(failed)?;
        let line = line.ok_or_else(|| failed(io::ErrorKind::UnexpectedEof.into()))?;
        let value: Value = serde_json::from_str(&line).map_err(|error| failed(error.into()))?;
        if let Some(error) = value.get("error") {
            let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
            let status = Status::from_name(&text("status")).unwrap_or(Status::Internal);
            return Err(NodeError::Refused(Refusal::new(status, text("message"))));
        }
        Ok(if value["done"] == true { None } else { Some(value) })
    }
}

/// Asks a running homeserver; gives the results.
///
/// # Errors
/// [`NodeError::NotRunning`] if no homeserver answers on the socket, [`NodeError::File`] if the socket cannot be used, [`NodeError::Refused`] for what it refuses.
pub async fn ask(path: &Path, command: &Command) -> Result<Vec<Value>, NodeError> {
    let (mut asking, mut results) = (Asking::begin(path, command).await?, Vec::new());
    while let Some(value) = asking.next().await? {
        results.push(value);
    }
    Ok(results)
}

/// A time of the admin socket, for people.
pub const fn at(seconds: u64) -> Timestamp {
    Timestamp(seconds.saturating_mul(1_000))
}
