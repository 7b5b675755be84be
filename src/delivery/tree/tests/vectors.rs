//! The published test vectors of MLS that concern a server (`tests/vectors/mls/README.md`), against what the DS does with
//! them: its own decoders, and its trees as they are created, stored, replayed and changed.
//!
//! Not run, because OpenMLS offers no way in from outside: the resolutions and the tree hashes of inner nodes in
//! `tree-validation` (a tree gets in only together with a GroupInfo that one of its leaves has signed), and in
//! `tree-operations` the tree that a single proposal leaves behind. The tree hashes, parent hashes and transcript hashes
//! that a server computes are checked by the scenarios instead: every commit in them is signed over the group context
//! that another implementation had.

use openmls::{
    group::{MlsGroup, MlsGroupJoinConfig, ProcessedWelcome, ProposalStore, QueuedProposal},
    prelude::{
        JoinBuilder, KeyPackageBundle, KeyPackageIn, KeyPackageRef, MIXED_PLAINTEXT_WIRE_FORMAT_POLICY,
        MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _, ProcessedMessageContent, ProtocolMessage, RatchetTreeIn,
    },
    schedule::psk::PreSharedKeyId,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::{storage::StorageProvider as _, types::HpkePrivateKey};
use serde::Deserializer;
use serde_json::json;

use super::super::*;
use crate::{
    base::hex,
    crypto::{CryptoError, mls::RustCrypto},
    delivery::apply::free_leaves,
    wire::{
        Decode, Length,
        credential::Signature,
        decode_varint, encode_varint,
        mls::{PRIVATE_MESSAGE, PrivateMessage, WELCOME, WelcomeMessage},
    },
};

/// Bytes, in hexadecimal digits.
struct Hex(Vec<u8>);

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::decode(&text).map(Self).ok_or_else(|| serde::de::Error::custom("not hexadecimal"))
    }
}

macro_rules! vectors {
    ($kind:ty, $name:literal) => {{
        let text = include_str!(concat!("../../../../tests/vectors/mls/", $name, ".json"));
        let vectors: Vec<$kind> = serde_json::from_str(text).unwrap();
        assert!(!vectors.is_empty());
        vectors
    }};
}

fn ratchet_tree(Hex(bytes): &Hex) -> RatchetTreeIn {
    let tree = RatchetTreeIn::tls_deserialize_exact_bytes(bytes).unwrap();
    assert_eq!(tree.tls_serialize_detached().unwrap(), *bytes);
    tree
}

fn any_group() -> GroupId {
    GroupId { domain: "a.test".parse().unwrap(), uuid: [7; 16] }
}

#[derive(Deserialize)]
struct Header {
    vlbytes_header: Hex,
    length: usize,
}

#[test]
fn vector_lengths_are_read_and_written_as_published() {
    for Header { vlbytes_header: Hex(header), length } in vectors!(Header, "deserialization") {
        assert_eq!(decode_varint(&header), Length::Known(length, header.len()));
        let mut encoded = Vec::new();
        encode_varint(length, &mut encoded);
        assert_eq!(encoded, header);
        let cut_off = decode_varint(&header[..header.len() - 1]);
        assert!(matches!(cut_off, Length::Needs(needed) if needed <= header.len()));
    }
}

#[derive(Deserialize)]
struct Messages {
    mls_welcome: Hex,
    mls_group_info: Hex,
    mls_key_package: Hex,
    ratchet_tree: Hex,
    public_message_application: Hex,
    public_message_proposal: Hex,
    public_message_commit: Hex,
    private_message: Hex,
}

fn same<T: Decode + Encode>(Hex(bytes): &Hex) -> T {
    let decoded = T::from_slice(bytes).unwrap();
    assert_eq!(decoded.to_vec(), *bytes);
    decoded
}

