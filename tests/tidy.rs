//! Holds the structure of the crate: which room may use which, a description at the head of every file, files of a
//! readable size, and a few things that must not be written at all. It reads the sources and compiles nothing, so it
//! sees every feature and every platform.
//!
//! Where a rule has to be broken, a comment that begins with `Reason:` on the same line, or on its own lines directly
//! above, says why: it lifts the rules on `unwrap`, `expect`, `panic` and the like, and on `sleep` in tests. Layers, size
//! and headers have no exceptions.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// The rooms and what each may use. An edge that is missing here is missing on purpose: think before adding it.
const ROOMS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("wire", &["base"]),
    ("crypto", &["base", "wire"]),
    ("store", &["base"]),
    ("transport", &["base", "wire"]),
    ("service", &["base", "wire", "crypto", "store"]),
    ("authentication", &["base", "wire", "crypto", "store", "service"]),
    ("queuing", &["base", "wire", "crypto", "store", "service"]),
    ("delivery", &["base", "wire", "crypto", "store", "service", "queuing"]),
    ("push", &["base", "wire", "crypto", "transport", "service"]),
    ("federation", &["base", "wire", "crypto", "store", "transport"]),
    ("client", &["base", "wire", "crypto", "transport"]),
    (
        "dispatch",
        &[
            "base",
            "wire",
            "crypto",
            "store",
            "transport",
            "service",
            "authentication",
            "queuing",
            "delivery",
            "push",
            "federation",
        ],
    ),
    (
        "node",
        &[
            "base",
            "wire",
            "crypto",
            "store",
            "transport",
            "service",
            "authentication",
            "queuing",
            "delivery",
            "push",
            "federation",
            "dispatch",
        ],
    ),
    ("cli", &["base", "wire", "crypto", "node", "client"]),
];

/// Crates whose types stay in one room.
const CONFINED: &[(&str, &[&str])] =
    &[("rocksdb", &["store"]), ("quinn", &["transport", "node"]), ("opentelemetry", &["node"])];

/// Most lines of a file that are not tests.
const MAX_LINES: usize = 600;

/// What needs a reason outside tests.
const NEEDS_REASON: &[&str] = &[".unwrap()", ".expect(", ".unwrap_err()", ".expect_err(", "panic!(", "unreachable!("];

/// What is not written outside tests, whatever the reason.
const NEVER: &[(&str, &str)] = &[
    ("todo!", "finish it, or leave it out and name it among the things that do not exist yet"),
    ("unimplemented!", "finish it, or leave it out and name it among the things that do not exist yet"),
    ("dbg!", "use tracing"),
];

/// A source file, read in two ways.
struct Source {
    path: PathBuf,
    /// As it is.
    text: String,
    /// Comments, strings and characters blanked out; every line where it was.
    code: String,
    /// The same without items that only tests have.
    product: String,
}

impl Source {
    fn new(path: PathBuf, text: String) -> Self {
        let code = blank_comments_and_strings(&text);
        let product = blank_tests(&code);
        Self { path, text, code, product }
    }

    /// Whether the whole file is part of a test.
    fn is_test(&self) -> bool {
        let mut parts = self.path.iter().map(|part| part.to_string_lossy());
        let root = parts.next().unwrap_or_default();
        root == "tests" || root == "benches" || parts.any(|part| part == "tests" || part == "tests.rs")
    }

    /// The room it is in, if it is in one.
    fn room(&self) -> Option<String> {
        let mut parts = self.path.iter().map(|part| part.to_string_lossy());
        if parts.next()? != "src" {
            return None;
        }
        let next = parts.next()?;
        let top_level = ["main.rs", "lib.rs"].contains(&&*next);
        (!top_level).then(|| next.trim_end_matches(".rs").to_owned())
    }

    /// Whether the line gives a reason, or the comment above it does.
    fn has_reason(&self, line: usize) -> bool {
        let lines: Vec<&str> = self.text.lines().collect();
        let gives =
            |text: &str| text.split_once("//").is_some_and(|(_, comment)| comment.trim_start().starts_with("Reason:"));
        let above = lines[..line - 1].iter().rev().take_while(|text| text.trim_start().starts_with("//"));
        gives(lines[line - 1]) || above.into_iter().any(|text| gives(text))
    }
}

/// All that is wrong, in the form `file:line: what is wrong: what to do`.
#[derive(Default)]
struct Complaints(String);

impl Complaints {
    fn add(&mut self, source: &Source, line: usize, what: &str) {
        // Reason: writing to a String cannot fail.
        writeln!(self.0, "{}:{line}: {what}", source.path.display()).unwrap();
    }

