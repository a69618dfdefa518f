//! One pattern of a list.

use std::sync::{OnceLock, atomic::AtomicUsize};

use super::{
    bytes::{clean, runes, trim_space},
    expression::parse,
    glob::glob_match,
    program::Program,
};

const MALFORMED: &str = "syntax error: every [ needs a ] with a character between them, and \
                         every \\ a character after it";

/// A pattern, checked for its syntax. It is compiled when it is first compared with a path.
#[derive(Debug)]
pub(super) struct Pattern {
    /// The cleaned text, without a leading `!`.
    text: Vec<u8>,
    is_exclusion: bool,
    matcher: OnceLock<Result<Matcher, &'static str>>,
}

/// How a pattern is compared with a path.
#[derive(Debug)]
enum Matcher {
    /// The path equals the text.
    Exact,
    /// The path starts with the text before the trailing `**`.
    Prefix,
    /// The path ends with the text after the leading `**`.
    Suffix,
    Expression(Program),
}

impl Pattern {
    /// Reads a pattern. Returns `None` for one that is only white space.
    pub(super) fn parse(pattern: &[u8]) -> Result<Option<Self>, &'static str> {
        let trimmed = trim_space(pattern);
        if trimmed.is_empty() {
            return Ok(None);
        }
        let cleaned = clean(trimmed);
        let (is_exclusion, text) = match cleaned.strip_prefix(b"!") {
            Some([]) => return Err("nothing follows the !"),
            Some(text) => (true, text.to_vec()),
            None => (false, cleaned),
        };
        // Go checks the syntax by matching this name, which finds only the errors that matching
        // reaches.
        glob_match(&text, b".").map_err(|_| MALFORMED)?;
        Ok(Some(Self { text, is_exclusion, matcher: OnceLock::new() }))
    }

    /// Returns the cleaned text, without a leading `!`.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Reports whether the pattern re-includes what earlier patterns matched.
    pub(super) fn is_exclusion(&self) -> bool {
        self.is_exclusion
    }

    /// Reports whether the pattern matches the path itself.
    pub(super) fn matches(&self, path: &[u8], budget: &AtomicUsize) -> Result<bool, &'static str> {
        let matcher = self.matcher.get_or_init(|| compile(&self.text, budget));
        Ok(match matcher.as_ref().map_err(|reason| *reason)? {
            Matcher::Exact => path == self.text,
            Matcher::Prefix => path.starts_with(&self.text[..self.text.len() - 2]),
            Matcher::Suffix => {
                let suffix = &self.text[2..];
                path.ends_with(suffix) || suffix.strip_prefix(b"/") == Some(path)
            }
            Matcher::Expression(program) => program.is_match(path),
        })
    }
}

/// The kinds of match, in the order in which a translation can pass through them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Exact,
    Prefix,
    Suffix,
    Expression,
}

fn compile(text: &[u8], budget: &AtomicUsize) -> Result<Matcher, &'static str> {
    let (kind, expression) = translate(text);
    Ok(match kind {
        Kind::Exact => Matcher::Exact,
        Kind::Prefix => Matcher::Prefix,
        Kind::Suffix => Matcher::Suffix,
        Kind::Expression => Matcher::Expression(
            Program::compile(&parse(&expression)?, budget)
                .ok_or("the list's patterns take too much memory")?,
        ),
    })
}

/// Translates a pattern to the text of a Go regular expression, as runes. Only `.`, `+`, `(`, `)`
/// and `$` are escaped, as in moby/patternmatcher: `|`, `{` and `}` keep their special meaning.
fn translate(text: &[u8]) -> (Kind, Vec<u32>) {
    let runes = runes(text);
    // Go's scanner skips a byte order mark.
    let mut rest = runes.strip_prefix(&[0xFEFF]).unwrap_or(&runes);
    let mut expression = vec![u32::from('^')];
    let mut push = |text: &str| expression.extend(text.chars().map(u32::from));
    let mut kind = Kind::Exact;
    let mut is_first = true;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match char::from_u32(*first).unwrap_or('\u{fffd}') {
            '*' if after.first() == Some(&u32::from('*')) => {
                rest = after[1..].strip_prefix(&[u32::from('/')]).unwrap_or(&after[1..]);
                kind = match (rest.is_empty(), kind) {
                    (true, Kind::Exact) => Kind::Prefix,
                    _ => Kind::Expression,
                };
                push(if rest.is_empty() { ".*" } else { "(.*/)?" });
                if is_first {
                    kind = Kind::Suffix;
                }
            }
            '*' => {
                push("[^/]*");
                kind = Kind::Expression;
            }
            '?' => {
                push("[^/]");
                kind = Kind::Expression;
            }
            special @ ('.' | '+' | '(' | ')' | '$') => push(&format!("\\{special}")),
            '\\' => {
                push("\\");
                if let Some((escaped, after)) = after.split_first() {
                    rest = after;
                    push(&char::from_u32(*escaped).unwrap_or('\u{fffd}').to_string());
                    kind = Kind::Expression;
                }
            }
            other => {
                push(&other.to_string());
                if matches!(other, '[' | ']') {
                    kind = Kind::Expression;
                }
            }
        }
        is_first = false;
    }
    push("$");
    (kind, expression)
}
