//! Backups of a small database: what they cost, what is noticed about them, and what is left alone.

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt as _, path::PathBuf};

use rustix::fs::{FileType, Mode};
use tempfile::TempDir;

use super::*;
use crate::{
    base::Timestamp,
    node::{
        Config, life, read_storage_key,
        setup::{Setup, create},
    },
    store::{Batch, Engine as _, Key, OpenError, Options, RocksEngine, RocksOptions, Store, Table},
};

/// A homeserver's files, and a database that nobody serves.
struct Home {
    directory: TempDir,
    config: Config,
}

const NOW: u64 = 1_795_000_000;

fn at(second: u64) -> Timestamp {
    Timestamp((NOW + second) * 1_000)
}

impl Home {
    fn new(domain: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let setup = Setup::new(domain.parse().unwrap(), "127.0.0.1:0".parse().unwrap());
        let created = create(&directory.path().join("home"), &setup).unwrap();
        Self { config: Config::load(&created.config).unwrap(), directory }
    }

    fn set(&self) -> PathBuf {
        self.directory.path().join("backups")
    }

    async fn open(&self) -> Store {
        let options = RocksOptions { create: true, ..Default::default() };
        let engine = RocksEngine::open(&self.config.data, &options).unwrap();
        let store = Store::open(engine, Options::new(|error| panic!("{error}"))).unwrap();
        life::check_storage_key(&store, &read_storage_key(&self.config.storage_key).unwrap()).await.unwrap();
        life::incarnation(&store, &self.config).await.unwrap();
        store
    }

    /// Adds rows to the database, and backs it up.
    async fn back_up(&self, rows: std::ops::Range<u32>, second: u64, keep: Option<usize>) -> Result<Taken, NodeError> {
        let store = self.open().await;
        let mut batch = Batch::new();
        for row in rows {
            batch.put(Table::DsMeta, Key::new().u32(row), vec![7; 1_000]);
        }
        store.submit(batch).unwrap().await.unwrap();
        let files = self.config.data.join("snapshot");
        store.snapshot(files.clone()).await.unwrap();
        // It is not part of the backup any more.
        let mut batch = Batch::new();
        batch.put(Table::DsMeta, Key::new().u32(u32::MAX), vec![1]);
        store.submit(batch).unwrap().await.unwrap();
        let (domain, incarnation) = life::identity(&store).await.unwrap().unwrap();
        let source = Source { files: &files, domain: &domain, incarnation };
        let taken = take(&source, &self.set(), keep, at(second), &mut |_| ());
        fs::remove_dir_all(&files).unwrap();
        store.close().await.unwrap();
        taken
    }

    fn destroy(&self) {
        fs::remove_dir_all(&self.config.data).unwrap();
    }

    async fn restore(&self) -> Result<Restored, NodeError> {
        restore(&self.config, &Set::open(&self.set())?, None, &mut |_| ()).await
    }

    async fn rows(&self) -> usize {
        let store = self.open().await;
        let rows = store.durable().scan(Table::DsMeta, Key::new().., crate::store::Limit::rows(100_000)).await.unwrap();
        store.close().await.unwrap();
        rows.len()
    }
}

