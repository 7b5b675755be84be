//! `bennu demo`.
use clap::Args;
use crate::cli::output::{Failure};
/// x
#[derive(Args)]
pub struct Demo {
    /// j
    #[arg(long)]
    pub json: bool,
}
impl Demo {
    /// x
    ///
    /// # Errors
    /// x
    pub async fn run(self) -> Result<(), Failure> { Ok(()) }
}
