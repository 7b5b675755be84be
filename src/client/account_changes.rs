//! What a user changes about itself: its name, its password, and whether it is there at all.

use std::sync::Arc;

use rusqlite::Connection;

use super::{
    Client,
    account::Account,
    commit::Intent,
    connector::Isolation,
    core::Core,
    error::{ClientError, Local},
    network::Sender,
    register::{check_name, check_password, seal_profile},
    renewal::renew_leaves,
    state::{
        self, blocking,
        chats::{self, ChatKind, ChatState},
        meta,
        outbox::{self, Kind, New},
    },
};
use crate::{
    base::{GroupId, Refusal, Secret, Status},
    crypto::{
        CryptoError,
        opaque::{ClientLogin, Registration},
        random_secret, system_rng,
    },
    wire::{
        Encode, Method, Opaque, Text,
        authentication::{ChangePassword, DeleteUser, GetUserProfile, Init2fa, SecondFactor, UpdateUserProfile},
        method::call,
        queuing::DeleteQueuingUser,
    },
};

impl Client {
    /// Changes the display name. Contacts and members of groups are given the key to the new profile; whoever had the old
    /// one only cannot read it.
    ///
    /// # Errors
    /// [`Local::Invalid`] for a name that is none; [`ClientError::Unreachable`], after which what was not done is done
    /// next time.
    pub async fn set_name(&self, name: &str) -> Result<(), ClientError> {
        check_name(name)?;
        let (core, name) = (&self.0, Text(name.to_owned()));
        let (account, mine) = (core.account(), name.to_vec());
        core.database
            .run(move |connection| {
                let key = random_secret(&mut system_rng());
                meta::put(connection, NEXT_NAME, &name)?;
                meta::put(connection, NEXT_PROFILE_KEY, &key)?;
                upload_profile(connection, &account, &name, &key, true)
            })
            .await?;
        {
            let _turn = core.lane(&[]).await;
            core.send_lane(&[], Some(&mine)).await?;
        }
        core.do_chores().await
    }

    /// Changes the password.
    ///
    /// # Errors
    /// [`Local::Invalid`] for an empty one, `unauthenticated` if the old one is wrong, `rate_limited` after too many attempts.
    pub async fn change_password(&self, old: &str, new: &str) -> Result<(), ClientError> {
        check_password(new)?;
        let user = self.0.account().client.user.clone();
        let (registration, request) = Registration::start(user, new, &mut system_rng())?;
        let (factor, response) = self.0.second_factor(old, Some(request)).await?;
        let response = response.ok_or_else(|| ClientError::untrusted("the AS does not answer for the new password"))?;
        let new = new.to_owned();
        let finish = move || Ok(registration.finish(&new, response.as_slice(), &mut system_rng())?);
        let request = ChangePassword { factor, record: blocking(finish).await? };
        let account = self.0.account();
        let sender = Sender::Bound(account.identity(), &account.keys.identity);
        let (network, domain) = (&self.0.network, self.0.domain());
        network.call::<call::AsChangePassword>(domain, Isolation::Identity, sender, &request).await.map(drop)
    }

    /// Deletes the user: its aliases go, it ends its connections and leaves its groups, so that everybody is told; then everything
    /// at the Queuing Service and the Authentication Service goes, and then everything here. Whoever could not be told learns of
    /// it from the list of revoked credentials.
    ///
    /// # Errors
    /// `unauthenticated` if the password is wrong; then nothing has changed.
    pub async fn delete_account(&self, password: &str) -> Result<(), ClientError> {
        let core = &self.0;
        // Checked before anything ends; the login itself is for one use.
        core.second_factor(password, None).await?;
        for own in self.aliases().await? {
            self.delete_alias(&own.alias).await?;
        }
        core.end_chats().await?;
        core.leave_queuing().await?;
        let (factor, _) = core.second_factor(password, None).await?;
        let account = core.account();
        let sender = Sender::Bound(account.identity(), &account.keys.identity);
        let request = DeleteUser { factor };
        let deleted =
            core.network.call::<call::AsDeleteUser>(core.domain(), Isolation::Identity, sender, &request).await;
        match deleted {
            Ok(_) => {}
            // A repeat, after a reply that got lost, is sent by nobody.
            Err(ClientError::Refused(refusal))
                if refusal.status == Status::Unauthenticated && core.is_gone().await? => {}
            Err(error) => return Err(error),
        }
        core.database.run(state::wipe).await
    }
}

/// The name that is being uploaded, and the key of the profile that it is in.
const NEXT_NAME: &str = "next name";
const NEXT_PROFILE_KEY: &str = "next user profile key";

/// Puts a profile for the homeserver into the outbox; with its name beside it if it is a new one.
fn upload_profile(
    connection: &Connection,
    account: &Account,
    name: &Text,
    key: &Secret,
    is_new: bool,
) -> Result<(), ClientError> {
    let profile = seal_profile(name.clone(), &account.client.user, key, &mut system_rng());
    let new = New {
        group: None,
        kind: Kind::Simple,
        method: Method::AsUpdateUserProfile,
        domain: account.domain().clone(),
        body: UpdateUserProfile { profile }.to_vec(),
        extra: if is_new { name.to_vec() } else { Vec::new() },
    };
    outbox::insert(connection, new).map(drop)
}

