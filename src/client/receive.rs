//! What comes through the client's queue: commits, messages and proposals of groups.

use openmls::prelude::OpenMlsProvider as _;
use openmls::prelude::{ContentType, MlsGroup, ProcessedMessageContent, Proposal, Sender as MlsSender, StagedCommit};

use super::{
    blocking,
    event::Event,
    group as groups, join, members,
    mls::{self, Provider},
    queue::{Stop, Work},
    state::{
        blocked,
        chats::{self, Chat, ChatKind, ChatState, Member},
        contacts::{self, Contact},
        history, inbox,
        outbox::{self, Chore},
    },
};
use crate::{
    base::{GroupId, Secret, UserId},
    crypto::{aead, credential::open_chain, mls as protocol},
    wire::{
        Decode, Encode, Opaque,
        connection::FriendshipPackage,
        content::{ApplicationMessage, Content},
        credential::SignaturePublicKey,
        delivery::CommitAad,
        label::KeyLabel,
        padding::{MESSAGE_FLOOR, unpad_value},
        queue::{FanOut, FanOutContent},
    },
};

/// Why nothing of a group can be processed.
const LOST: &str = "its state is lost";

/// Processes what a DS sent.
pub fn receive(work: &mut Work<'_>, message: FanOut) -> Result<(), Stop> {
    let FanOut { group, content } = message;
    if let FanOutContent::Welcome(bundle) = content {
        return join::receive(work, &group, &bundle);
    }
    let chat = chats::find(work.connection, &group)?.ok_or_else(|| Stop::bad("it is of an unknown group"))?;
    if !chat.state.is_live() && chat.state != ChatState::Declined {
        // What was on its way when the chat ended.
        return Ok(());
    }
    match content {
        FanOutContent::Commit(commit) => receive_commit(work, chat, &commit, false),
        FanOutContent::GroupDeleted(commit) => receive_commit(work, chat, &commit, true),
        FanOutContent::Application(message) => receive_message(work, &chat, &message),
        FanOutContent::Proposal(proposal) => receive_proposal(work, &chat, &proposal),
        FanOutContent::Restored(_) => fallen_behind(work, &chat, "its homeserver was restored from a backup"),
        FanOutContent::Welcome(_) => Ok(()),
    }
}

fn receive_commit(work: &mut Work<'_>, chat: Chat, commit: &Opaque, deleted: bool) -> Result<(), Stop> {
    let provider = Provider::new(work.connection);
    let Some(mut group) = mls::find(&provider, &chat.group)? else { return fallen_behind(work, &chat, LOST) };
    let message = mls::message(commit.as_slice())?.try_into_protocol_message().map_err(mls::failed)?;
    if deleted && message.content_type() == ContentType::Proposal {
        // Everybody has left.
        return end(work, &chat, ChatState::Deleted);
    }
    if message.epoch() < group.epoch() {
        // The own commit by which this client joined or came back, or one from before that.
        return Ok(());
    }
    if message.epoch() > group.epoch() {
        return fallen_behind(work, &chat, "commits of others are missing");
    }
    let processed = match group.process_message(&provider, message) {
        Ok(processed) => processed,
        // The DS has accepted it, and so have the others.
        Err(error) => return fallen_behind(work, &chat, &format!("a commit cannot be merged: {error}")),
    };
    let sender = processed.sender().clone();
    let admins = protocol::roles(group.extensions().iter()).ok().map(|roles| roles.admins);
    // A commit is merged whatever its authenticated data: members that it does not explain are quarantined.
    let aad = CommitAad::from_slice(processed.aad()).unwrap_or(CommitAad {
        added: Vec::new(),
        own: None,
        friendship_package: None,
    });
    let (infos, removed) = match processed.into_content() {
        ProcessedMessageContent::OwnPendingCommit => {
            let infos = group.pending_commit().map(|staged| members::infos_of(staged, &aad)).unwrap_or_default();
            if let Some(staged) = group.pending_commit() {
                note_removed(work, &chat, staged)?;
            }
            group.merge_pending_commit(&provider).map_err(mls::failed)?;
            if let Some(seed) = &chat.next_leaf {
                chats::renew_leaf(work.connection, &chat.group, seed, work.trust.now().0)?;
            }
            (infos, false)
        }
        ProcessedMessageContent::StagedCommitMessage(staged) => {
            if breaks_roles(&group, &sender, &staged) {
                work.problem(format!("a member of {} changed the group without being an admin", chat.group))?;
            }
            let (infos, removed) = (members::infos_of(&staged, &aad), staged.self_removed());
            note_removed(work, &chat, &staged)?;
            group.merge_staged_commit(&provider, *staged).map_err(mls::failed)?;
            chats::set_next_leaf(work.connection, &chat.group, None)?;
            (infos, removed)
        }
        _ => return Err(Stop::bad("it is no commit")),
    };
    if deleted || removed {
        return end(work, &chat, if deleted { ChatState::Deleted } else { ChatState::Removed });
    }
    let before = chats::members(work.connection, &chat.group)?;
    let members = members::refresh(work, &chat, &group, &infos)?;
    if protocol::roles(group.extensions().iter()).ok().map(|roles| roles.admins) != admins {
        work.events.push(Event::AdminsChanged { chat: chat.group.clone() });
    }
    if chat.kind == ChatKind::Connection {
        return connected(work, &chat, &members, &infos, &aad);
    }
    work.events.extend(groups::rename(work.connection, &chat, &group)?);
    tell_changes(work, &chat.group, &before, &members);
    work.events.push(Event::Changed { chat: chat.group });
    Ok(())
}