/// Every file below a directory with its content.
fn content(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(content(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

fn verified(set: &Path, name: Option<&str>) -> Result<Verified, NodeError> {
    verify(&Set::open(set)?, name, &mut |_| ())
}

#[tokio::test]
async fn a_backup_costs_what_has_changed_and_each_can_be_restored() {
    let home = Home::new("a.test");
    let first = home.back_up(0..2_000, 0, None).await.unwrap();
    assert_eq!((first.name.as_str(), first.new_bytes), ("20261118T110640Z", first.bytes));
    let second = home.back_up(2_000..2_010, 1, None).await.unwrap();
    assert!(second.new_bytes < second.bytes / 10 && second.bytes > 2_000_000, "{second:?}");
    for name in [Some(&first.name[..]), Some(&second.name), None] {
        verified(&home.set(), name).unwrap();
    }
    for (name, rows) in [(&first.name, 2_000), (&second.name, 2_011)] {
        home.destroy();
        let set = Set::open(&home.set()).unwrap();
        let mut told = Progress::default();
        let restored = restore(&home.config, &set, Some(name), &mut |progress| told = progress).await.unwrap();
        assert_eq!((&restored.name, told.done, told.of), (name, restored.bytes, restored.bytes));
        assert_eq!(home.rows().await, rows);
    }
    // The newest only is kept: files that only the first had go, and the second is whole.
    let third = home.back_up(0..0, 2, Some(2)).await.unwrap();
    assert_eq!(third.deleted, 1);
    assert_eq!(Set::open(&home.set()).unwrap().names().unwrap(), [second.name.clone(), third.name.clone()]);
    let listed = |name: &str| Set::open(&home.set()).unwrap().list(Some(name)).unwrap().files;
    let mut used: Vec<_> =
        [&second.name, &third.name].iter().flat_map(|name| listed(name)).map(|file| file.hash).collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(content(&home.set().join("files")).len(), used.len());
    for name in [&second.name, &third.name] {
        verified(&home.set(), Some(name)).unwrap();
    }
}

#[tokio::test]
async fn a_restored_store_lives_another_life_and_belongs_to_its_owner_alone() {
    let home = Home::new("a.test");
    home.back_up(0..10, 0, None).await.unwrap();
    let incarnation = async || {
        let store = home.open().await;
        let found = life::incarnation(&store, &home.config).await.unwrap();
        store.close().await.unwrap();
        found
    };
    let before = incarnation().await;
    home.destroy();
    home.restore().await.unwrap();
    assert_ne!(incarnation().await, before);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&home.config.data), 0o700);
    for file in content(&home.set()).keys().chain(content(&home.config.data).keys()) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        // What RocksDB makes later is inside a directory that is private.
        if file.starts_with(home.set()) || name.ends_with(".sst") && mode(file) != 0o644 {
            assert_eq!(mode(file), 0o600, "{}", file.display());
        }
    }
    // A backup of the new life does not take files of the old one for its own because they are called alike.
    let next = home.back_up(10..20, 5, None).await.unwrap();
    home.destroy();
    verified(&home.set(), Some(&next.name)).unwrap();
    home.restore().await.unwrap();
    assert_eq!(home.rows().await, 20);
}

#[tokio::test]
async fn damage_anywhere_in_a_backup_is_noticed_and_nothing_is_restored_from_it() {
    let home = Home::new("a.test");
    let taken = home.back_up(0..100, 0, None).await.unwrap();
    home.destroy();
    let whole = content(&home.set());
    for (path, bytes) in whole.iter().filter(|(path, _)| !path.ends_with("lock")) {
        let changes: [Option<Vec<u8>>; 4] = [
            None,
            Some(bytes[..bytes.len() / 2].to_vec()),
            Some([bytes, &b"x"[..]].concat()),
            Some(
                bytes
                    .iter()
                    .enumerate()
                    .map(|(at, byte)| if at == bytes.len() / 2 { byte ^ 1 } else { *byte })
                    .collect(),
            ),
        ];
        for change in changes.into_iter().filter(|change| change.as_ref() != Some(bytes)) {
            match &change {
                None => fs::remove_file(path).unwrap(),
                Some(changed) => fs::write(path, changed).unwrap(),
            }
            let what = format!("{} of {} bytes", path.display(), change.map_or(0, |change| change.len()));
            // The mark may gain a line.
            if !path.ends_with("bennu-backup") {
                assert!(verified(&home.set(), None).is_err(), "{what}");
                let error = home.restore().await.expect_err(&what);
                assert!(!error.to_string().contains("panic"), "{error}");
            }
            assert!(!home.config.data.join("CURRENT").exists(), "{what}");
            fs::write(path, bytes).unwrap();
        }
    }
    // What the attempts have left is in nobody's way.
    assert_eq!(home.restore().await.unwrap().name, taken.name);
    assert_eq!(home.rows().await, 100);
}

