//! `bennu init`: sets a homeserver's directory up. On a terminal it asks for what it was not told.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::{Args, ValueEnum};

use super::{
    output::{Failure, print},
    typed::typed,
};
use crate::{
    base::{Domain, limits::DEFAULT_PORT},
    node::{
        renewal,
        setup::{Admission, Created, Mode, Setup, create},
    },
};

/// What to set up.
#[derive(Args)]
pub struct Init {
    /// The home domain: users are called <uuid>@DOMAIN; asked for on a terminal if it is missing
    #[arg(long, value_parser = typed::<Domain>)]
    domain: Option<Domain>,
    /// Directory for configuration, keys and data; made if it is missing, asked for on a terminal if it is not named
    #[arg(long)]
    dir: Option<PathBuf>,
    /// UDP address to listen on [default: [::]:9420]
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// TCP address where figures can be read over HTTP, or "off" [default: on this machine, at the port of --listen]
    #[arg(long, value_name = "ADDRESS|off")]
    watch: Option<Watch>,
    /// Certificate chain for the domain (PEM); a development one is made if none is given
    #[arg(long, requires = "key")]
    certificate: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, requires = "certificate")]
    key: Option<PathBuf>,
    /// Who may register [default: open]
    #[arg(long, value_enum)]
    registration: Option<Who>,
    /// With which other homeservers it deals [default: open]
    #[arg(long, value_enum)]
    federation: Option<Others>,
}

/// Where figures can be read, if anywhere.
#[derive(Clone, Copy)]
struct Watch(Option<SocketAddr>);

impl FromStr for Watch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || text.parse().map_err(|_| format!("\"{text}\" is neither an address with a port nor \"off\""));
        if text == "off" { Ok(Self(None)) } else { parsed().map(Some).map(Self) }
    }
}

/// Who may register.
#[derive(Clone, Copy, ValueEnum)]
enum Who {
    /// Anybody
    Open,
    /// Whoever has a code of `bennu admin invite create`
    Invitation,
    /// Nobody
    Closed,
}

/// With which homeservers it deals.
#[derive(Clone, Copy, ValueEnum)]
enum Others {
    /// With all that are not blocked
    Open,
    /// Only with those that `bennu admin federation allow` names
    Allowlist,
}

/// What is asked for, whoever answers.
trait Choice: Sized {
    fn read(text: &str) -> Result<Self, String>;
}

impl Choice for Domain {
    fn read(text: &str) -> Result<Self, String> {
        typed(text)
    }
}

impl Choice for PathBuf {
    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("a name is needed".into()) } else { Ok(text.into()) }
    }
}

/// A file that can be read.
struct Readable(PathBuf);

impl Choice for Readable {
    fn read(text: &str) -> Result<Self, String> {
        let opened = std::fs::File::open(text).map_err(|error| format!("{text}: {error}"))?;
        let is_file = opened.metadata().is_ok_and(|metadata| metadata.is_file());
        if is_file { Ok(Self(text.into())) } else { Err(format!("{text}: it is no file")) }
    }
}

/// A certificate chain, or none.
struct Chain(Option<PathBuf>);

impl Choice for Chain {
    fn read(text: &str) -> Result<Self, String> {
        if text == "none" { Ok(Self(None)) } else { Readable::read(text).map(|Readable(path)| Self(Some(path))) }
    }
}

impl Choice for SocketAddr {
    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "this is no address with a port, as in 192.0.2.1:9420 or [::]:9420".into())
    }
}

impl Choice for Watch {
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

impl Choice for Who {
    fn read(text: &str) -> Result<Self, String> {
        one_of(text)
    }
}

impl Choice for Others {
    fn read(text: &str) -> Result<Self, String> {
        one_of(text)
    }
}

/// One of a few names.
fn one_of<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, true).map_err(|_| {
        let all = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        let names: Vec<_> = all.map(|value| value.get_name().to_owned()).collect();
        format!("this is none of {}", names.join(", "))
    })
}

/// Asks on a terminal, or wherever lines come from.
struct Questions<R, W> {
    answers: R,
    out: W,
}

impl<R: BufRead, W: Write> Questions<R, W> {
    /// Asks until the answer is one; an empty one means the default.
    fn ask<T: Choice>(&mut self, what: &str, why: &str, default: Option<&str>) -> Result<T, Failure> {
        writeln!(self.out, "\n{why}")?;
        loop {
            match default {
                Some(default) => write!(self.out, "{what} [{default}]: ")?,
                None => write!(self.out, "{what}: ")?,
            }
            self.out.flush()?;
            let mut line = String::new();
            if self.answers.read_line(&mut line)? == 0 {
                return Err(Failure::new("usage", "the answers ended too early; nothing was set up"));
            }
            let answer = match (line.trim(), default) {
                ("", Some(default)) => default,
                (answer, _) => answer,
            };
            match T::read(answer) {
                Ok(choice) => return Ok(choice),
                Err(why) => writeln!(self.out, "  {why}")?,
            }
        }
    }
}