/// Remembers whom members have removed: the DS may be restored to a time before that.
fn note_removed(work: &Work<'_>, chat: &Chat, staged: &StagedCommit) -> Result<(), Stop> {
    let by_members = staged.remove_proposals().filter(|queued| matches!(queued.sender(), MlsSender::Member(_)));
    let leaves: Vec<_> = by_members.map(|queued| queued.remove_proposal().removed().u32()).collect();
    if leaves.is_empty() {
        return Ok(());
    }
    for member in chats::members(work.connection, &chat.group)?.iter().filter(|member| leaves.contains(&member.leaf)) {
        history::note_removed(work.connection, &chat.group, &member.identity)?;
    }
    Ok(())
}

/// Tells who came and who went.
fn tell_changes(work: &mut Work<'_>, chat: &GroupId, before: &[Member], after: &[Member]) {
    let absent = |user: &UserId, from: &[Member]| !from.iter().any(|member| member.is(user));
    for user in after.iter().filter_map(Member::trusted).filter(|user| absent(user, before)) {
        work.events.push(Event::MemberJoined { chat: chat.clone(), user: user.clone() });
    }
    for user in before.iter().filter_map(|member| member.user.as_ref()).filter(|user| absent(user, after)) {
        work.events.push(Event::MemberLeft { chat: chat.clone(), user: user.clone() });
    }
}

/// The own state is not what the other members have: it is compared with the DS's, and this client comes back.
fn fallen_behind(work: &mut Work<'_>, chat: &Chat, why: &str) -> Result<(), Stop> {
    work.problem(format!("{}: {why}", chat.group))?;
    if chat.state.is_live() {
        outbox::add_chore(work.connection, &Chore::Compare(chat.group.clone()))?;
    }
    Ok(())
}

/// This client is no member any more.
fn end(work: &mut Work<'_>, chat: &Chat, state: ChatState) -> Result<(), Stop> {
    mls::delete(&Provider::new(work.connection), &chat.group)?;
    chats::put_members(work.connection, &chat.group, &[])?;
    let group = chat.group.clone();
    if chat.state != ChatState::Declined {
        chats::set_state(work.connection, &group, state)?;
        let deleted = state == ChatState::Deleted;
        work.events.push(if deleted { Event::Deleted { chat: group } } else { Event::Removed { chat: group } });
    }
    Ok(())
}

