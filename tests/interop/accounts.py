"""Users of the Authentication Service: registration and passwords by OPAQUE, credentials, tokens and what they buy. The
cryptography (ristretto255.py, voprf.py, opaque.py) was written by somebody who had wire-spec/ and the RFCs only."""

import os
import time
from hashlib import sha256

import crypto
import opaque
import voprf
from checks import refused
from client import GRAMMAR
from opaque import WrongPassword
from presentation import Reader, vector
from voprf import Suite, decode_element, prefixed

DAY = 86_400
CONTEXT = b"Bennu 1.0 Login"
TOKEN_TYPE = 5
SUITE = Suite(voprf.VOPRF)


class User:
    """Somebody who registers."""

    def __init__(self, home, password):
        self.home, self.password = home, password
        self.id = {"uuid": os.urandom(16), "domain": home.domain}
        self.client = {"user": self.id, "client": os.urandom(16)}
        self.sender = {"type": "as_client", "value": self.client}
        self.identity, self.queue_key = crypto.SigningKey(), crypto.HpkeKey()
        self.credential, self.tokens = None, []

    def opaque(self, password=None):
        identities = GRAMMAR.encode("UserId", self.id), GRAMMAR.encode("Domain", self.home.domain)
        return opaque.Client((password or self.password).encode(), *identities, CONTEXT)

    def call(self, connection, method, request, token=None):
        return connection.call(method, request, sender=self.sender, key=self.identity, token=token)

    def request(self, signer):
        payload = {
            "client": self.client,
            "ciphersuite": 1,
            "validity": {"not_before": int(time.time()) - 60, "not_after": int(time.time()) + 90 * DAY},
            "verifying_key": self.identity.public,
            "signer": sha256(GRAMMAR.encode("AsIntermediateCredential", signer)).digest(),
            "predecessor": None,
        }
        signature = self.identity.sign("ClientRequest", GRAMMAR.encode("ClientPayload", payload))
        return {"payload": payload, "self_signature": signature, "predecessor_signature": None}

    def package(self):
        content = {
            "client": self.client,
            "ciphersuite": 1,
            "encryption_key": crypto.HpkeKey().public,
            "validity": {"not_before": int(time.time()) - DAY, "not_after": int(time.time()) + 30 * DAY},
        }
        signature = self.identity.sign("ConnectionPackage", GRAMMAR.encode("ConnectionPackageTbs", content))
        return {"content": content, "signature": signature}

    async def register(self, connection):
        """Both halves; what the second one was."""
        credentials = await connection.call("AsGetCredentials", {})
        registration = self.opaque().register()
        init = {"user": self.id, "request": registration.request, "invitation": None}
        answer = await connection.call("AsInitRegistration", init)
        finish = {
            "request": self.request(credentials["intermediates"][0]),
            "record": registration.finish(answer["response"])[0],
            "queue_key": self.queue_key.public,
            "packages": [self.package() for _ in range(2)],
            "profile": os.urandom(300),
            "invitation": None,
        }
        self.credential = (await self.call(connection, "AsFinishRegistration", finish))["credential"]
        now = int(time.time())
        authority = crypto.verify_authority(GRAMMAR, self.home.domain, credentials, now)
        crypto.verify_client(GRAMMAR, self.home.domain, authority, self.credential, now)
        assert self.credential["request"] == finish["request"]
        return finish

    async def second_factor(self, connection, password=None, new=None):
        """A login; with a new password also its record."""
        login, registration = self.opaque(password).login(), new and self.opaque(new).register()
        init = {"login": login.ke1, "new_password": registration and registration.request}
        challenge = await self.call(connection, "AsInit2fa", init, token=self.tokens.pop() if self.tokens else None)
        factor = {"session": challenge["session"], "login": login.finish(challenge["login"])[0]}
        return factor, registration and registration.finish(challenge["new_password"])[0]

    async def ask_for_tokens(self, connection, count):
        """The TokenRequest, the TokenResponse, and the tokens, whose proof is checked."""
        key = await issuer_key(connection)
        name = prefixed(self.home.domain.encode())
        challenge = TOKEN_TYPE.to_bytes(2) + name + b"\0" + name
        tail = sha256(challenge).digest() + sha256(key).digest()
        inputs = [TOKEN_TYPE.to_bytes(2) + os.urandom(32) + tail for _ in range(count)]
        blinds, blinded = zip(*(SUITE.blind(of) for of in inputs), strict=True)
        request = token_request(key, blinded)
        answer = await self.call(connection, "AsIssueTokens", {"request": request, "credential": None})
        outputs = finish(key, blinded, inputs, blinds, answer["response"])
        self.tokens += [GRAMMAR.decode("Token", of + output) for of, output in zip(inputs, outputs, strict=True)]
        return request


async def issuer_key(connection):
    """The newest key of those that issue to the homeserver's own users: the first."""
    keys = (await connection.call("AsGetCredentials", {}))["issuer_keys"]
    return next(key["public_key"] for key in keys if not key["foreign"])


def token_request(key, blinded):
    """tokens.md, "Issuance"."""
    return TOKEN_TYPE.to_bytes(2) + sha256(key).digest()[-1:] + vector(b"".join(of.encode() for of in blinded))


