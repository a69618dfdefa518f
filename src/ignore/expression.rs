//! The subset of Go's regular expression syntax that a translated pattern can contain.
//!
//! A `.dockerignore` pattern becomes the text of a Go regular expression in which most special
//! characters keep their meaning: classes, escapes such as `\d`, `|` and `{2}`. This parser reads
//! that text as Go's `regexp/syntax` does. A different syntax, such as that of the `regex` crate,
//! would give some patterns another meaning.
//!
//! `\p` and `\P` are refused: Go's Unicode tables depend on the release of Go.

use super::charset::CharSet;

/// Greatest number of repetitions, nested ones multiplied.
const MAX_REPEAT: u32 = 1000;
/// Greatest number of repetitions inside one another.
const MAX_DEPTH: usize = 900;
/// Numbers above this value do not change; all of them are too large.
const MAX_NUMBER: u32 = 100_000_000;

/// A node of the syntax tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// One rune.
    Rune(u32),
    /// One rune out of a set.
    Set(CharSet),
    /// Any number of directories, each with its slash: `(.*/)?`.
    Directories,
    /// Any run of runes without a line feed: `.*`.
    AnyRun,
    /// A repetition; no `max` means without end.
    Repeat { node: Box<Node>, min: u32, max: Option<u32> },
    /// The start of the path.
    Start,
    /// The end of the path.
    End,
    /// An ASCII word boundary, or (if false) its absence.
    WordBoundary(bool),
}

/// The alternatives, each a sequence of nodes.
pub(super) type Alternatives = Vec<Vec<Node>>;

type Result<T> = std::result::Result<T, &'static str>;

const INVALID_ESCAPE: &str = "invalid escape sequence";
const MISSING_BRACKET: &str = "missing closing ]";
const INVALID_RANGE: &str = "invalid character class range";
const MISSING_REPEAT_ARGUMENT: &str = "missing argument to repetition operator";
const NESTED_REPEAT: &str = "invalid nested repetition operator";
const INVALID_REPEAT: &str = "invalid repeat count";
const UNICODE_CLASS: &str = "Unicode classes (\\p) are not supported";
const SURROGATE: &str = "escape sequence for a surrogate, which is not a character";

/// Parses the text of an expression, given as runes.
pub(super) fn parse(text: &[u32]) -> Result<Alternatives> {
    let mut parser = Parser { rest: text, alternatives: Vec::new(), nodes: Vec::new() };
    let mut follows_repeat = false;
    while let Some((first, rest)) = parser.rest.split_first() {
        follows_repeat = match char::from_u32(*first).unwrap_or('\u{fffd}') {
            '{' => parser.braces(follows_repeat)?,
            '*' | '?' | '+' => parser.operator(*first, follows_repeat)?,
            '(' => parser.group()?,
            '|' => {
                parser.rest = rest;
                let alternative = std::mem::take(&mut parser.nodes);
                parser.alternatives.push(alternative);
                false
            }
            '^' => parser.push(Node::Start, rest),
            '$' => parser.push(Node::End, rest),
            '.' => parser.any_run()?,
            '[' => {
                let (set, rest) = class(rest)?;
                parser.push(Node::Set(set), rest)
            }
            '\\' => parser.escape(rest)?,
            _ => parser.push(Node::Rune(*first), rest),
        };
    }
    parser.alternatives.push(parser.nodes);
    Ok(parser.alternatives)
}

struct Parser<'t> {
    rest: &'t [u32],
    alternatives: Alternatives,
    /// Nodes of the current alternative.
    nodes: Vec<Node>,
}

/// The methods that parse an item return whether the item ends with a repetition operator.
impl<'t> Parser<'t> {
    fn push(&mut self, node: Node, rest: &'t [u32]) -> bool {
        self.nodes.push(node);
        self.rest = rest;
        false
    }

    /// A translated pattern contains no group but this one.
    fn group(&mut self) -> Result<bool> {
        self.rest = strip(self.rest, "(.*/)?").ok_or("unexpected group")?;
        self.nodes.push(Node::Directories);
        Ok(true)
    }

    fn any_run(&mut self) -> Result<bool> {
        self.rest = strip(self.rest, ".*").ok_or("unexpected .")?;
        self.nodes.push(Node::AnyRun);
        Ok(true)
    }

    fn operator(&mut self, operator: u32, follows_repeat: bool) -> Result<bool> {
        let (min, max) = match char::from_u32(operator) {
            Some('*') => (0, None),
            Some('+') => (1, None),
            _ => (0, Some(1)),
        };
        self.repeat(min, max, follows_repeat)?;
        self.rest = &self.rest[1..];
        Ok(true)
    }

