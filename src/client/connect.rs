//! Connecting two users: offers made, accepted and declined.

use std::sync::Arc;

use openmls::prelude::{LeafNodeParameters, MlsGroup, OpenMlsProvider as _};
use rusqlite::Connection;

use super::{
    account::Account,
    commit::{commit_bundle, member_info},
    connector::Isolation,
    core::Core,
    error::ClientError,
    group::{self, Ground},
    mls::{self, Provider},
    network::Sender,
    outgoing::lane_of,
    packages,
    receive::friendship_aad,
    register::doubted,
    state::{
        aliases,
        chats::{self, Chat, ChatKind, ChatState, Member},
        contacts::{self, Offer},
        outbox::{self, Kind, New},
    },
    trust::Trust,
};
use crate::{
    base::{AliasId, ClientId, Domain, GroupId, Timestamp, UserId},
    crypto::{
        aead, alias::Alias, hpke, hpke::HpkePrivateKey, mls as protocol, random, sha256, signature::verify, system_rng,
    },
    wire::{
        Encode, Method, Text,
        authentication::{
            AliasPackageOf, ConnectionPackageOf, EnqueueAlias, EnqueueDirect, GetAliasPackage, GetConnectionPackage,
        },
        connection::{
            AliasPackage, ConnectionDecline, ConnectionOffer, ConnectionOfferTbs, ConnectionPackage, DirectMessage,
            Recipient,
        },
        content::UserProfile,
        credential::{CIPHERSUITE, HpkePublicKey},
        delivery::{CommitAad, ExternalCommitInfo, GetExternalCommitInfo, GroupAccess, JoinConnectionGroup},
        label::{HpkeLabel, KeyLabel, SignatureLabel},
        method::call,
        padding::{MESSAGE_FLOOR, OFFER_FLOOR, pad_value},
        queuing::QueuingHpkeKey,
    },
};

impl Core {
    /// Offers a user to connect; returns the chat that it will be in.
    pub async fn connect(self: &Arc<Self>, user: &UserId) -> Result<GroupId, ClientError> {
        if *user == self.account().client.user {
            return Err(ClientError::invalid("you cannot connect with yourself"));
        }
        let who = user.clone();
        if let Some(chat) = self.database.run(move |connection| chat_with(connection, &who)).await? {
            self.flush().await?;
            return Ok(chat);
        }
        let package = self.connection_package(user).await?;
        self.offer(Addressee::User(package)).await
    }

    /// Offers whoever is behind an alias to connect; returns the chat that it will be in.
    pub async fn connect_alias(self: &Arc<Self>, alias: &str, domain: &Domain) -> Result<GroupId, ClientError> {
        let alias = Alias::parse(alias).map_err(|error| ClientError::invalid(error.to_string()))?;
        let id = alias.id(domain);
        let known = move |connection: &Connection| {
            Ok::<_, ClientError>((aliases::find(connection, &id)?.is_some(), chats::by_alias(connection, &id)?))
        };
        match self.database.run(known).await? {
            (true, _) => return Err(ClientError::invalid("this alias is your own")),
            (false, Some(chat)) => {
                self.flush().await?;
                return Ok(chat);
            }
            (false, None) => {}
        }
        let request = GetAliasPackage { alias: id };
        let AliasPackageOf { package } = self
            .network
            .call::<call::AsGetAliasPackage>(domain, Isolation::Anonymous, Sender::Nobody, &request)
            .await?;
        if package.ciphersuite != CIPHERSUITE || !package.validity.covers(self.trust.now().day()) {
            return Err(ClientError::untrusted("the homeserver gave an alias package that is not valid now"));
        }
        self.offer(Addressee::Alias { id, name: format!("{alias}@{domain}"), domain: domain.clone(), package }).await
    }

    /// Makes a connection group, and offers to join it.
    async fn offer(self: &Arc<Self>, to: Addressee) -> Result<GroupId, ClientError> {
        let ground = self.ground().await?;
        let (group, core) = (ground.group().clone(), self.clone());
        let lane = lane_of(&group);
        let _turn = self.lane(&lane).await;
        self.database.run(move |connection| offer(connection, &core.account(), ground, to, core.trust.now())).await?;
        self.send_lane(&lane, Some(&lane)).await?;
        Ok(group)
    }

