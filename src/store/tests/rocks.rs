//! What is particular to RocksDB: which directories are opened, what an operator is told about the others, and what is
//! left after a crash of the process or damage to its files.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::tempdir;

use super::{
    super::{
        migration::{FORMAT, OLDEST},
        *,
    },
    get, key, numbers, open, put,
};

/// Names the directory for [`child`].
const CHILD_DIRECTORY: &str = "BENNU_TEST_CHILD_DIRECTORY";

/// How many batches [`child`] has under way.
const WINDOW: usize = 16;

fn create(path: &Path) -> Result<RocksEngine, OpenError> {
    RocksEngine::open(path, &RocksOptions { create: true, ..RocksOptions::default() })
}

fn reopen(path: &Path) -> Result<RocksEngine, OpenError> {
    RocksEngine::open(path, &RocksOptions::default())
}

fn refusal(path: &Path) -> String {
    reopen(path).err().unwrap().to_string()
}

#[test]
fn a_database_is_created_only_where_it_was_asked_for_and_nothing_is() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("data");
    assert!(matches!(reopen(&path), Err(OpenError::Missing(_))));
    assert!(matches!(
        create(&path.join("below a missing directory")),
        Err(OpenError::Missing(_) | OpenError::Io { .. })
    ));
    assert!(!path.exists());
    drop(create(&path).unwrap());
    drop(reopen(&path).unwrap());

    let occupied = directory.path().join("occupied");
    fs::create_dir(&occupied).unwrap();
    assert!(matches!(reopen(&occupied), Err(OpenError::Missing(_))));
    fs::write(occupied.join("letter.txt"), "mine").unwrap();
    assert!(matches!(create(&occupied), Err(OpenError::NotADatabase(_))));
    let file = occupied.join("letter.txt");
    assert_eq!(create(&file).err().unwrap().to_string(), format!("{} is not a directory", file.display()));
    assert_eq!(fs::read_dir(&occupied).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn a_created_directory_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempdir().unwrap();
    let path = directory.path().join("data");
    drop(create(&path).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_second_opening_is_told_that_the_directory_is_in_use() {
    let directory = tempdir().unwrap();
    let _engine = create(directory.path()).unwrap();
    let expected = format!("data directory {} is in use by another bennu process", directory.path().display());
    assert_eq!(refusal(directory.path()), expected);
}

#[test]
fn another_format_is_refused_and_left_alone() {
    let newer = format!("newer than format {FORMAT} of this bennu");
    for (format, said) in [(FORMAT + 1, &newer[..]), (OLDEST - 1, "development version")] {
        let directory = tempdir().unwrap();
        let change = Change::Put(format.to_be_bytes().to_vec().into());
        let other = Operation { table: Table::Meta, key: Key::new().bytes("format"), change };
        create(directory.path()).unwrap().write(&[other]).unwrap();
        for _ in 0..2 {
            match create(directory.path()) {
                Err(OpenError::Newer { found, .. }) if found == format && format > FORMAT => {}
                Err(OpenError::Development { .. }) if format < OLDEST => {}
                _ => panic!("format {format} is not refused as such"),
            }
        }
        assert!(refusal(directory.path()).contains(said));
    }
}

#[test]
fn a_database_that_does_not_say_its_format_is_refused() {
    let directory = tempdir().unwrap();
    let row = |table, key: &str, change| Operation { table, key: Key::new().bytes(key), change };
    let engine = create(directory.path()).unwrap();
    engine.write(&[row(Table::AsUsers, "someone", Change::Put("x".into()))]).unwrap();
    engine.write(&[row(Table::Meta, "format", Change::Delete)]).unwrap();
    drop(engine);
    assert!(matches!(create(directory.path()), Err(OpenError::Damaged { .. })));
}

#[tokio::test]
async fn a_creation_that_was_cut_short_is_finished() {
    let directory = tempdir().unwrap();
    let format = Operation { table: Table::Meta, key: Key::new().bytes("format"), change: Change::Delete };
    create(directory.path()).unwrap().write(&[format]).unwrap();
    drop(reopen(directory.path()).unwrap());
    let format = reopen(directory.path()).unwrap().get(Table::Meta, b"format").await.unwrap();
    assert_eq!(format.unwrap()[..], FORMAT.to_be_bytes());
}

#[test]
fn damaged_files_are_reported_as_such() {
    let directory = tempdir().unwrap();
    drop(create(directory.path()).unwrap());
    let manifest = file_named(directory.path(), |name| name.starts_with("MANIFEST"));
    let mut bytes = fs::read(&manifest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&manifest, bytes).unwrap();
    assert!(refusal(directory.path()).contains("is damaged, restore it from a backup"));
    fs::remove_file(manifest).unwrap();
    assert!(matches!(reopen(directory.path()), Err(OpenError::Damaged { .. })));
}

#[tokio::test]
async fn a_torn_end_of_the_log_is_no_damage_but_a_hole_in_it_is() {
    let directory = tempdir().unwrap();
    let (store, _, _) = open(create(directory.path()).unwrap());
    for number in 0..20 {
        store.submit(put(Table::AsUsers, number, "a value of some length")).unwrap().await.unwrap();
    }
    drop(store);
    let log = file_named(directory.path(), |name| name.ends_with(".log"));
    let whole = fs::read(&log).unwrap();
    let mut holed = whole.clone();
    holed[whole.len() / 2] ^= 0xff;
    fs::write(&log, holed).unwrap();
    assert!(matches!(reopen(directory.path()), Err(OpenError::Damaged { .. })));

    fs::write(&log, &whole[..whole.len() - 3]).unwrap();
    let (store, _, _) = open(reopen(directory.path()).unwrap());
    let rows = numbers(store.durable(), Table::AsUsers, Key::new().., Limit::rows(99)).await;
    assert_eq!(rows, (0..19).collect::<Vec<_>>());
}

#[tokio::test]
async fn flushing_lets_the_log_go() {
    let directory = tempdir().unwrap();
    let (store, _, _) = open(create(directory.path()).unwrap());
    store.submit(put(Table::AsUsers, 1, "needle in the log")).unwrap().await.unwrap();
    let in_log = || fs::read(file_named(directory.path(), |name| name.ends_with(".log"))).unwrap();
    assert!(in_log().windows(6).any(|window| window == b"needle"));
    store.flush().unwrap();
    assert!(!in_log().windows(6).any(|window| window == b"needle"));
    assert_eq!(get(store.durable(), Table::AsUsers, 1).await.as_deref(), Some("needle in the log"));
}

#[tokio::test]
async fn purging_leaves_nothing_of_what_was_overwritten_or_deleted() {
    let directory = tempdir().unwrap();
    let (store, _, _) = open(create(directory.path()).unwrap());
    let files_with = |needle: &str| {
        // Files that are over go while one looks.
        let files = fs::read_dir(directory.path()).unwrap().filter_map(|file| fs::read(file.unwrap().path()).ok());
        files.filter(|file| file.windows(needle.len()).any(|window| window == needle.as_bytes())).count()
    };
    // Fewer flushes than the engine compacts by itself.
    for value in ["needle one", "needle two"] {
        store.submit(put(Table::AsKeys, 1, value)).unwrap().await.unwrap();
        store.submit(put(Table::AsKeys, 2, "needle to be deleted")).unwrap().await.unwrap();
        store.flush().unwrap();
    }
    let mut deletion = Batch::new();
    deletion.delete(Table::AsKeys, key(2));
    store.submit(deletion).unwrap().await.unwrap();
    store.flush().unwrap();
    assert!(files_with("needle one") > 0 && files_with("to be deleted") > 0, "what a plain flush leaves");
    store.purge(Table::AsKeys).await.unwrap();
    assert_eq!((files_with("needle one"), files_with("to be deleted")), (0, 0));
    assert_eq!(get(store.durable(), Table::AsKeys, 1).await.as_deref(), Some("needle two"));
}

#[tokio::test]
async fn another_process_has_the_directory_until_it_is_killed_and_loses_nothing_it_acknowledged() {
    let directory = tempdir().unwrap();
    let mut child = start_child(directory.path());
    let mut acknowledged = None;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        // The test harness may have begun the line.
        if let Some(number) = line.unwrap().rsplit("acknowledged ").next().and_then(|number| number.parse::<u64>().ok())
        {
            if acknowledged.is_none() {
                assert!(matches!(reopen(directory.path()), Err(OpenError::InUse(_))));
            }
            acknowledged = Some(number);
        }
        if acknowledged == Some(200) {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let acknowledged = acknowledged.unwrap();
    let (store, _, _) = open(reopen(directory.path()).unwrap());
    let entries = numbers(store.durable(), Table::QueueEntries, Key::new().., Limit::rows(usize::MAX)).await;
    let count = entries.len() as u64;
    assert!(count > acknowledged, "{count} entries, {acknowledged} acknowledged");
    assert_eq!(entries, (0..count).collect::<Vec<_>>(), "what is on disk has no gaps");
    let head = store.durable().get(Table::Queues, &key(0)).await.unwrap().unwrap();
    assert_eq!(head[..], (count - 1).to_be_bytes(), "head and entries went together");
}

fn start_child(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["store::tests::rocks::child", "--exact", "--ignored", "--nocapture"])
        .env(CHILD_DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Writes entries and says which are durable, until it is killed or nobody listens.
#[test]
#[ignore = "started by another test as a process of its own"]
fn child() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = Store::open(create(directory.as_ref()).unwrap(), Options::new(|_| std::process::abort())).unwrap();
    let mut window = VecDeque::new();
    for number in 0u64.. {
        let mut batch = put(Table::QueueEntries, number, "entry");
        batch.put(Table::Queues, key(0), number.to_be_bytes().to_vec());
        window.push_back((number, store.submit(batch).unwrap()));
        if window.len() == WINDOW {
            let (number, commit) = window.pop_front().unwrap();
            runtime.block_on(commit).unwrap();
            println!("\nacknowledged {number}");
        }
    }
}

fn file_named(directory: &Path, matches: impl Fn(&str) -> bool) -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| matches(path.file_name().unwrap().to_str().unwrap()))
        .collect();
    found.sort();
    found.pop().unwrap()
}
