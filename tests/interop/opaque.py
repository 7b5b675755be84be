"""The client of OPAQUE-3DH (RFC 9807) with ristretto255, HKDF, HMAC and SHA-512."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha512

from argon2.low_level import Type as Argon2
from argon2.low_level import hash_secret_raw

import voprf
from ristretto255 import Element
from voprf import InvalidInput, Suite, decode_element, prefixed

SUITE = Suite(voprf.OPRF)
HASH, NONCE, KEY = 64, 32, 32
ENVELOPE = NONCE + HASH
RECORD = KEY + HASH + ENVELOPE
KE1, KE2, KE3 = KEY + NONCE + KEY, KEY + NONCE + KEY + ENVELOPE + NONCE + KEY + HASH, HASH


class WrongPassword(ValueError):
    """The envelope or the server's MAC does not verify: another password, or not the server of the registration."""


def mac(key: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA-512."""
    return hmac.digest(key, b"".join(parts), sha512)


def expand(key: bytes, info: bytes, length: int = HASH) -> bytes:
    """HKDF-Expand with SHA-512."""
    output = block = b""
    counter = 1
    while len(output) < length:
        block = mac(key, block, info, bytes([counter]))
        output, counter = output + block, counter + 1
    return output[:length]


def derive_secret(secret: bytes, label: bytes, transcript: bytes) -> bytes:
    """Derive-Secret (RFC 9807 section 6.4.2.1)."""
    label = b"OPAQUE-" + label
    info = HASH.to_bytes(2) + bytes([len(label)]) + label + bytes([len(transcript)]) + transcript
    return expand(secret, info)


def derive_dh_key_pair(seed: bytes) -> tuple[int, Element]:
    """DeriveDiffieHellmanKeyPair (section 2.1)."""
    return SUITE.derive_key_pair(seed, b"OPAQUE-DeriveDiffieHellmanKeyPair")


def xor(left: bytes, right: bytes) -> bytes:
    """Of equal lengths."""
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def argon2id(octets: bytes) -> bytes:
    """The key stretching of authentication.md, "Passwords"."""
    return hash_secret_raw(octets, bytes(16), 3, 65536, 4, len(octets), Argon2.ID, 0x13)


def preamble(
    context: bytes, client_identity: bytes, ke1: bytes, server_identity: bytes, ke2_without_mac: bytes
) -> bytes:
    """Preamble (section 6.4.2.1): the transcript of a login."""
    return b"OPAQUEv1-" + prefixed(context, client_identity) + ke1 + prefixed(server_identity) + ke2_without_mac


@dataclass
class SessionKeys:
    """What both ends derive of a login (section 6.4.2.2)."""

    server_mac: bytes
    client_mac: bytes
    session_key: bytes

    @classmethod
    def derive(cls, shared: list[Element], transcript: bytes) -> SessionKeys:
        """From the three Diffie-Hellman secrets, and the preamble."""
        secret = mac(b"", *(element.encode() for element in shared))
        hashed = sha512(transcript).digest()
        handshake = derive_secret(secret, b"HandshakeSecret", hashed)
        server_mac = mac(derive_secret(handshake, b"ServerMAC", b""), hashed)
        client_mac = mac(derive_secret(handshake, b"ClientMAC", b""), sha512(transcript + server_mac).digest())
        return cls(server_mac, client_mac, derive_secret(secret, b"SessionKey", hashed))


@dataclass
class EnvelopeKeys:
    """What a client derives of a password and an envelope's nonce (section 4.1.2)."""

    auth_key: bytes
    export_key: bytes
    private_key: int
    public_key: bytes

    @classmethod
    def derive(cls, randomized_password: bytes, nonce: bytes) -> EnvelopeKeys:
        """The same at registration and at login."""
        private_key, public_key = derive_dh_key_pair(expand(randomized_password, nonce + b"PrivateKey", KEY))
        return cls(
            expand(randomized_password, nonce + b"AuthKey"),
            expand(randomized_password, nonce + b"ExportKey"),
            private_key,
            public_key.encode(),
        )


@dataclass
class Client:
    """A password, and what it is bound to. Absent identities are the public keys."""

    password: bytes
    client_identity: bytes | None
    server_identity: bytes | None
    context: bytes
    stretch: Callable[[bytes], bytes] = argon2id

    def register(self, blind: int | None = None) -> Registration:
        """CreateRegistrationRequest."""
        return Registration(self, *SUITE.blind(self.password, blind))

    def login(self, blind: int | None = None, nonce: bytes | None = None, seed: bytes | None = None) -> Login:
        """GenerateKE1."""
        nonce, seed = nonce or secrets.token_bytes(NONCE), seed or secrets.token_bytes(KEY)
        return Login(self, *SUITE.blind(self.password, blind), nonce, *derive_dh_key_pair(seed))

    def randomized_password(self, blind: int, evaluated: bytes) -> bytes:
        """The password, hardened with the server's key and stretched (section 5.2.3)."""
        output = SUITE.finalize(self.password, blind, decode_element(evaluated))
        return mac(b"", output, self.stretch(output))

    def identities(self, client_public_key: bytes, server_public_key: bytes) -> tuple[bytes, bytes]:
        """Those of client and server."""
        return self.client_identity or client_public_key, self.server_identity or server_public_key

    def envelope_tag(self, keys: EnvelopeKeys, nonce: bytes, server_public_key: bytes) -> bytes:
        """The MAC over an envelope's nonce and CleartextCredentials (section 4)."""
        client_identity, server_identity = self.identities(keys.public_key, server_public_key)
        return mac(keys.auth_key, nonce, server_public_key, prefixed(server_identity, client_identity))


@dataclass
class Registration:
    """A registration that waits for its response."""

    client: Client
    blind: int
    blinded: Element

    @property
    def request(self) -> bytes:
        """RegistrationRequest."""
        return self.blinded.encode()

    def finish(self, response: bytes, nonce: bytes | None = None) -> tuple[bytes, bytes]:
        """FinalizeRegistrationRequest: the RegistrationRecord and the export key."""
        if len(response) != 2 * KEY:
            raise InvalidInput("a RegistrationResponse of another length")
        evaluated, server_public_key = response[:KEY], response[KEY:]
        decode_element(server_public_key)
        nonce = nonce or secrets.token_bytes(NONCE)
        randomized_password = self.client.randomized_password(self.blind, evaluated)
        keys = EnvelopeKeys.derive(randomized_password, nonce)
        masking_key = expand(randomized_password, b"MaskingKey")
        record = keys.public_key + masking_key + nonce + self.client.envelope_tag(keys, nonce, server_public_key)
        return record, keys.export_key


@dataclass
class Login:
    """A login that waits for KE2."""

    client: Client
    blind: int
    blinded: Element
    nonce: bytes
    private_keyshare: int
    public_keyshare: Element

    @property
    def ke1(self) -> bytes:
        """CredentialRequest and AuthRequest."""
        return self.blinded.encode() + self.nonce + self.public_keyshare.encode()

    def finish(self, ke2: bytes) -> tuple[bytes, bytes, bytes]:
        """GenerateKE3: KE3, the session key and the export key."""
        if len(ke2) != KE2:
            raise InvalidInput("a KE2 of another length")
        credential_response, auth_response = ke2[: KE2 - NONCE - KEY - HASH], ke2[KE2 - NONCE - KEY - HASH :]
        evaluated, masking_nonce, masked = (
            credential_response[:KEY],
            credential_response[KEY : KEY + NONCE],
            credential_response[KEY + NONCE :],
        )
        server_keyshare, server_mac = auth_response[NONCE : NONCE + KEY], auth_response[NONCE + KEY :]
        randomized_password = self.client.randomized_password(self.blind, evaluated)
        pad = expand(
            expand(randomized_password, b"MaskingKey"), masking_nonce + b"CredentialResponsePad", KEY + ENVELOPE
        )
        clear = xor(pad, masked)
        server_public_key, nonce, tag = clear[:KEY], clear[KEY : KEY + NONCE], clear[KEY + NONCE :]
        keys = EnvelopeKeys.derive(randomized_password, nonce)
        if not hmac.compare_digest(tag, self.client.envelope_tag(keys, nonce, server_public_key)):
            raise WrongPassword("the envelope does not verify")
        client_identity, server_identity = self.client.identities(keys.public_key, server_public_key)
        keyshare, static = decode_element(server_keyshare), decode_element(server_public_key)
        session = SessionKeys.derive(
            [self.private_keyshare * keyshare, self.private_keyshare * static, keys.private_key * keyshare],
            preamble(self.client.context, client_identity, self.ke1, server_identity, ke2[:-HASH]),
        )
        if not hmac.compare_digest(server_mac, session.server_mac):
            raise WrongPassword("the server's MAC does not verify")
        return session.client_mac, session.session_key, keys.export_key
