//! First set-up of a homeserver's directory: configuration, storage key and, if no certificate is given, a development
//! authority with a server certificate. Never overwrites anything.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{NodeError, certificates, renewal};
use crate::{
    base::Domain,
    crypto::{random_secret, system_rng},
};

pub use super::policy::Admission;
pub use crate::federation::Mode;

/// What to set up.
pub struct Setup {
    /// The home domain.
    pub domain: Domain,
    /// UDP address to listen on.
    pub listen: SocketAddr,
    /// TCP address where figures can be read over HTTP, if anywhere.
    pub watch: Option<SocketAddr>,
    /// Certificate chain and key to use (PEM files); development ones are made if there are none.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Who may register.
    pub registration: Admission,
    /// With which homeservers it deals.
    pub federation: Mode,
}

impl Setup {
    /// With development certificates, open to all, and with figures nowhere.
    pub fn new(domain: Domain, listen: SocketAddr) -> Self {
        Self {
            domain,
            listen,
            watch: None,
            certificate: None,
            registration: Admission::default(),
            federation: Mode::default(),
        }
    }
}

/// What was set up.
pub struct Created {
    /// The configuration file.
    pub config: PathBuf,
    /// The certificate of the development authority, if one was made: clients have to trust it.
    pub authority: Option<PathBuf>,
}

/// Sets a homeserver's directory up.
///
/// # Errors
/// [`NodeError::File`] if something cannot be written, or is there already; [`NodeError::Certificate`] if the certificate is not one for
/// the domain.
pub fn create(directory: &Path, setup: &Setup) -> Result<Created, NodeError> {
    let config = directory.join("bennu.toml");
    if config.exists() {
        let error = std::io::Error::new(std::io::ErrorKind::AlreadyExists, "there is a homeserver here already");
        return Err(NodeError::File { path: config, error });
    }
    let mut made = Vec::new();
    let created = fill(directory, setup, &config, &mut made);
    if created.is_err() {
        // Another attempt must not find half of this one in its way.
        for path in made {
            let _ = fs::remove_file(path);
        }
    }
    created
}

fn fill(directory: &Path, setup: &Setup, config: &Path, made: &mut Vec<PathBuf>) -> Result<Created, NodeError> {
    let mut write_new = |path: &Path, content: &[u8], secret| {
        write_new(path, content, secret)?;
        made.push(path.to_owned());
        Ok::<_, NodeError>(())
    };
    make_directory(directory)?;
    make_directory(&directory.join("keys"))?;
    make_directory(&directory.join("data"))?;
    let storage_key = random_secret(&mut system_rng());
    write_new(&directory.join("keys/storage.key"), storage_key.expose(), true)?;

    let (tls, authority) = match &setup.certificate {
        Some((chain, key)) => {
            let section = tls_section(&absolute(chain)?, &absolute(key)?, None);
            renewal::look_at(&setup.domain, chain, key)?;
            (section, None)
        }
        None => {
            make_directory(&directory.join("certs"))?;
            let fresh = certificates::generate(&setup.domain, SystemTime::now())
                .map_err(|error| NodeError::Config(format!("cannot make a development certificate: {error}")))?;
            let authority = directory.join("certs/ca.pem");
            write_new(&authority, fresh.authority.as_bytes(), false)?;
            write_new(&directory.join("certs/server.pem"), fresh.server_chain.as_bytes(), false)?;
            write_new(&directory.join("certs/server.key.pem"), fresh.server_key.as_bytes(), true)?;
            let section =
                tls_section(Path::new("certs/server.pem"), Path::new("certs/server.key.pem"), Some("certs/ca.pem"));
            (section, Some(authority))
        }
    };
    // Last, so that a directory with a configuration is complete.
    write_new(config, settings(setup, &tls).as_bytes(), false)?;
    Ok(Created { config: config.to_owned(), authority })
}

fn settings(setup: &Setup, tls: &str) -> String {
    format!(
        "# Configuration of a Bennu homeserver. Paths are relative to this file. What is commented out is the default.\n\
         \n\
         # The home domain: users are called <uuid>@{domain}.\n\
         domain = \"{domain}\"\n\
         \n\
         # UDP address to listen on. Port 9420 is where clients look.\n\
         listen = \"{listen}\"\n\
         \n\
         # Where the database is, and the key that wraps the server's secrets in it. Keep them apart in backups.\n\
         # data = \"data\"\n\
         # storage_key = \"keys/storage.key\"\n\
         \n\
         # Where the operator's commands (bennu admin) are answered: a Unix socket for this user alone.\n\
         # admin_socket = \"admin.sock\"\n\
         \n\
         {tls}\n\
         [log]\n\
         # What is logged (as in RUST_LOG, which overrides it).\n\
         # filter = \"bennu=info\"\n\
         # The collector that is told how long requests took, by OTLP over HTTP: method, number, status, and nothing of who made\n\
         # them. It needs a program with the cargo feature otlp. Without an address nobody is told.\n\
         # otlp = \"http://127.0.0.1:4318\"\n\
         \n\
         [watch]\n\
         # Where people and programs can see over HTTP how it is: a page with charts, /metrics for Prometheus, /healthz and\n\
         # /readyz. Nothing in it is about one user, but whoever reaches it can read it: keep it on this machine, or behind\n\
         # something that asks who is there. Without an address there is none.\n\
         {watch}\n\
         \n\
         [limits]\n\
         # max_connections = {max_connections}     # at once\n\
         # max_streams = {max_streams}             # at once, of one connection\n\
         # idle_timeout = {idle_timeout}           # seconds\n\
         # max_wait = {max_wait}               # milliseconds until there is time for a request: \"overloaded\" if it stays longer\n\
         # shutdown_grace = {shutdown_grace}       # seconds for exchanges in flight\n\
         # disk_reserve = {disk_reserve}    # bytes free on the disk: with less, nothing is taken in that adds to it\n\
         # queue_entries = {queue_entries}         # messages waiting for one client\n\
         # queue_bytes = {queue_bytes}             # and their bytes\n\
         # queue_key_update_entries = {updates}    # fresh randomness for a queue's ratchet after so many\n\
         # queue_key_update_hours = {hours}        # or so long\n\
         {policy}{federation}",
        domain = setup.domain,
        listen = setup.listen,
        max_connections = limits().max_connections,
        max_streams = limits().max_streams,
        idle_timeout = limits().idle_timeout,
        max_wait = limits().max_wait,
        shutdown_grace = limits().shutdown_grace,
        disk_reserve = limits().disk_reserve,
        watch = match setup.watch {
            Some(address) => format!("listen = \"{address}\""),
            None => format!("# listen = \"127.0.0.1:{}\"", crate::base::limits::DEFAULT_PORT),
        },
        queue_entries = limits().queue_entries,
        queue_bytes = limits().queue_bytes,
        updates = limits().queue_key_update_entries,
        hours = limits().queue_key_update_hours,
        policy = super::policy::template(setup.registration),
        federation = super::federation::template(setup.federation),
    )
}

