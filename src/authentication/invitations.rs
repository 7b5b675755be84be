//! Invitation codes: who may register where the policy asks for one. Only a name made from a code is stored, counted and
//! with its expiry; which user came by which code is not.

use serde::{Deserialize, Serialize};

use crate::{
    base::{Refusal, Timestamp},
    crypto::{Rng, mac, random},
    service::{Context, damaged, store_failure},
    store::{Batch, Key, KeyRange, Limit, Table, record},
    wire::{Opaque, label::KeyLabel, server::RegistrationPolicy},
};

const VERSION: u8 = 1;

/// Most invitation codes at a time.
const MAX_INVITATIONS: usize = 10_000;

/// Longest code that is looked at, in bytes.
const MAX_CODE: usize = 128;

/// Letters of a code: those of base 32 that people do not mistake for each other (Crockford).
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

#[derive(Serialize, Deserialize)]
struct Stored {
    uses: u32,
    expires: u64,
    note: String,
}

/// An invitation code as the operator sees it: the code itself is known only when it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// Names it.
    pub id: String,
    /// How many may still register with it.
    pub uses: u32,
    /// Last second in which they may.
    pub expires: u64,
    /// What the operator has written to it.
    pub note: String,
}

/// A code to be used up by a registration.
pub struct Admission(Option<(Key, Stored)>);

impl Admission {
    /// Counts the use.
    ///
    /// # Errors
    /// `internal` if the row cannot be encoded.
    pub fn use_up(self, batch: &mut Batch) -> Result<(), Refusal> {
        let Some((key, mut stored)) = self.0 else { return Ok(()) };
        stored.uses = stored.uses.saturating_sub(1);
        if stored.uses == 0 {
            batch.delete(Table::AsInvitations, key);
        } else {
            batch.put(Table::AsInvitations, key, record::encode(VERSION, &stored).map_err(damaged)?);
        }
        Ok(())
    }
}

/// Whether a registration with this code, or with none, is admitted now.
///
/// # Errors
/// `forbidden` if registration is closed, or the code is missing, unknown, used up or expired: nobody learns which.
pub async fn admit(context: &Context<'_>, code: Option<&Opaque>) -> Result<Admission, Refusal> {
    match context.policy.registration {
        RegistrationPolicy::Open => Ok(Admission(None)),
        RegistrationPolicy::Closed => Err(Refusal::forbidden("this homeserver takes no new users")),
        RegistrationPolicy::Invitation => {
            let invalid = || Refusal::forbidden("registration needs a valid invitation code");
            let code = code.filter(|code| code.as_slice().len() <= MAX_CODE).ok_or_else(invalid)?;
            let text = std::str::from_utf8(code.as_slice()).map_err(|_| invalid())?;
            let key = key_of(context, text);
            let stored: Stored = context.record(Table::AsInvitations, &key, VERSION).await?.ok_or_else(invalid)?;
            if stored.uses == 0 || stored.expires < context.now.seconds() {
                return Err(invalid());
            }
            Ok(Admission(Some((key, stored))))
        }
    }
}

/// Makes a code for so many registrations; the code, and how it is listed.
///
/// # Errors
/// `quota_exceeded` if there are too many.
pub async fn create(
    context: &mut Context<'_>,
    batch: &mut Batch,
    uses: u32,
    expires: Timestamp,
    note: String,
) -> Result<(String, Invitation), Refusal> {
    if list(context).await?.len() >= MAX_INVITATIONS {
        return Err(Refusal::quota_exceeded("there are too many invitation codes: revoke some first"));
    }
    let code = new_code(context.rng);
    let key = key_of(context, &code);
    let stored = Stored { uses, expires: expires.seconds(), note };
    let listed = listed(&key, &stored);
    batch.put(Table::AsInvitations, key, record::encode(VERSION, &stored).map_err(damaged)?);
    Ok((code, listed))
}

/// All codes, those that have expired included until they are swept away.
///
/// # Errors
/// `internal` if they cannot be read.
pub async fn list(context: &Context<'_>) -> Result<Vec<Invitation>, Refusal> {
    let all = KeyRange::from(Key::new()..);
    let rows = context.view.scan(Table::AsInvitations, all, Limit::rows(MAX_INVITATIONS)).await;
    let invitation = |row: crate::store::Row| {
        let stored: Stored = record::decode(VERSION, &row.value).map_err(damaged)?;
        Ok(listed(&row.key, &stored))
    };
    rows.map_err(store_failure)?.into_iter().map(invitation).collect()
}

/// Adds the end of a code to the batch.
///
/// # Errors
/// `not_found` if there is none of this name.
pub async fn revoke(context: &Context<'_>, batch: &mut Batch, id: &str) -> Result<(), Refusal> {
    let all = KeyRange::from(Key::new()..);
    let rows = context.view.scan(Table::AsInvitations, all, Limit::rows(MAX_INVITATIONS)).await;
    let found = rows.map_err(store_failure)?.into_iter().find(|row| name(&row.key) == id);
    let found = found.ok_or_else(|| Refusal::not_found("there is no such invitation code"))?;
    batch.delete(Table::AsInvitations, found.key);
    Ok(())
}

/// Adds the end of codes that have expired to the batch.
///
/// # Errors
/// `internal` if they cannot be read.
pub async fn expire(context: &Context<'_>, batch: &mut Batch) -> Result<(), Refusal> {
    let all = KeyRange::from(Key::new()..);
    let rows = context.view.scan(Table::AsInvitations, all, Limit::rows(MAX_INVITATIONS)).await;
    for row in rows.map_err(store_failure)? {
        let stored: Stored = record::decode(VERSION, &row.value).map_err(damaged)?;
        if stored.expires < context.now.seconds() {
            batch.delete(Table::AsInvitations, row.key);
        }
    }
    Ok(())
}

/// Where a code is, however it was typed: hyphens and case mean nothing.
fn key_of(context: &Context<'_>, code: &str) -> Key {
    let code: String = code.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect();
    let key = context.storage_key.derive(KeyLabel::InvitationName);
    Key::new().bytes(mac(&key, KeyLabel::InvitationName, code.as_bytes()))
}

fn listed(key: &Key, stored: &Stored) -> Invitation {
    Invitation { id: name(key), uses: stored.uses, expires: stored.expires, note: stored.note.clone() }
}

fn name(key: &Key) -> String {
    key.as_bytes().iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}

/// Twenty letters, 100 bits, in groups of five.
fn new_code(rng: &mut dyn Rng) -> String {
    let letters = random::<20>(rng).map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
    let groups: Vec<String> = letters.chunks(5).map(|group| group.iter().collect()).collect();
    groups.join("-")
}
