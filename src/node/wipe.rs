//! The end of a homeserver: everything of its own is deleted. The storage key goes first, without which the secrets in the
//! database are lost whatever is left of it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{Config, NodeError};

/// What belongs to a homeserver and to nobody else.
pub struct Belongings {
    /// In the order in which it is deleted.
    paths: Vec<PathBuf>,
}

impl Belongings {
    /// Of the homeserver with this configuration, which must not run. Certificates are its own where `bennu init` has made them.
    ///
    /// # Errors
    /// [`NodeError::Config`] if it runs.
    pub fn of(config: &Config) -> Result<Self, NodeError> {
        if std::os::unix::net::UnixStream::connect(&config.admin_socket).is_ok() {
            return Err(NodeError::Config("the homeserver runs: stop it first".into()));
        }
        let mut paths = vec![config.storage_key.clone(), config.data.clone()];
        if let Some(authority) = config.authority.as_ref().filter(|authority| made_by_init(config, authority)) {
            paths.extend([config.certificate_key.clone(), config.certificate.clone(), authority.clone()]);
        }
        paths.extend([config.admin_socket.clone()]);
        paths.extend(config.file.clone());
        paths.retain(|path| path.exists());
        Ok(Self { paths })
    }

    /// What will be deleted.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Deletes everything, and directories that are empty then. When this returns it is gone from the directories on the disk.
    ///
    /// # Errors
    /// [`NodeError::File`] for the first that cannot be deleted; those after it are still there.
    pub fn delete(self) -> Result<(), NodeError> {
        for path in &self.paths {
            let failed = |error| NodeError::File { path: path.clone(), error };
            let deleted = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            match deleted {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => sync_parent(path).map_err(failed)?,
            }
        }
        for path in self.paths.iter().filter_map(|path| path.parent()) {
            // One that holds something else stays.
            let _ = fs::remove_dir(path);
        }
        Ok(())
    }
}

/// Whether the files of the certificate are beside the configuration, where `bennu init` puts those for development.
fn made_by_init(config: &Config, authority: &Path) -> bool {
    let directory = config.file.as_ref().and_then(|file| file.parent()).map(|parent| parent.join("certs"));
    let inside = |path: &Path| path.parent() == directory.as_deref();
    directory.is_some() && inside(authority) && inside(&config.certificate) && inside(&config.certificate_key)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(parent) {
        Ok(directory) => directory.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::setup::{Setup, create};

    #[test]
    fn all_that_was_set_up_goes_and_what_is_others_stays() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("home");
        let created = create(&home, &Setup::new("a.test".parse().unwrap(), "127.0.0.1:0".parse().unwrap())).unwrap();
        fs::write(home.join("data/CURRENT"), "x").unwrap();
        fs::write(home.join("certs/mine.pem"), "mine").unwrap();
        let config = Config::load(&created.config).unwrap();
        let belongings = Belongings::of(&config).unwrap();
        assert_eq!(belongings.paths()[0], config.storage_key);
        belongings.delete().unwrap();
        let left: Vec<_> = fs::read_dir(&home).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["certs"]);
        assert_eq!(fs::read(home.join("certs/mine.pem")).unwrap(), b"mine");
        assert!(!home.join("certs/server.key.pem").exists());
    }

    #[test]
    fn certificates_from_elsewhere_stay() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("home");
        let created = create(&home, &Setup::new("a.test".parse().unwrap(), "127.0.0.1:0".parse().unwrap())).unwrap();
        let mut config = Config::load(&created.config).unwrap();
        config.certificate = directory.path().join("chain.pem");
        fs::write(&config.certificate, "theirs").unwrap();
        Belongings::of(&config).unwrap().delete().unwrap();
        assert!(config.certificate.exists() && home.join("certs/server.key.pem").exists());
    }

    #[test]
    fn a_homeserver_that_runs_is_not_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let created =
            create(directory.path(), &Setup::new("a.test".parse().unwrap(), "127.0.0.1:0".parse().unwrap())).unwrap();
        let config = Config::load(&created.config).unwrap();
        let _running = std::os::unix::net::UnixListener::bind(&config.admin_socket).unwrap();
        assert!(Belongings::of(&config).is_err());
    }
}
