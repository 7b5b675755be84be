//! Identifiers. Each is a type of its own, so that an AS identity cannot be passed where a pseudonym belongs.

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// Longest domain name, RFC 1035 section 2.3.4 (in presentation form, without the final dot).
pub const MAX_DOMAIN: usize = 253;

/// A home domain: a fully qualified domain name in lower-case ASCII (internationalised names in their A-label form).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(std::sync::Arc<str>);

/// Why a string is not an identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Not a fully qualified domain name.
    #[error("not a fully qualified domain name in lower case, such as example.org")]
    Domain,
    /// Not of the form `<uuid>@<domain>`.
    #[error("not of the form <uuid>@<domain>")]
    Qualified,
}

impl Domain {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Domain {
    type Err = InvalidId;

    fn from_str(name: &str) -> Result<Self, InvalidId> {
        let valid_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let top = name.rsplit('.').next().unwrap_or_default();
        let valid = name.len() <= MAX_DOMAIN
            && name.contains('.')
            && name.split('.').all(valid_label)
            && !top.bytes().all(|b| b.is_ascii_digit());
        if valid { Ok(Self(name.into())) } else { Err(InvalidId::Domain) }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! qualified_ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            /// The part that is unique within the domain.
            pub uuid: [u8; 16],
            /// The home domain.
            pub domain: Domain,
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}@{}", Uuid::from_bytes(self.uuid), self.domain)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let (uuid, domain) = text.split_once('@').ok_or(InvalidId::Qualified)?;
                let uuid = Uuid::try_parse(uuid).map_err(|_| InvalidId::Qualified)?;
                Ok(Self { uuid: uuid.into_bytes(), domain: domain.parse()? })
            }
        }
    )*};
}

qualified_ids! {
    /// A user as the AS knows it. Shown as `<uuid>@<domain>`.
    UserId;
    /// A group on the DS of `domain`. Its encoding is the MLS group id. Shown as `<uuid>@<domain>`.
    GroupId;
}

/// One client of a user, as the AS knows it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientId {
    /// Whose client it is.
    pub user: UserId,
    /// Which of the user's clients.
    pub client: [u8; 16],
}

/// An alias by which its owner can be found: SHA-256 over its canonical form and the domain (`wire-spec/authentication.md`,
/// "Aliases").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AliasId(pub [u8; 32]);

impl fmt::Debug for AliasId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AliasId(")?;
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..)")
    }
}

macro_rules! pseudonyms {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), Uuid::from_bytes(self.0))
            }
        }
    )*};
}

pseudonyms! {
    /// A user as the QS knows it: random, never stored beside a [`UserId`].
    QsUserId;
    /// A client's record and queue on the QS: random, never stored beside a [`ClientId`].
    QsClientId;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fully_qualified_lower_case_names_are_domains() {
        for good in ["a.test", "example.org", "x-1.co.uk", "xn--bcher-kva.example"] {
            assert!(good.parse::<Domain>().is_ok(), "{good}");
        }
        let long = format!("{}.test", "a".repeat(64));
        for bad in [
            "",
            "localhost",
            "A.test",
            "a..test",
            ".a.test",
            "a.test.",
            "-a.test",
            "a_b.test",
            "10.0.0.1",
            "a b.test",
            &long,
        ] {
            assert!(bad.parse::<Domain>().is_err(), "{bad}");
        }
    }

    #[test]
    fn qualified_ids_print_as_they_parse() {
        let text = "00112233-4455-6677-8899-aabbccddeeff@a.test";
        assert_eq!(text.parse::<UserId>().unwrap().to_string(), text);
        assert!("nonsense".parse::<UserId>().is_err());
        assert!("00112233-4455-6677-8899-aabbccddeeff@localhost".parse::<GroupId>().is_err());
    }
}