/// The homeserver may not have the current profile any more.
pub fn tell_name_again(connection: &Connection, account: &Account) -> Result<(), ClientError> {
    // One that is about to be replaced need not be there.
    let is_changing = meta::get::<Text>(connection, NEXT_NAME)?.is_some();
    let Some(name) = meta::get::<Text>(connection, "name")?.filter(|_| !is_changing) else { return Ok(()) };
    upload_profile(connection, account, &name, &account.keys.friendship.user_profile_key, false)
}

/// The new profile is at the homeserver: everybody is to be given its key.
pub fn profile_uploaded(connection: &Connection) -> Result<(), ClientError> {
    let name = meta::get::<Text>(connection, NEXT_NAME)?;
    let Some((name, key)) = name.zip(meta::get::<Secret>(connection, NEXT_PROFILE_KEY)?) else { return Ok(()) };
    meta::put(connection, "name", &name)?;
    meta::put(connection, "user profile key", &key)?;
    profile_refused(connection)?;
    renew_leaves(connection)
}

/// The new profile was refused: the old one stays.
pub fn profile_refused(connection: &Connection) -> Result<(), ClientError> {
    meta::remove(connection, NEXT_NAME)?;
    meta::remove(connection, NEXT_PROFILE_KEY)
}

impl Core {
    /// Proves the password, and has a new one evaluated if there is one.
    async fn second_factor(
        &self,
        password: &str,
        new_password: Option<Opaque>,
    ) -> Result<(SecondFactor, Option<Opaque>), ClientError> {
        let account = self.account();
        let (login, request) = ClientLogin::start(account.client.user.clone(), password, &mut system_rng())?;
        let init = Init2fa { login: request, new_password };
        let sender = Sender::Bound(account.identity(), &account.keys.identity);
        let answer = self.network.call::<call::AsInit2fa>(self.domain(), Isolation::Identity, sender, &init).await?;
        let (password, challenge) = (password.to_owned(), answer.login);
        let finished = blocking(move || Ok(login.finish(&password, challenge.as_slice(), &mut system_rng()))).await?;
        let login = finished.map_err(|error| match error {
            CryptoError::Invalid => ClientError::Refused(Refusal::unauthenticated("the password is wrong")),
            error => error.into(),
        })?;
        Ok((SecondFactor { session: answer.session, login }, answer.new_password))
    }

    /// Ends connections, and leaves groups. Where the DS does not let it, the others learn of it from the list of revoked
    /// credentials.
    async fn end_chats(self: &Arc<Self>) -> Result<(), ClientError> {
        for chat in self.database.run(chats::all_chats).await? {
            let ended = match (chat.state, chat.kind) {
                (ChatState::Active | ChatState::Waiting, ChatKind::Connection) => {
                    self.end_connection(&chat.group).await
                }
                (ChatState::Active, ChatKind::Group) => self.leave_behind(&chat.group).await,
                _ => continue,
            };
            match ended {
                Ok(()) | Err(ClientError::Refused(_) | ClientError::Local(Local::NotFound | Local::Invalid, _)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Deletes a group that was made for two, or leaves it where only the other side may delete it.
    async fn end_connection(self: &Arc<Self>, group: &GroupId) -> Result<(), ClientError> {
        match self.change(group, Intent::Delete).await {
            Err(ClientError::Refused(refusal)) if refusal.status == Status::Forbidden => self.leave(group).await,
            outcome => outcome,
        }
    }

    /// Leaves a group; the last admin makes another member one first.
    async fn leave_behind(self: &Arc<Self>, group: &GroupId) -> Result<(), ClientError> {
        match self.leave(group).await {
            Err(ClientError::Refused(refusal)) if refusal.status == Status::Forbidden => {}
            outcome => return outcome,
        }
        let (of, me) = (group.clone(), self.account().client.user.clone());
        let members = self.database.run(move |connection| chats::members(connection, &of)).await?;
        let others = members.iter().filter_map(chats::Member::trusted).filter(|user| **user != me);
        self.change(group, Intent::Appoint(others.take(1).cloned().collect(), Vec::new())).await?;
        self.leave(group).await
    }

    /// Deletes the user at the QS.
    async fn leave_queuing(&self) -> Result<(), ClientError> {
        let account = self.account();
        let sender = Sender::Signed(account.queuing_user(), &account.keys.queuing_user);
        let request = DeleteQueuingUser {};
        let (network, domain) = (&self.network, self.domain());
        match network.call::<call::QsDeleteUser>(domain, Isolation::Pseudonym, sender, &request).await {
            // It is gone already.
            Err(error) if error.is_unproven() => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Whether the user does not exist any more.
    async fn is_gone(&self) -> Result<bool, ClientError> {
        let request = GetUserProfile { user: self.account().client.user.clone() };
        let (domain, nobody) = (self.domain(), Sender::Nobody);
        match self.network.call::<call::AsGetUserProfile>(domain, Isolation::Anonymous, nobody, &request).await {
            Ok(_) => Ok(false),
            Err(ClientError::Refused(refusal)) if refusal.status == Status::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }
}