/// Whether somebody who is no admin added or removed members or changed the group's settings.
fn breaks_roles(group: &MlsGroup, sender: &MlsSender, staged: &StagedCommit) -> bool {
    let MlsSender::Member(sender) = sender else { return false };
    let changes = staged.queued_proposals().any(|queued| {
        let by_value = matches!(queued.sender(), MlsSender::Member(by) if by == sender);
        by_value
            && matches!(queued.proposal(), Proposal::Add(_) | Proposal::Remove(_) | Proposal::GroupContextExtensions(_))
    });
    let Ok(roles) = protocol::roles(group.extensions().iter()) else { return changes };
    let identities: Vec<_> = group
        .members()
        .filter_map(|member| {
            let leaf = protocol::leaf_credential_for(&member.credential, &member.signature_key).ok()?;
            Some((member.index, leaf.identity))
        })
        .collect();
    let is_admin = |identity: &[u8; 32]| roles.admins.contains(identity);
    let any_admin = identities.iter().any(|(_, identity)| is_admin(identity));
    let by_admin = identities.iter().any(|(leaf, identity)| leaf == sender && is_admin(identity));
    changes && any_admin && !by_admin
}

/// A connection group changed: whoever is there besides this client must be the one it was made for.
fn connected(
    work: &mut Work<'_>,
    chat: &Chat,
    members: &[Member],
    infos: &members::Infos,
    aad: &CommitAad,
) -> Result<(), Stop> {
    let me = &work.account.client.user;
    let others: Vec<_> = members.iter().filter(|member| !member.is(me)).collect();
    let mut peer = chat.peer.clone();
    if peer.is_none() {
        // It was made for an alias: whoever joins first has the key that the offer was encrypted to.
        peer = others.iter().find_map(|other| other.trusted().cloned());
        if let Some(peer) = &peer {
            chats::set_peer(work.connection, &chat.group, peer)?;
        }
    }
    for other in &others {
        if other.user.is_none() || other.user != peer {
            outbox::add_chore(work.connection, &Chore::Expel(chat.group.clone(), other.key.clone()))?;
        }
    }
    if others.is_empty() && chat.state == ChatState::Active {
        // The other side has left: nobody is left to talk to.
        outbox::add_chore(work.connection, &Chore::Delete(chat.group.clone()))?;
    }
    let Some(joiner) = others.iter().find(|other| other.trusted().is_some() && other.user == peer) else {
        return Ok(());
    };
    if chat.state != ChatState::Waiting && chat.state != ChatState::Starting {
        return Ok(());
    }
    if let Some(peer) = &peer
        && blocked::contains(work.connection, peer)?
    {
        // It was blocked while the offer was on its way, or before it was known who is behind an alias.
        chats::set_state(work.connection, &chat.group, ChatState::Declined)?;
        contacts::remove_offer(work.connection, &chat.group)?;
        blocking::renew_token(work.connection)?;
        return Ok(outbox::add_chore(work.connection, &Chore::Delete(chat.group.clone()))?);
    }
    let info = infos.iter().find(|(key, _)| key == joiner.key.as_slice()).map(|(_, info)| info);
    let (Some(info), Some(sealed)) = (info, &aad.friendship_package) else {
        return work.problem(format!("the other side of {} gave no friendship package", chat.group));
    };
    let chain = open_chain(&chat.credential_key, &joiner.key, info.sealed_chain.as_slice())?;
    let bound_to = friendship_aad(&chat.group, &joiner.key);
    let opened = aead::open(&chat.credential_key, KeyLabel::FriendshipPackage, &bound_to, sealed.as_slice());
    let friendship = opened
        .map_err(Stop::from)
        .and_then(|padded| Ok::<FriendshipPackage, Stop>(unpad_value(padded, MESSAGE_FLOOR)?));
    chats::set_state(work.connection, &chat.group, ChatState::Active)?;
    contacts::remove_offer(work.connection, &chat.group)?;
    match friendship {
        Ok(friendship) => {
            let user = chain.credential.request.payload.client.user.clone();
            let contact = Contact::new(chain.credential, friendship, chat.group.clone());
            contacts::insert_contact(work.connection, &contact)?;
            work.events.push(Event::Connected { user, chat: chat.group.clone() });
            Ok(blocking::connected(work.connection, &chat.group)?)
        }
        Err(_) => work.problem(format!("the friendship package from the other side of {} is unusable", chat.group)),
    }
}