#[tokio::test]
async fn what_is_no_file_is_neither_waited_for_nor_read_without_end() {
    let home = Home::new("a.test");
    home.back_up(0..100, 0, None).await.unwrap();
    home.destroy();
    let lock = home.set().join("lock");
    for (path, bytes) in content(&home.set()).iter().filter(|(path, _)| **path != lock) {
        for make in [
            (|path| std::os::unix::fs::symlink("/dev/zero", path)) as fn(&Path) -> io::Result<()>,
            |path| Ok(rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RUSR, 0)?),
            |path| fs::create_dir(path),
        ] {
            fs::remove_file(path).unwrap();
            make(path).unwrap();
            for error in [verified(&home.set(), None).unwrap_err(), home.restore().await.unwrap_err()] {
                assert!(error.to_string().contains("no regular file"), "{}: {error}", path.display());
            }
            assert!(!home.config.data.join("CURRENT").exists());
            let gone = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
            gone.and_then(|()| fs::write(path, bytes)).unwrap();
        }
    }
    // Something without end is read no further than what should be there.
    let mut read = 0;
    let endless = |chunk: &[u8]| {
        read += chunk.len();
        Ok(())
    };
    let file = home.directory.path().join("long");
    fs::write(&file, vec![7; 3 * CHUNK]).unwrap();
    assert_eq!(read_through(&file, 5, endless).unwrap().1, 6);
    assert_eq!(read, 6);
}

#[tokio::test]
async fn a_first_backup_that_was_interrupted_before_it_had_a_mark_can_be_taken_again() {
    let home = Home::new("a.test");
    for left in [&["begun"][..], &["files"], &["backups", "begun", "files"]] {
        fs::create_dir_all(home.set()).unwrap();
        for name in left {
            let path = home.set().join(name);
            if *name == "begun" { fs::write(path, "bennu ba") } else { fs::create_dir(path) }.unwrap();
        }
        home.back_up(0..10, 0, None).await.unwrap();
        verified(&home.set(), None).unwrap();
        fs::remove_dir_all(home.set()).unwrap();
    }
    // Somebody else's have something in them.
    for others in ["files/photo.jpg", "backups/letter.txt", "begun"] {
        let path = home.set().join(others);
        fs::create_dir_all(path.parent().unwrap()).and_then(|()| fs::write(&path, "somebody's")).unwrap();
        let refused = home.back_up(0..10, 0, None).await.unwrap_err().to_string();
        assert!(refused.contains("holds something else than backups"), "{others}: {refused}");
        assert_eq!(content(&home.set()).len(), 1);
        fs::remove_dir_all(home.set()).unwrap();
    }
}

#[tokio::test]
async fn directories_of_others_and_of_other_domains_are_left_alone() {
    let (home, other) = (Home::new("a.test"), Home::new("b.test"));
    fs::create_dir(home.set()).unwrap();
    fs::write(home.set().join("photo.jpg"), "somebody's").unwrap();
    let before = content(&home.set());
    let refused = home.back_up(0..10, 0, None).await.unwrap_err().to_string();
    assert!(refused.contains("holds something else than backups"), "{refused}");
    assert!(verified(&home.set(), None).unwrap_err().to_string().contains("is no directory of backups"));
    assert_eq!(content(&home.set()), before);
    fs::remove_dir_all(home.set()).unwrap();
    fs::write(home.set(), "a file").unwrap();
    assert!(matches!(home.back_up(0..1, 0, None).await, Err(NodeError::File { .. })));
    assert_eq!(fs::read_to_string(home.set()).unwrap(), "a file");
    fs::remove_file(home.set()).unwrap();

    other.back_up(0..10, 0, None).await.unwrap();
    fs::rename(other.set(), home.set()).unwrap();
    let before = content(&home.set());
    let refused = home.back_up(0..10, 1, None).await.unwrap_err().to_string();
    assert!(refused.contains("holds backups of b.test, not of a.test"), "{refused}");
    home.destroy();
    let refused = home.restore().await.unwrap_err().to_string();
    assert!(refused.contains("these are backups of b.test"), "{refused}");
    assert_eq!(content(&home.set()), before);
    assert!(!home.config.data.exists());
}

