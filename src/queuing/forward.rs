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
        queuing::{ClientQueueConfig, QueuingKeys},
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

/// Seals a message for another homeserver; none if nothing can be sent there.
///
/// # Errors
/// `internal` if the store fails.
pub async fn seal(
    context: &mut Context<'_>,
    domain: &Domain,
    forward: &Forward,
    class: Class,
) -> Result<Option<Forwarded>, Refusal> {
    if context.others.check(domain).is_err() {
        return Ok(None);
    }
    let Some(key) = context.others.keys(domain).await?.and_then(|keys| keys.hpke_keys.first().cloned()) else {
        return Ok(None);
    };
    let aad = ForwardAad { source: context.domain.clone(), destination: domain.clone() }.to_vec();
    let padded = pad_value(forward, MESSAGE_FLOOR);
    // A homeserver whose key nothing can be sealed to is one that nothing can be sent to.
    let sealed = hpke::seal(&key.public_key, HpkeLabel::Forward, &[], &aad, &padded, context.rng);
    let Ok(HpkeCiphertext { kem_output, ciphertext }) = sealed else { return Ok(None) };
    let payload = SealedForward { key_id: key.key_id, kem_output, ciphertext };
    let recipients = match forward {
        Forward::FanOut(fan_out) => u32::try_from(fan_out.recipients.len()).map_err(damaged)?,
        Forward::QueueGone(_) => 0,
    };
    Ok(Some(Forwarded { domain: domain.clone(), payload, class, recipients }))
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
