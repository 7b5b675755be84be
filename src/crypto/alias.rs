//! Aliases: which texts are one, what they are in their canonical form, and the id that all who look alike share
//! (`wire-spec/authentication.md`, "Aliases").

use std::fmt;

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};
use unicode_security::{GeneralSecurityProfile, MixedScript, skeleton};

use super::sha256;
use crate::{
    base::{AliasId, Domain},
    wire::{Encode, Opaque, Text},
};

/// Separates what is hashed to an [`AliasId`] from whatever else is hashed.
const LABEL: &[u8] = b"Bennu 1.0 Alias";

/// Fewest and most characters of an alias.
const LENGTHS: std::ops::RangeInclusive<usize> = 3..=30;

/// An alias in its canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Alias(String);

/// Why a text is no alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAlias {
    /// Too short or too long.
    #[error("an alias has between 3 and 30 characters")]
    Length,
    /// A character that no alias has.
    #[error("an alias has letters, digits and - _ . only, not {0:?}")]
    Character(char),
    /// A separator at an end.
    #[error("an alias begins and ends with a letter or a digit")]
    Ends,
    /// Two separators in a row.
    #[error("an alias has no two of - _ . in a row")]
    Separators,
    /// No letter.
    #[error("an alias has at least one letter")]
    NoLetter,
    /// Letters of scripts that are not written together.
    #[error("an alias is written in one script")]
    MixedScripts,
}