    /// Fetches and checks a connection package of a user.
    async fn connection_package(&self, user: &UserId) -> Result<ConnectionPackage, ClientError> {
        let request = GetConnectionPackage { user: user.clone() };
        let ConnectionPackageOf { package, credential } = self
            .network
            .call::<call::AsGetConnectionPackage>(&user.domain, Isolation::Anonymous, Sender::Nobody, &request)
            .await?;
        let owner = self.verify_client(&credential).await?;
        let content = &package.content;
        if owner.client().user != *user || content.client != *owner.client() {
            return Err(ClientError::untrusted("the homeserver gave a connection package of somebody else"));
        }
        if content.ciphersuite != CIPHERSUITE || !content.validity.covers(self.trust.now()) {
            return Err(ClientError::untrusted("the homeserver gave a connection package that is not valid now"));
        }
        verify(owner.verifying_key(), SignatureLabel::ConnectionPackage, content, &package.signature)?;
        Ok(package)
    }

    /// Accepts an offer by joining its group; returns the chat.
    pub async fn accept(self: &Arc<Self>, id: &str) -> Result<GroupId, ClientError> {
        let (name, now) = (id.to_owned(), self.trust.now().seconds());
        let offer = self.database.run(move |connection| contacts::open_request(connection, &name, now)).await?;
        let group = offer.group.clone();
        let lane = lane_of(&group);
        let _turn = self.lane(&lane).await;
        // What an earlier attempt left.
        self.send_lane(&lane, None).await?;
        let (name, of) = (id.to_owned(), group.clone());
        let waits = self
            .database
            .run(move |connection| {
                let joined = chats::find(connection, &of)?.is_some_and(|chat| chat.state == ChatState::Active);
                Ok::<_, ClientError>(contacts::request(connection, &name)?.is_some() && !joined)
            })
            .await?;
        if !waits {
            return Ok(group);
        }
        self.verify_client(&offer.credential).await?;
        let access = GroupAccess { group: group.clone(), ear_key: offer.ear_key.clone() };
        let request = GetExternalCommitInfo { access };
        let (domain, isolation) = (&group.domain, self.delivery(&group));
        let info = self.network.call::<call::DsExternalCommitInfo>(domain, isolation, Sender::Nobody, &request).await?;
        let queuing_key = self.queuing_key().await?;
        let (core, extra) = (self.clone(), id.to_owned());
        self.database
            .run(move |connection| {
                let join = Join { connection, account: &core.account(), trust: &core.trust, offer, info, queuing_key };
                join.run(extra)
            })
            .await?;
        self.send_lane(&lane, Some(id.as_bytes())).await?;
        Ok(group)
    }

    /// Declines an offer: whoever made it learns that, and nothing more.
    pub async fn decline(self: &Arc<Self>, id: &str) -> Result<(), ClientError> {
        let name = id.to_owned();
        let (offer_id, lane) = self
            .database
            .run(move |connection| {
                let offer = contacts::request(connection, &name)?
                    .ok_or_else(|| ClientError::not_found(format!("there is no request {name}")))?;
                let notice = pad_value(&ConnectionDecline { offer_id: offer.offer_id }, OFFER_FLOOR);
                let key = &offer.reply_key;
                let sealed = hpke::seal(key, HpkeLabel::ConnectionDecline, &[], &[], &notice, &mut system_rng())?;
                let client = offer.credential.request.payload.client.clone();
                let lane = outbox::lane_to(&client.user.domain);
                enqueue(connection, None, To::Client(client), key, sealed, &offer.offer_id)?;
                contacts::answer_request(connection, &offer.offer_id)?;
                Ok::<_, ClientError>((offer.offer_id, lane))
            })
            .await?;
        let _turn = self.lane(&lane).await;
        self.send_lane(&lane, Some(&offer_id)).await.map(drop)
    }
}

/// The chat with somebody who is a contact, or has been made an offer.
fn chat_with(connection: &Connection, user: &UserId) -> Result<Option<GroupId>, ClientError> {
    let with =
        |chat: &Chat| chat.kind == ChatKind::Connection && chat.peer.as_ref() == Some(user) && chat.state.is_live();
    Ok(chats::all_chats(connection)?.into_iter().find(with).map(|chat| chat.group))
}

