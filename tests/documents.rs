//! What the documents name exists: every command and option, every target of make, every path and link, every setting, metric and alert.
//! What they show being done is done in `tests/tour.rs`.
#![cfg(feature = "cli")]

mod support;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    rc::Rc,
};

use serde_json::Value;
use support::{
    BENNU, Server,
    markdown::{Document, top, words},
};

/// Those for people who use Bennu, or work on it.
const DOCUMENTS: &[&str] = &[
    "README.md",
    "CONTRIBUTING.md",
    "docs/operator.md",
    "docs/sdk.md",
    "certs/README.md",
    "benches/README.md",
    "fuzz/README.md",
    "wire-spec/README.md",
];

fn documents() -> Vec<Document> {
    DOCUMENTS.iter().map(|path| Document::read(path)).collect()
}

/// All that is wrong, with where it is.
#[derive(Default)]
struct Complaints(Vec<String>);

impl Complaints {
    fn add(&mut self, document: &Document, line: usize, what: &str) {
        self.0.push(format!("{}: {what}", document.at(line)));
    }

    fn none(self) {
        assert!(self.0.is_empty(), "\n{}", self.0.join("\n"));
    }
}

/// What `-h` says of a command.
#[derive(Default)]
struct Help {
    commands: BTreeSet<String>,
    /// Options, and whether a value follows.
    options: BTreeMap<String, bool>,
    arguments: usize,
}

/// What `-h` says, asked once for each command.
#[derive(Default)]
struct Helps(RefCell<BTreeMap<Vec<String>, Rc<Help>>>);

impl Helps {
    fn of(&self, path: &[String]) -> Rc<Help> {
        if let Some(help) = self.0.borrow().get(path) {
            return help.clone();
        }
        let output = Command::new(BENNU).args(path).arg("-h").output().unwrap();
        assert!(output.status.success(), "bennu {path:?} -h: {output:?}");
        let (mut help, mut section) = (Help::default(), String::new());
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            if !line.is_empty() && !line.starts_with(' ') {
                line.clone_into(&mut section);
                continue;
            }
            let entry = line.trim_start();
            match section.as_str() {
                // What goes on from the line before is further in.
                "Commands:" if line.starts_with("  ") && !line.starts_with("   ") => {
                    help.commands.extend(entry.split(' ').next().map(str::to_owned));
                }
                "Arguments:" if entry.starts_with(['<', '[']) && !line.starts_with("   ") => help.arguments += 1,
                "Options:" if entry.starts_with('-') => {
                    let named = entry.split("  ").next().unwrap_or_default();
                    for name in named.split([',', ' ']).filter(|word| word.starts_with('-')) {
                        help.options.insert(name.to_owned(), named.contains('<'));
                    }
                }
                _ => {}
            }
        }
        assert!(help.options.contains_key("--help"), "bennu {path:?} -h is read in the wrong way");
        self.0.borrow_mut().entry(path.to_vec()).or_insert(Rc::new(help)).clone()
    }

    /// What is wrong with a command, which begins after `bennu`.
    fn complaint(&self, words: &[String]) -> Option<String> {
        let (mut path, mut arguments) = (Vec::new(), 0);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let help = self.of(&path);
            if word == "..." {
                continue;
            }
            if word.starts_with('-') {
                let (name, value) = word.split_once('=').map_or((word.as_str(), false), |(name, _)| (name, true));
                match help.options.get(name) {
                    None => return Some(format!("`bennu {}` has no option `{name}`", path.join(" "))),
                    Some(true) if !value => _ = words.next(),
                    Some(_) => {}
                }
            } else if help.commands.is_empty() {
                arguments += 1;
                if arguments > help.arguments {
                    return Some(format!("`bennu {}` takes no `{word}`", path.join(" ")));
                }
            } else if help.commands.contains(word) {
                path.push(word.clone());
            } else {
                return Some(format!("`bennu {}` has no command `{word}`", path.join(" ")));
            }
        }
        None
    }
}

/// The commands in a document, without what asks for them: lines of blocks, and what is in backticks.
fn commands(document: &Document) -> Vec<(usize, String)> {
    let mut found = document.spans.clone();
    for block in &document.blocks {
        for (line, text) in (block.line..).zip(&block.lines) {
            let command = match block.language.as_str() {
                "console" => text.strip_prefix("$ ").or_else(|| text.strip_prefix("# ")),
                "sh" => Some(text.as_str()),
                "ini" => text.strip_prefix("ExecStart=/usr/bin/"),
                _ => None,
            };
            found.extend(command.map(|command| (line, command.to_owned())));
        }
    }
    found
}

