//! PublishKeyPackages: replaces the KeyPackages by which a client can be added to groups.

use super::records;
use crate::{
    base::{
        QsClientId, Refusal,
        limits::{MAX_KEY_PACKAGE_DAYS, MAX_KEY_PACKAGES, MAX_SEALED_CHAIN},
    },
    crypto::mls::validate_key_package,
    service::{Context, Outcome, Verified},
    store::{Batch, Table},
    wire::{Encode, queuing::PublishKeyPackages, server::Done},
};

/// Validates the packages (RFC 9420 section 10.1) and stores them in place of all earlier ones.
///
/// # Errors
/// `malformed` for too many or without a last-resort package, `invalid_mls_message` for one that is not valid.
pub async fn handle(
    context: &mut Context<'_>,
    sender: Verified<QsClientId>,
    request: PublishKeyPackages,
) -> Result<Outcome<Done>, Refusal> {
    let client = *sender.get();
    if request.packages.len() > MAX_KEY_PACKAGES {
        return Err(Refusal::malformed("at most 200 KeyPackages can be waiting"));
    }
    let mut record = records::proven_client(context, client).await?;
    let (mut batch, today) = (Batch::new(), context.now.day());
    records::remove_packages(&mut batch, client);
    let mut last_resort_given = false;
    for package in request.packages {
        if package.sealed_chain.as_slice().len() > MAX_SEALED_CHAIN {
            return Err(Refusal::malformed("this is too long for a sealed chain"));
        }
        let valid = validate_key_package(package.key_package.as_slice())
            .map_err(|_| Refusal::invalid_mls("a KeyPackage is not valid (RFC 9420 section 10.1, wire-spec/mls.md)"))?;
        if valid.queue_config.domain != *context.domain {
            return Err(Refusal::invalid_mls("a KeyPackage has a queue config of another domain"));
        }
        last_resort_given |= valid.last_resort;
        if valid.lifetime_end() > today.plus(MAX_KEY_PACKAGE_DAYS + 1) {
            return Err(Refusal::invalid_mls("a KeyPackage is valid for more than 180 days"));
        }
        if !valid.credential.validity.covers(today) {
            return Err(Refusal::invalid_mls("a KeyPackage has a leaf credential that is not valid today"));
        }
        let key = records::package_prefix(client, valid.last_resort).u64(record.next_package);
        record.next_package += 1;
        // The last day comes first, so that it is known without decoding.
        let last_day = valid.last_day();
        let mut row = last_day.0.to_vec();
        package.encode(&mut row);
        batch.put(Table::QsKeyPackages, key, row);
    }
    if !last_resort_given {
        return Err(Refusal::malformed("a last-resort KeyPackage is needed"));
    }
    record.touch(today);
    records::put_client(&mut batch, client, &record)?;
    Ok(Outcome::write(batch, Done {}))
}
