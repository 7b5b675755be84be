//! The demo's homeservers: this very program, each as a separate process that can be killed and started again. They know
//! where the others are, and trust their development certificates.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
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

/// Where the authorities are that a homeserver trusts.
const AUTHORITIES: &str = "certs/authorities.pem";

/// How long a start, or an orderly stop, may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A homeserver. Its process ends with it.
pub struct Server {
    domain: Domain,
    directory: PathBuf,
    child: Child,
    address: SocketAddr,
}

/// A homeserver that has been set up, and holds its port until it is started.
struct Prepared {
    domain: Domain,
    directory: PathBuf,
    port: UdpSocket,
    address: SocketAddr,
}

impl Server {
    /// Sets up and starts a homeserver for each of these domains on a free port of loopback.
    pub async fn start(directory: &Path, domains: &[&str]) -> Result<Vec<Self>, Failure> {
        let mut prepared = Vec::new();
        for domain in domains {
            let directory = directory.join(domain);
            let domain: Domain = domain.parse().map_err(|error| Failure::new("demo", error))?;
            let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            let address = port.local_addr()?;
            create(&directory, &Setup::new(domain.clone(), address))?;
            prepared.push(Prepared { domain, directory, port, address });
        }
        let mut authorities = String::new();
        for of in &prepared {
            authorities += &std::fs::read_to_string(of.directory.join("certs/ca.pem"))?;
        }
        for of in &prepared {
            std::fs::write(of.directory.join(AUTHORITIES), &authorities)?;
            let others = prepared.iter().filter(|other| other.domain != of.domain);
            let peers: String = others.map(|other| format!("\"{}\" = \"{}\"\n", other.domain, other.address)).collect();
            let config = of.directory.join("bennu.toml");
            let text = std::fs::read_to_string(&config)?.replace("certs/ca.pem", AUTHORITIES);
            std::fs::write(&config, text.replace("[federation.peers]\n", &format!("[federation.peers]\n{peers}")))?;
        }
        let mut servers = Vec::new();
        for Prepared { domain, directory, port, .. } in prepared {
            drop(port);
            let (child, address) = spawn(&directory).await?;
            servers.push(Self { domain, directory, child, address });
        }
        Ok(servers)
    }

    /// Its home domain.
    pub const fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// The certificates of all development authorities.
    pub fn authorities(&self) -> PathBuf {
        self.directory.join(AUTHORITIES)
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
