//! A Rust file as text, and as text without comments and literals.
//!
//! - Takes: a path. Gives: code, comments, functions with their length.
//! - Knows as much of the language as the rules need: comments, strings, characters, braces.

use std::{fs, path::Path};

/// What stands in front of modules that no release has: for tests, for tests and the simulation (the only feature
/// that has modules).
const TEST_MARKS: [&str; 4] =
    ["#[cfg(test)]", "#[cfg(any(test,", "#[cfg(all(test,", "#[cfg(feature ="];

/// One file.
pub(super) struct Source {
    pub(super) path: String,
    pub(super) text: String,
    /// The text with comments and the insides of literals blanked; lines and columns are kept.
    code: String,
    /// The other half: comments alone.
    comments: String,
    /// Another file says `#[cfg(test)] mod …;` of it.
    declared_for_tests: bool,
}

/// One function with a body.
pub(super) struct Function {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) lines: usize,
}

impl Source {
    pub(super) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        Self::new(super::relative(path), text)
    }

    pub(super) fn new(path: String, text: String) -> Self {
        let (code, comments) = split(&text);
        Self { path, text, code, comments, declared_for_tests: false }
    }

    /// Marks files that others declare for tests alone: memory twins, contract suites, helpers.
    pub(super) fn mark_tests(sources: &mut [Self]) {
        let declared: Vec<String> = sources.iter().flat_map(Self::test_modules).collect();
        for source in sources {
            let stem = source.path.trim_end_matches(".rs").trim_end_matches("/mod");
            let is_inside = |module: &String| {
                stem.strip_prefix(module)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            source.declared_for_tests = declared.iter().any(is_inside);
        }
    }

    /// Paths, without `.rs`, of modules that this file declares for tests or for the simulation.
    fn test_modules(&self) -> Vec<String> {
        let folder = match self.path.rsplit_once('/') {
            Some((folder, "mod.rs" | "lib.rs" | "main.rs")) => folder,
            _ => self.path.trim_end_matches(".rs"),
        };
        let marks = TEST_MARKS.iter().flat_map(|mark| self.code.split(mark).skip(1));
        let after = marks.filter_map(|rest| {
            let declaration = rest.split([';', '{']).next()?;
            declaration.rsplit_once("mod ").map(|(_, name)| name.trim())
        });
        after.map(|name| format!("{folder}/{name}")).collect()
    }

    pub(super) fn is_product(&self) -> bool {
        self.path.starts_with("src/") || self.path.starts_with("cluster/src/")
    }

    /// A file of unit tests beside the code (`name/tests.rs`, `name/tests/….rs`), or of their helpers.
    pub(super) fn is_test_file(&self) -> bool {
        self.path.ends_with("/tests.rs")
            || self.path.contains("/tests/")
            || self.path.starts_with("tests/")
            || self.declared_for_tests
    }

    pub(super) fn comments(&self) -> String {
        self.comments.clone()
    }

    /// The code that is compiled into the product; nothing of a test file.
    pub(super) fn product_code(&self) -> &str {
        if self.is_test_file() {
            return "";
        }
        // Unit tests stand at the end of a file; `mod tests;` in a header line ends nothing.
        let tests = ["#[cfg(test)]\nmod tests {", "#[cfg(test)]\npub(crate) mod tests {"];
        let end = tests.iter().filter_map(|start| self.code.find(start)).min();
        &self.code[..end.unwrap_or(self.code.len())]
    }

    /// Functions outside tests.
    pub(super) fn functions(&self) -> Vec<Function> {
        let code = self.product_code();
        let starts = code.match_indices("fn ").map(|(at, _)| at);
        let is_word = |at: usize| at == 0 || !is_name(code.as_bytes()[at - 1]);
        starts.filter(|&at| is_word(at)).filter_map(|at| function(code, at)).collect()
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Reads the function whose `fn` stands at `at`; `None` for types and for functions without a body.
fn function(code: &str, at: usize) -> Option<Function> {
    let name: String =
        code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let bytes = code.as_bytes();
    let mut depth = 0_i32;
    let mut body = None;
    for (offset, byte) in bytes[at..].iter().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => {
                body = Some(at + offset);
                break;
            }
            b';' if depth == 0 => return None,
            _ if depth < 0 => return None,
            _ => {}
        }
    }
    let mut depth = 0_i32;
    for (offset, byte) in bytes[body?..].iter().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            let line = code[..at].matches('\n').count() + 1;
            let lines = code[at..body? + offset].matches('\n').count() + 1;
            return (!name.is_empty()).then_some(Function { name, line, lines });
        }
    }
    None
}

