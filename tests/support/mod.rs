//! What the integration tests share: a homeserver as a process of its own, clients through the SDK and through the
//! command line, people who know each other, and randomness that can be replayed.
#![allow(dead_code)] // Each test uses its part of this.

pub mod forwarder;
pub mod known;
pub mod land;
pub mod markdown;
pub mod network;
pub mod raw;
pub mod talk;

use std::{
    env,
    fmt::Debug,
    fs,
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use bennu::{
    base::{GroupId, UserId},
    client::{Client, Event, Events, Message, RegisterOptions},
    wire::{Text, content::Content},
};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
};

/// The program under test.
pub const BENNU: &str = env!("CARGO_BIN_EXE_bennu");

/// The home domain of a [`Server`].
pub const DOMAIN: &str = "a.test";

/// Nothing that a test waits for takes this long, unless it will never happen.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for something, but not forever.
#[track_caller]
pub fn within<T>(what: impl Debug, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(value) => value,
            Err(_) => panic!("{place}: waited in vain for {what:?}"),
        }
    }
}

/// Randomness from `BENNU_SEED`, or else from a seed that is printed.
pub fn rng(test: &str) -> ChaCha8Rng {
    let seed = match env::var("BENNU_SEED") {
        Ok(seed) => seed.parse().expect("BENNU_SEED is a number"),
        Err(_) => u64::from(bennu::crypto::system_rng().next_u32()),
    };
    println!("{test}: to repeat this choice of random points, set BENNU_SEED={seed}");
    ChaCha8Rng::seed_from_u64(seed)
}

/// A number below `end`.
pub fn below(rng: &mut ChaCha8Rng, end: u64) -> u64 {
    rng.next_u64() % end
}

/// Where a homeserver runs.
#[derive(Clone)]
pub struct Site {
    /// The address at which it listens.
    pub address: IpAddr,
    /// The command and its arguments that bring the program there: it becomes the program, in the same process.
    pub through: Vec<String>,
}

impl Default for Site {
    /// This machine, for nobody else to reach.
    fn default() -> Self {
        Self { address: Ipv4Addr::LOCALHOST.into(), through: Vec::new() }
    }
}

/// A homeserver, run by the real program in a process of its own, with its data in a temporary directory. It goes, with
/// all it has written, when it is dropped; if the test fails, its log is printed.
pub struct Server {
    domain: String,
    site: Site,
    directory: TempDir,
    process: Option<Child>,
    address: SocketAddr,
    /// Where its figures are.
    figures: Option<SocketAddr>,
}

impl Server {
    /// Sets a homeserver up and starts it. It keeps its port when it is started again.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// The same with its figures on a port of their own.
    pub async fn start_watched() -> Self {
        Self::start_with("[watch]\nlisten = \"127.0.0.1:0\"\n").await
    }

    /// The same with tables added to its configuration.
    pub async fn start_with(settings: &str) -> Self {
        Self::start_of(DOMAIN, settings).await
    }

    /// The same for another domain.
    pub async fn start_of(domain: &str, settings: &str) -> Self {
        Self::start_at(&Site::default(), domain, settings).await
    }

    /// The same somewhere else.
    pub async fn start_at(site: &Site, domain: &str, settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("server");
        let address = SocketAddr::from((site.address, 0));
        let listen = address.to_string();
        let init = command()
            .args(["init", "--domain", domain, "--listen", &listen, "--watch", "off", "--dir"])
            .arg(&data)
            .output();
        let init = within("bennu init", init).await.unwrap();
        assert!(init.status.success(), "{init:?}");
        let mut server =
            Self { domain: domain.to_owned(), site: site.clone(), directory, process: None, address, figures: None };
        let mut config = fs::read_to_string(server.config()).unwrap();
        // A table is there once: what is written in the configuration of a new homeserver is all commented out.
        for header in settings.lines().filter(|line| line.starts_with('[')) {
            config = config.replace(&format!("\n{header}\n"), "\n");
        }
        fs::write(server.config(), config + settings).unwrap();
        server.spawn().await;
        let config = fs::read_to_string(server.config()).unwrap();
        // The first one: a second may be that of its figures.
        let pinned = config.replacen(&format!("listen = \"{listen}\""), &format!("listen = \"{}\"", server.address), 1);
        assert_ne!(config, pinned, "the configuration says where to listen");
        fs::write(server.config(), pinned).unwrap();
        server
    }