    /// A counted repetition, or a literal brace where it does not have that form.
    fn braces(&mut self, follows_repeat: bool) -> Result<bool> {
        let Some((min, max, rest)) = counts(&self.rest[1..]) else {
            return Ok(self.push(Node::Rune(u32::from('{')), &self.rest[1..]));
        };
        if min > MAX_REPEAT || max.is_some_and(|max| max > MAX_REPEAT || min > max) {
            return Err(INVALID_REPEAT);
        }
        self.repeat(min, max, follows_repeat)?;
        self.rest = rest;
        Ok(true)
    }

    fn repeat(&mut self, min: u32, max: Option<u32>, follows_repeat: bool) -> Result<()> {
        if follows_repeat {
            return Err(NESTED_REPEAT);
        }
        let node = Box::new(self.nodes.pop().ok_or(MISSING_REPEAT_ARGUMENT)?);
        let node = Node::Repeat { node, min, max };
        if depth(&node) > MAX_DEPTH {
            return Err("expression nests too deeply");
        }
        if !is_within_limit(&node, MAX_REPEAT) {
            return Err(INVALID_REPEAT);
        }
        self.nodes.push(node);
        Ok(())
    }

    fn escape(&mut self, after: &'t [u32]) -> Result<bool> {
        let letter = after.first().and_then(|rune| char::from_u32(*rune));
        let rest = after.get(1..).unwrap_or_default();
        Ok(match letter {
            Some('A') => self.push(Node::Start, rest),
            Some('z') => self.push(Node::End, rest),
            Some('b') => self.push(Node::WordBoundary(true), rest),
            Some('B') => self.push(Node::WordBoundary(false), rest),
            Some('p' | 'P') => return Err(UNICODE_CLASS),
            Some('Q') => {
                let end = rest.windows(2).position(|pair| is(pair, "\\E"));
                self.nodes
                    .extend(rest[..end.unwrap_or(rest.len())].iter().copied().map(Node::Rune));
                self.rest = end.map_or(&[], |end| &rest[end + 2..]);
                false
            }
            _ => {
                if let Some(set) = letter.and_then(CharSet::perl) {
                    return Ok(self.push(Node::Set(set), rest));
                }
                let (rune, rest) = escaped_rune(after)?;
                self.push(Node::Rune(rune), rest)
            }
        })
    }
}

fn depth(mut node: &Node) -> usize {
    let mut depth = 0;
    while let Node::Repeat { node: inner, .. } = node {
        (node, depth) = (inner, depth + 1);
    }
    depth
}

/// Go refuses repetitions whose product is above the limit.
fn is_within_limit(node: &Node, limit: u32) -> bool {
    let Node::Repeat { node, min, max } = node else { return true };
    let (is_counted, most) = match (min, max) {
        // The operators `*`, `+` and `?` do not count.
        (0 | 1, None) | (0, Some(1)) => (false, 1),
        (min, max) => (true, max.unwrap_or(*min)),
    };
    if is_counted && most == 0 {
        return true;
    }
    most <= limit && is_within_limit(node, if is_counted { limit / most } else { limit })
}

fn is(runes: &[u32], text: &str) -> bool {
    runes.iter().copied().eq(text.chars().map(u32::from))
}

fn strip<'t>(runes: &'t [u32], prefix: &str) -> Option<&'t [u32]> {
    let (start, rest) = runes.split_at_checked(prefix.len())?;
    is(start, prefix).then_some(rest)
}

/// Reads `n}`, `n,}` or `n,m}`.
fn counts(text: &[u32]) -> Option<(u32, Option<u32>, &[u32])> {
    let (min, rest) = number(text)?;
    if let Some(rest) = strip(rest, "}") {
        return Some((min, Some(min), rest));
    }
    let rest = strip(rest, ",")?;
    if let Some(rest) = strip(rest, "}") {
        return Some((min, None, rest));
    }
    let (max, rest) = number(rest)?;
    Some((min, Some(max), strip(rest, "}")?))
}

/// Reads a number without leading zeros.
fn number(text: &[u32]) -> Option<(u32, &[u32])> {
    let digit = |rune: &u32| char::from_u32(*rune).and_then(|digit| digit.to_digit(10));
    let digits: Vec<u32> = text.iter().map_while(digit).collect();
    if digits.is_empty() || (digits.len() > 1 && digits[0] == 0) {
        return None;
    }
    let value = digits
        .iter()
        .fold(0_u32, |value, digit| if value >= MAX_NUMBER { value } else { value * 10 + digit });
    Some((value, &text[digits.len()..]))
}

