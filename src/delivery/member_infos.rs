//! What members say of themselves and each other, sealed: bounded, because the DS keeps it for joiners and cannot see what it
//! is (`wire-spec/delivery.md`, "Group state").

use crate::{
    base::{
        Refusal,
        limits::{MAX_FRIENDSHIP_PACKAGE, MAX_SEALED_CHAIN, MAX_SEALED_PROFILE_KEY},
    },
    wire::{
        Opaque,
        delivery::{CommitAad, MemberInfo},
    },
};

/// Checks what joiners will be given of a member.
///
/// # Errors
/// `malformed` for what can be no sealed chain, or no sealed key.
pub fn check(info: &MemberInfo) -> Result<(), Refusal> {
    if info.sealed_chain.as_slice().len() > MAX_SEALED_CHAIN {
        return Err(Refusal::malformed("this is too long for a sealed chain"));
    }
    check_profile_key(&info.sealed_profile_key)
}

/// Checks a profile key.
///
/// # Errors
/// `malformed` for what can be no sealed key.
pub fn check_profile_key(sealed: &Opaque) -> Result<(), Refusal> {
    if sealed.as_slice().len() > MAX_SEALED_PROFILE_KEY {
        return Err(Refusal::malformed("this is too long for a sealed profile key"));
    }
    Ok(())
}

/// Checks what a commit says.
///
/// # Errors
/// As [`check`]; also for a friendship package that can be none.
pub fn check_all(aad: &CommitAad) -> Result<(), Refusal> {
    aad.added.iter().chain(&aad.own).try_for_each(check)?;
    if aad.friendship_package.as_ref().is_some_and(|package| package.as_slice().len() > MAX_FRIENDSHIP_PACKAGE) {
        return Err(Refusal::malformed("this is too long for a sealed friendship package"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_members_say_is_bounded_wherever_a_commit_says_it() {
        let info = |chain: usize, key: usize| MemberInfo {
            sealed_chain: vec![7; chain].into(),
            sealed_profile_key: vec![7; key].into(),
        };
        let aad = |added: MemberInfo, own: Option<MemberInfo>, package: Option<usize>| CommitAad {
            added: vec![info(600, 76), added],
            own,
            friendship_package: package.map(|length| vec![7; length].into()),
        };
        let largest = || info(MAX_SEALED_CHAIN, MAX_SEALED_PROFILE_KEY);
        assert!(check_all(&aad(largest(), Some(largest()), Some(MAX_FRIENDSHIP_PACKAGE))).is_ok());
        for wrong in [
            aad(info(MAX_SEALED_CHAIN + 1, 76), None, None),
            aad(info(600, MAX_SEALED_PROFILE_KEY + 1), None, None),
            aad(largest(), Some(info(MAX_SEALED_CHAIN + 1, 76)), None),
            aad(largest(), Some(info(600, MAX_SEALED_PROFILE_KEY + 1)), None),
            aad(largest(), None, Some(MAX_FRIENDSHIP_PACKAGE + 1)),
        ] {
            assert!(check_all(&wrong).is_err(), "{wrong:?}");
        }
    }
}
