//! Walks the directory and announces the selected entries.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::mem;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;

use rustix::fs::{FileType, Statx, readlinkat};

use super::super::proto::fsutil::types::{Packet, Stat, packet::PacketType};
use super::directory::{open_child, to_path};
use super::error::SendError;
use super::files::{Content, ROOT};
use super::metadata::{XattrReader, file_type, modification_time, stat_child, stat_open, to_stat};
use super::names::Names;
use super::selection::{Selection, invalid_pattern};
use super::transfer::Transfer;
use crate::ignore::{DirState, Filter};

/// Directories that are open at the same time; those above are opened again when needed.
const MAX_OPEN_DIRECTORIES: usize = 64;
/// Packets of a batch.
const MAX_BATCH_PACKETS: usize = 128;
/// Approximate size of a batch.
const MAX_BATCH_BYTES: usize = 64 * 1024;
/// Approximate size of a packet without names and attributes.
const PACKET_BYTES: usize = 48;

/// Announces the selected entries, depth first and sorted by name, and then the end of the list.
pub(super) fn announce_entries(
    transfer: &Transfer,
    selection: &Selection,
) -> Result<(), SendError> {
    let filter = selection.filter(&transfer.directory)?;
    let mut walker = Walker {
        transfer,
        filter: &filter,
        path: Vec::new(),
        open: Vec::new(),
        links: HashMap::new(),
        xattrs: XattrReader::new(),
        buffer: Vec::new(),
        batch: Vec::new(),
        batch_bytes: 0,
    };
    walker.walk()?;
    walker.send_batch()?;
    transfer.files.complete();
    transfer.send_batch(vec![stat_packet(None)])
}

fn stat_packet(stat: Option<Stat>) -> Packet {
    Packet { r#type: PacketType::PacketStat.into(), stat, ..Packet::default() }
}

struct Walker<'t> {
    transfer: &'t Transfer,
    filter: &'t Filter,
    /// Path of the current entry.
    path: Vec<u8>,
    /// The directories on the way to the current entry, the root first.
    open: Vec<OpenDirectory>,
    /// Number of the first announced entry of each inode with several links.
    links: HashMap<(u32, u32, u64), u32>,
    xattrs: XattrReader,
    buffer: Vec<u8>,
    batch: Vec<Packet>,
    batch_bytes: usize,
}

struct OpenDirectory {
    descriptor: Option<Rc<OwnedFd>>,
    names: Names,
    path_length: usize,
    state: DirState,
    /// Number of the entry, once it is announced.
    id: Option<u32>,
}

