"""The constructions of wire-spec/cryptography.md, queues.md and credentials.md."""

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from presentation import Malformed, Reader, vector

PREFIX = "Bennu 1.0 "


class Refused(Exception):
    """Something does not verify or open."""


def sha256(octets):
    return hashlib.sha256(octets).digest()


def label(name):
    return (PREFIX + name).encode()


# Signatures.


class SigningKey:
    """An Ed25519 key."""

    def __init__(self, seed=None):
        self.seed = os.urandom(32) if seed is None else seed
        self._key = Ed25519PrivateKey.from_private_bytes(self.seed)
        self.public = self._key.public_key().public_bytes_raw()

    def sign(self, name, content):
        return self._key.sign(sign_content(name, content))


def sign_content(name, content):
    return vector(label(name)) + vector(content)


def verify(public, name, content, signature):
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, sign_content(name, content))
    except (InvalidSignature, ValueError) as error:
        raise Refused(f"a signature {name} does not verify") from error


# Derivation and sealing.


def derive(key, salt, name, size):
    return HKDF(SHA256(), size, salt or bytes(32), label(name)).derive(key)


def seal(key, name, aad, plaintext, salt=None):
    salt = os.urandom(16) if salt is None else salt
    material = derive(key, salt, name, 44)
    return salt + AESGCM(material[:32]).encrypt(material[32:], plaintext, aad)


def unseal(key, name, aad, sealed):
    material = derive(key, sealed[:16], name, 44)
    return decrypt(material[:32], material[32:], sealed[16:], aad)


def decrypt(key, nonce, ciphertext, aad):
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, aad)
    except (InvalidTag, ValueError) as error:
        raise Refused("a ciphertext does not open") from error


# Padding (encoding.md).


def size_class(size, floor):
    if size <= floor:
        return floor
    exponent = size.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return size + mask & ~mask


def pad(content, floor=256):
    content = vector(content)
    return content + bytes(size_class(len(content), floor) - len(content))


def unpad(padded, floor=256):
    reader = Reader(padded)
    content = reader.vector()
    if reader.rest.strip(b"\0") or len(padded) != size_class(len(padded) - len(reader.rest), floor):
        raise Malformed("padded otherwise")
    return content


# HPKE (RFC 9180), base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM.

KEM_SUITE = b"KEM\x00\x20"
HPKE_SUITE = b"HPKE\x00\x20\x00\x01\x00\x01"


def _extract(suite, salt, name, material):
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + name + material, "sha256")


def _expand(suite, secret, name, info, size):
    labelled = size.to_bytes(2, "big") + b"HPKE-v1" + suite + name + info
    return HKDFExpand(SHA256(), size, labelled).derive(secret)


def _agree(private, public):
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise Refused("a key that gives the all-zero secret") from error


def _context(secret, kem_output, recipient, info):
    shared = _expand(
        KEM_SUITE, _extract(KEM_SUITE, b"", b"eae_prk", secret), b"shared_secret", kem_output + recipient, 32
    )
    context = b"\0" + _extract(HPKE_SUITE, b"", b"psk_id_hash", b"") + _extract(HPKE_SUITE, b"", b"info_hash", info)
    secret = _extract(HPKE_SUITE, shared, b"secret", b"")
    return _expand(HPKE_SUITE, secret, b"key", context, 16), _expand(HPKE_SUITE, secret, b"base_nonce", context, 12)


def hpke_info(name, context):
    return vector(label(name)) + vector(context)


class HpkeKey:
    """An X25519 key that others encrypt to."""

    def __init__(self, secret=None):
        self.secret = os.urandom(32) if secret is None else secret
        self._key = X25519PrivateKey.from_private_bytes(self.secret)
        self.public = self._key.public_key().public_bytes_raw()

    def open(self, name, context, aad, sealed):
        secret = _agree(self._key, sealed["kem_output"])
        key, nonce = _context(secret, sealed["kem_output"], self.public, hpke_info(name, context))
        return decrypt(key, nonce, sealed["ciphertext"], aad)


def hpke_seal(recipient, name, context, aad, plaintext, ephemeral=None):
    ephemeral = HpkeKey(ephemeral)
    secret = _agree(ephemeral._key, recipient)
    key, nonce = _context(secret, ephemeral.public, recipient, hpke_info(name, context))
    return {"kem_output": ephemeral.public, "ciphertext": AESGCM(key).encrypt(nonce, plaintext, aad)}


# Queues (queues.md).


