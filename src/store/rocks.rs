//! The RocksDB engine: one column family per table, one synced write per commit, tuned for a small machine. Opening
//! refuses with a clear message what it cannot use, and creates a database only where it was asked to and nothing is.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB,
    DBCompressionType, DBRecoveryMode, Direction, ErrorKind, FlushOptions, IteratorMode, ReadOptions, WriteBatch,
    WriteOptions, checkpoint::Checkpoint, properties,
};

use super::{
    Change, Engine, EngineError, Figure, Key, KeyRange, Limit, Operation, Page, Read, Shape, Table,
    migration::{self, FORMAT, FORMAT_KEY, OLDEST},
};

/// Directory inside a data directory in which a database is put together from a backup.
pub const RESTORING: &str = "restoring";

/// Longer scans go to a blocking thread, shorter ones are as quick as point reads.
const INLINE_ROWS: usize = 32;

/// What RocksDB says of the database as a whole, whichever table is asked.
const OF_DATABASE: [(&str, &properties::PropName); 7] = [
    ("engine_block_cache_bytes", properties::BLOCK_CACHE_USAGE),
    ("engine_block_cache_capacity_bytes", properties::BLOCK_CACHE_CAPACITY),
    ("engine_running_compactions", properties::NUM_RUNNING_COMPACTIONS),
    ("engine_running_flushes", properties::NUM_RUNNING_FLUSHES),
    ("engine_background_errors", properties::BACKGROUND_ERRORS),
    ("engine_writes_stopped", properties::IS_WRITE_STOPPED),
    ("engine_delayed_write_rate_bytes", properties::ACTUAL_DELAYED_WRITE_RATE),
];

/// What is added up.
const OF_ALL_TABLES: [(&str, &properties::PropName); 3] = [
    ("engine_memtable_bytes", properties::CUR_SIZE_ALL_MEM_TABLES),
    ("engine_table_reader_bytes", properties::ESTIMATE_TABLE_READERS_MEM),
    ("engine_pending_compaction_bytes", properties::ESTIMATE_PENDING_COMPACTION_BYTES),
];

/// What is told of each table.
const OF_EACH_TABLE: [(&str, &properties::PropName); 2] = [
    ("engine_table_file_bytes", properties::LIVE_SST_FILES_SIZE),
    ("engine_table_rows_estimate", properties::ESTIMATE_NUM_KEYS),
];

/// Settings of the engine.
#[derive(Clone, Debug)]
pub struct RocksOptions {
    /// Whether to create the database if the directory is empty, or is missing while its parent exists.
    pub create: bool,
    /// Memory for cached blocks, indexes and filters, in bytes.
    pub cache_bytes: usize,
    /// Memory for rows not yet in sorted files, over all tables, in bytes.
    pub memtable_bytes: usize,
    /// Size of the write-ahead log above which it is let go, in bytes.
    pub log_bytes: u64,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self { create: false, cache_bytes: 64 << 20, memtable_bytes: 128 << 20, log_bytes: 128 << 20 }
    }
}

