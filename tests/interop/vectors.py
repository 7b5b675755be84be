"""Holds presentation.py and crypto.py against wire-spec/vectors/."""

import json
from pathlib import Path

import accounts
import crypto
import opaque
import voprf
from presentation import Grammar, Malformed
from ristretto255 import GENERATOR

SPECIFICATION = Path(__file__).resolve().parents[2] / "wire-spec"


def plain(value):
    """A value as messages.json has it."""
    match value:
        case bytes():
            return value.hex()
        case list():
            return [plain(one) for one in value]
        case dict():
            return {name: plain(one) for name, one in value.items()}
    return value


def messages(grammar):
    """Every vector decodes to its value and encodes to its octets; cut off or made longer, none decodes."""
    vectors = json.loads((SPECIFICATION / "vectors/messages.json").read_text())
    for vector in vectors:
        name, octets = vector["type"], bytes.fromhex(vector["octets"])
        value = grammar.decode(name, octets)
        assert plain(value) == vector["value"], f"{name}: another value"
        assert grammar.encode(name, value) == octets, f"{name}: other octets"
        for wrong in [octets[:-1], octets + b"\0"] if octets else [b"\0"]:
            try:
                grammar.decode(name, wrong)
            except Malformed:
                continue
            raise AssertionError(f"{name}: {wrong.hex()} is no encoding")
    return len(vectors)


def cryptography(grammar):
    """Every construction comes out as it should."""
    vectors = json.loads((SPECIFICATION / "vectors/cryptography.json").read_text())
    queue = None
    for vector in vectors:
        of = Fields(vector)
        match vector["construction"]:
            case "queue entry":
                queue = queue or crypto.Ratchet(grammar, crypto.HpkeKey(of.queue_private_key))
                entry_of_a_queue(grammar, queue, of, vector)
            case name:
                check = CHECKS.get(name)
                assert check, f"nothing checks `{name}`"
                check(grammar, of, vector)
    return len(vectors)


class Fields:
    """The fields of a vector, octets as octets."""

    def __init__(self, vector):
        for name, value in vector.items():
            if isinstance(value, str) and name not in ("construction", "about", "label", "kind"):
                value = bytes.fromhex(value)
            setattr(self, name, value)


def same(found, expected):
    assert found == expected, f"{found!r} in place of {expected!r}"


def signature(of, seed, name, content, signed):
    key = crypto.SigningKey(seed)
    same(crypto.sign_content(name, content), of.sign_content)
    same(key.sign(name, content), signed)
    crypto.verify(key.public, name, content, signed)


def bind(grammar, of, _):
    tbs = grammar.encode("BindTbs", {"channel_binding": of.channel_binding, "key": of.public_key})
    same(tbs, of.bind_tbs)
    signature(of, of.seed, "Bind", tbs, of.signature)


def signed_request(grammar, of, _):
    request = grammar.decode("Request", of.request)
    tbs = {
        "version": request["version"],
        "method": request["method"],
        "sender": request["auth"][0]["sender"],
        "token": None,
        "body_hash": crypto.sha256(of.body),
        "channel_binding": of.channel_binding,
        "stream": of.stream,
    }
    same(grammar.encode("RequestTbs", tbs), of.request_tbs)
    signature(of, of.seed, "Request", of.request_tbs, of.signature)


def derive(_, of, vector):
    name = vector["label"].removeprefix(crypto.PREFIX)
    same(crypto.derive(of.key, of.salt, name, 32), of.derived)


def sealed(_, of, vector):
    name = vector["label"].removeprefix(crypto.PREFIX)
    same(crypto.pad(of.value), of.plaintext)
    same(crypto.seal(of.key, name, of.associated_data, of.plaintext, of.salt), of.sealed)
    same(crypto.unpad(crypto.unseal(of.key, name, of.associated_data, of.sealed)), of.value)


def hpke(_, of, vector):
    name = vector["label"].removeprefix(crypto.PREFIX)
    same(crypto.hpke_info(name, of.context), of.info)
    found = crypto.hpke_seal(
        of.recipient_public_key, name, of.context, of.associated_data, of.plaintext, of.ephemeral_private_key
    )
    same(found, {"kem_output": of.kem_output, "ciphertext": of.ciphertext})
    key = crypto.HpkeKey(of.recipient_private_key)
    same(key.open(name, of.context, of.associated_data, found), of.plaintext)


