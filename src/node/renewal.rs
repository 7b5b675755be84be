//! The homeserver's certificate, its key and the authorities that it trusts, as files: read at start, and again when they
//! change or on SIGHUP. What has changed is looked at twice before it counts, because files are not written at once; what is
//! not usable is refused with a warning, and what was there before stays.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::RootCertStore;
use sha2::{Digest, Sha256};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use zeroize::Zeroizing;

use super::{Config, NodeError, read};
use crate::{
    base::{Clock as _, Domain, SystemClock},
    transport::{Context, Endpoint, tls},
};

/// How often the files are looked at.
pub const PERIOD: Duration = Duration::from_secs(5);

/// Which files.
#[derive(Clone)]
pub struct Files {
    domain: Domain,
    certificate: PathBuf,
    key: PathBuf,
    authority: Option<PathBuf>,
}

/// What is in them.
struct Contents {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    authority: Option<Vec<u8>>,
}

/// What the homeserver shows, and whom it trusts.
pub struct Loaded {
    /// Shown to clients and to other homeservers.
    pub identity: tls::Identity,
    /// Trusted to name other homeservers.
    pub roots: Arc<RootCertStore>,
    state: State,
}

/// What the files held, by its hash, or why they could not be read.
type State = Result<[u8; 32], String>;

impl Files {
    /// Those that a configuration names.
    pub fn of(config: &Config) -> Self {
        Self {
            domain: config.domain.clone(),
            certificate: config.certificate.clone(),
            key: config.certificate_key.clone(),
            authority: config.authority.clone(),
        }
    }

    /// Reads them and checks that a homeserver of the domain can use them.
    ///
    /// # Errors
    /// [`NodeError::File`] and [`NodeError::Certificate`].
    pub fn load(&self) -> Result<Loaded, NodeError> {
        self.check(&self.read()?)
    }

    fn read(&self) -> Result<Contents, NodeError> {
        Ok(Contents {
            certificate: read(&self.certificate)?,
            key: Zeroizing::new(read(&self.key)?),
            authority: self.authority.as_ref().map(read).transpose()?,
        })
    }

    fn check(&self, contents: &Contents) -> Result<Loaded, NodeError> {
        let identity = identity(&self.domain, &contents.certificate, &contents.key)?;
        let authorities = contents.authority.as_deref().map(tls::certificates).transpose()?.unwrap_or_default();
        let (roots, source) = tls::roots_and_source(&authorities)?;
        tracing::info!(public = %source, configured = authorities.len(), "certification authorities");
        // Whoever trusts another authority may take it all the same.
        if let Err(error) = identity.check_chain(&roots, SystemClock.now()) {
            tracing::warn!(%error, "clients will not take the certificate: `bennu check` says what to do");
        }
        Ok(Loaded { identity, roots, state: Ok(contents.hash()) })
    }
}

/// Looks whether a homeserver of a domain could use these files.
///
/// # Errors
/// [`NodeError::File`] and [`NodeError::Certificate`].
pub fn look_at(domain: &Domain, certificate: &Path, key: &Path) -> Result<(), NodeError> {
    identity(domain, &read(certificate)?, &Zeroizing::new(read(key)?)).map(drop)
}

fn identity(domain: &Domain, certificate: &[u8], key: &[u8]) -> Result<tls::Identity, NodeError> {
    let identity = tls::Identity::from_pem(certificate, key)?;
    identity.check_name(domain)?;
    Ok(identity)
}

impl Contents {
    fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [&self.certificate, &*self.key, self.authority.as_ref().unwrap_or(&Vec::new())] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

/// Looks after the files of a running homeserver.
pub struct Renewal {
    files: Files,
    endpoint: Endpoint,
    dialling: Context,
    /// What was last found, and what was last judged, be it used or refused.
    found: State,
    judged: State,
}

impl Renewal {
    /// Of an endpoint that serves, and the context it dials from, with what was `loaded`.
    pub fn new(files: Files, loaded: &Loaded, endpoint: Endpoint, dialling: Context) -> Self {
        Self { files, endpoint, dialling, found: loaded.state.clone(), judged: loaded.state.clone() }
    }

    /// Looks every `period` and on SIGHUP, until it is dropped.
    pub async fn run(mut self, period: Duration) {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut hangups =
            signal(SignalKind::hangup()).inspect_err(|error| tracing::warn!(%error, "SIGHUP is not heard")).ok();
        loop {
            let asked = tokio::select! {
                _ = ticks.tick() => false,
                () = hangup(&mut hangups) => true,
            };
            self.look(asked).await;
        }
    }

