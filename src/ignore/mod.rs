//! Decides which files of a build context are sent, exactly as Docker and BuildKit decide.
//!
//! - [`Patterns`] matches paths against a list of patterns as `moby/patternmatcher` does.
//! - [`parse_ignore_file`] reads a `.dockerignore`.
//! - [`Filter`] combines include and exclude patterns during a walk as `tonistiigi/fsutil` does.
//! - [`follow_links`] turns the paths that a build copies into include patterns and follows the
//!   symbolic links on the way.
//!
//! The module reads no files and depends on nothing else in this crate. Paths are bytes, because
//! file names need not be UTF-8.
//!
//! `dev/patterns` compares the module with the Go implementations.

mod bytes;
mod charset;
mod expression;
mod filter;
mod follow;
mod glob;
mod ignore_file;
mod pattern;
mod patterns;
mod program;

pub use filter::{Decision, DirState, Filter, Step, Walk};
pub use follow::{FollowError, LinkReader, combine_includes, follow_links};
pub use ignore_file::{
    IgnoreFile, IgnoreFileError, MAX_IGNORE_FILE_BYTES, MAX_IGNORE_FILE_PATTERNS, parse_ignore_file,
};
pub use patterns::{ParentMatches, Patterns};

/// A pattern that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid pattern {pattern:?}: {reason}")]
pub struct InvalidPattern {
    /// Index in the list of patterns, from 0.
    pub index: usize,
    /// The pattern.
    pub pattern: String,
    /// What is wrong with the pattern.
    pub reason: &'static str,
}

impl InvalidPattern {
    fn new(index: usize, pattern: &[u8], reason: &'static str) -> Self {
        Self { index, pattern: String::from_utf8_lossy(pattern).into_owned(), reason }
    }
}
