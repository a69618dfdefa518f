//! Lists of patterns and the paths that they match.

use std::sync::atomic::AtomicUsize;

use super::{InvalidPattern, pattern::Pattern};

/// Instructions that the compiled patterns of a list may have together. A list without counted
/// repetitions, such as `[ab]{100}`, needs about as many as it has characters.
const MAX_INSTRUCTIONS: usize = 1 << 20;

/// A list of patterns in the syntax of a `.dockerignore`.
///
/// Later patterns override earlier ones: a pattern with a leading `!` re-includes what earlier
/// patterns matched. A pattern that matches a directory also matches everything below it.
///
/// ```
/// # use ocibuild::ignore::Patterns;
/// let patterns = Patterns::new(["*.md", "!README.md"])?;
/// assert!(patterns.matches(b"notes.md")?);
/// assert!(!patterns.matches(b"README.md")?);
/// # Ok::<(), ocibuild::ignore::InvalidPattern>(())
/// ```
#[derive(Debug)]
pub struct Patterns {
    items: Vec<Pattern>,
    /// Index in the given list, for each pattern.
    indexes: Vec<usize>,
    budget: AtomicUsize,
}

/// Which patterns of a list matched a directory or one of its parents.
///
/// The default value belongs to the root, for which nothing is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParentMatches(Vec<bool>);

impl ParentMatches {
    pub(super) const ROOT: Self = Self(Vec::new());
}

impl Patterns {
    /// Reads a list of patterns. Patterns that are only white space are skipped.
    ///
    /// An error is returned for the patterns that Docker refuses at this point. A pattern that is
    /// malformed in another way makes the comparison with a path fail.
    pub fn new<P: AsRef<[u8]>>(
        patterns: impl IntoIterator<Item = P>,
    ) -> Result<Self, InvalidPattern> {
        let mut list = Self {
            items: Vec::new(),
            indexes: Vec::new(),
            budget: AtomicUsize::new(MAX_INSTRUCTIONS),
        };
        for (index, pattern) in patterns.into_iter().enumerate() {
            let pattern = pattern.as_ref();
            let parsed = Pattern::parse(pattern)
                .map_err(|reason| InvalidPattern::new(index, pattern, reason))?;
            if let Some(parsed) = parsed {
                list.items.push(parsed);
                list.indexes.push(index);
            }
        }
        Ok(list)
    }

    /// Reports whether the list matches a path or one of its parent directories.
    ///
    /// The path is relative, clean, and has slashes between its parts.
    pub fn matches(&self, path: &[u8]) -> Result<bool, InvalidPattern> {
        let mut is_matched = false;
        for index in 0..self.items.len() {
            let is_exclusion = self.items[index].is_exclusion();
            if is_exclusion == is_matched && self.matches_with_parents(index, path)? {
                is_matched = !is_exclusion;
            }
        }
        Ok(is_matched)
    }

    /// Reports whether the list matches a path whose parent directory has the given matches, and
    /// returns the matches of the path itself.
    pub fn matches_below(
        &self,
        parent: &ParentMatches,
        path: &[u8],
    ) -> Result<(bool, ParentMatches), InvalidPattern> {
        let mut is_matched = false;
        let mut matches = vec![false; self.items.len()];
        for (index, pattern) in self.items.iter().enumerate() {
            let is_exclusion = pattern.is_exclusion();
            let mut matches_this = parent.0.get(index).copied().unwrap_or(false);
            if !matches_this {
                if is_exclusion != is_matched {
                    continue;
                }
                matches_this = if parent.0.is_empty() {
                    self.matches_with_parents(index, path)?
                } else {
                    self.matches_one(index, path)?
                };
            }
            matches[index] = matches_this;
            if matches_this {
                is_matched = !is_exclusion;
            }
        }
        Ok((is_matched, ParentMatches(matches)))
    }

    fn matches_with_parents(&self, index: usize, path: &[u8]) -> Result<bool, InvalidPattern> {
        if self.matches_one(index, path)? {
            return Ok(true);
        }
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        for (slash, _) in slashes {
            if self.matches_one(index, &path[..slash])? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn matches_one(&self, index: usize, path: &[u8]) -> Result<bool, InvalidPattern> {
        let pattern = &self.items[index];
        pattern
            .matches(path, &self.budget)
            .map_err(|reason| InvalidPattern::new(self.indexes[index], pattern.text(), reason))
    }

    /// Returns the cleaned texts of the patterns with or without a leading `!`, the `!` removed.
    pub(super) fn texts(&self, is_exclusion: bool) -> impl Iterator<Item = &[u8]> {
        let items = self.items.iter();
        items.filter(move |it| it.is_exclusion() == is_exclusion).map(Pattern::text)
    }
}

#[cfg(test)]
mod tests {
    use super::Patterns;

    #[test]
    fn patterns_mean_what_they_mean_to_docker() {
        for (list, matched, others) in [
            (&["a"][..], &["a", "a/b", "a/b/c"][..], &["b", "b/a", "aa"][..]),
            (&["*.md"], &["x.md", "x.md/y"], &["d/x.md", "xmd"]),
            (&["**/*.md"], &["x.md", "d/e/x.md"], &["x.mdx"]),
            (&["**.log"], &["a/b.log", ".log"], &["log"]),
            (&["a/**"], &["a/b", "a/b/c"], &["a", "b"]),
            (&["a?c"], &["abc", "a\u{e9}c"], &["ac", "a/c", "abbc"]),
            (&["[^ab]x"], &["cx"], &["ax"]),
            (&["a\\*b"], &["a*b"], &["aXb"]),
            (&["*", "!keep"], &["a", "b/c"], &["keep", "keep/inside"]),
            (&["a", "!a/b", "a/b/c"], &["a/x", "a/b/c"], &["a/b", "a/b/d"]),
            (&["[ab]{2}|x"], &["ab", "abc", "a/x"], &["a", "cab", "xa"]),
        ] {
            let patterns = Patterns::new(list).unwrap();
            for path in matched {
                assert!(patterns.matches(path.as_bytes()).unwrap(), "{list:?} matches {path}");
            }
            for path in others {
                assert!(!patterns.matches(path.as_bytes()).unwrap(), "{list:?} leaves {path}");
            }
        }
        assert!(Patterns::new(["?.o"]).unwrap().matches(b"\xff.o").unwrap());
    }

    #[test]
    fn errors_name_the_pattern() {
        let error = Patterns::new(["a", "[b"]).unwrap_err();
        assert_eq!((error.index, error.pattern.as_str()), (1, "[b"));
        let late = Patterns::new([" ", "[b-a]"]).unwrap();
        let error = late.matches(b"x").unwrap_err();
        assert_eq!(error.to_string(), "invalid pattern \"[b-a]\": invalid character class range");
        assert_eq!(error.index, 1);
    }

    #[test]
    fn memory_of_a_list_is_bounded() {
        let hostile = vec!["[ab]{1000}".repeat(10); 5_000];
        let patterns = Patterns::new(&hostile).unwrap();
        let error = patterns.matches(b"x").unwrap_err();
        assert_eq!(error.reason, "the list's patterns take too much memory");
    }
}