    /// Uses what is in the files if it is new and has stayed so since the last look, or if somebody has `asked` for it.
    async fn look(&mut self, asked: bool) {
        let files = self.files.clone();
        let read = spawn_blocking(move || files.read().map(|contents| (contents.hash(), contents)));
        // Nothing in it panics.
        let Ok(read) = read.await else { return };
        let state = read.as_ref().map(|(hash, _)| *hash).map_err(ToString::to_string);
        let settled = self.found == state;
        self.found = state.clone();
        if !asked && (!settled || self.judged == state) {
            return;
        }
        let is_same = self.judged == state;
        self.judged = state;
        match read.and_then(|(_, contents)| self.renew(&contents)) {
            // Whom the platform trusts may be another now.
            Ok(()) if is_same => tracing::info!("the certificate is the same, and was read again"),
            Ok(()) => tracing::info!(domain = %self.files.domain, "another certificate is in use"),
            Err(error) => tracing::warn!(%error, "the certificate in use stays: the files are not usable"),
        }
    }

    fn renew(&self, contents: &Contents) -> Result<(), NodeError> {
        let Loaded { identity, roots, .. } = self.files.check(contents)?;
        // What the endpoint can show, the context can.
        self.endpoint.renew(identity.clone(), roots.clone())?;
        Ok(self.dialling.renew(roots, Some(identity))?)
    }
}

/// Waits for the next SIGHUP; for ever if there is none to be heard.
async fn hangup(hangups: &mut Option<Signal>) {
    let heard = match hangups {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if heard.is_none() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        net::SocketAddr,
        time::{Duration, SystemTime},
    };

    use super::*;
    use crate::{
        base::SystemClock,
        node::{
            Node,
            certificates::{DevelopmentCertificates, generate},
            setup::{Setup, create},
        },
        store::MemoryEngine,
        transport::{Connection, DialError, Route, Settings, tests::serving},
    };

    /// A homeserver of `a.test` whose files are in a directory.
    struct Home {
        directory: tempfile::TempDir,
        renewal: Renewal,
        dialling: Context,
        address: SocketAddr,
    }

    fn made(domain: &str) -> DevelopmentCertificates {
        generate(&domain.parse().unwrap(), SystemTime::now()).unwrap()
    }

    fn write(directory: &Path, made: &DevelopmentCertificates) {
        fs::write(directory.join("c.pem"), &made.server_chain).unwrap();
        fs::write(directory.join("k.pem"), made.server_key.as_bytes()).unwrap();
    }

    fn files(directory: &Path) -> Files {
        let text = "domain = \"a.test\"\n[tls]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n";
        Files::of(&Config::parse(text, directory).unwrap())
    }

    impl Home {
        fn new(first: &DevelopmentCertificates) -> Self {
            let directory = tempfile::tempdir().unwrap();
            write(directory.path(), first);
            let files = files(directory.path());
            let loaded = files.load().unwrap();
            let endpoint = serving(loaded.identity.clone(), loaded.roots.clone());
            let dialling = Context::on(endpoint.clone(), loaded.roots.clone(), Some(loaded.identity.clone())).unwrap();
            let address = endpoint.local_addr().unwrap();
            let renewal = Renewal::new(files, &loaded, endpoint, dialling.clone());
            Self { directory, renewal, dialling, address }
        }

        /// Connects as one who trusts the authority of these certificates only.
        async fn connect(&self, made: &DevelopmentCertificates) -> Result<Connection, DialError> {
            connect(self.address, made).await
        }
    }

    async fn connect(to: SocketAddr, made: &DevelopmentCertificates) -> Result<Connection, DialError> {
        let mut roots = RootCertStore::empty();
        roots.add(tls::certificates(made.authority.as_bytes()).unwrap().remove(0)).unwrap();
        let context = Context::new(Arc::new(roots), Settings::default()).unwrap();
        context.connect(&"a.test".parse().unwrap(), &Route::from(to)).await
    }

    async fn ask(connection: &Connection) -> bool {
        let request = [0, 1, 0, 1, 7][..].to_vec();
        connection.open().await.unwrap().request(request.into(), 16).await.is_ok()
    }

    #[tokio::test]
    async fn new_files_are_used_once_they_have_settled_and_open_connections_live_on() {
        let (old, new) = (made("a.test"), made("a.test"));
        let mut home = Home::new(&old);
        let before = home.connect(&old).await.unwrap();
        write(home.directory.path(), &new);
        home.renewal.look(false).await;
        assert!(home.connect(&old).await.is_ok() && home.connect(&new).await.is_err(), "they may be half written");
        home.renewal.look(false).await;
        assert!(home.connect(&new).await.is_ok());
        assert!(matches!(home.connect(&old).await, Err(DialError::Certificate(_))));
        assert!(ask(&before).await);
    }

    #[tokio::test]
    async fn what_is_asked_for_is_done_at_once_and_connections_of_its_own_show_it() {
        let (old, new) = (made("a.test"), made("a.test"));
        let mut home = Home::new(&old);
        write(home.directory.path(), &new);
        home.renewal.look(true).await;
        assert!(home.connect(&new).await.is_ok());

        // A peer that trusts the new authority only.
        let peer = made("b.test");
        let identity = tls::Identity::from_pem(peer.server_chain.as_bytes(), peer.server_key.as_bytes()).unwrap();
        let roots = |made: &DevelopmentCertificates| {
            tls::roots(&tls::certificates(made.authority.as_bytes()).unwrap()).unwrap()
        };
        let peer_endpoint = serving(identity, roots(&new));
        let loaded = files(home.directory.path()).load().unwrap();
        home.dialling.renew(roots(&peer), Some(loaded.identity)).unwrap();
        let route = Route::from(peer_endpoint.local_addr().unwrap());
        let connection = home.dialling.connect(&"b.test".parse().unwrap(), &route).await.unwrap();
        assert!(ask(&connection).await);
    }

    #[tokio::test]
    async fn unusable_files_change_nothing_and_good_ones_afterwards_do() {
        let (old, new, other) = (made("a.test"), made("a.test"), made("b.test"));
        let mut home = Home::new(&old);
        let certificate = home.directory.path().join("c.pem");
        let half = new.server_chain[..new.server_chain.len() / 2].to_owned();
        for (what, chain) in [
            ("another key's", &new.server_chain),
            ("another domain's", &other.server_chain),
            ("half written", &half),
            ("empty", &String::new()),
        ] {
            fs::write(&certificate, chain).unwrap();
            for asked in [false, false, true] {
                home.renewal.look(asked).await;
            }
            assert!(home.connect(&old).await.is_ok(), "{what}");
        }
        write(home.directory.path(), &other);
        home.renewal.look(true).await;
        assert!(home.connect(&old).await.is_ok(), "another domain's, with its key");
        fs::remove_file(&certificate).unwrap();
        home.renewal.look(true).await;
        assert!(home.connect(&old).await.is_ok(), "gone");

        write(home.directory.path(), &new);
        home.renewal.look(false).await;
        home.renewal.look(false).await;
        assert!(home.connect(&new).await.is_ok());
    }

    #[tokio::test]
    async fn a_link_that_leads_elsewhere_is_noticed_while_running() {
        let (old, new) = (made("a.test"), made("a.test"));
        let Home { directory, renewal, address, .. } = Home::new(&old);
        let place = |name: &str| directory.path().join(name);
        for (name, made) in [("old", &old), ("new", &new)] {
            fs::create_dir(place(name)).unwrap();
            write(&place(name), made);
        }
        for file in ["c.pem", "k.pem"] {
            fs::remove_file(place(file)).unwrap();
            std::os::unix::fs::symlink(place("old").join(file), place(file)).unwrap();
        }
        tokio::spawn(renewal.run(Duration::from_millis(20)));
        assert!(connect(address, &old).await.is_ok());
        for file in ["c.pem", "k.pem"] {
            std::os::unix::fs::symlink(place("new").join(file), place("link")).unwrap();
            fs::rename(place("link"), place(file)).unwrap();
        }
        let noticed = async { while connect(address, &new).await.is_err() {} };
        tokio::time::timeout(Duration::from_secs(30), noticed).await.unwrap();
    }

    #[tokio::test]
    async fn a_running_homeserver_hears_the_hangup() {
        let directory = tempfile::tempdir().unwrap();
        let (domain, listen) = ("a.test".parse().unwrap(), "127.0.0.1:0".parse().unwrap());
        let created = create(directory.path(), &Setup::new(domain, listen)).unwrap();
        let config = Config::load(&created.config).unwrap();
        // From here on it does not end the process.
        let _heard = signal(SignalKind::hangup()).unwrap();
        let node = Node::start_on(&config, MemoryEngine::new(), Arc::new(SystemClock)).await.unwrap();
        let address = node.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let running = tokio::spawn(node.run(async { drop(stopped.await) }));

        let new = made("a.test");
        assert!(connect(address, &new).await.is_err());
        fs::write(&config.certificate, &new.server_chain).unwrap();
        fs::write(&config.certificate_key, new.server_key.as_bytes()).unwrap();
        let noticed = async {
            while connect(address, &new).await.is_err() {
                let sent = std::process::Command::new("kill").args(["-HUP", &std::process::id().to_string()]).status();
                assert!(sent.unwrap().success());
            }
        };
        // By itself it would look twice before.
        tokio::time::timeout(PERIOD * 3 / 2, noticed).await.unwrap();
        stop.send(()).unwrap();
        running.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_homeserver_without_authorities_of_its_own_trusts_the_public_ones() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &made("a.test"));
        assert!(!files(directory.path()).load().unwrap().roots.is_empty());
    }
}
