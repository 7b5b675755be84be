"""The group ristretto255 (RFC 9496). Not in constant time: for tests only."""

from __future__ import annotations

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493

D = -121665 * pow(121666, -1, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def is_negative(x: int) -> bool:
    """RFC 9496 section 3.1: odd representatives are negative."""
    return x % P % 2 == 1


def absolute(x: int) -> int:
    """The one of x and -x that is not negative."""
    return -x % P if is_negative(x) else x % P


def sqrt_ratio(u: int, v: int) -> tuple[bool, int]:
    """SQRT_RATIO_M1 (RFC 9496 section 4.2): whether u/v is a square, and a root of it or of SQRT_M1 * u/v."""
    root = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    check = v * root * root % P
    flipped = check in (-u % P, -u * SQRT_M1 % P)
    if flipped:
        root = root * SQRT_M1 % P
    return check in (u % P, -u % P), absolute(root)


SQRT_AD_MINUS_ONE = P - sqrt_ratio(-D - 1, 1)[1]
INVSQRT_A_MINUS_D = sqrt_ratio(1, -1 - D)[1]


class Element:
    """An element, by a point of edwards25519 in extended coordinates."""

    def __init__(self, x: int, y: int, z: int, t: int) -> None:
        self.x, self.y, self.z, self.t = x % P, y % P, z % P, t % P

    @classmethod
    def decode(cls, octets: bytes) -> Element:
        """The element with this encoding (section 4.3.1); ValueError if there is none."""
        s = int.from_bytes(octets, "little")
        if len(octets) != 32 or s >= P or is_negative(s):
            raise ValueError("not the canonical encoding of a field element that is not negative")
        ss = s * s % P
        u1, u2 = 1 - ss, 1 + ss
        v = -D * u1 * u1 - u2 * u2
        square, root = sqrt_ratio(1, v * u2 * u2 % P)
        den_x = root * u2
        den_y = root * den_x * v
        x = absolute(2 * s * den_x)
        y = u1 * den_y % P
        if not square or is_negative(x * y) or y == 0:
            raise ValueError("not an element")
        return cls(x, y, 1, x * y)

    def encode(self) -> bytes:
        """The one encoding (section 4.3.2)."""
        u1 = (self.z + self.y) * (self.z - self.y)
        u2 = self.x * self.y
        root = sqrt_ratio(1, u1 * u2 * u2 % P)[1]
        den1, den2 = root * u1, root * u2
        z_inverse = den1 * den2 * self.t
        if is_negative(self.t * z_inverse):
            x, y, den_inverse = self.y * SQRT_M1, self.x * SQRT_M1, den1 * INVSQRT_A_MINUS_D
        else:
            x, y, den_inverse = self.x, self.y, den2
        if is_negative(x * z_inverse):
            y = -y
        return absolute(den_inverse * (self.z - y)).to_bytes(32, "little")

    @classmethod
    def derive(cls, octets: bytes) -> Element:
        """An element from 64 uniform octets (section 4.3.4)."""
        halves = (int.from_bytes(half, "little") % 2**255 for half in (octets[:32], octets[32:]))
        first, second = (cls._map(half % P) for half in halves)
        return first + second

    @classmethod
    def _map(cls, t: int) -> Element:
        r = SQRT_M1 * t * t % P
        u = (r + 1) * (1 - D * D) % P
        v = (-1 - r * D) * (r + D) % P
        square, s = sqrt_ratio(u, v)
        c = -1
        if not square:
            s, c = -absolute(s * t), r
        n = c * (r - 1) * (D - 1) ** 2 - v
        w0, w1, w2, w3 = 2 * s * v, n * SQRT_AD_MINUS_ONE, 1 - s * s, 1 + s * s
        return cls(w0 * w3, w2 * w1, w1 * w3, w0 * w2)

    def __add__(self, other: Element) -> Element:
        a = (self.y - self.x) * (other.y - other.x)
        b = (self.y + self.x) * (other.y + other.x)
        c = 2 * D * self.t * other.t
        d = 2 * self.z * other.z
        e, f, g, h = b - a, d - c, d + c, b + a
        return Element(e * f, g * h, f * g, e * h)

    def __rmul__(self, scalar: int) -> Element:
        result, power = IDENTITY, self
        scalar %= ORDER
        while scalar:
            if scalar & 1:
                result += power
            power += power
            scalar >>= 1
        return result

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Element):
            return NotImplemented
        return (self.x * other.y - self.y * other.x) % P == 0 or (self.y * other.y - self.x * other.x) % P == 0

    __hash__ = None  # type: ignore[assignment]


IDENTITY = Element(0, 1, 1, 0)
_Y = 4 * pow(5, -1, P) % P
_X = sqrt_ratio(_Y * _Y - 1, D * _Y * _Y + 1)[1]
GENERATOR = Element(_X, _Y, 1, _X * _Y)
