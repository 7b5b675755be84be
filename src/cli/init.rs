//! `bennu init`: sets a homeserver's directory up.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use super::{output::Failure, typed::typed};
use crate::{
    base::Domain,
    node::setup::{Created, Setup, create},
};

/// What to set up.
#[derive(Args)]
pub struct Init {
    /// The home domain: users are called <uuid>@DOMAIN
    #[arg(long, value_parser = typed::<Domain>)]
    domain: Domain,
    /// Directory for configuration, keys and data; made if it is missing
    #[arg(long)]
    dir: PathBuf,
    /// UDP address to listen on
    #[arg(long, default_value = "[::]:9420")]
    listen: SocketAddr,
    /// Certificate chain for the domain (PEM); a development one is made if none is given
    #[arg(long, requires = "key")]
    certificate: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, requires = "certificate")]
    key: Option<PathBuf>,
}

impl Init {
    /// Sets the directory up and says what to do next.
    ///
    /// # Errors
    /// If something is there already or cannot be written.
    pub fn run(self) -> Result<(), Failure> {
        let setup = Setup { domain: self.domain, listen: self.listen, certificate: self.certificate.zip(self.key) };
        let Created { config, authority } = create(&self.dir, &setup)?;
        println!("{} is set up in {}", setup.domain, self.dir.display());
        println!("start it:   bennu serve --config {}", config.display());
        let reach = match authority {
            Some(authority) => {
                println!("The certificate is one for development: clients must be given {}.", authority.display());
                let host =
                    if setup.listen.ip().is_unspecified() { "127.0.0.1".into() } else { setup.listen.ip().to_string() };
                format!(" --at {host}:{} --ca {}", setup.listen.port(), authority.display())
            }
            None => String::new(),
        };
        println!("first user: bennu client --home ./alice register --domain {}{reach} --name Alice", setup.domain);
        Ok(())
    }
}
