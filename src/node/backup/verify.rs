//! Verifying a backup: every file is read, and held against what the list says of it.

use super::{Entry, NodeError, Progress, Set, Tell, read_through, wrong};

/// What was found to be as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What the backup is called.
    pub name: String,
    /// How many files it has.
    pub files: usize,
    /// How many bytes.
    pub bytes: u64,
}

/// Reads a whole backup: the one of this name, or the newest.
///
/// # Errors
/// [`NodeError`] with the first file that is missing, cut off or changed, and how many there are.
pub fn verify(set: &Set, name: Option<&str>, tell: Tell<'_>) -> Result<Verified, NodeError> {
    let list = set.list(name)?;
    let (mut progress, mut first, mut bad) = (Progress { done: 0, of: list.size() }, None, 0_usize);
    for entry in &list.files {
        let checked = check(set, entry, |bytes| {
            progress.done += bytes;
            tell(progress);
        });
        if let Err(error) = checked {
            bad += 1;
            first.get_or_insert(error);
        }
    }
    match first {
        None => Ok(Verified { bytes: list.size(), files: list.files.len(), name: list.name }),
        Some(error) => Err(NodeError::Config(format!(
            "backup {} is damaged, in {bad} of {} files; the first: {error}",
            list.name,
            list.files.len()
        ))),
    }
}

fn check(set: &Set, entry: &Entry, mut read: impl FnMut(u64)) -> Result<(), NodeError> {
    let path = set.file(entry);
    let (hash, size) = read_through(&path, entry.size, |chunk| {
        read(chunk.len() as u64);
        Ok(())
    })?;
    entry.check(hash, size).map_err(|what| wrong(&path, what))
}

impl Entry {
    /// Whether what was read is the file.
    ///
    /// # Errors
    /// What is the matter with it.
    pub(super) fn check(&self, hash: [u8; 32], size: u64) -> Result<(), String> {
        if size != self.size {
            let size = if size > self.size { "more than".into() } else { format!("{size} of") };
            return Err(format!("has {size} {} bytes ({})", self.size, self.name));
        }
        if hash != self.hash {
            return Err(format!("is not what its checksum says ({})", self.name));
        }
        Ok(())
    }
}
