//! The configuration file: TOML, every setting with a default but the domain, unknown ones refused. Paths are relative
//! to the file.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper::Uri;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{
    NodeError,
    federation::{self, Federation},
};
use crate::{
    base::Domain,
    service::{
        policy::{Groups, Policy, Push, Queues, Rates},
        queue::QueueLimits,
    },
    transport::Settings,
};

/// Most bytes of the path of a Unix socket on Linux (unix(7)); the last octet is a zero.
const MAX_SOCKET_PATH: usize = 107;

/// The configuration of a homeserver.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it was read from, if it is a file.
    pub file: Option<PathBuf>,
    /// The home domain.
    pub domain: Domain,
    /// UDP address to listen on.
    pub listen: SocketAddr,
    /// Where the database is.
    pub data: PathBuf,
    /// Where the key is that wraps the server's secrets in the database.
    pub storage_key: PathBuf,
    /// The server's certificate chain (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub certificate_key: PathBuf,
    /// Certification authorities to trust beside the public ones (PEM).
    pub authority: Option<PathBuf>,
    /// The Unix socket on which the operator is answered.
    pub admin_socket: PathBuf,
    /// Where figures can be read over HTTP (TCP), if anywhere.
    pub watch: Option<SocketAddr>,
    /// What is logged, as in `RUST_LOG`.
    pub log: String,
    /// Who is told of requests, by OTLP over HTTP, if anybody.
    pub otlp: Option<Uri>,
    /// Limits.
    pub limits: Limits,
    /// Who may register, what tokens buy, and how often.
    pub policy: Policy,
    /// How other homeservers are found.
    pub federation: Federation,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    domain: String,
    #[serde(default = "default_listen")]
    listen: SocketAddr,
    #[serde(default = "default_data")]
    data: PathBuf,
    #[serde(default = "default_storage_key")]
    storage_key: PathBuf,
    #[serde(default = "default_admin_socket")]
    admin_socket: PathBuf,
    #[serde(default, deserialize_with = "filter_or_table")]
    log: Log,
    tls: Tls,
    #[serde(default)]
    watch: Watch,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    registration: super::policy::Registration,
    #[serde(default)]
    tokens: super::policy::Tokens,
    #[serde(default)]
    queues: Queues,
    #[serde(default)]
    groups: Groups,
    #[serde(default)]
    push: Push,
    #[serde(default)]
    rates: Rates,
    #[serde(default)]
    federation: federation::Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    authority: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Watch {
    listen: Option<SocketAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Log {
    filter: String,
    otlp: Option<String>,
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "bennu=info".into(), otlp: None }
    }
}

impl Log {
    fn collector(&self) -> Result<Option<Uri>, NodeError> {
        let Some(otlp) = &self.otlp else { return Ok(None) };
        if cfg!(not(feature = "otlp")) {
            return Err(NodeError::Config("log.otlp: this bennu was built without the feature otlp".into()));
        }
        let is_usable = |uri: &Uri| {
            let names_somebody = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
            uri.scheme_str() == Some("http") && uri.query().is_none() && !names_somebody
        };
        let uri = otlp.parse().ok().filter(is_usable);
        let none = || NodeError::Config(format!("log.otlp: \"{otlp}\" is no address as http://127.0.0.1:4318"));
        uri.ok_or_else(none).map(Some)
    }
}

/// `log = "bennu=info"` stands for a table with that filter and nothing else.
fn filter_or_table<'de, D: Deserializer<'de>>(setting: D) -> Result<Log, D::Error> {
    struct FilterOrTable;
    impl<'de> Visitor<'de> for FilterOrTable {
        type Value = Log;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("what is logged, or a table")
        }

        fn visit_str<E>(self, filter: &str) -> Result<Log, E> {
            Ok(Log { filter: filter.to_owned(), ..Log::default() })
        }

        fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Log, A::Error> {
            Log::deserialize(MapAccessDeserializer::new(table))
        }
    }
    setting.deserialize_any(FilterOrTable)
}