/// Why a data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another engine of this process, has it open.
    #[error("data directory {} is in use by another bennu process", .0.display())]
    InUse(PathBuf),
    /// It was written by a program from before the first release.
    #[error("the database in {} was written by a development version of bennu: set up another data directory", .path.display())]
    Development {
        /// The data directory.
        path: PathBuf,
    },
    /// It was written by a newer program.
    #[error("the database in {} has format {found}, newer than format {FORMAT} of this bennu: upgrade bennu", .path.display())]
    Newer {
        /// The data directory.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
    /// Its files contradict each other or their checksums.
    #[error("the database in {} is damaged, restore it from a backup: {reason}", .path.display())]
    Damaged {
        /// The data directory.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// There is a file in its place.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// A restore into it has not ended.
    #[error("a restore into {} was interrupted: run it again", .0.display())]
    Interrupted(PathBuf),
    /// There is nothing, or only an empty directory, and nothing is to be created.
    #[error("there is no database in {}", .0.display())]
    Missing(PathBuf),
    /// There is something else in the directory.
    #[error("{} holds files but no database: choose an empty directory", .0.display())]
    NotADatabase(PathBuf),
    /// The operating system refused.
    #[error("cannot open the database in {}: {reason}", .path.display())]
    Io {
        /// The data directory.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
}

/// A RocksDB database.
pub struct RocksEngine(Arc<Tables>);

struct Tables {
    db: DB,
}

impl RocksEngine {
    /// Opens the database in a directory.
    pub fn open(path: impl AsRef<Path>, options: &RocksOptions) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let tuning = Tuning::new(options);
        let exists = prepare_directory(path, options.create)?;
        let mut database = tuning.database(options);
        let names = if exists {
            DB::list_cf(&database, path).map_err(|error| open_error(path, &error))?
        } else {
            database.create_if_missing(true);
            database.create_missing_column_families(true);
            Table::ALL.iter().map(|table| table.name().to_owned()).chain(["default".to_owned()]).collect()
        };
        let families = names.iter().map(|name| ColumnFamilyDescriptor::new(name, tuning.family(name)));
        let mut db = DB::open_cf_descriptors(&database, path, families).map_err(|error| open_error(path, &error))?;
        // Only now, so that a database of a newer format is left as it is.
        let format = check_format(&db, path)?;
        for table in Table::ALL.iter().filter(|table| !names.iter().any(|name| name == table.name())) {
            db.create_cf(table.name(), &tuning.family(table.name())).map_err(|error| open_error(path, &error))?;
        }
        let engine = Self(Arc::new(Tables { db }));
        migration::run(&engine, format).map_err(|error| match error {
            EngineError::Damaged(reason) => OpenError::Damaged { path: path.to_owned(), reason },
            EngineError::Io(reason) => OpenError::Io { path: path.to_owned(), reason },
        })?;
        Ok(engine)
    }

    /// Opens a database to look at it: it is neither made, nor brought up to this program's format, nor written to in any way.
    ///
    /// # Errors
    /// [`OpenError`] if it cannot be read, or is of a newer format.
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let (path, options) = (path.as_ref(), RocksOptions::default());
        let tuning = Tuning::new(&options);
        let database = tuning.database(&options);
        let failed = |error| open_error(path, &error);
        let names = DB::list_cf(&database, path).map_err(failed)?;
        let families = names.iter().map(|name| ColumnFamilyDescriptor::new(name, tuning.family(name)));
        let db = DB::open_cf_descriptors_read_only(&database, path, families, false).map_err(failed)?;
        check_format(&db, path)?;
        Ok(Self(Arc::new(Tables { db })))
    }
}

/// Options that the tables share.
struct Tuning {
    cache: Cache,
    memtable_bytes: usize,
}

impl Tuning {
    fn new(options: &RocksOptions) -> Self {
        Self { cache: Cache::new_lru_cache(options.cache_bytes), memtable_bytes: options.memtable_bytes }
    }

    fn database(&self, options: &RocksOptions) -> rocksdb::Options {
        let mut database = rocksdb::Options::default();
        database.set_db_write_buffer_size(options.memtable_bytes);
        database.set_max_total_wal_size(options.log_bytes);
        // An acknowledged row was synced, so only what follows the last synced write may be torn. Damage anywhere else
        // must be reported; the default would silently drop everything after it. This rules out recycled log files,
        // which would moreover keep old batches readable long after they were flushed.
        database.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        database.set_track_and_verify_wals_in_manifest(true);
        database.set_max_background_jobs(2);
        database.set_max_open_files(512);
        database.set_avoid_unnecessary_blocking_io(true);
        database.set_keep_log_file_num(4);
        database.set_max_log_file_size(4 << 20);
        database
    }

    fn family(&self, name: &str) -> rocksdb::Options {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&self.cache);
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
        blocks.set_bloom_filter(10.0, false);
        let mut family = rocksdb::Options::default();
        family.set_block_based_table_factory(&blocks);
        // Values are ciphertext or keys, and keys are random ids: nothing to compress.
        family.set_compression_type(DBCompressionType::None);
        family.set_level_compaction_dynamic_level_bytes(true);
        family.set_write_buffer_size((self.memtable_bytes / 8).max(1 << 20));
        // Many look-ups are for what is not there: the answer to a request that is none but a repeat, a row that was written long
        // ago.
        family.set_memtable_prefix_bloom_ratio(0.02);
        family.set_memtable_whole_key_filtering(true);
        let shape = Table::ALL.iter().find(|table| table.name() == name).map(|table| table.shape());
        if shape == Some(Shape::Log) {
            // Nearly all that is written is in such tables: the larger its files are when they are made, and the more of them are
            // merged at once, the fewer times it is written again.
            family.set_write_buffer_size((self.memtable_bytes / 2).max(1 << 20));
            family.set_level_zero_file_num_compaction_trigger(8);
            // What was deleted from the front must not be walked over by every read of a queue.
            family.add_compact_on_deletion_collector_factory(4096, 1024, 0.5);
        }
        family
    }
}

