"""What must be refused, and how: encoding.md, "Strictness", and transport.md, "Exchanges" and "Connections"."""

import asyncio
import json
import os

from client import CODES, GRAMMAR, METHODS, SPECIFICATION, STATUSES, code, envelope
from presentation import vector

INFO = code("ServerInfo")
EMPTY = envelope(INFO, b"")


async def status(connection, octets, end=True):
    """The status of the answer to these octets as the whole of a stream."""
    stream = connection.open()
    stream.send(octets, end)
    return status_of(await stream.rest())


def status_of(response):
    return STATUSES[GRAMMAR.decode("Response", response)["status"]]


async def expect(home, wanted, cases):
    """Each of the cases gets this status, and the connection goes on."""
    async with home.connected() as connection:
        for name, octets in cases.items():
            found = await status(connection, octets)
            assert found == wanted, f"{name}: {found}"
        assert await status(connection, EMPTY) == "ok"


def body(method, octets):
    return envelope(code(method), octets)


async def envelopes(home):
    """Lengths that are not minimal or of eight octets, an optional or a code that is none, octets that are missing or too
    many: malformed."""
    head = EMPTY[:4]
    cases = {
        "auth length in two octets": head + b"\x40\x00" + b"\0" + b"\0",
        "body length in four octets": head + b"\0\0" + b"\x80\0\0\0",
        "a length of eight octets": head + b"\0\0" + b"\xc0" + bytes(7),
        "an optional of 2": head + b"\0\2\0",
        "a sender of no kind": head + vector(b"\x63" + bytes(16) + b"\2") + b"\0\0",
        "a proof of no kind": head + vector(b"\4" + bytes(16) + b"\x09") + b"\0\0",
        "a vector that is cut off": head + b"\x05\4\0\0",
        "an element that is cut off": head + vector(b"\4" + bytes(8)) + b"\0\0",
        "octets after it": EMPTY + b"\0",
        "nothing after the method": head,
        "a body with something in it": body("ServerInfo", b"\0"),
    }
    await expect(home, "malformed", cases)


async def bodies(home):
    """In bodies: domains and texts that are none, a bool of 2, two encodings of one value."""
    uuid = bytes(16)
    domains = [b"A.test", b"test", b"a..test", b"-a.test", b"a-.test", b"a.test.", b"a.1", b"a_b.test", b"x" * 64 + b".test"]
    cases = {f"the domain {domain}": body("AsGetUserProfile", uuid + vector(domain)) for domain in domains}
    long = b".".join([b"a" * 60] * 5)
    cases["a domain that is too long"] = body("AsGetUserProfile", uuid + vector(long))
    cases["a domain in another form of length"] = body("AsGetUserProfile", uuid + b"\x40\x06a.test")
    alias = vector(b"\xff\xfe") + vector(bytes(32)) + vector(bytes(32)) + vector(b"")
    key = GRAMMAR.encode("Request", {"version": 1, "method": code("AsRegisterAlias"), "auth": [], "token": None, "body": alias})
    cases["a text that is no UTF-8"] = key
    await expect(home, "malformed", cases)


async def versions_and_methods(home):
    """Another version is refused whatever follows; a method that is not known, whatever its body."""
    for octets in (b"\0\2" + EMPTY[2:], b"\xff\xff" + os.urandom(60), b"\0\0\0\0"):
        async with home.connected() as connection:
            assert await status(connection, octets) == "unsupported_version"
    unknown = {f"method {number:#x}": b"\0\1" + number.to_bytes(2, "big") + EMPTY[4:] for number in (0, 0x99, 0xF000, 0xFFFF)}
    await expect(home, "unknown_method", unknown)


async def cut_off(home):
    """A request that ends at any of its octets is malformed."""
    request = body("QsGetBody", bytes(16))
    async with home.connected() as connection:
        for end in range(len(request)):
            assert await status(connection, request[:end]) == "malformed", end
        assert await status(connection, request) == "not_found"


async def split(home):
    """A request that arrives in pieces, at whatever octets, is one request."""
    request = body("QsGetBody", bytes(16))
    async with home.connected() as connection:
        for at in range(1, len(request)):
            stream = connection.open()
            stream.send(request[:at])
            await asyncio.sleep(0)
            stream.send(request[at:], end=True)
            assert status_of(await stream.rest()) == "not_found", at


async def too_large(home):
    """More than the method takes: too_large, STOP_SENDING with too_large, and nothing is read on."""
    for method in ("ServerInfo", "QsGetBody", "AsEnqueueAlias"):
        limit = int(METHODS[method][6])
        async with home.connected() as connection:
            stream = connection.open()
            stream.send(b"\0\1" + code(method).to_bytes(2, "big") + bytes(limit))
            assert await stream.is_stopped() == CODES["too_large"]
            assert status_of(await stream.rest()) == "too_large"
            assert await status(connection, EMPTY) == "ok"


async def broken_frames(home):
    """Streaming: a first frame that is cut off, not minimal, or begins otherwise than the preamble."""
    method = code("AsListenAlias").to_bytes(2, "big")
    request = b"\0\1" + method + EMPTY[4:]
    preamble = b"\0\1" + method
    for octets in (
        preamble,
        preamble + b"\x05\0\1",
        preamble + b"\x40\x05" + request,
        preamble + b"\xc0" + bytes(7),
        preamble + vector(EMPTY),
        preamble + vector(b"\0\1"),
    ):
        async with home.connected() as connection:
            stream = connection.open()
            stream.send(octets, end=True)
            assert status_of(await stream.frame()) == "malformed", octets.hex()
            assert await stream.frame() is None
            assert await status(connection, EMPTY) == "ok"
    async with home.connected() as connection:
        stream = connection.open()
        stream.send(preamble + vector(bytes(4) + bytes(int(METHODS["AsListenAlias"][6]))))
        assert await stream.is_stopped() == CODES["too_large"]


async def abandoned(home):
    """A stream that is given up does no harm to others, however many there are."""
    async with home.connected() as connection:
        for _ in range(1_000):
            await connection.room()
            stream = connection.open()
            stream.send(EMPTY[:5])
            stream.abandon()
        await connection.room()
        assert await status(connection, EMPTY) == "ok"


async def alpn(home):
    """Another ALPN is not spoken."""
    try:
        async with asyncio.timeout(5):
            async with home.connected(alpn="h3"):
                raise AssertionError("connected")
    except ConnectionError:
        return


async def no_other_streams(home):
    """Unidirectional streams and datagrams are not allowed, and not announced."""
    async with home.connected() as connection:
        quic = connection._quic
        assert quic._remote_max_streams_uni == 0 and not quic._remote_max_datagram_frame_size
        number = quic.get_next_available_stream_id(is_unidirectional=True)
        quic.send_stream_data(number, b"hello", True)
        connection.transmit()
        assert await status(connection, EMPTY) == "ok"


async def refusals(home):
    """wire-spec/vectors/refusals.json: every request is refused with its status."""
    vectors = json.loads((SPECIFICATION / "vectors/refusals.json").read_text())
    # This homeserver wants no tokens.
    vectors = [vector for vector in vectors if not vector.get("tokens")]
    async with home.connected() as connection:
        for vector in vectors:
            found = await status(connection, bytes.fromhex(vector["request"]))
            assert found == vector["status"], f"{vector['about']}: {found}"
    assert len(vectors) > 40


ALL = [
    refusals,
    envelopes,
    bodies,
    versions_and_methods,
    cut_off,
    split,
    too_large,
    broken_frames,
    abandoned,
    alpn,
    no_other_streams,
]
