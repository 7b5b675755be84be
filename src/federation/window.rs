//! What is under way to another homeserver: bounded, and acknowledged in order.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{outbox::Head, peers::Trouble};
use crate::{
    store::Limit,
    wire::{
        federation::{MAX_FRAME_MESSAGES, QsToQsMessage},
        queue::Incarnation,
    },
};

/// Messages and bytes under way to one homeserver.
const WINDOW: usize = 1_024;
const WINDOW_BYTES: usize = 8 << 20;

/// Bytes of one frame, unless one message alone has more.
pub const FRAME_BYTES: usize = 1 << 20;

/// One life of the store, whose messages go out under its incarnation.
#[derive(Clone, Copy)]
pub struct Life {
    /// Which.
    pub incarnation: Incarnation,
    /// The number after its last message; the greatest number of the life that goes on.
    pub end: u64,
}

impl Life {
    /// The life of the oldest message that waits, in a store of this incarnation.
    pub fn of(head: &Head, current: Incarnation) -> Self {
        let (incarnation, end) = head.earliest().unwrap_or((current, u64::MAX));
        Self { incarnation, end }
    }

    /// Whether it is the one that goes on.
    pub const fn is_current(self) -> bool {
        self.end == u64::MAX
    }
}

/// What is under way to a homeserver.
pub struct Window {
    /// The life of the store that the messages are of.
    pub life: Life,
    /// Number of the next message to send.
    pub next: u64,
    /// Everything before it is acknowledged.
    acknowledged: u64,
    /// Number and size of each message that is not.
    pub under_way: VecDeque<(u64, usize)>,
    bytes: usize,
    /// When it was last acknowledged that something has arrived, or something was sent after there was nothing under way.
    pub moved: Instant,
}

impl Window {
    /// Nothing is under way; the next message is this one.
    pub fn new(life: Life, next: u64) -> Self {
        Self { life, next, acknowledged: next, under_way: VecDeque::new(), bytes: 0, moved: Instant::now() }
    }

    /// Whether everything of an earlier life has arrived.
    pub const fn is_over(&self) -> bool {
        self.acknowledged >= self.life.end
    }

    /// How much may be sent now; none if nothing may.
    pub fn room(&self) -> Option<Limit> {
        let messages = WINDOW.saturating_sub(self.under_way.len()).min(MAX_FRAME_MESSAGES);
        let bytes = WINDOW_BYTES.saturating_sub(self.bytes).min(FRAME_BYTES);
        (messages > 0 && bytes > 0 && self.next < self.life.end).then(|| Limit::rows(messages).bytes(bytes))
    }

    pub fn add(&mut self, message: &QsToQsMessage) {
        let size = message.payload.ciphertext.as_slice().len();
        if self.under_way.is_empty() {
            self.moved = Instant::now();
        }
        self.under_way.push_back((message.sequence, size));
        self.bytes += size;
        self.next = message.sequence + 1;
    }

    /// Everything before `next` has arrived; whether that is something new.
    pub fn acknowledge(&mut self, next: u64) -> Result<bool, Trouble> {
        if next > self.next || next < self.acknowledged {
            return Err(Trouble::failed("it acknowledges what was not sent, or takes an acknowledgement back"));
        }
        let before = self.acknowledged;
        while let Some((sequence, size)) = self.under_way.front().copied().filter(|(sequence, _)| *sequence < next) {
            self.under_way.pop_front();
            self.bytes -= size;
            (self.acknowledged, self.moved) = (sequence + 1, Instant::now());
        }
        Ok(self.acknowledged > before)
    }
}