/// Whether the directory holds a database; if not, makes sure that one may be created in it.
fn prepare_directory(path: &Path, create: bool) -> Result<bool, OpenError> {
    let failed = |error: io::Error| OpenError::Io { path: path.to_owned(), reason: error.to_string() };
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => Err(OpenError::NotADirectory(path.to_owned())),
        Ok(_) if path.join("CURRENT").exists() => Ok(true),
        Ok(_) if path.join(RESTORING).exists() => Err(OpenError::Interrupted(path.to_owned())),
        Ok(_) if fs::read_dir(path).map_err(failed)?.next().is_some() => Err(OpenError::NotADatabase(path.to_owned())),
        Ok(_) if create => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
            create_private(path).map_err(failed)?;
            Ok(false)
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        Ok(_) | Err(_) => Err(OpenError::Missing(path.to_owned())),
    }
}

/// Whether a file in a data directory is one of RocksDB's, by its name.
pub fn is_of_database(name: &str) -> bool {
    let numbered = |stem: &str| !stem.is_empty() && stem.bytes().all(|byte| byte.is_ascii_digit());
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    matches!(name, "CURRENT" | "IDENTITY" | "LOCK" | "LOG")
        || name.strip_prefix("LOG.old.").is_some_and(numbered)
        || stem.strip_prefix("MANIFEST-").is_some_and(numbered)
        || stem.strip_prefix("OPTIONS-").is_some_and(numbered)
        || matches!(ending, "sst" | "log" | "blob" | "dbtmp") && numbered(stem)
}

/// Creates a directory for this user only, not its parents: a missing parent is more likely a disk not mounted.
fn create_private(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// The format, which is one that is understood; a database that is still empty is given the current one.
fn check_format(db: &DB, path: &Path) -> Result<u32, OpenError> {
    let damaged = |reason: &str| OpenError::Damaged { path: path.to_owned(), reason: reason.into() };
    let stored = match db.cf_handle(Table::Meta.name()) {
        Some(meta) => db.get_cf(meta, FORMAT_KEY).map_err(|error| open_error(path, &error))?,
        None => None,
    };
    let Some(stored) = stored else {
        let families = Table::ALL.iter().filter_map(|table| db.cf_handle(table.name()));
        for family in families {
            if db.iterator_cf(family, IteratorMode::Start).next().is_some() {
                return Err(damaged("it does not say its format"));
            }
        }
        let meta = db.cf_handle(Table::Meta.name()).ok_or_else(|| damaged("it has no table `meta`"))?;
        return db
            .put_cf_opt(meta, FORMAT_KEY, FORMAT.to_be_bytes(), &synced())
            .map(|()| FORMAT)
            .map_err(|error| open_error(path, &error));
    };
    match <[u8; 4]>::try_from(&stored[..]).map(u32::from_be_bytes) {
        Ok(found @ OLDEST..=FORMAT) => Ok(found),
        Ok(found) if found > FORMAT => Err(OpenError::Newer { path: path.to_owned(), found }),
        Ok(_) => Err(OpenError::Development { path: path.to_owned() }),
        _ => Err(damaged("its format is not readable")),
    }
}

/// Tells apart what an operator can act on. RocksDB has no error code for a taken lock, only these words.
fn open_error(path: &Path, error: &rocksdb::Error) -> OpenError {
    let path = path.to_owned();
    let reason = error.as_ref().to_owned();
    let locked = ["While lock file", "lock hold by current process"].iter().any(|words| reason.contains(words));
    match error.kind() {
        ErrorKind::IOError if locked => OpenError::InUse(path),
        ErrorKind::IOError if reason.contains("No such file or directory") => OpenError::Damaged { path, reason },
        ErrorKind::Corruption => OpenError::Damaged { path, reason },
        _ => OpenError::Io { path, reason },
    }
}

fn engine_error(error: rocksdb::Error) -> EngineError {
    match error.kind() {
        ErrorKind::Corruption => EngineError::Damaged(error.into_string()),
        _ => EngineError::Io(error.into_string()),
    }
}

fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

impl Tables {
    fn family(&self, table: Table) -> Result<&ColumnFamily, EngineError> {
        let missing = || EngineError::Damaged(format!("table {} is missing", table.name()));
        self.db.cf_handle(table.name()).ok_or_else(missing)
    }

    /// A property of a table. One that is not known is nothing.
    fn property(&self, table: Table, property: &properties::PropName) -> u64 {
        let family = self.db.cf_handle(table.name());
        family.and_then(|family| self.db.property_int_value_cf(family, property).ok()?).unwrap_or(0)
    }

    fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        for (name, property) in OF_DATABASE {
            figures.push(Figure { name, table: None, value: self.property(Table::Meta, property) });
        }
        for (name, property) in OF_ALL_TABLES {
            let value = Table::ALL.iter().map(|table| self.property(*table, property)).sum();
            figures.push(Figure { name, table: None, value });
        }
        for (name, property) in OF_EACH_TABLE {
            let of = |table: &Table| Figure { name, table: Some(*table), value: self.property(*table, property) };
            figures.extend(Table::ALL.iter().map(of));
        }
        figures
    }

    fn flush(&self) -> Result<(), rocksdb::Error> {
        let families: Vec<_> = Table::ALL.iter().filter_map(|table| self.db.cf_handle(table.name())).collect();
        self.db.flush_cfs_opt(&families, &FlushOptions::default())
    }

    fn scan(&self, table: Table, range: &KeyRange, limit: Limit) -> Result<Page, EngineError> {
        let mut page = Page::new(limit);
        if range.is_empty() || page.is_full() {
            return Ok(page);
        }
        let mut options = ReadOptions::default();
        if let Some(to) = &range.to {
            options.set_iterate_upper_bound(to.as_bytes());
        }
        let start = IteratorMode::From(range.from.as_bytes(), Direction::Forward);
        for row in self.db.iterator_cf_opt(self.family(table)?, options, start) {
            let (key, value) = row.map_err(engine_error)?;
            page.push(Key::from(key), Bytes::from(value));
            if page.is_full() {
                break;
            }
        }
        Ok(page)
    }
}