/// Limits that an operator chooses.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at once.
    pub max_connections: u32,
    /// Streams at once of one connection.
    pub max_streams: u32,
    /// Seconds without a packet after which a connection is gone.
    pub idle_timeout: u64,
    /// Milliseconds that a request may wait until there is time for it: where that does not pass, those that have waited longer
    /// are refused as `overloaded`.
    pub max_wait: u64,
    /// Seconds that exchanges in flight have at shutdown.
    pub shutdown_grace: u64,
    /// Bytes that are to stay free on the disk of the database: below, it takes nothing in that adds to it.
    pub disk_reserve: u64,
    /// Entries of a queue up to which application messages are taken.
    pub queue_entries: u64,
    /// Bytes of a queue up to which application messages are taken.
    pub queue_bytes: u64,
    /// Entries after which a queue's ratchet gets fresh randomness.
    pub queue_key_update_entries: u32,
    /// Hours after which it does.
    pub queue_key_update_hours: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let (transport, queues) = (Settings::default(), QueueLimits::default());
        Self {
            max_connections: transport.max_connections,
            max_streams: transport.max_streams,
            idle_timeout: transport.idle_timeout.as_secs(),
            // Bursts of an eighth of a second are served: a compaction, or messages to thousands at once, are no overload.
            max_wait: 30,
            shutdown_grace: transport.shutdown_grace.as_secs(),
            disk_reserve: 256 << 20,
            queue_entries: queues.entries,
            queue_bytes: queues.bytes,
            queue_key_update_entries: queues.update_entries,
            queue_key_update_hours: queues.update_after.as_secs() / 3_600,
        }
    }
}

impl Limits {
    /// Those of the transport.
    pub fn transport(&self) -> Settings {
        Settings {
            max_connections: self.max_connections,
            max_streams: self.max_streams,
            idle_timeout: Duration::from_secs(self.idle_timeout),
            max_wait: Duration::from_millis(self.max_wait),
            shutdown_grace: Duration::from_secs(self.shutdown_grace),
            ..Settings::default()
        }
    }

    /// Those of queues.
    pub fn queues(&self) -> QueueLimits {
        QueueLimits {
            entries: self.queue_entries,
            bytes: self.queue_bytes,
            update_entries: self.queue_key_update_entries,
            update_after: Duration::from_secs(self.queue_key_update_hours * 3_600),
            ..QueueLimits::default()
        }
    }