/// The words after a program in a command, also if somebody else is to run it.
fn after(command: &str, program: &str) -> Option<Vec<String>> {
    let words = words(command);
    let words = match words.as_slice() {
        [sudo, user, _, rest @ ..] if sudo == "sudo" && user == "-u" => rest,
        all => all,
    };
    let (first, rest) = words.split_first()?;
    (first == program).then(|| rest.to_vec())
}

#[test]
fn every_command_and_option_exists() {
    let (helps, mut complaints, mut seen) = (Helps::default(), Complaints::default(), 0);
    for document in &documents() {
        for (line, command) in commands(document) {
            let Some(words) = after(&command, "bennu") else { continue };
            seen += 1;
            if let Some(complaint) = helps.complaint(&words) {
                complaints.add(document, line, &complaint);
            }
        }
        // Tables of what `bennu admin` can do.
        let mut is_table = false;
        for (line, row) in &document.prose {
            is_table = row.starts_with('|') && (is_table || row.starts_with("| command |"));
            if !is_table || !row.starts_with("| `") {
                continue;
            }
            let cell = row.split(" | ").next().unwrap_or_default();
            let mut group = Vec::new();
            for span in cell.split('`').skip(1).step_by(2) {
                let words: Vec<_> = ["admin"].into_iter().chain(span.split(' ')).map(str::to_owned).collect();
                let in_group: Vec<_> = group.iter().cloned().chain(words[1..].iter().cloned()).collect();
                match helps.complaint(&words) {
                    None => group = words[..words.len() - 1].to_vec(),
                    Some(_) if !group.is_empty() && helps.complaint(&in_group).is_none() => {}
                    Some(complaint) => complaints.add(document, *line, &complaint),
                }
                seen += 1;
            }
        }
    }
    complaints.none();
    assert!(seen > 80, "only {seen} commands were found");
}

#[test]
fn a_command_that_does_not_exist_is_noticed() {
    let helps = Helps::default();
    for (command, complaint) in [
        ("bennu serve --config a.toml &", None),
        ("bennu client --home bob send CHAT 'a b c'", None),
        ("bennu admin --config=a.toml log a=b,c::d=e", None),
        ("bennu admin top --once --json", None),
        ("bennu client --home ./alice register ...", None),
        ("bennu server", Some("`bennu ` has no command `server`")),
        ("bennu serve now", Some("`bennu serve` takes no `now`")),
        ("bennu admin user list --all", Some("`bennu admin user list` has no option `--all`")),
        ("bennu check --config a.toml b.toml", Some("`bennu check` takes no `b.toml`")),
    ] {
        let words = after(command, "bennu").unwrap();
        assert_eq!(helps.complaint(&words).as_deref(), complaint, "{command}");
    }
}

#[test]
fn every_target_of_make_exists() {
    let makefile = fs::read_to_string(top().join("Makefile")).unwrap();
    let (mut complaints, mut seen) = (Complaints::default(), 0);
    for document in &documents() {
        for (line, command) in commands(document) {
            for target in after(&command, "make").unwrap_or_default() {
                seen += 1;
                let is_there =
                    target.contains('=') || makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
                if !is_there {
                    complaints.add(document, line, &format!("`make` has no target `{target}`"));
                }
            }
        }
    }
    complaints.none();
    assert!(seen > 15, "only {seen} targets were found");
}

#[test]
fn what_cargo_is_told_exists() {
    let manifest: toml::Table = fs::read_to_string(top().join("Cargo.toml")).unwrap().parse().unwrap();
    let named = |kind: &str, name: &str| {
        let tables = manifest.get(kind).and_then(toml::Value::as_array).expect("there are some");
        tables.iter().any(|table| table["name"].as_str() == Some(name))
    };
    let is_feature = |name: &str| manifest["features"].get(name).is_some();
    let (mut complaints, mut seen) = (Complaints::default(), 0);
    for document in &documents() {
        for (line, command) in commands(document) {
            let words = after(&command, "cargo").unwrap_or_default();
            for pair in words.windows(2) {
                let is_there = match pair[0].as_str() {
                    "--bench" => named("bench", &pair[1]),
                    "--example" => named("example", &pair[1]),
                    "--test" => top().join(format!("tests/{}.rs", pair[1])).exists(),
                    "--features" => pair[1].split(',').all(is_feature),
                    _ => continue,
                };
                seen += 1;
                if !is_there {
                    complaints.add(document, line, &format!("`{} {}` is not in Cargo.toml", pair[0], pair[1]));
                }
            }
        }
        for block in document.blocks.iter().filter(|block| block.language == "toml") {
            let table: toml::Table = block.lines.join("\n").parse().unwrap();
            let Some(wanted) = table.get("dependencies").and_then(|table| table.get("bennu")) else { continue };
            for feature in wanted["features"].as_array().unwrap() {
                seen += 1;
                if !is_feature(feature.as_str().unwrap()) {
                    complaints.add(document, block.line, &format!("there is no feature {feature}"));
                }
            }
        }
    }
    complaints.none();
    assert!(seen >= 4, "only {seen} were found");
}

