//! The patterns of a request.

use std::io;

use rustix::io::Errno;

use super::directory::Directory;
use super::error::SendError;
use super::names::Names;
use crate::ignore::{Filter, FollowError, LinkReader, combine_includes, follow_links};

/// The patterns of a request. Without patterns the whole directory is selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The request's `include-patterns`.
    pub includes: Vec<Vec<u8>>,
    /// The request's `exclude-patterns`.
    pub excludes: Vec<Vec<u8>>,
    /// The request's `followpaths`: paths to include together with what symlinks on the way lead
    /// to.
    pub follow_paths: Vec<Vec<u8>>,
}

impl Selection {
    /// Compiles the patterns and follows symlinks in the directory.
    pub(super) fn filter(&self, directory: &Directory) -> Result<Filter, SendError> {
        let followed = if self.follow_paths.is_empty() {
            None
        } else {
            follow_links(directory, &self.follow_paths).map_err(|error| match error {
                FollowError::Read { path, error } => directory.unreadable(path.as_bytes(), error),
                error => SendError::Pattern(error.to_string()),
            })?
        };
        let includes = combine_includes(self.includes.clone(), followed);
        Filter::new(&includes, &self.excludes).map_err(invalid_pattern)
    }
}

pub(super) fn invalid_pattern(error: crate::ignore::InvalidPattern) -> SendError {
    SendError::Pattern(error.to_string())
}

impl LinkReader for Directory {
    fn read_link(&self, path: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.link_target(path).map_err(nothing_behind_symlinks)
    }

    fn read_dir_names(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let directory = self.open_directory(path).map_err(nothing_behind_symlinks)?;
        let names = Names::read(&directory, &mut Vec::new())?;
        Ok(names.map(|(name, _)| name.into_bytes()).collect())
    }
}

/// Treats a path through a symlink as missing.
fn nothing_behind_symlinks(error: io::Error) -> io::Error {
    if Errno::from_io_error(&error) == Some(Errno::LOOP) { Errno::NOTDIR.into() } else { error }
}
