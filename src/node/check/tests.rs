//! What `bennu check` finds in a directory that was just set up, and in ones where something is wrong.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::*;
use crate::{
    crypto::sha256,
    node::{
        Node,
        certificates::generate,
        setup::{Setup, create},
    },
};

fn home() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    let config = create(directory.path(), &Setup::new("a.test".parse().unwrap(), listen)).unwrap().config;
    (directory, config)
}

async fn check(config: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    run(config, &mut |finding| findings.push(finding)).await;
    findings
}

fn about<'a>(findings: &'a [Finding], subject: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.subject == subject).unwrap_or_else(|| panic!("{subject}: {findings:?}"))
}

#[tokio::test]
async fn what_was_just_set_up_is_fine_but_is_for_development() {
    let (_directory, config) = home();
    let findings = check(&config).await;
    for subject in
        ["configuration", "storage key", "certificate key", "data directory", "certificate", "UDP port", "disk"]
    {
        assert_eq!(about(&findings, subject).level, Level::Ok, "{findings:?}");
    }
    assert_eq!(about(&findings, "authority").level, Level::Warning);
    // Nobody finds a.test in DNS: where things are tried out that is no failure.
    assert_eq!(about(&findings, "DNS").level, Level::Warning, "{findings:?}");
    assert!(about(&findings, "DNS").advice.is_some());
    assert!(about(&findings, "synced writes").found.contains(" ms"), "{findings:?}");
}

