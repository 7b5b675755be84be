//! Reads declarations. What the language does not have, or `wire-spec/encoding.md` does not mention, is refused by a panic
//! that says where: a specification that nobody can read is no specification.

use super::{Field, Type};

/// A cursor over the words of a file.
pub struct Parser {
    words: Vec<String>,
    at: usize,
}

impl Parser {
    /// Reads from the start.
    pub fn new(source: &str) -> Self {
        let (mut words, mut rest) = (Vec::new(), source);
        while let Some(first) = rest.chars().next() {
            let length = if first.is_whitespace() {
                first.len_utf8()
            } else if rest.starts_with("/*") {
                rest.find("*/").expect("a comment ends") + 2
            } else {
                let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let word =
                    if is_part(first) { rest.find(|c| !is_part(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
                words.push(rest[..word].to_owned());
                word
            };
            rest = &rest[length..];
        }
        Self { words, at: 0 }
    }

    /// All declarations.
    pub fn all(mut self) -> Vec<(String, Type)> {
        let mut found = Vec::new();
        while self.at < self.words.len() {
            found.push(self.declaration());
        }
        found
    }

    fn declaration(&mut self) -> (String, Type) {
        let declared = match self.peek() {
            "struct" => self.structure(),
            "enum" => self.enumeration(),
            _ => {
                let (name, declared) = self.field();
                return (name, declared);
            }
        };
        let name = self.word();
        self.expect(";");
        (name, declared)
    }

    fn enumeration(&mut self) -> Type {
        self.expect("enum");
        self.expect("{");
        let mut codes = Vec::new();
        loop {
            if self.take("(") {
                let width = match self.number() {
                    255 => 1,
                    65_535 => 2,
                    other => self.fail(&format!("{other} is no largest code of an enum")),
                };
                self.expect(")");
                self.expect("}");
                return Type::Enum(width, codes);
            }
            let name = self.word();
            self.expect("(");
            let code = self.number();
            self.expect(")");
            self.expect(",");
            codes.push((name, code));
        }
    }

    fn structure(&mut self) -> Type {
        self.expect("struct");
        self.expect("{");
        let mut fields = Vec::new();
        while !self.take("}") {
            fields.push(if self.peek() == "select" {
                self.select()
            } else {
                let (name, declared) = self.field();
                Field::Plain(name, declared)
            });
        }
        Type::Struct(fields)
    }

    fn select(&mut self) -> Field {
        for word in ["select", "("] {
            self.expect(word);
        }
        self.word();
        self.expect(".");
        let selector = self.word();
        for word in [")", "{"] {
            self.expect(word);
        }
        let mut cases = Vec::new();
        while self.take("case") {
            let case = self.word();
            self.expect(":");
            let body = if self.peek() == "struct" {
                for word in ["struct", "{", "}", ";"] {
                    self.expect(word);
                }
                None
            } else {
                Some(self.field())
            };
            cases.push((case, body));
        }
        self.expect("}");
        self.expect(";");
        Field::Select(selector, cases)
    }

    /// `T name;`, `T name<V>;`, `opaque name[...];`, `optional<T> name;`
    fn field(&mut self) -> (String, Type) {
        let element = if self.take("optional") {
            self.expect("<");
            let inner = self.simple();
            self.expect(">");
            Some(Type::Optional(Box::new(inner)))
        } else if self.take("opaque") {
            None
        } else {
            Some(self.simple())
        };
        let name = self.word();
        let declared = if self.take("<") {
            self.expect("V");
            self.expect(">");
            element.map_or(Type::Opaque, |element| Type::Vector(Box::new(element)))
        } else if self.take("[") {
            assert!(element.is_none(), "{name}: only opaque has a fixed length");
            let length = self.word();
            while !self.take("]") {
                self.at += 1;
            }
            length.parse().map_or(Type::Rest, Type::Octets)
        } else {
            element.unwrap_or_else(|| self.fail("opaque without a length"))
        };
        self.expect(";");
        (name, declared)
    }

    fn simple(&mut self) -> Type {
        match self.word().as_str() {
            "uint8" => Type::Integer(1),
            "uint16" => Type::Integer(2),
            "uint32" => Type::Integer(4),
            "uint64" => Type::Integer(8),
            name => Type::Named(name.to_owned()),
        }
    }

    fn peek(&self) -> &str {
        self.words.get(self.at).map_or("the end", String::as_str)
    }

    fn take(&mut self, word: &str) -> bool {
        let is_there = self.peek() == word;
        self.at += usize::from(is_there);
        is_there
    }

    fn expect(&mut self, word: &str) {
        if !self.take(word) {
            self.fail(&format!("`{word}` is expected"));
        }
    }

    fn word(&mut self) -> String {
        let word = self.peek().to_owned();
        if !word.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            self.fail("a word is expected");
        }
        self.at += 1;
        word
    }

    fn number(&mut self) -> u64 {
        let word = self.word();
        word.parse().unwrap_or_else(|_| self.fail("a number is expected"))
    }

    fn fail(&self, why: &str) -> ! {
        let from = self.at.saturating_sub(12);
        panic!("{why}, at: {} >>{}", self.words[from..self.at].join(" "), self.peek())
    }
}