def finish(key, blinded, inputs, blinds, response):
    """The outputs for what was asked for, once the proof over all of them is checked."""
    reader = Reader(response)
    octets, proof = reader.vector(), bytes(reader.rest)
    assert len(octets) == 32 * len(blinded) and len(proof) == 64
    evaluated = [decode_element(octets[at : at + 32]) for at in range(0, len(octets), 32)]
    SUITE.verify_proof(decode_element(key), list(blinded), evaluated, proof)
    return [SUITE.finalize(*of) for of in zip(inputs, blinds, evaluated, strict=True)]


async def registration(home):
    """Registration: a credential that verifies; the same again gives the same; packages and the queue are there."""
    user = User(home, "correct horse")
    async with home.connected() as connection, home.connected() as anonymous:
        request = await user.register(connection)
        again = await user.call(connection, "AsFinishRegistration", request)
        assert again["credential"] == user.credential
        given = await anonymous.call("AsGetConnectionPackage", {"user": user.id})
        assert given["package"] in request["packages"] and given["credential"] == user.credential
        assert (await anonymous.call("AsGetUserProfile", {"user": user.id}))["profile"] == request["profile"]
        queue = {"incarnation": again["incarnation"], "start": 0, "max": 10}
        entries = await user.call(connection, "AsDequeue", queue)
        assert [of["kind"] for of in entries["entries"]] == ["secret"]
        taken = {"user": user.id, "request": user.opaque().register().request, "invitation": None}
        await refused("already_exists", anonymous.call("AsInitRegistration", taken))


async def passwords(home):
    """Second factor: the right password and no other, once; another password; deletion, after which the credential is revoked."""
    user = User(home, "correct horse")
    async with home.connected() as connection:
        await user.register(connection)
        try:
            await user.second_factor(connection, "wrong horse")
            raise AssertionError("a wrong password logs in")
        except WrongPassword:
            pass
        factor, record = await user.second_factor(connection, new="battery staple")
        wrong = {"factor": factor | {"login": bytes(64)}, "record": record}
        await refused("unauthenticated", user.call(connection, "AsChangePassword", wrong))
        await refused("unauthenticated", user.call(connection, "AsChangePassword", wrong | {"factor": factor}))
        factor, record = await user.second_factor(connection, new="battery staple")
        await user.call(connection, "AsChangePassword", {"factor": factor, "record": record})
        try:
            await user.second_factor(connection)
            raise AssertionError("an old password logs in")
        except WrongPassword:
            pass
        factor, _ = await user.second_factor(connection, "battery staple")
        await user.call(connection, "AsDeleteUser", {"factor": factor})
        name = sha256(GRAMMAR.encode("ClientCredential", user.credential)).digest()
        revoked = (await connection.call("AsGetCredentials", {}))["revoked"]
        assert {"credential": name, "reason": "revoked"} in revoked


async def issuance(home):
    """Tokens: issued with a proof that verifies; what is none is refused; no more than the allowance."""
    user = User(home, "correct horse")
    async with home.connected() as connection:
        await user.register(connection)
        request = await user.ask_for_tokens(connection, 5)
        assert len(user.tokens) == 5
        for wrong in (request + b"\0", request[:-1], request[:3] + b"\x20" + bytes(32), request[:3] + b"\0", b"\0\1" + request[2:]):
            await refused("malformed", user.call(connection, "AsIssueTokens", {"request": wrong, "credential": None}))
        policy = (await connection.call("ServerInfo", {}))["token_policy"]
        left = policy["allowance"] - 5
        while left:
            count = min(left, 100)
            # Elements that are not unblinded: this is about how many there are.
            body = {"request": token_request(await issuer_key(connection), [SUITE.blind(os.urandom(8))[1]] * count)}
            await user.call(connection, "AsIssueTokens", body | {"credential": None})
            left -= count
        body = {"request": token_request(await issuer_key(connection), [SUITE.blind(b"1")[1]]), "credential": None}
        await refused("rate_limited", user.call(connection, "AsIssueTokens", body))


async def redemption(home):
    """Where credit is wanted: a token buys as much as the policy says, once; a bad one buys nothing."""
    user = User(home, "correct horse")
    async with home.connected() as connection, home.connected() as anonymous, home.connected() as another:
        await user.register(connection)
        await user.ask_for_tokens(connection, 6)
        look_up = ("QsGetAddPackages", {"friendship_token": os.urandom(32)})
        policy = (await anonymous.call("ServerInfo", {}))["token_policy"]
        assert policy["required"]
        await refused("token_required", anonymous.call(*look_up))
        token = user.tokens.pop()
        for change in ("authenticator", "nonce", "token_key_id", "challenge_digest"):
            wrong = token | {change: os.urandom(len(token[change]))}
            await refused("unauthenticated", another.call(*look_up, token=wrong))
        await refused("not_found", anonymous.call(*look_up, token=token))
        for _ in range(policy["credit_per_token"] - 1):
            await refused("not_found", anonymous.call(*look_up))
        await refused("token_required", anonymous.call(*look_up))
        for connection_of in (anonymous, another):
            await refused("token_spent", connection_of.call(*look_up, token=token))
        # What is paid for is done: with the second factor of somebody who has to pay for it.
        factor, _ = await user.second_factor(connection)
        await user.call(connection, "AsDeleteUser", {"factor": factor})


ALL = [registration, passwords, issuance]
PRICED = [redemption]
