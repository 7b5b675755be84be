//! CreateGroup: stores a group of one, as its creator has made it.

use openmls::{
    group::{GroupContext, ProposalStore, PublicGroup},
    prelude::{Extension, LeafNodeIndex, MlsMessageBodyIn, MlsMessageIn, RatchetTreeIn},
};
use tls_codec::{DeserializeBytes as _, Serialize as _};

use super::{
    Delivery,
    group::{Connection, Group, Member, head_key},
    member_infos, request_group_id,
    tree::{Recorder, Tree},
};
use crate::{
    base::Refusal,
    crypto::mls::{self, RustCrypto},
    queuing::forward::admit,
    service::{Context, Outcome, Verified, damaged, proof::Leaf},
    store::{Batch, Table},
    wire::{
        Decode, Opaque,
        credential::{LeafCredential, Signature, SignaturePublicKey},
        delivery::{CreateGroup, GroupAccess, GroupInfoUpdate, Roles},
        server::Done,
    },
};

/// Why a GroupInfo is refused whose extensions are not as they must be.
pub(super) const GROUP_INFO_EXTENSIONS: &str =
    "the GroupInfo must have the external_pub extension, no ratchet tree, and at most 4096 bytes of extensions";

/// A new group that has been validated; its sender is not proven yet.
pub struct Validated {
    request: CreateGroup,
    recorder: Recorder,
    credential: LeafCredential,
    roles: Roles,
    group_info: GroupInfoUpdate,
    context_hash: [u8; 8],
}

impl Validated {
    /// The key of the only leaf.
    pub const fn leaf_key(&self) -> &SignaturePublicKey {
        &self.credential.verifying_key
    }
}

/// Validates the ticket and the group: one leaf with a leaf credential, epoch 0, the required capabilities and
/// extensions, the DS as external sender, a signed GroupInfo.
///
/// # Errors
/// `forbidden` for the ticket, `malformed` for what does not decode, `invalid_mls_message` for a broken rule.
pub fn validate(service: &Delivery, context: &Context<'_>, request: CreateGroup) -> Result<Validated, Refusal> {
    request_group_id::check(service, &request.ticket, context.now)?;
    let malformed = |_| Refusal::malformed("the GroupInfo or the ratchet tree does not decode");
    let message = MlsMessageIn::tls_deserialize_exact_bytes(request.group_info.as_slice()).map_err(malformed)?;
    let MlsMessageBodyIn::GroupInfo(info) = message.extract() else {
        return Err(Refusal::malformed("the message is not a GroupInfo"));
    };
    let tree = RatchetTreeIn::tls_deserialize_exact_bytes(request.ratchet_tree.as_slice()).map_err(malformed)?;
    member_infos::check(&request.member)?;
    let invalid = |why: &'static str| Refusal::invalid_mls(why);
    if info.ciphersuite() != mls::CIPHERSUITE {
        return Err(invalid("the ciphersuite is not supported"));
    }
    let recorder = Recorder::listening();
    let (group, info) = PublicGroup::from_external(&RustCrypto::default(), &recorder, tree, info, ProposalStore::new())
        .map_err(|_| invalid("the group is not valid (RFC 9420 section 12.4.3.1)"))?;
    if *group.group_id() != mls::group_id(&request.ticket.group) || group.group_context().epoch().as_u64() != 0 {
        return Err(invalid("the group has another id than its ticket, or is not new"));
    }
    if group.members().count() != 1 {
        return Err(invalid("a new group has one member"));
    }
    let leaf = group.leaf(LeafNodeIndex::new(0)).ok_or_else(|| invalid("the only member must be at leaf 0"))?;
    let credential = mls::leaf_credential(leaf)
        .map_err(|_| invalid("the leaf's credential is not a leaf credential for its key"))?;
    if !credential.validity.covers(context.now.day()) {
        return Err(invalid("the leaf credential is not valid today"));
    }
    let roles = check_extensions(service, group.group_context())?;
    if roles.admins.iter().any(|identity| *identity != credential.identity) {
        return Err(invalid("the roles list somebody who is not there"));
    }
    mls::check_group_info_extensions(info.extensions()).map_err(|_| invalid(GROUP_INFO_EXTENSIONS))?;
    let extensions = info.extensions().tls_serialize_detached().map_err(damaged)?;
    // OpenMLS gives a signature's bytes as `opaque signature<V>` only.
    let signature = info.signature().tls_serialize_detached().map_err(damaged)?;
    let signature = Signature(Opaque::from_slice(&signature).map_err(damaged)?);
    let group_info = GroupInfoUpdate { extensions: extensions.into(), signature };
    let context_hash = mls::context_hash(group.group_context()).map_err(damaged)?;
    Ok(Validated { recorder, credential, roles, context_hash, group_info, request })
}

/// The group context has what every group must have.
///
/// # Errors
/// `invalid_mls_message` for what is missing, or is not as it must be.
pub(super) fn check_extensions(service: &Delivery, group: &GroupContext) -> Result<Roles, Refusal> {
    let extensions = || group.extensions().iter();
    if !group.extensions().required_capabilities().is_some_and(mls::requires_what_it_must) {
        return Err(Refusal::invalid_mls("the required capabilities are not those of this protocol"));
    }
    let expected = mls::external_sender(&service.verifying_key);
    let lists_us = extensions().any(|extension| match extension {
        Extension::ExternalSenders(senders) => senders.as_slice() == [expected.clone()],
        _ => false,
    });
    if !lists_us {
        return Err(Refusal::invalid_mls("the external senders must be this DS alone"));
    }
    if mls::group_data(extensions()).is_none() {
        return Err(Refusal::invalid_mls("the group data extension is missing"));
    }
    mls::roles(extensions()).map_err(|_| Refusal::invalid_mls("the roles extension is missing or does not decode"))
}

/// Stores the group. A repeat by the same leaf changes nothing and succeeds.
///
/// # Errors
/// `already_exists` if the id is, or lately was, in use.
pub async fn handle(
    context: &mut Context<'_>,
    _sender: Verified<Leaf>,
    group: Validated,
) -> Result<Outcome<Done>, Refusal> {
    let Validated { request, recorder, credential, roles, context_hash, group_info } = group;
    let id = request.ticket.group;
    let taken = || Refusal::already_exists("the group id is in use, or was until lately");
    if context.get(Table::DsHeads, &head_key(&id)).await?.is_some() {
        let access = GroupAccess { group: id, ear_key: request.ear_key };
        let existing = Group::open(context, &access).await.map_err(|_| taken())?;
        let same = existing.leaf_key(0).is_some_and(|key| key == credential.verifying_key);
        return if same { Ok(Outcome::unchanged(Done {})) } else { Err(taken()) };
    }
    if context.get(Table::DsTombstones, &head_key(&id)).await?.is_some() {
        return Err(taken());
    }
    admit(context, &request.queue_config).await?;
    let mut batch = Batch::new();
    batch.require_absent(Table::DsHeads, head_key(&id));
    let connection = if request.connection { Connection::Open } else { Connection::No };
    let creator = Member::new(0, &credential, &request.queue_config, context.now.day());
    // Creating the group is its first commit.
    let creator = Member { active_epoch: Some(0), ..creator };
    let mut group = Group::new(id, request.ear_key, connection, roles.admins, creator, context_hash, context);
    Tree::create(&mut group, &recorder, request.member, group_info, context, &mut batch)?;
    group.save(context, &mut batch)?;
    Ok(Outcome::write(batch, Done {}))
}
