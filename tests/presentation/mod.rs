//! An interpreter of TLS presentation language (RFC 8446 section 3, RFC 9420 section 2.1), as `wire-spec/encoding.md`
//! describes it. It reads `wire-spec/*.tls` and decodes, encodes and makes values from what stands there and from nothing
//! else: it knows neither the types nor the codec of the crate, so that the two can be held against each other.

mod parse;
mod random;
mod value;

use std::collections::BTreeMap;

#[allow(unused_imports, reason = "not every test wants all of it")]
pub use value::{Invalid, Value, hex};

/// The files of `wire-spec/`, as they were when this was built.
const SOURCES: &[&str] = &[
    include_str!("../../wire-spec/types.tls"),
    include_str!("../../wire-spec/envelope.tls"),
    include_str!("../../wire-spec/server.tls"),
    include_str!("../../wire-spec/credentials.tls"),
    include_str!("../../wire-spec/authentication.tls"),
    include_str!("../../wire-spec/connections.tls"),
    include_str!("../../wire-spec/content.tls"),
    include_str!("../../wire-spec/queues.tls"),
    include_str!("../../wire-spec/queuing.tls"),
    include_str!("../../wire-spec/delivery.tls"),
    include_str!("../../wire-spec/federation.tls"),
    include_str!("../../wire-spec/mls.tls"),
];

/// All types that are declared, by name.
pub struct Grammar {
    types: BTreeMap<String, Type>,
}

/// What a type is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// `uint8` to `uint64`: so many octets.
    Integer(usize),
    /// `opaque x[N]`.
    Octets(usize),
    /// `opaque x[...]` with a length that the text gives: up to the end of what contains it.
    Rest,
    /// `opaque x<V>`.
    Opaque,
    /// `T x<V>`.
    Vector(Box<Type>),
    /// `optional<T>`.
    Optional(Box<Type>),
    /// `enum`: so many octets, and the codes by name in the order of the text.
    Enum(usize, Vec<(String, u64)>),
    /// `struct`.
    Struct(Vec<Field>),
    /// A type that is declared elsewhere.
    Named(String),
}

/// A part of a struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// A field.
    Plain(String, Type),
    /// A `select` over an earlier field of the struct: for each of its values the field that follows, if any.
    Select(String, Vec<(String, Option<(String, Type)>)>),
}

impl Grammar {
    /// What `wire-spec/` declares.
    pub fn of_the_specification() -> Self {
        let mut grammar = Self { types: BTreeMap::new() };
        for source in SOURCES {
            for (name, declared) in declarations(source) {
                assert!(grammar.types.insert(name.clone(), declared).is_none(), "{name} is declared twice");
            }
        }
        for (name, declared) in &grammar.types {
            for used in names(declared) {
                assert!(grammar.types.contains_key(used), "{name} uses {used}, which is declared nowhere");
            }
        }
        grammar
    }

    /// The names of all types.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.types.keys().map(String::as_str)
    }

    /// The types that `name` is made of, itself included.
    pub fn parts_of(&self, name: &str) -> Vec<&str> {
        let (mut found, mut next) = (Vec::new(), vec![name]);
        while let Some(name) = next.pop() {
            let (name, declared) = self.types.get_key_value(name).unwrap_or_else(|| panic!("{name} is not declared"));
            if !found.contains(&name.as_str()) {
                found.push(name);
                next.extend(names(declared));
            }
        }
        found
    }

    fn find(&self, name: &str) -> &Type {
        self.types.get(name).unwrap_or_else(|| panic!("{name} is not declared"))
    }
}

/// What a file declares, in its order.
pub fn declarations(source: &str) -> Vec<(String, Type)> {
    parse::Parser::new(source).all()
}

/// The types that a type names.
fn names(of: &Type) -> Vec<&str> {
    match of {
        Type::Integer(_) | Type::Octets(_) | Type::Rest | Type::Opaque | Type::Enum(..) => Vec::new(),
        Type::Vector(element) | Type::Optional(element) => names(element),
        Type::Named(name) => vec![name],
        Type::Struct(fields) => fields
            .iter()
            .flat_map(|field| match field {
                Field::Plain(_, declared) => names(declared),
                Field::Select(_, cases) => {
                    cases.iter().filter_map(|(_, case)| case.as_ref()).flat_map(|(_, of)| names(of)).collect()
                }
            })
            .collect(),
    }
}