fn limits() -> super::config::Limits {
    super::config::Limits::default()
}

fn tls_section(chain: &Path, key: &Path, authority: Option<&str>) -> String {
    let authority = match authority {
        Some(path) => format!("# A certification authority to trust beside the public ones.\nauthority = {path:?}\n"),
        None => "# A certification authority to trust beside the public ones.\n# authority = \"certs/ca.pem\"\n".into(),
    };
    format!(
        "[tls]\n# The certificate chain for the home domain, and its private key.\n\
         certificate = {:?}\nkey = {:?}\n{authority}",
        chain.display().to_string(),
        key.display().to_string(),
    )
}

fn absolute(path: &Path) -> Result<PathBuf, NodeError> {
    fs::canonicalize(path).map_err(|error| NodeError::File { path: path.to_owned(), error })
}

fn make_directory(path: &Path) -> Result<(), NodeError> {
    let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.map_err(|error| NodeError::File { path: path.to_owned(), error })
}

fn write_new(path: &Path, content: &[u8], secret: bool) -> Result<(), NodeError> {
    let mode = if secret { 0o600 } else { 0o644 };
    let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.map_err(|error| NodeError::File { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Config;

    fn setup() -> Setup {
        let listen = "127.0.0.1:0".parse().unwrap();
        Setup::new("a.test".parse().unwrap(), listen)
    }

    #[test]
    fn what_is_set_up_can_be_loaded_and_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("home");
        let created = create(&home, &setup()).unwrap();
        let config = Config::load(&created.config).unwrap();
        assert_eq!(config.domain.as_str(), "a.test");
        assert!(config.certificate.exists() && config.storage_key.exists());
        let key = fs::read(&config.storage_key).unwrap();
        assert!(matches!(create(&home, &setup()), Err(NodeError::File { .. })));
        assert_eq!(fs::read(&config.storage_key).unwrap(), key);
    }

    #[test]
    fn what_was_chosen_is_in_the_configuration() {
        for (registration, federation) in
            [(Admission::Open, Mode::Open), (Admission::Invitation, Mode::Allowlist), (Admission::Closed, Mode::Open)]
        {
            let directory = tempfile::tempdir().unwrap();
            let watch = Some("127.0.0.1:7".parse().unwrap());
            let created = create(directory.path(), &Setup { registration, federation, watch, ..setup() }).unwrap();
            let config = Config::load(&created.config).unwrap();
            assert_eq!(config.policy.registration, registration.policy());
            assert_eq!((config.federation.mode, config.watch), (federation, watch));
        }
    }

    #[test]
    fn an_attempt_that_failed_is_not_in_the_way_of_the_next() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("certs")).unwrap();
        let obstacle = directory.path().join("certs/server.pem");
        fs::write(&obstacle, "mine").unwrap();
        assert!(create(directory.path(), &setup()).is_err());
        assert_eq!(fs::read(&obstacle).unwrap(), b"mine", "nothing is overwritten");
        fs::remove_file(obstacle).unwrap();
        create(directory.path(), &setup()).unwrap();
    }

    #[test]
    fn a_certificate_that_is_none_or_for_another_domain_is_refused_and_nothing_is_set_up() {
        let directory = tempfile::tempdir().unwrap();
        let (chain, key) = (directory.path().join("chain.pem"), directory.path().join("key.pem"));
        let home = directory.path().join("home");
        let with = || Setup { certificate: Some((chain.clone(), key.clone())), ..setup() };
        let install = |domain: &str| {
            let made = certificates::generate(&domain.parse().unwrap(), SystemTime::now()).unwrap();
            fs::write(&chain, &made.server_chain).unwrap();
            fs::write(&key, made.server_key.as_bytes()).unwrap();
        };
        assert!(matches!(create(&home, &with()), Err(NodeError::File { .. })));
        install("other.test");
        assert!(create(&home, &with()).is_err());
        install(setup().domain.as_str());
        let right = fs::read(&key).unwrap();
        fs::write(&key, "no key").unwrap();
        assert!(create(&home, &with()).is_err());
        assert!(!home.join("bennu.toml").exists() && !home.join("keys/storage.key").exists());
        fs::write(&key, right).unwrap();
        create(&home, &with()).unwrap();
    }

    #[test]
    fn secrets_are_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        create(directory.path(), &setup()).unwrap();
        for file in ["keys/storage.key", "certs/server.key.pem"] {
            let mode = fs::metadata(directory.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }
}