/// Reads a class whose opening bracket is consumed.
fn class(text: &[u32]) -> Result<(CharSet, &[u32])> {
    let (is_negated, mut rest) = match strip(text, "^") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut set = CharSet::default();
    let mut is_first = true;
    loop {
        if !is_first && let Some(rest) = strip(rest, "]") {
            set.set_negated(is_negated);
            return Ok((set, rest));
        }
        is_first = false;
        if let Some((named, after)) = named_class(rest)? {
            set.add(&named);
            rest = after;
            continue;
        }
        if let Some(after) = strip(rest, "\\") {
            let letter = after.first().and_then(|rune| char::from_u32(*rune));
            if matches!(letter, Some('p' | 'P')) {
                return Err(UNICODE_CLASS);
            }
            if let Some(perl) = letter.and_then(CharSet::perl) {
                set.add(&perl);
                rest = &after[1..];
                continue;
            }
        }
        let (low, after) = class_rune(rest)?;
        let (high, after) = match strip(after, "-") {
            Some(end) if !end.is_empty() && strip(end, "]").is_none() => class_rune(end)?,
            _ => (low, after),
        };
        if high < low {
            return Err(INVALID_RANGE);
        }
        set.add_range(low, high);
        rest = after;
    }
}

/// Reads a class such as `[:alpha:]` inside a class, if one is there.
fn named_class(text: &[u32]) -> Result<Option<(CharSet, &[u32])>> {
    let Some(name) = strip(text, "[:") else { return Ok(None) };
    let Some(end) = name.windows(2).position(|pair| is(pair, ":]")) else { return Ok(None) };
    let rest = &name[end + 2..];
    let name: String = name[..end].iter().filter_map(|rune| char::from_u32(*rune)).collect();
    CharSet::posix(&name).map(|set| Some((set, rest))).ok_or(INVALID_RANGE)
}

fn class_rune(text: &[u32]) -> Result<(u32, &[u32])> {
    match text.split_first() {
        None => Err(MISSING_BRACKET),
        Some((first, rest)) if *first == u32::from('\\') => escaped_rune(rest),
        Some((first, rest)) => Ok((*first, rest)),
    }
}

/// Reads the rune that an escape sequence stands for, after its backslash.
fn escaped_rune(text: &[u32]) -> Result<(u32, &[u32])> {
    let (first, rest) = text.split_first().ok_or("trailing backslash at end of expression")?;
    let letter = char::from_u32(*first).filter(char::is_ascii).ok_or(INVALID_ESCAPE)?;
    let octal = |rune: &u32| char::from_u32(*rune).and_then(|digit| digit.to_digit(8));
    match letter {
        '0' => Ok(octal_rune(0, rest)),
        '1'..='7' if rest.first().and_then(octal).is_some() => {
            Ok(octal_rune(*first - u32::from('0'), rest))
        }
        'x' => hexadecimal_rune(rest),
        'a' => Ok((0x07, rest)),
        'f' => Ok((0x0C, rest)),
        'n' => Ok((0x0A, rest)),
        'r' => Ok((0x0D, rest)),
        't' => Ok((0x09, rest)),
        'v' => Ok((0x0B, rest)),
        letter if !letter.is_ascii_alphanumeric() => Ok((*first, rest)),
        _ => Err(INVALID_ESCAPE),
    }
}

/// Reads up to two more octal digits.
fn octal_rune(first: u32, rest: &[u32]) -> (u32, &[u32]) {
    let digit = |rune: &u32| char::from_u32(*rune).and_then(|digit| digit.to_digit(8));
    let digits: Vec<u32> = rest.iter().take(2).map_while(digit).collect();
    (digits.iter().fold(first, |value, digit| value * 8 + digit), &rest[digits.len()..])
}

/// Reads two hexadecimal digits, or any number of them in braces.
fn hexadecimal_rune(text: &[u32]) -> Result<(u32, &[u32])> {
    let digit = |rune: &u32| char::from_u32(*rune).and_then(|digit| digit.to_digit(16));
    let (digits, rest) = if let Some(braced) = strip(text, "{") {
        let end = braced.iter().position(|rune| *rune == u32::from('}')).ok_or(INVALID_ESCAPE)?;
        (&braced[..end], &braced[end + 1..])
    } else {
        text.split_at_checked(2).ok_or(INVALID_ESCAPE)?
    };
    let mut value = if digits.is_empty() { None } else { Some(0_u32) };
    for rune in digits {
        value = value
            .zip(digit(rune))
            .map(|(value, digit)| value * 16 + digit)
            .filter(|value| *value <= u32::from(char::MAX));
    }
    let value = value.ok_or(INVALID_ESCAPE)?;
    if char::from_u32(value).is_none() { Err(SURROGATE) } else { Ok((value, rest)) }
}