impl Walker<'_> {
    fn walk(&mut self) -> Result<(), SendError> {
        let root = self.transfer.directory.open_directory(b"").map_err(|it| self.unreadable(it))?;
        self.enter(root, DirState::default(), Some(ROOT))?;
        while let Some(directory) = self.open.last_mut() {
            self.path.truncate(directory.path_length);
            let Some((name, entry_type)) = directory.names.next() else {
                self.open.pop();
                continue;
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.to_bytes());
            self.visit(&name, entry_type)?;
        }
        Ok(())
    }

    fn visit(&mut self, name: &CStr, mut entry_type: FileType) -> Result<(), SendError> {
        let parent = self.descriptor(self.open.len() - 1)?;
        if entry_type == FileType::Unknown {
            match stat_child(parent.as_fd(), name) {
                Ok(stat) => entry_type = file_type(&stat),
                Err(error) => return self.unless_removed(error),
            }
        }
        let is_directory = entry_type == FileType::Directory;
        let state = &self.open[self.open.len() - 1].state;
        let decision =
            self.filter.decide(state, &self.path, is_directory).map_err(invalid_pattern)?;
        if !is_directory {
            return if decision.send { self.visit_file(&parent, name) } else { Ok(()) };
        }
        // Nothing below a directory without a state can be selected.
        let Some(state) = decision.descend else { return Ok(()) };
        match open_child(parent.as_fd(), name) {
            Ok(directory) => self.enter(directory, state, None)?,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !decision.send => {
                return self.unless_nothing_is_selected(error);
            }
            Err(error) => return self.unless_removed(error),
        }
        if decision.send { self.announce_directories() } else { Ok(()) }
    }

    /// Makes a directory the one whose entries are visited next.
    fn enter(
        &mut self,
        directory: OwnedFd,
        state: DirState,
        id: Option<u32>,
    ) -> Result<(), SendError> {
        self.transfer.check_stopped()?;
        let names = Names::read(&directory, &mut self.buffer).map_err(|it| self.unreadable(it))?;
        if let Some(index) = self.open.len().checked_sub(MAX_OPEN_DIRECTORIES) {
            self.open[index].descriptor = None;
        }
        self.open.push(OpenDirectory {
            descriptor: Some(Rc::new(directory)),
            names,
            path_length: self.path.len(),
            state,
            id,
        });
        Ok(())
    }

    /// Returns the descriptor of a directory on the way to the current entry.
    fn descriptor(&mut self, index: usize) -> Result<Rc<OwnedFd>, SendError> {
        let path = &self.path[..self.open[index].path_length];
        let source = &self.transfer.directory;
        let directory = &mut self.open[index];
        if let Some(descriptor) = &directory.descriptor {
            return Ok(Rc::clone(descriptor));
        }
        let opened = source.open_directory(path).map_err(|it| source.unreadable(path, it))?;
        Ok(Rc::clone(directory.descriptor.insert(Rc::new(opened))))
    }

    /// Announces the directories on the way to the current entry that are not announced yet.
    fn announce_directories(&mut self) -> Result<(), SendError> {
        for index in 0..self.open.len() {
            if self.open[index].id.is_some() {
                continue;
            }
            let descriptor = self.descriptor(index)?;
            let path = self.path[..self.open[index].path_length].to_vec();
            let mut read = || {
                let stat = stat_open(descriptor.as_fd())?;
                let replacement = self.transfer.directory.override_of(&path);
                let mut stat = to_stat(path.clone(), &stat, replacement);
                self.xattrs.read_open(descriptor.as_fd(), &mut stat)?;
                Ok(stat)
            };
            let stat = read().map_err(|it| self.transfer.directory.unreadable(&path, it))?;
            let parent = self.open[..index].last().and_then(|it| it.id).unwrap_or(ROOT);
            self.open[index].id = Some(self.announce(parent, stat, Content::None)?);
        }
        Ok(())
    }

    /// Announces an entry that is not a directory.
    fn visit_file(&mut self, parent: &OwnedFd, name: &CStr) -> Result<(), SendError> {
        let (metadata, mut stat) = match self.read_metadata(parent, name) {
            Ok(metadata) => metadata,
            // The entry counts as removed only if it is: `/proc` may be missing instead.
            Err(error) if stat_child(parent.as_fd(), name).is_ok() => {
                return Err(match error.kind() {
                    io::ErrorKind::NotFound => {
                        let text = "cannot read extended attributes: /proc is not mounted";
                        self.unreadable(io::Error::other(text))
                    }
                    _ => self.unreadable(error),
                });
            }
            Err(error) => return self.unless_removed(error),
        };
        let file_type = file_type(&metadata);
        if file_type == FileType::Directory {
            return Err(SendError::Replaced { path: to_path(&self.path) });
        }
        self.announce_directories()?;
        let inode = (metadata.stx_dev_major, metadata.stx_dev_minor, metadata.stx_ino);
        let has_links = metadata.stx_nlink > 1 && file_type != FileType::Symlink;
        let first = if has_links { self.links.get(&inode).copied() } else { None };
        if let Some(first) = first {
            stat.linkname = self.transfer.files.path(first);
        }
        let content = match file_type {
            FileType::RegularFile => {
                Content::File { size: metadata.stx_size, mtime: modification_time(&metadata) }
            }
            FileType::Socket => Content::Empty,
            _ => Content::None,
        };
        let parent = self.open.last().and_then(|it| it.id).unwrap_or(ROOT);
        let id = self.announce(parent, stat, content)?;
        if has_links && first.is_none() {
            self.links.insert(inode, id);
        }
        Ok(())
    }

    fn read_metadata(&mut self, parent: &OwnedFd, name: &CStr) -> io::Result<(Statx, Stat)> {
        let metadata = stat_child(parent.as_fd(), name)?;
        let replacement = self.transfer.directory.override_of(&self.path);
        let mut stat = to_stat(self.path.clone(), &metadata, replacement);
        if file_type(&metadata) == FileType::Symlink {
            stat.linkname = readlinkat(parent, name, Vec::new())?.into_bytes();
        }
        self.xattrs.read_child(parent.as_fd(), name, &mut stat)?;
        Ok((metadata, stat))
    }

    /// Numbers an entry and adds its packet to the batch.
    fn announce(&mut self, parent: u32, stat: Stat, content: Content) -> Result<u32, SendError> {
        let name = stat.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let id = self.transfer.files.push(parent, name, content);
        let xattrs = stat.xattrs.iter().map(|(name, value)| name.len() + value.len());
        self.batch_bytes +=
            PACKET_BYTES + stat.path.len() + stat.linkname.len() + xattrs.sum::<usize>();
        self.batch.push(stat_packet(Some(stat)));
        if self.batch.len() >= MAX_BATCH_PACKETS || self.batch_bytes >= MAX_BATCH_BYTES {
            self.send_batch()?;
        }
        Ok(id)
    }

    fn send_batch(&mut self) -> Result<(), SendError> {
        let batch = mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let entries = batch.len() as u64;
        if entries > 0 {
            self.transfer.send_batch(batch)?;
            self.transfer.count(|progress| progress.add_entries(entries));
        }
        Ok(())
    }

    /// Ignores an entry that was removed after its directory was read.
    fn unless_removed(&self, error: io::Error) -> Result<(), SendError> {
        if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(self.unreadable(error)) }
    }

    /// Skips an unreadable directory below which nothing can be selected.
    fn unless_nothing_is_selected(&self, error: io::Error) -> Result<(), SendError> {
        let parent = &self.open[self.open.len() - 1].state;
        if self.filter.may_send_below(parent, &self.path) {
            Err(self.unreadable(error))
        } else {
            Ok(())
        }
    }

    fn unreadable(&self, error: io::Error) -> SendError {
        self.transfer.directory.unreadable(&self.path, error)
    }
}