/// Whether a name, in which `*` is anything, is in a directory.
fn is_in(directory: &Path, name: &str) -> bool {
    match name.split_once('*') {
        None => directory.join(name).exists(),
        Some((before, behind)) => {
            let (directory, before) = match before.rsplit_once('/') {
                Some((inner, before)) => (directory.join(inner), before),
                None => (directory.to_owned(), before),
            };
            let mut names = fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().file_name());
            names.any(|name| name.to_str().is_some_and(|name| name.starts_with(before) && name.ends_with(behind)))
        }
    }
}

/// All files of the repository that somebody wrote.
fn files() -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![top().to_owned()]);
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_owned();
            match path.is_dir() {
                true if name == "target" || name == ".git" => {}
                true => left.push(path),
                false => found.push(path),
            }
        }
    }
    found
}

#[test]
fn every_path_and_link_leads_somewhere() {
    let files = files();
    let mut complaints = Complaints::default();
    for document in &documents() {
        let here = top().join(&document.path).parent().unwrap().to_owned();
        for (line, span) in &document.spans {
            let is_name =
                span.chars().all(|c| c.is_ascii_alphanumeric() || "._-/*".contains(c)) && !span.starts_with('/');
            let first = span.split('/').next().unwrap_or_default();
            let is_ours = span.contains('/') && [top(), &here].iter().any(|place| place.join(first).is_dir());
            if is_name && is_ours && first != "target" {
                if ![top(), &here].iter().any(|place| is_in(place, span.trim_end_matches('/'))) {
                    complaints.add(document, *line, &format!("there is no `{span}`"));
                }
            } else if is_name && !span.contains('/') && [".rs", ".tls", ".sh"].iter().any(|end| span.ends_with(end)) {
                let is_there = span.starts_with(['.', '*']) || files.iter().any(|path| path.ends_with(span));
                if !is_there {
                    complaints.add(document, *line, &format!("no file is called `{span}`"));
                }
            }
        }
        for (line, link) in document.links.iter().filter(|(_, link)| !link.contains("://")) {
            let (path, heading) =
                link.split_once('#').map_or((link.as_str(), None), |(path, heading)| (path, Some(heading)));
            let target = if path.is_empty() { top().join(&document.path) } else { here.join(path) };
            if !target.exists() {
                complaints.add(document, *line, &format!("there is no {path}"));
                continue;
            }
            let Some(heading) = heading else { continue };
            let anchor = |text: &str| -> String {
                let kept =
                    text.trim_start_matches('#').trim().chars().filter(|c| c.is_alphanumeric() || " -".contains(*c));
                kept.collect::<String>().to_lowercase().replace(' ', "-")
            };
            let text = fs::read_to_string(&target).unwrap();
            if !text.lines().any(|line| line.starts_with('#') && anchor(line) == heading) {
                complaints.add(document, *line, &format!("{path} has no heading #{heading}"));
            }
        }
    }
    complaints.none();
}

/// Tables of a configuration with their settings, and what these are set to.
type Settings = BTreeMap<String, BTreeMap<String, String>>;

/// What is in a configuration, with what is commented out there.
fn settings(config: &str) -> Settings {
    let (mut tables, mut table) = (Settings::new(), String::new());
    for line in config.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            name.clone_into(&mut table);
        }
        let settings = tables.entry(table.clone()).or_default();
        let Some((key, value)) = line.strip_prefix("# ").unwrap_or(line).split_once(" = ") else { continue };
        if key.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            settings.insert(key.to_owned(), value.split(" #").next().unwrap_or_default().trim().to_owned());
        }
    }
    tables
}

/// What the program has against such a configuration.
fn complaint_about(settings: &Settings, config: &Path) -> Option<String> {
    let mut text = String::new();
    for (table, settings) in settings {
        if !table.is_empty() {
            text += &format!("[{table}]\n");
        }
        for (key, value) in settings {
            // A program that is built without the feature has nothing for it.
            if cfg!(feature = "otlp") || (table.as_str(), key.as_str()) != ("log", "otlp") {
                text += &format!("{key} = {value}\n");
            }
        }
    }
    fs::write(config, &text).unwrap();
    let mut check = Command::new(BENNU);
    check.args(["check", "--json", "--config"]).arg(config).env_remove("RUST_LOG");
    let output = check.stderr(Stdio::null()).output().unwrap();
    let first = String::from_utf8(output.stdout).unwrap().lines().next().expect("it says something").to_owned();
    let finding: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(finding["subject"], "configuration");
    (finding["level"] != "ok").then(|| format!("{finding}\n{text}"))
}

