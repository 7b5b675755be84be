//! The demo's homeserver: this very program, as a separate process that can be killed and started again.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::{
    base::Domain,
    cli::output::Failure,
    node::setup::{Setup, create},
};

/// How long a start, or an orderly stop, may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The homeserver. Its process ends with it.
pub struct Server {
    directory: PathBuf,
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Sets up and starts a homeserver for `a.test` on a free port of loopback.
    pub async fn start(directory: &Path) -> Result<Self, Failure> {
        let directory = directory.join("homeserver");
        let domain: Domain = "a.test".parse().map_err(|error| Failure::new("demo", error))?;
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        create(&directory, &Setup { domain, listen, certificate: None })?;
        let (child, address) = spawn(&directory).await?;
        // After a crash clients look for it where it was.
        let config = directory.join("bennu.toml");
        let text = std::fs::read_to_string(&config)?;
        std::fs::write(&config, text.replace("127.0.0.1:0", &address.to_string()))?;
        Ok(Self { directory, child, address })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// The development authority's certificate.
    pub fn authority(&self) -> PathBuf {
        self.directory.join("certs/ca.pem")
    }

    /// Kills the process (SIGKILL); returns which it was.
    pub async fn kill(&mut self) -> Result<u32, Failure> {
        let pid = self.pid();
        self.child.kill().await?;
        Ok(pid)
    }

    /// Starts it again where it was.
    pub async fn restart(&mut self) -> Result<(), Failure> {
        let (child, address) = spawn(&self.directory).await?;
        self.child = child;
        self.address = address;
        Ok(())
    }

    /// Stops it in order (SIGTERM).
    pub async fn stop(&mut self) -> Result<(), Failure> {
        let terminated = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().await?;
        let status = timeout(PATIENCE, self.child.wait())
            .await
            .map_err(|_| Failure::new("demo", "the homeserver does not stop"))??;
        if terminated.success() && status.success() {
            return Ok(());
        }
        Err(Failure::new("demo", format!("the homeserver did not stop in order: {status}")))
    }
}

async fn spawn(directory: &Path) -> Result<(Child, SocketAddr), Failure> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("serve")
        .arg("--config")
        .arg(directory.join("bennu.toml"))
        .env("RUST_LOG", "bennu=warn")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let failed = || Failure::new("demo", "the homeserver did not start");
    let mut lines = BufReader::new(child.stdout.take().ok_or_else(failed)?).lines();
    let address = timeout(PATIENCE, ready(&mut lines)).await.map_err(|_| failed())?.ok_or_else(failed)?;
    Ok((child, address))
}

/// The address in the line that says that it is ready.
async fn ready(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<SocketAddr> {
    let line = lines.next_line().await.ok()??;
    line.rsplit(' ').next()?.parse().ok()
}