#[test]
fn messages_are_decoded_and_encoded_as_published() {
    for messages in vectors!(Messages, "messages") {
        let welcome: WelcomeMessage = same(&messages.mls_welcome);
        assert_eq!((welcome.version, welcome.wire_format, welcome.cipher_suite), (MLS10, WELCOME, 1));
        let private: PrivateMessage = same(&messages.private_message);
        assert_eq!((private.version, private.wire_format), (MLS10, PRIVATE_MESSAGE));
        assert!(matches!(private.content_type, 1..=3));
        ratchet_tree(&messages.ratchet_tree);

        let wanted = [
            &messages.mls_welcome,
            &messages.mls_group_info,
            &messages.mls_key_package,
            &messages.public_message_application,
            &messages.public_message_proposal,
            &messages.public_message_commit,
            &messages.private_message,
        ];
        for (number, Hex(bytes)) in wanted.into_iter().enumerate() {
            let decoded = MlsMessageIn::tls_deserialize_exact_bytes(bytes).unwrap();
            let encoded = match (number, decoded.extract()) {
                (0, MlsMessageBodyIn::Welcome(welcome)) => welcome.tls_serialize_detached(),
                (1, MlsMessageBodyIn::GroupInfo(info)) => info.tls_serialize_detached(),
                (2, MlsMessageBodyIn::KeyPackage(package)) => package.tls_serialize_detached(),
                (3..6, MlsMessageBodyIn::PublicMessage(message)) => message.tls_serialize_detached(),
                (6, MlsMessageBodyIn::PrivateMessage(message)) => message.tls_serialize_detached(),
                (_, other) => panic!("{other:?}"),
            };
            assert_eq!(encoded.unwrap(), bytes[4..]);
            let cut_off = MlsMessageIn::tls_deserialize_exact_bytes(&bytes[..bytes.len() - 1]);
            assert!(cut_off.is_err());
        }

        // A KeyPackage of another application, and one whose time is over: decoded, and refused.
        let refused = mls::validate_key_package(&messages.mls_key_package.0[4..]);
        assert_eq!(refused.err(), Some(CryptoError::Invalid));
    }
}

#[derive(Deserialize)]
struct Validation {
    tree: Hex,
    group_id: Hex,
}

#[test]
fn published_trees_are_valid_in_their_group_and_nowhere_else() {
    let crypto = RustCrypto::default();
    for Validation { tree, group_id: Hex(group_id) } in vectors!(Validation, "tree-validation") {
        let group_id = openmls::prelude::GroupId::from_slice(&group_id);
        let verified = ratchet_tree(&tree).into_verified(mls::CIPHERSUITE, &crypto, &group_id).unwrap();
        assert_eq!(verified.tls_serialize_detached().unwrap(), tree.0);

        let elsewhere = openmls::prelude::GroupId::from_slice(b"another group");
        assert!(ratchet_tree(&tree).into_verified(mls::CIPHERSUITE, &crypto, &elsewhere).is_err());
        // In the encryption key of the first leaf, which is there in all of them.
        let mut damaged = tree.0;
        damaged[12] ^= 1;
        let damaged = RatchetTreeIn::tls_deserialize_exact_bytes(&damaged).unwrap();
        assert!(damaged.into_verified(mls::CIPHERSUITE, &crypto, &group_id).is_err());
    }
}

#[derive(Deserialize)]
struct Operation {
    tree_before: Hex,
    tree_after: Hex,
    proposal: Hex,
    proposal_sender: u32,
}

/// The leaves of a tree, in serde's form, by leaf index.
fn leaves(tree: &Hex) -> Vec<serde_json::Value> {
    let serde_json::Value::Array(nodes) = serde_json::to_value(ratchet_tree(tree)).unwrap() else { panic!() };
    nodes.into_iter().step_by(2).collect()
}

