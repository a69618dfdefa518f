//! Include and exclude patterns during a walk over a directory tree.

use std::io::{Error, ErrorKind};

use super::{InvalidPattern, ParentMatches, Patterns};

/// Characters that give a pattern a meaning beyond its literal text.
const SPECIAL: &[u8] = b"*[]?^\\";

/// Characters for which `can_match_below` assumes a match.
const NOT_PLAIN: &[u8] = b"[]\\|{}()^$+";

/// Decides which files of a directory tree are sent.
///
/// A file is sent if the include patterns match it (or there are none) and the exclude patterns
/// do not. The parent directories of a file that is sent are sent before it.
///
/// A walker visits the entries in depth-first order, sorted by name within a directory, and
/// passes each to [`Walk::visit`]:
///
/// ```
/// # use ocibuild::ignore::Filter;
/// let filter = Filter::new(&["src"], &["**/*.log"])?;
/// let mut walk = filter.walk();
/// let mut sent = Vec::new();
/// for (path, is_dir) in [("docs", true), ("src", true), ("src/a.log", false), ("src/b", false)] {
///     // The last argument is any value that the walker needs for sending the entry.
///     let step = walk.visit(path.as_bytes(), is_dir, path)?;
///     sent.extend(step.send);
///     // A walker does not read a directory for which `step.descend` is false.
///     assert_eq!(step.descend, path == "src");
/// }
/// assert_eq!(sent, ["src", "src/b"]);
/// # Ok::<(), ocibuild::ignore::InvalidPattern>(())
/// ```
#[derive(Debug, Default)]
pub struct Filter {
    includes: Option<Patterns>,
    excludes: Option<Patterns>,
    /// Directories on the way to an included file; `None` if any directory may lead to one.
    include_prefixes: Option<Vec<Vec<u8>>>,
    /// Directories on the way to a file that an exclude pattern with `!` re-includes.
    exception_prefixes: Option<Vec<Vec<u8>>>,
}

/// The matches of a directory, from which those of its entries follow. The default value belongs
/// to the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirState {
    includes: ParentMatches,
    excludes: ParentMatches,
}

impl DirState {
    const ROOT: Self = Self { includes: ParentMatches::ROOT, excludes: ParentMatches::ROOT };
}

/// What to do with an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the entry is sent. A directory for which this is false still has to be sent before
    /// the first entry below it that is sent.
    pub send: bool,
    /// State for the entries of a directory, or `None` if the directory need not be read: nothing
    /// below it can be sent.
    pub descend: Option<DirState>,
}

impl Decision {
    const SKIP: Self = Self { send: false, descend: None };

    /// Reports whether a walker ignores an error on reading the entry: the entry vanished, or it
    /// is a directory that is not sent and that the walker may not read.
    pub fn ignores(&self, error: &Error) -> bool {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => true,
            ErrorKind::PermissionDenied => !self.send,
            _ => false,
        }
    }
}

impl Filter {
    /// Creates a filter from include and exclude patterns. An empty list of include patterns
    /// includes everything.
    pub fn new<P: AsRef<[u8]>>(includes: &[P], excludes: &[P]) -> Result<Self, InvalidPattern> {
        let read =
            |patterns: &[P]| (!patterns.is_empty()).then(|| Patterns::new(patterns)).transpose();
        let (includes, excludes) = (read(includes)?, read(excludes)?);
        Ok(Self {
            include_prefixes: includes.as_ref().and_then(|it| literal_prefixes(it, false)),
            exception_prefixes: excludes.as_ref().and_then(|it| literal_prefixes(it, true)),
            includes,
            excludes,
        })
    }

    /// Decides about one entry.
    ///
    /// `parent` is the state of the directory that holds the entry. The path is relative to the
    /// root and clean. `is_dir` is false for a symbolic link to a directory.
    pub fn decide(
        &self,
        parent: &DirState,
        path: &[u8],
        is_dir: bool,
    ) -> Result<Decision, InvalidPattern> {
        let mut send = true;
        let mut state = DirState::default();
        if let Some(includes) = &self.includes {
            let (is_matched, matches) = includes.matches_below(&parent.includes, path)?;
            if !is_matched && is_dir && !leads_to_any(self.include_prefixes.as_deref(), path) {
                return Ok(Decision::SKIP);
            }
            send &= is_matched;
            state.includes = matches;
        }
        if let Some(excludes) = &self.excludes {
            let (is_matched, matches) = excludes.matches_below(&parent.excludes, path)?;
            if is_matched && is_dir && !leads_to_any(self.exception_prefixes.as_deref(), path) {
                return Ok(Decision::SKIP);
            }
            send &= !is_matched;
            state.excludes = matches;
        }
        Ok(Decision { send, descend: is_dir.then_some(state) })
    }