impl Init {
    /// Sets the directory up and says what to do next.
    ///
    /// # Errors
    /// If something is there already or cannot be written, or something is missing and nobody can be asked.
    pub fn run(mut self) -> Result<(), Failure> {
        if self.domain.is_none() || self.dir.is_none() {
            if !io::stdin().is_terminal() {
                let missing = "--domain and --dir are needed where there is no terminal to ask on";
                return Err(Failure::new("usage", missing));
            }
            self = self.complete(&mut Questions { answers: io::stdin().lock(), out: io::stdout().lock() })?;
        }
        let (Some(domain), Some(dir)) = (self.domain, self.dir) else {
            return Err(Failure::new("usage", "--domain and --dir are needed"));
        };
        let listen = self.listen.unwrap_or_else(any);
        let setup = Setup {
            watch: self.watch.map_or(Some(beside(listen)), |Watch(address)| address),
            certificate: self.certificate.zip(self.key),
            registration: match self.registration {
                None | Some(Who::Open) => Admission::Open,
                Some(Who::Invitation) => Admission::Invitation,
                Some(Who::Closed) => Admission::Closed,
            },
            federation: match self.federation {
                None | Some(Others::Open) => Mode::Open,
                Some(Others::Allowlist) => Mode::Allowlist,
            },
            ..Setup::new(domain, listen)
        };
        let created = create(&dir, &setup)?;
        print(told(&dir, &setup, &created))
    }

    /// Asks for everything that was not given.
    fn complete<R: BufRead, W: Write>(self, questions: &mut Questions<R, W>) -> Result<Self, Failure> {
        let domain = match self.domain {
            Some(domain) => domain,
            None => questions.ask("Domain", "The home domain. Users are called <uuid>@DOMAIN, for good.", None)?,
        };
        let dir = match self.dir {
            Some(dir) => dir,
            None => questions.ask("Directory", "Where configuration, keys and data go.", Some("bennu"))?,
        };
        let listen = match self.listen {
            Some(listen) => listen,
            None => {
                let why =
                    "The UDP address to listen on. [::] is every address of this machine; clients look on port 9420.";
                questions.ask("Listen on", why, Some(&any().to_string()))?
            }
        };
        let (certificate, key) = match self.certificate {
            Some(certificate) => (Some(certificate), self.key),
            None => ask_for_certificate(&domain, questions)?,
        };
        let registration = match self.registration {
            Some(who) => who,
            None => {
                let why =
                    "Who may register: open (anybody), invitation (whoever has a code of yours), closed (nobody).";
                questions.ask("Registration", why, Some("open"))?
            }
        };
        let federation = match self.federation {
            Some(others) => others,
            None => {
                let why =
                    "With which homeservers it deals: open (all but those you block), allowlist (those you name).";
                questions.ask("Federation", why, Some("open"))?
            }
        };
        let watch = match self.watch {
            Some(watch) => watch,
            None => {
                let why = "Where to show figures and charts over HTTP, without a password: an address, or off.";
                questions.ask("Figures", why, Some(&beside(listen).to_string()))?
            }
        };
        Ok(Self {
            domain: Some(domain),
            dir: Some(dir),
            listen: Some(listen),
            watch: Some(watch),
            certificate,
            key,
            registration: Some(registration),
            federation: Some(federation),
        })
    }
}

/// The files of a certificate for the domain, or neither.
fn ask_for_certificate<R: BufRead, W: Write>(
    domain: &Domain,
    questions: &mut Questions<R, W>,
) -> Result<(Option<PathBuf>, Option<PathBuf>), Failure> {
    let why = "The certificate chain for the domain (a PEM file, as from Let's Encrypt: fullchain.pem). \
               \"none\" makes one for trying things out, which clients have to be told to trust.";
    loop {
        let chain = questions.ask("Certificate", why, Some("none"))?;
        let Chain(Some(certificate)) = chain else { return Ok((None, None)) };
        let Readable(key) = questions.ask("Private key", "The private key of the certificate (PEM).", None)?;
        match renewal::look_at(domain, &certificate, &key) {
            Ok(()) => return Ok((Some(certificate), Some(key))),
            Err(error) => writeln!(questions.out, "  {error}")?,
        }
    }
}

/// Every address of this machine.
fn any() -> SocketAddr {
    SocketAddr::from(([0u16; 8], DEFAULT_PORT))
}

/// On this machine alone, at the same port.
fn beside(listen: SocketAddr) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, listen.port()))
}

