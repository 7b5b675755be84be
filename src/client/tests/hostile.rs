//! A member that breaks the rules of RFC 9420 and of this protocol, one at a time: its commits are taken apart, changed, and
//! signed again, so that nothing but the rule is in the way. Refused means unchanged, and the others go on.

use openmls::prelude::OpenMlsProvider as _;
use tls_codec::Serialize as _;

use super::*;
use crate::{
    base::{Refusal, Status, limits::MAX_FRIENDSHIP_PACKAGE},
    client::{
        commit::{Intent, Materials},
        mls::Provider,
        state::{chats, chats::Chat, outbox},
    },
    crypto::{random, signature::SigningKey},
    store::{Key, Limit, Row, Table},
    wire::{
        Call, Encode, Opaque, Reader, SenderId,
        delivery::{
            AddUsers, CommitAad, CommitBundle, GetExternalCommitInfo, GroupAccess, JoinConnectionGroup, RemoveUsers,
            Resync, SendMessage, StoredProposals, UpdateClient, UpdateGroupContext,
        },
        envelope::LeafId,
        method::call,
        registry::ROLES_EXTENSION,
    },
};

/// An MLSMessage with a commit in a PublicMessage (RFC 9420 sections 6, 6.2 and 12.4), in its parts.
#[derive(Clone)]
pub(super) struct Parts {
    pub group_id: Opaque,
    pub epoch: u64,
    pub sender: u32,
    pub aad: Opaque,
    /// ProposalOrRef each.
    pub proposals: Vec<Vec<u8>>,
    pub path: Option<Path>,
    pub confirmation_tag: Opaque,
    pub membership_tag: Opaque,
}

#[derive(Clone)]
pub(super) struct Path {
    encryption_key: Opaque,
    signature_key: Opaque,
    /// Credential and capabilities.
    middle: Vec<u8>,
    parent_hash: Opaque,
    extensions: Opaque,
    signature: Opaque,
    /// UpdatePathNode: encryption key, and the rest.
    pub nodes: Vec<(Opaque, Vec<u8>)>,
}

fn vector(reader: &mut Reader) -> Opaque {
    Opaque(reader.vector().unwrap())
}

impl Parts {
    pub fn of(commit: &Opaque) -> Self {
        let mut reader = Reader::new(commit.0.clone());
        assert_eq!(reader.take(4).unwrap()[..], [0, 1, 0, 1], "mls10, a PublicMessage");
        let group_id = vector(&mut reader);
        let epoch = u64::from_be_bytes(reader.array().unwrap());
        assert_eq!(reader.take(1).unwrap()[..], [1], "by a member");
        let sender = u32::from_be_bytes(reader.array().unwrap());
        let aad = vector(&mut reader);
        assert_eq!(reader.take(1).unwrap()[..], [3], "a commit");
        let proposals = vector(&mut reader);
        let proposals = if proposals.as_slice().is_empty() { Vec::new() } else { vec![proposals.as_slice().to_vec()] };
        let path = (reader.take(1).unwrap()[0] == 1).then(|| Path::of(&mut reader));
        let _signature = vector(&mut reader);
        let (confirmation_tag, membership_tag) = (vector(&mut reader), vector(&mut reader));
        reader.finish().unwrap();
        Self { group_id, epoch, sender, aad, proposals, path, confirmation_tag, membership_tag }
    }

    /// The extensions that its only proposal, a GroupContextExtensions (RFC 9420 section 12.1.7), has: types and encodings.
    fn extensions(&self) -> Vec<(u16, Vec<u8>)> {
        let mut reader = Reader::new(self.proposals.concat().into());
        assert_eq!(reader.take(3).unwrap()[..], [1, 0, 7], "by value, GroupContextExtensions");
        let mut list = Reader::new(vector(&mut reader).0);
        let mut extensions = Vec::new();
        while list.remaining() > 0 {
            let kind = u16::from_be_bytes(list.array().unwrap());
            extensions.push((kind, [&kind.to_be_bytes()[..], &vector(&mut list).to_vec()].concat()));
        }
        extensions
    }