    /// Reports whether a file below a directory that is not sent itself may be sent. `false` is
    /// exact; `true` may be a false positive.
    ///
    /// Docker skips such a directory if it is unreadable; a strict caller fails if this returns
    /// true.
    pub fn may_send_below(&self, parent: &DirState, directory: &[u8]) -> bool {
        let is_matched = |patterns: &Patterns, parent: &ParentMatches| {
            patterns.matches_below(parent, directory).is_ok_and(|(is_matched, _)| is_matched)
        };
        let is_included = self.includes.as_ref().is_none_or(|includes| {
            is_matched(includes, &parent.includes) || can_match_below(includes, false, directory)
        });
        let is_kept = self.excludes.as_ref().is_none_or(|excludes| {
            !is_matched(excludes, &parent.excludes) || can_match_below(excludes, true, directory)
        });
        is_included && is_kept
    }

    /// Starts a walk at the root. `T` is what the walker needs for sending an entry.
    pub fn walk<T>(&self) -> Walk<'_, T> {
        Walk { filter: self, parents: Vec::new() }
    }
}

/// A depth-first walk: keeps the state of the parent directories, and those that are not sent yet.
#[derive(Debug)]
pub struct Walk<'f, T> {
    filter: &'f Filter,
    /// The directories above the current entry, the root excluded.
    parents: Vec<Parent<T>>,
}

#[derive(Debug)]
struct Parent<T> {
    /// Path with a trailing slash.
    prefix: Vec<u8>,
    state: DirState,
    /// The directory, until it is sent.
    unsent: Option<T>,
}

/// What to do after visiting an entry.
#[derive(Debug)]
pub struct Step<T> {
    /// The entries to send, in this order: parent directories that were not sent yet, then the
    /// visited entry. Empty if the visited entry is not sent.
    pub send: Vec<T>,
    /// Whether the visited entry is a directory whose entries have to be visited next.
    pub descend: bool,
}

impl<T> Walk<'_, T> {
    /// Visits the next entry in depth-first order.
    pub fn visit(
        &mut self,
        path: &[u8],
        is_dir: bool,
        entry: T,
    ) -> Result<Step<T>, InvalidPattern> {
        let decision = self.decide(path, is_dir)?;
        let mut entry = Some(entry);
        let mut send = Vec::new();
        if decision.send {
            send.extend(self.parents.iter_mut().filter_map(|parent| parent.unsent.take()));
            send.extend(entry.take());
        }
        let descend = decision.descend.is_some();
        if let Some(state) = decision.descend {
            self.parents.push(Parent { prefix: [path, b"/"].concat(), state, unsent: entry });
        }
        Ok(Step { send, descend })
    }

    /// Reports whether a file below a directory that is not sent itself may be sent, see
    /// [`Filter::may_send_below`].
    pub fn may_send_below(&mut self, directory: &[u8]) -> bool {
        self.leave(directory);
        self.filter.may_send_below(self.state(), directory)
    }

    /// Reports whether Docker's walk goes on after an error on reading an entry, by the rules of
    /// [`Decision::ignores`]. Nothing below the entry may be visited afterwards.
    pub fn ignores(
        &mut self,
        path: &[u8],
        is_dir: bool,
        error: &Error,
    ) -> Result<bool, InvalidPattern> {
        Ok(self.decide(path, is_dir)?.ignores(error))
    }

    fn decide(&mut self, path: &[u8], is_dir: bool) -> Result<Decision, InvalidPattern> {
        self.leave(path);
        self.filter.decide(self.state(), path, is_dir)
    }

    /// Leaves the directories that do not hold the entry.
    fn leave(&mut self, path: &[u8]) {
        while self.parents.last().is_some_and(|parent| !path.starts_with(&parent.prefix)) {
            self.parents.pop();
        }
    }

    /// The state of the directory that holds the entries that are visited.
    fn state(&self) -> &DirState {
        self.parents.last().map_or(const { &DirState::ROOT }, |parent| &parent.state)
    }
}

/// Returns the literal prefixes of the patterns with or without a leading `!`, each with a
/// trailing slash. Returns `None` if one of the patterns has a special character before a
/// trailing `/*` or `/**`.
fn literal_prefixes(patterns: &Patterns, is_exclusion: bool) -> Option<Vec<Vec<u8>>> {
    patterns
        .texts(is_exclusion)
        .map(|text| {
            let text = text.strip_suffix(b"/**").unwrap_or(text);
            let text = text.strip_suffix(b"/*").unwrap_or(text);
            let is_literal = !text.iter().any(|byte| SPECIAL.contains(byte));
            is_literal.then(|| [text, b"/"].concat())
        })
        .collect()
}

/// Reports whether one of the prefixes is the directory or lies below it. Unknown prefixes may.
fn leads_to_any(prefixes: Option<&[Vec<u8>]>, directory: &[u8]) -> bool {
    prefixes.is_none_or(|prefixes| {
        prefixes.iter().any(|prefix| {
            prefix.strip_prefix(directory).is_some_and(|rest| rest.first() == Some(&b'/'))
        })
    })
}

