//! `bennu completions` and `bennu manual`: what packages bring along, made from the command line itself, so that it is never behind.

use std::{fs, path::PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

use super::output::{Failure, print};

/// For which shell.
#[derive(Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Prints them.
    ///
    /// # Errors
    /// As [`print`].
    pub fn run(self, mut command: Command) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "bennu", &mut script);
        print(script)
    }
}

/// Where to.
#[derive(Args)]
pub struct Manual {
    /// Directory for the pages; made if it is missing
    directory: PathBuf,
}

impl Manual {
    /// Writes them.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn run(self, command: Command) -> Result<(), Failure> {
        fs::create_dir_all(&self.directory)?;
        // Help is a command of each, which has nothing to tell.
        clap_mangen::generate_to(command.disable_help_subcommand(true), &self.directory)?;
        Ok(())
    }
}
