//! Values of declared types, without a Rust type behind them: decoded field by field, and encoded again.

use super::{Field, Grammar, Type};

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of an integer.
    Integer(u64),
    /// Of `opaque`.
    Octets(Vec<u8>),
    /// Of `Text` and `Domain`, which are octets with a meaning.
    Text(String),
    /// Of an enum: the name of its code.
    Code(String),
    /// Of a vector.
    Vector(Vec<Value>),
    /// Of an `optional`.
    Optional(Option<Box<Value>>),
    /// Of a struct: fields with their names.
    Struct(Vec<(String, Value)>),
}

/// Octets that are no encoding: what is wrong, and in which type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub String);

type Outcome<T> = Result<T, Invalid>;

fn invalid<T>(why: impl Into<String>) -> Outcome<T> {
    Err(Invalid(why.into()))
}

impl Grammar {
    /// Decodes all of `input` as a value of the type `name`.
    pub fn decode(&self, name: &str, mut input: &[u8]) -> Outcome<Value> {
        let value = self.named(name, &mut input)?;
        if input.is_empty() { Ok(value) } else { invalid(format!("octets after {name}")) }
    }

    /// Encodes a value of the type `name`.
    pub fn encode(&self, name: &str, value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_as(&Type::Named(name.to_owned()), value, &mut out);
        out
    }

    fn named(&self, name: &str, input: &mut &[u8]) -> Outcome<Value> {
        let value = self.decode_as(self.find(name), input)?;
        // What encoding.md, "Strictness", says beside the notation.
        match (name, value) {
            ("Text" | "Domain", Value::Octets(octets)) => match String::from_utf8(octets) {
                Ok(text) if name == "Text" || is_domain(&text) => Ok(Value::Text(text)),
                _ => invalid(format!("not a {name}")),
            },
            (_, value) => Ok(value),
        }
    }

    fn decode_as(&self, declared: &Type, input: &mut &[u8]) -> Outcome<Value> {
        Ok(match declared {
            Type::Integer(size) => Value::Integer(integer(take(input, *size)?)),
            Type::Octets(length) => Value::Octets(take(input, *length)?.to_vec()),
            Type::Rest => Value::Octets(std::mem::take(input).to_vec()),
            Type::Opaque => Value::Octets(vector(input)?.to_vec()),
            Type::Vector(element) => {
                let (mut content, mut values) = (vector(input)?, Vec::new());
                while !content.is_empty() {
                    values.push(self.decode_as(element, &mut content)?);
                }
                Value::Vector(values)
            }
            Type::Optional(inner) => Value::Optional(match take(input, 1)? {
                [0] => None,
                [1] => Some(Box::new(self.decode_as(inner, input)?)),
                _ => return invalid("an optional is 0 or 1"),
            }),
            Type::Enum(width, codes) => {
                let code = integer(take(input, *width)?);
                match codes.iter().find(|(_, known)| *known == code) {
                    Some((name, _)) => Value::Code(name.clone()),
                    None => return invalid(format!("no code {code}")),
                }
            }
            Type::Struct(fields) => Value::Struct(self.decode_fields(fields, input)?),
            Type::Named(name) => self.named(name, input)?,
        })
    }

    fn decode_fields(&self, fields: &[Field], input: &mut &[u8]) -> Outcome<Vec<(String, Value)>> {
        let mut values = Vec::new();
        for field in fields {
            if let Some((name, declared)) = field.chosen(&values) {
                let value = self.decode_as(declared, input)?;
                values.push((name.clone(), value));
            }
        }
        Ok(values)
    }