#[test]
fn members_are_put_where_the_published_operations_put_them() {
    for Operation { tree_before, tree_after, proposal: Hex(proposal), proposal_sender } in
        vectors!(Operation, "tree-operations")
    {
        let (before, after) = (leaves(&tree_before), leaves(&tree_after));
        let at =
            |leaves: &[serde_json::Value], leaf: u32| leaves.get(leaf as usize).is_some_and(|leaf| !leaf.is_null());
        let body = &proposal[2..];
        let changed = match u16::from_be_bytes([proposal[0], proposal[1]]) {
            1 => {
                let package = KeyPackageIn::tls_deserialize_exact_bytes(body).unwrap();
                let placed = free_leaves(|leaf| at(&before, leaf), 1)[0];
                let added = serde_json::to_value(&package).unwrap()["payload"]["leaf_node"].clone();
                assert!(!added.is_null() && after[placed as usize].to_string().contains(&added.to_string()));
                placed
            }
            2 => {
                assert!(at(&before, proposal_sender) && at(&after, proposal_sender));
                assert_ne!(before[proposal_sender as usize], after[proposal_sender as usize]);
                proposal_sender
            }
            3 => {
                let removed = u32::from_be_bytes(body.try_into().unwrap());
                assert!(at(&before, removed) && !at(&after, removed));
                removed
            }
            other => panic!("{other}"),
        };
        let leaf = |leaves: &[serde_json::Value], at: usize| leaves.get(at).filter(|leaf| !leaf.is_null()).cloned();
        for other in (0..before.len().max(after.len())).filter(|other| *other != changed as usize) {
            assert_eq!(leaf(&before, other), leaf(&after, other));
        }
    }
}

#[derive(Deserialize)]
struct Psk {
    psk_id: Hex,
    psk: Hex,
}

#[derive(Deserialize)]
struct Epoch {
    proposals: Vec<Hex>,
    commit: Hex,
    epoch_authenticator: Hex,
}

#[derive(Deserialize)]
struct Scenario {
    external_psks: Vec<Psk>,
    key_package: Hex,
    encryption_priv: Hex,
    init_priv: Hex,
    welcome: Hex,
    ratchet_tree: Option<Hex>,
    initial_epoch_authenticator: Hex,
    epochs: Vec<Epoch>,
}

fn protocol_message(Hex(bytes): &Hex) -> ProtocolMessage {
    MlsMessageIn::tls_deserialize_exact_bytes(bytes).unwrap().try_into_protocol_message().unwrap()
}

/// A member who follows, with whom the server is compared.
struct Follower {
    provider: OpenMlsRustCrypto,
    group: MlsGroup,
}

impl Follower {
    /// Joins; gives also the GroupInfo and the tree that a server would have been given.
    fn join(scenario: &Scenario) -> (Self, VerifiableGroupInfo, RatchetTreeIn) {
        let provider = OpenMlsRustCrypto::default();
        for Psk { psk_id, psk } in &scenario.external_psks {
            PreSharedKeyId::external(psk_id.0.clone(), Vec::new()).store(&provider, &psk.0).unwrap();
        }
        // OpenMLS has no other way to be given the keys of a KeyPackage, nor for one whose time is over.
        let package = MlsMessageIn::tls_deserialize_exact_bytes(&scenario.key_package.0).unwrap();
        let MlsMessageBodyIn::KeyPackage(package) = package.extract() else { panic!() };
        let key = |key: &Hex| HpkePrivateKey::from(key.0.clone());
        let bundle: KeyPackageBundle = serde_json::from_value(json!({
            "key_package": package,
            "private_init_key": key(&scenario.init_priv),
            "private_encryption_key": { "key": key(&scenario.encryption_priv) },
        }))
        .unwrap();
        let reference: KeyPackageRef = bundle.key_package().hash_ref(provider.crypto()).unwrap();
        provider.storage().write_key_package(&reference, &bundle).unwrap();

        let message = MlsMessageIn::tls_deserialize_exact_bytes(&scenario.welcome.0).unwrap();
        let MlsMessageBodyIn::Welcome(welcome) = message.extract() else { panic!() };
        let config = MlsGroupJoinConfig::builder()
            .number_of_resumption_psks(16)
            .wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .build();
        let processed = ProcessedWelcome::new_from_welcome(&provider, &config, welcome).unwrap();
        let info = processed.unverified_group_info().clone();
        let tree = match &scenario.ratchet_tree {
            Some(tree) => ratchet_tree(tree),
            None => info.extensions().ratchet_tree().unwrap().ratchet_tree().clone(),
        };
        let joining = JoinBuilder::new(&provider, processed).with_ratchet_tree(tree.clone()).skip_lifetime_validation();
        let group = joining.build().unwrap().into_group(&provider).unwrap();
        (Self { provider, group }, info, tree)
    }

