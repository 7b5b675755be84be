//! The sessions that the documents show, done line by line as they are written: what the program says is what they say, but for
//! names, times and ports.
#![cfg(feature = "cli")]

mod support;

use std::{
    collections::BTreeMap,
    net::{TcpListener, UdpSocket},
    path::Path,
    process::Stdio,
};

use rand_chacha::rand_core::RngCore as _;
use support::{
    BENNU,
    markdown::{Block, Document},
    within,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
};

/// The ports in the documents.
const PORTS: [&str; 2] = ["9420", "9421"];

/// Somebody at a shell in a directory of their own.
struct Session {
    directory: TempDir,
    /// What is called otherwise here than in the document, by its name there.
    names: BTreeMap<String, String>,
    environment: Vec<(String, String)>,
    /// What goes on behind the prompt.
    running: Vec<(Child, BufReader<ChildStdout>)>,
}

impl Session {
    fn new() -> Self {
        let names = PORTS.iter().map(|port| ((*port).to_owned(), free_port().to_string())).collect();
        Self { directory: tempfile::tempdir().unwrap(), names, environment: Vec::new(), running: Vec::new() }
    }

    /// Does what a block shows.
    async fn follow(&mut self, document: &Document, block: &Block) {
        let lines: Vec<_> = (block.line..).zip(&block.lines).collect();
        let (mut at, mut done) = (0, 0);
        while let Some((number, line)) = lines.get(at) {
            let command = line.strip_prefix("$ ").unwrap_or_else(|| panic!("{}: {line}", document.at(*number)));
            let shown = lines[at + 1..].iter().take_while(|(_, line)| !line.starts_with("$ "));
            let shown: Vec<_> = shown.map(|(_, line)| line.as_str()).collect();
            at += 1 + shown.len();
            let said = self.run(command, shown.len()).await;
            let place = format!("{}: {command}", document.at(*number));
            // What a command says may be left out, but not in part.
            if !shown.is_empty() {
                assert_eq!(said.len(), shown.len(), "{place}: {said:?}");
            }
            for (shown, said) in shown.iter().zip(&said) {
                self.compare(shown, said).unwrap_or_else(|why| panic!("{place}\nshown: {shown}\nsaid:  {said}\n{why}"));
            }
            done += 1;
        }
        assert!(done > 0, "{}: nothing to do", document.at(block.line));
    }

    /// Runs a command; what it says. Of one that goes on behind the prompt, so many lines, at least that it is ready.
    async fn run(&mut self, command: &str, lines: usize) -> Vec<String> {
        if let Some((name, value)) = command.strip_prefix("export ").and_then(|rest| rest.split_once('=')) {
            self.environment.push((name.to_owned(), value.trim_matches('\'').to_owned()));
            return Vec::new();
        }
        let command: String = pieces(command).into_iter().map(|piece| self.here(piece)).collect();
        let (script, goes_on) = match command.strip_suffix(" &") {
            Some(command) => (format!("exec {command}"), true),
            None => (command.clone(), false),
        };
        let programs = Path::new(BENNU).parent().unwrap();
        let path = std::env::join_paths([programs, Path::new("/usr/bin"), Path::new("/bin")]).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .current_dir(self.directory.path())
            .env("PATH", path)
            .env_remove("RUST_LOG")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(if goes_on { Stdio::null() } else { Stdio::piped() })
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        if !goes_on {
            let output = within(&command, child.wait_with_output()).await.unwrap();
            assert!(output.status.success(), "{command}: {output:?}");
            return String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        }
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut said = Vec::new();
        for _ in 0..lines.max(1) {
            let mut line = String::new();
            within(&command, out.read_line(&mut line)).await.unwrap();
            assert!(!line.is_empty(), "{command}: it has ended");
            said.push(line.trim_end().to_owned());
        }
        self.running.push((child, out));
        said
    }

    /// What something of the document is called here.
    fn here(&self, piece: &str) -> String {
        self.names.get(piece).map_or_else(|| piece.to_owned(), String::clone)
    }

    /// Whether what was said is what is shown, but for names, which are learned.
    fn compare(&mut self, shown: &str, said: &str) -> Result<(), String> {
        let (shown, said) = (pieces(shown), pieces(said));
        if shown.len() != said.len() {
            return Err("this is another line".into());
        }
        for (shown, said) in shown.into_iter().zip(said) {
            let kind = Kind::of(shown);
            if kind == Kind::Name && Kind::of(said) == kind {
                let known = self.names.entry(shown.to_owned()).or_insert_with(|| said.to_owned());
                if known != said {
                    return Err(format!("{shown} was {known} before"));
                }
            } else if kind == Kind::Time && Kind::of(said) == kind {
            } else if self.here(shown) != said {
                return Err(format!("{said:?} and not {:?}", self.here(shown)));
            }
        }
        Ok(())
    }

