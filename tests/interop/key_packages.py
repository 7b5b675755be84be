"""KeyPackages (wire-spec/mls.md, wire-spec/queuing.md) at the QS: made, published, refused and given out."""

import os
import time
from pathlib import Path

import crypto
from checks import refused
from client import GRAMMAR
from presentation import vector

GRAMMAR.read(Path(__file__).with_name("mls.tls"))

LEAF_CREDENTIAL, ROLES, GROUP_DATA, QUEUE_CONFIG = 0xF0B1, 0xF0B2, 0xF0B3, 0xF0B4
LAST_RESORT = SELF_REMOVE = 0x000A
KEY_PACKAGE_SOURCE = 1
DAY = 86_400


def sign(key, name, content):
    """RFC 9420 section 5.1.2, SignWithLabel."""
    return key._key.sign(vector(f"MLS 1.0 {name}".encode()) + vector(content))


class Client:
    """A client of the QS with everything that its KeyPackages need."""

    def __init__(self, home):
        self.home, self.user_key, self.key = home, crypto.SigningKey(), crypto.SigningKey()
        self.token, self.blocklist_key = os.urandom(32), os.urandom(32)
        self.id = self.sender = self.queuing = None

    async def register(self, connection):
        client = {"auth_key": self.key.public, "queue_key": crypto.HpkeKey().public, "push_token": None}
        creation = {"auth_key": self.user_key.public, "friendship_token": self.token, "client": client}
        made = await connection.call("QsCreateUser", creation)
        self.id, self.sender = made["client"], {"type": "qs_client", "value": made["client"]}
        self.queuing = (await connection.call("QsGetKeys", {}))["hpke_keys"][0]
        await connection.bind(self.key)

    def queue_config(self):
        """queuing.md, "Queue configs"."""
        content = {
            "client": self.id,
            "blocklist_key": self.blocklist_key,
            "push_token_key": None,
            "salt": os.urandom(16),
        }
        signature = self.key.sign("QueueConfig", GRAMMAR.encode("QueueConfigContent", content))
        padded = crypto.pad(GRAMMAR.encode("QueueConfig", {"content": content, "signature": signature}))
        aad = GRAMMAR.encode("Domain", self.home.domain)
        sealed = crypto.hpke_seal(self.queuing["public_key"], "queue config", b"", aad, padded)
        return {"domain": self.home.domain, "key_id": self.queuing["key_id"]} | sealed

    def key_package(self, last_resort=False, **changes):
        """An encoded KeyPackage of a fresh leaf; `changes` make it a wrong one."""
        key, today = crypto.SigningKey(), int(time.time()) // DAY
        leaf_credential = {
            "identity": os.urandom(32),
            "validity": {"not_before": today - 1, "not_after": today + 90},
            "ciphersuite": 1,
            "verifying_key": changes.get("verifying_key", key.public),
            "sealed_signature": os.urandom(150),
        }
        content = GRAMMAR.encode("LeafCredential", leaf_credential)
        leaf = {
            "encryption_key": crypto.HpkeKey().public,
            "signature_key": key.public,
            "credential": {"credential_type": LEAF_CREDENTIAL, "content": content},
            "capabilities": {
                "versions": [1],
                "cipher_suites": [1],
                "extensions": changes.get("extensions", [ROLES, GROUP_DATA, QUEUE_CONFIG, LAST_RESORT]),
                "proposals": [SELF_REMOVE],
                "credentials": [LEAF_CREDENTIAL, 1],
            },
            "leaf_node_source": KEY_PACKAGE_SOURCE,
            "lifetime": {"not_before": (today - 1) * DAY, "not_after": (today + changes.get("days", 90)) * DAY},
            "extensions": [],
        }
        signature = sign(key, "LeafNodeTBS", GRAMMAR.encode("LeafNodeTBS", leaf))
        config = GRAMMAR.encode("ClientQueueConfig", self.queue_config())
        extensions = [{"extension_type": QUEUE_CONFIG, "extension_data": config}] if "no_config" not in changes else []
        if last_resort:
            extensions.append({"extension_type": LAST_RESORT, "extension_data": b""})
        package = {
            "version": 1,
            "cipher_suite": 1,
            "init_key": crypto.HpkeKey().public,
            "leaf_node": {"content": leaf, "signature": signature},
            "extensions": extensions,
        }
        signature = sign(changes.get("by", key), "KeyPackageTBS", GRAMMAR.encode("KeyPackageTBS", package))
        return GRAMMAR.encode("KeyPackage", {"content": package, "signature": signature})


def published(*packages):
    return {"packages": [{"key_package": package, "sealed_chain": os.urandom(900)} for package in packages]}


async def key_packages(home):
    """KeyPackages of an independent implementation are published; each is given out once, a last-resort one again and again;
    new ones replace them; without the right token there are none."""
    client = Client(home)
    async with home.connected() as connection, home.connected() as friend:
        await client.register(connection)
        ordinary, last = [client.key_package() for _ in range(2)], client.key_package(last_resort=True)
        await connection.call("QsPublishKeyPackages", published(*ordinary, last), bound=client.sender)

        async def fetch():
            request = {"friendship_token": client.token}
            (package,) = (await friend.call("QsGetAddPackages", request))["packages"]
            return package["key_package"]

        assert sorted([await fetch(), await fetch()]) == sorted(ordinary)
        assert [await fetch(), await fetch()] == [last, last]
        new = client.key_package(last_resort=True)
        await connection.call("QsPublishKeyPackages", published(new), bound=client.sender)
        assert await fetch() == new
        await refused("not_found", friend.call("QsGetAddPackages", {"friendship_token": os.urandom(32)}))


async def wrong_key_packages(home):
    """No last-resort one among them: malformed. Signed by another key, with another key in the credential, without what the
    capabilities must contain, valid for too long, without a queue config: invalid_mls_message. What was there stays."""
    client = Client(home)
    async with home.connected() as connection:
        await client.register(connection)
        good = client.key_package(last_resort=True)

        async def publish(*packages):
            return await connection.call("QsPublishKeyPackages", published(*packages), bound=client.sender)

        await publish(good)
        await refused("malformed", publish(client.key_package()))
        await refused("malformed", publish())
        for changes in (
            {"by": crypto.SigningKey()},
            {"verifying_key": os.urandom(32)},
            {"extensions": [QUEUE_CONFIG, LAST_RESORT]},
            {"days": 400},
            {"no_config": True},
        ):
            await refused("invalid_mls_message", publish(good, client.key_package(**changes)))
        (kept,) = (await connection.call("QsGetAddPackages", {"friendship_token": client.token}))["packages"]
        assert kept["key_package"] == good


ALL = [key_packages, wrong_key_packages]