impl Alias {
    /// The alias that a person has typed.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidAlias> {
        let canonical = canonical(text);
        if !LENGTHS.contains(&canonical.chars().count()) {
            return Err(InvalidAlias::Length);
        }
        if let Some(wrong) = canonical.chars().find(|&c| !is_separator(c) && !is_written(c)) {
            return Err(InvalidAlias::Character(wrong));
        }
        if !canonical.starts_with(char::is_alphanumeric) || !canonical.ends_with(char::is_alphanumeric) {
            return Err(InvalidAlias::Ends);
        }
        if canonical.chars().zip(canonical.chars().skip(1)).any(|(a, b)| is_separator(a) && is_separator(b)) {
            return Err(InvalidAlias::Separators);
        }
        if !canonical.contains(char::is_alphabetic) {
            return Err(InvalidAlias::NoLetter);
        }
        if !canonical.is_single_script() {
            return Err(InvalidAlias::MixedScripts);
        }
        Ok(Self(canonical))
    }

    /// What it is called on the wire and in a database: the same for all aliases that people could mistake for it.
    pub fn id(&self, domain: &Domain) -> AliasId {
        // The final form of sigma is the same letter.
        let folded = self.0.replace('\u{3c2}', "\u{3c3}");
        let looks: String = skeleton(&folded).collect();
        let mut input = Opaque::from(LABEL).to_vec();
        domain.encode(&mut input);
        // Character by character, as in the canonical form.
        let looks: String = looks.chars().flat_map(char::to_lowercase).collect();
        Text(looks).encode(&mut input);
        AliasId(sha256(&input))
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn canonical(text: &str) -> String {
    let composed: String = text.nfkc().collect();
    // Character by character: what a letter becomes does not depend on where it stands.
    composed.chars().flat_map(char::to_lowercase).nfkc().collect()
}

/// Whether people write words with it: a letter, a digit or a mark on one, of a script in use.
fn is_written(c: char) -> bool {
    c.identifier_allowed() && (c.is_alphanumeric() || is_combining_mark(c))
}

const fn is_separator(c: char) -> bool {
    matches!(c, '-' | '_' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> AliasId {
        Alias::parse(text).unwrap().id(&"a.test".parse().unwrap())
    }

    /// Other data give other ids: that is another version of the protocol, and not to be had by an upgrade of a library.
    #[test]
    fn the_data_are_those_that_the_specification_names() {
        assert_eq!(unicode_normalization::UNICODE_VERSION, (18, 0, 0));
        assert_eq!(unicode_security::UNICODE_VERSION, (18, 0, 0));
        assert!(
            char::UNICODE_VERSION.0 >= 17,
            "lower case, alphabetic and numeric characters, of which later data have more"
        );
    }

    #[test]
    fn aliases_have_one_canonical_form() {
        for (typed, canonical) in [
            ("Alice", "alice"),
            ("ＡＬＩＣＥ", "alice"),
            ("Jose\u{301}", "jos\u{e9}"),
            ("ΟΔΟΣ", "οδοσ"),
            ("a-b_c.1", "a-b_c.1"),
            ("山田太郎", "山田太郎"),
            ("ﬁsh", "fish"),
        ] {
            let alias = Alias::parse(typed).unwrap();
            assert_eq!(alias.to_string(), canonical);
            assert_eq!(Alias::parse(canonical), Ok(alias));
        }
        assert_eq!(id("Jose\u{301}"), id("JOS\u{c9}"));
        assert_eq!(id("ΟΔΟΣ"), id("οδος"), "with a final sigma");
        for wrong in ["a''b", "a:b", "a\u{b7}b", "a b"] {
            assert!(matches!(Alias::parse(wrong), Err(InvalidAlias::Character(_))), "{wrong}");
        }
    }

    #[test]
    fn a_canonical_form_is_its_own_canonical_form() {
        for c in ('\0'..=char::MAX).filter(|c| canonical(&c.to_string()).chars().all(|c| c.identifier_allowed())) {
            let once = canonical(&c.to_string());
            assert_eq!(canonical(&once), once, "{c:?}");
        }
    }

    #[test]
    fn every_rule_is_kept() {
        let long = "a".repeat(31);
        for (text, error) in [
            ("", InvalidAlias::Length),
            ("ab", InvalidAlias::Length),
            (&long, InvalidAlias::Length),
            ("a b", InvalidAlias::Character(' ')),
            ("a@b", InvalidAlias::Character('@')),
            ("a\u{200b}bc", InvalidAlias::Character('\u{200b}')),
            ("a\u{202e}bc", InvalidAlias::Character('\u{202e}')),
            ("abc\u{1f600}", InvalidAlias::Character('\u{1f600}')),
            ("a/bc", InvalidAlias::Character('/')),
            ("-abc", InvalidAlias::Ends),
            ("abc.", InvalidAlias::Ends),
            ("a--b", InvalidAlias::Separators),
            ("a._b", InvalidAlias::Separators),
            ("123", InvalidAlias::NoLetter),
            ("1-2-3", InvalidAlias::NoLetter),
            ("\u{430}lice", InvalidAlias::MixedScripts),
        ] {
            assert_eq!(Alias::parse(text), Err(error), "{text:?}");
            assert!(!error.to_string().is_empty());
        }
        assert!(Alias::parse(&"a".repeat(30)).is_ok());
        assert!(Alias::parse("abc").is_ok());
    }

    #[test]
    fn what_looks_alike_shares_an_id() {
        for (one, other) in [
            ("alice", "ALICE"),
            ("bob", "b0b"),
            ("paypal", "paypa1"),
            ("modern", "modem"),
            ("\u{455}\u{441}\u{43e}\u{440}\u{435}", "scope"),
        ] {
            assert_eq!(id(one), id(other), "{one} {other}");
        }
        assert_ne!(id("alice"), id("alicia"));
        assert_ne!(id("a-b"), id("a_b"));
        assert_ne!(id("alice"), Alias::parse("alice").unwrap().id(&"b.test".parse().unwrap()));
    }

    #[test]
    fn the_id_is_the_hash_of_label_domain_and_looks() {
        let input = [&b"\x0fBennu 1.0 Alias\x06a.test\x05alice"[..]].concat();
        assert_eq!(id("Alice"), AliasId(sha256(&input)));
    }
}
