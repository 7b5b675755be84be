//! Whoever has a domain has any number of names under it, and could be any number of homeservers. What is there for all is
//! counted by registrable domain (the public suffix list's: a suffix under which names are given out, and one label more), so
//! that no one of them takes all of it.

use std::collections::HashMap;

use crate::base::Domain;

/// How many of something there are, in all and of each registrable domain.
#[derive(Default)]
pub struct Shares {
    all: usize,
    of_each: HashMap<String, usize>,
}

impl Shares {
    /// How many there are in all.
    pub const fn all(&self) -> usize {
        self.all
    }

    /// How many there are of whoever has this domain.
    pub fn of(&self, domain: &Domain) -> usize {
        self.of_each.get(registrable(domain)).copied().unwrap_or(0)
    }

    /// There is one more.
    pub fn add(&mut self, domain: &Domain) {
        self.all += 1;
        *self.of_each.entry(registrable(domain).to_owned()).or_default() += 1;
    }

    /// There is one less.
    pub fn remove(&mut self, domain: &Domain) {
        let name = registrable(domain);
        if let Some(of) = self.of_each.get_mut(name) {
            self.all -= 1;
            *of -= 1;
            if *of == 0 {
                self.of_each.remove(name);
            }
        }
    }
}

/// The part of a domain that somebody can register; all of it if it is a suffix itself.
fn registrable(domain: &Domain) -> &str {
    psl::domain_str(domain.as_str()).unwrap_or(domain.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_under_one_registrable_domain_share_and_others_do_not() {
        let domain = |name: &str| name.parse::<Domain>().unwrap();
        let mut shares = Shares::default();
        for name in ["a.evil.example", "b.evil.example", "evil.example", "x.co.uk", "y.co.uk", "b.test"] {
            shares.add(&domain(name));
        }
        assert_eq!((shares.all(), shares.of(&domain("c.d.evil.example"))), (6, 3));
        assert_eq!((shares.of(&domain("x.co.uk")), shares.of(&domain("www.y.co.uk"))), (1, 1));
        assert_eq!((shares.of(&domain("co.uk")), shares.of(&domain("a.test"))), (0, 0));
        shares.remove(&domain("b.evil.example"));
        shares.remove(&domain("nobody.example"));
        assert_eq!((shares.all(), shares.of(&domain("evil.example"))), (5, 2));
        for name in ["a.evil.example", "evil.example", "x.co.uk", "y.co.uk", "b.test"] {
            shares.remove(&domain(name));
        }
        assert!(shares.all() == 0 && shares.of_each.is_empty());
    }
}