/// What a friendship package in a joiner's commit is bound to.
pub fn friendship_aad(group: &GroupId, leaf_key: &SignaturePublicKey) -> Vec<u8> {
    [group.to_vec(), leaf_key.to_vec()].concat()
}

/// What a profile key, sealed for members of a group, is.
pub fn seal_profile_key(
    credential_key: &Secret,
    leaf_key: &SignaturePublicKey,
    profile_key: &Secret,
    rng: &mut dyn crate::crypto::Rng,
) -> Vec<u8> {
    aead::seal(credential_key, KeyLabel::ProfileKey, leaf_key.as_slice(), profile_key.expose(), rng)
}

fn receive_message(work: &mut Work<'_>, chat: &Chat, message: &Opaque) -> Result<(), Stop> {
    let provider = Provider::new(work.connection);
    let Some(mut group) = mls::find(&provider, &chat.group)? else { return fallen_behind(work, chat, LOST) };
    let message = mls::message(message.as_slice())?.try_into_protocol_message().map_err(mls::failed)?;
    if message.epoch() > group.epoch() {
        return fallen_behind(work, chat, "commits of others are missing");
    }
    let processed = group.process_message(&provider, message).map_err(mls::failed)?;
    if !processed.aad().is_empty() {
        return Err(Stop::bad("a message with authenticated data, which nobody has verified"));
    }
    let MlsSender::Member(leaf) = *processed.sender() else {
        return Err(Stop::bad("a message that no member sent"));
    };
    let ProcessedMessageContent::ApplicationMessage(content) = processed.into_content() else {
        return Err(Stop::bad("it is no application message"));
    };
    let members = chats::members(work.connection, &chat.group)?;
    let sender = members.iter().find(|member| member.leaf == leaf.u32()).and_then(Member::trusted);
    let Some(from) = sender.cloned() else {
        return Err(Stop::bad("a message from a member in quarantine"));
    };
    let message: ApplicationMessage = unpad_value(content.into_bytes().into(), MESSAGE_FLOOR)?;
    if blocked::contains(work.connection, &from)? {
        return Ok(());
    }
    if let Content::Friendship(friendship) = message.content {
        return match contacts::contact(work.connection, &from)?.filter(|contact| contact.chat == chat.group) {
            Some(contact) => Ok(contacts::insert_contact(work.connection, &Contact { friendship, ..contact })?),
            None => Err(Stop::bad("a friendship package from somebody who is no contact, or not in the chat with it")),
        };
    }
    if inbox::insert(work.connection, &chat.group, &from, &message, work.trust.now())?.is_some() {
        work.events.push(Event::Message { chat: chat.group.clone(), from });
    }
    Ok(())
}

fn receive_proposal(work: &mut Work<'_>, chat: &Chat, proposal: &Opaque) -> Result<(), Stop> {
    let provider = Provider::new(work.connection);
    let Some(mut group) = mls::find(&provider, &chat.group)? else { return fallen_behind(work, chat, LOST) };
    let message = mls::message(proposal.as_slice())?.try_into_protocol_message().map_err(mls::failed)?;
    if message.epoch() != group.epoch() {
        // It has lapsed, or it is for an epoch that this client comes back to.
        return Ok(());
    }
    let processed = group.process_message(&provider, message).map_err(mls::failed)?;
    match processed.into_content() {
        ProcessedMessageContent::ProposalMessage(proposal) => {
            if let (Proposal::SelfRemove, MlsSender::Member(leaf)) = (proposal.proposal(), proposal.sender()) {
                let members = chats::members(work.connection, &chat.group)?;
                let leaving = members.iter().find(|member| member.leaf == leaf.u32()).and_then(Member::trusted);
                let leaving = leaving.map(|user| Event::Leaving { chat: chat.group.clone(), user: user.clone() });
                work.events.extend(leaving);
            }
            group.store_pending_proposal(provider.storage(), *proposal)?;
            Ok(outbox::add_chore(work.connection, &Chore::Settle(chat.group.clone()))?)
        }
        _ => Err(Stop::bad("it is no proposal of a member or the DS")),
    }
}
