//! The end of a homeserver: everything of its own is deleted, and nothing else. The storage key goes first, without which the
//! secrets in the database are lost whatever is left of it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, fcntl_lock};

use super::{Config, NodeError, backup::RESTORE_LOCK};
use crate::store::{OpenError, RESTORING, is_of_database};

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
        // Its socket may be elsewhere, or gone.
        if let Ok(lock) = File::options().write(true).open(config.data.join("LOCK"))
            && fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).is_err()
        {
            return Err(OpenError::InUse(config.data.clone()).into());
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
    /// Gives what is in the data directory and is not the homeserver's: it stays.
    ///
    /// # Errors
    /// [`NodeError::File`] for the first that cannot be deleted; those after it are still there.
    pub fn delete(self) -> Result<Vec<PathBuf>, NodeError> {
        let mut others = Vec::new();
        for path in &self.paths {
            if path.is_dir() {
                others.extend(empty(path)?);
            } else {
                delete(path)?;
                sync_parent(path).map_err(|error| NodeError::File { path: path.clone(), error })?;
            }
        }
        let around = self.paths.iter().filter_map(|path| path.parent());
        for directory in self.paths.iter().map(PathBuf::as_path).chain(around) {
            // One that holds something else stays.
            if fs::remove_dir(directory).is_ok() {
                sync_parent(directory).map_err(|error| NodeError::File { path: directory.to_owned(), error })?;
            }
        }
        Ok(others)
    }
}

/// Deletes a database and what a restore has left in its directory; gives what else is there.
fn empty(data: &Path) -> Result<Vec<PathBuf>, NodeError> {
    let failed = |error| NodeError::File { path: data.to_owned(), error };
    let mut others = Vec::new();
    for entry in fs::read_dir(data).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        match entry.file_name().to_str() {
            Some(name) if is_of_database(name) || name == RESTORE_LOCK => delete(&entry.path())?,
            Some(RESTORING) => {
                others.extend(empty(&entry.path())?);
                let _ = fs::remove_dir(entry.path());
            }
            _ => others.push(entry.path()),
        }
    }
    File::open(data).and_then(|directory| directory.sync_all()).map_err(failed)?;
    Ok(others)
}

fn delete(path: &Path) -> Result<(), NodeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(NodeError::File { path: path.to_owned(), error }),
        _ => Ok(()),
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
        for name in ["CURRENT", "LOG", "LOG.old.17", "MANIFEST-000005", "OPTIONS-000007", "000012.sst", "000013.log"] {
            fs::write(home.join("data").join(name), "x").unwrap();
        }
        fs::create_dir(home.join("data/restoring")).unwrap();
        fs::write(home.join("data/restoring/000001.sst"), "x").unwrap();
        fs::write(home.join("data/restore.lock"), "").unwrap();
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
    fn what_is_in_the_data_directory_and_is_no_database_stays_and_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("home");
        let created = create(&home, &Setup::new("a.test".parse().unwrap(), "127.0.0.1:0".parse().unwrap())).unwrap();
        let others =
            ["MANIFEST-of-mine", "notes.txt", "photographs", "x12.sst"].map(|name| home.join("data").join(name));
        fs::create_dir(&others[2]).unwrap();
        for path in [&others[0], &others[1], &others[2].join("000012.sst"), &others[3], &home.join("data/CURRENT")] {
            fs::write(path, "mine").unwrap();
        }
        let mut left = Belongings::of(&Config::load(&created.config).unwrap()).unwrap().delete().unwrap();
        left.sort();
        assert_eq!(left, others);
        assert!(others[2].join("000012.sst").exists());
        assert!(!home.join("data/CURRENT").exists() && !home.join("keys/storage.key").exists());
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
