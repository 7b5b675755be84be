"""What a homeserver must do, each check by itself on connections of its own. What is checked stands in its docstring."""

import os
import time

import crypto
from client import CODES, GRAMMAR, METHODS, Broken, Refusal, answer, code, connected, envelope
from presentation import vector

NOTHING = bytes(16)
SERVER_INFO = ("ServerInfo", {})


class Home:
    """A homeserver."""

    def __init__(self, place, domain, authority):
        self.place, self.domain, self.authority = place, domain, authority

    def connected(self, **options):
        return connected(self.place, self.domain, self.authority, **options)


async def refused(status, exchange):
    """The exchange is refused with this status; gives the detail."""
    try:
        found = await exchange
    except Refusal as refusal:
        assert refusal.status == status, f"{refusal.status} in place of {status}"
        return refusal.detail
    raise AssertionError(f"{found} in place of {status}")


# What anybody may ask.


async def server_info(home):
    """ServerInfo: the domain, this version, and the limits of the registry."""
    async with home.connected() as connection:
        info = await connection.call(*SERVER_INFO)
    assert info["domain"] == home.domain and info["versions"] == [1] and info["ciphersuites"] == [1]
    limits = {of["method"]: of["max_request"] for of in info["method_limits"]}
    assert limits == {int(row[0], 16): int(row[6]) for row in METHODS.values()}


async def credentials(home):
    """AsGetCredentials: a chain that verifies; one that was tampered with does not."""
    async with home.connected() as connection:
        found = await connection.call("AsGetCredentials", {})
    now = int(time.time())
    assert crypto.verify_authority(GRAMMAR, home.domain, found, now)
    for tamper in (
        lambda of: of["intermediates"][0]["request"]["payload"].update(domain="other.example"),
        lambda of: of["roots"][0]["payload"]["validity"].update(not_after=now * 2),
        lambda of: of["intermediates"][0].update(signature=bytes(64)),
    ):
        bad = GRAMMAR.decode("Credentials", GRAMMAR.encode("Credentials", found))
        tamper(bad)
        try:
            crypto.verify_authority(GRAMMAR, home.domain, bad, now)
        except crypto.Refused:
            continue
        raise AssertionError("a chain that was tampered with is believed")
    try:
        crypto.verify_authority(GRAMMAR, home.domain, found, now + 100 * 366 * 86_400)
    except crypto.Refused:
        return
    raise AssertionError("an expired chain is believed")


async def keys(home):
    """QsGetKeys and DsGetKeys: the id of an HPKE key is made from it."""
    async with home.connected() as connection:
        queuing = await connection.call("QsGetKeys", {})
        delivery = await connection.call("DsGetKeys", {})
    for key in queuing["hpke_keys"]:
        assert key["key_id"] == crypto.sha256(key["public_key"])[:8]
    assert len(queuing["verifying_key"]) == len(delivery["verifying_key"]) == 32


# Aliases: proofs, packages, queues.


class Alias:
    """An alias of nobody in particular."""

    def __init__(self, home, name):
        self.name, self.id = name, crypto.alias_id(home.domain, name)
        self.key, self.queue_key = crypto.SigningKey(), crypto.HpkeKey()
        self.sender = {"type": "as_alias", "value": self.id}
        self.packages = [package() for _ in range(3)]
        self.incarnation = None

    def registration(self):
        return {
            "alias": self.name,
            "key": self.key.public,
            "queue_key": self.queue_key.public,
            "packages": self.packages,
        }

    async def register(self, connection):
        request = self.registration()
        found = await connection.call("AsRegisterAlias", request, sender=self.sender, key=self.key)
        self.incarnation = found["incarnation"]

    async def dequeue(self, connection, start=0, incarnation=None, limit=100):
        request = {"incarnation": incarnation or self.incarnation, "start": start, "max": limit}
        return await connection.call("AsDequeueAlias", request, bound=self.sender)


def package():
    today = int(time.time()) // 86_400
    return {
        "ciphersuite": 1,
        "encryption_key": crypto.HpkeKey().public,
        "validity": {"not_before": today, "not_after": today + 30},
    }


