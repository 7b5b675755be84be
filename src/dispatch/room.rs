//! Room on the disk. With less free than the operator's reserve nothing is taken in any more that adds to what is stored: what is
//! there stays of use, queues can be emptied and things deleted, and the disk does not get full, which would end the process.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::{
    base::Refusal,
    wire::{Method, method::Repeat},
};

/// When whoever is refused should try again.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Whether there is room, as whoever looks at the disk has said last.
#[derive(Default)]
pub struct Room {
    is_short: AtomicBool,
}

impl Room {
    /// Remembers whether there is less than the reserve; whether that is news.
    pub fn set_short(&self, is_short: bool) -> bool {
        self.is_short.swap(is_short, Ordering::Relaxed) != is_short
    }

    /// Checks that there is room for what a method adds.
    ///
    /// # Errors
    /// `overloaded` if there is none and it adds something.
    pub fn check(&self, method: Method) -> Result<(), Refusal> {
        if self.is_short.load(Ordering::Relaxed) && adds(method) {
            return Err(Refusal::overloaded("the disk of this homeserver is nearly full").with_retry_after(RETRY_AFTER));
        }
        Ok(())
    }
}

/// Whether a method adds to what is stored more than it takes away.
const fn adds(method: Method) -> bool {
    match method {
        // They take away.
        Method::AsDequeue
        | Method::AsListen
        | Method::AsDeleteUser
        | Method::AsDeleteAlias
        | Method::AsDequeueAlias
        | Method::AsListenAlias
        | Method::AsGetConnectionPackage
        | Method::AsGetAliasPackage
        | Method::QsDeleteUser
        | Method::QsDeleteClient
        | Method::QsDequeue
        | Method::QsListen
        | Method::QsGetAddPackages
        // They write nothing, or what is there once.
        | Method::Bind
        | Method::AsInit2fa
        | Method::AsChangePassword => false,
        // The commit that ends a group goes into its members' queues, and the group's state goes.
        Method::DsDeleteGroup => false,
        _ => !matches!(method.repeat(), Repeat::Reads),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Status;

    #[test]
    fn without_room_what_adds_is_refused_and_what_reads_or_takes_away_is_not() {
        let room = Room::default();
        assert!(Method::ALL.iter().all(|method| room.check(*method).is_ok()));
        assert!(room.set_short(true) && !room.set_short(true));
        for method in [
            Method::DsSendMessage,
            Method::DsAddUsers,
            Method::DsCreateGroup,
            Method::QsPublishKeyPackages,
            Method::AsFinishRegistration,
            Method::AsEnqueue,
            Method::FedDeliver,
        ] {
            let refusal = room.check(method).unwrap_err();
            assert_eq!((refusal.status, refusal.retry_after), (Status::Overloaded, Some(RETRY_AFTER)), "{method:?}");
        }
        for method in [Method::ServerInfo, Method::Bind, Method::QsDequeue, Method::DsWelcomeInfo, Method::AsDeleteUser]
        {
            assert!(room.check(method).is_ok(), "{method:?}");
        }
        assert!(room.set_short(false));
        assert!(room.check(Method::DsSendMessage).is_ok());
    }
}
