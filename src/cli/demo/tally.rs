//! Counts: every message that was acknowledged must arrive once, and in the order of its sender, at everybody it was
//! for, and at nobody else.

use std::collections::HashMap;

use super::people::Person;
use crate::{
    base::{GroupId, UserId},
    cli::output::{Failure, printable},
    wire::{Text, content::Content},
};

/// Messages fetched at a time.
const PAGE: u32 = 200;

/// From whom to whom, in which chat.
type Way = (GroupId, UserId, UserId);

/// What was sent and what has arrived.
#[derive(Default)]
pub struct Tally {
    /// Messages acknowledged.
    pub sent: u64,
    /// Copies received.
    pub received: u64,
    /// Copies missing, once it is settled.
    pub lost: u64,
    /// Copies too many.
    pub duplicated: u64,
    /// Copies that came before their time, or to somebody they were not for.
    pub misplaced: u64,
    expected: HashMap<Way, Vec<String>>,
    arrived: HashMap<Way, usize>,
}

impl Tally {
    /// Sends a message, and expects it at `recipients` once it is acknowledged.
    pub async fn send(
        &mut self,
        from: &Person,
        chat: &GroupId,
        text: &str,
        recipients: &[&Person],
    ) -> Result<(), Failure> {
        let receipt = from.client()?.send(chat, Content::Text(Text(text.into()))).await?;
        if receipt.unreached > 0 {
            return Err(Failure::new("demo", format!("{} members could not be reached", receipt.unreached)));
        }
        self.sent += 1;
        for recipient in recipients {
            let way = (chat.clone(), from.id.clone(), recipient.id.clone());
            self.expected.entry(way).or_default().push(text.into());
        }
        Ok(())
    }

    /// Fetches and counts what has arrived for a person, until there is all that was sent to it; returns it for showing.
    pub async fn receive(&mut self, person: &Person) -> Result<Vec<String>, Failure> {
        person.client()?.sync().await?;
        let mut shown = self.read(person).await?;
        if self.has_all(person) {
            return Ok(shown);
        }
        // The rest is on its way between the homeservers.
        let mut events = person.client()?.events();
        while !self.has_all(person) {
            let over = || Failure::new("demo", format!("{} does not listen any more", person.name));
            events.next().await.ok_or_else(over)?;
            shown.extend(self.read(person).await?);
        }
        Ok(shown)
    }

    /// Whether all has arrived that was sent to a person.
    fn has_all(&self, person: &Person) -> bool {
        let mut ways = self.expected.iter().filter(|((.., to), _)| *to == person.id);
        ways.all(|(way, expected)| *self.arrived.get(way).unwrap_or(&0) >= expected.len())
    }

    async fn read(&mut self, person: &Person) -> Result<Vec<String>, Failure> {
        let mut shown = Vec::new();
        loop {
            let messages = person.client()?.unread(PAGE).await?;
            if messages.is_empty() {
                return Ok(shown);
            }
            for message in &messages {
                let Content::Text(Text(text)) = &message.content else { continue };
                shown.push(format!("{} reads from {}: {}", person.name, printable(&message.name), printable(text)));
                self.count((message.chat.clone(), message.from.clone(), person.id.clone()), text);
            }
            let read: Vec<_> = messages.iter().map(|message| message.id).collect();
            person.client()?.mark_read(&read).await?;
        }
    }

    fn count(&mut self, way: Way, text: &str) {
        self.received += 1;
        let expected = self.expected.entry(way.clone()).or_default();
        let arrived = self.arrived.entry(way).or_default();
        match expected.iter().position(|known| known == text) {
            Some(at) if at == *arrived => *arrived += 1,
            Some(at) if at < *arrived => self.duplicated += 1,
            _ => self.misplaced += 1,
        }
    }

    /// Nothing more will come: what has not arrived is lost.
    pub fn settle(&mut self) {
        let missing = |(way, expected): (&Way, &Vec<String>)| expected.len() - self.arrived.get(way).unwrap_or(&0);
        self.lost = self.expected.iter().map(missing).sum::<usize>() as u64;
    }

    /// Whether everything arrived once and in order.
    pub const fn is_perfect(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.misplaced == 0 && self.sent > 0
    }
}
