//! Who the members of a group are: after every change each new leaf is traced back to a user, and a leaf that cannot be
//! is put in quarantine: nothing from it is shown, and nothing is sent while it is there. Quarantine ends when the leaf
//! verifies after all, or with the leaf.

use std::{collections::HashMap, time::Duration};

use openmls::prelude::{MlsGroup, StagedCommit};
use rusqlite::Connection;

use super::{
    account::Account,
    core::Core,
    error::ClientError,
    event::Event,
    mls::{self as state, Provider},
    queue::{Stop, Work},
    state::{
        chats::{self, Chat, ChatKind, Grounds, Member},
        contacts, history, inbox,
        outbox::{self, Chore},
        strangers,
    },
    trust::{Doubt, Trust, VerifiedMember},
};
use crate::{
    base::{Domain, Timestamp},
    crypto::{CryptoError, credential::fingerprint, mls},
    wire::{
        authentication::RevocationReason,
        credential::{ClientCredential, LeafCredential},
        delivery::{CommitAad, MemberInfo},
    },
};

/// What is known of leaves, by their signature keys.
pub type Infos = Vec<(Vec<u8>, MemberInfo)>;

/// What a commit says of the leaves it adds or renews.
pub fn infos_of(staged: &StagedCommit, aad: &CommitAad) -> Infos {
    let added = staged.add_proposals().map(|add| {
        let leaf = add.add_proposal().key_package().leaf_node();
        leaf.signature_key().as_slice().to_vec()
    });
    let mut infos: Infos = added.zip(aad.added.iter().cloned()).collect();
    if let (Some(leaf), Some(own)) = (staged.update_path_leaf_node(), &aad.own) {
        infos.push((leaf.signature_key().as_slice().to_vec(), own.clone()));
    }
    infos
}

impl Grounds {
    /// What it rests on that somebody holds a key which this credential names.
    pub fn of(credential: &ClientCredential) -> Self {
        let payload = &credential.request.payload;
        Self { credential: fingerprint(credential), signer: payload.signer, until: payload.validity.not_after }
    }
}

impl Member {
    /// A leaf of nobody known so far.
    fn unknown(leaf: u32, key: &[u8], identity: [u8; 32], claim: Option<MemberInfo>) -> Self {
        let key = key.into();
        Self { leaf, key, identity, user: None, profile_key: None, grounds: None, quarantined: true, claim }
    }

    /// This client's own leaf.
    pub fn own(account: &Account, leaf: u32, credential: &LeafCredential) -> Self {
        Self {
            user: Some(account.client.user.clone()),
            profile_key: Some(account.keys.friendship.user_profile_key.clone()),
            grounds: Some(Grounds::of(&account.credential)),
            quarantined: false,
            ..Self::unknown(leaf, credential.verifying_key.as_slice(), credential.identity, None)
        }
    }

    /// A leaf that was verified when it was found.
    pub fn of(leaf: u32, credential: &LeafCredential, by: VerifiedMember) -> Self {
        Self::unknown(leaf, credential.verifying_key.as_slice(), credential.identity, None).verified(by)
    }

    /// The leaf is of a user after all.
    fn verified(self, by: VerifiedMember) -> Self {
        Self {
            user: Some(by.user().clone()),
            grounds: Some(Grounds::of(by.client.credential())),
            profile_key: by.profile_key,
            quarantined: false,
            claim: None,
            ..self
        }
    }
}

/// Brings the member table of a chat up to its MLS state.
pub fn refresh(work: &mut Work<'_>, chat: &Chat, group: &MlsGroup, infos: &Infos) -> Result<Vec<Member>, Stop> {
    let known = chats::members(work.connection, &chat.group)?;
    let own_leaf = group.own_leaf_index().u32();
    let (mut members, mut intruders) = (Vec::new(), Vec::new());
    for member in group.members() {
        let (leaf, key) = (member.index.u32(), member.signature_key);
        if let Some(same) = known.iter().find(|known| known.leaf == leaf && known.key.as_slice() == key) {
            members.push(same.clone());
            continue;
        }
        let Ok(credential) = mls::leaf_credential_for(&member.credential, &key) else {
            intruders.push(members.len());
            members.push(Member::unknown(leaf, &key, [0; 32], None));
            continue;
        };
        if leaf == own_leaf {
            members.push(Member::own(work.account, leaf, &credential));
            continue;
        }
        history::note_added(work.connection, &chat.group, &credential.identity)?;
        let claim = infos.iter().find(|(of, _)| *of == key).map(|(_, info)| info.clone());
        let fresh = Member::unknown(leaf, &key, credential.identity, claim);
        match verify(work.trust, chat, &credential, &fresh) {
            Ok(verified) => {
                let replaces = replaces(&known, leaf, &verified);
                work.events.extend(seen(work.connection, &verified, replaces, work.trust.now())?);
                members.push(fresh.verified(verified));
            }
            Err(Doubt::Missing(domain)) if work.may_fetch(&domain) => return Err(Doubt::Missing(domain).into()),
            Err(doubt) => {
                work.problem(format!("leaf {leaf} of {} is of nobody known: quarantined", chat.group))?;
                if is_for_good(&doubt, |domain| work.has_fetched(domain)) {
                    intruders.push(members.len());
                }
                members.push(fresh);
            }
        }
    }
    chats::put_members(work.connection, &chat.group, &members)?;
    let intruders: Vec<_> = intruders.iter().map(|at| &members[*at]).collect();
    expel(work.connection, chat, &members, &intruders)?;
    Ok(members)
}

