//! Commits: the way every handshake message takes, whatever its endpoint allows. Decode, check the epoch, validate with
//! OpenMLS as a member would, see that what was proposed is covered, let the endpoint check what is its own; then
//! [`apply`](super::apply) merges it and [`ending`](super::ending) sends it to everybody.

use openmls::{
    group::StagedCommit,
    prelude::{
        ConfirmationTag, ContentType, KeyPackage, MlsMessageBodyIn, MlsMessageIn, ProcessedMessageContent, Proposal,
        ProposalOrRefType, ProtocolMessage, Sender,
    },
};
use tls_codec::DeserializeBytes as _;

use super::{
    Services,
    group::{Connection, Group, Leaving},
    idempotency::Answer,
    tree::Tree,
    waiting::Waiting,
};
use crate::{
    base::{Refusal, Status},
    crypto::mls::{self, RustCrypto},
    queuing::forward::admit,
    service::{Context, Outcome, Verified, damaged, proof::Leaf, proof::unproven},
    store::Batch,
    wire::{
        Decode, Encode, Method, Opaque,
        delivery::{CommitAad, CommitAccepted, CommitBundle, GroupInfoUpdate, StoredProposals},
        queuing::ClientQueueConfig,
    },
};

/// A commit that OpenMLS has validated against the group's public state, and what it does in terms of the group.
pub struct Commit {
    pub(super) staged: StagedCommit,
    pub(super) confirmation_tag: ConfirmationTag,
    pub(super) message: Opaque,
    pub(super) group_info: GroupInfoUpdate,
    pub(super) aad: CommitAad,
    /// Leaf of its sender: where it is, or will be.
    pub signer: u32,
    /// Whether its sender was a member before.
    pub by_member: bool,
    /// Identity of the member that an external commit takes back in.
    pub returning: Option<[u8; 32]>,
    /// Who leaves, whoever has proposed it.
    pub removed: Vec<u32>,
    /// What it proposes itself.
    pub own: Proposals,
}

/// What a commit proposes itself, beside the stored proposals that it covers.
#[derive(Default)]
pub struct Proposals {
    /// Who is added, in the order of the proposals.
    pub added: Vec<KeyPackage>,
    /// Which leaves are removed.
    pub removed: Vec<u32>,
    /// Whether the group context's extensions are replaced.
    pub extensions: bool,
    /// Whether there is anything else (beside the ExternalInit of an external commit).
    pub others: bool,
}

impl Proposals {
    /// Whether all that is proposed is to add members.
    pub const fn only_adds(&self) -> bool {
        !self.added.is_empty() && self.removed.is_empty() && !self.extensions && !self.others
    }

    /// Whether all that is proposed is to remove members.
    pub const fn only_removes(&self) -> bool {
        self.added.is_empty() && !self.removed.is_empty() && !self.extensions && !self.others
    }

    /// Whether all that is proposed is to replace the group context's extensions.
    pub const fn only_extensions(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.extensions && !self.others
    }

    /// Whether nothing is proposed.
    pub const fn are_none(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && !self.extensions && !self.others
    }
}

impl Commit {
    /// Whether it has an update path.
    pub fn has_path(&self) -> bool {
        self.staged.update_path_leaf_node().is_some()
    }

    /// Whether a friendship package comes with it.
    pub const fn has_friendship_package(&self) -> bool {
        self.aad.friendship_package.is_some()
    }

    /// Checks that the commit is by the member who has proven to send it.
    ///
    /// # Errors
    /// `forbidden` otherwise.
    pub fn check_sender(&self, leaf: u32) -> Result<(), Refusal> {
        if self.by_member && self.signer == leaf {
            return Ok(());
        }
        Err(Refusal::forbidden("the commit is by another member than the sender"))
    }

    fn covers(&self, stored: &Leaving) -> bool {
        self.staged.queued_proposals().any(|queued| {
            queued.proposal_or_ref_type() == ProposalOrRefType::Reference
                && match (queued.proposal(), queued.sender()) {
                    (Proposal::SelfRemove, Sender::Member(leaf)) => stored.by_itself && leaf.u32() == stored.leaf,
                    (Proposal::Remove(remove), Sender::External(_)) => {
                        !stored.by_itself && remove.removed().u32() == stored.leaf
                    }
                    _ => false,
                }
        })
    }
}

/// The whole way of a commit by a member that adds nobody: repeats, validation, the endpoint's own rule, the change.
///
/// # Errors
/// What a commit can be refused for, and what `allowed` refuses.
pub async fn member_commit(
    services: Services<'_>,
    context: &mut Context<'_>,
    sender: Verified<Leaf>,
    group: Group,
    (method, bundle): (Method, CommitBundle),
    queue_config: Option<ClientQueueConfig>,
    allowed: impl FnOnce(&Changing, &Commit) -> Result<(), Refusal> + Send,
) -> Result<Outcome<CommitAccepted>, Refusal> {
    let Leaf(leaf) = *sender.get();
    let identity = group.member(leaf).ok_or_else(unproven)?.identity;
    let answer = Answer::to(&group, method, &identity, &bundle.idempotency_key);
    if let Some(first) = answer.find(context).await? {
        return Ok(Outcome::unchanged(first));
    }
    let mut changing = Changing::load(group, context).await?;
    let commit = changing.validate(&bundle)?;
    commit.check_sender(leaf)?;
    allowed(&changing, &commit)?;
    if let Some(config) = &queue_config {
        admit(context, config).await?;
    }
    let mut batch = Batch::new();
    let applied = changing.apply(commit, queue_config, context, &mut batch)?;
    applied.finish(services, context, changing, answer, batch, Vec::new()).await
}