    pub fn content(&self) -> Vec<u8> {
        let mut out = self.group_id.to_vec();
        self.epoch.encode(&mut out);
        out.push(1);
        self.sender.encode(&mut out);
        self.aad.encode(&mut out);
        out.push(3);
        Opaque::from(self.proposals.concat()).encode(&mut out);
        match &self.path {
            Some(path) => {
                out.push(1);
                path.encode(&mut out);
            }
            None => out.push(0),
        }
        out
    }

    /// Signed again, by whoever has the key of a leaf.
    pub fn signed(&self, key: &SigningKey, context: &[u8]) -> Opaque {
        let content = self.content();
        let signature = sign(key, "FramedContentTBS", &[&[0, 1, 0, 1], &content[..], context].concat());
        let mut out = [&[0, 1, 0, 1], &content[..]].concat();
        for part in [&signature, &self.confirmation_tag, &self.membership_tag] {
            part.encode(&mut out);
        }
        out.into()
    }
}

impl Path {
    fn of(reader: &mut Reader) -> Self {
        let (encryption_key, signature_key) = (vector(reader), vector(reader));
        let mut middle = reader.take(2).unwrap().to_vec();
        for _ in 0..6 {
            // The credential's content, and the five lists of the capabilities.
            vector(reader).encode(&mut middle);
        }
        assert_eq!(reader.take(1).unwrap()[..], [3], "a leaf in a commit");
        let (parent_hash, extensions, signature) = (vector(reader), vector(reader), vector(reader));
        let mut inner = Reader::new(vector(reader).0);
        let mut nodes = Vec::new();
        while inner.remaining() > 0 {
            nodes.push((vector(&mut inner), vector(&mut inner).to_vec()));
        }
        Self { encryption_key, signature_key, middle, parent_hash, extensions, signature, nodes }
    }

    fn leaf(&self) -> Vec<u8> {
        let mut out = [self.encryption_key.to_vec(), self.signature_key.to_vec(), self.middle.clone()].concat();
        out.push(3);
        self.parent_hash.encode(&mut out);
        self.extensions.encode(&mut out);
        out
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.leaf());
        self.signature.encode(out);
        let nodes: Vec<u8> = self.nodes.iter().flat_map(|(key, rest)| [key.to_vec(), rest.clone()].concat()).collect();
        Opaque::from(nodes).encode(out);
    }

    /// The leaf signed again (RFC 9420 section 7.2).
    fn sign(&mut self, key: &SigningKey, group_id: &Opaque, leaf: u32) {
        let mut content = self.leaf();
        group_id.encode(&mut content);
        leaf.encode(&mut content);
        self.signature = sign(key, "LeafNodeTBS", &content);
    }
}

/// SignWithLabel (RFC 9420 section 5.1.2).
pub(super) fn sign(key: &SigningKey, label: &str, content: &[u8]) -> Opaque {
    let mut signed = Opaque::from(format!("MLS 1.0 {label}").into_bytes()).to_vec();
    Opaque::from(content.to_vec()).encode(&mut signed);
    openmls_traits::signatures::Signer::sign(key, &signed).unwrap().into()
}

/// What a hostile member has at hand.
pub(super) struct Hostile<'a> {
    user: &'a User,
    pub chat: Chat,
    pub key: SigningKey,
    /// The encoded group context.
    pub context: Vec<u8>,
}

impl<'a> Hostile<'a> {
    pub async fn of(user: &'a User, group: &GroupId) -> Self {
        let of = group.clone();
        let load = move |connection: &rusqlite::Connection| {
            let (chat, provider) = (chats::require(connection, &of)?, Provider::new(connection));
            let key = SigningKey::from_seed(chat.leaf_seed.clone())?;
            let info = mls::load(&provider, &of)?.export_group_info(provider.crypto(), &key, false);
            let info = info.map_err(mls::failed)?.to_bytes().map_err(mls::failed)?;
            let context = mls::group_info(&info)?.group_context().tls_serialize_detached().map_err(mls::failed)?;
            Ok::<_, ClientError>((chat, key, context))
        };
        let (chat, key, context) = user.client.0.database.run(load).await.unwrap();
        Self { user, chat, key, context }
    }

    /// The request that an honest client would send, which it then forgets.
    pub async fn honest(&self, intent: Intent) -> Vec<u8> {
        let (core, group) = (&self.user.client.0, self.chat.group.clone());
        let mut materials = Materials::default();
        let prepared = core.prepare_commit(&group, &intent, intent.with_nonce(), &mut materials, None);
        let pending = prepared.await.unwrap().unwrap();
        let body = pending.body.clone();
        let remove = move |connection: &rusqlite::Connection| outbox::remove(connection, pending.number);
        core.database.run(remove).await.unwrap();
        self.forget().await;
        body
    }

