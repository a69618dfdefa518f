//! Metadata of entries in the form that the protocol sends.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, FileType, Mode, RawMode, Statx, StatxFlags, StatxTimestamp, fgetxattr, flistxattr,
    lgetxattr, llistxattr, statx,
};
use rustix::io::Errno;

use super::super::proto::fsutil::types::Stat;
use super::directory::{Override, retry_on_intr};

/// Bits of Go's `fs.FileMode`, which differ from those of `st_mode`.
pub(super) mod go_mode {
    pub(crate) const DIRECTORY: u32 = 1 << 31;
    pub(crate) const SYMLINK: u32 = 1 << 27;
    pub(crate) const DEVICE: u32 = 1 << 26;
    pub(crate) const NAMED_PIPE: u32 = 1 << 25;
    pub(crate) const SET_UID: u32 = 1 << 23;
    pub(crate) const SET_GID: u32 = 1 << 22;
    pub(crate) const CHARACTER_DEVICE: u32 = 1 << 21;
    pub(crate) const STICKY: u32 = 1 << 20;
}

/// Size limit of the kernel for one extended attribute and for the list of their names.
const XATTR_MAX_BYTES: usize = 64 * 1024;

/// Attributes that BuildKit does not transfer.
const IGNORED_XATTR_PREFIX: &[u8] = b"com.apple.";

/// Reads the metadata of an entry by its name, without following a symlink.
pub(super) fn stat_child(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    Ok(retry_on_intr(|| statx(parent, name, flags, StatxFlags::BASIC_STATS))?)
}

/// Reads the metadata of an open file.
pub(super) fn stat_open(file: BorrowedFd<'_>) -> io::Result<Statx> {
    Ok(retry_on_intr(|| statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS))?)
}

pub(super) fn file_type(stat: &Statx) -> FileType {
    FileType::from_raw_mode(RawMode::from(stat.stx_mode))
}

/// Returns the permission bits with set-user-ID, set-group-ID and sticky bit.
pub(super) fn permissions(stat: &Statx) -> u32 {
    Mode::from_raw_mode(RawMode::from(stat.stx_mode)).as_raw_mode()
}

/// Returns the modification time in nanoseconds since 1970.
pub(super) fn modification_time(stat: &Statx) -> i64 {
    let StatxTimestamp { tv_sec, tv_nsec, .. } = stat.stx_mtime;
    tv_sec.wrapping_mul(1_000_000_000).wrapping_add(i64::from(tv_nsec))
}

/// Converts metadata to the form of the protocol. Like BuildKit's own client, it sends root as the
/// owner.
///
/// Link target and extended attributes are left empty.
pub(super) fn to_stat(path: Vec<u8>, stat: &Statx, replacement: Option<Override>) -> Stat {
    let file_type = file_type(stat);
    let permissions = replacement.map_or_else(|| permissions(stat), |it| it.mode);
    let is_device = matches!(file_type, FileType::CharacterDevice | FileType::BlockDevice);
    let size = if file_type == FileType::Directory { 0 } else { stat.stx_size };
    Stat {
        path,
        mode: to_go_mode(file_type, permissions),
        uid: replacement.map_or(0, |it| it.uid),
        gid: replacement.map_or(0, |it| it.gid),
        size: i64::try_from(size).unwrap_or(i64::MAX),
        mod_time: modification_time(stat),
        devmajor: if is_device { i64::from(stat.stx_rdev_major) } else { 0 },
        devminor: if is_device { i64::from(stat.stx_rdev_minor) } else { 0 },
        ..Stat::default()
    }
}

/// Converts type and permission bits to Go's `fs.FileMode`. Sockets become regular files.
fn to_go_mode(file_type: FileType, permissions: u32) -> u32 {
    let type_bits = match file_type {
        FileType::Directory => go_mode::DIRECTORY,
        FileType::Symlink => go_mode::SYMLINK,
        FileType::BlockDevice => go_mode::DEVICE,
        FileType::CharacterDevice => go_mode::DEVICE | go_mode::CHARACTER_DEVICE,
        FileType::Fifo => go_mode::NAMED_PIPE,
        _ => 0,
    };
    let special_bits =
        [(0o4000, go_mode::SET_UID), (0o2000, go_mode::SET_GID), (0o1000, go_mode::STICKY)];
    special_bits
        .into_iter()
        .filter(|(bit, _)| permissions & bit != 0)
        .fold(type_bits | (permissions & 0o777), |mode, (_, go_bit)| mode | go_bit)
}

/// Reads extended attributes, with buffers that are reused.
pub(super) struct XattrReader {
    names: Vec<u8>,
    value: Vec<u8>,
    path: Vec<u8>,
}

impl XattrReader {
    pub(super) fn new() -> Self {
        Self {
            names: Vec::with_capacity(XATTR_MAX_BYTES),
            value: Vec::with_capacity(XATTR_MAX_BYTES),
            path: Vec::new(),
        }
    }

    /// Adds the extended attributes of an open directory to its metadata.
    pub(super) fn read_open(&mut self, file: BorrowedFd<'_>, stat: &mut Stat) -> io::Result<()> {
        self.read(
            stat,
            |names| flistxattr(file, spare_capacity(names)),
            |name, value| fgetxattr(file, name, spare_capacity(value)),
        )
    }

    /// Adds the extended attributes of an entry to its metadata.
    ///
    /// The entry is not opened, since it need not be readable. The kernel has no `listxattrat`
    /// before Linux 6.13, hence the path through the parent's descriptor in `/proc`.
    pub(super) fn read_child(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        stat: &mut Stat,
    ) -> io::Result<()> {
        let mut path = std::mem::take(&mut self.path);
        path.clear();
        path.extend_from_slice(format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes());
        path.extend_from_slice(name.to_bytes_with_nul());
        let result = CStr::from_bytes_with_nul(&path).map_err(io::Error::other).and_then(|path| {
            self.read(
                stat,
                |names| llistxattr(path, spare_capacity(names)),
                |name, value| lgetxattr(path, name, spare_capacity(value)),
            )
        });
        self.path = path;
        result
    }

    fn read(
        &mut self,
        stat: &mut Stat,
        list: impl Fn(&mut Vec<u8>) -> Result<usize, Errno>,
        get: impl Fn(&CStr, &mut Vec<u8>) -> Result<usize, Errno>,
    ) -> io::Result<()> {
        self.names.clear();
        match list(&mut self.names) {
            Ok(_) | Err(Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
        for name in self.names.split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            if name.to_bytes().starts_with(IGNORED_XATTR_PREFIX) {
                continue;
            }
            let key = name.to_str().map_err(|_| {
                let text = format!("the name of the extended attribute {name:?} is not UTF-8");
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?;
            self.value.clear();
            match get(name, &mut self.value) {
                Ok(_) => drop(stat.xattrs.insert(key.to_owned(), self.value.clone())),
                // Removed since it was listed, or without a representation in this namespace.
                Err(Errno::NODATA | Errno::NOTSUP | Errno::OVERFLOW) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
