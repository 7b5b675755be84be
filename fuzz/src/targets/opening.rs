//! Queue entries as their owner opens them: what was sealed opens to what it was, in its place and once; anything else is
//! refused, and the next entry opens all the same.

use std::sync::LazyLock;

use bennu::{
    base::Secret,
    crypto::{
        hpke::HpkePrivateKey,
        ratchet::{Ratchet, entry_aad},
    },
    wire::{
        Opaque,
        padding::{MESSAGE_FLOOR, OFFER_FLOOR, pad, unpad},
        queue::{EntryAad, EntryKind, QueueEntry},
    },
};
use bytes::Bytes;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::input::Input;

/// Reason: any 32 octets make a key.
static KEY: LazyLock<HpkePrivateKey> =
    LazyLock::new(|| HpkePrivateKey::from_secret(Secret::new([9; 32])).expect("a key"));

const INCARNATION: [u8; 16] = [7; 16];

/// Octets as what is put into a queue, and as what becomes of it on its way.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    if input.below(8) == 0 {
        return padding(data);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let start = entry_aad(INCARNATION, 0, EntryKind::Secret);
    let (mut sealing, first) = Ratchet::start(&KEY.public_key(), &start, &mut rng).expect("a usable key");
    let accept = |aad: &EntryAad, ciphertext: &Opaque| Ratchet::accept(&KEY, aad, ciphertext).map(|next| (next, None));
    let (mut opening, _) = hold(&mut input, &start, &first, accept);
    for sequence in 1.. {
        if input.is_over() {
            return;
        }
        if input.below(3) == 0 {
            let aad = entry_aad(INCARNATION, sequence, EntryKind::KeyUpdate);
            let entry = sealing.update(&KEY.public_key(), &aad, &mut rng).expect("a usable key");
            let accept =
                |aad: &EntryAad, sealed: &Opaque| opening.accept_update(&KEY, aad, sealed).map(|next| (next, None));
            opening = hold(&mut input, &aad, &entry, accept).0;
        } else {
            let kind = if input.below(4) == 0 { EntryKind::Overflow } else { EntryKind::Message };
            let length = input.below(256) * (1 + input.below(4));
            let (content, aad) = (input.octets(length).to_vec(), entry_aad(INCARNATION, sequence, kind));
            let entry = sealing.seal(&aad, &content);
            let open = |aad: &EntryAad, sealed: &Opaque| opening.open(aad, sealed).map(|(next, got)| (next, Some(got)));
            let (next, opened) = hold(&mut input, &aad, &entry, open);
            assert_eq!(opened.as_deref(), Some(&content[..]));
            opening = next;
        }
        assert!(opening == sealing, "both ends are in step");
    }
}

type Opened = (Ratchet, Option<Bytes>);

/// What an entry opens to; before that, something else in its stead must not.
fn hold<E>(
    input: &mut Input<'_>,
    aad: &EntryAad,
    entry: &QueueEntry,
    open: impl Fn(&EntryAad, &Opaque) -> Result<Opened, E>,
) -> Opened {
    let (mut octets, mut place) = (entry.ciphertext.as_slice().to_vec(), aad.clone());
    match input.below(8) {
        0 => octets = input.octets(200).to_vec(),
        1 => octets.truncate(input.below(256)),
        2 => octets.push(input.octet()),
        3 => place.sequence = place.sequence.wrapping_add(1 + u64::from(input.octet())),
        4 => place.kind = if place.kind == EntryKind::Message { EntryKind::Overflow } else { EntryKind::Message },
        5 => place.incarnation[input.below(16)] ^= input.octet(),
        _ => {
            let at = (input.below(256) << 8 | input.below(256)) % octets.len();
            octets[at] ^= input.octet();
        }
    }
    let is_changed = octets != entry.ciphertext.as_slice() || place != *aad;
    let outcome = open(&place, &octets.into());
    assert!(outcome.is_err() || !is_changed, "opened in spite of a change");
    open(aad, &entry.ciphertext).ok().expect("what was sealed opens")
}

/// What holds the key seals any padding: taken is only what padding makes.
fn padding(data: &[u8]) {
    for floor in [MESSAGE_FLOOR, OFFER_FLOOR] {
        if let Ok(content) = unpad(Bytes::copy_from_slice(data), floor) {
            assert_eq!(pad(&content, floor), data);
        }
        assert_eq!(unpad(pad(data, floor).into(), floor).as_deref(), Ok(data));
    }
}

/// Decisions, and padded contents.
pub fn seeds() -> Vec<Vec<u8>> {
    let padded = (0..4).map(|length| pad(&vec![1; length * 90], MESSAGE_FLOOR));
    super::seeds::noise(24, 400).into_iter().chain(padded).collect()
}