/// Reports whether one of the patterns, with or without a leading `!`, can match a path below a
/// directory that it does not match. As many of its parts as the directory has must match that.
fn can_match_below(patterns: &Patterns, is_exclusion: bool, directory: &[u8]) -> bool {
    let depth = directory.split(|byte| *byte == b'/').count();
    patterns.texts(is_exclusion).any(|text| {
        let parts: Vec<&[u8]> = text.split(|byte| *byte == b'/').collect();
        let is_plain = |part: &&[u8]| {
            !part.windows(2).any(|pair| pair == b"**")
                && !part.iter().any(|byte| NOT_PLAIN.contains(byte))
        };
        if !parts.iter().take(depth).all(is_plain) {
            return true;
        }
        if parts.len() <= depth {
            return false;
        }
        let above = Patterns::new([parts[..depth].join(&b'/')]);
        above.and_then(|above| above.matches(directory)).unwrap_or(true)
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::Filter;

    fn walked(includes: &[&str], excludes: &[&str], tree: &[&str]) -> Vec<String> {
        let filter = Filter::new(includes, excludes).unwrap();
        let mut walk = filter.walk();
        let mut sent = Vec::new();
        let mut skipped: Option<String> = None;
        for entry in tree {
            let path = entry.trim_end_matches('/');
            if skipped.as_ref().is_some_and(|skipped| path.starts_with(skipped)) {
                continue;
            }
            let step = walk.visit(path.as_bytes(), entry.ends_with('/'), path.to_owned()).unwrap();
            sent.extend(step.send);
            if entry.ends_with('/') && !step.descend {
                skipped = Some((*entry).to_owned());
            }
        }
        sent
    }

    #[test]
    fn parents_are_sent_before_the_first_file_below_them() {
        let tree = ["a/", "a/b/", "a/b/c", "a/d", "e/", "e/f"];
        assert_eq!(walked(&["a/b/c"], &[], &tree), ["a", "a/b", "a/b/c"]);
        assert_eq!(walked(&["**/f"], &[], &tree), ["e", "e/f"]);
        assert_eq!(walked(&[], &["a", "!a/d"], &tree), ["a", "a/d", "e", "e/f"]);
        assert_eq!(walked(&["a", "e"], &["**/c", "e"], &tree), ["a", "a/b", "a/d"]);
        assert_eq!(walked(&[" "], &[], &tree), [""; 0], "a list of nothing includes nothing");
    }

    #[test]
    fn only_directories_that_patterns_can_reach_are_read() {
        let reads = |includes: &[&str], excludes: &[&str]| {
            let filter = Filter::new(includes, excludes).unwrap();
            filter.walk().visit(b"dir", true, ()).unwrap().descend
        };
        assert!(!reads(&[], &["dir"]));
        assert!(!reads(&[], &["dir", "!other/x"]));
        assert!(reads(&[], &["dir", "!dir/x"]));
        assert!(reads(&[], &["dir", "!*/x"]), "an exception with a wildcard may match below");
        assert!(!reads(&["other"], &[]));
        assert!(!reads(&["directory/x"], &[]));
        assert!(reads(&["dir/x/**"], &[]));
        assert!(reads(&["*/x"], &[]));
    }

    #[test]
    fn unreadable_directories_fail_only_if_they_are_sent() {
        let filter = Filter::new(&["*/x"], &["open", "!o*"]).unwrap();
        let denied = Error::from(ErrorKind::PermissionDenied);
        assert!(filter.walk::<()>().ignores(b"closed", true, &denied).unwrap());
        let all = Filter::default();
        assert!(!all.walk::<()>().ignores(b"closed", true, &denied).unwrap());
        let vanished = Error::from(ErrorKind::NotFound);
        assert!(all.walk::<()>().ignores(b"closed", true, &vanished).unwrap());
    }

    #[test]
    fn a_directory_that_no_pattern_leads_into_is_told_from_one_that_may_hold_a_file() {
        for (includes, excludes, directory, expected) in [
            (&["*.txt"][..], &[][..], "closed", false),
            (&["**/*.txt"], &[], "closed", true),
            (&["src/*.txt"], &[], "closed", false),
            (&["src/*/x.txt"], &[], "src/closed", true),
            (&["s?c/*.txt"], &[], "src", true),
            (&["s?c/*.txt"], &[], "src/closed", false),
            (&["[ab]/x"], &[], "closed", true),
            (&[], &["closed", "!**/keep"], "closed", true),
            (&[], &["*", "!*.md"], "closed", false),
            (&[], &["*", "!*/keep"], "closed", true),
        ] {
            let filter = Filter::new(includes, excludes).unwrap();
            let found = filter.walk::<()>().may_send_below(directory.as_bytes());
            assert_eq!(found, expected, "{includes:?} {excludes:?} {directory}");
        }
    }
}