    /// What the client has prepared for the next epoch never was.
    pub async fn forget(&self) {
        let group = self.chat.group.clone();
        let forget = move |connection: &rusqlite::Connection| {
            chats::set_next_leaf(connection, &group, None)?;
            let provider = Provider::new(connection);
            Ok::<_, ClientError>(mls::load(&provider, &group)?.clear_pending_commit(provider.storage())?)
        };
        self.user.client.0.database.run(forget).await.unwrap();
    }

    pub async fn send<C: Call>(&self, request: &C::Request) -> Result<C::Response, Refusal> {
        self.send_as::<C>(self.chat.leaf, &self.key, request).await
    }

    pub async fn send_as<C: Call>(
        &self,
        leaf: u32,
        key: &SigningKey,
        request: &C::Request,
    ) -> Result<C::Response, Refusal> {
        let group = self.chat.group.clone();
        let sender = network::Sender::Signed(SenderId::DsLeaf(LeafId { group: group.clone(), leaf }), key);
        let (network, isolation) = (&self.user.client.0.network, Isolation::Delivery);
        match network.call::<C>(&group.domain, isolation, sender, request).await {
            Ok(response) => Ok(response),
            Err(ClientError::Refused(refusal)) => Err(refusal),
            Err(other) => panic!("{other}"),
        }
    }

    /// Sends an UpdateClient whose commit was changed; why it was refused.
    async fn update(&self, honest: &UpdateClient, change: impl FnOnce(&mut Parts, &Self)) -> Refusal {
        let mut parts = Parts::of(&honest.commit.commit);
        change(&mut parts, self);
        let commit = CommitBundle {
            idempotency_key: random(&mut system_rng()),
            commit: parts.signed(&self.key, &self.context),
            ..honest.commit.clone()
        };
        self.send::<call::DsUpdateClient>(&UpdateClient { commit, queue_config: None }).await.unwrap_err()
    }
}

/// Everything that the Delivery Service and the queues hold.
pub(super) async fn everything(server: &Homeserver) -> Vec<Vec<Row>> {
    let mut tables = Vec::new();
    for table in [Table::DsHeads, Table::DsLog, Table::DsMeta, Table::DsIdempotency, Table::QueueEntries, Table::Queues]
    {
        tables.push(server.store().durable().scan(table, Key::new().., Limit::rows(100_000)).await.unwrap());
    }
    tables
}

pub(super) async fn group_of(server: &Arc<Homeserver>) -> ([User; 4], GroupId) {
    let mut users = Vec::new();
    for name in ["Alice", "Mallory", "Carol", "Dave"] {
        users.push(server.register(name).await);
    }
    let users = <[User; 4]>::try_from(users).ok().unwrap();
    let [alice, others @ ..] = &users;
    for other in others {
        befriend(alice, other).await;
    }
    let group = alice.client.create_group("Trip").await.unwrap();
    alice.client.invite(&group, &[others[0].id(), others[1].id()]).await.unwrap();
    for other in others {
        other.client.sync().await.unwrap();
    }
    (users, group)
}

/// The honest members go on as if nothing had happened.
pub(super) async fn all_is_well(users: &[User], group: &GroupId) {
    users[0].client.0.change(group, Intent::Update).await.unwrap();
    for user in &users[1..3] {
        user.client.sync().await.unwrap();
        user.no_problems().await;
    }
    users[0].say(group, "all is well").await;
    for user in &users[1..3] {
        assert_eq!(user.hear().await.last(), Some(&said("Alice", "all is well")));
    }
}