    fn check(&self) -> Result<(), NodeError> {
        let at_least_one = [
            ("max_connections", u64::from(self.max_connections)),
            ("max_streams", u64::from(self.max_streams)),
            ("idle_timeout", self.idle_timeout),
            ("max_wait", self.max_wait),
            ("queue_entries", self.queue_entries),
            ("queue_bytes", self.queue_bytes),
            ("queue_key_update_entries", u64::from(self.queue_key_update_entries)),
        ];
        match at_least_one.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(NodeError::Config(format!("limits.{name} must be at least 1"))),
            None => self.check_upper(),
        }
    }

    fn check_upper(&self) -> Result<(), NodeError> {
        let at_most = [
            ("max_connections", u64::from(self.max_connections), 10_000_000),
            ("max_streams", u64::from(self.max_streams), 65_536),
            ("idle_timeout", self.idle_timeout, 3_600),
            ("max_wait", self.max_wait, 60_000),
            ("shutdown_grace", self.shutdown_grace, 3_600),
            ("queue_key_update_hours", self.queue_key_update_hours, 24 * 365),
        ];
        match at_most.iter().find(|(_, value, limit)| value > limit) {
            Some((name, _, limit)) => Err(NodeError::Config(format!("limits.{name} is at most {limit}"))),
            None => Ok(()),
        }
    }
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`NodeError::File`], or [`NodeError::Config`] with the line that is wrong.
    pub fn load(path: &Path) -> Result<Self, NodeError> {
        let text = std::fs::read_to_string(path).map_err(|error| NodeError::File { path: path.to_owned(), error })?;
        let base = path.parent().unwrap_or(Path::new(""));
        let parsed = Self::parse(&text, base).map(|config| Self { file: Some(path.to_owned()), ..config });
        parsed.map_err(|error| match error {
            NodeError::Config(why) => {
                let line = line_of(&text, &why).map_or_else(String::new, |line| format!("line {line}: "));
                NodeError::Config(format!("{}: {line}{why}", path.display()))
            }
            other => other,
        })
    }

    /// Parses a configuration whose paths are relative to `base`.
    ///
    /// # Errors
    /// [`NodeError::Config`] says what is wrong.
    pub fn parse(text: &str, base: &Path) -> Result<Self, NodeError> {
        let file: File = toml::from_str(text).map_err(|error| NodeError::Config(error.to_string()))?;
        let domain: Domain = file.domain.parse().map_err(|error| NodeError::Config(format!("domain: {error}")))?;
        file.limits.check()?;
        super::policy::check_rates(&file.rates)?;
        super::policy::check_groups(&file.groups)?;
        super::policy::check_queues(&file.queues)?;
        super::policy::check_push(&file.push)?;
        super::logging::check(&file.log.filter).map_err(|why| NodeError::Config(format!("log.filter: {why}")))?;
        if file.data.as_os_str().is_empty() {
            return Err(NodeError::Config("data: a directory is needed".into()));
        }
        let admin_socket = base.join(file.admin_socket);
        if admin_socket.as_os_str().len() > MAX_SOCKET_PATH {
            let why = format!(
                "admin_socket: with its directory it has more than {MAX_SOCKET_PATH} bytes, which no socket may"
            );
            return Err(NodeError::Config(why));
        }
        let federation = file.federation.check(&domain)?;
        let policy = Policy {
            registration: file.registration.policy(),
            tokens: file.tokens.check()?,
            groups: file.groups,
            queues: file.queues,
            push: file.push,
            rates: file.rates,
        };
        Ok(Self {
            file: None,
            domain,
            listen: file.listen,
            data: base.join(file.data),
            storage_key: base.join(file.storage_key),
            certificate: base.join(file.tls.certificate),
            certificate_key: base.join(file.tls.key),
            authority: file.tls.authority.map(|path| base.join(path)),
            admin_socket,
            watch: file.watch.listen,
            otlp: file.log.collector()?,
            log: file.log.filter,
            limits: file.limits,
            policy,
            federation,
        })
    }
}

impl Config {
    /// The settings that are other than these, and cannot be changed while the homeserver runs.
    pub fn settled_otherwise(&self, other: &Self) -> Vec<&'static str> {
        let push =
            |config: &Self| (config.policy.push.enabled, config.policy.push.min_interval, config.policy.push.ttl);
        let peers = |config: &Self| format!("{:?} {:?}", config.federation.settings, config.federation.limits);
        [
            ("domain", self.domain != other.domain),
            ("listen", self.listen != other.listen),
            ("data", self.data != other.data),
            ("storage_key", self.storage_key != other.storage_key),
            ("admin_socket", self.admin_socket != other.admin_socket),
            ("tls.certificate", self.certificate != other.certificate),
            ("tls.key", self.certificate_key != other.certificate_key),
            ("tls.authority", self.authority != other.authority),
            ("watch.listen", self.watch != other.watch),
            ("log.otlp", self.otlp != other.otlp),
            ("limits", format!("{:?}", self.limits) != format!("{:?}", other.limits)),
            ("push", push(self) != push(other)),
            ("federation", peers(self) != peers(other)),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

/// What stands before a setting that is written as it is by default anyway.
pub const fn commented(default: bool) -> &'static str {
    if default { "# " } else { "" }
}

/// The line of the setting that a complaint begins with, as in `limits.max_streams`, if it is one.
fn line_of(text: &str, complaint: &str) -> Option<usize> {
    let named = complaint.split([' ', ':', '"']).next()?;
    let (wanted, key) = match named.strip_suffix('.') {
        // A key in quotes may have anything in it.
        Some(table) => (table, complaint.split('"').nth(1)?),
        None => named.rsplit_once('.').unwrap_or(("", named)),
    };
    let mut table = "";
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            table = header.split(']').next()?.trim();
        } else if table == wanted && line.split_once('=').is_some_and(|(name, _)| name.trim().trim_matches('"') == key)
        {
            return Some(at + 1);
        }
    }
    None
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0u16; 8], crate::base::limits::DEFAULT_PORT))
}