    fn none(self) {
        assert!(self.0.is_empty(), "\n{}", self.0);
    }
}

fn sources(roots: &[&str]) -> Vec<Source> {
    fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for root in roots {
        collect(&top.join(root), &mut paths);
    }
    paths.sort();
    assert!(!paths.is_empty(), "no sources found below {}", top.display());
    let source = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        Source::new(path.strip_prefix(top).unwrap().to_owned(), text)
    };
    paths.into_iter().map(source).collect()
}

#[test]
fn rooms_use_only_what_they_may() {
    let table: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let mut complaints = Complaints::default();
    for source in sources(&["src"]).iter().filter(|source| !source.is_test()) {
        let Some(room) = source.room() else { continue };
        let Some(allowed) = table.get(room.as_str()) else {
            complaints.add(source, 1, &format!("there is no room `{room}`: put the file into one, or add the room to ROOMS here and to the description of the structure"));
            continue;
        };
        for (line, used) in uses(&source.product, module_depth(&source.path)) {
            if used == room || allowed.contains(&used.as_str()) {
                continue;
            }
            let what = if table.contains_key(used.as_str()) {
                format!(
                    "`{room}` may not use `{used}` (only {}): pass what is needed in from above, or move it to a room that both may use",
                    if allowed.is_empty() { "itself".to_owned() } else { allowed.join(", ") }
                )
            } else {
                format!("`crate::{used}` is no room: name the room that the item lives in")
            };
            complaints.add(source, line, &what);
        }
    }
    complaints.none();
}

#[test]
fn the_table_of_rooms_has_no_cycles() {
    let mut seen: Vec<&str> = Vec::new();
    for (room, allowed) in ROOMS {
        assert!(!seen.contains(room), "`{room}` is listed twice");
        seen.push(room);
        for used in *allowed {
            assert!(ROOMS.iter().any(|(known, _)| known == used), "`{room}` uses `{used}`, which is not listed");
        }
    }
    // Rooms that use only rooms already taken away can be taken away; with a cycle some are left.
    let mut left: Vec<_> = ROOMS.to_vec();
    loop {
        let before = left.len();
        let remaining = left.clone();
        left.retain(|(_, allowed)| allowed.iter().any(|used| remaining.iter().any(|(room, _)| room == used)));
        if left.is_empty() {
            return;
        }
        assert!(
            left.len() < before,
            "these rooms use each other in a circle: {:?}",
            left.iter().map(|(room, _)| room).collect::<Vec<_>>()
        );
    }
}

#[test]
fn every_file_begins_with_a_description() {
    let mut complaints = Complaints::default();
    for source in &sources(&["src", "tests", "benches", "fuzz/src", "fuzz/fuzz_targets"]) {
        let first = source.text.lines().next().unwrap_or_default();
        let described = first.strip_prefix("//!").is_some_and(|text| text.trim().len() >= 20);
        if !described {
            complaints.add(source, 1, "begin the file with a paragraph `//! ...` that says what it is for");
        }
    }
    complaints.none();
}

#[test]
fn no_file_is_too_long() {
    let mut complaints = Complaints::default();
    for source in sources(&["src"]).iter().filter(|source| !source.is_test()) {
        let tests = source.code.lines().zip(source.product.lines()).filter(|(code, product)| code != product).count();
        let lines = source.text.lines().count() - tests;
        if lines > MAX_LINES {
            complaints.add(
                source,
                MAX_LINES + 1,
                &format!("{lines} lines without its tests, at most {MAX_LINES}: split the file by subject"),
            );
        }
    }
    complaints.none();
}

#[test]
fn what_can_fail_gives_a_reason_why_it_does_not() {
    let mut complaints = Complaints::default();
    for source in sources(&["src"]).iter().filter(|source| !source.is_test()) {
        for pattern in NEEDS_REASON {
            for line in lines_with(&source.product, pattern) {
                if !source.has_reason(line) {
                    complaints.add(source, line, &format!("`{pattern}` outside tests: return an error, or say in a comment `// Reason: ...` here or just above why it cannot happen"));
                }
            }
        }
        for (pattern, instead) in NEVER {
            for line in lines_with(&source.product, pattern) {
                complaints.add(source, line, &format!("`{pattern}`: {instead}"));
            }
        }
    }
    complaints.none();
}

#[test]
fn crates_stay_in_their_rooms() {
    let mut complaints = Complaints::default();
    for source in &sources(&["src"]) {
        let room = source.room().unwrap_or_default();
        for (name, rooms) in CONFINED.iter().filter(|(_, rooms)| !rooms.contains(&room.as_str())) {
            for pattern in [format!("{name}::"), format!("use {name};")] {
                for line in lines_with(&source.code, &pattern) {
                    complaints.add(
                        source,
                        line,
                        &format!("`{name}` is used only in {}: use what that room offers instead", rooms.join(" and ")),
                    );
                }
            }
        }
    }
    complaints.none();
}

