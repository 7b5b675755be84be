//! Taking a backup: what is not there yet is copied, then the list is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use super::{Entry, List, Lock, NodeError, Progress, Set, Tell, list, sync, wrong};
use crate::{
    base::{Domain, Timestamp, hex},
    wire::queue::Incarnation,
};

/// Where the files of a database are as of one moment, and whose it is.
pub struct Source<'a> {
    /// The directory.
    pub files: &'a Path,
    /// The home domain.
    pub domain: &'a Domain,
    /// The life of the store.
    pub incarnation: Incarnation,
}

/// What was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What the backup is called.
    pub name: String,
    /// How many files it has.
    pub files: usize,
    /// How many bytes.
    pub bytes: u64,
    /// How many of them were not there before.
    pub new_bytes: u64,
    /// How many older backups were deleted.
    pub deleted: usize,
}

/// Adds a backup to a directory, which is made if it is missing or empty; then keeps no more than the newest `keep`.
///
/// # Errors
/// [`NodeError`] if the directory is something else, another backup into it is under way, or something cannot be read or written.
/// The backups that are there stay what they are.
pub fn take(
    source: &Source<'_>,
    directory: &Path,
    keep: Option<usize>,
    now: Timestamp,
    tell: Tell<'_>,
) -> Result<Taken, NodeError> {
    let set = Set::open_or_make(directory, source.domain)?;
    let _lock = Lock::take(&directory.join("lock"), "another backup into this directory")?;
    let name = list::name_of(now);
    let names = set.names()?;
    match names.last() {
        Some(last) if *last == name => return Err(wrong(directory, "has a backup of this very second: try again")),
        Some(last) if *last > name => {
            return Err(wrong(directory, format!("has a backup of a later time, {last}: is the clock right?")));
        }
        _ => {}
    }
    let known = known(&set, &names, source.incarnation);
    let found = files_of(source.files)?;
    let mut progress = Progress { done: 0, of: found.values().sum() };
    let (mut files, mut new_bytes) = (Vec::new(), 0);
    for (name, size) in found {
        // Such a file never changes, and within one life of a store no other is ever called so.
        let same = known.get(&name).filter(|same| name.ends_with(".sst") && same.size == size);
        let entry = match same {
            Some(same) => {
                progress.done += size;
                tell(progress);
                same.clone()
            }
            None => copy(&set, &source.files.join(&name), name, &mut progress, tell, &mut new_bytes)?,
        };
        files.push(entry);
    }
    sync(&set.files())?;
    let list = List { name, domain: source.domain.clone(), incarnation: source.incarnation, files };
    set.write(&set.lists().join(&list.name), list.encode().as_bytes())?;
    let deleted = keep.map_or(Ok(0), |keep| prune(&set, keep.max(1)))?;
    Ok(Taken { bytes: list.size(), files: list.files.len(), name: list.name, new_bytes, deleted })
}

/// Refuses a directory that is in the data directory.
///
/// # Errors
/// [`NodeError::Config`] if it is: whatever becomes of the database would become of its backups.
pub fn refuse_inside(directory: &Path, data: &Path) -> Result<(), NodeError> {
    let mut parents = directory.ancestors().map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path });
    let place = parents.find_map(|path| fs::canonicalize(path).ok());
    let is_inside = fs::canonicalize(data).is_ok_and(|data| place.is_some_and(|place| place.starts_with(data)));
    match is_inside {
        true => Err(wrong(directory, "is in the data directory, with which it would be lost: choose another")),
        false => Ok(()),
    }
}

/// The files that earlier backups of the same life have, and that are there with as many bytes as they should have.
fn known(set: &Set, names: &[String], incarnation: Incarnation) -> BTreeMap<String, Entry> {
    // One that is damaged is of no use here; whoever verifies it is told.
    let newest = names.iter().rev().find_map(|name| set.list(Some(name)).ok());
    let entries = newest.filter(|list| list.incarnation == incarnation).map(|list| list.files).unwrap_or_default();
    let is_there = |entry: &Entry| fs::metadata(set.file(entry)).is_ok_and(|file| file.len() == entry.size);
    entries.into_iter().filter(is_there).map(|entry| (entry.name.clone(), entry)).collect()
}

/// The names and sizes of the files to back up, in order.
fn files_of(directory: &Path) -> Result<BTreeMap<String, u64>, NodeError> {
    let failed = |error| NodeError::File { path: directory.to_owned(), error };
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let metadata = entry.metadata().map_err(failed)?;
        if metadata.is_file() {
            found.insert(entry.file_name().to_string_lossy().into_owned(), metadata.len());
        }
    }
    if !found.contains_key("CURRENT") {
        return Err(wrong(directory, "does not hold the files of a database"));
    }
    Ok(found)
}

/// Copies a file under the name of its content.
fn copy(
    set: &Set,
    from: &Path,
    name: String,
    progress: &mut Progress,
    tell: Tell<'_>,
    new_bytes: &mut u64,
) -> Result<Entry, NodeError> {
    let begun = set.files().join("begun");
    let failed = |error| NodeError::File { path: begun.clone(), error };
    let result = super::copy(from, &begun, u64::MAX, progress, tell);
    let (hash, size) = result.inspect_err(|_| _ = fs::remove_file(&begun))?;
    let entry = Entry { name, size, hash };
    let to = set.file(&entry);
    // The same content is there already, or what should be it is replaced.
    if fs::metadata(&to).map_or(0, |there| there.len()) != size || size == 0 {
        *new_bytes += size;
    }
    fs::rename(&begun, &to).map_err(failed)?;
    Ok(entry)
}

/// Deletes the oldest backups but so many, and the files that none of the others has; how many backups.
fn prune(set: &Set, keep: usize) -> Result<usize, NodeError> {
    let mut names = set.names()?;
    let kept = names.split_off(names.len().saturating_sub(keep));
    // If one that is kept cannot be read, nobody knows which files it has.
    let lists = kept.iter().map(|name| set.list(Some(name))).collect::<Result<Vec<_>, _>>()?;
    let used: BTreeSet<_> = lists.iter().flat_map(|list| &list.files).map(|file| hex::encode(&file.hash)).collect();
    for name in &names {
        delete(&set.lists().join(name))?;
    }
    sync(&set.lists())?;
    let directory = set.files();
    let failed = |error| NodeError::File { path: directory.clone(), error };
    for entry in fs::read_dir(&directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.len() == 64 && !used.contains(&name) {
            delete(&entry.path())?;
        }
    }
    Ok(names.len())
}

fn delete(path: &Path) -> Result<(), NodeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(NodeError::File { path: path.to_owned(), error }),
        _ => Ok(()),
    }
}