    fn take(&mut self, message: &Hex) {
        let processed = self.group.process_message(&self.provider, protocol_message(message)).unwrap();
        match processed.into_content() {
            ProcessedMessageContent::ProposalMessage(proposal) => {
                self.group.store_pending_proposal(self.provider.storage(), *proposal).unwrap();
            }
            ProcessedMessageContent::StagedCommitMessage(commit) => {
                self.group.merge_staged_commit(&self.provider, *commit).unwrap();
            }
            _ => panic!(),
        }
    }

    /// The server that has been there since before the KeyPackages expired.
    fn server(&self) -> Tree {
        let public = PublicGroup::load(self.provider.storage(), self.group.group_id()).unwrap().unwrap();
        let group_info = GroupInfo { extensions: vec![0], signature: vec![0], signer: 0 };
        Tree { public, infos: BTreeMap::new(), group_info }
    }

    fn is_at(&self, authenticator: &Hex) {
        assert_eq!(self.group.epoch_authenticator().as_slice(), authenticator.0);
    }
}

/// The server's tree is created as CreateGroup creates it.
fn create(info: VerifiableGroupInfo, tree: RatchetTreeIn) -> Result<Tree, String> {
    let recorder = Recorder::listening();
    // In front of the signature, 64 bytes and their length.
    let encoded = info.tls_serialize_detached().unwrap();
    let (_, [signer @ .., _, _]) = encoded[..encoded.len() - 64].split_last_chunk::<6>().unwrap();
    let signer = u32::from_be_bytes(*signer);
    let created = PublicGroup::from_external(&RustCrypto::default(), &recorder, tree, info, ProposalStore::new());
    let (_, info) = created.map_err(|error| format!("{error:?}"))?;
    let signature = info.signature().tls_serialize_detached().unwrap();
    let update = GroupInfoUpdate {
        extensions: info.extensions().tls_serialize_detached().unwrap().into(),
        signature: Signature::from_slice(&signature).unwrap(),
    };
    Ok(reopened(recorder.take(), GroupInfo::new(update, signer)))
}

/// As after a restart, from a checkpoint.
fn reopened(parts: Parts, group_info: GroupInfo) -> Tree {
    let checkpoint = Row::Checkpoint(Checkpoint { parts, infos: BTreeMap::new(), group_info });
    let Row::Checkpoint(checkpoint) = stored(&checkpoint) else { panic!() };
    Tree::restore(&any_group(), checkpoint).unwrap()
}

fn stored<T: Serialize + DeserializeOwned>(value: &T) -> T {
    record::decode(ROW_VERSION, &record::encode(ROW_VERSION, value).unwrap()).unwrap()
}

impl Tree {
    fn take_proposal(&mut self, message: &Hex) {
        let processed = self.public.process_message(&RustCrypto::default(), protocol_message(message)).unwrap();
        let ProcessedMessageContent::ProposalMessage(queued) = processed.into_content() else { panic!() };
        let queued: QueuedProposal = stored(&*queued);
        self.add_proposal(queued).unwrap();
    }

    fn stage(&self, message: &[u8]) -> Result<StagedCommit, String> {
        let message = MlsMessageIn::tls_deserialize_exact_bytes(message).map_err(|error| error.to_string())?;
        let message = message.try_into_protocol_message().map_err(|error| error.to_string())?;
        let processed = self.public.process_message(&RustCrypto::default(), message);
        match processed.map_err(|error| format!("{error:?}"))?.into_content() {
            ProcessedMessageContent::StagedCommitMessage(staged) => Ok(*staged),
            _ => Err("no commit".into()),
        }
    }

