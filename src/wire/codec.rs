//! Bounded reading and writing of TLS presentation language: the primitives, and the macros by which a struct, an enum
//! or a `select` is declared once and gets its encoder, its decoder and (for tests and fuzzers) random values.

use bytes::Bytes;

use crate::base::{AliasId, ClientId, Domain, GroupId, QsClientId, QsUserId, Secret, UserId};

/// Longest vector, RFC 9420 section 2.1.2 (the two largest bits of the length select its own size; four bytes at most).
pub const MAX_VECTOR: usize = (1 << 30) - 1;

/// Why bytes are not an encoding of the expected type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ends before the value does.
    #[error("the input ends early")]
    Truncated,
    /// The input goes on after the value.
    #[error("trailing bytes")]
    Trailing,
    /// A vector length not in its shortest form, or longer than a vector may be.
    #[error("a vector length is not minimal or too large")]
    Length,
    /// A value that the type does not have.
    #[error("{0} has no such value")]
    Value(&'static str),
}

/// A cursor over received bytes. Values taken from it share the received buffer.
#[derive(Clone, Debug)]
pub struct Reader {
    rest: Bytes,
}

impl Reader {
    /// Reads from the start of `input`.
    pub fn new(input: Bytes) -> Self {
        Self { rest: input }
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `n` bytes, without copying.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if there are fewer.
    pub fn take(&mut self, n: usize) -> Result<Bytes, DecodeError> {
        if n > self.rest.len() {
            return Err(DecodeError::Truncated);
        }
        Ok(self.rest.split_to(n))
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if there are fewer.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, _) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        let head = *head;
        bytes::Buf::advance(&mut self.rest, N);
        Ok(head)
    }