def message(text):
    """A DirectMessage with something in it that nobody opens."""
    return {"key_hash": crypto.sha256(text), "sealed": {"kem_output": os.urandom(32), "ciphertext": text}}


async def alias_proofs(home):
    """RegisterAlias signed, and again bound; a proof for another stream, connection, method or sender, or without Bind, is
    worth nothing."""
    alias = Alias(home, "deputy")
    body = GRAMMAR.encode("RegisterAlias", alias.registration())
    number = code("AsRegisterAlias")
    async with home.connected() as connection, home.connected() as other:

        async def send(proof):
            stream = connection.open()
            auth = [proof(stream.number)]
            stream.send(envelope(number, body, auth), end=True)
            return answer("AsRegisterAlias", await stream.rest())

        def by(sender=alias.sender, key=alias.key, method=number, offset=0, binding=None):
            return lambda stream: connection.signed(sender, key, method, body, stream + offset, binding)

        stranger = {"type": "as_alias", "value": bytes(32)}
        for wrong in (
            by(offset=4),
            by(binding=other.binding),
            by(method=code("AsDeleteAlias")),
            by(key=crypto.SigningKey()),
            by(sender=stranger),
            lambda _: {"sender": alias.sender, "proof": {"type": "bound"}},
        ):
            await refused("unauthenticated", send(wrong))
        await refused("not_found", connection.call("AsGetAliasPackage", {"alias": alias.id}))
        first = await send(by())
        await connection.bind(alias.key)
        again = await send(lambda _: {"sender": alias.sender, "proof": {"type": "bound"}})
        assert first == again, "the same request is answered the same"
        # A key that is bound here is not bound there.
        await refused("unauthenticated", other.call("AsDeleteAlias", {}, bound=alias.sender))
        forged = {"key": crypto.SigningKey().public, "signature": bytes(64)}
        await refused("unauthenticated", other.call("Bind", {"keys": [forged]}))
        await refused("unauthenticated", other.call("ServerInfo", {}, sender=alias.sender, key=alias.key))
        taken = Alias(home, "deputy")
        await refused("already_exists", taken.register(other))


async def alias_packages(home):
    """Packages: each is given out once, the last again and again; new ones replace them."""
    alias = Alias(home, "grocer")
    async with home.connected() as connection:
        await alias.register(connection)
        get = {"alias": alias.id}
        given = [(await connection.call("AsGetAliasPackage", get))["package"] for _ in range(5)]
        keys = [of["encryption_key"] for of in given]
        assert sorted(set(keys)) == sorted(of["encryption_key"] for of in alias.packages)
        assert len(set(keys[:3])) == 3 and keys[2] == keys[3] == keys[4]
        new = {"packages": [package()], "queue_key": alias.queue_key.public}
        await connection.call("AsPublishAliasPackages", new, sender=alias.sender, key=alias.key)
        assert (await connection.call("AsGetAliasPackage", get))["package"] == new["packages"][0]
        bad = {"packages": [], "queue_key": alias.queue_key.public}
        await refused(
            "malformed", connection.call("AsPublishAliasPackages", bad, sender=alias.sender, key=alias.key)
        )


async def queue(home):
    """EnqueueAlias, DequeueAlias: entries open in order, what is before `start` is deleted, a start beyond the head and
    another incarnation are told."""
    alias = Alias(home, "vendor")
    async with home.connected() as connection:
        await alias.register(connection)
        await connection.bind(alias.key)
        texts = [f"message {number}".encode() for number in range(5)]
        for text in texts:
            await connection.call("AsEnqueueAlias", {"alias": alias.id, "message": message(text)})
        ratchet = crypto.Ratchet(GRAMMAR, alias.queue_key)
        found = await alias.dequeue(connection)
        head = found["head"]
        assert (found["first"], [of["sequence"] for of in found["entries"]]) == (0, list(range(head)))
        assert contents(ratchet, found) == texts
        some = await alias.dequeue(connection, start=3, limit=2)
        assert some["first"] == 3 and [of["sequence"] for of in some["entries"]] == [3, 4]
        assert some["entries"] == found["entries"][3:5], "entries do not change"
        detail = await refused("malformed", alias.dequeue(connection, start=head + 1))
        assert GRAMMAR.decode("CurrentHead", detail) == {"head": head}
        other = await alias.dequeue(connection, start=head, incarnation=os.urandom(16))
        assert (other["incarnation"], other["first"], other["entries"]) == (alias.incarnation, 3, [])
        assert (await alias.dequeue(connection, start=head))["first"] == head


