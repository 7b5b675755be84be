//! Test vectors of all constructions, for other implementations and for this one.

mod credentials;
mod passwords;
mod services;
mod vectors;
