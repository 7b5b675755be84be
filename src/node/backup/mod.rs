//! Backups: a directory that holds any number of them. Each is a list of the files that a database had at one moment, by their
//! SHA-256; a file that several have in common is there once, so that a backup costs what has changed since the one before.
//!
//! ```text
//! DIR/bennu-backup            what the directory is, and of which home domain
//! DIR/backups/<time>          one backup: a list with a checksum of its own
//! DIR/files/<SHA-256>         content
//! ```
//!
//! A list is written last, and nothing that a list names is written to or deleted before the list is: whenever it stops, what was
//! there before can be restored. Neither configuration nor keys are in it; the storage key above all has to be kept elsewhere.

mod list;
mod restore;
mod take;
#[cfg(test)]
mod tests;
mod verify;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::NodeError;
use crate::{
    base::{Domain, hex},
    crypto::Sha256,
};

pub use list::{Entry, List};
pub use restore::{LOCK as RESTORE_LOCK, Restored, restore};
pub use take::{Source, Taken, refuse_inside, take};
pub use verify::{Verified, verify};

/// First line of the file that says what a directory is.
const MARK: &str = "bennu backup 1";

/// Name of that file.
const MARK_FILE: &str = "bennu-backup";

/// Most bytes of that file.
const MAX_MARK: u64 = 1_024;

/// Bytes copied at a time.
const CHUNK: usize = 1 << 20;

/// How far something has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that were looked at.
    pub done: u64,
    /// Of so many.
    pub of: u64,
}

/// Told how far it has come, often.
pub type Tell<'a> = &'a mut dyn FnMut(Progress);

/// A directory of backups.
pub struct Set {
    directory: PathBuf,
    /// Whose backups these are.
    pub domain: Domain,
}