#[tokio::test]
async fn what_is_wrong_with_files_is_found_with_what_to_do() {
    let (directory, config) = home();
    let path = |name: &str| directory.path().join(name);
    fs::set_permissions(path("keys/storage.key"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(path("data"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(path("certs/server.key.pem")).unwrap();
    let findings = check(&config).await;
    let storage = about(&findings, "storage key");
    assert_eq!(storage.level, Level::Failure);
    assert!(storage.advice.as_ref().unwrap().starts_with("chmod 600 "), "{storage:?}");
    assert_eq!(about(&findings, "data directory").level, Level::Failure);
    assert!(about(&findings, "certificate key").found.contains("server.key.pem"), "{findings:?}");
    assert_eq!(about(&findings, "certificate").level, Level::Failure);

    fs::write(path("keys/storage.key"), [1; 31]).unwrap();
    fs::set_permissions(path("keys/storage.key"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(about(&check(&config).await, "storage key").found.contains("32 bytes"));

    // What is something else is not to be changed, whatever its mode.
    fs::write(path("certs/server.key.pem"), "no key").unwrap();
    fs::set_permissions(path("certs/server.key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path("data/letter.txt"), "somebody's").unwrap();
    fs::write(path("admin.sock"), "").unwrap();
    let findings = check(&config).await;
    for (subject, found) in [
        ("certificate key", "server.key.pem"),
        ("data directory", "holds files but no database"),
        ("admin socket", "is a file, and no socket"),
    ] {
        let finding = about(&findings, subject);
        assert!(finding.level == Level::Failure && finding.found.contains(found), "{finding:?}");
        assert!(!finding.advice.as_ref().unwrap().contains("chmod"), "{finding:?}");
    }
    fs::create_dir(path("data").join(crate::store::RESTORING)).unwrap();
    assert!(about(&check(&config).await, "data directory").found.contains("was interrupted"));
}

#[tokio::test]
async fn a_database_of_another_domain_or_with_another_key_is_found_and_left_as_it_is() {
    let (directory, config) = home();
    let node = Node::start(&Config::load(&config).unwrap()).await.unwrap();
    node.run(std::future::ready(())).await.unwrap();
    let contents = || {
        let files = fs::read_dir(directory.path().join("data")).unwrap().map(|entry| entry.unwrap().path());
        // RocksDB's own log may still be written to by what has ended.
        let files = files.filter(|path| !path.ends_with("LOG"));
        let summed = files.map(|path| (path.clone(), sha256(&fs::read(path).unwrap())));
        summed.collect::<std::collections::BTreeMap<_, _>>()
    };
    let before = contents();
    assert_eq!(about(&check(&config).await, "database").level, Level::Ok);
    let key = directory.path().join("keys/storage.key");
    let right = fs::read(&key).unwrap();
    fs::write(&key, [1; 32]).unwrap();
    let findings = check(&config).await;
    assert!(about(&findings, "database").found.contains("the storage key is not the one"), "{findings:?}");
    fs::write(&key, right).unwrap();
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("domain = \"a.test\"", "domain = \"b.test\"")).unwrap();
    let findings = check(&config).await;
    assert!(about(&findings, "database").found.contains("belongs to another domain"), "{findings:?}");
    assert_eq!(contents(), before);
}

#[tokio::test]
async fn an_address_for_figures_that_cannot_be_had_or_that_others_reach_is_found() {
    let (_directory, config) = home();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let watched = |address: &str| {
        let text = fs::read_to_string(&config).unwrap();
        let kept: Vec<_> = text.lines().filter(|line| !line.starts_with("[watch]")).collect();
        let kept: Vec<_> = kept.into_iter().filter(|line| !line.contains("watched")).collect();
        fs::write(&config, format!("{}\n[watch]\nlisten = \"{address}\" # watched\n", kept.join("\n"))).unwrap();
    };
    watched(&taken.local_addr().unwrap().to_string());
    let findings = check(&config).await;
    assert!(about(&findings, "figures").level == Level::Failure, "{findings:?}");
    watched("0.0.0.0:0");
    let findings = check(&config).await;
    assert!(about(&findings, "figures").found.contains("without a password"), "{findings:?}");
}

#[tokio::test]
async fn a_certificate_for_another_domain_or_of_another_authority_is_found() {
    let (directory, config) = home();
    let made = |domain: &str| generate(&domain.parse().unwrap(), SystemTime::now()).unwrap();
    let install = |made: &crate::node::certificates::DevelopmentCertificates| {
        fs::write(directory.path().join("certs/server.pem"), &made.server_chain).unwrap();
        fs::write(directory.path().join("certs/server.key.pem"), made.server_key.as_bytes()).unwrap();
    };
    install(&made("b.test"));
    let findings = check(&config).await;
    assert!(about(&findings, "certificate").found.contains("not a certificate for a.test"), "{findings:?}");
    install(&made("a.test"));
    let findings = check(&config).await;
    assert_eq!(about(&findings, "certificate").level, Level::Failure);
    assert!(about(&findings, "certificate").found.contains("not valid"), "{findings:?}");
}

#[tokio::test]
async fn a_configuration_that_is_not_understood_is_the_only_finding() {
    let (directory, config) = home();
    let text = fs::read_to_string(&config).unwrap() + "\n[limits2]\n";
    fs::write(&config, text).unwrap();
    let findings = check(&config).await;
    assert_eq!(findings.len(), 1);
    assert!(findings[0].level == Level::Failure && findings[0].found.contains("limits2"), "{findings:?}");
    let findings = check(&directory.path().join("nowhere.toml")).await;
    assert!(findings[0].advice.as_ref().unwrap().contains("bennu init"), "{findings:?}");
}

#[tokio::test]
async fn a_port_that_another_program_has_is_found_and_a_homeserver_that_runs_is_seen() {
    use std::sync::Arc;

    use crate::{base::SystemClock, node::Node, store::MemoryEngine};
    let (_directory, path) = home();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen_on = |port: u16| {
        let text = fs::read_to_string(&path).unwrap();
        let line = text.lines().find(|line| line.starts_with("listen = ")).unwrap();
        fs::write(&path, text.replacen(line, &format!("listen = \"127.0.0.1:{port}\""), 1)).unwrap();
    };
    listen_on(taken.local_addr().unwrap().port());
    let port = about(&check(&path).await, "UDP port").clone();
    assert!(port.level == Level::Failure && port.found.contains("another program"), "{port:?}");
    drop(taken);
    let config = Config::load(&path).unwrap();
    let _node = Node::start_on(&config, MemoryEngine::new(), Arc::new(SystemClock)).await.unwrap();
    let port = about(&check(&path).await, "UDP port").clone();
    assert!(port.level == Level::Ok && port.found.contains("the homeserver answers"), "{port:?}");
}