    /// By turns as a delta that is replayed, and as a checkpoint that is restored.
    fn take_commit(mut self, Hex(message): &Hex, number: usize) -> Self {
        // In front of the tags, all is signed.
        let signed = message.len() - 2 * 33 - 1;
        for at in (4..signed).step_by(signed / 5) {
            let mut damaged = message.clone();
            damaged[at] ^= 1;
            assert!(self.stage(&damaged).is_err(), "byte {at} of {}", message.len());
        }
        let staged = self.stage(message).unwrap();
        if number.is_multiple_of(3) {
            let recorder = Recorder::listening();
            self.public.merge_commit(&recorder, staged).unwrap();
            return reopened(recorder.take(), self.group_info);
        }
        let commit = postcard::to_stdvec(&staged).unwrap();
        let delta = Row::Delta(Delta { commit, infos: Vec::new(), group_info: self.group_info.clone() });
        let Row::Delta(delta) = stored(&delta) else { panic!() };
        self.replay(delta).unwrap();
        self
    }

    fn agrees_with(&self, follower: &Follower) {
        assert_eq!(self.public.group_context(), follower.group.public_group().group_context());
        let tree = follower.group.export_ratchet_tree().tls_serialize_detached().unwrap();
        assert_eq!(self.ratchet_tree().unwrap().as_slice(), tree);
    }
}

/// Plays a scenario; gives how many epochs it has.
fn follow(scenario: &Scenario) -> usize {
    let (mut follower, info, tree) = Follower::join(scenario);
    follower.is_at(&scenario.initial_epoch_authenticator);
    let message = [&[0, 1, 0, 4], &info.tls_serialize_detached().unwrap()[..]].concat();
    let mut server = match create(info, tree) {
        Ok(server) => {
            let handed_out = server.group_info().unwrap();
            assert_eq!(handed_out.as_slice(), message, "the GroupInfo is handed out as it was signed");
            server
        }
        Err(expired) => {
            assert!(expired.contains("Lifetime"), "{expired}");
            follower.server()
        }
    };
    server.agrees_with(&follower);
    for (number, epoch) in scenario.epochs.iter().enumerate() {
        for proposal in &epoch.proposals {
            follower.take(proposal);
            server.take_proposal(proposal);
        }
        server = server.take_commit(&epoch.commit, number);
        follower.take(&epoch.commit);
        follower.is_at(&epoch.epoch_authenticator);
        server.agrees_with(&follower);
    }
    scenario.epochs.len()
}

#[test]
fn every_kind_of_commit_that_is_published_is_followed() {
    let epochs: usize = vectors!(Scenario, "passive-client-handling-commit").iter().map(follow).sum();
    assert_eq!(epochs, 13 * 2);
}

#[test]
fn a_long_published_history_of_a_group_is_followed() {
    let epochs: usize = vectors!(Scenario, "passive-client-random").iter().map(follow).sum();
    assert_eq!(epochs, 50);
}

/// The KeyPackages in these have expired: a member who joins late does not mind, a server takes no new group of them.
#[test]
fn published_welcomes_are_understood_and_their_expired_members_are_refused() {
    for scenario in vectors!(Scenario, "passive-client-welcome") {
        let (follower, info, tree) = Follower::join(&scenario);
        follower.is_at(&scenario.initial_epoch_authenticator);
        let welcome: WelcomeMessage = same(&scenario.welcome);
        assert!(!welcome.secrets.is_empty());
        let refused = create(info, tree).err().unwrap();
        assert!(refused.contains("Lifetime"), "{refused}");
    }
}

#[test]
fn a_published_tree_with_any_byte_changed_makes_no_group() {
    let scenario = &vectors!(Scenario, "passive-client-random")[0];
    let (_, info, tree) = Follower::join(scenario);
    let bytes = tree.tls_serialize_detached().unwrap();
    assert!(create(info.clone(), tree).is_ok());
    for at in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        let decoded = RatchetTreeIn::tls_deserialize_exact_bytes(&damaged);
        let created = decoded.map(|tree| create(info.clone(), tree));
        assert!(!matches!(created, Ok(Ok(_))), "byte {at} of {}", bytes.len());
    }
}
