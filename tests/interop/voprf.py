"""OPRF and VOPRF with ristretto255-SHA512 (RFC 9497): the modes without public input."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from hashlib import sha512

from ristretto255 import GENERATOR, IDENTITY, ORDER, Element

OPRF, VOPRF = 0, 1


class InvalidInput(ValueError):
    """An element, scalar, input or proof that must be refused."""


def prefixed(*parts: bytes) -> bytes:
    """Each part after its length in two octets."""
    return b"".join(len(part).to_bytes(2) + part for part in parts)


def expand_message(message: bytes, tag: bytes) -> bytes:
    """64 octets of expand_message_xmd with SHA-512 (RFC 9380 section 5.3.1): they take no more than one block."""
    tag += len(tag).to_bytes(1)
    first = sha512(bytes(128) + message + (64).to_bytes(2) + b"\0" + tag).digest()
    return sha512(first + b"\1" + tag).digest()


def decode_element(octets: bytes) -> Element:
    """DeserializeElement: canonical and not the identity."""
    try:
        element = Element.decode(octets)
    except ValueError as error:
        raise InvalidInput(str(error)) from error
    if element == IDENTITY:
        raise InvalidInput("the identity")
    return element


def encode_scalar(scalar: int) -> bytes:
    """SerializeScalar."""
    return scalar.to_bytes(32, "little")


def decode_scalar(octets: bytes) -> int:
    """DeserializeScalar."""
    scalar = int.from_bytes(octets, "little")
    if len(octets) != 32 or scalar >= ORDER:
        raise InvalidInput("not a scalar")
    return scalar


def random_scalar() -> int:
    """A scalar that is not zero."""
    return secrets.randbelow(ORDER - 1) + 1


@dataclass
class Suite:
    """One mode of the protocol."""

    mode: int

    @property
    def context(self) -> bytes:
        """The context string (RFC 9497 section 3.1)."""
        return b"OPRFV1-" + bytes([self.mode]) + b"-ristretto255-SHA512"

    def hash_to_group(self, message: bytes) -> Element:
        """HashToGroup."""
        return Element.derive(expand_message(message, b"HashToGroup-" + self.context))

    def hash_to_scalar(self, message: bytes, prefix: bytes = b"HashToScalar-") -> int:
        """HashToScalar."""
        return int.from_bytes(expand_message(message, prefix + self.context), "little") % ORDER

    def derive_key_pair(self, seed: bytes, info: bytes) -> tuple[int, Element]:
        """DeriveKeyPair (section 3.2.1)."""
        for counter in range(256):
            private = self.hash_to_scalar(seed + prefixed(info) + bytes([counter]), b"DeriveKeyPair")
            if private:
                return private, private * GENERATOR
        raise InvalidInput("no key from this seed")

    def blind(self, message: bytes, blind: int | None = None) -> tuple[int, Element]:
        """Blind: the scalar that takes the blinding away again, and the blinded element."""
        blind = blind or random_scalar()
        element = self.hash_to_group(message)
        if element == IDENTITY:
            raise InvalidInput("an input that cannot be hashed")
        return blind, blind * element

    def finalize(self, message: bytes, blind: int, evaluated: Element) -> bytes:
        """Finalize, without a proof: the output."""
        return self._output(message, pow(blind, -1, ORDER) * evaluated)

    def evaluate(self, private: int, message: bytes) -> bytes:
        """Evaluate: the output, for whoever has the private key."""
        return self._output(message, private * self.hash_to_group(message))

    def _output(self, message: bytes, element: Element) -> bytes:
        return sha512(prefixed(message, element.encode()) + b"Finalize").digest()

    def generate_proof(
        self, private: int, blinded: list[Element], evaluated: list[Element], random: int | None = None
    ) -> bytes:
        """GenerateProof (section 2.2.1): that all were evaluated with one key."""
        public, random = private * GENERATOR, random or random_scalar()
        m, z = self._composites(public, blinded, evaluated)
        challenge = self._challenge(public, m, z, random * GENERATOR, random * m)
        return encode_scalar(challenge) + encode_scalar((random - challenge * private) % ORDER)

    def verify_proof(self, public: Element, blinded: list[Element], evaluated: list[Element], proof: bytes) -> None:
        """VerifyProof (section 2.2.2)."""
        if len(proof) != 64 or len(blinded) != len(evaluated):
            raise InvalidInput("a proof of another length, or over another number of elements")
        challenge, answer = decode_scalar(proof[:32]), decode_scalar(proof[32:])
        m, z = self._composites(public, blinded, evaluated)
        expected = self._challenge(public, m, z, answer * GENERATOR + challenge * public, answer * m + challenge * z)
        if not hmac.compare_digest(encode_scalar(expected), proof[:32]):
            raise InvalidInput("the proof does not verify")

    def _composites(self, public: Element, blinded: list[Element], evaluated: list[Element]) -> tuple[Element, Element]:
        seed = sha512(prefixed(public.encode(), b"Seed-" + self.context)).digest()
        m = z = IDENTITY
        for index, (before, after) in enumerate(zip(blinded, evaluated, strict=True)):
            transcript = prefixed(seed) + index.to_bytes(2) + prefixed(before.encode(), after.encode()) + b"Composite"
            weight = self.hash_to_scalar(transcript)
            m += weight * before
            z += weight * after
        return m, z

    def _challenge(self, *elements: Element) -> int:
        return self.hash_to_scalar(prefixed(*(element.encode() for element in elements)) + b"Challenge")