    /// The content of the next `<V>` vector.
    ///
    /// # Errors
    /// [`DecodeError::Length`] for a length that is not minimal, [`DecodeError::Truncated`] if the content is cut off.
    pub fn vector(&mut self) -> Result<Bytes, DecodeError> {
        let (length, used) = match decode_varint(&self.rest) {
            Length::Known(length, used) => (length, used),
            Length::Needs(_) => return Err(DecodeError::Truncated),
            Length::Invalid => return Err(DecodeError::Length),
        };
        bytes::Buf::advance(&mut self.rest, used);
        self.take(length)
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`] otherwise.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }
}

/// A vector length at the start of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// The length, and how many bytes its encoding took.
    Known(usize, usize),
    /// So many bytes are needed to know it.
    Needs(usize),
    /// Not minimal, or of the eight-byte form.
    Invalid,
}

/// Reads the variable-length vector length (RFC 9420 section 2.1.2) that `input` begins with.
pub fn decode_varint(input: &[u8]) -> Length {
    let Some(&first) = input.first() else { return Length::Needs(1) };
    let size = match first >> 6 {
        0 => return Length::Known(usize::from(first), 1),
        1 => 2,
        2 => 4,
        _ => return Length::Invalid,
    };
    let Some(bytes) = input.get(..size) else { return Length::Needs(size) };
    let value = bytes[1..].iter().fold(usize::from(first & 0x3f), |value, byte| value << 8 | usize::from(*byte));
    let minimal = if size == 2 { value >= 1 << 6 } else { value >= 1 << 14 };
    if minimal { Length::Known(value, size) } else { Length::Invalid }
}

/// Appends the variable-length encoding of a vector length. Lengths above [`MAX_VECTOR`] cannot be encoded; no value
/// within the protocol's size limits comes near it.
pub fn encode_varint(length: usize, out: &mut Vec<u8>) {
    debug_assert!(length <= MAX_VECTOR);
    match varint_len(length) {
        1 => out.push(length as u8),
        2 => out.extend_from_slice(&(length as u16 | 0x4000).to_be_bytes()),
        _ => out.extend_from_slice(&(length as u32 | 0x8000_0000).to_be_bytes()),
    }
}

const fn varint_len(length: usize) -> usize {
    match length {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        _ => 4,
    }
}

/// A value with an encoding in TLS presentation language.
pub trait Encode {
    /// Appends the encoding.
    fn encode(&self, out: &mut Vec<u8>);

    /// The length of the encoding in bytes.
    fn encoded_len(&self) -> usize;

    /// The encoding alone.
    fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        self.encode(&mut out);
        out
    }
}

/// A value that can be decoded. `encode(decode(x)) == x` for every accepted `x`.
pub trait Decode: Sized {
    /// Takes one value from the front of `input`.
    ///
    /// # Errors
    /// [`DecodeError`] if the front of `input` is not an encoding.
    fn decode(input: &mut Reader) -> Result<Self, DecodeError>;

    /// Decodes `input`, all of it.
    ///
    /// # Errors
    /// [`DecodeError`] if it is not exactly one encoding.
    fn from_bytes(input: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(input);
        let value = Self::decode(&mut reader)?;
        reader.finish()?;
        Ok(value)
    }

    /// Decodes a copy of `input`, all of it.
    ///
    /// # Errors
    /// As [`Self::from_bytes`].
    fn from_slice(input: &[u8]) -> Result<Self, DecodeError> {
        Self::from_bytes(Bytes::copy_from_slice(input))
    }
}

macro_rules! integers {
    ($($int:ty),*) => {$(
        impl Encode for $int {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }

            fn encoded_len(&self) -> usize {
                size_of::<$int>()
            }
        }

        impl Decode for $int {
            fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
                Ok(Self::from_be_bytes(input.array()?))
            }
        }
    )*};
}

integers!(u8, u16, u32, u64);

impl Encode for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn encoded_len(&self) -> usize {
        1
    }
}

impl Decode for bool {
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Value("bool")),
        }
    }
}

impl<T: Encode> Encode for Option<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.is_some().encode(out);
        if let Some(value) = self {
            value.encode(out);
        }
    }

    fn encoded_len(&self) -> usize {
        1 + self.as_ref().map_or(0, Encode::encoded_len)
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        if bool::decode(input)? { T::decode(input).map(Some) } else { Ok(None) }
    }
}

impl<T: Encode> Encode for [T] {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_varint(self.iter().map(Encode::encoded_len).sum(), out);
        for value in self {
            value.encode(out);
        }
    }

    fn encoded_len(&self) -> usize {
        let content = self.iter().map(Encode::encoded_len).sum();
        varint_len(content) + content
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_slice().encode(out);
    }

    fn encoded_len(&self) -> usize {
        self.as_slice().encoded_len()
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let mut content = Reader::new(input.vector()?);
        let mut values = Vec::new();
        while content.remaining() > 0 {
            let before = content.remaining();
            values.push(T::decode(&mut content)?);
            // No type of the protocol is empty; were one added, a vector of it would have no end.
            if content.remaining() == before {
                return Err(DecodeError::Value("vector of nothing"));
            }
        }
        Ok(values)
    }
}

impl<const N: usize> Encode for [u8; N] {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn encoded_len(&self) -> usize {
        N
    }
}

impl<const N: usize> Decode for [u8; N] {
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        input.array()
    }
}

impl<const N: usize> Encode for Secret<N> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.expose());
    }

    fn encoded_len(&self) -> usize {
        N
    }
}

impl<const N: usize> Decode for Secret<N> {
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        input.array().map(Self::new)
    }
}

/// `opaque<V>`: bytes that this layer does not look into. Decoded without copying.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Opaque(pub Bytes);

impl Opaque {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Opaque {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "opaque[{}]", self.0.len())
    }
}

impl From<Vec<u8>> for Opaque {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<&[u8]> for Opaque {
    fn from(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }
}

impl AsRef<[u8]> for Opaque {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Encode for Opaque {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_varint(self.0.len(), out);
        out.extend_from_slice(&self.0);
    }

    fn encoded_len(&self) -> usize {
        varint_len(self.0.len()) + self.0.len()
    }
}

impl Decode for Opaque {
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        input.vector().map(Self)
    }
}

/// UTF-8 text as `opaque<V>`.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Text(pub String);

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Encode for Text {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_varint(self.0.len(), out);
        out.extend_from_slice(self.0.as_bytes());
    }

    fn encoded_len(&self) -> usize {
        varint_len(self.0.len()) + self.0.len()
    }
}

impl Decode for Text {
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let bytes = input.vector()?;
        let text = std::str::from_utf8(&bytes).map_err(|_| DecodeError::Value("UTF-8 text"))?;
        Ok(Self(text.to_owned()))
    }
}

impl Encode for Domain {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_varint(self.as_str().len(), out);
        out.extend_from_slice(self.as_str().as_bytes());
    }

    fn encoded_len(&self) -> usize {
        varint_len(self.as_str().len()) + self.as_str().len()
    }
}

impl Decode for Domain {
    fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
        let bytes = input.vector()?;
        let name = std::str::from_utf8(&bytes).ok().and_then(|name| name.parse().ok());
        name.ok_or(DecodeError::Value("domain"))
    }
}

/// Encoder and decoder of a struct declared elsewhere: its fields one after another.
macro_rules! wire_fields {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::wire::Encode for $name {
            #[allow(unused_variables, reason = "a struct may have no fields")]
            fn encode(&self, out: &mut Vec<u8>) {
                $($crate::wire::Encode::encode(&self.$field, out);)*
            }

            fn encoded_len(&self) -> usize {
                0 $(+ $crate::wire::Encode::encoded_len(&self.$field))*
            }
        }

        impl $crate::wire::Decode for $name {
            #[allow(unused_variables, reason = "a struct may have no fields")]
            fn decode(input: &mut $crate::wire::Reader) -> Result<Self, $crate::wire::DecodeError> {
                Ok(Self { $($field: $crate::wire::Decode::decode(input)?),* })
            }
        }
    };
}

/// Declares structs of the protocol: each is the sequence of its fields.
macro_rules! wire_structs {
    ($($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[cfg_attr(any(test, feature = "arbitrary"), derive(arbitrary::Arbitrary))]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        wire_fields!($name { $($field),* });
    )*};
}

/// Declares `select`s of the protocol: a tag, then the variant's body (or nothing).
macro_rules! wire_selects {
    ($($(#[$meta:meta])* pub enum $name:ident: $tag:ty {
        $($(#[$variant_meta:meta])* $variant:ident $(($body:ty))? = $code:literal,)*
    })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[cfg_attr(any(test, feature = "arbitrary"), derive(arbitrary::Arbitrary))]
        pub enum $name { $($(#[$variant_meta])* $variant $(($body))?,)* }

        impl $crate::wire::Encode for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                match self {
                    $(wire_selects!(@pattern $name $variant body $($body)?) => {
                        $crate::wire::Encode::encode(&($code as $tag), out);
                        $(<$body as $crate::wire::Encode>::encode(body, out);)?
                    })*
                }
            }

            fn encoded_len(&self) -> usize {
                size_of::<$tag>() + match self {
                    $(wire_selects!(@pattern $name $variant body $($body)?) => {
                        0 $(+ <$body as $crate::wire::Encode>::encoded_len(body))?
                    })*
                }
            }
        }

        impl $crate::wire::Decode for $name {
            fn decode(input: &mut $crate::wire::Reader) -> Result<Self, $crate::wire::DecodeError> {
                match <$tag as $crate::wire::Decode>::decode(input)? {
                    $($code => Ok(Self::$variant $((<$body as $crate::wire::Decode>::decode(input)?))?),)*
                    _ => Err($crate::wire::DecodeError::Value(stringify!($name))),
                }
            }
        }
    )*};
    (@pattern $name:ident $variant:ident $binding:ident) => { $name::$variant };
    (@pattern $name:ident $variant:ident $binding:ident $body:ty) => { $name::$variant($binding) };
}

/// Declares newtypes over `opaque<V>`.
macro_rules! wire_opaques {
    ($($(#[$meta:meta])* pub struct $name:ident;)*) => {$(
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Hash, Debug)]
        #[cfg_attr(any(test, feature = "arbitrary"), derive(arbitrary::Arbitrary))]
        pub struct $name(pub $crate::wire::Opaque);

        impl $name {
            /// The bytes.
            pub fn as_slice(&self) -> &[u8] {
                self.0.as_slice()
            }
        }

        impl From<&[u8]> for $name {
            fn from(bytes: &[u8]) -> Self {
                Self(bytes.into())
            }
        }

        impl $crate::wire::Encode for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }

            fn encoded_len(&self) -> usize {
                self.0.encoded_len()
            }
        }

        impl $crate::wire::Decode for $name {
            fn decode(input: &mut $crate::wire::Reader) -> Result<Self, $crate::wire::DecodeError> {
                $crate::wire::Decode::decode(input).map(Self)
            }
        }
    )*};
}

wire_fields!(UserId { uuid, domain });
wire_fields!(GroupId { uuid, domain });
wire_fields!(ClientId { user, client });

macro_rules! wire_newtypes {
    ($($name:ident),*) => {$(
        impl Encode for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }

            fn encoded_len(&self) -> usize {
                self.0.encoded_len()
            }
        }

        impl Decode for $name {
            fn decode(input: &mut Reader) -> Result<Self, DecodeError> {
                Decode::decode(input).map(Self)
            }
        }
    )*};
}

wire_newtypes!(AliasId, QsUserId, QsClientId);

#[cfg(any(test, feature = "arbitrary"))]
mod random {
    //! Random values of the types that are not declared by a macro.

    use arbitrary::{Arbitrary, Result, Unstructured};

    use super::*;

    macro_rules! random {
        ($($name:ty, $u:ident => $make:expr;)*) => {$(
            impl<'a> Arbitrary<'a> for $name {
                fn arbitrary($u: &mut Unstructured<'a>) -> Result<Self> {
                    Ok($make)
                }
            }
        )*};
    }

    random! {
        Opaque, u => Self(Bytes::copy_from_slice(<&[u8]>::arbitrary(u)?));
        Text, u => Self(String::arbitrary(u)?);
        Domain, u => {
            let label: String = (0..u.int_in_range(1..=20)?).map(|_| u.choose(b"abz09").map(|b| char::from(*b))).collect::<Result<_>>()?;
            format!("{label}.test").parse().map_err(|_| arbitrary::Error::IncorrectFormat)?
        };
        UserId, u => Self { uuid: u.arbitrary()?, domain: u.arbitrary()? };
        GroupId, u => Self { uuid: u.arbitrary()?, domain: u.arbitrary()? };
        ClientId, u => Self { user: u.arbitrary()?, client: u.arbitrary()? };
        AliasId, u => Self(u.arbitrary()?);
        QsUserId, u => Self(u.arbitrary()?);
        QsClientId, u => Self(u.arbitrary()?);
    }

    impl<'a, const N: usize> Arbitrary<'a> for Secret<N> {
        fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
            u.arbitrary().map(Self::new)
        }
    }
}
