//! Which files of a context a `.dockerignore` leaves out. Pure. The patterns are those of Docker (moby/patternmatcher): Go's
//! `filepath.Match`, `**` for any number of folders, `!` to take back, the last match counts.

use regex::bytes::Regex;

/// Bytes of a `.dockerignore` that are read; one that is longer is refused.
pub const MOST_BYTES: u64 = 1 << 18;

/// Patterns of a `.dockerignore` that are read; each is compiled, which takes some kilobytes of memory.
const MOST_PATTERNS: usize = 5_000;

/// A pattern that cannot be one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {pattern:?} is not a pattern: {words}")]
pub struct InvalidPattern {
    /// Line, from 1.
    line: usize,
    /// The pattern.
    pattern: String,
    /// What is wrong.
    words: String,
}

/// The patterns of a `.dockerignore`.
#[derive(Debug, Default)]
pub struct IgnorePatterns(Vec<Pattern>);

#[derive(Debug)]
struct Pattern {
    regex: Regex,
    /// Folders above: a pattern that matches a folder matches all that is in it.
    depth: usize,
    takes_back: bool,
}

impl IgnorePatterns {
    /// Reads a `.dockerignore`.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let mut patterns = Vec::new();
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let invalid = |words: &str| InvalidPattern {
                line: number + 1,
                pattern: line.to_owned(),
                words: words.to_owned(),
            };
            let (takes_back, pattern) =
                line.strip_prefix('!').map_or((false, line), |rest| (true, rest.trim()));
            if pattern.is_empty() {
                return Err(invalid("there is nothing after '!'"));
            }
            if text.len() as u64 >= MOST_BYTES {
                return Err(invalid(&format!(
                    "the file has more than {MOST_BYTES} bytes, and no more are read"
                )));
            }
            let pattern = clean(pattern);
            if pattern.is_empty() {
                continue;
            }
            if patterns.len() == MOST_PATTERNS {
                return Err(invalid(&format!(
                    "there are {MOST_PATTERNS} before it, and no more are read"
                )));
            }
            let regex = Regex::new(&expression(&pattern))
                .map_err(|_| invalid("see the rules of Go's filepath.Match"))?;
            patterns.push(Pattern { regex, depth: pattern.split('/').count(), takes_back });
        }
        Ok(Self(patterns))
    }

    /// Whether a path, relative to the context and with '/' between its parts, is left out.
    pub fn leaves_out(&self, path: &[u8]) -> bool {
        let mut left_out = false;
        for pattern in &self.0 {
            // A pattern that would change nothing need not be asked.
            if pattern.takes_back == left_out && pattern.matches(path) {
                left_out = !pattern.takes_back;
            }
        }
        left_out
    }

    /// Whether nothing below a folder that is left out can be taken back: then it need not be looked into.
    pub fn takes_nothing_back(&self) -> bool {
        !self.0.iter().any(|pattern| pattern.takes_back)
    }
}

impl Pattern {
    fn matches(&self, path: &[u8]) -> bool {
        if self.regex.is_match(path) {
            return true;
        }
        let mut ends =
            path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        if self.regex.as_str().contains(".*") {
            return ends.any(|end| self.regex.is_match(&path[..end]));
        }
        ends.nth(self.depth - 1).is_some_and(|end| self.regex.is_match(&path[..end]))
    }
}

/// Go's `filepath.Clean`, and no '/' at the begin.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A pattern as a regular expression, as moby/patternmatcher makes it.
fn expression(pattern: &str) -> String {
    let mut expression = String::from("(?s-u)^");
    let mut characters = pattern.chars().peekable();
    let mut is_in_class = false;
    while let Some(character) = characters.next() {
        match character {
            '*' if !is_in_class && characters.peek() == Some(&'*') => {
                characters.next();
                if characters.peek() == Some(&'/') {
                    characters.next();
                }
                expression.push_str(if characters.peek().is_none() { ".*" } else { "(.*/)?" });
            }
            '*' if !is_in_class => expression.push_str("[^/]*"),
            '?' if !is_in_class => expression.push_str("[^/]"),
            '\\' => {
                let escaped = characters.next().unwrap_or('\\');
                expression.push_str(&regex::escape(&escaped.to_string()));
            }
            '[' if !is_in_class => {
                is_in_class = true;
                expression.push('[');
            }
            ']' if is_in_class => {
                is_in_class = false;
                expression.push(']');
            }
            '^' | '-' if is_in_class => expression.push(character),
            other => expression.push_str(&regex::escape(&other.to_string())),
        }
    }
    expression.push('$');
    // Bytes that are not UTF-8 are matched one by one; what is written in UTF-8 stays whole.
    expression.replacen("(?s-u)", "(?s)", usize::from(!pattern.is_ascii()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::IgnorePatterns;

    #[test]
    fn patterns_mean_what_they_mean_to_docker() {
        for (text, left_out, kept) in [
            ("", &[][..], &["a"][..]),
            ("# comment\n\n  a  \n", &["a", "a/b", "a/b/c"], &["b", "b/a", "aa"]),
            ("/a/b", &["a/b", "a/b/c"], &["b", "a", "x/a/b"]),
            ("./a/", &["a", "a/b"], &["b"]),
            ("*.md", &["x.md", "x.md/y"], &["d/x.md", "xmd"]),
            ("**/*.md", &["x.md", "d/x.md", "d/e/x.md"], &["x.mdx"]),
            ("**", &["a", "a/b"], &[]),
            ("a/**", &["a/b", "a/b/c"], &["b"]),
            (
                "**/node_modules",
                &["node_modules", "a/node_modules", "a/node_modules/x/y"],
                &["node_modules2"],
            ),
            ("a?c", &["abc"], &["ac", "a/c", "abbc"]),
            ("[ab]x", &["ax", "bx"], &["cx"]),
            ("[^ab]x", &["cx"], &["ax"]),
            ("a\\*b", &["a*b"], &["aXb"]),
            ("a.b", &["a.b"], &["aXb"]),
            ("*\n!keep", &["a", "b/c"], &["keep", "keep/inside"]),
            ("a\n!a/b\na/b/c", &["a", "a/x", "a/b/c"], &["a/b", "a/b/d"]),
            ("a/../b", &["b"], &["a"]),
            ("größe", &["größe"], &["gr"]),
        ] {
            let patterns = IgnorePatterns::parse(text).unwrap();
            for path in left_out {
                assert!(patterns.leaves_out(path.as_bytes()), "{text:?} leaves out {path}");
            }
            for path in kept {
                assert!(!patterns.leaves_out(path.as_bytes()), "{text:?} keeps {path}");
            }
        }
        assert!(
            IgnorePatterns::parse("*.o").unwrap().leaves_out(b"\xff.o"),
            "names need not be UTF-8"
        );
    }

    #[test]
    fn a_bad_pattern_is_named_with_its_line() {
        for (text, words) in
            [("a\n!\n", "line 2: \"!\""), ("[a", "line 1: \"[a\""), ("a\n\n[]", "line 3: \"[]\"")]
        {
            let error = IgnorePatterns::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(words), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_pattern_and_no_path_makes_it_panic(text in "(?s).{0,80}", path in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(patterns) = IgnorePatterns::parse(&text) {
                let _ = patterns.leaves_out(&path);
            }
        }
    }
}
