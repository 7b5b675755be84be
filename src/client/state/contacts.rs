//! Offers made, offers received, contacts, and what people are called.

use rusqlite::Connection;

use super::{all, array, decoded, execute, first};
use crate::{
    base::{GroupId, Secret, UserId, limits::MAX_RENEWED_CREDENTIALS},
    client::error::ClientError,
    crypto::credential::{fingerprint, is_renewal_of},
    wire::{
        Encode,
        connection::{ConnectionOfferTbs, FriendshipPackage, Recipient},
        credential::{ClientCredential, Fingerprint},
    },
};

/// An offer that this client made.
pub struct Offer {
    /// Names it in a decline.
    pub offer_id: [u8; 16],
    /// To whom.
    pub recipient: Recipient,
    /// The connection group.
    pub chat: GroupId,
    /// Opens a decline.
    pub reply_secret: Secret,
}

/// Remembers an offer under the hash of its reply key.
pub fn insert_offer(connection: &Connection, reply_hash: &[u8; 32], offer: &Offer) -> Result<(), ClientError> {
    let sql = "INSERT INTO offers (offer_id, recipient, chat, reply_hash, reply_secret) VALUES (?, ?, ?, ?, ?)";
    let row = (offer.offer_id, offer.recipient.to_vec(), offer.chat.to_vec(), reply_hash, offer.reply_secret.expose());
    execute(connection, sql, row).map(drop)
}

/// The offer with this reply key.
pub fn offer_by_reply(connection: &Connection, reply_hash: &[u8; 32]) -> Result<Option<Offer>, ClientError> {
    let sql = "SELECT offer_id, recipient, chat, reply_secret FROM offers WHERE reply_hash = ?";
    first(connection, sql, [reply_hash], |row| {
        Ok(Offer {
            offer_id: array(&row.get::<_, Vec<u8>>(0)?)?,
            recipient: decoded(&row.get::<_, Vec<u8>>(1)?)?,
            chat: decoded(&row.get::<_, Vec<u8>>(2)?)?,
            reply_secret: Secret::new(array(&row.get::<_, Vec<u8>>(3)?)?),
        })
    })
}

/// Chats made for offers before `time`, in milliseconds, that nobody has answered.
pub fn unanswered_offers(connection: &Connection, time: u64) -> Result<Vec<GroupId>, ClientError> {
    let sql = "SELECT offers.chat FROM offers JOIN chats ON chats.chat = offers.chat WHERE chats.created < ?";
    all(connection, sql, [time.cast_signed()], |row| decoded(&row.get::<_, Vec<u8>>(0)?))
}

/// Forgets what is in offers that were not answered in time; only their ids are kept, so that a repeat is noticed.
pub fn expire_requests(connection: &Connection, now: u64) -> Result<(), ClientError> {
    execute(connection, "UPDATE requests SET offer = NULL WHERE expires < ?", [now.cast_signed()]).map(drop)
}

/// Forgets the offer that a chat was made for.
pub fn remove_offer(connection: &Connection, chat: &GroupId) -> Result<(), ClientError> {
    execute(connection, "DELETE FROM offers WHERE chat = ?", [chat.to_vec()]).map(drop)
}

/// Remembers an offer received; `false` if it was received before.
pub fn insert_request(
    connection: &Connection,
    id: &str,
    offer: &ConnectionOfferTbs,
    now: u64,
    expires: u64,
) -> Result<bool, ClientError> {
    let sql = "INSERT OR IGNORE INTO requests (id, offer_id, offer, received, expires) VALUES (?, ?, ?, ?, ?)";
    let row = (id, offer.offer_id, offer.to_vec(), now.cast_signed(), expires.cast_signed());
    Ok(execute(connection, sql, row)? > 0)
}

/// How many offers wait for an answer.
pub fn count_requests(connection: &Connection) -> Result<u32, ClientError> {
    let count = first(connection, "SELECT COUNT(*) FROM requests WHERE offer IS NOT NULL", [], |row| Ok(row.get(0)?))?;
    Ok(count.unwrap_or_default())
}

/// Whether an offer was received before, answered or not.
pub fn knows_request(connection: &Connection, offer_id: &[u8; 16]) -> Result<bool, ClientError> {
    Ok(first(connection, "SELECT 1 FROM requests WHERE offer_id = ?", [offer_id], |_| Ok(()))?.is_some())
}

/// Offers that wait for an answer and can still be accepted.
pub fn requests(connection: &Connection, now: u64) -> Result<Vec<(String, ConnectionOfferTbs)>, ClientError> {
    let sql = "SELECT id, offer FROM requests WHERE offer IS NOT NULL AND expires >= ? ORDER BY received, id";
    all(connection, sql, [now.cast_signed()], |row| Ok((row.get(0)?, decoded(&row.get::<_, Vec<u8>>(1)?)?)))
}

/// An offer that waits for an answer.
pub fn request(connection: &Connection, id: &str) -> Result<Option<ConnectionOfferTbs>, ClientError> {
    let sql = "SELECT offer FROM requests WHERE id = ? AND offer IS NOT NULL";
    first(connection, sql, [id], |row| decoded(&row.get::<_, Vec<u8>>(0)?))
}

