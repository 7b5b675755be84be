//! `bennu serve`, as an operator starts it, without prices and without limits of how often.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use bennu::{
    base::Domain,
    transport::{Connection, Context, Route, Settings, tls},
};
use tempfile::TempDir;

use crate::process::Process;

/// As high as a rate goes.
const MOST_IN_AN_HOUR: i64 = 1_000_000;

const BENNU: &str = env!("CARGO_BIN_EXE_bennu");

/// Any port of loopback.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Where the authorities are that it trusts.
const AUTHORITY: &str = "certs/ca.pem";

/// A homeserver that does not run.
pub struct Home {
    domain: Domain,
    directory: TempDir,
}

impl Home {
    /// A new one at this address, which wants tokens or not.
    fn create(domain: &str, listen: SocketAddr, prices: bool) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let init = Command::new(BENNU)
            .args(["init", "--listen", &listen.to_string(), "--domain", domain, "--dir"])
            .arg(directory.path())
            .output()
            .expect("bennu can be run");
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
        let home = Self { domain: domain.parse().expect("a domain"), directory };
        home.configure(|config| without_limits(config, prices));
        home
    }

    fn configure(&self, change: impl FnOnce(&mut toml::Table)) {
        let path = self.directory.path().join("bennu.toml");
        let mut config = fs::read_to_string(&path).expect("it was written").parse().expect("a configuration");
        change(&mut config);
        fs::write(&path, config.to_string()).expect("it can be written");
    }

    fn authority(&self) -> Vec<u8> {
        fs::read(self.directory.path().join(AUTHORITY)).expect("its authority")
    }

    /// Starts it.
    pub fn start(self) -> Server {
        let Self { domain, directory } = &self;
        let roots = tls::roots(&tls::certificates(&self.authority()).expect("a certificate")).expect("roots");
        let (mut command, started) = (Command::new(BENNU), Instant::now());
        let process = Process::start(command.arg("serve").arg("--config").arg(directory.path().join("bennu.toml")));
        let start = started.elapsed();
        let context = Context::new(roots, Settings::default()).expect("a socket");
        Server { process, context, domain: domain.clone(), start, home: self }
    }
}

/// A homeserver, and a way to it.
pub struct Server {
    process: Process,
    context: Context,
    pub domain: Domain,
    /// From when it was started until it was ready.
    pub start: Duration,
    home: Home,
}

impl Server {
    /// A new one, which wants no tokens.
    pub fn start(domain: &str) -> Self {
        Home::create(domain, ANYWHERE, false).start()
    }

    /// A new one, which does.
    pub fn start_with_prices(domain: &str) -> Self {
        Home::create(domain, ANYWHERE, true).start()
    }

    /// New ones that know where the other is, and trust its authority.
    pub fn start_both(domains: [&str; 2]) -> [Self; 2] {
        // They keep the ports until they are used.
        let reserved = [(); 2].map(|()| UdpSocket::bind(ANYWHERE).expect("a socket"));
        let places = [0, 1].map(|at: usize| reserved[at].local_addr().expect("bound"));
        let homes = [0, 1].map(|at| Home::create(domains[at], places[at], false));
        let authorities = homes.each_ref().map(Home::authority).concat();
        for (home, other) in homes.iter().zip([1, 0]) {
            fs::write(home.directory.path().join(AUTHORITY), &authorities).expect("it can be written");
            let peers = toml::Table::from_iter([(domains[other].to_owned(), places[other].to_string().into())]);
            home.configure(|config| set(config, "federation", "peers", peers.into()));
        }
        drop(reserved);
        homes.map(Home::start)
    }

    /// A connection of its own.
    pub async fn connect(&self) -> Connection {
        self.context.connect(&self.domain, &Route::from(self.process.address())).await.expect("it can be reached")
    }

    /// Processor time that it has used.
    pub fn cpu(&self) -> Duration {
        self.process.cpu()
    }

    /// Its memory, in octets.
    pub fn memory(&self) -> u64 {
        self.process.memory()
    }

    /// What its data take on the disk, in octets.
    pub fn disk(&self) -> u64 {
        let data = fs::read_dir(self.home.directory.path().join("data")).expect("a directory");
        // A file may go while they are counted.
        data.filter_map(|file| file.ok()?.metadata().ok()).map(|metadata| metadata.len()).sum()
    }

    /// Entries that are in its queues.
    pub fn queued(&self) -> usize {
        let config = self.home.directory.path().join("bennu.toml");
        let asked = Command::new(BENNU).args(["admin", "--json", "--config"]).arg(config).arg("stats").output();
        let stats: serde_json::Value = serde_json::from_slice(&asked.expect("it runs").stdout).expect("an object");
        stats["queued_entries"].as_u64().expect("a number") as usize
    }

    /// Stops it, in order.
    pub async fn stop(self) -> Home {
        self.context.close().await;
        self.process.stop();
        self.home
    }

    /// Kills it (SIGKILL).
    pub async fn kill(self) -> Home {
        self.context.close().await;
        drop(self.process);
        self.home
    }
}

fn set(config: &mut toml::Table, table: &str, name: &str, value: toml::Value) {
    let table = config.entry(table).or_insert_with(|| toml::Table::new().into());
    table.as_table_mut().expect("a table").insert(name.into(), value);
}

/// Nothing logged but what is wrong, every rate and the allowance as high as it goes, and tokens wanted or not.
fn without_limits(config: &mut toml::Table, prices: bool) {
    config.insert("log".into(), "warn".into());
    set(config, "tokens", "required", prices.into());
    set(config, "tokens", "allowance", MOST_IN_AN_HOUR.into());
    for rate in bennu::service::policy::Rate::ALL {
        set(config, "rates", rate.name(), MOST_IN_AN_HOUR.into());
    }
}
