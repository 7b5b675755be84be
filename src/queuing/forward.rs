//! Messages for queues at other homeservers: sealed to the QS there, to wait in the outbox of that homeserver
//! (`wire-spec/federation.md`, "Forwarding").

use super::Queuing;
use crate::{
    base::{Domain, Refusal, Status},
    crypto::{hpke, signature::verify},
    service::{Class, Context, Forwarded, damaged},
    wire::{
        Encode,
        credential::HpkeCiphertext,
        federation::{Forward, ForwardAad, QueueGone, QueueGoneTbs, SealedForward},
        label::{HpkeLabel, SignatureLabel},
        padding::{MESSAGE_FLOOR, pad_value, unpad_value},
        queuing::{ClientQueueConfig, QueuingHpkeKey, QueuingKeys},
    },
};

/// Checks that what goes to a config can be delivered: its QS is this one, or one whose keys are known.
///
/// # Errors
/// `federation_denied` for a homeserver that this one does not deal with; `remote_unreachable`, with the domain as its
/// detail, if its keys have to be learnt first.
pub async fn admit(context: &Context<'_>, config: &ClientQueueConfig) -> Result<(), Refusal> {
    let domain = &config.domain;
    if domain == context.domain {
        return Ok(());
    }
    context.others.check(domain)?;
    match context.others.keys(domain).await? {
        Some(_) => Ok(()),
        None => {
            let message = "the homeserver of a member is not known here yet";
            Err(Refusal::new(Status::RemoteUnreachable, message).with_detail(domain.to_vec()))
        }
    }
}

/// Messages that are sealed where the request is handled; more than these have a thread of their own.
const FEW: usize = 4;

/// Seals messages for other homeservers, in their order; none in place of one where nothing can be sent.
///
/// # Errors
/// `internal` if the store fails; `overloaded` if too much is being computed.
pub async fn seal_all(
    context: &mut Context<'_>,
    forwards: Vec<(Domain, Forward)>,
    class: Class,
) -> Result<Vec<Option<Forwarded>>, Refusal> {
    let mut sealings = Vec::with_capacity(forwards.len());
    for (domain, forward) in forwards {
        sealings.push(Sealing::of(context, domain, forward, class).await?);
    }
    let are_few = sealings.len() <= FEW;
    let seal = move || sealings.into_iter().map(|sealing| sealing?.run()).collect();
    if are_few { Ok(seal()) } else { context.workers.run(seal).await }
}

/// Seals one message.
///
/// # Errors
/// As [`seal_all`].
pub async fn seal(
    context: &mut Context<'_>,
    domain: &Domain,
    forward: Forward,
    class: Class,
) -> Result<Option<Forwarded>, Refusal> {
    Ok(Sealing::of(context, domain.clone(), forward, class).await?.and_then(Sealing::run))
}

/// All that it takes to seal a message.
struct Sealing {
    domain: Domain,
    forward: Forward,
    class: Class,
    key: QueuingHpkeKey,
    aad: Vec<u8>,
    ephemeral: hpke::Ephemeral,
}

impl Sealing {
    /// None if nothing can be sent there.
    async fn of(
        context: &mut Context<'_>,
        domain: Domain,
        forward: Forward,
        class: Class,
    ) -> Result<Option<Self>, Refusal> {
        if context.others.check(&domain).is_err() {
            return Ok(None);
        }
        let Some(key) = context.others.keys(&domain).await?.and_then(|keys| keys.hpke_keys.first().cloned()) else {
            return Ok(None);
        };
        let aad = ForwardAad { source: context.domain.clone(), destination: domain.clone() }.to_vec();
        let ephemeral = hpke::Ephemeral::draw(context.rng).map_err(damaged)?;
        Ok(Some(Self { domain, forward, class, key, aad, ephemeral }))
    }

    /// A homeserver whose key nothing can be sealed to is one that nothing can be sent to.
    fn run(self) -> Option<Forwarded> {
        let Self { domain, forward, class, key, aad, ephemeral } = self;
        let padded = pad_value(&forward, MESSAGE_FLOOR);
        let sealed = ephemeral.seal(&key.public_key, HpkeLabel::Forward, &[], &aad, &padded).ok()?;
        let HpkeCiphertext { kem_output, ciphertext } = sealed;
        let payload = SealedForward { key_id: key.key_id, kem_output, ciphertext };
        let recipients = match &forward {
            Forward::FanOut(fan_out) => u32::try_from(fan_out.recipients.len()).ok()?,
            Forward::QueueGone(_) => 0,
        };
        Some(Forwarded { domain, payload, class, recipients })
    }
}

impl Queuing {
    /// What another homeserver has sealed for this QS; none if it does not open here.
    pub fn open_forward(&self, context: &Context<'_>, source: &Domain, sealed: SealedForward) -> Option<Forward> {
        let of = self.config_keys.find(&sealed.key_id, context.now.day())?;
        let SealedForward { kem_output, ciphertext, .. } = sealed;
        let aad = ForwardAad { source: source.clone(), destination: context.domain.clone() }.to_vec();
        let padded = of.key.open(HpkeLabel::Forward, &[], &aad, &HpkeCiphertext { kem_output, ciphertext }).ok()?;
        unpad_value(padded, MESSAGE_FLOOR).ok()
    }

    /// States that the queue behind a config is gone.
    pub fn state_gone(&self, statement: QueueGoneTbs) -> QueueGone {
        let signature = self.signing_key.get().sign(SignatureLabel::QueueGone, &statement);
        QueueGone { statement, signature }
    }
}

/// Whether a statement is by the QS with these keys, which is that of the config's domain.
pub fn is_stated_by(keys: &QueuingKeys, gone: &QueueGone) -> bool {
    verify(&keys.verifying_key, SignatureLabel::QueueGone, &gone.statement, &gone.signature).is_ok()
}