#[tokio::test]
async fn nothing_is_restored_over_anything_or_with_another_key() {
    let home = Home::new("a.test");
    home.back_up(0..10, 0, None).await.unwrap();
    // A database.
    let before = content(&home.config.data);
    let refused = home.restore().await.unwrap_err().to_string();
    assert!(refused.contains("holds a database already, which stays as it is"), "{refused}");
    assert_eq!(content(&home.config.data), before);
    // Something else.
    home.destroy();
    fs::create_dir(&home.config.data).unwrap();
    fs::write(home.config.data.join("photo.jpg"), "somebody's").unwrap();
    let refused = home.restore().await.unwrap_err().to_string();
    assert!(refused.contains("is not empty"), "{refused}");
    assert_eq!(content(&home.config.data).len(), 1);
    home.destroy();
    // Another storage key.
    let key = fs::read(&home.config.storage_key).unwrap();
    fs::write(&home.config.storage_key, [1; 32]).unwrap();
    let refused = home.restore().await.unwrap_err().to_string();
    assert_eq!(refused, "the storage key is not the one of this database");
    assert!(!home.config.data.join("CURRENT").exists());
    fs::write(&home.config.storage_key, key).unwrap();
    home.restore().await.unwrap();
    assert_eq!(home.rows().await, 10);
}

#[tokio::test]
async fn two_at_once_do_not_get_into_each_others_way() {
    let home = Home::new("a.test");
    home.back_up(0..10, 0, None).await.unwrap();
    {
        let _other = Lock::take(&home.set().join("lock"), "x").unwrap();
        let refused = home.back_up(0..0, 1, None).await.unwrap_err().to_string();
        assert_eq!(refused, "another backup into this directory is under way");
    }
    home.destroy();
    make_directory(&home.config.data).unwrap();
    {
        let _other = Lock::take(&home.config.data.join("restore.lock"), "x").unwrap();
        let refused = home.restore().await.unwrap_err().to_string();
        assert_eq!(refused, "another restore into this data directory is under way");
    }
    let one = async { home.restore().await };
    let other = async { home.restore().await };
    let (one, other) = tokio::join!(one, other);
    assert!(one.is_ok() != other.is_ok(), "{one:?}, {other:?}");
    assert_eq!(home.rows().await, 10);
}

#[tokio::test]
async fn a_restore_that_was_interrupted_anywhere_is_told_of_and_can_be_done_again() {
    let home = Home::new("a.test");
    home.back_up(0..10, 0, None).await.unwrap();
    home.destroy();
    home.restore().await.unwrap();
    let files: Vec<_> = content(&home.config.data).into_keys().filter(|path| !path.ends_with("CURRENT")).collect();
    // So many files were moved before it was killed; the others were still beside them.
    for moved in 0..=files.len() {
        let staging = home.config.data.join("restoring");
        fs::create_dir(&staging).unwrap();
        let current = home.config.data.join("CURRENT");
        fs::rename(&current, staging.join("CURRENT")).unwrap();
        for file in content(&home.config.data).keys().filter(|path| !path.starts_with(&staging)).skip(moved) {
            fs::rename(file, staging.join(file.file_name().unwrap())).unwrap();
        }
        let opened = RocksEngine::open(&home.config.data, &RocksOptions { create: true, ..Default::default() });
        assert!(matches!(opened, Err(OpenError::Interrupted(_))), "{moved}");
        home.restore().await.unwrap_or_else(|error| panic!("{moved}: {error}"));
        assert!(!staging.exists());
    }
    assert_eq!(home.rows().await, 10);
    let engine = RocksEngine::open(&home.config.data, &RocksOptions::default()).unwrap();
    engine.close().unwrap();
}

#[tokio::test]
async fn a_clock_that_went_back_makes_no_backup_look_newer_than_it_is() {
    let home = Home::new("a.test");
    home.back_up(0..10, 10, None).await.unwrap();
    for (second, why) in [(10, "of this very second: try again"), (9, "is the clock right?")] {
        let refused = home.back_up(0..0, second, None).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
}
