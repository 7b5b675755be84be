//! What people type. Domains, and users with them, are the same in upper case; the protocol has them in lower case only.

use std::{fmt::Display, str::FromStr};

/// A domain, user or group that was typed.
///
/// # Errors
/// What is wrong with it.
pub fn typed<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    lower(text).parse().map_err(|error| format!("{text}: {error}"))
}

/// The same in lower case, where the homeserver decides what it is.
pub fn lower(text: &str) -> String {
    text.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Domain, UserId};

    #[test]
    fn domains_and_users_may_be_typed_in_upper_case() {
        assert_eq!(typed::<Domain>("Example.ORG").unwrap().as_str(), "example.org");
        let user = "0A0B0C0D-0000-0000-0000-00000000000F@Example.ORG";
        assert_eq!(typed::<UserId>(user).unwrap().to_string(), user.to_lowercase());
        assert!(typed::<Domain>("Example").unwrap_err().starts_with("Example: "));
    }
}
