//! Requests made by hand: what a client's state holds, and requests with whatever proof a test wants to try.

use std::path::Path;

use bennu::{
    base::{ClientId, GroupId, QsClientId, Refusal, Secret, limits::MAX_RESPONSE},
    crypto::{
        hpke::HpkePrivateKey,
        proof::{self, RequestContext},
        signature::SigningKey,
    },
    transport::{Connection, Exchange, Frames},
    wire::{
        Authentication, Call, Decode, Encode, Method, Opaque, Proof, Request, Response, SenderId, VERSION,
        credential::HpkePublicKey, delivery::GroupAccess, envelope::LeafId, queue::Incarnation, server::Bind,
    },
};
use bytes::Bytes;

use super::within;

/// A client's state, read past the SDK.
pub struct State(rusqlite::Connection);

/// A chat in a client's state.
pub struct Chat {
    /// Opens it.
    pub access: GroupAccess,
    /// The client's leaf.
    pub leaf: u32,
    /// The leaf's key.
    pub key: SigningKey,
}

impl Chat {
    /// The client as a member.
    pub fn sender(&self) -> SenderId {
        SenderId::DsLeaf(LeafId { group: self.access.group.clone(), leaf: self.leaf })
    }
}

impl State {
    /// The state in a home, whether or not a client has it open.
    pub fn of(home: &Path) -> Self {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
        Self(rusqlite::Connection::open_with_flags(home.join("client.db"), flags).unwrap())
    }

    fn value<T: Decode>(&self, name: &str) -> T {
        let sql = "SELECT value FROM meta WHERE name = ?";
        let value: Vec<u8> = self.0.query_row(sql, [name], |row| row.get(0)).unwrap();
        T::from_slice(&value).unwrap()
    }

    /// A secret of the account.
    pub fn secret(&self, name: &str) -> Secret {
        self.value(name)
    }

    fn key(&self, name: &str) -> SigningKey {
        SigningKey::from_seed(self.secret(name)).unwrap()
    }

    /// Who the client is to the AS.
    pub fn client(&self) -> ClientId {
        self.value("client id")
    }

    /// The key that the AS certified.
    pub fn identity(&self) -> SigningKey {
        self.key("identity key")
    }

    /// Who the client is to the QS.
    pub fn pseudonym(&self) -> QsClientId {
        self.value("pseudonym")
    }

    /// The key that the QS knows.
    pub fn queuing_client(&self) -> SigningKey {
        self.key("queuing client key")
    }

    /// How far a queue (`direct` or `client`) was processed.
    pub fn cursor(&self, queue: &str) -> (Incarnation, u64) {
        let sql = "SELECT incarnation, next FROM queues WHERE name = ?";
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?));
        let (incarnation, next) = self.0.query_row(sql, [queue], row).unwrap();
        (incarnation.try_into().unwrap(), next.cast_unsigned())
    }

    /// The key that the secrets of a queue (`direct` or `client`) are sent to.
    pub fn queue_key(&self, queue: &str) -> HpkePublicKey {
        let sql = "SELECT secret FROM queue_keys WHERE queue = ? ORDER BY number DESC";
        let secret: Vec<u8> = self.0.query_row(sql, [queue], |row| row.get(0)).unwrap();
        HpkePrivateKey::from_secret(Secret::new(secret.try_into().unwrap())).unwrap().public_key()
    }

    /// A chat.
    pub fn chat(&self, group: &GroupId) -> Chat {
        let sql = "SELECT ear_key, leaf, leaf_seed FROM chats WHERE chat = ?";
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?, row.get::<_, Vec<u8>>(2)?));
        let (ear_key, leaf, seed) = self.0.query_row(sql, [group.to_vec()], row).unwrap();
        let secret = |bytes: Vec<u8>| Secret::new(bytes.try_into().unwrap());
        Chat {
            access: GroupAccess { group: group.clone(), ear_key: secret(ear_key) },
            leaf,
            key: SigningKey::from_seed(secret(seed)).unwrap(),
        }
    }

    /// The reference of the KeyPackage by which the client was added to a chat, in which it has not committed yet.
    pub fn joined_by(&self, chat: &Chat) -> Option<Vec<u8>> {
        let sql = "SELECT reference FROM key_packages WHERE leaf_seed = ?";
        self.0.query_row(sql, [&chat.key.seed().expose()[..]], |row| row.get(0)).ok()
    }

    /// Requests that wait to be sent: their methods and bodies.
    pub fn outbox(&self) -> Vec<(Method, Vec<u8>)> {
        let mut statement = self.0.prepare("SELECT method, body FROM outbox ORDER BY number").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).map(|(code, body)| (Method::from_code(code).unwrap(), body)).collect()
    }

    /// Has the client give its leaf in a group a fresh key with its next command, as if it had joined by a KeyPackage of
    /// last resort: a commit that any member may make.
    pub fn want_new_leaf(&self, group: &GroupId) {
        const RENEW_LEAF: i64 = 3;
        self.0.execute("UPDATE chats SET stale_leaf = 1 WHERE chat = ?", [group.to_vec()]).unwrap();
        let sql = "INSERT INTO chores (kind, argument) VALUES (?, ?)";
        self.0.execute(sql, (RENEW_LEAF, group.to_vec())).unwrap();
    }

    /// The epoch that a chat is in, as the client has it.
    pub fn epoch(&self, group: &GroupId) -> u64 {
        let mut statement = self.0.prepare("SELECT group_id, group_data FROM openmls_group_data").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?))).unwrap();
        let name = serde_json::to_vec(&bennu::crypto::mls::group_id(group)).unwrap();
        let epochs: Vec<_> = rows
            .map(Result::unwrap)
            .filter(|(of, _)| *of == name)
            .filter_map(|(_, data)| find_epoch(&serde_json::from_slice(&data).ok()?))
            .collect();
        *epochs.first().expect("the group context is stored")
    }
}