class Ratchet:
    """What a client keeps of a queue: the secret, and the number of the next entry."""

    def __init__(self, grammar, queue_key):
        self.grammar, self.queue_key, self.secret, self.next = grammar, queue_key, None, 0

    def take(self, incarnation, entry):
        """Takes the next entry in; the content of a message, else none."""
        if entry["sequence"] != self.next:
            raise Refused(f"entry {entry['sequence']} comes in place of {self.next}")
        aad = {"incarnation": incarnation, "sequence": entry["sequence"], "kind": entry["kind"]}
        aad = self.grammar.encode("EntryAad", aad)
        content = None
        match entry["kind"]:
            case "secret":
                self.secret = self._open("queue secret", aad, entry)
            case "key_update":
                fresh = self._open("queue key update", aad, entry)
                rotation = derive(self.secret, b"", "ratchet update", 32)
                self.secret = derive(rotation, fresh, "ratchet secret", 32)
            case _:
                key, nonce = derive(self.secret, b"", "ratchet key", 32), derive(self.secret, b"", "ratchet nonce", 12)
                content = unpad(decrypt(key, nonce, entry["ciphertext"], aad))
                self.secret = derive(self.secret, b"", "ratchet secret", 32)
        self.next += 1
        return content

    def _open(self, name, aad, entry):
        return self.queue_key.open(name, b"", aad, self.grammar.decode("HpkeCiphertext", entry["ciphertext"]))


# Aliases (authentication.md).


def alias_id(domain, alias):
    """Of an alias that is its own skeleton: lower-case ASCII letters that look like nothing else. Others need the tables of
    UTS 39, which the standard library does not have."""
    assert set(alias) <= set("abcdefghjknopqrstuvxyz-_."), "needs a skeleton"
    return sha256(vector(b"Bennu 1.0 Alias") + vector(domain.encode()) + vector(alias.encode()))


# Credentials (credentials.md).


def verify_authority(grammar, domain, credentials, now):
    """The intermediates of a domain that can be believed, by fingerprint."""
    revoked = {of["credential"] for of in credentials["revoked"]}
    roots, believed = {}, {}
    for root in credentials["roots"]:
        payload = root["payload"]
        check_subject(payload, domain)
        encoded = grammar.encode("AsCredentialPayload", payload)
        verify(payload["verifying_key"], "AsCredential", encoded, root["signature"])
        name = sha256(grammar.encode("AsCredential", root))
        if covers(payload["validity"], now) and name not in revoked:
            roots[name] = payload
    for credential in credentials["intermediates"]:
        request = credential["request"]
        payload = request["payload"]
        check_subject(payload, domain)
        encoded = grammar.encode("AsIntermediatePayload", payload)
        verify(payload["verifying_key"], "AsIntermediateRequest", encoded, request["self_signature"])
        root = roots.get(payload["signer"])
        if root is None:
            continue
        encoded = grammar.encode("AsIntermediateRequest", request)
        verify(root["verifying_key"], "AsIntermediateCredential", encoded, credential["signature"])
        name = sha256(grammar.encode("AsIntermediateCredential", credential))
        if contains(root["validity"], payload["validity"]) and covers(payload["validity"], now) and name not in revoked:
            believed[name] = payload
    if not believed:
        raise Refused("no intermediate can be believed")
    return believed


def verify_client(grammar, domain, authority, credential, now):
    """The payload of a client credential that can be believed."""
    request = credential["request"]
    payload = request["payload"]
    if payload["client"]["user"]["domain"] != domain or payload["ciphersuite"] != 1:
        raise Refused("of another domain or ciphersuite")
    signer = authority.get(payload["signer"])
    if signer is None:
        raise Refused("signed by nobody that is known")
    encoded = grammar.encode("ClientPayload", payload)
    verify(payload["verifying_key"], "ClientRequest", encoded, request["self_signature"])
    encoded = grammar.encode("ClientRequest", request)
    verify(signer["verifying_key"], "ClientCredential", encoded, credential["signature"])
    if not (contains(signer["validity"], payload["validity"]) and covers(payload["validity"], now)):
        raise Refused("not valid now")
    return payload


def verify_leaf(grammar, client, client_fingerprint, leaf, signature_encryption_key, today):
    """A leaf credential is by this client."""
    opened = unseal(signature_encryption_key, "leaf signature", leaf["verifying_key"], leaf["sealed_signature"])
    signed = grammar.decode("LeafSignature", opened)
    if signed["signer"] != client_fingerprint:
        raise Refused("signed by another client")
    fields = ("identity", "validity", "ciphersuite", "verifying_key")
    tbs = {name: leaf[name] for name in fields} | {"signer": signed["signer"]}
    verify(client["verifying_key"], "LeafCredential", grammar.encode("LeafTbs", tbs), signed["signature"])
    if not covers(leaf["validity"], today):
        raise Refused("not valid today")


def check_subject(payload, domain):
    if payload["domain"] != domain or payload["ciphersuite"] != 1:
        raise Refused("of another domain or ciphersuite")


def covers(validity, now):
    return validity["not_before"] <= now <= validity["not_after"]


def contains(outer, inner):
    return outer["not_before"] <= inner["not_before"] and inner["not_after"] <= outer["not_after"]