    /// Ends what goes on.
    async fn end(self) {
        for (mut child, mut out) in self.running {
            support::terminate(&child).await;
            let mut rest = String::new();
            within("the end of its output", out.read_to_string(&mut rest)).await.unwrap();
            assert!(within("its end", child.wait()).await.unwrap().success());
        }
    }
}

/// What a piece of a line is.
#[derive(PartialEq, Eq)]
enum Kind {
    /// The name of a user, a group, a request: another one each time.
    Name,
    /// A point in time.
    Time,
    /// The same each time.
    Word,
}

impl Kind {
    fn of(piece: &str) -> Self {
        let is_hex = |text: &str, length| text.len() == length && text.chars().all(|c| c.is_ascii_hexdigit());
        let parts: Vec<_> = piece.split('-').collect();
        let is_uuid =
            parts.len() == 5 && [8, 4, 4, 4, 12].iter().zip(&parts).all(|(length, part)| is_hex(part, *length));
        if is_uuid || is_hex(piece, 10) {
            Self::Name
        } else if parts.len() == 3 && parts[2].contains('T') && piece.ends_with('Z') {
            Self::Time
        } else {
            Self::Word
        }
    }
}

/// A line in pieces: names and times in one piece, and what is between them. Together they are the line.
fn pieces(line: &str) -> Vec<&str> {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let mut pieces = Vec::new();
    for word in line.split_inclusive(' ') {
        if Kind::of(word.trim_end()) == Kind::Time {
            pieces.extend([word.trim_end(), &word[word.trim_end().len()..]]);
            continue;
        }
        let mut rest = word;
        while let Some(first) = rest.chars().next() {
            let end = if inside(first) { rest.find(|c| !inside(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
            let (piece, after) = rest.split_at(end);
            pieces.push(piece);
            rest = after;
        }
    }
    pieces
}

/// A port that is free for both, below those that the system hands out by itself.
fn free_port() -> u16 {
    loop {
        let port = 20_000 + u16::try_from(bennu::crypto::system_rng().next_u32() % 12_000).unwrap();
        let address = ("127.0.0.1", port);
        if UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok() {
            return port;
        }
    }
}

#[tokio::test]
async fn the_tour_of_the_readme_goes_as_shown() {
    let readme = Document::read("README.md");
    let mut session = Session::new();
    session.environment.push(("BENNU_PASSWORD".into(), "correct horse battery staple".into()));
    let tour = "A tour of the command line";
    session.follow(&readme, readme.session(tour, "bennu init")).await;
    session.follow(&readme, readme.session(tour, "group create Expedition")).await;
    // A third person, who registers as the others do.
    let carol =
        "bennu client --home carol register --domain a.test --at 127.0.0.1:9420 --ca home/certs/ca.pem --name Carol";
    session.run(carol, 1).await;
    session.follow(&readme, readme.session(tour, "alias add")).await;

    // The operator's guide goes on with this homeserver.
    let guide = Document::read("docs/operator.md");
    let check = guide.session("Setting it up", "bennu check");
    for line in &check.lines {
        let said = session.run(line.strip_prefix("$ ").unwrap(), 0).await;
        assert!(said.iter().any(|line| line.starts_with("ok    certificate")), "{said:?}");
    }
    session.follow(&guide, guide.session("Logs", "log bennu=info")).await;
    session.end().await;
}

#[tokio::test]
async fn two_homeservers_on_one_machine_go_as_shown() {
    let readme = Document::read("README.md");
    let mut session = Session::new();
    session.follow(&readme, readme.session("Other homeservers", "bennu init --domain b.test")).await;
    session.end().await;
}

#[test]
fn lines_that_differ_in_more_than_names_are_noticed() {
    let mut session = Session::new();
    let (one, other) =
        ("33a3c8f9-8db5-46d9-a956-ebef781a1ec1@a.test  Alice", "65648868-abb3-4702-9938-75a04039d973@a.test  Alice");
    assert_eq!(session.compare(one, other), Ok(()));
    assert_eq!(session.compare(one, other), Ok(()));
    assert!(session.compare(one, one).is_err(), "it was another one");
    assert!(session.compare(one, &other.replace("Alice", "Bob")).is_err());
    assert!(session.compare(one, "Alice").is_err());
    let time = "2026-11-23T18:03:03.071Z  Alice: When do we leave?";
    assert_eq!(session.compare(time, &time.replace("03.071", "59.999")), Ok(()));
    assert!(session.compare(time, &time.replace("leave", "arrive")).is_err());
    assert_eq!(pieces(time).concat(), time);
}