impl Engine for RocksEngine {
    fn get_now(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let row = self.0.db.get_pinned_cf(self.0.family(table)?, key).map_err(engine_error)?;
        Ok(row.map(|row| Bytes::copy_from_slice(&row)))
    }

    fn scan(&self, table: Table, range: KeyRange, limit: Limit) -> Read<'_, Page> {
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if limit.rows > INLINE_ROWS => {
                let tables = self.0.clone();
                let task = runtime.spawn_blocking(move || tables.scan(table, &range, limit));
                Read::Pending(Box::pin(async move {
                    task.await.unwrap_or_else(|error| Err(EngineError::Io(format!("a scan did not finish: {error}"))))
                }))
            }
            _ => Read::ready(self.0.scan(table, &range, limit)),
        }
    }

    fn write(&self, operations: &[Operation]) -> Result<(), EngineError> {
        let mut batch = WriteBatch::default();
        for Operation { table, key, change } in operations {
            let family = self.0.family(*table)?;
            match change {
                Change::Put(value) => batch.put_cf(family, key, value),
                Change::Delete => batch.delete_cf(family, key),
                Change::DeleteTo(to) => batch.delete_range_cf(family, key, to),
            }
        }
        self.0.db.write_opt(batch, &synced()).map_err(engine_error)
    }

    fn figures(&self) -> Vec<Figure> {
        self.0.figures()
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.0.flush().map_err(engine_error)
    }

    fn snapshot(&self, into: &Path) -> Result<(), EngineError> {
        let checkpoint = Checkpoint::new(&self.0.db).map_err(engine_error)?;
        checkpoint.create_checkpoint(into).map_err(engine_error)
    }

    fn purge(&self, table: Table) -> Result<(), EngineError> {
        self.flush()?;
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        // Files of the last level too: what they hold may have been overwritten.
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.0.db.compact_range_cf_opt(self.0.family(table)?, None::<&[u8]>, None::<&[u8]>, &options);
        Ok(())
    }

    fn close(&self) -> Result<(), EngineError> {
        match self.0.flush() {
            // Closed before.
            Err(error) if error.kind() == ErrorKind::ShutdownInProgress => Ok(()),
            Err(error) => Err(engine_error(error)),
            Ok(()) => {
                self.0.db.cancel_all_background_work(true);
                Ok(())
            }
        }
    }
}