    async fn spawn(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let mut process = command_through(&self.site.through)
            .args(["serve", "--config"])
            .arg(self.config())
            .env("RUST_LOG", "bennu=info,bennu::dispatch=debug")
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = within("the line that says ready", lines.next_line()).await.unwrap();
        let line = line.unwrap_or_else(|| panic!("the homeserver has ended:\n{}", self.read_log()));
        let address = line.strip_prefix(&format!("{} is ready on ", self.domain)).unwrap_or_else(|| panic!("{line}"));
        self.address = address.parse().unwrap();
        if self.is_watched() {
            let line = within("the line that says where figures are", lines.next_line()).await.unwrap().unwrap();
            let place = line.strip_prefix("figures are on http://").and_then(|rest| rest.strip_suffix('/'));
            self.figures = Some(place.unwrap_or_else(|| panic!("{line}")).parse().unwrap());
        }
        self.process = Some(process);
    }

    fn is_watched(&self) -> bool {
        fs::read_to_string(self.config()).unwrap().contains("[watch]\nlisten = ")
    }

    /// Where its figures can be read over HTTP, if it is one of [`Self::start_watched`].
    pub fn figures(&self) -> Option<SocketAddr> {
        self.figures
    }

    /// Its home domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("server/bennu.toml")
    }

    /// The certificate of its authority.
    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("server/certs/ca.pem")
    }

    /// A place for a client's state, or for anything else that is to go with the homeserver.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log(&self) -> PathBuf {
        self.path("stderr.log")
    }

    /// What it has written to standard error.
    pub fn read_log(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// SIGKILL: it has no time to do anything.
    pub async fn kill(&mut self) {
        let mut process = self.process.take().expect("the homeserver runs");
        process.start_kill().unwrap();
        within("the end of a killed process", process.wait()).await.unwrap();
    }

    /// SIGTERM: it ends in order.
    pub async fn stop(&mut self) {
        let mut process = self.process.take().expect("the homeserver runs");
        terminate(&process).await;
        let status = within("the end of the homeserver", process.wait()).await.unwrap();
        assert!(status.success(), "{status}\n{}", self.read_log());
    }

    /// SIGHUP: it looks at its certificate again.
    pub async fn hang_up(&self) {
        signal(self.process.as_ref().expect("the homeserver runs"), "HUP").await;
    }

    /// Starts it again after it was stopped or killed.
    pub async fn restart(&mut self) {
        let before = self.address;
        self.spawn().await;
        assert_eq!(self.address, before, "a restarted homeserver is where it was");
    }

    /// How a client is registered here.
    pub fn registration(&self, name: &str) -> RegisterOptions {
        RegisterOptions {
            domain: self.domain.parse().unwrap(),
            at: Some(self.address.to_string()),
            places: Vec::new(),
            ca: Some(fs::read(self.ca()).unwrap()),
            name: name.to_owned(),
            password: format!("the password of {name}"),
            invitation: None,
        }
    }

    /// A new client, through the SDK.
    pub async fn register(&self, name: &str) -> Client {
        within("registration", Client::register(&self.path(name), self.registration(name))).await.unwrap()
    }

    /// A new client that reaches the homeserver at another address.
    pub async fn register_at(&self, name: &str, place: SocketAddr) -> Client {
        let options = RegisterOptions { at: Some(place.to_string()), ..self.registration(name) };
        within("registration", Client::register(&self.path(name), options)).await.unwrap()
    }

    /// The client that was registered under a name, which nobody has open.
    pub async fn open(&self, name: &str) -> Client {
        within("opening a client", Client::open(&self.path(name))).await.unwrap()
    }

    /// A client on the command line.
    pub fn cli(&self, name: &str) -> Cli {
        Cli {
            home: self.path(name),
            name: name.to_owned(),
            domain: self.domain.clone(),
            place: self.address.to_string(),
            others: Vec::new(),
            ca: self.ca(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.read_log();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!("the end of the homeserver's log:");
            tail.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
    }
}

/// The program, which ends with whoever started it, and takes nothing from the environment of the tests.
pub fn command() -> Command {
    command_through(&[])
}

/// The same, brought somewhere by another command.
fn command_through(prefix: &[String]) -> Command {
    let mut words = prefix.iter().map(String::as_str).chain([BENNU]);
    let mut command = Command::new(words.next().expect("the program at least"));
    command.args(words);
    command.env_remove("RUST_LOG").env_remove("BENNU_PASSWORD").stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Sends SIGTERM.
pub async fn terminate(process: &Child) {
    signal(process, "TERM").await;
}

async fn signal(process: &Child, name: &str) {
    let pid = process.id().expect("the process runs");
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().await.unwrap();
    assert!(sent.success());
}

/// What a command has said.
#[derive(Debug)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output, one JSON object per line.
    pub lines: Vec<Value>,
    /// Standard error.
    pub stderr: String,
}

impl Said {
    fn new(status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Self {
        let stdout = str::from_utf8(stdout).expect("standard output is UTF-8");
        let object = |line: &str| -> Value {
            let value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(matches!(value, Value::Object(_)), "not an object: {line}");
            value
        };
        Self { status, lines: stdout.lines().map(object).collect(), stderr: String::from_utf8_lossy(stderr).into() }
    }

    /// The only line of a command that succeeded.
    #[track_caller]
    pub fn one(&self) -> &Value {
        assert!(self.status.success(), "{self:?}");
        assert_eq!(self.lines.len(), 1, "{self:?}");
        &self.lines[0]
    }

    /// The lines of a command that succeeded.
    #[track_caller]
    pub fn all(&self) -> &[Value] {
        assert!(self.status.success(), "{self:?}");
        &self.lines
    }

    /// The status of a command that failed with exit code 1.
    #[track_caller]
    pub fn failure(&self) -> String {
        assert_eq!(self.status.code(), Some(1), "{self:?}");
        self.error()
    }

    /// The status in the one JSON object on standard error.
    #[track_caller]
    pub fn error(&self) -> String {
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        let value: Value = serde_json::from_str(&self.stderr).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let keys = |value: &Value| value.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>());
        assert_eq!(keys(&value), Some(vec!["error".to_owned()]), "{self:?}");
        let error = &value["error"];
        let mut fields = keys(error).unwrap_or_default();
        fields.sort();
        assert_eq!(fields, ["message", "status"], "{self:?}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{self:?}");
        error["status"].as_str().expect("a status").to_owned()
    }
}

/// A client on the command line: every command is a process.
#[derive(Clone)]
pub struct Cli {
    home: PathBuf,
    name: String,
    domain: String,
    place: String,
    /// Where other homeservers are, as `--place` takes it.
    others: Vec<String>,
    ca: PathBuf,
}

impl Cli {
    /// The same with other homeservers to reach, which these authorities certify.
    pub fn of(self, domain: &str, ca: PathBuf, others: Vec<String>) -> Self {
        Self { domain: domain.to_owned(), ca, others, ..self }
    }

    /// `bennu client --home HOME --json ARGUMENTS`, not started yet.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command_for_people(arguments);
        command.arg("--json");
        command
    }

    /// The same without `--json`.
    pub fn command_for_people<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = command();
        command.args(["client", "--home"]).arg(&self.home).args(arguments);
        command.env("BENNU_PASSWORD", format!("the password of {}", self.name));
        command
    }

    /// The arguments of `register`.
    pub fn registration(&self) -> Vec<String> {
        let ca = self.ca.to_str().unwrap();
        let own = ["register", "--domain", &self.domain, "--at", &self.place, "--ca", ca, "--name", &self.name];
        let others = self.others.iter().flat_map(|place| ["--place", place]);
        own.into_iter().chain(others).map(str::to_owned).collect()
    }

    /// Registers, and gives the user id.
    pub async fn register(&self) -> String {
        let arguments = self.registration();
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let said = self.run(&arguments).await;
        said.one()["user_id"].as_str().expect("a user id").to_owned()
    }

    /// Runs a command to its end.
    pub async fn run(&self, arguments: &[&str]) -> Said {
        let output = within(arguments, self.command(arguments).output()).await.unwrap();
        Said::new(output.status, &output.stdout, &output.stderr)
    }

    /// Runs a command to its end, with something on its standard input.
    pub async fn run_with(&self, arguments: &[&str], input: &[u8]) -> Said {
        let mut process = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = process.stdin.take().unwrap();
        // One that wants no more of it has said why.
        let _ = stdin.write_all(input).await;
        drop(stdin);
        let output = within(arguments, process.wait_with_output()).await.unwrap();
        Said::new(output.status, &output.stdout, &output.stderr)
    }

    /// Runs a command that is killed if it takes longer than `limit`. What it said, or, if it was killed, what it had
    /// printed until then.
    pub async fn run_or_kill(&self, arguments: &[&str], limit: Duration) -> Result<Said, Vec<Value>> {
        let mut process = self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut stdout, mut stderr) = (process.stdout.take().unwrap(), process.stderr.take().unwrap());
        let reader = tokio::spawn(async move {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let _ = tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
            (out, err)
        });
        let ended = tokio::time::timeout(limit, process.wait()).await;
        let status = match ended {
            Ok(status) => Some(status.unwrap()),
            Err(_) => {
                process.start_kill().unwrap();
                let status = within("the end of a killed process", process.wait()).await.unwrap();
                // It may have ended by itself in between.
                status.code().map(|_| status)
            }
        };
        let (out, err) = within("the output of a process", reader).await.unwrap();
        // The last line of one that was killed may be a part of a line.
        let text = String::from_utf8_lossy(&out);
        let lines: Vec<_> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let stderr = String::from_utf8_lossy(&err).into();
        match status {
            Some(status) => Ok(Said { status, lines, stderr }),
            None => Err(lines),
        }
    }

    /// Offers to connect, accepts, and gives the chat.
    pub async fn connect(&self, other: &Self, other_id: &str) -> String {
        let chat = self.run(&["connect", other_id]).await.one()["chat"].as_str().unwrap().to_owned();
        let request = other.run(&["requests"]).await.one()["request"].as_str().unwrap().to_owned();
        let accepted = other.run(&["accept", &request]).await;
        assert_eq!(accepted.one()["chat"], *chat, "the chat has the same name for both");
        chat
    }
}