/// What was set up, and what to do next.
fn told(dir: &std::path::Path, setup: &Setup, Created { config, authority }: &Created) -> String {
    let (domain, config) = (&setup.domain, config.display());
    let mut lines = vec![
        format!("{domain} is set up in {}", dir.display()),
        format!("look at it: bennu check --config {config}"),
        format!("start it:   bennu serve --config {config}"),
    ];
    let mut reach = String::new();
    if let Some(authority) = authority {
        let authority = authority.display();
        lines.push(format!("The certificate is one for development: clients must be given {authority}."));
        let ip = setup.listen.ip();
        let host = if ip.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { ip };
        reach = format!(" --at {} --ca {authority}", SocketAddr::new(host, setup.listen.port()));
    }
    match setup.registration {
        Admission::Open => {}
        Admission::Invitation => {
            lines.push(format!("a code:     bennu admin --config {config} invite create"));
            reach += " --invitation CODE";
        }
        Admission::Closed => lines.push("Nobody can register before [registration] policy is another.".into()),
    }
    lines.push(format!("first user: bennu client --home ./alice register --domain {domain}{reach} --name Alice"));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::node::certificates;

    fn nothing() -> Init {
        Init {
            domain: None,
            dir: None,
            listen: None,
            watch: None,
            certificate: None,
            key: None,
            registration: None,
            federation: None,
        }
    }

    fn answered(given: Init, answers: &str) -> (Result<Init, Failure>, String) {
        let mut questions = Questions { answers: answers.as_bytes(), out: Vec::new() };
        let completed = given.complete(&mut questions);
        (completed, String::from_utf8(questions.out).unwrap())
    }

    #[test]
    fn what_is_not_given_is_asked_for_and_empty_answers_mean_the_defaults() {
        let (completed, shown) = answered(nothing(), "a.test\n\n\n\n\n\n\n");
        let completed = completed.ok().unwrap();
        assert_eq!(completed.domain.unwrap().as_str(), "a.test");
        assert_eq!(completed.dir.unwrap().as_os_str(), "bennu");
        assert_eq!(completed.listen.unwrap().to_string(), "[::]:9420");
        assert_eq!(completed.watch.unwrap().0.unwrap().to_string(), "127.0.0.1:9420");
        assert!(completed.certificate.is_none() && completed.key.is_none());
        assert!(matches!((completed.registration, completed.federation), (Some(Who::Open), Some(Others::Open))));
        assert_eq!(shown.matches("]: ").count(), 6, "{shown}");
    }

    #[test]
    fn an_answer_that_is_none_is_asked_for_again_and_what_was_given_is_not_asked_for() {
        let given = Init { domain: Some("a.test".parse().unwrap()), ..nothing() };
        let directory = tempfile::tempdir().unwrap();
        let (chain, key) = (directory.path().join("chain.pem"), directory.path().join("key.pem"));
        let [made, other] = ["a.test", "b.test"]
            .map(|domain| certificates::generate(&domain.parse().unwrap(), SystemTime::now()).unwrap());
        let others = directory.path().join("other.pem");
        for (path, content) in [(&chain, &made.server_chain), (&key, &*made.server_key), (&others, &*other.server_key)]
        {
            std::fs::write(path, content).unwrap();
        }
        let answers = format!(
            "home\nsomewhere\n0.0.0.0:1\nnowhere.pem\n{chain}\n{directory}\n{others}\n{chain}\n{key}\n\
             friends\ninvitation\nallowlist\nnever\noff\n",
            chain = chain.display(),
            directory = directory.path().display(),
            others = others.display(),
            key = key.display()
        );
        let (completed, shown) = answered(given, &answers);
        let completed = completed.ok().unwrap();
        assert!(!shown.contains("Domain:") && shown.contains("no address with a port"), "{shown}");
        assert!(shown.contains("neither an address with a port nor \"off\""), "{shown}");
        assert!(shown.contains("nowhere.pem: No such file") && shown.contains("it is no file"), "{shown}");
        assert!(shown.contains("the private key is not that of the certificate"), "{shown}");
        assert!(shown.contains("this is none of open, invitation, closed"), "{shown}");
        assert_eq!(completed.certificate.zip(completed.key).unwrap(), (chain, key));
        assert!(matches!(
            (completed.registration, completed.federation),
            (Some(Who::Invitation), Some(Others::Allowlist))
        ));
        assert!(completed.watch.unwrap().0.is_none());
    }

    #[test]
    fn what_to_do_next_is_what_the_policy_asks_for() {
        let said = |registration| {
            let domain = "a.test".parse().unwrap();
            let setup = Setup { registration, ..Setup::new(domain, any()) };
            told("home".as_ref(), &setup, &Created { config: "home/bennu.toml".into(), authority: None })
        };
        let open = said(Admission::Open);
        assert!(
            open.ends_with("first user: bennu client --home ./alice register --domain a.test --name Alice\n"),
            "{open}"
        );
        let invited = said(Admission::Invitation);
        assert!(invited.contains("bennu admin --config home/bennu.toml invite create\n"), "{invited}");
        assert!(invited.contains("--domain a.test --invitation CODE --name Alice"), "{invited}");
        assert!(said(Admission::Closed).contains("Nobody can register"));
    }

    #[test]
    fn when_the_answers_end_nothing_is_set_up() {
        assert!(answered(nothing(), "a.test\n").0.is_err());
    }
}
