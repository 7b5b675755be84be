//! Creating groups: an id from the DS, a group of one, and everything that members will need, stored before it is sent.

use std::sync::Arc;

use openmls::prelude::{MlsGroup, OpenMlsProvider as _};
use rusqlite::Connection;
use tls_codec::Serialize as _;

use super::{
    account::Account,
    commit::member_info,
    connector::Isolation,
    core::Core,
    direct,
    error::ClientError,
    event::Event,
    mls::{self, Provider},
    network::Sender,
    outgoing::lane_of,
    packages,
    state::{
        chats::{self, Chat, ChatKind, ChatState, Member},
        outbox::{self, Kind, New},
    },
};
use crate::{
    base::{GroupId, Secret, Timestamp, UserId},
    crypto::{Rng, aead, mls as protocol, random_secret, system_rng},
    wire::{
        Encode, Method, Text,
        content::GroupData,
        credential::SignaturePublicKey,
        delivery::{CreateGroup, GroupTicket, RequestGroupId, Roles},
        label::KeyLabel,
        method::call,
        padding::{MESSAGE_FLOOR, pad_value, unpad_value},
        queuing::QueuingHpkeKey,
    },
};

/// Longest name of a group, in bytes.
const MAX_NAME: usize = 256;

/// What is fetched before a group can be created.
pub struct Ground {
    ticket: GroupTicket,
    delivery_key: SignaturePublicKey,
    queuing_key: QueuingHpkeKey,
}

impl Ground {
    /// The id of the group to be.
    pub const fn group(&self) -> &GroupId {
        &self.ticket.group
    }
}

impl Core {
    /// Creates a group with a name.
    pub async fn create_group(self: &Arc<Self>, name: &str) -> Result<GroupId, ClientError> {
        check_group_name(name)?;
        let ground = self.ground().await?;
        let (group, name, core) = (ground.group().clone(), name.to_owned(), self.clone());
        let lane = lane_of(&group);
        let _turn = self.lane(&lane).await;
        self.database
            .run(move |connection| {
                create(connection, &core.account(), ground, ChatKind::Group, name, None, core.trust.now()).map(drop)
            })
            .await?;
        // The request to create a group has the group beside it.
        self.send_lane(&lane, Some(&lane)).await?;
        Ok(group)
    }

    /// Fetches what it takes to create a group.
    pub async fn ground(&self) -> Result<Ground, ClientError> {
        let domain = self.domain();
        let request = RequestGroupId {};
        let ticket =
            self.network.call::<call::DsRequestGroupId>(domain, Isolation::Anonymous, Sender::Nobody, &request).await?;
        if ticket.group.domain != *domain {
            return Err(ClientError::untrusted("the DS gave an id of another domain"));
        }
        Ok(Ground { ticket, delivery_key: self.delivery_key(domain).await?, queuing_key: self.queuing_key().await? })
    }
}

/// What a group is called, as only its members can open it.
pub fn seal_group_data(chat: &Chat, name: &str, rng: &mut dyn Rng) -> Vec<u8> {
    let padded = pad_value(&GroupData { name: Text(name.to_owned()), picture: None }, MESSAGE_FLOOR);
    aead::seal(&chat.credential_key, KeyLabel::GroupData, &chat.group.to_vec(), &padded, rng)
}

/// What a group is called; nothing if that cannot be read.
pub fn name(credential_key: &Secret, group: &GroupId, sealed: Option<&[u8]>) -> String {
    let open = |sealed| {
        let opened = aead::open(credential_key, KeyLabel::GroupData, &group.to_vec(), sealed).ok()?;
        unpad_value::<GroupData>(opened, MESSAGE_FLOOR).ok()
    };
    sealed.and_then(open).map(|data| direct::tidy(&data.name.0)).unwrap_or_default()
}

/// Takes over what a group is called now.
pub fn rename(connection: &Connection, chat: &Chat, state: &MlsGroup) -> Result<Option<Event>, ClientError> {
    let sealed = protocol::group_data(state.extensions().iter());
    let name = name(&chat.credential_key, &chat.group, sealed);
    if chat.kind == ChatKind::Connection || name == chat.name {
        return Ok(None);
    }
    chats::set_name(connection, &chat.group, &name)?;
    Ok(Some(Event::Renamed { chat: chat.group.clone(), name }))
}

/// Checks what a person typed as a group's name.
pub fn check_group_name(name: &str) -> Result<(), ClientError> {
    if name.trim().is_empty() || name.len() > MAX_NAME {
        return Err(ClientError::invalid("a group's name has between 1 and 256 bytes"));
    }
    Ok(())
}

/// Makes a group of one, and the request that creates it.
pub fn create(
    connection: &Connection,
    account: &Account,
    ground: Ground,
    kind: ChatKind,
    name: String,
    peer: Option<UserId>,
    now: Timestamp,
) -> Result<Chat, ClientError> {
    let mut rng = system_rng();
    let provider = Provider::new(connection);
    let Ground { ticket, delivery_key, queuing_key } = ground;
    let group = ticket.group.clone();
    let (key, leaf, chain) = account.new_leaf(None, now.day(), &mut rng)?;
    let chat = Chat {
        group: group.clone(),
        kind,
        state: ChatState::Starting,
        name: name.clone(),
        peer,
        ear_key: random_secret(&mut rng),
        credential_key: random_secret(&mut rng),
        leaf: 0,
        leaf_seed: key.seed().clone(),
        stale_leaf: false,
        next_leaf: None,
    };
    // The name of a connection is for its creator alone.
    let shown = if kind == ChatKind::Group { name } else { String::new() };
    let data = seal_group_data(&chat, &shown, &mut rng);
    let roles = Roles { admins: vec![leaf.identity] };
    let state = MlsGroup::builder()
        .with_group_id(protocol::group_id(&group))
        .ciphersuite(protocol::CIPHERSUITE)
        .with_wire_format_policy(mls::WIRE_FORMAT)
        .sender_ratchet_configuration(mls::sender_ratchets())
        .use_ratchet_tree_extension(false)
        .lifetime(mls::lifetime(now.day()))
        .with_capabilities(protocol::capabilities())
        .with_group_context_extensions(mls::context_extensions(&delivery_key, &roles, data)?)
        .build(&provider, &key, mls::credential_with_key(&leaf))
        .map_err(mls::failed)?;
    let info = state.export_group_info(provider.crypto(), &key, false).map_err(mls::failed)?;
    let tree = state.export_ratchet_tree().tls_serialize_detached().map_err(mls::failed)?;
    let profile_key = &account.keys.friendship.user_profile_key;
    let request = CreateGroup {
        ticket,
        ear_key: chat.ear_key.clone(),
        connection: kind == ChatKind::Connection,
        group_info: info.to_bytes().map_err(mls::failed)?.into(),
        ratchet_tree: tree.into(),
        member: member_info(&chat, &leaf.verifying_key, &chain, profile_key, &mut rng),
        queue_config: packages::queue_config(account, &queuing_key, &mut rng)?,
    };
    chats::insert(connection, &chat, now.0)?;
    chats::put_members(connection, &group, &[Member::own(account, 0, &leaf)])?;
    let new = New {
        domain: group.domain.clone(),
        kind: Kind::Create,
        method: Method::DsCreateGroup,
        body: request.to_vec(),
        extra: group.to_vec(),
        group: Some(group),
    };
    outbox::insert(connection, new)?;
    Ok(chat)
}
