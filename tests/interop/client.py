"""Connections and exchanges (wire-spec/transport.md), proofs (authentication.md)."""

import asyncio
import re
from contextlib import asynccontextmanager
from pathlib import Path

import aioquic.tls
from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamDataReceived, StreamReset

import crypto
from presentation import Grammar, Reader, vector

SPECIFICATION = Path(__file__).resolve().parents[2] / "wire-spec"
GRAMMAR = Grammar(SPECIFICATION)
ALPN = "bennu/1"
BINDING = b"EXPORTER-Bennu-1.0-Channel-Binding"
VERSION = 1
PATIENCE = 20


def rows(heading):
    """The rows of a table of registries.md."""
    below = (SPECIFICATION / "registries.md").read_text().split(f"# {heading}\n", 1)[1]
    table = re.search(r"(^\|.*\n)+", below, re.MULTILINE).group(0)
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


METHODS = {row[1]: row for row in rows("Methods")}
STATUSES = {int(row[0]): row[1] for row in rows("Status values")}
CODES = {row[1]: int(row[0], 16) for row in rows("Close codes")}


def code(method):
    return int(METHODS[method][0], 16)


class Refusal(Exception):
    """A status other than ok."""

    def __init__(self, status, detail):
        super().__init__(f"{status}: {detail['message']}")
        self.status, self.detail = status, detail["detail"]


class Broken(Exception):
    """A stream was reset, or its connection ended, with a code."""

    def __init__(self, code):
        super().__init__(f"ended with {code:#x}")
        self.code = code


class Exporter(aioquic.tls.KeySchedule):
    """aioquic has no TLS exporter (RFC 8446 section 7.5). Its key schedule derives the traffic secrets of the application from
    the master secret when the transcript ends with the server's Finished, and there the exporter's secret comes from, too."""

    exporter = None

    def derive_secret(self, label):
        if label == b"s ap traffic":
            self.exporter = super().derive_secret(b"exp master")
        return super().derive_secret(label)

    def export(self, label, size):
        size_of_hash, empty = self.algorithm.digest_size, self.hash_empty_value
        secret = aioquic.tls.hkdf_expand_label(self.algorithm, self.exporter, label, empty, size_of_hash)
        return aioquic.tls.hkdf_expand_label(self.algorithm, secret, b"exporter", empty, size)


aioquic.tls.KeySchedule = Exporter


class Stream:
    """One exchange, from the caller's side."""

    def __init__(self, connection, number):
        self.connection, self.number = connection, number
        self.received, self.ended, self.reset, self.stopped = bytearray(), False, None, None
        self.news = asyncio.Event()

    def send(self, octets, end=False):
        self.connection._quic.send_stream_data(self.number, octets, end)
        self.connection.transmit()

    def abandon(self):
        self.connection._quic.reset_stream(self.number, CODES["abandoned"])
        self.connection._quic.stop_stream(self.number, CODES["abandoned"])
        self.connection.transmit()

    async def _more(self):
        self.news.clear()
        if self.connection.terminated is not None:
            raise Broken(self.connection.terminated)
        await asyncio.wait_for(self.news.wait(), PATIENCE)

    async def rest(self):
        """All that the callee sends until it has finished."""
        while not self.ended:
            if self.reset is not None:
                raise Broken(self.reset)
            await self._more()
        return bytes(self.received)

    async def frame(self):
        """The next frame; none if the callee has finished."""
        while True:
            reader = Reader(self.received)
            try:
                frame = reader.vector()
                self.received = bytearray(reader.rest)
                return frame
            except Exception:
                if self.reset is not None:
                    raise Broken(self.reset) from None
                if self.ended:
                    assert not self.received, "a frame that is cut off"
                    return None
            await self._more()

    async def is_stopped(self):
        """The code of STOP_SENDING."""
        while self.stopped is None:
            await self._more()
        return self.stopped


def envelope(method, body, auth=(), token=None):
    """An encoded Request; `method` by its code, `body` encoded."""
    request = {"version": VERSION, "method": method, "auth": list(auth), "token": token, "body": body}
    return GRAMMAR.encode("Request", request)


