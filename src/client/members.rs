//! Who the members of a group are: after every change each new leaf is traced back to a user, and a leaf that cannot be
//! is put in quarantine: nothing from it is shown, and nothing is sent while it is there.

use openmls::prelude::{MlsGroup, StagedCommit};

use super::{
    queue::{Stop, Work},
    state::chats::{self, Chat, Member},
    trust::Doubt,
};
use crate::{
    crypto::mls,
    wire::delivery::{CommitAad, MemberInfo},
};

/// What is known of leaves, by their signature keys.
pub type Infos = Vec<(Vec<u8>, MemberInfo)>;

/// What a commit says of the leaves it adds or renews.
pub fn infos_of(staged: &StagedCommit, aad: &CommitAad) -> Infos {
    let added = staged.add_proposals().map(|add| {
        let leaf = add.add_proposal().key_package().leaf_node();
        leaf.signature_key().as_slice().to_vec()
    });
    let mut infos: Infos = added.zip(aad.added.iter().cloned()).collect();
    if let (Some(leaf), Some(own)) = (staged.update_path_leaf_node(), &aad.own) {
        infos.push((leaf.signature_key().as_slice().to_vec(), own.clone()));
    }
    infos
}

/// Brings the member table of a chat up to its MLS state.
pub fn refresh(work: &mut Work<'_>, chat: &Chat, group: &MlsGroup, infos: &Infos) -> Result<Vec<Member>, Stop> {
    let known = chats::members(work.connection, &chat.group)?;
    let own_leaf = group.own_leaf_index().u32();
    let mut members = Vec::new();
    for member in group.members() {
        let (leaf, key) = (member.index.u32(), member.signature_key);
        if let Some(same) = known.iter().find(|known| known.leaf == leaf && known.key.as_slice() == key) {
            members.push(same.clone());
            continue;
        }
        let mut fresh = Member { leaf, key: key.as_slice().into(), identity: [0; 32], user: None, profile_key: None };
        let credential = mls::leaf_credential_for(&member.credential, &key);
        if let Ok(credential) = credential {
            fresh.identity = credential.identity;
            let info = infos.iter().find(|(of, _)| *of == key).map(|(_, info)| info);
            let verified = match info {
                _ if leaf == own_leaf => None,
                Some(info) => match work.trust.member(&chat.credential_key, &credential, info) {
                    Ok(verified) => Some(verified),
                    Err(Doubt::Missing(domain)) if work.may_fetch(&domain) => {
                        return Err(Doubt::Missing(domain).into());
                    }
                    Err(_) => None,
                },
                None => None,
            };
            if let Some(verified) = verified {
                fresh.user = Some(verified.user().clone());
                fresh.profile_key = verified.profile_key;
            }
        }
        if leaf == own_leaf {
            fresh.user = Some(work.account.client.user.clone());
            fresh.profile_key = Some(work.account.keys.friendship.user_profile_key.clone());
        }
        if fresh.user.is_none() {
            work.problem(format!("leaf {leaf} of {} is of nobody known: quarantined", chat.group))?;
        }
        members.push(fresh);
    }
    chats::put_members(work.connection, &chat.group, &members)?;
    Ok(members)
}