type Change = Box<dyn Fn(&mut Parts, &Hostile<'_>)>;

/// Changes of the path, with the leaf signed again.
fn path(change: impl Fn(&mut Path) + 'static) -> Change {
    Box::new(move |parts, by| {
        let group_id = parts.group_id.clone();
        let path = parts.path.as_mut().unwrap();
        change(path);
        path.sign(&by.key, &group_id, parts.sender);
    })
}

/// A proposal by value, beside those that are there (RFC 9420 section 12.4: ProposalOrRef).
fn proposal(kind: u16, content: Vec<u8>) -> Change {
    Box::new(move |parts, _| parts.proposals.push([&[1][..], &kind.to_be_bytes(), &content].concat()))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_broken_rule_of_a_commit_is_noticed_and_changes_nothing() {
    let server = Homeserver::start().await;
    let (users, group) = group_of(&server).await;
    let mallory = Hostile::of(&users[1], &group).await;
    let honest = UpdateClient::from_slice(&mallory.honest(Intent::Update).await).unwrap();
    let remove = |leaf: u32| proposal(3, leaf.to_be_bytes().to_vec());
    let invalid: Vec<(&str, Change)> = vec![
        ("the index of another leaf", Box::new(|parts, _| parts.sender = 0)),
        ("the index of no leaf", Box::new(|parts, _| parts.sender = 99)),
        ("no path, and nothing that is committed", Box::new(|parts, _| parts.path = None)),
        ("another's signature key in the leaf", path(|path| path.signature_key = vec![7; 32].into())),
        ("a wrong parent hash", path(|path| path.parent_hash = vec![7; 32].into())),
        ("a leaf signature that is none", {
            Box::new(|parts, _| parts.path.as_mut().unwrap().signature = vec![7; 64].into())
        }),
        ("a path that is too short", Box::new(|parts, _| drop(parts.path.as_mut().unwrap().nodes.pop()))),
        ("a path that is too long", {
            Box::new(|parts, _| {
                let nodes = &mut parts.path.as_mut().unwrap().nodes;
                nodes.push(nodes[0].clone());
            })
        }),
        ("one key for two nodes", {
            Box::new(|parts, _| {
                let nodes = &mut parts.path.as_mut().unwrap().nodes;
                nodes[1].0 = nodes[0].0.clone();
            })
        }),
        ("the leaf's key for a node as well", {
            Box::new(|parts, _| {
                let path = parts.path.as_mut().unwrap();
                path.nodes[0].0 = path.encryption_key.clone();
            })
        }),
        ("capabilities that lack what the group needs", {
            path(|path| {
                // The credential stays; five empty lists.
                let mut reader = Reader::new(path.middle.clone().into());
                let mut middle = reader.take(2).unwrap().to_vec();
                vector(&mut reader).encode(&mut middle);
                path.middle = [middle, vec![0; 5]].concat();
            })
        }),
        ("a proposal that nobody made", {
            Box::new(|parts, _| parts.proposals.push([&[2][..], &Opaque::from(vec![7; 32]).to_vec()].concat()))
        }),
        ("the removal of nobody", remove(99)),
        ("the removal of its sender", remove(1)),
        ("a proposal of a kind that does not exist", proposal(0x7a7a, vec![])),
    ];
    let before = everything(&server).await;
    for (what, change) in invalid {
        let refusal = mallory.update(&honest, change).await;
        let as_a_commit =
            ["the commit is not valid", "is not a commit"].iter().any(|why| refusal.message.contains(why));
        let fits = matches!(refusal.status, Status::InvalidMlsMessage | Status::Malformed);
        assert!(fits && as_a_commit, "{what}: {refusal:?}");
    }
    let twice = mallory.update(&honest, |parts, by| {
        remove(2)(parts, by);
        remove(2)(parts, by);
    });
    assert_eq!(twice.await.status, Status::InvalidMlsMessage, "one leaf removed twice");
    // What MLS allows and the method does not (a removal makes the path another one as well), and what the DS needs beside it.
    let psk = proposal(4, [&[1][..], &Opaque::from(vec![1; 8]).to_vec(), &Opaque::from(vec![2; 32]).to_vec()].concat());
    for (what, change) in [("a removal", remove(2)), ("a pre-shared key", psk)] {
        let refusal = mallory.update(&honest, change).await;
        assert!(matches!(refusal.status, Status::InvalidMlsMessage | Status::Malformed), "{what}: {refusal:?}");
    }
    let refusal = mallory.update(&honest, |parts, _| parts.aad = vec![9; 9].into()).await;
    assert!(refusal.message.contains("CommitAad"), "{refusal:?}");
    let friendship_package = Some(vec![7; MAX_FRIENDSHIP_PACKAGE + 1].into());
    let aad = CommitAad { added: Vec::new(), own: None, friendship_package }.to_vec();
    let refusal = mallory.update(&honest, |parts, _| parts.aad = aad[..].into()).await;
    assert!(refusal.message.contains("too long"), "{refusal:?}");
    let refusal = mallory.update(&honest, |parts, _| parts.epoch -= 1).await;
    assert_eq!(refusal.status, Status::WrongEpoch);
    let refusal = mallory.update(&honest, |parts, _| parts.group_id = vec![1; 20].into()).await;
    assert!(refusal.message.contains("another group"), "{refusal:?}");
    // Nothing but the confirmation tag is wrong, which only members can check: the GroupInfo does not fit it.
    let refusal = mallory.update(&honest, |parts, _| parts.confirmation_tag = vec![7; 32].into()).await;
    assert!(refusal.message.contains("GroupInfo"), "{refusal:?}");
    assert!(everything(&server).await == before, "refused means unchanged");
    all_is_well(&users, &group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn additions_of_whoever_is_there_already_or_is_unfit_are_refused() {
    let server = Homeserver::start().await;
    let (users, group) = group_of(&server).await;
    let alice = Hostile::of(&users[0], &group).await;
    let honest = AddUsers::from_slice(&alice.honest(Intent::Invite(vec![users[3].id()])).await).unwrap();
    let before = everything(&server).await;
    let send = async |commit: CommitBundle| {
        let commit = CommitBundle { idempotency_key: random(&mut system_rng()), ..commit };
        let request = AddUsers { commit, ..honest.clone() };
        alice.send::<call::DsAddUsers>(&request).await.unwrap_err().status
    };
    let parts = Parts::of(&honest.commit.commit);
    let changed = |change: &dyn Fn(&mut Parts)| {
        let mut parts = parts.clone();
        change(&mut parts);
        CommitBundle { commit: parts.signed(&alice.key, &alice.context), ..honest.commit.clone() }
    };
    let twice = changed(&|parts| parts.proposals.push(parts.proposals[0].clone()));
    assert_eq!(send(twice).await, Status::InvalidMlsMessage, "the same KeyPackage twice");
    let flipped = changed(&|parts| *parts.proposals[0].last_mut().unwrap() ^= 1);
    assert_eq!(send(flipped).await, Status::InvalidMlsMessage, "a KeyPackage that does not verify");
    let nobody = changed(&|parts| parts.proposals.clear());
    assert_ne!(send(nobody).await, Status::Ok);
    let unfit = AddUsers { joiners: Vec::new(), ..honest.clone() };
    assert_eq!(alice.send::<call::DsAddUsers>(&unfit).await.unwrap_err().status, Status::Malformed);
    assert!(everything(&server).await == before, "refused means unchanged");
    // The honest one is taken, once: then Dave is there already.
    alice.send::<call::DsAddUsers>(&honest).await.unwrap();
    let again = CommitBundle { idempotency_key: random(&mut system_rng()), ..honest.commit.clone() };
    assert_eq!(send(again).await, Status::WrongEpoch, "a replay of what was accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_no_member_any_more_can_do_nothing_with_the_keys_it_has() {
    let server = Homeserver::start().await;
    let (users, group) = group_of(&server).await;
    let mallory = Hostile::of(&users[1], &group).await;
    let honest = UpdateClient::from_slice(&mallory.honest(Intent::Update).await).unwrap();
    let access = || GroupAccess { group: group.clone(), ear_key: mallory.chat.ear_key.clone() };
    users[0].client.remove(&group, &[users[1].id()]).await.unwrap();
    let before = everything(&server).await;
    let unproven = Status::Unauthenticated;
    let send = SendMessage {
        access: access(),
        idempotency_key: [1; 16],
        message: vec![1].into(),
        context_hash: [0; 8],
        no_push: false,
    };
    assert_eq!(mallory.send::<call::DsSendMessage>(&send).await.unwrap_err().status, unproven);
    assert_eq!(mallory.send::<call::DsUpdateClient>(&honest).await.unwrap_err().status, unproven);
    let read = GetExternalCommitInfo { access: access() };
    assert_eq!(mallory.send::<call::DsExternalCommitInfo>(&read).await.unwrap_err().status, unproven);
    let network = &users[1].client.0.network;
    let nobody = network::Sender::Nobody;
    let anonymous = network.call::<call::DsExternalCommitInfo>(&group.domain, Isolation::Delivery, nobody, &read).await;
    assert_eq!(anonymous.unwrap_err().status(), "forbidden");
    let config = || crate::wire::queuing::ClientQueueConfig {
        domain: group.domain.clone(),
        key_id: [0; 8],
        kem_output: Vec::new().into(),
        ciphertext: Vec::new().into(),
    };
    let resync = Resync { commit: honest.commit.clone(), queue_config: config() };
    assert_eq!(mallory.send::<call::DsResync>(&resync).await.unwrap_err().status, unproven);
    let join = JoinConnectionGroup { commit: honest.commit.clone(), queue_config: config() };
    let nobody = network::Sender::Nobody;
    let joined = network.call::<call::DsJoinConnectionGroup>(&group.domain, Isolation::Delivery, nobody, &join).await;
    assert_eq!(joined.unwrap_err().status(), "forbidden");
    // Another's leaf with its own key, and the right request with another key to the state.
    let as_alice = mallory.send_as::<call::DsExternalCommitInfo>(0, &mallory.key, &read).await;
    assert_eq!(as_alice.unwrap_err().status, unproven);
    let alice = Hostile::of(&users[0], &group).await;
    let wrong = GetExternalCommitInfo { access: GroupAccess { ear_key: Secret::new([7; 32]), ..access() } };
    assert_eq!(alice.send::<call::DsExternalCommitInfo>(&wrong).await.unwrap_err().status, Status::NotFound);
    assert!(everything(&server).await == before, "refused means unchanged");

    // Whoever comes to stand where an admin stood is none.
    users[2].client.sync().await.unwrap();
    users[2].client.0.change(&group, Intent::Update).await.unwrap();
    users[0].client.add_admins(&group, &[users[2].id()]).await.unwrap();
    users[0].client.remove(&group, &[users[2].id()]).await.unwrap();
    users[0].client.invite(&group, &[users[3].id(), users[1].id()]).await.unwrap();
    for user in &users[1..] {
        user.client.sync().await.unwrap();
    }
    let leaf = async |user: &User| {
        let group = group.clone();
        user.client.0.database.run(move |connection| chats::require(connection, &group)).await.unwrap().leaf
    };
    assert_eq!(leaf(&users[3]).await + leaf(&users[1]).await, 3, "leaves 1 and 2");
    for user in [&users[1], &users[3]] {
        let refused = user.client.rename(&group, "Mine").await.unwrap_err();
        assert_eq!(refused.status(), "forbidden");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_leaves_a_proposal_out_is_told_which() {
    let server = Homeserver::start().await;
    let (users, group) = group_of(&server).await;
    let mallory = Hostile::of(&users[1], &group).await;
    let without = UpdateClient::from_slice(&mallory.honest(Intent::Update).await).unwrap();
    users[2].client.leave(&group).await.unwrap();
    let before = everything(&server).await;
    let refusal = mallory.send::<call::DsUpdateClient>(&without).await.unwrap_err();
    assert_eq!(refusal.status, Status::PendingProposals);
    let stored = StoredProposals::from_slice(&refusal.detail).unwrap();
    assert_eq!(stored.proposals.len(), 1);
    assert!(everything(&server).await == before, "refused means unchanged");
    // Her leaf is still there, and is to go: she can neither commit nor come back.
    users[1].client.sync().await.unwrap();
    users[0].client.sync().await.unwrap();
    assert_eq!(users[0].client.members(&group).await.unwrap().len(), 2);
    users[0].say(&group, "two are left").await;
    assert_eq!(users[1].hear().await.last(), Some(&said("Alice", "two are left")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_every_group_must_have_cannot_be_taken_out() {
    let server = Homeserver::start().await;
    let (users, group) = group_of(&server).await;
    let alice = Hostile::of(&users[0], &group).await;
    let honest = UpdateGroupContext::from_slice(&alice.honest(Intent::Rename("Journey".into())).await).unwrap();
    let before = everything(&server).await;
    let parts = Parts::of(&honest.commit.commit);
    // The commit of one method at another.
    let update = UpdateClient { commit: honest.commit.clone(), queue_config: None };
    assert_eq!(alice.send::<call::DsUpdateClient>(&update).await.unwrap_err().status, Status::Malformed);
    let remove = RemoveUsers { commit: honest.commit.clone() };
    assert_eq!(alice.send::<call::DsRemoveUsers>(&remove).await.unwrap_err().status, Status::Malformed);
    // No extensions at all; only a roles extension; and all, with roles that do not decode.
    let rubbish = [&ROLES_EXTENSION.to_be_bytes()[..], &[1, 7]].concat();
    let (roles, others): (Vec<_>, Vec<_>) =
        parts.extensions().into_iter().partition(|(kind, _)| *kind == ROLES_EXTENSION);
    assert_eq!(roles.len(), 1);
    let without: Vec<u8> = others.into_iter().flat_map(|(_, encoded)| encoded).collect();
    for (extensions, why) in [
        (Vec::new(), "required capabilities"),
        (rubbish.clone(), "not valid"),
        (without.clone(), "the roles extension"),
        ([without, rubbish].concat(), "the roles extension"),
    ] {
        let mut parts = parts.clone();
        parts.proposals = vec![[&[1][..], &7u16.to_be_bytes(), &Opaque::from(extensions).to_vec()].concat()];
        let commit = CommitBundle {
            idempotency_key: random(&mut system_rng()),
            commit: parts.signed(&alice.key, &alice.context),
            ..honest.commit.clone()
        };
        let refusal = alice.send::<call::DsUpdateGroupContext>(&UpdateGroupContext { commit }).await.unwrap_err();
        assert_eq!(refusal.status, Status::InvalidMlsMessage, "{refusal:?}");
        assert!(refusal.message.contains(why), "{refusal:?}");
    }
    assert!(everything(&server).await == before, "refused means unchanged");
    all_is_well(&users, &group).await;
}

/// Each of them would be accepted on its own: a different one from each connection, of three members, all for one epoch.
#[tokio::test(flavor = "multi_thread")]
async fn of_commits_sent_at_once_from_32_connections_one_is_accepted() {
    let server = Homeserver::start().await;
    let (users, group) = group_of(&server).await;
    let mut commits = Vec::new();
    for number in 0..32 {
        let member = Hostile::of(&users[number % 3], &group).await;
        let body = member.honest(Intent::Update).await;
        let sender = SenderId::DsLeaf(LeafId { group: group.clone(), leaf: member.chat.leaf });
        commits.push((body, sender, member.key));
    }
    let start = Arc::new(tokio::sync::Barrier::new(commits.len()));
    let mut tasks = tokio::task::JoinSet::new();
    for (body, sender, key) in commits {
        let (start, clock) = (start.clone(), server.clock.clone());
        let connection = server.connector();
        let database = users[0].client.0.database.clone();
        tasks.spawn(async move {
            let network = network::Network::new(connection, Duration::ZERO, Tokens::new(database, clock));
            let request = UpdateClient::from_slice(&body).unwrap();
            let domain = "a.test".parse().unwrap();
            // Connected before it starts.
            let ask = crate::wire::queuing::GetQueuingKeys {};
            network.call::<call::QsGetKeys>(&domain, Isolation::Delivery, network::Sender::Nobody, &ask).await.unwrap();
            start.wait().await;
            let sender = network::Sender::Signed(sender, &key);
            match network.call::<call::DsUpdateClient>(&domain, Isolation::Delivery, sender, &request).await {
                Ok(_) => Status::Ok,
                Err(ClientError::Refused(refusal)) => refusal.status,
                Err(other) => panic!("{other}"),
            }
        });
    }
    let outcomes = tasks.join_all().await;
    assert_eq!(outcomes.iter().filter(|status| **status == Status::Ok).count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|status| **status == Status::WrongEpoch).count(), 31, "{outcomes:?}");
    // Whoever it was has forgotten it, and comes back like who has lost its state.
    for user in &users[..3] {
        user.client.sync().await.unwrap();
    }
    for (from, name) in users[..3].iter().zip(["Alice", "Mallory", "Carol"]) {
        for user in &users[..3] {
            user.client.sync().await.unwrap();
        }
        from.say(&group, "I am here").await;
        for user in users[..3].iter().filter(|user| user.id() != from.id()) {
            assert_eq!(user.hear().await.last(), Some(&said(name, "I am here")));
        }
    }
}