class Connection(QuicConnectionProtocol):
    """A connection of one isolation context."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.streams, self.terminated = {}, None

    def quic_event_received(self, event):
        match event:
            case StreamDataReceived():
                stream = self.streams[event.stream_id]
                stream.received += event.data
                stream.ended |= event.end_stream
            case StreamReset():
                stream = self.streams[event.stream_id]
                stream.reset = event.error_code
            case StopSendingReceived():
                stream = self.streams[event.stream_id]
                stream.stopped = event.error_code
            case ConnectionTerminated():
                self.terminated = event.error_code
                for stream in self.streams.values():
                    stream.news.set()
                return
            case _:
                return
        stream.news.set()

    @property
    def binding(self):
        """The channel binding (transport.md)."""
        return self._quic.tls.key_schedule.export(BINDING, 32)

    async def room(self):
        """Waits until another stream may be opened: aioquic resets streams even where the peer does not allow them yet."""
        while self._quic.get_next_available_stream_id() // 4 >= self._quic._remote_max_streams_bidi:
            await self.ping()

    def open(self):
        number = self._quic.get_next_available_stream_id()
        # Numbers are given out by sending.
        self._quic.send_stream_data(number, b"")
        self.streams[number] = Stream(self, number)
        return self.streams[number]

    def signed(self, sender, key, method, body, stream, binding=None, token=None):
        """An Authentication with a signature over the request."""
        tbs = {
            "version": VERSION,
            "method": method,
            "sender": sender,
            "token": token,
            "body_hash": crypto.sha256(body),
            "channel_binding": binding or self.binding,
            "stream": stream,
        }
        signature = key.sign("Request", GRAMMAR.encode("RequestTbs", tbs))
        return {"sender": sender, "proof": {"type": "signature", "value": signature}}

    async def call(self, method, request, sender=None, key=None, bound=None, token=None):
        """An exchange: the body of its response. Proven by a signature of `key`, or `bound`; paid for with a token."""
        stream = self.open()
        number, body = code(method), GRAMMAR.encode(METHODS[method][7], request)
        auth = []
        if key:
            auth = [self.signed(sender, key, number, body, stream.number, token=token)]
        elif bound:
            auth = [{"sender": bound, "proof": {"type": "bound"}}]
        stream.send(envelope(number, body, auth, token), end=True)
        return answer(method, await stream.rest())

    async def bind(self, *keys):
        """Proves possession of keys for the rest of the connection."""
        bound = []
        for key in keys:
            tbs = GRAMMAR.encode("BindTbs", {"channel_binding": self.binding, "key": key.public})
            bound.append({"key": key.public, "signature": key.sign("Bind", tbs)})
        return await self.call("Bind", {"keys": bound})

    async def listen(self, method, request, bound):
        """A streaming exchange: the body of its header, and the stream."""
        stream = self.open()
        number, body = code(method), GRAMMAR.encode(METHODS[method][7], request)
        auth = [{"sender": bound, "proof": {"type": "bound"}}]
        preamble = GRAMMAR.encode("Preamble", {"version": VERSION, "method": number})
        stream.send(preamble + vector(envelope(number, body, auth)))
        return answer(method, await stream.frame()), stream


def answer(method, octets):
    """The body of an encoded Response."""
    response = GRAMMAR.decode("Response", octets)
    status = STATUSES[response["status"]]
    if status != "ok":
        raise Refusal(status, GRAMMAR.decode("ErrorDetail", response["body"]))
    return GRAMMAR.decode(METHODS[method][8], response["body"])


@asynccontextmanager
async def connected(place, domain, authority, alpn=ALPN):
    """A connection to a homeserver, whose certificate is for its home domain wherever it is."""
    configuration = QuicConfiguration(alpn_protocols=[alpn], server_name=domain)
    configuration.load_verify_locations(cafile=authority)
    async with connect(*place, configuration=configuration, create_protocol=Connection, wait_connected=True) as connection:
        yield connection

