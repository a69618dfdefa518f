//! Directory trees in memory.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
};

use ocibuild::ignore::{Filter, InvalidPattern, LinkReader, Walk};

use crate::answers::Answers;

/// The entries of a tree by their paths.
#[derive(Debug)]
pub struct Tree(BTreeMap<Vec<u8>, Entry>);

#[derive(Debug)]
enum Entry {
    Directory { is_readable: bool },
    File,
    Link(Vec<u8>),
}

impl Tree {
    pub fn read(answers: &mut Answers) -> Self {
        let entries = (0..answers.number()).map(|_| {
            let (path, kind, target) = (answers.text(), answers.byte(), answers.text());
            let entry = match kind {
                0 => Entry::Directory { is_readable: true },
                1 => Entry::Directory { is_readable: false },
                2 => Entry::File,
                _ => Entry::Link(target),
            };
            (path, entry)
        });
        Self(entries.collect())
    }

    /// Returns the paths that a filter sends, in order. An error without a pattern is one of
    /// reading.
    pub fn walk(&self, filter: &Filter) -> Result<Vec<Vec<u8>>, Option<InvalidPattern>> {
        let mut sent = Vec::new();
        self.walk_directory(b".", &mut filter.walk(), &mut sent)?;
        Ok(sent)
    }

    fn walk_directory(
        &self,
        directory: &[u8],
        walk: &mut Walk<'_, Vec<u8>>,
        sent: &mut Vec<Vec<u8>>,
    ) -> Result<(), Option<InvalidPattern>> {
        let mut names = match self.read_dir_names(directory) {
            Ok(names) => names,
            Err(error) if walk.ignores(directory, true, &error)? => return Ok(()),
            Err(_) => return Err(None),
        };
        names.sort();
        for name in names {
            let path = if directory == b"." { name } else { [directory, b"/", &name].concat() };
            let is_dir = matches!(self.0[&path], Entry::Directory { .. });
            let step = walk.visit(&path, is_dir, path.clone())?;
            sent.extend(step.send);
            if step.descend {
                self.walk_directory(&path, walk, sent)?;
            }
        }
        Ok(())
    }
}

impl LinkReader for Tree {
    fn read_link(&self, path: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match self.0.get(path) {
            None => Err(ErrorKind::NotFound.into()),
            Some(Entry::Link(target)) => Ok(Some(target.clone())),
            Some(_) => Ok(None),
        }
    }

    fn read_dir_names(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let prefix = match self.0.get(path) {
            _ if path == b"." => Vec::new(),
            Some(Entry::Directory { is_readable: true }) => [path, b"/"].concat(),
            Some(Entry::Directory { is_readable: false }) => {
                return Err(ErrorKind::PermissionDenied.into());
            }
            Some(_) => return Err(ErrorKind::NotADirectory.into()),
            None => return Err(ErrorKind::NotFound.into()),
        };
        let below = self.0.keys().filter_map(|path| path.strip_prefix(prefix.as_slice()));
        Ok(below.filter(|name| !name.contains(&b'/')).map(<[u8]>::to_vec).collect())
    }
}