/// The epoch in a stored group context.
fn find_epoch(value: &serde_json::Value) -> Option<u64> {
    let object = value.as_object()?;
    match (object.get("epoch"), object.get("tree_hash")) {
        (Some(epoch), Some(_)) => epoch.as_u64(),
        _ => object.values().find_map(find_epoch),
    }
}

/// A complete request.
pub fn request(method: Method, auth: Vec<Authentication>, body: &[u8]) -> Bytes {
    let body = Opaque(Bytes::copy_from_slice(body));
    Request { version: VERSION, method: method as u16, auth, token: None, body }.to_vec().into()
}

/// A proof by signature for a request on a stream of a connection.
pub fn sign(
    connection: &Connection,
    stream: u64,
    method: Method,
    body: &[u8],
    sender: SenderId,
    key: &SigningKey,
) -> Authentication {
    let binding = connection.binding();
    RequestContext { method: method as u16, token: None, body, binding, stream }.sign(sender, key)
}

/// The proof that a key is bound to the connection.
pub fn bound(sender: SenderId) -> Authentication {
    Authentication { sender, proof: Proof::Bound }
}

/// Sends bytes as an exchange of a method and returns what was answered.
pub async fn exchange(exchange: Exchange, method: u16, bytes: Bytes) -> Result<Bytes, Refusal> {
    let response = if bennu::wire::method::is_streaming(method) {
        let (response, _frames) = within(method, exchange.streaming(bytes, MAX_RESPONSE)).await.unwrap();
        response
    } else {
        within(method, exchange.request(bytes, MAX_RESPONSE)).await.unwrap()
    };
    Response::from_bytes(response).expect("the answer is a response").into_result()
}

/// Opens a stream.
pub async fn open(connection: &Connection) -> Exchange {
    within("a stream", connection.open()).await.unwrap()
}

/// Makes a request, signed if there is a sender.
pub async fn ask(
    connection: &Connection,
    method: Method,
    sender: Option<(SenderId, &SigningKey)>,
    body: &[u8],
) -> Result<Bytes, Refusal> {
    let stream = open(connection).await;
    let auth = sender.map(|(sender, key)| sign(connection, stream.id(), method, body, sender, key));
    exchange(stream, method as u16, request(method, auth.into_iter().collect(), body)).await
}

/// Makes a request, and decodes its answer.
pub async fn call<C: Call>(
    connection: &Connection,
    sender: Option<(SenderId, &SigningKey)>,
    body: &C::Request,
) -> Result<C::Response, Refusal> {
    let answer = ask(connection, C::METHOD, sender, &body.to_vec()).await?;
    Ok(C::Response::from_bytes(answer).expect("the answer is of its method"))
}

/// Starts a streaming exchange, signed.
pub async fn stream(
    connection: &Connection,
    method: Method,
    sender: SenderId,
    key: &SigningKey,
    body: &[u8],
) -> (Bytes, Box<dyn Frames>) {
    let stream = open(connection).await;
    let auth = sign(connection, stream.id(), method, body, sender, key);
    let bytes = request(method, vec![auth], body);
    let (response, frames) = within(method, stream.streaming(bytes, MAX_RESPONSE)).await.unwrap();
    (Response::from_bytes(response).unwrap().into_result().unwrap(), frames)
}

/// Binds a key to a connection.
pub async fn bind(connection: &Connection, key: &SigningKey) {
    let body = Bind { keys: vec![proof::bind(key, connection.binding())] }.to_vec();
    ask(connection, Method::Bind, None, &body).await.unwrap();
}