#[test]
fn every_setting_is_one_of_a_new_homeserver_and_is_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("home");
    let init = Command::new(BENNU)
        .args(["init", "--domain", "a.test", "--listen", "127.0.0.1:0", "--dir"])
        .arg(&home)
        .output()
        .unwrap();
    assert!(init.status.success(), "{init:?}");
    let config = home.join("bennu.toml");
    let settings = settings(&fs::read_to_string(&config).unwrap());
    assert!(settings.len() > 8, "{settings:?}");
    let complaint = complaint_about(&settings, &config);
    assert!(complaint.is_none(), "what is written as a default is none: {complaint:?}");

    let (mut complaints, mut seen) = (Complaints::default(), 0);
    for document in &documents() {
        for (line, span) in &document.spans {
            let Some((table, rest)) = span.strip_prefix('[').and_then(|span| span.split_once(']')) else { continue };
            seen += 1;
            let Some(known) = settings.get(table) else {
                complaints.add(document, *line, &format!("there is no [{table}]"));
                continue;
            };
            let (key, value) =
                rest.split_once('=').map_or((rest.trim(), None), |(key, value)| (key.trim(), Some(value.trim())));
            if !key.is_empty() && !known.contains_key(key) {
                complaints.add(document, *line, &format!("[{table}] has no `{key}`"));
            } else if let Some(value) = value {
                let mut changed = settings.clone();
                changed.entry(table.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
                if let Some(complaint) = complaint_about(&changed, &config) {
                    complaints.add(document, *line, &complaint);
                }
            }
        }
    }
    complaints.none();
    assert!(seen > 20, "only {seen} settings were found");
}

/// What a homeserver answers over HTTP.
async fn get(server: &Server, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(server.figures().unwrap()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    support::within(path, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn every_metric_alert_and_address_exists() {
    let server = Server::start_watched().await;
    let metrics = get(&server, "/metrics").await;
    let alerts = fs::read_to_string(top().join("packaging/alerts.yml")).unwrap();
    let alerts: BTreeSet<_> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let (mut complaints, mut told) = (Complaints::default(), BTreeSet::new());
    for document in &documents() {
        for (line, span) in &document.spans {
            if span.starts_with("bennu_") {
                let family = span.strip_suffix("_total").unwrap_or(span);
                if !metrics.contains(&format!("# TYPE {family} ")) {
                    complaints.add(document, *line, &format!("`{span}` is no metric"));
                }
            } else if span.starts_with("Bennu") && span.chars().all(char::is_alphanumeric) {
                if !alerts.contains(span.as_str()) {
                    complaints.add(document, *line, &format!("`{span}` is no alert"));
                }
                told.insert(span.clone());
            } else if span.starts_with('/') && !["/var/", "/proc/"].iter().any(|place| span.starts_with(place)) {
                let answer = get(&server, span).await;
                if !answer.starts_with("HTTP/1.1 200") {
                    complaints.add(
                        document,
                        *line,
                        &format!("`{span}`: {}", answer.lines().next().unwrap_or_default()),
                    );
                }
            }
        }
    }
    complaints.none();
    let untold: Vec<_> = alerts.into_iter().filter(|alert| !told.contains(*alert)).collect();
    assert!(untold.is_empty(), "docs/operator.md does not say what to do about {untold:?}");
}

#[test]
fn names_with_an_underscore_mean_something() {
    let mut text = String::new();
    for path in files() {
        let is_source = path.extension().is_some_and(|end| end == "rs")
            || path.ends_with("registries.md")
            || path.ends_with("Makefile");
        let is_this = path.starts_with(top().join("tests")) || path.starts_with(top().join("target"));
        if is_source && !is_this {
            text += &fs::read_to_string(path).unwrap();
        }
    }
    let known: BTreeSet<_> = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
    let mut complaints = Complaints::default();
    for document in &documents() {
        for (line, span) in &document.spans {
            let is_name = span.contains('_') && span.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            // `bennu_` begins metrics, which are put together.
            if is_name && !span.starts_with("bennu_") && !known.contains(span.as_str()) {
                complaints.add(document, *line, &format!("nothing is called `{span}`"));
            }
        }
    }
    complaints.none();
}