#[test]
fn tests_wait_for_events_and_not_for_time() {
    let mut complaints = Complaints::default();
    for source in &sources(&["src", "tests", "benches"]) {
        let in_tests =
            |line: usize| source.is_test() || source.code.lines().nth(line - 1) != source.product.lines().nth(line - 1);
        for line in lines_with(&source.code, "sleep(") {
            if in_tests(line) && !source.has_reason(line) {
                complaints.add(source, line, "`sleep(` in a test: wait for what the test is about (a reply, a line of output, a notification) with a deadline, or give a `// Reason: ...`");
            }
        }
    }
    complaints.none();
}

/// Numbers of the lines in which a pattern begins. A pattern that begins with a letter begins a word.
fn lines_with(code: &str, pattern: &str) -> Vec<usize> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let begins_word = word(pattern.as_bytes()[0]);
    let at_boundary = |at: usize| !begins_word || at == 0 || !word(code.as_bytes()[at - 1]);
    code.match_indices(pattern).filter(|(at, _)| at_boundary(*at)).map(|(at, _)| line_of(code, at)).collect()
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// How many `super`s lead from the file's module to the top of the crate.
fn module_depth(path: &Path) -> usize {
    let depth = path.iter().count() - 1;
    let file = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    if file == "mod" { depth - 1 } else { depth }
}

/// What the code names below `crate::` (or as many `super::` as lead there), with the line: the first segment of each
/// path, through groups in braces.
fn uses(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let from_the_top = ["crate::".to_owned(), "super::".repeat(depth)];
    for prefix in from_the_top.iter().filter(|prefix| !prefix.is_empty()) {
        for (at, _) in code.match_indices(prefix.as_str()) {
            let before = &code[..at];
            let continues = before.ends_with("::") || before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if !continues {
                first_segments(code, at + prefix.len(), &mut found);
            }
        }
    }
    found
}