fn default_data() -> PathBuf {
    "data".into()
}

fn default_storage_key() -> PathBuf {
    "keys/storage.key".into()
}

fn default_admin_socket() -> PathBuf {
    "admin.sock".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "domain = \"a.test\"\n[tls]\ncertificate = \"c.pem\"\nkey = \"/k.pem\"\n";

    #[test]
    fn a_minimal_file_has_defaults_and_paths_beside_it() {
        let config = Config::parse(MINIMAL, Path::new("/etc/bennu")).unwrap();
        assert_eq!(config.listen.port(), 9420);
        assert_eq!(config.data, Path::new("/etc/bennu/data"));
        assert_eq!(config.certificate, Path::new("/etc/bennu/c.pem"));
        assert_eq!(config.certificate_key, Path::new("/k.pem"));
    }

    #[test]
    fn a_complaint_about_a_setting_names_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bennu.toml");
        for (text, line) in [
            (format!("{MINIMAL}[limits]\n# max_streams = 1\nmax_streams = 0\n"), "line 7: limits.max_streams"),
            (MINIMAL.replace("a.test", "localhost"), "line 1: domain"),
            (format!("{MINIMAL}[federation.peers]\n\"a.test\" = \"127.0.0.1:1\"\n"), "line 6: federation.peers"),
            (format!("{MINIMAL}[federation.peers]\n\"a test\" = \"127.0.0.1:1\"\n"), "line 6: federation.peers"),
            (format!("{MINIMAL}[limits]\nmax_steams = 5\n"), "line 6"),
            (format!("{MINIMAL}[log]\nlevels = \"info\"\n"), "line 6"),
            (format!("{MINIMAL}[log]\n\notlp = \"udp://127.0.0.1\"\n"), "line 7: log.otlp"),
            (format!("{MINIMAL}[log]\nfilter = \"bennu=loud\"\n"), "line 6: log.filter"),
            (format!("data = \"\"\n{MINIMAL}"), "line 1: data"),
            (format!("admin_socket = \"{}\"\n{MINIMAL}", "x".repeat(150)), "line 1: admin_socket"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Config::load(&path).unwrap_err().to_string();
            assert!(error.contains(line), "{error}");
        }
    }

    #[test]
    fn what_is_logged_is_a_setting_or_one_of_a_table() {
        let log = |text: &str| Config::parse(text, Path::new("")).unwrap().log;
        assert_eq!(log(MINIMAL), "bennu=info");
        assert_eq!(log(&format!("log = \"bennu=debug\"\n{MINIMAL}")), "bennu=debug");
        assert_eq!(log(&format!("{MINIMAL}[log]\nfilter = \"bennu=debug\"\n")), "bennu=debug");
        assert!(Config::parse(&format!("log = 7\n{MINIMAL}"), Path::new("")).is_err());
    }

    #[test]
    fn a_collector_of_traces_needs_a_program_with_the_feature() {
        let parsed = Config::parse(&format!("{MINIMAL}[log]\notlp = \"http://127.0.0.1:4318\"\n"), Path::new(""));
        if cfg!(feature = "otlp") {
            assert_eq!(parsed.unwrap().otlp.unwrap(), "http://127.0.0.1:4318");
        } else {
            let error = parsed.unwrap_err().to_string();
            assert_eq!(error, "log.otlp: this bennu was built without the feature otlp");
        }
    }

    #[test]
    fn what_is_unknown_or_impossible_is_refused_and_named() {
        for (text, named) in [
            (format!("colour = 1\n{MINIMAL}"), "colour"),
            (MINIMAL.replace("a.test", "localhost"), "fully qualified"),
            (format!("{MINIMAL}[limits]\nmax_streams = 0\n"), "max_streams"),
            (format!("{MINIMAL}[limits]\nmax_steams = 5\n"), "max_steams"),
            (format!("{MINIMAL}[limits]\nqueue_key_update_hours = 9223372036854775807\n"), "queue_key_update_hours"),
            (MINIMAL.replace("key = \"/k.pem\"", ""), "key"),
        ] {
            let error = Config::parse(&text, Path::new("")).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
