//! The paths that a build copies, as include patterns. A symbolic link on the way to a path adds
//! the path that it leads to.

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind},
};

use super::{
    bytes::{clean, join, split_last},
    glob::{glob_match, has_wildcards},
};

/// Greatest number of links and directories that are read.
const MAX_LOOKUPS: usize = 1_000_000;
/// Greatest length of a path. Linux refuses longer ones.
const MAX_PATH_BYTES: usize = 4096;

/// Reads the links and directories below a root.
///
/// All paths are relative to the root, clean, and do not contain `..`; the root itself is `.`.
/// An implementation must not follow symbolic links in a path. Both methods may return errors of
/// the kinds `NotFound` and `NotADirectory`, which mean that there is nothing at the path.
pub trait LinkReader {
    /// Returns the target of a symbolic link, or `None` if the path is not a symbolic link.
    fn read_link(&self, path: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// Returns the names of a directory's entries, in any order.
    fn read_dir_names(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>>;
}

/// Why paths cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// A link or directory cannot be read.
    #[error("reading {path:?} failed: {error}")]
    Read {
        /// The path, relative to the root.
        path: String,
        /// Why it cannot be read.
        error: io::Error,
    },
    /// A path is too long.
    #[error("following symbolic links failed: path exceeds {MAX_PATH_BYTES} bytes")]
    PathTooLong,
    /// There are too many links.
    #[error("following symbolic links failed: more than {MAX_LOOKUPS} lookups needed")]
    TooManyLookups,
}

/// Resolves the paths that a build copies to include patterns, sorted and without those that lie
/// below another one. Returns `None` if one of them is the root: then nothing is filtered.
///
/// The last part of a path and the parts before it may contain `*`, `?` and `[`. A target that is
/// absolute, or that leaves the root with `..`, counts from the root.
pub fn follow_links<P: AsRef<[u8]>>(
    reader: &impl LinkReader,
    paths: &[P],
) -> Result<Option<Vec<Vec<u8>>>, FollowError> {
    let mut resolver = Resolver { reader, resolved: BTreeSet::new(), lookups: 0 };
    for path in paths {
        resolver.resolve(path.as_ref())?;
    }
    Ok(remove_nested(resolver.resolved))
}

/// Combines include patterns with the result of [`follow_links`] to those for a
/// [`Filter`](super::Filter).
pub fn combine_includes(includes: Vec<Vec<u8>>, followed: Option<Vec<Vec<u8>>>) -> Vec<Vec<u8>> {
    match followed {
        None => includes,
        Some(followed) => remove_nested(includes.into_iter().chain(followed)).unwrap_or_default(),
    }
}

/// Removes paths that lie below the path before them. Returns `None` if one is the root.
fn remove_nested(paths: impl IntoIterator<Item = Vec<u8>>) -> Option<Vec<Vec<u8>>> {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for path in paths {
        if path == b"." {
            return None;
        }
        let last = kept.last().map_or(&b""[..], Vec::as_slice);
        let is_nested = path.strip_prefix(last).is_some_and(|rest| rest.first() == Some(&b'/'));
        if !is_nested {
            kept.push(path);
        }
    }
    Some(kept)
}

/// The links that a path meets first.
struct Links {
    targets: Vec<Vec<u8>>,
    /// The path after the links.
    rest: Vec<u8>,
}

struct Resolver<'r, R> {
    reader: &'r R,
    resolved: BTreeSet<Vec<u8>>,
    lookups: usize,
}

impl<R: LinkReader> Resolver<'_, R> {
    /// Resolves a path and the paths to which links on its way lead, depth-first.
    fn resolve(&mut self, path: &[u8]) -> Result<(), FollowError> {
        let mut stack = vec![join(b".", path)];
        while let Some(path) = stack.pop() {
            let Some(links) = self.walk(&path)? else { continue };
            for target in links.targets.iter().rev() {
                stack.push(join(b".", &join(target, &links.rest)));
            }
        }
        Ok(())
    }

    /// Walks along a path up to its first links. Returns `None` if there are none, or if they are
    /// already followed.
    fn walk(&mut self, path: &[u8]) -> Result<Option<Links>, FollowError> {
        if path.len() > MAX_PATH_BYTES {
            return Err(FollowError::PathTooLong);
        }
        let mut end = 0;
        loop {
            let length = path[end..].iter().position(|byte| *byte == b'/');
            end = length.map_or(path.len(), |length| end + length);
            let (current, rest) = (&path[..end], path.get(end + 1..).unwrap_or_default());
            let targets = self.targets(current)?;
            if targets.is_empty() && !rest.is_empty() {
                end += 1;
                continue;
            }
            let is_new = self.resolved.insert(current.to_vec());
            let is_followed = is_new && !targets.is_empty();
            return Ok(is_followed.then(|| Links { targets, rest: rest.to_vec() }));
        }
    }

    /// Returns the targets of the links that a path names, which may end with a wildcard.
    fn targets(&mut self, path: &[u8]) -> Result<Vec<Vec<u8>>, FollowError> {
        let (directory, name) = split_last(path);
        if !has_wildcards(name) {
            return Ok(self.target(path)?.into_iter().collect());
        }
        let mut names = if leaves_root(directory) {
            Vec::new()
        } else {
            self.count_lookup()?;
            exists(self.reader.read_dir_names(directory), directory)?.unwrap_or_default()
        };
        names.sort_unstable();
        let mut targets = Vec::new();
        for entry in names {
            if glob_match(name, &entry) == Ok(true) {
                targets.extend(self.target(&join(directory, &entry))?);
            }
        }
        Ok(targets)
    }

    /// Returns the target of a link as an absolute path, or `None` if the path is no link.
    fn target(&mut self, path: &[u8]) -> Result<Option<Vec<u8>>, FollowError> {
        if path == b"." || leaves_root(path) {
            return Ok(None);
        }
        self.count_lookup()?;
        let link = exists(self.reader.read_link(path), path)?.flatten();
        Ok(link.map(|link| match clean(&link) {
            link if link.starts_with(b"/") => link,
            link => join(b"/", &join(split_last(path).0, &link)),
        }))
    }

    fn count_lookup(&mut self) -> Result<(), FollowError> {
        self.lookups += 1;
        if self.lookups > MAX_LOOKUPS { Err(FollowError::TooManyLookups) } else { Ok(()) }
    }
}

