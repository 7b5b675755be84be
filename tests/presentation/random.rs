//! Values made from the grammar, for whoever decodes them. They are as small as chance has it, and never nest for ever.

use super::{Grammar, Type, Value};

/// Chance: each call gives the next 64 bits.
pub type Chance<'a> = &'a mut dyn FnMut() -> u64;

impl Grammar {
    /// A value of the type `name`.
    pub fn random(&self, name: &str, chance: Chance<'_>) -> Value {
        match name {
            "Text" => Value::Text(text(chance)),
            "Domain" => Value::Text(domain(chance)),
            _ => self.random_as(self.find(name), chance),
        }
    }

    fn random_as(&self, declared: &Type, chance: Chance<'_>) -> Value {
        match declared {
            Type::Integer(size) => Value::Integer(integer(*size, chance)),
            Type::Octets(length) => Value::Octets(octets(*length, chance)),
            Type::Rest | Type::Opaque => {
                // The lengths on either side of where their form changes are the interesting ones.
                let length = match chance() % 16 {
                    0 => 0,
                    1 => 63,
                    2 => 64,
                    3 => 16_383 + (chance() % 2) as usize,
                    _ => (chance() % 40) as usize,
                };
                Value::Octets(octets(length, chance))
            }
            Type::Vector(element) => {
                let length = chance() % 4;
                Value::Vector((0..length).map(|_| self.random_as(element, chance)).collect())
            }
            Type::Optional(inner) => {
                Value::Optional((chance() % 2 == 1).then(|| Box::new(self.random_as(inner, chance))))
            }
            Type::Enum(_, codes) => Value::Code(codes[chance() as usize % codes.len()].0.clone()),
            Type::Struct(fields) => {
                let mut values = Vec::new();
                for field in fields {
                    if let Some((name, declared)) = field.chosen(&values) {
                        let value = self.random_as(declared, chance);
                        values.push((name.clone(), value));
                    }
                }
                Value::Struct(values)
            }
            Type::Named(name) => self.random(name, chance),
        }
    }
}

fn integer(size: usize, chance: Chance<'_>) -> u64 {
    let largest = u64::MAX >> (64 - 8 * size);
    match chance() % 8 {
        0 => 0,
        1 => largest,
        _ => chance() & largest,
    }
}

fn octets(length: usize, chance: Chance<'_>) -> Vec<u8> {
    (0..length).map(|_| chance() as u8).collect()
}

fn text(chance: Chance<'_>) -> String {
    (0..chance() % 12)
        .map(|_| ['a', 'Z', '0', ' ', '\u{e9}', '\u{4e2d}', '\u{1f600}', '\0'][chance() as usize % 8])
        .collect()
}

fn domain(chance: Chance<'_>) -> String {
    let label: String = (0..1 + chance() % 20).map(|_| char::from(b"abyz09"[chance() as usize % 6])).collect();
    format!("{label}.test")
}