/// Splits a text into code and comments; each half has blanks where the other has text.
fn split(text: &str) -> (String, String) {
    let mut splitter = Splitter { code: String::new(), comments: String::new() };
    let mut rest = text;
    while !rest.is_empty() {
        let taken = splitter.take(rest);
        rest = &rest[taken..];
    }
    (splitter.code, splitter.comments)
}

struct Splitter {
    code: String,
    comments: String,
}

impl Splitter {
    /// Takes one comment, literal or character; returns its bytes.
    fn take(&mut self, rest: &str) -> usize {
        if rest.starts_with("//") {
            let end = rest.find('\n').unwrap_or(rest.len());
            self.put(&rest[..end], false);
            return end;
        }
        if rest.starts_with("/*") {
            let end = rest.find("*/").map_or(rest.len(), |at| at + 2);
            self.put(&rest[..end], false);
            return end;
        }
        let previous = self.code.bytes().last().unwrap_or(b' ');
        if let Some(end) = literal(rest, previous) {
            // A literal keeps its quotes, so that code stays code.
            self.code.push('"');
            for c in rest[..end].chars() {
                self.code.push(if c == '\n' { '\n' } else { ' ' });
                self.comments.push(if c == '\n' { '\n' } else { ' ' });
            }
            self.code.push('"');
            return end;
        }
        let first = rest.chars().next().map_or(1, char::len_utf8);
        self.put(&rest[..first], true);
        first
    }

    fn put(&mut self, text: &str, is_code: bool) {
        for c in text.chars() {
            let blank = if c == '\n' { '\n' } else { ' ' };
            self.code.push(if is_code { c } else { blank });
            self.comments.push(if is_code { blank } else { c });
        }
    }
}

/// Returns the length of the literal at the start of `rest`, if there is one.
fn literal(rest: &str, previous: u8) -> Option<usize> {
    let prefix = ["br", "cr", "r", "b", "c", ""].into_iter().find(|prefix| {
        let after = rest.strip_prefix(prefix);
        after.is_some_and(|after| after.starts_with(['"', '#']))
            && (prefix.is_empty() || !is_name(previous))
    });
    if let Some(prefix) = prefix {
        let after = &rest[prefix.len()..];
        let hashes = after.bytes().take_while(|byte| *byte == b'#').count();
        let is_raw = prefix.ends_with('r');
        if after[hashes..].starts_with('"') && (is_raw || hashes == 0) {
            let start = prefix.len() + hashes + 1;
            return Some(string_end(rest, start, is_raw, hashes));
        }
    }
    let after = rest.strip_prefix('\'')?;
    // 'a' and '\n' are characters; 'a alone is a lifetime.
    let mut chars = after.char_indices();
    let (_, first) = chars.next()?;
    if first == '\\' {
        return after[2..].find('\'').map(|at| at + 4);
    }
    let (at, second) = chars.next()?;
    (second == '\'').then_some(at + 2)
}

fn string_end(rest: &str, start: usize, is_raw: bool, hashes: usize) -> usize {
    let close = format!("\"{}", "#".repeat(hashes));
    let mut at = start;
    while at < rest.len() {
        let tail = &rest[at..];
        if !is_raw && tail.starts_with('\\') {
            at += 1 + tail[1..].chars().next().map_or(0, char::len_utf8);
        } else if tail.starts_with(&close) {
            return at + close.len();
        } else {
            at += tail.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

#[test]
fn split_keeps_code_apart_from_comments_and_literals() {
    let text =
        "let a = \"// no \\\" comment\"; // fast\nlet b = 'x'; let c: &'static str = r#\"}\"#;";
    let source = Source::new("src/a.rs".to_owned(), text.to_owned());
    assert!(source.comments.contains("// fast"));
    assert!(!source.comments.contains("no"));
    assert!(source.code.contains("let b ="));
    assert!(source.code.contains("&'static str"));
    assert!(!source.code.contains('}'));
}

#[test]
fn functions_are_measured_to_their_last_brace() {
    let text = "fn a() {\n  if x { '{' } else { \"{\" }\n}\ntrait T { fn b(); }\ntype F = fn(u8);\n\
                #[cfg(test)]\nmod tests {\n  fn long() {\n\n\n  }\n}\n";
    let source = Source::new("src/a.rs".to_owned(), text.to_owned());
    let found: Vec<_> = source.functions().into_iter().map(|f| (f.name, f.line, f.lines)).collect();
    assert_eq!(found, [("a".to_owned(), 1, 3)]);
}
