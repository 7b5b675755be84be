//! The command line: what the arguments mean, one file per command, and how failures are told.

mod admin;
mod backup;
mod check;
mod client;
mod demo;
mod federation;
mod generate;
mod init;
mod output;
mod serve;
mod top;
mod typed;
mod wipe;

use std::{process::ExitCode, time::Duration};

use clap::{CommandFactory as _, Parser, Subcommand};

use output::{Failure, Output};

/// A QUIC-native, federated homeserver for end-to-end encrypted messaging.
#[derive(Parser)]
#[command(name = "bennu", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Set up a homeserver: configuration, keys and, if none is given, a development certificate
    Init(init::Init),
    /// Look at what commonly goes wrong: files, certificate, DNS, ports, clock, disk
    Check(check::Check),
    /// Run a homeserver until SIGTERM or SIGINT
    Serve(serve::Serve),
    /// Look after a running homeserver: users, aliases, invitations, keys, other homeservers
    Admin(admin::Arguments),
    /// List backups and verify them; `bennu admin backup` takes one
    Backup(backup::Backups),
    /// Restore a backup into an empty data directory
    Restore(backup::Restore),
    /// Use a homeserver: register, connect with people, send and receive
    Client(client::Arguments),
    /// Show it all at work: two homeservers with people on both, a crash and an outage
    Demo(demo::Demo),
    /// Print a script that completes these commands in a shell
    Completions(generate::Completions),
    /// Write manual pages of all commands
    Manual(generate::Manual),
}

/// How long a homeserver that has stopped waits for reads and compactions that were under way; they are told to end.
const LAST_READS: Duration = Duration::from_secs(10);

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Output::Human.failure(&Failure::new("runtime", error)),
    };
    let is_server = matches!(arguments.command, Command::Serve(_));
    let (output, result) = match arguments.command {
        Command::Init(command) => (Output::Human, command.run()),
        Command::Check(command) => (Output::new(command.json), runtime.block_on(command.run())),
        Command::Serve(command) => (Output::Human, runtime.block_on(command.run())),
        Command::Admin(command) => (Output::new(command.json), runtime.block_on(command.run())),
        Command::Backup(command) => {
            let output = Output::new(command.json);
            (output, runtime.block_on(command.run(output)))
        }
        Command::Restore(command) => {
            let output = Output::new(command.json);
            (output, runtime.block_on(command.run(output)))
        }
        Command::Client(command) => (Output::new(command.json), runtime.block_on(command.run())),
        Command::Completions(command) => (Output::Human, command.run(Arguments::command())),
        Command::Manual(command) => (Output::Human, command.run(Arguments::command())),
        Command::Demo(command) => (Output::new(command.json), runtime.block_on(command.run())),
    };
    if is_server {
        // Whoever still reads the database must be done before the process tears down what it stands on.
        runtime.shutdown_timeout(LAST_READS);
    } else {
        // Whoever still waits for a line of the terminal is not waited for.
        runtime.shutdown_background();
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.failure(&failure),
    }
}

/// Help and version go to standard output, wrong usage to standard error with exit code 2.
/// What this process makes from now on is for its user alone, whatever the mask of whoever started it.
fn private() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

fn usage(error: &clap::Error) -> ExitCode {
    let wrong = error.use_stderr();
    if wrong && std::env::args_os().any(|argument| argument == "--json") {
        let failure = Failure::new("usage", error.to_string().trim());
        Output::Json.failure(&failure);
    } else if error.print().is_err() {
        return ExitCode::FAILURE;
    }
    if wrong { ExitCode::from(2) } else { ExitCode::SUCCESS }
}
