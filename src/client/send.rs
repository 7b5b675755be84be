//! Application messages: encrypted, padded, and stored with the state that they leave before they are sent.

use std::sync::Arc;

use rusqlite::Connection;

use super::{
    commit::{Intent, Materials},
    core::{ATTEMPTS, Core},
    error::ClientError,
    mls::{self, Provider},
    outgoing::lane_of,
    resync::Reason,
    state::{
        chats,
        outbox::{self, Chore, Kind, New},
        queues::Queue,
    },
};
use crate::{
    base::GroupId,
    crypto::{mls as protocol, random, system_rng},
    wire::{
        Decode, Encode, Method,
        content::{ApplicationMessage, Content},
        delivery::{GroupAccess, MessageSent, SendMessage},
        padding::{MESSAGE_FLOOR, pad_value},
    },
};

/// Largest content of a message: what its request has room for.
pub const MAX_CONTENT: usize = 900 << 10;

/// A message is in the queues of its recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendReceipt {
    /// How many recipients could not be reached.
    pub unreached: u32,
}

/// Whether a message could be prepared.
enum Readiness {
    Ready,
    /// A commit of this client is under way.
    CommitUnderWay,
    /// Another epoch must begin first: proposals are stored, or keys of this one may have been used before.
    EpochOver,
    /// There is no state to encrypt with.
    StateLost,
}

impl Core {
    /// Sends a message to a chat.
    pub async fn send(self: &Arc<Self>, group: &GroupId, content: Content) -> Result<SendReceipt, ClientError> {
        if content.encoded_len() > MAX_CONTENT {
            return Err(ClientError::invalid(format!("a message may have at most {MAX_CONTENT} bytes")));
        }
        let message = ApplicationMessage { id: random(&mut system_rng()), sent: self.trust.now().0, content };
        let (lane, mine) = (lane_of(group), message.to_vec());
        let _turn = self.lane(&lane).await;
        self.prepare_message(group, message, None).await?;
        let answer = self.send_lane(&lane, Some(&mine)).await?;
        let unreached = answer.map(MessageSent::from_bytes).transpose()?.map_or(0, |sent| sent.unreached);
        Ok(SendReceipt { unreached })
    }

    /// Puts a message into the outbox, encrypted for the current epoch, in place of the request `replaced`. The caller
    /// holds the lane.
    pub async fn prepare_message(
        self: &Arc<Self>,
        group: &GroupId,
        message: ApplicationMessage,
        replaced: Option<i64>,
    ) -> Result<(), ClientError> {
        for _ in 0..ATTEMPTS {
            let (of, content) = (group.clone(), message.clone());
            match self.database.run(move |connection| prepare(connection, &of, &content, replaced)).await? {
                Readiness::Ready => return Ok(()),
                Readiness::CommitUnderWay => {
                    // While a request is being replaced, the lane is being sent.
                    if replaced.is_none() {
                        Box::pin(self.send_lane(&lane_of(group), None)).await?;
                    }
                    self.check_echo(group).await?;
                    self.drain(Queue::Client).await?;
                }
                Readiness::StateLost => Box::pin(self.come_back(group, Reason::Lost)).await?,
                Readiness::EpochOver => {
                    let (extra, mut materials) = (Intent::Update.with_nonce(), Materials::default());
                    let prepared = self.prepare_commit(group, &Intent::Update, extra, &mut materials, None);
                    if let Some(commit) = Box::pin(prepared).await? {
                        // Should it lose, somebody else has begun an epoch.
                        Box::pin(self.deliver(&commit)).await?;
                        self.drain(Queue::Client).await?;
                    }
                }
            }
        }
        Err(ClientError::invalid("the group changes too fast; try again"))
    }
}

fn prepare(
    connection: &Connection,
    group: &GroupId,
    message: &ApplicationMessage,
    replaced: Option<i64>,
) -> Result<Readiness, ClientError> {
    let chat = chats::require_active(connection, group)?;
    if chats::members(connection, group)?.iter().any(|member| member.quarantined) {
        let why =
            "a member of this chat cannot be verified now: nothing is sent until it is removed, or verifies again";
        return Err(ClientError::Local(super::error::Local::Untrusted, why.into()));
    }
    let provider = Provider::new(connection);
    let Some(mut state) = mls::find(&provider, group)? else { return Ok(Readiness::StateLost) };
    if state.pending_commit().is_some() {
        return Ok(Readiness::CommitUnderWay);
    }
    if state.has_pending_proposals() || outbox::has_chore(connection, &Chore::Refresh(group.clone()))? {
        return Ok(Readiness::EpochOver);
    }
    let padded = pad_value(message, MESSAGE_FLOOR);
    let encrypted = state.create_message(&provider, &mls::signer(&chat)?, &padded).map_err(mls::failed)?;
    let context_hash = protocol::context_hash(state.public_group().group_context())?;
    let request = SendMessage {
        access: GroupAccess { group: group.clone(), ear_key: chat.ear_key },
        idempotency_key: random(&mut system_rng()),
        message: encrypted.to_bytes().map_err(mls::failed)?.into(),
        context_hash,
        no_push: false,
    };
    let new = New {
        group: Some(group.clone()),
        kind: Kind::Message,
        method: Method::DsSendMessage,
        domain: group.domain.clone(),
        body: request.to_vec(),
        extra: message.to_vec(),
    };
    if outbox::replace(connection, replaced)? {
        outbox::insert_at(connection, replaced, new)?;
    }
    Ok(Readiness::Ready)
}