/// To whom an offer is made, and the package that it is encrypted to.
enum Addressee {
    User(ConnectionPackage),
    Alias { id: AliasId, name: String, domain: Domain, package: AliasPackage },
}

/// Into whose queue a message goes.
enum To {
    Client(ClientId),
    Alias(AliasId, Domain),
}

/// Makes a connection group, and the offer to join it.
fn offer(
    connection: &Connection,
    account: &Account,
    ground: Ground,
    to: Addressee,
    now: Timestamp,
) -> Result<(), ClientError> {
    let mut rng = system_rng();
    let (recipient, name, peer) = match &to {
        Addressee::User(ConnectionPackage { content, .. }) => {
            let user = content.client.user.clone();
            let name = contacts::name(connection, &user)?.unwrap_or_default();
            (Recipient::User(user.clone()), name, Some(user))
        }
        Addressee::Alias { id, name, .. } => (Recipient::Alias(*id), name.clone(), None),
    };
    let chat = group::create(connection, account, ground, ChatKind::Connection, name, peer, now)?;
    let (package, key, to) = match to {
        Addressee::User(package) => {
            (package.to_vec(), package.content.encryption_key, To::Client(package.content.client))
        }
        Addressee::Alias { id, domain, package, .. } => {
            chats::set_alias(connection, &chat.group, &id)?;
            (package.to_vec(), package.encryption_key, To::Alias(id, domain))
        }
    };
    let reply = HpkePrivateKey::generate(&mut rng)?;
    let content = ConnectionOfferTbs {
        credential: account.credential.clone(),
        recipient: recipient.clone(),
        package_hash: sha256(&package),
        offer_id: random(&mut rng),
        reply_key: reply.public_key(),
        group: chat.group.clone(),
        ear_key: chat.ear_key.clone(),
        credential_key: chat.credential_key.clone(),
        profile: UserProfile { name: Text(account.name.clone()), picture: None },
        friendship: account.keys.friendship.clone(),
    };
    let stored = Offer {
        offer_id: content.offer_id,
        recipient: recipient.clone(),
        chat: chat.group.clone(),
        reply_secret: reply.secret().clone(),
    };
    contacts::insert_offer(connection, &sha256(reply.public_key().as_slice()), &stored)?;
    let signature = account.keys.identity.sign(SignatureLabel::ConnectionOffer, &content);
    let padded = pad_value(&ConnectionOffer { content, signature }, OFFER_FLOOR);
    let sealed = hpke::seal(&key, HpkeLabel::ConnectionOffer, &recipient.to_vec(), &[], &padded, &mut rng)?;
    // A refused offer is the outcome of the whole connection, so it stands under the group as well.
    let extra = chat.group.to_vec();
    enqueue(connection, Some(chat.group), to, &key, sealed, &extra)
}

/// Stores a message to a direct queue or an alias's in the outbox. Its recipient notices repeats.
fn enqueue(
    connection: &Connection,
    group: Option<GroupId>,
    to: To,
    key: &HpkePublicKey,
    sealed: crate::wire::credential::HpkeCiphertext,
    extra: &[u8],
) -> Result<(), ClientError> {
    let message = DirectMessage { key_hash: sha256(key.as_slice()), sealed };
    let (method, domain, body) = match to {
        To::Client(client) => {
            let domain = client.user.domain.clone();
            (Method::AsEnqueue, domain, EnqueueDirect { client, message }.to_vec())
        }
        To::Alias(alias, domain) => (Method::AsEnqueueAlias, domain, EnqueueAlias { alias, message }.to_vec()),
    };
    let new = New { group, kind: Kind::Simple, method, domain, body, extra: extra.to_vec() };
    outbox::insert(connection, new).map(drop)
}

/// Joins a connection group in one transaction.
struct Join<'a> {
    connection: &'a Connection,
    account: &'a Account,
    trust: &'a Trust,
    offer: ConnectionOfferTbs,
    info: ExternalCommitInfo,
    queuing_key: QueuingHpkeKey,
}