def padding(_, of, vector):
    same(crypto.pad(of.content, vector["floor"]), of.padded)
    same(crypto.unpad(of.padded, vector["floor"]), of.content)


def queue_config(grammar, of, vector):
    config = grammar.decode("QueueConfig", of.queue_config)
    content = grammar.encode("QueueConfigContent", config["content"])
    signature(of, of.record_seed, "QueueConfig", content, config["signature"])
    same(crypto.pad(of.queue_config), of.plaintext)
    same(crypto.sha256(of.recipient_public_key)[:8], of.key_id)
    hpke(grammar, of, vector)


def connection_offer(grammar, of, vector):
    offer = grammar.decode("ConnectionOffer", of.connection_offer)
    content = grammar.encode("ConnectionOfferTbs", offer["content"])
    crypto.verify(crypto.SigningKey(of.sender_seed).public, "ConnectionOffer", content, offer["signature"])
    same(offer["content"]["package_hash"], crypto.sha256(of.connection_package))
    same(grammar.encode("Recipient", offer["content"]["recipient"]), of.context)
    same(crypto.pad(of.connection_offer, 4096), of.plaintext)
    direct_message(grammar, of, vector)


def connection_decline(grammar, of, vector):
    same(crypto.pad(of.connection_decline, 4096), of.plaintext)
    direct_message(grammar, of, vector)


def direct_message(grammar, of, vector):
    hpke(grammar, of, vector)
    message = {
        "key_hash": crypto.sha256(of.recipient_public_key),
        "sealed": {"kem_output": of.kem_output, "ciphertext": of.ciphertext},
    }
    same(grammar.encode("DirectMessage", message), of.direct_message)


