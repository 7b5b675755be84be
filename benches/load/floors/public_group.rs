//! Bare OpenMLS: a public group is read from what was stored, takes a commit, and is stored again. Stored is OpenMLS's own
//! serialisation as compact as it gets, in memory and in clear.

use std::{cell::RefCell, time::Duration};

use bennu::{
    crypto::mls::{self, RustCrypto},
    wire::{Opaque, delivery::CommitBundle},
};
use openmls::{
    group::{ProposalStore, PublicGroup},
    prelude::{
        Extensions, GroupId, LeafNodeIndex, MlsMessageBodyIn, MlsMessageIn, OpenMlsSignaturePublicKey,
        ProcessedMessageContent, RatchetTreeIn, Verifiable as _,
        group_info::{GroupInfo, VerifiableGroupInfo},
    },
};
use openmls_traits::{
    public_storage::PublicStorageProvider,
    storage::{CURRENT_VERSION, traits},
};
use serde::{Serialize, de::DeserializeOwned};
use tls_codec::DeserializeBytes as _;

use crate::{process::own_cpu, support::Group};

/// A public group that has been stored.
pub struct Stored {
    storage: Storage,
    group: GroupId,
}

impl Stored {
    /// What is public of a group.
    pub fn of(group: &Group) -> Self {
        let (storage, (group_info, tree)) = (Storage::default(), group.public());
        let tree = RatchetTreeIn::tls_deserialize_exact_bytes(tree.as_slice()).expect("a tree");
        let message = MlsMessageIn::tls_deserialize_exact_bytes(group_info.as_slice()).expect("a message");
        let MlsMessageBodyIn::GroupInfo(info) = message.extract() else { panic!("it is a GroupInfo") };
        let proposals = ProposalStore::new();
        PublicGroup::from_external(&RustCrypto::default(), &storage, tree, info, proposals).expect("it is valid");
        Self { storage, group: mls::group_id(&group.access.group) }
    }

    /// Processor time of a commit by the member with the leaf 0: it is validated, merged and stored, and the GroupInfo of its
    /// epoch verified.
    pub fn commit(&self, bundle: &CommitBundle) -> Duration {
        let before = own_cpu();
        let mut group = PublicGroup::load(&self.storage, &self.group).expect("it is read").expect("it is there");
        let message = MlsMessageIn::tls_deserialize_exact_bytes(bundle.commit.as_slice()).expect("a message");
        let MlsMessageBodyIn::PublicMessage(message) = message.extract() else { panic!("it is a commit") };
        let processed = group.process_message(&RustCrypto::default(), message).expect("it is valid");
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            panic!("it is a commit")
        };
        group.merge_commit(&self.storage, *staged).expect("it is stored");
        let (extensions, signature) = (&bundle.group_info.extensions, &bundle.group_info.signature);
        verify(&group, extensions, signature.as_slice());
        own_cpu() - before
    }
}

/// Verifies what the member with the leaf 0 says to joiners.
fn verify(group: &PublicGroup, extensions: &Opaque, signature: &[u8]) {
    let signer = LeafNodeIndex::new(0);
    let extensions = Extensions::tls_deserialize_exact_bytes(extensions.as_slice()).expect("extensions");
    let (context, tag) = (group.group_context().clone(), group.confirmation_tag().clone());
    let info = VerifiableGroupInfo::new(context, extensions, tag, signer, signature.to_vec().into());
    let key = group.leaf(signer).expect("it is there").signature_key().clone();
    let key = OpenMlsSignaturePublicKey::from_signature_key(key, group.ciphersuite().signature_algorithm());
    let _: GroupInfo = info.verify(&RustCrypto::default(), &key).expect("it is valid");
}

/// What OpenMLS stores of a public group to which nobody proposes anything.
#[derive(Default)]
struct Storage {
    tree: Part,
    context: Part,
    interim_transcript_hash: Part,
    confirmation_tag: Part,
}

#[derive(Default)]
struct Part(RefCell<Vec<u8>>);

type Done = Result<(), postcard::Error>;

impl Part {
    fn write(&self, value: &impl Serialize) -> Done {
        self.0.replace(postcard::to_stdvec(value)?);
        Ok(())
    }

    fn read<T: DeserializeOwned>(&self) -> Result<Option<T>, postcard::Error> {
        postcard::from_bytes(&self.0.borrow()).map(Some)
    }
}

const V: u16 = CURRENT_VERSION;

impl PublicStorageProvider<V> for Storage {
    type PublicError = postcard::Error;

    fn write_tree<G: traits::GroupId<V>, T: traits::TreeSync<V>>(&self, _: &G, tree: &T) -> Done {
        self.tree.write(tree)
    }

    fn write_interim_transcript_hash<G: traits::GroupId<V>, H: traits::InterimTranscriptHash<V>>(
        &self,
        _: &G,
        hash: &H,
    ) -> Done {
        self.interim_transcript_hash.write(hash)
    }

    fn write_context<G: traits::GroupId<V>, C: traits::GroupContext<V>>(&self, _: &G, context: &C) -> Done {
        self.context.write(context)
    }

    fn write_confirmation_tag<G: traits::GroupId<V>, C: traits::ConfirmationTag<V>>(&self, _: &G, tag: &C) -> Done {
        self.confirmation_tag.write(tag)
    }

    fn tree<G: traits::GroupId<V>, T: traits::TreeSync<V>>(&self, _: &G) -> Result<Option<T>, postcard::Error> {
        self.tree.read()
    }

    fn group_context<G: traits::GroupId<V>, C: traits::GroupContext<V>>(
        &self,
        _: &G,
    ) -> Result<Option<C>, postcard::Error> {
        self.context.read()
    }

    fn interim_transcript_hash<G: traits::GroupId<V>, H: traits::InterimTranscriptHash<V>>(
        &self,
        _: &G,
    ) -> Result<Option<H>, postcard::Error> {
        self.interim_transcript_hash.read()
    }

    fn confirmation_tag<G: traits::GroupId<V>, C: traits::ConfirmationTag<V>>(
        &self,
        _: &G,
    ) -> Result<Option<C>, postcard::Error> {
        self.confirmation_tag.read()
    }

    fn queued_proposals<G, R, Q>(&self, _: &G) -> Result<Vec<(R, Q)>, postcard::Error>
    where
        G: traits::GroupId<V>,
        R: traits::ProposalRef<V>,
        Q: traits::QueuedProposal<V>,
    {
        Ok(Vec::new())
    }

    fn clear_proposal_queue<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(&self, _: &G) -> Done {
        Ok(())
    }

    fn queue_proposal<G, R, Q>(&self, _: &G, _: &R, _: &Q) -> Done
    where
        G: traits::GroupId<V>,
        R: traits::ProposalRef<V>,
        Q: traits::QueuedProposal<V>,
    {
        unimplemented!("nobody proposes anything")
    }

    fn remove_proposal<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(&self, _: &G, _: &R) -> Done {
        unimplemented!("nobody proposes anything")
    }

    fn delete_tree<G: traits::GroupId<V>>(&self, _: &G) -> Done {
        unimplemented!("no group ends")
    }

    fn delete_confirmation_tag<G: traits::GroupId<V>>(&self, _: &G) -> Done {
        unimplemented!("no group ends")
    }

    fn delete_context<G: traits::GroupId<V>>(&self, _: &G) -> Done {
        unimplemented!("no group ends")
    }

    fn delete_interim_transcript_hash<G: traits::GroupId<V>>(&self, _: &G) -> Done {
        unimplemented!("no group ends")
    }
}
