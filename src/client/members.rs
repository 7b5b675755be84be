//! Who the members of a group are: after every change each new leaf is traced back to a user, and a leaf that cannot be
//! is put in quarantine: nothing from it is shown, and nothing is sent while it is there.

use openmls::prelude::{MlsGroup, StagedCommit};
use rusqlite::Connection;

use super::{
    error::ClientError,
    event::Event,
    queue::{Stop, Work},
    state::{
        chats::{self, Chat, Member},
        contacts, inbox,
        outbox::{self, Chore},
    },
    trust::{Doubt, Trust, VerifiedMember},
};
use crate::{
    base::GroupId,
    crypto::{
        credential::{fingerprint, is_renewal_of},
        mls,
    },
    wire::delivery::{CommitAad, MemberInfo},
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

/// Brings the member table of a chat up to its MLS state.
pub fn refresh(work: &mut Work<'_>, chat: &Chat, group: &MlsGroup, infos: &Infos) -> Result<Vec<Member>, Stop> {
    let known = chats::members(work.connection, &chat.group)?;
    let own_leaf = group.own_leaf_index().u32();
    let mut members = Vec::new();
    for member in group.members() {
        let (leaf, key) = (member.index.u32(), member.signature_key);
        if let Some(same) = known.iter().find(|known| known.leaf == leaf && known.key.as_slice() == key) {
            members.push(same.clone());
            continue;
        }
        let mut fresh = Member {
            leaf,
            key: key.as_slice().into(),
            identity: [0; 32],
            user: None,
            profile_key: None,
            credential: None,
        };
        let credential = mls::leaf_credential_for(&member.credential, &key);
        if let Ok(credential) = credential {
            fresh.identity = credential.identity;
            let info = infos.iter().find(|(of, _)| *of == key).map(|(_, info)| info);
            let verified = match info {
                _ if leaf == own_leaf => None,
                Some(info) => match work.trust.member(&chat.credential_key, &credential, info) {
                    Ok(verified) => Some(verified),
                    Err(Doubt::Missing(domain)) if work.may_fetch(&domain) => {
                        return Err(Doubt::Missing(domain).into());
                    }
                    Err(_) => None,
                },
                None => None,
            };
            if let Some(verified) = verified {
                let replaces =
                    known.iter().any(|known| known.leaf == leaf && known.user.as_ref() == Some(verified.user()));
                seen(work, &verified, replaces)?;
                fresh.user = Some(verified.user().clone());
                fresh.credential = Some(fingerprint(verified.client.credential()));
                fresh.profile_key = verified.profile_key;
            }
        }
        if leaf == own_leaf {
            fresh.user = Some(work.account.client.user.clone());
            fresh.profile_key = Some(work.account.keys.friendship.user_profile_key.clone());
        }
        if fresh.user.is_none() {
            work.problem(format!("leaf {leaf} of {} is of nobody known: quarantined", chat.group))?;
        }
        members.push(fresh);
    }
    chats::put_members(work.connection, &chat.group, &members)?;
    Ok(members)
}

/// A user was seen with a credential that was verified, and with a profile key. If it is a contact, its own commit is
/// believed about both; who adds it to a group has no say in its profile key.
fn seen(work: &mut Work<'_>, member: &VerifiedMember, own_commit: bool) -> Result<(), Stop> {
    let user = member.user().clone();
    if own_commit {
        // It may be called differently now.
        contacts::forget_name(work.connection, &user)?;
    }
    let Some(mut contact) = contacts::contact(work.connection, &user)? else { return Ok(()) };
    let (old, new) = (&contact.credential, member.client.credential());
    let (mut changed, is_older) = (false, is_renewal_of(&old.request, new));
    if old != new && !is_older {
        if !is_renewal_of(&new.request, old) {
            work.problem(format!("{user} has another identity key than before, which the old one has not signed"))?;
            work.events.push(Event::IdentityChanged { user: user.clone() });
        }
        contact.credential = new.clone();
        changed = true;
    }
    if let Some(key) =
        member.profile_key.as_ref().filter(|key| own_commit && **key != contact.friendship.user_profile_key)
    {
        contact.friendship.user_profile_key = key.clone();
        changed = true;
    }
    if changed { Ok(contacts::insert_contact(work.connection, &contact)?) } else { Ok(()) }
}

/// Members whose credential has been revoked are nobody any more: they go into quarantine, and are removed where this
/// client may do that. Gives the chats in which there were any.
pub fn quarantine_revoked(connection: &Connection, trust: &Trust) -> Result<Vec<GroupId>, ClientError> {
    let mut found = Vec::new();
    for chat in chats::all_chats(connection)?.into_iter().filter(|chat| chat.state.is_live()) {
        let mut members = chats::members(connection, &chat.group)?;
        let is_revoked = |member: &Member| match (&member.user, &member.credential) {
            (Some(user), Some(name)) => trust.is_revoked(&user.domain, name),
            _ => false,
        };
        let revoked: Vec<_> = members.iter().filter(|member| is_revoked(member)).map(|member| member.leaf).collect();
        if revoked.is_empty() {
            continue;
        }
        let may_remove = is_admin(connection, &chat, &members)?;
        for member in members.iter_mut().filter(|member| revoked.contains(&member.leaf)) {
            member.user = None;
            member.profile_key = None;
            if may_remove {
                outbox::add_chore(connection, &Chore::Expel(chat.group.clone(), member.key.clone()))?;
            }
        }
        chats::put_members(connection, &chat.group, &members)?;
        let text = format!("the credential of a member of {} was revoked: quarantined", chat.group);
        inbox::problem(connection, &text, trust.now())?;
        found.push(chat.group);
    }
    Ok(found)
}

/// Whether this client may remove others from a chat: it is listed as an admin, or nobody listed is there.
fn is_admin(connection: &Connection, chat: &Chat, members: &[Member]) -> Result<bool, ClientError> {
    let state = super::mls::load(&super::mls::Provider::new(connection), &chat.group)?;
    let admins = mls::roles(state.extensions().iter())?.admins;
    let listed = |member: &&Member| admins.contains(&member.identity);
    let mut present = members.iter().filter(listed).peekable();
    Ok(present.peek().is_none() || present.any(|member| member.leaf == chat.leaf))
}
