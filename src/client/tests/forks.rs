//! Commits that the DS cannot tell from honest ones, because what is wrong with them only members can see: they are accepted, and
//! the members notice, come back, and go on together.

use openmls::prelude::{MlsMessageBodyIn, ProcessedMessageContent, ProposalStore, ProtocolMessage, PublicGroup};
use openmls_rust_crypto::{MemoryStorage, RustCrypto};
use openmls_traits::{crypto::OpenMlsCrypto as _, types::HashType};
use tls_codec::Serialize as _;

use super::{
    hostile::{Hostile, Parts, group_of, sign},
    *,
};
use crate::{
    client::commit::Intent,
    crypto::random,
    wire::{
        Opaque,
        credential::Signature,
        delivery::{ExternalCommitInfo, GetExternalCommitInfo, GroupInfoUpdate, UpdateClient},
        method::call,
    },
};

/// The key of the current epoch under which members authenticate what they send in clear (RFC 9420 section 6.2).
async fn membership_key(user: &User, group: &GroupId) -> Vec<u8> {
    let key = serde_json::to_vec(&crate::crypto::mls::group_id(group)).unwrap();
    let read = move |connection: &rusqlite::Connection| {
        let sql = "SELECT group_data FROM openmls_group_data WHERE group_id = ? AND data_type = 'message_secrets'";
        Ok::<Vec<u8>, ClientError>(connection.query_row(sql, [key], |row| row.get(0))?)
    };
    let stored = user.client.0.database.run(read).await.unwrap();
    let stored: serde_json::Value = serde_json::from_slice(&stored).unwrap();
    bytes_of(find(&stored, "membership_key").unwrap()).unwrap()
}

fn find<'a>(value: &'a serde_json::Value, name: &str) -> Option<&'a serde_json::Value> {
    match value {
        serde_json::Value::Object(fields) => {
            fields.get(name).or_else(|| fields.values().find_map(|field| find(field, name)))
        }
        serde_json::Value::Array(items) => items.iter().find_map(|item| find(item, name)),
        _ => None,
    }
}

/// The secret, however deep it is wrapped.
fn bytes_of(value: &serde_json::Value) -> Option<Vec<u8>> {
    match value {
        serde_json::Value::Object(fields) => fields.values().find_map(bytes_of),
        serde_json::Value::Array(_) => {
            serde_json::from_value(value.clone()).ok().filter(|bytes: &Vec<u8>| bytes.len() == 32)
        }
        _ => None,
    }
}

/// The group context of the epoch that a commit starts, as the DS finds it.
fn context_after(info: &ExternalCommitInfo, commit: &Opaque) -> Vec<u8> {
    let (crypto, storage) = (RustCrypto::default(), MemoryStorage::default());
    let tree = mls::ratchet_tree(info.ratchet_tree.as_slice()).unwrap();
    let group_info = mls::group_info(info.group_info.as_slice()).unwrap();
    let (group, _) = PublicGroup::from_external(&crypto, &storage, tree, group_info, ProposalStore::new()).unwrap();
    let MlsMessageBodyIn::PublicMessage(message) = mls::message(commit.as_slice()).unwrap().extract() else { panic!() };
    let processed = group.process_message(&crypto, ProtocolMessage::from(message)).unwrap();
    let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else { panic!() };
    staged.group_context().tls_serialize_detached().unwrap()
}

/// An UpdateClient whose commit was changed, and with which everything fits that the DS can check. Its membership tag is right
/// unless that is what was changed.
async fn fitting(by: &Hostile<'_>, user: &User, honest: &UpdateClient, change: impl Fn(&mut Parts)) -> UpdateClient {
    let read = GetExternalCommitInfo { access: honest.commit.access.clone() };
    let info = by.send::<call::DsExternalCommitInfo>(&read).await.unwrap();
    let mut parts = Parts::of(&honest.commit.commit);
    let tag = parts.membership_tag.clone();
    change(&mut parts);
    if parts.membership_tag == tag {
        // AuthenticatedContentTBM: what is signed, the signature, and the confirmation tag.
        let content = [&[0, 1, 0, 1], &parts.content()[..], &by.context].concat();
        let signature = sign(&by.key, "FramedContentTBS", &content);
        let content = [content, signature.to_vec(), parts.confirmation_tag.to_vec()].concat();
        let key = membership_key(user, &by.chat.group).await;
        let crypto = RustCrypto::default();
        // HKDF-Extract is HMAC (RFC 5869 section 2.2).
        parts.membership_tag =
            crypto.hkdf_extract(HashType::Sha2_256, &key, &content).unwrap().as_slice().to_vec().into();
    }
    let commit = parts.signed(&by.key, &by.context);
    let extensions = honest.commit.group_info.extensions.clone();
    // GroupInfoTBS (RFC 9420 section 12.4.3): the extensions are a vector already.
    let mut info_content = [context_after(&info, &commit), extensions.as_slice().to_vec()].concat();
    parts.confirmation_tag.encode(&mut info_content);
    parts.sender.encode(&mut info_content);
    let signature = Signature(sign(&by.key, "GroupInfoTBS", &info_content));
    let mut request = honest.clone();
    request.commit.commit = commit;
    request.commit.idempotency_key = random(&mut system_rng());
    request.commit.group_info = GroupInfoUpdate { extensions, signature };
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn members_notice_an_accepted_commit_that_they_cannot_merge_and_converge() {
    type Change = fn(&mut Parts);
    let changes: [(&str, bool, Change); 4] = [
        ("nothing is wrong", true, |_| {}),
        ("a membership tag that is none", false, |parts| parts.membership_tag = vec![7; 32].into()),
        ("a confirmation tag that is none", false, |parts| parts.confirmation_tag = vec![7; 32].into()),
        ("path secrets that nobody can open", false, |parts| {
            for (_, encrypted) in &mut parts.path.as_mut().unwrap().nodes {
                // The last byte is of the last ciphertext.
                if encrypted.len() > 1 {
                    *encrypted.last_mut().unwrap() ^= 1;
                }
            }
        }),
    ];
    for (what, valid, change) in changes {
        println!("{what}");
        let server = Homeserver::start().await;
        let (users, group) = group_of(&server).await;
        let [alice, mallory, carol, _] = &users;
        let by = Hostile::of(mallory, &group).await;
        let honest = UpdateClient::from_slice(&by.honest(Intent::Update).await).unwrap();
        let request = fitting(&by, mallory, &honest, change).await;
        by.send::<call::DsUpdateClient>(&request).await.expect(what);
        // Whoever speaks first comes back first.
        for _ in 0..3 {
            for user in [carol, alice, mallory] {
                user.client.sync().await.unwrap();
            }
        }
        let mut noticed = 0;
        for user in [alice, carol] {
            let problems = user.client.problems().await.unwrap();
            noticed += usize::from(problems.iter().any(|(_, text)| text.contains("cannot be merged")));
            assert!(!valid || problems.is_empty(), "{what}: {problems:?}");
        }
        assert_eq!(noticed, if valid { 0 } else { 2 }, "{what}");
        for (from, others) in [(alice, [carol, mallory]), (carol, [alice, mallory]), (mallory, [alice, carol])] {
            from.agrees_with(&others, &group, "all is well").await;
            assert_eq!(from.client.members(&group).await.unwrap().len(), 3);
        }
    }
}
