//! Whether the files are there, and for whom.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use super::Finding;
use crate::node::{Config, read_storage_key};

pub fn look(config: &Config) -> Vec<Finding> {
    let user = rustix::process::geteuid().as_raw();
    vec![
        secret("storage key", &config.storage_key, user)
            .or_else(|| {
                let error = read_storage_key(&config.storage_key).err()?;
                Some(Finding::failure("storage key", error.to_string(), "bring the file back that `bennu init` made"))
            })
            .unwrap_or_else(|| Finding::ok("storage key", "it is there, for its owner alone")),
        secret("certificate key", &config.certificate_key, user)
            .unwrap_or_else(|| Finding::ok("certificate key", "it is there, for its owner alone")),
        data(&config.data, user),
    ]
}

/// What is wrong with a file that only its owner may read.
fn secret(subject: &'static str, path: &Path, user: u32) -> Option<Finding> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return Some(missing(subject, path, &error)),
    };
    if let Err(error) = fs::File::open(path) {
        return Some(missing(subject, path, &error));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Some(Finding::failure(
            subject,
            format!("{} can be read by others (mode {mode:o})", path.display()),
            format!("chmod 600 {}", path.display()),
        ));
    }
    foreign(subject, path, &metadata, user)
}

fn missing(subject: &'static str, path: &Path, error: &io::Error) -> Finding {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => "bring the file back, or correct the setting that names it",
        _ => "run this as the user that runs the homeserver, or give the file to that user",
    };
    Finding::failure(subject, format!("{}: {error}", path.display()), advice)
}

/// What belongs to others is not to be had by the homeserver, or is to be had by them.
fn foreign(subject: &'static str, path: &Path, metadata: &Metadata, user: u32) -> Option<Finding> {
    (metadata.uid() != user && user != 0).then(|| {
        Finding::warning(
            subject,
            format!("{} belongs to user {}, and this is user {user}", path.display(), metadata.uid()),
            "run this as the user that runs the homeserver",
        )
    })
}

fn data(path: &Path, user: u32) -> Finding {
    const SUBJECT: &str = "data directory";
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.parent().is_some_and(Path::is_dir) => {
            return Finding::ok(SUBJECT, format!("{} is made at the first start", path.display()));
        }
        Err(error) => return missing(SUBJECT, path, &error),
    };
    if !metadata.is_dir() {
        return Finding::failure(
            SUBJECT,
            format!("{} is not a directory", path.display()),
            "name another in the setting `data`",
        );
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Finding::failure(
            SUBJECT,
            format!("{} is open to others (mode {mode:o})", path.display()),
            format!("chmod 700 {}", path.display()),
        );
    }
    foreign(SUBJECT, path, &metadata, user)
        .unwrap_or_else(|| Finding::ok(SUBJECT, format!("{} is there, for its owner alone", path.display())))
}
