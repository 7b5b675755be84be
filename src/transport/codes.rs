//! Close codes: the application error codes of CONNECTION_CLOSE, RESET_STREAM and STOP_SENDING. One table, from which the
//! constants, their names and their sentences come (`wire-spec/`, "Close codes").

use std::fmt;

/// An application error code as QUIC carries it (RFC 9000 section 20.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub u32);

macro_rules! codes {
    ($($value:literal $constant:ident $name:literal $sentence:literal;)*) => {
        $(#[doc = $sentence] pub const $constant: Code = Code($value);)*

        /// Every defined code, in ascending order.
        pub const ALL: &[Code] = &[$($constant),*];

        impl Code {
            /// The name in the registry, or `unknown`.
            pub const fn name(self) -> &'static str {
                match self.0 { $($value => $name,)* _ => "unknown" }
            }

            /// What the code says, in a sentence.
            pub const fn sentence(self) -> &'static str {
                match self.0 { $($value => $sentence,)* _ => "A code that this version does not know." }
            }
        }
    };
}

codes! {
    // Connections and streams.
    0x00 DONE "done" "Nothing is wrong; the sender has no further use for the connection or stream.";
    // Connections.
    0x01 SHUTDOWN "shutdown" "The homeserver is stopping; reconnect with back-off and resume.";
    0x02 BAD_CERTIFICATE "bad_certificate" "The certificate of the connecting homeserver is not, or no longer, acceptable.";
    // Streams.
    0x10 TOO_LARGE "too_large" "The request, response or frame is larger than its method allows.";
    0x11 DEADLINE "deadline" "The peer took too long to send or to read.";
    0x12 MALFORMED "malformed" "The stream does not follow the framing.";
    0x13 ABANDONED "abandoned" "The sender gave the exchange up before it was complete.";
    0x20 REPLACED_BY_NEWER_LISTEN "replaced_by_newer_listen" "A newer Listen on the same queue took over.";
    0x21 SHUTTING_DOWN "shutting_down" "The exchange ends because the homeserver is stopping.";
    0x22 INTERNAL "internal" "The homeserver could not complete the exchange.";
    0x23 DENIED "denied" "Policy forbids exchange with that homeserver.";
    0x24 UNPROVEN "unproven" "A frame is not proven to be its sender's.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02x})", self.name(), self.0)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Code> for quinn::VarInt {
    fn from(code: Code) -> Self {
        Self::from_u32(code.0)
    }
}

impl From<quinn::VarInt> for Code {
    /// Codes beyond 32 bits are not ours; they all become `u32::MAX`.
    fn from(code: quinn::VarInt) -> Self {
        Self(u32::try_from(code.into_inner()).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_ascending() {
        assert!(ALL.windows(2).all(|pair| pair[0] < pair[1]));
        let mut names: Vec<_> = ALL.iter().map(|code| code.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.iter().all(|code| code.sentence().ends_with('.')));
        assert_eq!(Code(0x7777).name(), "unknown");
    }
}