/// Makes the member table of a chat anew from what the DS says of its leaves; what is known of a leaf stays.
pub fn rebuild(
    connection: &Connection,
    (account, trust): (&Account, &Trust),
    chat: &Chat,
    group: &MlsGroup,
    own: &LeafCredential,
    mut infos: HashMap<u32, MemberInfo>,
) -> Result<Vec<Event>, ClientError> {
    let known = chats::members(connection, &chat.group)?;
    let removed = history::removed(connection, &chat.group)?;
    let (mut members, mut returned) = (Vec::new(), Vec::new());
    let mut events = vec![Event::Changed { chat: chat.group.clone() }];
    for member in group.members() {
        let (leaf, key) = (member.index.u32(), member.signature_key);
        if key == own.verifying_key.as_slice() {
            members.push(Member::own(account, leaf, own));
            continue;
        }
        if let Some(same) = known.iter().find(|known| known.leaf == leaf && known.key.as_slice() == key) {
            members.push(same.clone());
            continue;
        }
        let credential = mls::leaf_credential_for(&member.credential, &key).ok();
        let identity = credential.as_ref().map_or([0; 32], |credential| credential.identity);
        if removed.contains(&identity) {
            // The DS does not know that any more: nothing is said to it, until it is removed once more.
            let text = format!("leaf {leaf} of {} was removed and is there again: quarantined", chat.group);
            inbox::problem(connection, &text, trust.now())?;
            events.push(Event::Problem(text));
            returned.push(members.len());
            members.push(Member::unknown(leaf, &key, identity, None));
            continue;
        }
        let fresh = Member::unknown(leaf, &key, identity, infos.remove(&leaf));
        let verified = credential.map(|credential| verify(trust, chat, &credential, &fresh));
        match verified {
            Some(Ok(verified)) => {
                let replaces = replaces(&known, leaf, &verified);
                events.extend(seen(connection, &verified, replaces, trust.now())?);
                members.push(fresh.verified(verified));
            }
            // Looked at again with the next list of revoked credentials.
            unverified => {
                if let Some(Err(Doubt::Missing(domain))) = unverified {
                    strangers::want(connection, &domain)?;
                }
                members.push(fresh);
            }
        }
    }
    chats::put_members(connection, &chat.group, &members)?;
    let returned: Vec<_> = returned.iter().map(|at| &members[*at]).collect();
    expel(connection, chat, &members, &returned)?;
    Ok(events)
}

/// Whether a leaf is of who had it before, and has thus renewed it.
fn replaces(known: &[Member], leaf: u32, by: &VerifiedMember) -> bool {
    known.iter().any(|known| known.leaf == leaf && known.is(by.user()))
}

/// Traces a leaf back to a user by what is said of it.
fn verify(trust: &Trust, chat: &Chat, leaf: &LeafCredential, member: &Member) -> Result<VerifiedMember, Doubt> {
    let claim = member.claim.as_ref().ok_or(CryptoError::Form)?;
    trust.member(&chat.credential_key, leaf, claim)
}

/// Whether what did not verify will not verify at another time either: all that its domain has was `fetched` since it was
/// said, and it is not only waiting for a renewal.
fn is_for_good(doubt: &Doubt, fetched: impl Fn(&Domain) -> bool) -> bool {
    match doubt {
        Doubt::Missing(domain) => fetched(domain),
        Doubt::Invalid(error) => {
            !matches!(error, CryptoError::OnHold | CryptoError::Expired | CryptoError::RevokedSigner)
        }
    }
}

/// A user was seen with a credential that was verified, and with a profile key. If it is a contact, its own commit is
/// believed about both; who adds it to a group has no say in its profile key.
fn seen(
    connection: &Connection,
    member: &VerifiedMember,
    own_commit: bool,
    now: Timestamp,
) -> Result<Vec<Event>, ClientError> {
    let (user, mut events) = (member.user().clone(), Vec::new());
    if own_commit {
        // It may be called differently now.
        contacts::forget_name(connection, &user)?;
    }
    let Some(mut contact) = contacts::contact(connection, &user)? else { return Ok(events) };
    let new = member.client.credential();
    let mut changed = contact.credential != *new && !contact.had(new);
    if changed && !contact.take(new.clone()) {
        let text = format!("{user} has another identity key than before, which the old one has not signed");
        inbox::problem(connection, &text, now)?;
        events.extend([Event::Problem(text), Event::IdentityChanged { user }]);
    }
    let key = member.profile_key.as_ref();
    if let Some(key) = key.filter(|key| own_commit && **key != contact.friendship.user_profile_key) {
        contact.friendship.user_profile_key = key.clone();
        changed = true;
    }
    if changed {
        contacts::insert_contact(connection, &contact)?;
    }
    Ok(events)
}

