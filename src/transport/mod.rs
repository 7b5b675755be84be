//! QUIC: endpoint, connections, streams, and the [`Handler`] that they call. One bidirectional stream is one exchange.
//! An **ordinary** exchange: the caller sends one encoded Request and finishes its side, the callee sends one Response
//! and finishes. A **streaming** exchange (its method says so): the caller sends a preamble of four bytes, `uint16
//! version; uint16 method`, so that the callee knows what follows, and then only frames `opaque frame<V>`, the first of
//! which is the complete Request (its own version and method included, equal to the preamble); the callee sends only
//! frames, the first of which is the Response; either side ends with FIN, or with a code of [`codes`]. Every read is
//! bounded before it buffers, every wait has a deadline, and no stream waits for another.

mod caller;
pub mod codes;
mod congestion;
mod connection;
mod context;
mod counts;
mod dial;
mod endpoint;
mod error;
mod exchange;
mod frames;
mod handler;
pub mod memory;
mod pipe;
mod places;
mod settings;
pub mod tls;

// The tests make certificates, for which the server's dependencies are needed.
#[cfg(all(test, feature = "server"))]
pub(crate) mod tests;

pub use caller::{Connection, Exchange};
pub use codes::Code;
pub use congestion::{Congestion, RETRY_AFTER};
pub use context::Context;
pub use counts::{Counted, Counts};
pub use dial::{InvalidPlace, Place, PrivateAddresses, Route, Routes};
pub use endpoint::{Endpoint, SOCKET_BUFFER};
pub use error::{Closed, DialError, StreamError, TlsError};
pub use frames::Frames;
pub use handler::{Handler, MethodRules, PeerInfo, Reply, Streaming};
pub use places::Places;
pub use settings::Settings;