def contents(ratchet, entries):
    """The texts of direct messages among entries."""
    texts = []
    for entry in entries["entries"]:
        content = ratchet.take(entries["incarnation"], entry)
        if content:
            found = GRAMMAR.decode("QueueMessage", content)
            assert found["type"] == "direct"
            texts.append(found["value"]["sealed"]["ciphertext"])
    return texts


async def key_update(home):
    """A key update comes after as many entries as are configured (4), and the ratchet goes on; another queue key starts it
    anew."""
    alias = Alias(home, "voyager")
    async with home.connected() as connection:
        await alias.register(connection)
        await connection.bind(alias.key)
        texts = [bytes([number]) * 700 for number in range(12)]
        for text in texts:
            await connection.call("AsEnqueueAlias", {"alias": alias.id, "message": message(text)})
        ratchet, found = crypto.Ratchet(GRAMMAR, alias.queue_key), await alias.dequeue(connection)
        kinds = [of["kind"] for of in found["entries"]]
        assert kinds.count("key_update") >= 2, kinds
        assert contents(ratchet, found) == texts
        before, alias.queue_key = ratchet.next, crypto.HpkeKey()
        new = {"packages": alias.packages, "queue_key": alias.queue_key.public}
        await connection.call("AsPublishAliasPackages", new, bound=alias.sender)
        await connection.call("AsEnqueueAlias", {"alias": alias.id, "message": message(b"under the new key")})
        found = await alias.dequeue(connection, start=before)
        assert found["entries"][0]["kind"] == "secret"
        ratchet = crypto.Ratchet(GRAMMAR, alias.queue_key)
        ratchet.next = before
        assert contents(ratchet, found) == [b"under the new key"]


async def listen(home):
    """ListenAlias: what is stored, then what comes; an acknowledgement deletes; a newer Listen takes over; one beyond the
    head ends it."""
    alias = Alias(home, "sentry")
    async with home.connected() as connection, home.connected() as sender:
        await alias.register(connection)
        await connection.bind(alias.key)

        async def enqueue(text):
            await sender.call("AsEnqueueAlias", {"alias": alias.id, "message": message(text)})

        async def next_entries(stream):
            return GRAMMAR.decode("QueueEntries", await stream.frame())

        await enqueue(b"stored")
        request = {"incarnation": alias.incarnation, "start": 0}
        header, stream = await connection.listen("AsListenAlias", request, alias.sender)
        assert header["entries"] == []
        ratchet, texts = crypto.Ratchet(GRAMMAR, alias.queue_key), []
        while texts != [b"stored"]:
            texts += contents(ratchet, await next_entries(stream))
        await enqueue(b"live")
        assert contents(ratchet, await next_entries(stream)) == [b"live"]
        stream.send(vector(GRAMMAR.encode("Acknowledge", {"next": ratchet.next})))
        while (await alias.dequeue(connection))["first"] != ratchet.next:
            pass
        request["start"] = ratchet.next
        _, newer = await connection.listen("AsListenAlias", request, alias.sender)
        assert await code_of(stream.frame()) == CODES["replaced_by_newer_listen"]
        await enqueue(b"to the newer")
        assert contents(ratchet, await next_entries(newer)) == [b"to the newer"]
        newer.send(vector(GRAMMAR.encode("Acknowledge", {"next": ratchet.next + 1})))
        assert await code_of(newer.frame()) == CODES["malformed"]
        other = {"incarnation": os.urandom(16), "start": 0}
        header, stream = await connection.listen("AsListenAlias", other, alias.sender)
        assert header["incarnation"] == alias.incarnation and await stream.frame() is None


async def code_of(reading):
    """The code that a stream is reset with."""
    try:
        found = await reading
    except Broken as broken:
        return broken.code
    raise AssertionError(f"{found!r} in place of a reset")


# The QS.