/// A clean relative path leaves the root only with its first part.
fn leaves_root(path: &[u8]) -> bool {
    path == b".." || path.starts_with(b"../")
}

fn exists<T>(result: io::Result<T>, path: &[u8]) -> Result<Option<T>, FollowError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => {
            Err(FollowError::Read { path: String::from_utf8_lossy(path).into_owned(), error })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io};

    use super::{FollowError, LinkReader, combine_includes, follow_links};

    /// Links by their paths. Every directory has the names of all links without a slash.
    struct Links(BTreeMap<&'static str, String>);

    impl LinkReader for Links {
        fn read_link(&self, path: &[u8]) -> io::Result<Option<Vec<u8>>> {
            assert!(!path.starts_with(b".."), "nothing outside of the root is read");
            let path = str::from_utf8(path).unwrap();
            Ok(self.0.get(path).map(|target| target.clone().into_bytes()))
        }

        fn read_dir_names(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
            assert!(!path.starts_with(b".."), "nothing outside of the root is read");
            let names = self.0.keys().filter(|name| !name.contains('/'));
            Ok(names.map(|name| name.as_bytes().to_vec()).collect())
        }
    }

    fn follow(links: &[(&'static str, &str)], paths: &[&str]) -> Option<Vec<String>> {
        let links = links.iter().map(|(path, target)| (*path, (*target).to_owned()));
        let followed = follow_links(&Links(links.collect()), paths).unwrap();
        followed
            .map(|paths| paths.into_iter().map(|path| String::from_utf8(path).unwrap()).collect())
    }

    #[test]
    fn links_add_their_targets() {
        let links = [("a", "/b/c"), ("b/c", "../../../d"), ("x", "y"), ("y", "x"), ("all", "/")];
        let followed = |paths: &[&str]| follow(&links, paths).unwrap();
        assert_eq!(followed(&["a/file"]), ["a", "b/c", "d/file"]);
        assert_eq!(followed(&["/plain/../file"]), ["file"]);
        assert_eq!(followed(&["x"]), ["x", "y"], "links that lead to each other end");
        assert_eq!(followed(&["[x-z]"]), ["[x-z]", "x", "y"]);
        assert_eq!(followed(&["../a", "../*/a"]), ["../*/a", "../a"]);
        assert_eq!(followed(&["b", "b/z"]), ["b"], "paths below another one are not repeated");
        assert_eq!(follow(&links, &["all"]), None);
        assert_eq!(follow(&links, &["b", "."]), None);
    }

    #[test]
    fn targets_are_added_to_the_include_patterns() {
        let paths = |paths: &[&str]| -> Vec<Vec<u8>> {
            paths.iter().map(|path| path.as_bytes().to_vec()).collect()
        };
        let combined = combine_includes(paths(&["z"]), Some(paths(&["a"])));
        assert_eq!(combined, paths(&["z", "a"]));
        assert_eq!(combine_includes(paths(&["z"]), None), paths(&["z"]));
        assert_eq!(combine_includes(paths(&["."]), Some(paths(&["a"]))), paths(&[]));
    }

    #[test]
    fn links_that_lengthen_a_path_without_end_are_refused() {
        let long = "long/".repeat(500);
        let names = ["a", "b", "c", "d"];
        let links = names.iter().zip(names.iter().skip(1));
        let links = links.map(|(from, to)| (*from, format!("{to}/{long}")));
        let error = follow_links(&Links(links.collect()), &["a"]).unwrap_err();
        assert!(matches!(error, FollowError::PathTooLong), "{error}");
    }
}