    fn encode_as(&self, declared: &Type, value: &Value, out: &mut Vec<u8>) {
        match (declared, value) {
            (Type::Named(name), value) => self.encode_as(self.find(name), value, out),
            (Type::Integer(size), Value::Integer(value)) => out.extend(&value.to_be_bytes()[8 - size..]),
            (Type::Octets(_) | Type::Rest, Value::Octets(octets)) => out.extend(octets),
            (Type::Opaque, Value::Octets(octets)) => put_vector(octets, out),
            (Type::Opaque, Value::Text(text)) => put_vector(text.as_bytes(), out),
            (Type::Vector(element), Value::Vector(values)) => {
                let mut content = Vec::new();
                values.iter().for_each(|value| self.encode_as(element, value, &mut content));
                put_vector(&content, out);
            }
            (Type::Optional(_), Value::Optional(None)) => out.push(0),
            (Type::Optional(inner), Value::Optional(Some(value))) => {
                out.push(1);
                self.encode_as(inner, value, out);
            }
            (Type::Enum(width, codes), Value::Code(name)) => {
                let (_, code) = codes.iter().find(|(known, _)| known == name).expect("a code of the enum");
                out.extend(&code.to_be_bytes()[8 - width..]);
            }
            (Type::Struct(fields), Value::Struct(values)) => {
                let mut next = values.iter();
                for field in fields {
                    if let Some((_, declared)) = field.chosen(values) {
                        self.encode_as(declared, &next.next().expect("a field is missing").1, out);
                    }
                }
            }
            (declared, value) => panic!("{value:?} is no {declared:?}"),
        }
    }
}

impl Field {
    /// The field itself, or the one that a select comes to after these values; none if that has no body.
    pub(super) fn chosen(&self, values: &[(String, Value)]) -> Option<(&String, &Type)> {
        let (selector, cases) = match self {
            Self::Plain(name, declared) => return Some((name, declared)),
            Self::Select(selector, cases) => (selector, cases),
        };
        let found = values.iter().find(|(name, _)| name == selector);
        let Some((_, Value::Code(code))) = found else { panic!("{selector} is no enum before its select") };
        let case = cases.iter().find(|(case, _)| case == code);
        let case = case.unwrap_or_else(|| panic!("there is no case {code}"));
        case.1.as_ref().map(|(name, declared)| (name, declared))
    }
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Outcome<&'a [u8]> {
    let Some((taken, rest)) = input.split_at_checked(length) else { return invalid("the input ends early") };
    *input = rest;
    Ok(taken)
}

fn integer(octets: &[u8]) -> u64 {
    octets.iter().fold(0, |value, octet| value << 8 | u64::from(*octet))
}

/// RFC 9420 section 2.1.2.
fn vector<'a>(input: &mut &'a [u8]) -> Outcome<&'a [u8]> {
    let first = take(input, 1)?[0];
    let more = match first >> 6 {
        0 => 0,
        1 => 1,
        2 => 3,
        _ => return invalid("a length in the form of eight octets"),
    };
    let length = u64::from(first & 0x3f) << (8 * more) | integer(take(input, more)?);
    if more == 1 && length < 64 || more == 3 && length < 16_384 {
        return invalid("a length that is not in its shortest form");
    }
    take(input, usize::try_from(length).expect("30 bits"))
}

fn put_vector(content: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(content.len()).expect("a vector is short");
    match length {
        0..64 => out.push(length as u8),
        64..16_384 => out.extend((length as u16 | 0x4000).to_be_bytes()),
        _ => out.extend((length | 0x8000_0000).to_be_bytes()),
    }
    out.extend(content);
}

/// encoding.md, "Domains and identifiers".
fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253 && text.contains('.') && text.split('.').all(label) && !last.bytes().all(|c| c.is_ascii_digit())
}

impl Value {
    /// As the test vectors have it: octets in hexadecimal, codes by name, `null` for what is absent, fields in their order.
    pub fn to_json(&self) -> String {
        let list = |values: Vec<String>| values.join(", ");
        match self {
            Self::Integer(value) => value.to_string(),
            Self::Octets(octets) => format!("\"{}\"", hex(octets)),
            // Of bool, which is an enum to the grammar.
            Self::Code(code) if code == "true" || code == "false" => code.clone(),
            Self::Text(text) | Self::Code(text) => quoted(text),
            Self::Vector(values) => format!("[{}]", list(values.iter().map(Self::to_json).collect())),
            Self::Optional(value) => value.as_ref().map_or("null".into(), |value| value.to_json()),
            Self::Struct(fields) => {
                let fields = fields.iter().map(|(name, value)| format!("\"{name}\": {}", value.to_json()));
                format!("{{{}}}", list(fields.collect()))
            }
        }
    }
}

/// RFC 8259 section 7, in ASCII.
fn quoted(text: &str) -> String {
    let escaped = text.encode_utf16().map(|unit| match u8::try_from(unit) {
        Ok(byte @ (b' ' | b'!' | b'#'..=b'[' | b']'..=b'~')) => char::from(byte).to_string(),
        _ => format!("\\u{unit:04x}"),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// Octets in hexadecimal.
pub fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
