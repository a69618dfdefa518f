//! The members of an image's tar, read where they lie: a tar of gigabytes is passed over, not read.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Component, Path},
};

use tar::EntryType;

use super::tar_names::Budget;

/// An image has some hundred members.
const MEMBERS_LIMIT: usize = 100_000;
/// Names in images are made of digests.
const NAME_LIMIT: usize = 1024;
/// A manifest is some kilobytes; the distribution specification asks registries to take 4 MiB.
pub const DOCUMENT_LIMIT: u64 = 4 << 20;

/// A tar whose members can be read in any order.
pub struct ImageTar {
    file: File,
    members: HashMap<String, Member>,
}

enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// To another member; old versions of Docker save a layer once and link to it.
    Link(String),
}

impl ImageTar {
    /// Reads the names of all members.
    pub fn open(mut file: File) -> io::Result<Self> {
        file.rewind()?;
        let mut members = HashMap::new();
        let (budget, reader) = Budget::of(&file);
        let mut archive = tar::Archive::new(reader);
        let mut entries = archive.entries_with_seek()?;
        while let Some(entry) = budget.next(&mut entries) {
            let entry = entry?;
            let Some(name) = plain(&entry.path()?) else { continue };
            let member = match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => {
                    Member::File { offset: entry.raw_file_position(), size: entry.size() }
                }
                EntryType::Symlink | EntryType::Link => {
                    let Some(target) = entry.link_name()? else { continue };
                    let is_symlink = entry.header().entry_type() == EntryType::Symlink;
                    let folder =
                        Path::new(&name).parent().filter(|_| is_symlink).unwrap_or(Path::new(""));
                    let Some(target) = resolved(folder, &target) else { continue };
                    Member::Link(target)
                }
                _ => continue,
            };
            if name.len() > NAME_LIMIT {
                return Err(io::Error::other(format!(
                    "the archive has a member whose name is longer than {NAME_LIMIT} bytes"
                )));
            }
            members.insert(name, member);
            if members.len() > MEMBERS_LIMIT {
                return Err(io::Error::other(format!(
                    "the archive has more than {MEMBERS_LIMIT} members"
                )));
            }
        }
        Ok(Self { file, members })
    }

    /// Names of all members.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// A member's content as a stream.
    pub fn reader(&mut self, name: &str) -> io::Result<impl Read + '_> {
        let missing =
            || io::Error::new(io::ErrorKind::NotFound, format!("the archive has no {name}"));
        let member = match self.members.get(name).ok_or_else(missing)? {
            Member::Link(target) => self.members.get(target).ok_or_else(missing)?,
            file @ Member::File { .. } => file,
        };
        let Member::File { offset, size } = member else { return Err(missing()) };
        self.file.seek(SeekFrom::Start(*offset))?;
        Ok((&self.file).take(*size))
    }

    /// A member that is a document, such as a manifest; a larger one is refused.
    pub fn document(&mut self, name: &str) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.reader(name)?.take(DOCUMENT_LIMIT + 1).read_to_end(&mut content)?;
        if content.len() as u64 > DOCUMENT_LIMIT {
            return Err(io::Error::other(format!(
                "{name} of the archive is larger than {DOCUMENT_LIMIT} bytes"
            )));
        }
        Ok(content)
    }
}

/// A member's path without `./`; none if it is no plain path.
fn plain(path: &Path) -> Option<String> {
    resolved(Path::new(""), path)
}

/// A path from a folder of the archive, with every `..` taken; none if it leaves the archive.
fn resolved(folder: &Path, path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for component in folder.components().chain(path.components()) {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::resolved;

    #[test]
    fn links_are_taken_inside_the_archive_only() {
        for (folder, path, expected) in [
            ("", "./a/b", Some("a/b")),
            ("a", "../b/layer.tar", Some("b/layer.tar")),
            ("a", "../../etc/passwd", None),
            ("a", "/etc/passwd", None),
        ] {
            assert_eq!(
                resolved(Path::new(folder), Path::new(path)).as_deref(),
                expected,
                "{folder} {path}"
            );
        }
    }
}
