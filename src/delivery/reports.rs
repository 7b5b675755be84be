//! Reports by other homeservers that a member's queue is gone. Whoever brings one does not have the group's EAR key: it is
//! sealed to the group's report key, and read with the next commit (`wire-spec/federation.md`, "Queues that are gone").

use super::group::{Group, META_VERSION, Meta, head_key};
use crate::{
    base::{GroupId, Refusal},
    crypto::{
        hpke::{self, HpkePrivateKey},
        sha256,
    },
    service::{Context, damaged, store_failure},
    store::{Batch, Key, Limit, Table},
    wire::{
        Decode, Encode,
        credential::HpkeCiphertext,
        label::HpkeLabel,
        padding::{MESSAGE_FLOOR, pad_value, unpad_value},
        queuing::ClientQueueConfig,
    },
};

/// Most reports about one group that wait for its next commit.
const MAX_REPORTS: usize = 256;

/// Keeps a report that the queue behind a config is gone, unless there is no such group, or too many about it.
///
/// # Errors
/// `internal` if the store fails.
pub async fn keep(
    context: &mut Context<'_>,
    group: &GroupId,
    config: &ClientQueueConfig,
    batch: &mut Batch,
) -> Result<(), Refusal> {
    let Some(meta) = context.record::<Meta>(Table::DsMeta, &head_key(group), META_VERSION).await? else {
        return Ok(());
    };
    let range = head_key(group).prefix();
    let waiting = context.view.scan(Table::DsReports, range, Limit::rows(MAX_REPORTS)).await.map_err(store_failure)?;
    if waiting.len() >= MAX_REPORTS {
        return Ok(());
    }
    let (key, aad) = (meta.report_key[..].into(), group.uuid);
    let padded = pad_value(config, MESSAGE_FLOOR);
    let sealed = hpke::seal(&key, HpkeLabel::GroupReport, &[], &aad, &padded, context.rng).map_err(damaged)?;
    batch.put(Table::DsReports, report_key(group, &meta, config), sealed.to_vec());
    Ok(())
}

/// A report has one place, however often it comes. Who has only the disk has no config to compare it with.
fn report_key(group: &GroupId, meta: &Meta, config: &ClientQueueConfig) -> Key {
    let mut name = meta.report_key.clone();
    config.encode(&mut name);
    head_key(group).bytes(&sha256(&name)[..16])
}

/// Takes in what was reported about a group since its last commit.
///
/// # Errors
/// `internal` if the store fails.
pub async fn take(group: &mut Group, context: &Context<'_>, batch: &mut Batch) -> Result<(), Refusal> {
    let range = head_key(&group.id).prefix();
    let rows = context.view.scan(Table::DsReports, range, Limit::rows(MAX_REPORTS)).await.map_err(store_failure)?;
    if rows.is_empty() {
        return Ok(());
    }
    let key = HpkePrivateKey::from_secret(group.head.report_key.into()).map_err(damaged)?;
    for row in rows {
        let sealed = HpkeCiphertext::from_bytes(row.value).map_err(damaged)?;
        let padded = key.open(HpkeLabel::GroupReport, &[], &group.id.uuid, &sealed).map_err(damaged)?;
        let config: ClientQueueConfig = unpad_value(padded, MESSAGE_FLOOR).map_err(damaged)?;
        group.mark_gone(&config.to_vec().into());
        batch.delete(Table::DsReports, row.key);
    }
    Ok(())
}