async def queuing_records(home):
    """QS users and clients: made, read, changed, added and deleted; old keys and tokens prove nothing."""
    user_key, client_key, queue_key = crypto.SigningKey(), crypto.SigningKey(), crypto.HpkeKey()
    token = os.urandom(32)

    def record(key, queue):
        return {"auth_key": key.public, "queue_key": queue.public, "push_token": None}

    creation = {"auth_key": user_key.public, "friendship_token": token, "client": record(client_key, queue_key)}
    async with home.connected() as connection:
        made = await connection.call("QsCreateUser", creation)
        assert made == await connection.call("QsCreateUser", creation), "a repeat is answered the same"
        as_user = {"type": "qs_user", "value": made["user"]}
        as_client = {"type": "qs_client", "value": made["client"]}
        await connection.bind(user_key, client_key)
        (listed,) = (await connection.call("QsGetUser", {}, bound=as_user))["clients"]
        assert (listed["client"], listed["auth_key"], listed["push"]) == (made["client"], client_key.public, False)
        await refused("not_found", connection.call("QsGetAddPackages", {"friendship_token": token}))

        dequeue = {"incarnation": made["incarnation"], "start": 0, "max": 10}
        found = await connection.call("QsDequeue", dequeue, bound=as_client)
        ratchet = crypto.Ratchet(GRAMMAR, queue_key)
        assert [of["kind"] for of in found["entries"]] == ["secret"]
        assert ratchet.take(found["incarnation"], found["entries"][0]) is None
        detail = await refused("malformed", connection.call("QsDequeue", dequeue | {"start": 9}, bound=as_client))
        assert GRAMMAR.decode("CurrentHead", detail) == {"head": 1}
        other = await connection.call("QsDequeue", dequeue | {"incarnation": NOTHING}, bound=as_client)
        assert (other["incarnation"], other["entries"]) == (made["incarnation"], [])

        second_key, second_queue = crypto.SigningKey(), crypto.HpkeKey()
        added = {"client": record(second_key, second_queue)}
        second = await connection.call("QsCreateClient", added, bound=as_user)
        assert len((await connection.call("QsGetUser", {}, bound=as_user))["clients"]) == 2
        # Another key and queue key: the old key proves nothing, and the ratchet begins anew.
        new_key, new_queue = crypto.SigningKey(), crypto.HpkeKey()
        await connection.call("QsUpdateClient", {"client": record(new_key, new_queue)}, bound=as_client)
        await refused("unauthenticated", connection.call("QsDequeue", dequeue, bound=as_client))
        found = await connection.call("QsDequeue", dequeue | {"start": 1}, sender=as_client, key=new_key)
        ratchet = crypto.Ratchet(GRAMMAR, new_queue)
        ratchet.next = 1
        ratchet.take(found["incarnation"], found["entries"][0])
        assert ratchet.secret

        await connection.bind(new_key, second_key)
        blocked = sorted(os.urandom(32) for _ in range(3))
        await connection.call("QsUpdateBlocklist", {"blocked": blocked}, bound=as_client)
        for wrong in (blocked[::-1], [blocked[0], blocked[0]]):
            await refused("malformed", connection.call("QsUpdateBlocklist", {"blocked": wrong}, bound=as_client))

        renewed = crypto.SigningKey()
        update = {"auth_key": renewed.public, "friendship_token": os.urandom(32)}
        await connection.call("QsUpdateUser", update, bound=as_user)
        await refused("unauthenticated", connection.call("QsGetUser", {}, bound=as_user))
        await connection.bind(renewed)
        as_second = {"type": "qs_client", "value": second["client"]}
        delete = {"client": made["client"]}
        await refused("not_found", connection.call("QsDeleteClient", delete, bound=as_second))
        await connection.call("QsDeleteClient", delete, bound=as_user)
        await refused("unauthenticated", connection.call("QsDequeue", dequeue, bound=as_client))
        await connection.call("QsDeleteUser", {}, bound=as_user)
        await refused("unauthenticated", connection.call("QsGetUser", {}, bound=as_user))
        await refused("not_found", connection.call("QsGetBody", {"id": os.urandom(16)}))


ALL = [
    server_info,
    credentials,
    keys,
    alias_proofs,
    alias_packages,
    queue,
    key_update,
    listen,
    queuing_records,
]