def credential_chain(grammar, of, _):
    credentials = {
        "roots": [grammar.decode("AsCredential", of.as_credential)],
        "intermediates": [grammar.decode("AsIntermediateCredential", of.as_intermediate_credential)],
        "revoked": [],
    }
    authority = crypto.verify_authority(grammar, "example.org", credentials, of.now)
    credential = grammar.decode("ClientCredential", of.client_credential)
    client = crypto.verify_client(grammar, "example.org", authority, credential, of.now)
    leaf = grammar.decode("LeafCredential", of.leaf_credential)
    fingerprint = crypto.sha256(of.client_credential)
    same(fingerprint, of.client_credential_fingerprint)
    crypto.verify_leaf(grammar, client, fingerprint, leaf, of.signature_encryption_key, of.now // 86_400)


def welcome_attribution(grammar, of, vector):
    attribution = grammar.decode("WelcomeAttribution", of.value)
    content = grammar.encode("WelcomeAttributionTbs", attribution["content"])
    crypto.verify(crypto.SigningKey(of.sender_seed).public, "WelcomeAttribution", content, attribution["signature"])
    same(attribution["content"]["group_info_hash"], crypto.sha256(of.encrypted_group_info))
    sealed(grammar, of, vector)


def root_succession(grammar, of, _):
    same(grammar.decode("RootSuccession", of.root_succession)["successor"], crypto.sha256(of.successor))


def renewal(grammar, of, _):
    request = grammar.decode("ClientRequest", of.client_request)
    content = grammar.encode("ClientPayload", request["payload"])
    crypto.verify(crypto.SigningKey(of.new_seed).public, "ClientRequest", content, request["self_signature"])


def token(grammar, of, _):
    """What can be said without the VOPRF."""
    found = grammar.decode("Token", of.token)
    same(crypto.sha256(of.issuer_public_key), found["token_key_id"])
    same(crypto.sha256(of.token_challenge), found["challenge_digest"])
    same(of.token_input + of.authenticator, of.token)


def blocked_group(_, of, __):
    same(crypto.derive(of.blocklist_key, of.group, "blocklist", 32), of.blocked_group)


def alias_id(_, of, __):
    if of.text == of.canonical == b"under_score":
        same(crypto.alias_id("example.org", "under_score"), of.alias_id)


def password(_, of, __):
    from argon2.low_level import Type, hash_secret_raw

    same(hash_secret_raw(of.input, bytes(16), 3, 64 << 10, 4, 64, Type.ID, 0x13), of.output)


def entry_of_a_queue(grammar, queue, of, vector):
    aad = grammar.decode("EntryAad", of.entry_aad)
    entry = {"sequence": vector["sequence"], "kind": vector["kind"], "ciphertext": of.ciphertext}
    content = queue.take(aad["incarnation"], entry)
    same(content, getattr(of, "content", None))
    same(queue.secret, of.secret_after)


def shared_body(grammar, of, vector):
    sealed(grammar, of, vector)
    entry = {"id": of.associated_data, "key": of.key, "hash": crypto.sha256(of.sealed)}
    same(grammar.encode("SharedBody", entry), of.shared_body)


def push_token(grammar, of, vector):
    name = vector["label"].removeprefix(crypto.PREFIX)
    same(crypto.pad(of.value, 1024), of.plaintext)
    same(crypto.seal(of.key, name, of.associated_data, of.plaintext, of.salt), of.sealed)
    same(len(of.sealed), 1056)


def queue_gone(grammar, of, _):
    found = grammar.decode("QueueGone", of.queue_gone)
    same(grammar.encode("QueueGoneTbs", found["statement"]), of.statement)
    signature(of, of.queuing_seed, "QueueGone", of.statement, found["signature"])


def forward(grammar, of, vector):
    same(crypto.pad(of.value), of.plaintext)
    hpke(grammar, of, vector)
    frame = grammar.decode("QsToQsFrame", of.frame)
    (message,) = frame["messages"]
    payload = {"key_id": crypto.sha256(of.recipient_public_key)[:8], "kem_output": of.kem_output}
    same(message["payload"], payload | {"ciphertext": of.ciphertext})
    aad = {"source": message["source"], "destination": message["destination"]}
    same(grammar.encode("ForwardAad", aad), of.associated_data)
    tbs = grammar.encode("QsToQsTbs", {"messages": frame["messages"]})
    signature(of, of.queuing_seed, "QsToQs", tbs, frame["signature"])


def login(_, of, vector):
    password = opaque.Client(of.password, of.client_identity, of.server_identity, of.context)
    registration = password.register(voprf.decode_scalar(of.registration_blind))
    same(registration.request, of.registration_request)
    same(registration.finish(of.registration_response, of.envelope_nonce)[0], of.registration_record)
    begun = password.login(voprf.decode_scalar(of.login_blind), of.client_nonce)
    begun.private_keyshare = voprf.decode_scalar(of.client_private_keyshare)
    begun.public_keyshare = begun.private_keyshare * GENERATOR
    same(begun.ke1, of.ke1)
    same(begun.finish(of.ke2)[0], of.ke3)


def issuance(grammar, of, vector):
    parts = lambda octets: [octets[at : at + 32] for at in range(0, len(octets), 32)]
    name = voprf.prefixed(grammar.decode("Domain", of.domain).encode())
    challenge = b"\0\5" + name + b"\0" + name
    tail = crypto.sha256(challenge) + crypto.sha256(of.issuer_public_key)
    inputs = [b"\0\5" + nonce + tail for nonce in parts(of.nonces)]
    blinds = [voprf.decode_scalar(blind) for blind in parts(of.blinds)]
    blinded = [accounts.SUITE.blind(*each)[1] for each in zip(inputs, blinds, strict=True)]
    same(accounts.token_request(of.issuer_public_key, blinded), of.token_request)
    outputs = accounts.finish(of.issuer_public_key, blinded, inputs, blinds, of.token_response)
    same(b"".join(each + output for each, output in zip(inputs, outputs, strict=True)), of.tokens)


CHECKS = {
    "bind": bind,
    "signed request": signed_request,
    "derive": derive,
    "sealed user profile": sealed,
    "blocked group": blocked_group,
    "padding": padding,
    "EAR key to a joiner": hpke,
    "credential chain": credential_chain,
    "root succession": root_succession,
    "renewal": renewal,
    "sealed chain": sealed,
    "sealed queue config": queue_config,
    "connection offer": connection_offer,
    "connection decline": connection_decline,
    "friendship package of a joiner": sealed,
    "welcome attribution": welcome_attribution,
    "token": token,
    "alias id": alias_id,
    "password stretching": password,
    "registration and login": login,
    "token issuance": issuance,
    "shared body": shared_body,
    "push token": push_token,
    "queue gone": queue_gone,
    "forward": forward,
}


if __name__ == "__main__":
    specified = Grammar(SPECIFICATION)
    print(f"{messages(specified)} messages, {cryptography(specified)} constructions: ok")
