//! Reads what documents show: blocks of code, code in a line, links and headings. Knows as much of Markdown as those of this repository
//! use.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The top of the repository.
pub fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A document.
pub struct Document {
    /// Where it is, from the top.
    pub path: PathBuf,
    /// Its blocks of code.
    pub blocks: Vec<Block>,
    /// What is in backticks elsewhere, with the number of the line in which its paragraph begins.
    pub spans: Vec<(usize, String)>,
    /// Where its links lead.
    pub links: Vec<(usize, String)>,
    /// Its lines that are in no block.
    pub prose: Vec<(usize, String)>,
}

/// A block of code.
pub struct Block {
    /// The number of its first line.
    pub line: usize,
    /// What it says that it is.
    pub language: String,
    /// The heading that it is under.
    pub under: String,
    /// What is in it.
    pub lines: Vec<String>,
}

impl Document {
    /// Reads one.
    pub fn read(path: &str) -> Self {
        let text = fs::read_to_string(top().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let (mut blocks, mut prose, mut open, mut under) = (Vec::<Block>::new(), Vec::new(), false, String::new());
        for (line, text) in (1..).zip(text.lines()) {
            match (text.trim_start().strip_prefix("```"), open) {
                (Some(language), false) => {
                    let (language, under) = (language.to_owned(), under.clone());
                    blocks.push(Block { line: line + 1, language, under, lines: Vec::new() });
                    open = true;
                }
                (Some(_), true) => open = false,
                (None, true) => blocks.last_mut().expect("one is open").lines.push(text.to_owned()),
                (None, false) => {
                    if text.starts_with('#') {
                        text.trim_start_matches('#').trim().clone_into(&mut under);
                    }
                    prose.push((line, text.to_owned()));
                }
            }
        }
        assert!(!open, "{path}: a block of code does not end");
        let (mut spans, mut links) = (Vec::new(), Vec::new());
        // A paragraph, an item or a row, whose code and links may go over lines.
        for paragraph in prose.chunk_by(|(_, before), (_, after)| !begins_anew(before, after)) {
            let (line, _) = paragraph[0];
            let text: Vec<_> = paragraph.iter().map(|(_, text)| text.trim()).collect();
            let text = text.join(" ");
            let parts: Vec<_> = text.split('`').collect();
            assert!(parts.len() % 2 == 1, "{path}:{line}: a backtick has no partner");
            spans.extend(parts.into_iter().skip(1).step_by(2).map(|span| (line, span.to_owned())));
            let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            links.extend(targets.map(|(target, _)| (line, target.to_owned())));
        }
        Self { path: path.into(), blocks, spans, links, prose }
    }

    /// Where something is, for whoever is to correct it.
    pub fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }

    /// The only block under a heading that is a session and has such a line.
    pub fn session(&self, under: &str, with: &str) -> &Block {
        let is_it = |block: &&Block| {
            block.language == "console" && block.under == under && block.lines.iter().any(|line| line.contains(with))
        };
        let mut found = self.blocks.iter().filter(is_it);
        let block = found.next().unwrap_or_else(|| panic!("{}: no session with {with:?}", self.path.display()));
        assert!(found.next().is_none(), "{}: two sessions with {with:?}", self.path.display());
        block
    }
}

fn begins_anew(before: &str, after: &str) -> bool {
    let after = after.trim_start();
    let is_item =
        after.starts_with("- ") || after.split_once(". ").is_some_and(|(number, _)| number.parse::<u8>().is_ok());
    before.trim().is_empty() || after.is_empty() || after.starts_with(['|', '#']) || is_item
}

/// The words of a command as a shell would have them, up to the first thing that is no word of it.
pub fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, '&' | '|' | ';' | '>' | '<') => break,
            (None, '#') if word.is_none() => break,
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}
