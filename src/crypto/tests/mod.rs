//! Test vectors of all constructions, for other implementations and for this one.

mod credentials;
mod services;
mod vectors;