/// The user of a client.
pub fn user(client: &Client) -> UserId {
    client.whoami().0
}

/// Makes two clients contacts of each other; gives their chat.
pub async fn connect(one: &Client, other: &Client) -> GroupId {
    within("connecting", async {
        let chat = one.connect(&user(other)).await.unwrap();
        other.sync().await.unwrap();
        let requests = other.requests().await.unwrap();
        let request = requests.iter().find(|request| request.from == user(one)).expect("the request is there");
        assert_eq!(other.accept(&request.id).await.unwrap(), chat);
        one.sync().await.unwrap();
        chat
    })
    .await
}

/// A group made by the first of these clients, of which the others are contacts, with all of them in it.
pub async fn group(clients: &[&Client]) -> GroupId {
    let [creator, others @ ..] = clients else { panic!("a group has a member") };
    within("making a group", async {
        let chat = creator.create_group("a group").await.unwrap();
        let users: Vec<_> = others.iter().map(|client| user(client)).collect();
        creator.invite(&chat, &users).await.unwrap();
        for other in others {
            other.sync().await.unwrap();
        }
        chat
    })
    .await
}

/// A text as a message.
pub fn text(text: impl Into<String>) -> Content {
    Content::Text(Text(text.into()))
}

/// The text of a message.
#[track_caller]
pub fn text_of(message: &Message) -> &str {
    match &message.content {
        Content::Text(text) => &text.0,
        _ => panic!("it is no text"),
    }
}

/// Unread messages, which are read now: chat, sender and text.
pub async fn read(client: &Client) -> Vec<(GroupId, UserId, String)> {
    let messages = client.unread(u32::MAX).await.unwrap();
    let numbers: Vec<_> = messages.iter().map(|message| message.id).collect();
    client.mark_read(&numbers).await.unwrap();
    messages.iter().map(|message| (message.chat.clone(), message.from.clone(), text_of(message).to_owned())).collect()
}

/// Fetches what waits, and gives the texts of what was not read yet.
pub async fn fetch(client: &Client) -> Vec<String> {
    within("fetching", client.sync()).await.unwrap();
    read(client).await.into_iter().map(|(_, _, text)| text).collect()
}

/// Waits for an event that `wanted` takes something from.
pub async fn until<T>(what: &str, events: &mut Events, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
    within(what, async {
        loop {
            let event = events.next().await.unwrap_or_else(|| panic!("{what} has not come, and nothing more will"));
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    })
    .await
}

/// Copies a directory with the files in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