impl Core {
    /// Fetches the credentials of a domain. Its users' leaves are looked at again, in the light of what is revoked now.
    pub async fn fetch_authority(&self, domain: &Domain) -> Result<(), ClientError> {
        self.fetch_authority_within(domain, None).await
    }

    /// The same, if it answers so soon.
    pub async fn fetch_authority_within(&self, domain: &Domain, limit: Option<Duration>) -> Result<(), ClientError> {
        let events = self.trust.fetch_within(domain, &self.network, &self.database, limit).await?;
        self.publish(events).await;
        let (trust, fetched) = (self.trust.clone(), domain.clone());
        let events = self.database.run(move |connection| review(connection, &trust, &fetched)).await?;
        self.publish(events).await;
        Ok(())
    }
}

/// Looks at all members again: those whose credential is revoked, or is over, go into quarantine, and are removed where
/// that is for good and this client may; those that verify now leave it.
fn review(connection: &Connection, trust: &Trust, fetched: &Domain) -> Result<Vec<Event>, ClientError> {
    let mut events = Vec::new();
    for chat in chats::all_chats(connection)?.into_iter().filter(|chat| chat.state.is_live()) {
        let before = chats::members(connection, &chat.group)?;
        let (mut members, mut intruders) = (Vec::new(), Vec::new());
        for member in &before {
            let (member, intrudes) = reviewed(connection, (trust, fetched), &chat, member.clone(), &mut events)?;
            if intrudes {
                intruders.push(members.len());
            }
            members.push(member);
        }
        if members != before {
            chats::put_members(connection, &chat.group, &members)?;
            if members.iter().zip(&before).any(|(now, then)| now.quarantined && !then.quarantined) {
                let text = format!("the credential of a member of {} is revoked or expired: quarantined", chat.group);
                inbox::problem(connection, &text, trust.now())?;
            }
            events.push(Event::Changed { chat: chat.group.clone() });
        }
        let intruders: Vec<_> = intruders.iter().map(|at| &members[*at]).collect();
        expel(connection, &chat, &members, &intruders)?;
    }
    Ok(events)
}

/// A member as it is seen now, and whether it does not belong there any more.
fn reviewed(
    connection: &Connection,
    (trust, fetched): (&Trust, &Domain),
    chat: &Chat,
    member: Member,
    events: &mut Vec<Event>,
) -> Result<(Member, bool), ClientError> {
    if member.leaf == chat.leaf {
        return Ok((member, false));
    }
    if let (Some(user), Some(grounds)) = (&member.user, &member.grounds) {
        let revoked = trust.revocation(&user.domain, &grounds.credential);
        // Whoever was certified by a signer that is revoked may have renewed its credential.
        let unsigned = trust.revocation(&user.domain, &grounds.signer).is_some();
        let quarantined = revoked.is_some() || unsigned || grounds.until < trust.now().seconds();
        return Ok((Member { quarantined, ..member }, revoked == Some(RevocationReason::Revoked)));
    }
    if member.claim.is_none() {
        return Ok((member, true));
    }
    let Some(group) = state::find(&Provider::new(connection), &chat.group)? else { return Ok((member, false)) };
    let in_tree = group.members().find(|of| of.index.u32() == member.leaf);
    let credential = in_tree.and_then(|of| mls::leaf_credential_for(&of.credential, &of.signature_key).ok());
    let Some(credential) = credential else { return Ok((member, true)) };
    match verify(trust, chat, &credential, &member) {
        Ok(verified) => {
            events.extend(seen(connection, &verified, false, trust.now())?);
            Ok((member.verified(verified), false))
        }
        Err(doubt) => Ok((member, is_for_good(&doubt, |domain| domain == fetched))),
    }
}

/// Has intruders removed, if this client may do that; a connection ends with its other side.
fn expel(connection: &Connection, chat: &Chat, members: &[Member], intruders: &[&Member]) -> Result<(), ClientError> {
    if intruders.is_empty() || !is_admin(connection, chat, members)? {
        return Ok(());
    }
    for intruder in intruders {
        let is_peer = chat.kind == ChatKind::Connection && intruder.user.is_some() && intruder.user == chat.peer;
        let chore = if is_peer {
            Chore::Delete(chat.group.clone())
        } else {
            Chore::Expel(chat.group.clone(), intruder.key.clone())
        };
        outbox::add_chore(connection, &chore)?;
    }
    Ok(())
}

/// Whether this client may remove others from a chat: it is listed as an admin, or nobody listed is there. Not while it has
/// no state to do so.
fn is_admin(connection: &Connection, chat: &Chat, members: &[Member]) -> Result<bool, ClientError> {
    let Some(state) = state::find(&Provider::new(connection), &chat.group)? else { return Ok(false) };
    let admins = mls::roles(state.extensions().iter())?.admins;
    let mut present = members.iter().filter(|member| admins.contains(&member.identity)).peekable();
    Ok(present.peek().is_none() || present.any(|member| member.leaf == chat.leaf))
}
