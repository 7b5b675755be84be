//! Being added to a group: the Welcome must come from a contact, and every member must be somebody.

use openmls::group::JoinBuilder;
use openmls::prelude::{KeyPackageBundle, KeyPackageRef, OpenMlsProvider as _, ProcessedWelcome};
use openmls_traits::storage::StorageProvider as _;

use super::{
    chores,
    event::Event,
    group as groups, members,
    mls::{self, Provider},
    packages::LOW_KEY_PACKAGES,
    queue::{Need, Stop, Work},
    state::{
        blocked,
        chats::{self, Chat, ChatKind, ChatState},
        contacts, keys,
        outbox::{self, Chore},
    },
};
use crate::{
    base::{GroupId, Secret},
    crypto::{aead, hpke::HpkePrivateKey, mls as protocol, sha256, signature::verify},
    wire::{
        connection::{WelcomeAttribution, WelcomeAttributionTbs},
        delivery::{GetWelcomeInfo, GroupAccess, WelcomeBundle},
        label::{HpkeLabel, KeyLabel, SignatureLabel},
        padding::{MESSAGE_FLOOR, unpad_value},
    },
};

/// Joins the group that a Welcome is for.
pub fn receive(work: &mut Work<'_>, group: &GroupId, bundle: &WelcomeBundle) -> Result<(), Stop> {
    if chats::find(work.connection, group)?.is_some_and(|chat| chat.state.is_live()) {
        return Err(Stop::bad("a Welcome to a chat that this client is in"));
    }
    let provider = Provider::new(work.connection);
    let welcome = mls::welcome(bundle.welcome.as_slice())?;
    let mut own = None;
    for secrets in welcome.secrets() {
        let reference = secrets.new_member();
        if let Some(key) = keys::package_key(work.connection, reference.as_slice())? {
            own = Some((reference, key));
        }
    }
    let (reference, key) = own.ok_or_else(|| Stop::bad("a Welcome for a KeyPackage that is not here"))?;
    let stored: Option<KeyPackageBundle> = provider.storage().key_package::<KeyPackageRef, _>(&reference)?;
    let stored = stored.ok_or_else(|| Stop::bad("a Welcome for a KeyPackage that was used before"))?;

    let attribution = attribution(work, group, bundle, reference.as_slice())?;
    if blocked::contains(work.connection, &attribution.sender.user)? {
        // It had the KeyPackage before it was blocked. Nothing more is heard of the group.
        blocked::insert_group(work.connection, group, &attribution.sender.user)?;
        return Ok(outbox::add_chore(work.connection, &Chore::Blocklist)?);
    }
    let init_key =
        <[u8; 32]>::try_from(&stored.init_private_key()[..]).map_err(|_| Stop::bad("an init key of another suite"))?;
    let ear_key = HpkePrivateKey::from_secret(Secret::new(init_key))?.open(
        HpkeLabel::JoinerEarKey,
        reference.as_slice(),
        &[],
        &bundle.joiner.ear_key,
    )?;
    let ear_key = <[u8; 32]>::try_from(&ear_key[..]).map(Secret::new).map_err(|_| Stop::bad("no EAR key"))?;

    let processed = ProcessedWelcome::new_from_welcome(&provider, &mls::join_config(), welcome).map_err(mls::failed)?;
    let unverified = processed.unverified_group_info();
    if *unverified.group_id() != protocol::group_id(group) {
        return Err(Stop::bad("a Welcome to another group than announced"));
    }
    let Some(info) = &work.supplies.welcome else {
        let request = GetWelcomeInfo {
            access: GroupAccess { group: group.clone(), ear_key },
            epoch: unverified.epoch().as_u64(),
        };
        let reference = reference.as_slice().to_vec();
        return Err(Stop::Need(Box::new(Need::Welcome { request, reference, leaf_seed: key.leaf_seed })));
    };
    let staged = JoinBuilder::new(&provider, processed)
        .with_ratchet_tree(mls::ratchet_tree(info.ratchet_tree.as_slice())?)
        .replace_old_group()
        // What is checked here is who is behind each leaf; its KeyPackage may have expired since it was added.
        .skip_lifetime_validation()
        .build()
        .map_err(mls::failed)?;
    let adder = staged.welcome_sender_index().u32();
    let joined = staged.into_group(&provider).map_err(mls::failed)?;

    let WelcomeAttributionTbs { sender, credential_key, .. } = attribution;
    let chat = Chat {
        group: group.clone(),
        kind: ChatKind::Group,
        state: ChatState::Active,
        name: groups::name(&credential_key, group, protocol::group_data(joined.extensions().iter())),
        peer: None,
        ear_key,
        credential_key,
        leaf: joined.own_leaf_index().u32(),
        leaf_seed: key.leaf_seed,
        stale_leaf: key.last_resort,
        next_leaf: None,
    };
    let members = joined.members().count();
    chats::insert(work.connection, &chat, chores::renewed_at_joining(work.trust.now(), members))?;
    chats::put_members(work.connection, group, &[])?;
    let leaf_key = |leaf: u32| {
        let member = joined.members().find(|member| member.index.u32() == leaf);
        member.map(|member| member.signature_key)
    };
    let infos = info.members.iter().filter_map(|of| Some((leaf_key(of.leaf)?, of.info.clone()))).collect();
    let members = members::refresh(work, &chat, &joined, &infos)?;
    if !members.iter().any(|member| member.leaf == adder && member.trusted() == Some(&sender.user)) {
        return Err(Stop::bad("a Welcome that was made by another member than it says"));
    }
    use_up(work, &chat, reference.as_slice(), key.last_resort)?;
    work.events.push(Event::Joined { chat: group.clone(), by: sender.user });
    Ok(())
}

/// Who added this client, as far as it can prove that.
fn attribution(
    work: &Work<'_>,
    group: &GroupId,
    bundle: &WelcomeBundle,
    reference: &[u8],
) -> Result<WelcomeAttributionTbs, Stop> {
    let key = &work.account.keys.friendship.welcome_attribution_key;
    let opened = aead::open(key, KeyLabel::WelcomeAttribution, reference, bundle.joiner.attribution.as_slice())?;
    let WelcomeAttribution { content, signature } = unpad_value(opened, MESSAGE_FLOOR)?;
    let hash = sha256(mls::encrypted_group_info(bundle.welcome.as_slice())?.as_slice());
    if content.group != *group || content.key_package.as_slice() != reference || content.group_info_hash != hash {
        return Err(Stop::bad("a Welcome with the attribution of another"));
    }
    let contact = contacts::contact(work.connection, &content.sender.user)?;
    let contact = contact.ok_or_else(|| Stop::bad("a Welcome from somebody who is no contact"))?;
    let sender = work.trust.client(&contact.credential)?;
    if *sender.client() != content.sender {
        return Err(Stop::bad("a Welcome from another client than the contact's"));
    }
    verify(sender.verifying_key(), SignatureLabel::WelcomeAttribution, &content, &signature)?;
    Ok(content)
}

/// Counts the use of a KeyPackage, and has what it calls for done.
fn use_up(work: &Work<'_>, chat: &Chat, reference: &[u8], last_resort: bool) -> Result<(), Stop> {
    keys::use_package_key(work.connection, reference)?;
    if last_resort {
        outbox::add_chore(work.connection, &Chore::RenewLeaf(chat.group.clone()))?;
    }
    if last_resort || keys::unused_package_keys(work.connection)? < LOW_KEY_PACKAGES {
        outbox::add_chore(work.connection, &Chore::KeyPackages)?;
    }
    Ok(())
}
