//! `bennu serve`, as an operator starts it, without prices and without limits of how often.

use std::{fs, path::Path, process::Command, time::Duration};

use bennu::{
    base::Domain,
    transport::{Connection, Context, Route, Settings, tls},
};
use tempfile::TempDir;

use crate::process::Process;

/// As high as a rate goes.
const MOST_IN_AN_HOUR: i64 = 1_000_000;

const BENNU: &str = env!("CARGO_BIN_EXE_bennu");

/// A homeserver, and a way to it.
pub struct Server {
    process: Process,
    context: Context,
    pub domain: Domain,
    directory: TempDir,
}

impl Server {
    /// A new one, which wants no tokens.
    pub fn start(domain: &str) -> Self {
        Self::start_as(domain, false)
    }

    /// A new one, which does.
    pub fn start_with_prices(domain: &str) -> Self {
        Self::start_as(domain, true)
    }

    fn start_as(domain: &str, prices: bool) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let init = Command::new(BENNU)
            .args(["init", "--listen", "127.0.0.1:0", "--domain", domain, "--dir"])
            .arg(directory.path())
            .output()
            .expect("bennu can be run");
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
        let config = directory.path().join("bennu.toml");
        let text = fs::read_to_string(&config).expect("it was written");
        fs::write(&config, without_limits(&text, prices)).expect("it can be written");
        let authority = fs::read(directory.path().join("certs/ca.pem")).expect("its authority");
        let roots = tls::roots(&tls::certificates(&authority).expect("a certificate")).expect("roots");
        Self {
            process: serve(directory.path()),
            context: Context::new(roots, Settings::default()).expect("a socket"),
            domain: domain.parse().expect("a domain"),
            directory,
        }
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

    /// Stops it, in order.
    pub async fn stop(self) {
        self.context.close().await;
        self.process.stop();
        drop(self.directory);
    }
}

fn serve(directory: &Path) -> Process {
    let mut command = Command::new(BENNU);
    Process::start(command.arg("serve").arg("--config").arg(directory.join("bennu.toml")))
}

/// The configuration with nothing logged but what is wrong, every rate and the allowance as high as it goes, and tokens wanted or
/// not.
fn without_limits(text: &str, prices: bool) -> String {
    let mut config: toml::Table = text.parse().expect("a configuration");
    config.insert("log".into(), "warn".into());
    let mut set = |table: &str, name: &str, value: toml::Value| {
        let table = config.entry(table).or_insert_with(|| toml::Table::new().into());
        table.as_table_mut().expect("a table").insert(name.into(), value);
    };
    set("tokens", "required", prices.into());
    set("tokens", "allowance", MOST_IN_AN_HOUR.into());
    for rate in bennu::service::policy::Rate::ALL {
        set("rates", rate.name(), MOST_IN_AN_HOUR.into());
    }
    config.to_string()
}