impl Join<'_> {
    fn run(self, extra: String) -> Result<(), ClientError> {
        let mut rng = system_rng();
        let (offer, now) = (&self.offer, self.trust.now());
        let provider = Provider::new(self.connection);
        let (key, leaf, chain) = self.account.new_leaf(None, now.day(), &mut rng)?;
        let peer = offer.credential.request.payload.client.user.clone();
        let mut chat = Chat {
            group: offer.group.clone(),
            kind: ChatKind::Connection,
            state: ChatState::Starting,
            name: super::direct::tidy(&offer.profile.name.0),
            peer: Some(peer.clone()),
            ear_key: offer.ear_key.clone(),
            credential_key: offer.credential_key.clone(),
            leaf: 0,
            leaf_seed: key.seed().clone(),
            stale_leaf: false,
            next_leaf: None,
        };
        let friendship = &self.account.keys.friendship;
        let own = member_info(&chat, &leaf.verifying_key, &chain, &friendship.user_profile_key, &mut rng);
        let bound_to = friendship_aad(&chat.group, &leaf.verifying_key);
        let padded = pad_value(friendship, MESSAGE_FLOOR);
        let label = KeyLabel::FriendshipPackage;
        let package = aead::seal(&chat.credential_key, label, &bound_to, &padded, &mut rng);
        let aad = CommitAad { added: Vec::new(), own: Some(own), friendship_package: Some(package.into()) };

        mls::delete(&provider, &chat.group)?;
        let parameters = LeafNodeParameters::builder().with_capabilities(protocol::capabilities()).build();
        let info = mls::group_info(self.info.group_info.as_slice())?;
        if *info.group_id() != protocol::group_id(&chat.group) {
            return Err(ClientError::untrusted("the DS gave another group than was asked for"));
        }
        let (joined, bundle) = MlsGroup::external_commit_builder()
            .with_ratchet_tree(mls::ratchet_tree(self.info.ratchet_tree.as_slice())?)
            .with_config(mls::join_config())
            .with_aad(aad.to_vec())
            .build_group(&provider, info, mls::credential_with_key(&leaf))
            .map_err(mls::failed)?
            .leaf_node_parameters(parameters)
            .load_psks(provider.storage())
            .map_err(mls::failed)?
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(provider.rand(), provider.crypto(), &key, |_| true)
            .map_err(mls::failed)?
            .finalize(&provider)
            .map_err(mls::failed)?;
        chat.leaf = joined.own_leaf_index().u32();
        let me = Member::own(self.account, chat.leaf, &leaf);
        let members = [self.only_other(&chat, &joined)?, me];
        let request = JoinConnectionGroup {
            commit: commit_bundle(&chat, &bundle, &mut rng)?,
            queue_config: packages::queue_config(self.account, &self.queuing_key, &mut rng)?,
        };
        chats::insert(self.connection, &chat, now.0)?;
        chats::put_members(self.connection, &chat.group, &members)?;
        let new = New {
            domain: chat.group.domain.clone(),
            group: Some(chat.group),
            kind: Kind::Join,
            method: Method::DsJoinConnectionGroup,
            body: request.to_vec(),
            extra: extra.into_bytes(),
        };
        outbox::insert(self.connection, new).map(drop)
    }

    /// The group holds exactly one other member, and that is whoever made the offer.
    fn only_other(&self, chat: &Chat, joined: &MlsGroup) -> Result<Member, ClientError> {
        let wrong = || ClientError::untrusted("the connection group is not of whoever made the offer");
        let mut others = joined.members().filter(|member| member.index.u32() != chat.leaf);
        let (Some(other), None) = (others.next(), others.next()) else { return Err(wrong()) };
        let credential = protocol::leaf_credential_for(&other.credential, &other.signature_key)?;
        let info = self.info.members.iter().find(|of| of.leaf == other.index.u32()).ok_or_else(wrong)?;
        let verified = self.trust.member(&chat.credential_key, &credential, &info.info).map_err(doubted)?;
        if *verified.client.client() != self.offer.credential.request.payload.client {
            return Err(wrong());
        }
        Ok(Member::of(other.index.u32(), &credential, verified))
    }
}