fn first_segments(code: &str, at: usize, found: &mut Vec<(usize, String)>) {
    let skipped = code[at..].len() - code[at..].trim_start().len();
    let at = at + skipped;
    if !code[at..].starts_with('{') {
        let name: String = code[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        // `crate::$name` in a macro: what it names is seen where the macro is used.
        if !name.is_empty() && name != "self" {
            found.push((line_of(code, at), name));
        }
        return;
    }
    let mut nesting = 0;
    let mut item_begins = false;
    for (offset, c) in code[at..].char_indices() {
        match c {
            '{' => {
                nesting += 1;
                item_begins = nesting == 1;
            }
            '}' if nesting == 1 => return,
            '}' => nesting -= 1,
            ',' if nesting == 1 => item_begins = true,
            c if item_begins && !c.is_whitespace() => {
                item_begins = false;
                first_segments(code, at + offset, found);
            }
            _ => {}
        }
    }
}

/// Replaces comments and the insides of strings and characters by spaces.
fn blank_comments_and_strings(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut blank = |from: usize, to: usize| {
        for byte in &mut out[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    let find = |from: usize, what: &[u8]| {
        (from..bytes.len()).find(|at| bytes[*at..].starts_with(what)).map_or(bytes.len(), |at| at + what.len())
    };
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let end = if rest.starts_with(b"//") {
            rest.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
        } else if rest.starts_with(b"/*") {
            end_of_block_comment(bytes, at)
        } else if let Some(hashes) = raw_string(rest).filter(|_| !after_word) {
            let opening = rest.iter().position(|byte| *byte == b'"').unwrap_or_default();
            find(at + opening + 1, &[&b"\""[..], &b"#".repeat(hashes)].concat())
        } else if rest[0] == b'"' {
            end_of_quoted(bytes, at, b'"')
        } else if rest[0] == b'\'' && is_character(text, at) {
            end_of_quoted(bytes, at, b'\'')
        } else {
            at += 1;
            continue;
        };
        blank(at, end);
        at = end;
    }
    // Blanked bytes are whole characters.
    String::from_utf8(out).unwrap()
}

/// The number of hashes, if a raw string begins here.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let rest = rest.strip_prefix(b"b").or_else(|| rest.strip_prefix(b"c")).unwrap_or(rest).strip_prefix(b"r")?;
    let hashes = rest.iter().take_while(|byte| **byte == b'#').count();
    (rest.get(hashes) == Some(&b'"')).then_some(hashes)
}

fn end_of_block_comment(bytes: &[u8], mut at: usize) -> usize {
    let mut nesting = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            nesting += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            nesting -= 1;
            at += 2;
            if nesting == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn end_of_quoted(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut at = at + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Whether the apostrophe begins a character and not a lifetime.
fn is_character(text: &str, at: usize) -> bool {
    let mut following = text[at + 1..].chars();
    following.next() == Some('\\') || following.next() == Some('\'')
}

/// Replaces items under `#[cfg(test)]` or `#[cfg(all(test, ...))]`, and their attributes, by spaces.
fn blank_tests(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    for marker in ["#[cfg(test)]", "#[cfg(all(test,"] {
        for (from, _) in code.match_indices(marker) {
            for byte in &mut out[from..end_of_item(code, from)] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
    }
    // Reason: only ASCII replaces what is there, item by item.
    String::from_utf8(out).unwrap()
}

/// Where the item ends whose first attribute begins at `from`: at its closing brace, or at its semicolon.
fn end_of_item(code: &str, from: usize) -> usize {
    let mut nesting = 0usize;
    for (offset, c) in code[from..].char_indices() {
        match c {
            '(' | '[' | '{' => nesting += 1,
            ')' | ']' => nesting = nesting.saturating_sub(1),
            '}' => {
                nesting = nesting.saturating_sub(1);
                if nesting == 0 {
                    return from + offset + 1;
                }
            }
            ';' if nesting == 0 => return from + offset + 1,
            _ => {}
        }
    }
    code.len()
}

mod this_test {
    //! The reader above, held against code that could mislead it.

    use super::*;

    fn source(text: &str) -> Source {
        Source::new("src/wire/some.rs".into(), text.to_owned())
    }

    #[test]
    fn groups_chains_and_inline_paths_are_seen() {
        let code = "use crate::{base::{Id, cache::X}, wire::Y,\n crypto};\nuse crate::store::{A, B};\nfn f() { crate::node::g(); super::super::cli::h(); super::k(); $crate::wire::X }";
        let mut names: Vec<_> = uses(code, 2).into_iter().collect();
        names.sort();
        let expected = [(1, "base"), (1, "wire"), (2, "crypto"), (3, "store"), (4, "cli"), (4, "node"), (4, "wire")];
        assert_eq!(names, expected.map(|(line, name)| (line, name.to_owned())));
    }

    #[test]
    fn depth_counts_modules() {
        for (path, depth) in [("src/wire/mod.rs", 1), ("src/wire/codec.rs", 2), ("src/store/tests/mod.rs", 2)] {
            assert_eq!(module_depth(Path::new(path)), depth, "{path}");
        }
    }

    #[test]
    fn comments_strings_and_tests_do_not_count() {
        let text = concat!(
            "fn a<'a>(x: &'a str) -> char { '\\'' }\n",
            "// x.unwrap()\n",
            "/* /* x.unwrap() */ todo! */\n",
            "const S: &str = \"todo! \\\" .unwrap()\";\n",
            "const R: &str = r#\"a \" .unwrap()\"#;\n",
            "const C: char = '\"'; const D: char = 'é';\n",
            "#[cfg(test)]\nmod tests { fn t() { x.unwrap(); if true { y } } }\n",
            "fn b() { x.unwrap() }\n",
            "#[cfg(all(test, feature = \"f\"))]\nmod tests;\n",
            "#[expect(dead_code)]\nfn c() { x.unwrap_or(1) }\n",
        );
        let source = source(text);
        assert_eq!(lines_with(&source.product, ".unwrap()"), [9]);
        assert!(lines_with(&source.product, "todo!").is_empty());
        assert!(lines_with(&source.product, ".expect(").is_empty());
        assert_eq!(source.code.lines().count(), text.lines().count());
        assert_eq!(source.product.matches("mod tests").count(), 0);
    }

    #[test]
    fn a_reason_stands_on_the_line_or_above_it() {
        let text = "a.unwrap(); // Reason: it is there.\nb.unwrap();\n// Reason: so it is,\n// and always was.\nc.unwrap();\n// Because.\nd.unwrap();\n";
        let source = source(text);
        let with: Vec<_> =
            lines_with(&source.product, ".unwrap()").into_iter().filter(|line| source.has_reason(*line)).collect();
        assert_eq!(with, [1, 5]);
    }

    #[test]
    fn words_are_whole() {
        assert!(lines_with("unquinn::x; my_sleep(1)", "quinn::").is_empty());
        assert!(lines_with("my_sleep(1)", "sleep(").is_empty());
        assert_eq!(lines_with("\ntokio::time::sleep(1)", "sleep("), [2]);
    }
}