/// Held while a directory is written to, or a data directory is.
pub struct Lock(#[expect(dead_code, reason = "it is unlocked when it is closed")] File);

impl Set {
    /// Opens a directory of backups.
    ///
    /// # Errors
    /// [`NodeError`] if it is none, or cannot be read.
    pub fn open(directory: &Path) -> Result<Self, NodeError> {
        let mark = directory.join(MARK_FILE);
        let mut content = String::new();
        let read = open(&mark).and_then(|file| file.take(MAX_MARK).read_to_string(&mut content));
        match read {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
                return Err(wrong(directory, "is no directory of backups"));
            }
            Err(error) => return Err(NodeError::File { path: mark, error }),
        }
        let mut lines = content.lines();
        let domain = match (lines.next(), lines.next()) {
            (Some(MARK), Some(domain)) => domain.parse().ok(),
            (Some(other), _) if other.starts_with("bennu backup ") => {
                return Err(wrong(directory, "holds backups of a newer bennu: upgrade bennu"));
            }
            _ => None,
        };
        let domain = domain.ok_or_else(|| wrong(directory, "is no directory of backups"))?;
        Ok(Self { directory: directory.to_owned(), domain })
    }

    /// Opens a directory of backups of a home domain; makes one of a directory that is empty, or missing while its parent exists.
    ///
    /// # Errors
    /// [`NodeError`] if it holds anything else, or cannot be written to.
    fn open_or_make(directory: &Path, domain: &Domain) -> Result<Self, NodeError> {
        let mark = format!("{MARK}\n{domain}\n");
        let is_begun = |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| is_begun(&entry.path(), &mark));
        match fs::read_dir(directory).map(|mut entries| entries.all(is_begun)) {
            Ok(true) => {}
            Ok(false) if directory.join(MARK_FILE).exists() => {
                let set = Self::open(directory)?;
                if set.domain != *domain {
                    return Err(wrong(directory, format!("holds backups of {}, not of {domain}", set.domain)));
                }
                return set.ready();
            }
            // Nothing of somebody else's is touched.
            Ok(false) => return Err(wrong(directory, "holds something else than backups: choose an empty directory")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_directory(directory)?,
            Err(error) => return Err(NodeError::File { path: directory.to_owned(), error }),
        }
        let set = Self { directory: directory.to_owned(), domain: domain.clone() };
        set.write(&directory.join(MARK_FILE), mark.as_bytes())?;
        set.ready()
    }

    /// With the directories that belong to it.
    fn ready(self) -> Result<Self, NodeError> {
        for path in [self.files(), self.lists()] {
            if !path.is_dir() {
                make_directory(&path)?;
            }
        }
        Ok(self)
    }

    fn files(&self) -> PathBuf {
        self.directory.join("files")
    }

    fn lists(&self) -> PathBuf {
        self.directory.join("backups")
    }

    fn file(&self, entry: &Entry) -> PathBuf {
        self.files().join(hex::encode(&entry.hash))
    }

    /// The names of the backups, the oldest first.
    ///
    /// # Errors
    /// [`NodeError::File`] if they cannot be listed.
    pub fn names(&self) -> Result<Vec<String>, NodeError> {
        let path = self.lists();
        let failed = |error| NodeError::File { path: path.clone(), error };
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if list::is_name(&name) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Reads a backup's list: the one of this name, or the newest.
    ///
    /// # Errors
    /// [`NodeError`] if there is none, or it is not what its checksum says.
    pub fn list(&self, name: Option<&str>) -> Result<List, NodeError> {
        let names = self.names()?;
        let name = match name {
            Some(name) => names.iter().find(|known| *known == name),
            None => names.last(),
        };
        let name = name.ok_or_else(|| wrong(&self.directory, "has no such backup"))?;
        let path = self.lists().join(name);
        let list = List::read(&path, name)?;
        if list.domain != self.domain {
            return Err(wrong(&path, format!("is of {}, not of {}", list.domain, self.domain)));
        }
        Ok(list)
    }

    /// Writes a small file, all of it or nothing: it is on the disk when this returns.
    fn write(&self, path: &Path, content: &[u8]) -> Result<(), NodeError> {
        let begun = self.directory.join("begun");
        let failed = |error| NodeError::File { path: path.to_owned(), error };
        let written = write_new(&begun, |file| file.write_all(content)).and_then(|()| fs::rename(&begun, path));
        written.inspect_err(|_| _ = fs::remove_file(&begun)).map_err(failed)?;
        sync(path.parent().unwrap_or(&self.directory))
    }
}

impl Lock {
    /// Locks a file, which is made if it is not there.
    ///
    /// # Errors
    /// [`NodeError`] if somebody else holds it.
    fn take(path: &Path, whose: &str) -> Result<Self, NodeError> {
        let failed = |error| NodeError::File { path: path.to_owned(), error };
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(fs::TryLockError::WouldBlock) => Err(NodeError::Config(format!("{whose} is under way"))),
            Err(fs::TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

/// Whether this is all that a first backup can leave that was interrupted before it could say whose it is: directories with
/// nothing in them, and a part of the mark.
fn is_begun(path: &Path, mark: &str) -> bool {
    match path.file_name().and_then(|name| name.to_str()) {
        Some("files" | "backups") => fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none()),
        Some("begun") => {
            let mut content = String::new();
            let read = open(path).and_then(|file| file.take(MAX_MARK).read_to_string(&mut content));
            read.is_ok() && mark.starts_with(&content)
        }
        _ => false,
    }
}

/// What is the matter with a path.
fn wrong(path: &Path, what: impl std::fmt::Display) -> NodeError {
    NodeError::Config(format!("{} {what}", path.display()))
}

/// Makes a directory for this user only, not its parents: a missing parent is more likely a disk not mounted.
fn make_directory(path: &Path) -> Result<(), NodeError> {
    let made = fs::DirBuilder::new().mode(0o700).create(path);
    made.map_err(|error| NodeError::File { path: path.to_owned(), error })?;
    sync(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// What was made, renamed or deleted in a directory is so on the disk too.
fn sync(directory: &Path) -> Result<(), NodeError> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| NodeError::File { path: directory.to_owned(), error })
}

/// Writes a file for this user only, in place of one that is there; it is on the disk when this returns.
fn write_new(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(path)?;
    write(&mut file)?;
    file.sync_all()
}

/// Opens a file to read it. A directory of backups comes from elsewhere: nothing else is waited for, or read without end.
fn open(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    File::open(path)
}

/// Reads a file to its end, or one byte beyond `most`, through `pass`; gives the SHA-256 and the size of what was read.
fn read_through(
    path: &Path,
    most: u64,
    mut pass: impl FnMut(&[u8]) -> Result<(), NodeError>,
) -> Result<([u8; 32], u64), NodeError> {
    let failed = |error| NodeError::File { path: path.to_owned(), error };
    let mut file = open(path).map_err(failed)?.take(most.saturating_add(1));
    let (mut chunk, mut hash, mut size) = (vec![0; CHUNK], Sha256::new(), 0);
    loop {
        let read = match file.read(&mut chunk) {
            Ok(0) => return Ok((hash.finish(), size)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        hash.update(&chunk[..read]);
        size += read as u64;
        pass(&chunk[..read])?;
    }
}

/// Copies a file, up to one byte beyond `most`, to one that is for this user only, and on the disk when this returns; gives the SHA-256
/// and the size of what was copied.
fn copy(
    from: &Path,
    to: &Path,
    most: u64,
    progress: &mut Progress,
    tell: Tell<'_>,
) -> Result<([u8; 32], u64), NodeError> {
    let failed = |error| NodeError::File { path: to.to_owned(), error };
    let mut read = Err(wrong(from, "was not read"));
    let written = write_new(to, |file| {
        read = read_through(from, most, |chunk| {
            file.write_all(chunk).map_err(failed)?;
            progress.done += chunk.len() as u64;
            tell(*progress);
            Ok(())
        });
        Ok(())
    });
    written.map_err(failed).and(read)
}
