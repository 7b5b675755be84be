//! What an endpoint has done, counted: of all peers together, and never of one.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        /// Counters of an endpoint, since it was bound.
        #[derive(Debug, Default)]
        pub struct Counts { $($(#[$doc])* pub(super) $name: Count,)* }

        /// What they stood at.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counted {
            /// Connections that are open.
            pub connections: u64,
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            /// What they stand at, with so many open connections.
            pub(super) fn read(&self, connections: u64) -> Counted {
                Counted { connections, $($name: self.$name.get(),)* }
            }
        }
    };
}

counts! {
    /// Connections whose handshake was completed.
    accepted;
    /// Connections whose handshake was not, or whose certificate was not good.
    failed;
    /// Attempts that had to prove their address first.
    retried;
    /// Attempts that were ignored because too many handshakes were under way.
    ignored;
    /// Attempts that were refused because too many connections were open, or none are taken in any more.
    refused;
    /// Exchanges that were begun.
    began;
    /// Exchanges that are over.
    ended;
    /// Exchanges that were refused because there was too much to do.
    overloaded;
}

/// One of them.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
