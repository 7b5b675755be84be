//! Whether the files are there, and for whom.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::Path,
};

use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};

use super::Finding;
use crate::{
    node::{Config, life, read_storage_key},
    store::RESTORING,
};

pub fn look(config: &Config) -> Vec<Finding> {
    let user = rustix::process::geteuid().as_raw();
    let storage_key = || {
        let error = read_storage_key(&config.storage_key).err()?;
        Some((error.to_string(), "bring the file back that `bennu init` made"))
    };
    let certificate_key = || {
        let error = PrivateKeyDer::from_pem_file(&config.certificate_key).err()?;
        Some((
            format!("{}: {error}", config.certificate_key.display()),
            "name the private key of the certificate, in PEM",
        ))
    };
    let findings = [
        secret("storage key", &config.storage_key, user, storage_key),
        secret("certificate key", &config.certificate_key, user, certificate_key),
        data(&config.data, user),
    ];
    findings.into_iter().chain(socket(&config.admin_socket)).collect()
}

/// Whether the database is the one that it is taken for. One that is in use has been looked at by whoever uses it.
pub fn database(config: &Config) -> Option<Finding> {
    const SUBJECT: &str = "database";
    if !config.data.join("CURRENT").exists() || UnixStream::connect(&config.admin_socket).is_ok() {
        return None;
    }
    Some(match life::look_at(config) {
        Ok(()) => Finding::ok(SUBJECT, format!("it is that of {}, and the storage key is its", config.domain)),
        Err(error) => Finding::failure(
            SUBJECT,
            error.to_string(),
            "put its own configuration and storage key in place, or restore a backup into an empty directory",
        ),
    })
}

/// What is in the place of the socket, if it is no socket.
fn socket(path: &Path) -> Option<Finding> {
    let there = fs::symlink_metadata(path).ok().filter(|there| !there.file_type().is_socket())?;
    let what = if there.is_dir() { "is a directory" } else { "is a file" };
    let found = format!("{} {what}, and no socket", path.display());
    Some(Finding::failure("admin socket", found, "name another path in the setting `admin_socket`"))
}

/// A file that only its owner may read, and what is the matter with its content.
fn secret(
    subject: &'static str,
    path: &Path,
    user: u32,
    content: impl FnOnce() -> Option<(String, &'static str)>,
) -> Finding {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return missing(subject, path, &error),
    };
    if let Err(error) = fs::File::open(path) {
        return missing(subject, path, &error);
    }
    // Before its mode: nobody is to change that of a file which is another.
    if let Some((found, advice)) = content() {
        return Finding::failure(subject, found, advice);
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let found = format!("{} can be read by others (mode {mode:o})", path.display());
        return Finding::failure(subject, found, format!("chmod 600 {}", path.display()));
    }
    foreign(subject, path, &metadata, user).unwrap_or_else(|| Finding::ok(subject, "it is there, for its owner alone"))
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
    if let Ok(mut entries) = fs::read_dir(path)
        && entries.next().is_some()
        && !path.join("CURRENT").exists()
    {
        if path.join(RESTORING).exists() {
            let found = format!("a restore into {} was interrupted", path.display());
            return Finding::failure(SUBJECT, found, "run `bennu restore` again");
        }
        return Finding::failure(
            SUBJECT,
            format!("{} holds files but no database", path.display()),
            "name an empty directory in the setting `data`, or one that is missing",
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