/// An offer that can still be accepted.
pub fn open_request(connection: &Connection, id: &str, now: u64) -> Result<ConnectionOfferTbs, ClientError> {
    let offer = request(connection, id)?.ok_or_else(|| ClientError::not_found(format!("there is no request {id}")))?;
    let sql = "SELECT 1 FROM requests WHERE id = ? AND expires >= ?";
    match first(connection, sql, (id, now.cast_signed()), |_| Ok(()))? {
        Some(()) => Ok(offer),
        None => Err(ClientError::invalid(format!("the request {id} has expired; ask for another one"))),
    }
}

/// Forgets what is in the offers of a user; only their ids are kept, so that a repeat is noticed.
pub fn forget_requests_of(connection: &Connection, user: &UserId) -> Result<(), ClientError> {
    let open: Vec<([u8; 16], ConnectionOfferTbs)> =
        all(connection, "SELECT offer_id, offer FROM requests WHERE offer IS NOT NULL", [], |row| {
            Ok((array(&row.get::<_, Vec<u8>>(0)?)?, decoded(&row.get::<_, Vec<u8>>(1)?)?))
        })?;
    for (id, _) in open.iter().filter(|(_, offer)| offer.credential.request.payload.client.user == *user) {
        answer_request(connection, id)?;
    }
    Ok(())
}

/// An offer was answered: only its id is kept, so that a repeat is noticed.
pub fn answer_request(connection: &Connection, offer_id: &[u8; 16]) -> Result<(), ClientError> {
    execute(connection, "UPDATE requests SET offer = NULL WHERE offer_id = ?", [offer_id]).map(drop)
}

/// A connected user.
pub struct Contact {
    /// Who, as the AS certified it.
    pub credential: ClientCredential,
    /// The credentials that this one has taken the place of, one after the other, oldest first, as far as they were seen: at
    /// most [`MAX_RENEWED_CREDENTIALS`].
    pub earlier: Vec<Fingerprint>,
    /// What it gave us.
    pub friendship: FriendshipPackage,
    /// The connection group.
    pub chat: GroupId,
}

impl Contact {
    /// One that was not known before.
    pub const fn new(credential: ClientCredential, friendship: FriendshipPackage, chat: GroupId) -> Self {
        Self { credential, earlier: Vec::new(), friendship, chat }
    }

    /// Whether a credential is one that the known one has taken the place of.
    pub fn had(&self, credential: &ClientCredential) -> bool {
        is_renewal_of(&self.credential.request, credential) || self.earlier.contains(&fingerprint(credential))
    }

    /// It was seen with another credential; whether the key of the one before has signed for it.
    pub fn take(&mut self, credential: ClientCredential) -> bool {
        let is_same = is_renewal_of(&credential.request, &self.credential);
        let before = std::mem::replace(&mut self.credential, credential);
        if !is_same {
            self.earlier.clear();
            return false;
        }
        if self.earlier.len() >= MAX_RENEWED_CREDENTIALS {
            self.earlier.remove(0);
        }
        self.earlier.push(fingerprint(&before));
        true
    }
}

/// Adds or renews a contact.
pub fn insert_contact(connection: &Connection, contact: &Contact) -> Result<(), ClientError> {
    let sql = "INSERT OR REPLACE INTO contacts (user, credential, friendship, chat, earlier) VALUES (?, ?, ?, ?, ?)";
    let Contact { credential, earlier, friendship, chat } = contact;
    let user = credential.request.payload.client.user.to_vec();
    let row = (user, credential.to_vec(), friendship.to_vec(), chat.to_vec(), earlier.to_vec());
    execute(connection, sql, row).map(drop)
}

/// A contact.
pub fn contact(connection: &Connection, user: &UserId) -> Result<Option<Contact>, ClientError> {
    first(
        connection,
        "SELECT credential, friendship, chat, earlier FROM contacts WHERE user = ?",
        [user.to_vec()],
        contact_of,
    )
}

/// All contacts.
pub fn contacts(connection: &Connection) -> Result<Vec<Contact>, ClientError> {
    all(connection, "SELECT credential, friendship, chat, earlier FROM contacts ORDER BY user", [], contact_of)
}

fn contact_of(row: &rusqlite::Row<'_>) -> Result<Contact, ClientError> {
    Ok(Contact {
        credential: decoded(&row.get::<_, Vec<u8>>(0)?)?,
        friendship: decoded(&row.get::<_, Vec<u8>>(1)?)?,
        chat: decoded(&row.get::<_, Vec<u8>>(2)?)?,
        earlier: decoded(&row.get::<_, Vec<u8>>(3)?)?,
    })
}

/// What a user is called, as far as is known.
pub fn name(connection: &Connection, user: &UserId) -> Result<Option<String>, ClientError> {
    first(connection, "SELECT name FROM profiles WHERE user = ?", [user.to_vec()], |row| Ok(row.get(0)?))
}

/// Forgets what a user is called: it is asked for again.
pub fn forget_name(connection: &Connection, user: &UserId) -> Result<(), ClientError> {
    execute(connection, "DELETE FROM profiles WHERE user = ?", [user.to_vec()]).map(drop)
}

/// Remembers what a user is called.
pub fn put_name(connection: &Connection, user: &UserId, name: &str, now: u64) -> Result<(), ClientError> {
    let sql = "INSERT OR REPLACE INTO profiles (user, name, fetched) VALUES (?, ?, ?)";
    execute(connection, sql, (user.to_vec(), name, now.cast_signed())).map(drop)
}