/// A group with the tree that a commit is to change.
pub struct Changing {
    /// The group.
    pub group: Group,
    /// Its tree.
    pub tree: Tree,
    /// What waits for the commit.
    pub waiting: Waiting,
}

impl Changing {
    /// Loads the tree of an opened group.
    ///
    /// # Errors
    /// `internal` if it cannot be read.
    pub async fn load(group: Group, context: &Context<'_>) -> Result<Self, Refusal> {
        let waiting = Waiting::load(&group, context).await?;
        let mut tree = Tree::load(&group, group.head.rows, context).await?;
        waiting.enter(&mut tree)?;
        Ok(Self { group, tree, waiting })
    }

    /// Validates a commit as a member would (RFC 9420 section 12.4.2), as far as public state allows.
    ///
    /// # Errors
    /// `malformed` for no commit of this group, `wrong_epoch`, `invalid_mls_message`, `pending_proposals` if a stored
    /// proposal is not covered.
    pub fn validate(&self, bundle: &CommitBundle) -> Result<Commit, Refusal> {
        let message = decode_commit(bundle)?;
        if *message.group_id() != mls::group_id(&self.group.id) {
            return Err(Refusal::malformed("the commit is of another group"));
        }
        self.group.check_epoch(message.epoch().as_u64())?;
        let ProtocolMessage::PublicMessage(public) = &message else { return Err(not_a_commit()) };
        let confirmation_tag = public.confirmation_tag().cloned().ok_or_else(not_a_commit)?;

        let processed = self.tree.public.process_message(&RustCrypto::default(), message).map_err(|error| {
            tracing::debug!(%error, "a commit was refused");
            Refusal::invalid_mls("the commit is not valid (RFC 9420 section 12.4.2)")
        })?;
        let aad = CommitAad::from_slice(processed.aad())
            .map_err(|_| Refusal::invalid_mls("the commit's authenticated data is not a CommitAad"))?;
        let sender = processed.sender().clone();
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            return Err(not_a_commit());
        };
        let (signer, by_member) = match sender {
            Sender::Member(leaf) => (leaf.u32(), true),
            Sender::NewMemberCommit => {
                (self.tree.public.ext_commit_sender_index(&staged).map_err(damaged)?.u32(), false)
            }
            _ => return Err(not_a_commit()),
        };
        let (removed, own) = proposals(&staged, by_member);
        let commit = Commit {
            staged: *staged,
            confirmation_tag,
            message: bundle.commit.clone(),
            group_info: bundle.group_info.clone(),
            aad,
            signer,
            by_member,
            returning: None,
            removed,
            own,
        };
        self.check_coverage(&commit)?;
        Ok(commit)
    }

    /// A commit covers every stored proposal. From outside only SelfRemoves can be covered: what the DS has proposed lapses
    /// with the epoch, and is proposed again.
    fn check_coverage(&self, commit: &Commit) -> Result<(), Refusal> {
        let mut needed = self.group.head.leaving.iter().filter(|stored| commit.by_member || stored.by_itself);
        if needed.all(|stored| commit.covers(stored)) {
            return Ok(());
        }
        let stored = StoredProposals { proposals: self.waiting.messages(|_| true) };
        let refusal = Refusal::new(Status::PendingProposals, "the commit must cover all stored proposals");
        Err(refusal.with_detail(stored.to_vec()))
    }
}

/// Who leaves by a commit, and what it proposes itself.
fn proposals(staged: &StagedCommit, by_member: bool) -> (Vec<u32>, Proposals) {
    let (mut removed, mut own) = (Vec::new(), Proposals::default());
    for queued in staged.queued_proposals() {
        let is_own = queued.proposal_or_ref_type() == ProposalOrRefType::Proposal;
        match (queued.proposal(), queued.sender()) {
            (Proposal::Add(add), _) if is_own => own.added.push(add.key_package().clone()),
            (Proposal::Remove(remove), _) => {
                removed.push(remove.removed().u32());
                if is_own {
                    own.removed.push(remove.removed().u32());
                }
            }
            (Proposal::SelfRemove, Sender::Member(leaf)) if !is_own => removed.push(leaf.u32()),
            (Proposal::GroupContextExtensions(_), _) if is_own => own.extensions = true,
            (Proposal::ExternalInit(_), _) if !by_member => {}
            _ => own.others = true,
        }
    }
    (removed, own)
}

fn decode_commit(bundle: &CommitBundle) -> Result<ProtocolMessage, Refusal> {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(bundle.commit.as_slice()).map_err(|_| not_a_commit())?;
    match message.extract() {
        MlsMessageBodyIn::PublicMessage(public) if public.content_type() == ContentType::Commit => Ok(public.into()),
        _ => Err(not_a_commit()),
    }
}

fn not_a_commit() -> Refusal {
    Refusal::malformed("the message is not a commit in a PublicMessage")
}

/// Marks a connection group as joined.
pub fn close_connection(group: &mut Group) {
    if group.head.connection == Connection::Open {
        group.head.connection = Connection::Closed;
    }
}
