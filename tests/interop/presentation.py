"""An interpreter of TLS presentation language as wire-spec/encoding.md has it.

It reads wire-spec/*.tls and knows nothing else: values are dicts, lists, ints, bytes, str and None, in the form that the
test vectors have (wire-spec/vectors/README.md), but that octets are `bytes`.
"""

import re
from pathlib import Path

INTEGERS = {"uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8}
WORDS = re.compile(r"/\*.*?\*/|\s+|(\w+|.)", re.DOTALL)
LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")


class Malformed(Exception):
    """Octets that are no encoding."""


class Grammar:
    """The types that a directory of .tls files declares."""

    def __init__(self, directory: Path):
        self.types = {}
        for path in sorted(directory.glob("*.tls")):
            self.read(path)

    # Declarations.

    def read(self, path):
        """Adds what a file declares."""
        self._words = [word for word in WORDS.findall(path.read_text()) if word]
        while self._words:
            head = self._words[0]
            if head == "struct":
                declared = self._struct()
                name = self._next()
                self._expect(";")
            elif head == "enum":
                declared = self._enum()
                name = self._next()
                self._expect(";")
            else:
                name, declared = self._field()
            assert name not in self.types, f"{name} is declared twice"
            self.types[name] = declared

    def _next(self):
        return self._words.pop(0)

    def _expect(self, *words):
        for word in words:
            found = self._next()
            assert found == word, f"`{word}` is expected, not `{found}`"

    def _enum(self):
        self._expect("enum", "{")
        codes = {}
        while self._words[0] != "(":
            name = self._next()
            self._expect("(")
            codes[name] = int(self._next())
            self._expect(")", ",")
        self._expect("(")
        width = {"255": 1, "65535": 2}[self._next()]
        self._expect(")", "}")
        return ("enum", width, codes)

    def _struct(self):
        self._expect("struct", "{")
        fields = []
        while self._words[0] != "}":
            fields.append(self._select() if self._words[0] == "select" else self._field())
        self._expect("}")
        return ("struct", fields)

    def _select(self):
        self._expect("select", "(")
        self._next()
        self._expect(".")
        selector = self._next()
        self._expect(")", "{")
        cases = {}
        while self._words[0] == "case":
            self._expect("case")
            case = self._next()
            self._expect(":")
            if self._words[0] == "struct":
                self._expect("struct", "{", "}", ";")
                cases[case] = None
            else:
                cases[case] = self._field()
        self._expect("}", ";")
        return ("select", selector, cases)

    def _field(self):
        kind = self._next()
        if kind == "optional":
            self._expect("<")
            kind = ("optional", self._next())
            self._expect(">")
        name = self._next()
        if self._words[0] == "<":
            self._expect("<", "V", ">")
            kind = ("opaque",) if kind == "opaque" else ("vector", kind)
        elif self._words[0] == "[":
            self._expect("[")
            length = self._next()
            while self._next() != "]":
                pass
            # A length that only the text gives: up to the end.
            kind = ("octets", int(length)) if length.isdigit() else ("rest",)
        self._expect(";")
        return name, kind

    # Values.

    def decode(self, name, octets):
        """All of the octets as one value of a type."""
        reader = Reader(octets)
        value = self._decode(name, reader)
        if reader.rest:
            raise Malformed(f"octets after {name}")
        return value

    def _decode(self, kind, reader):
        if isinstance(kind, str):
            if kind in INTEGERS:
                return int.from_bytes(reader.take(INTEGERS[kind]), "big")
            value = self._decode(self.types[kind], reader)
            if kind == "bool":
                return value == "true"
            return text(kind, value) if kind in ("Text", "Domain") else value
        match kind:
            case ("opaque",):
                return reader.vector()
            case ("octets", length):
                return reader.take(length)
            case ("rest",):
                return reader.take(len(reader.rest))
            case ("vector", element):
                content, values = Reader(reader.vector()), []
                while content.rest:
                    values.append(self._decode(element, content))
                return values
            case ("optional", inner):
                match reader.take(1):
                    case b"\0":
                        return None
                    case b"\1":
                        return self._decode(inner, reader)
                raise Malformed("an optional is 0 or 1")
            case ("enum", width, codes):
                code = int.from_bytes(reader.take(width), "big")
                for name, known in codes.items():
                    if known == code:
                        return name
                raise Malformed(f"no code {code}")
            case ("struct", fields):
                values = {}
                for field in fields:
                    field = chosen(field, values)
                    if field is not None:
                        values[field[0]] = self._decode(field[1], reader)
                return values

    def encode(self, name, value):
        """The encoding of a value of a type."""
        out = bytearray()
        self._encode(name, value, out)
        return bytes(out)

    def _encode(self, kind, value, out):
        if isinstance(kind, str):
            if kind in INTEGERS:
                out += value.to_bytes(INTEGERS[kind], "big")
            elif kind == "bool":
                out.append(value)
            else:
                self._encode(self.types[kind], value.encode() if kind in ("Text", "Domain") else value, out)
            return
        match kind:
            case ("opaque",):
                out += vector(value)
            case ("octets", length):
                assert len(value) == length, f"{len(value)} octets in place of {length}"
                out += value
            case ("rest",):
                out += value
            case ("vector", element):
                content = bytearray()
                for one in value:
                    self._encode(element, one, content)
                out += vector(content)
            case ("optional", inner):
                out.append(value is not None)
                if value is not None:
                    self._encode(inner, value, out)
            case ("enum", width, codes):
                out += codes[value].to_bytes(width, "big")
            case ("struct", fields):
                for field in fields:
                    field = chosen(field, value)
                    if field is not None:
                        self._encode(field[1], value[field[0]], out)


def chosen(field, values):
    """A field, or the one that a select comes to; none if that has no body."""
    if field[0] != "select":
        return field
    _, selector, cases = field
    return cases[values[selector]]


def text(kind, octets):
    """What encoding.md, "Strictness" and "Domains and identifiers", says beside the notation."""
    try:
        value = octets.decode()
    except UnicodeDecodeError as error:
        raise Malformed("no UTF-8") from error
    if kind == "Domain" and not is_domain(value):
        raise Malformed("no domain")
    return value


def is_domain(name):
    labels = name.split(".")
    return len(name) <= 253 and len(labels) >= 2 and all(map(LABEL.fullmatch, labels)) and not labels[-1].isdigit()


class Reader:
    """A cursor over octets."""

    def __init__(self, octets):
        self.rest = bytes(octets)

    def take(self, length):
        if length > len(self.rest):
            raise Malformed("the input ends early")
        taken, self.rest = self.rest[:length], self.rest[length:]
        return taken

    def vector(self):
        """The content of a <V> vector (RFC 9420 section 2.1.2)."""
        first = self.take(1)[0]
        more = (0, 1, 3, None)[first >> 6]
        if more is None:
            raise Malformed("a length in the form of eight octets")
        length = (first & 0x3F) << (8 * more) | int.from_bytes(self.take(more), "big")
        if (more == 1 and length < 1 << 6) or (more == 3 and length < 1 << 14):
            raise Malformed("a length that is not in its shortest form")
        return self.take(length)


def length(size):
    """The length of a vector, in its shortest form."""
    if size < 1 << 6:
        return bytes([size])
    if size < 1 << 14:
        return (size | 0x4000).to_bytes(2, "big")
    return (size | 0x8000_0000).to_bytes(4, "big")


def vector(content):
    """A <V> vector."""
    return length(len(content)) + bytes(content)
