//! A receiver in place of the daemon, and helpers that build directories.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use rustix::process::Uid;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::super::super::proto::fsutil::types::{Packet, Stat, packet::PacketType};
use super::super::metadata::go_mode;
use super::super::{Directory, Packets, Progress, Selection, SendError, Sent, channel, send};

const TIMEOUT: Duration = Duration::from_mins(1);
const TYPE_BITS: u32 =
    go_mode::DIRECTORY | go_mode::SYMLINK | go_mode::DEVICE | go_mode::NAMED_PIPE;

pub(super) fn packet(packet_type: PacketType) -> Packet {
    Packet { r#type: packet_type.into(), ..Packet::default() }
}

pub(super) fn request(id: u32) -> Packet {
    Packet { id, ..packet(PacketType::PacketReq) }
}

/// The daemon's end of a transfer that runs in a task of its own.
pub(super) struct Connection {
    pub(super) requests: mpsc::Sender<Result<Packet, Status>>,
    pub(super) packets: Packets,
    pub(super) sender: JoinHandle<Result<Sent, SendError>>,
    pub(super) progress: Arc<Progress>,
}

pub(super) fn connect(directory: Arc<Directory>, selection: Selection) -> Connection {
    let (requests, incoming) = mpsc::channel(1);
    let (outgoing, packets) = channel();
    let incoming = ReceiverStream::new(incoming);
    let progress = Arc::new(Progress::default());
    let counters = Arc::clone(&progress);
    let sender = tokio::spawn(send(directory, selection, incoming, outgoing, counters));
    Connection { requests, packets, sender, progress }
}

impl Connection {
    pub(super) async fn outcome(self) -> Result<Sent, SendError> {
        let Self { requests, packets, sender, .. } = self;
        let outcome = tokio::time::timeout(TIMEOUT, sender).await;
        drop((requests, packets));
        outcome.expect("the transfer ends").unwrap()
    }
}

/// What a receiver got.
#[derive(Default)]
pub(super) struct Received {
    pub(super) stats: Vec<Stat>,
    pub(super) contents: BTreeMap<u32, Vec<u8>>,
    open: BTreeSet<u32>,
    is_complete: bool,
}

impl Received {
    pub(super) fn paths(&self) -> Vec<String> {
        self.stats.iter().map(|stat| String::from_utf8_lossy(&stat.path).into_owned()).collect()
    }

    pub(super) fn stat(&self, path: &str) -> &Stat {
        let found = self.stats.iter().find(|stat| stat.path == path.as_bytes());
        found.unwrap_or_else(|| panic!("{path} was announced; got {:?}", self.paths()))
    }

    pub(super) fn content(&self, path: &str) -> &[u8] {
        let id = self.stats.iter().position(|stat| stat.path == path.as_bytes()).unwrap();
        &self.contents[&u32::try_from(id).unwrap()]
    }

    /// Takes a STAT and returns its number if its content can be requested.
    fn add_stat(&mut self, stat: Stat) -> Option<u32> {
        self.check_order(&stat);
        let id = u32::try_from(self.stats.len()).unwrap();
        let is_link = !stat.linkname.is_empty();
        if is_link && stat.mode & go_mode::SYMLINK == 0 {
            let mut earlier = self.stats.iter();
            assert!(earlier.any(|it| it.path == stat.linkname && it.linkname.is_empty()));
        }
        let can_request = stat.mode & TYPE_BITS == 0 && !is_link;
        self.stats.push(stat);
        can_request.then_some(id)
    }

    /// The receiver of fsutil refuses entries without their parent, or out of order.
    fn check_order(&self, stat: &Stat) {
        let parts = |path: &[u8]| -> Vec<Vec<u8>> {
            path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect()
        };
        assert!(!self.is_complete, "no STAT follows the last one");
        let path = parts(&stat.path);
        assert!(path.iter().all(|part| !part.is_empty() && *part != b"." && *part != b".."));
        if let Some(last) = self.stats.last() {
            assert!(parts(&last.path) < path, "{:?} is out of order", stat.path);
        }
        if let Some(slash) = stat.path.iter().rposition(|byte| *byte == b'/') {
            let parent = self.stats.iter().find(|it| it.path == stat.path[..slash]);
            assert!(parent.is_some_and(|it| it.mode & go_mode::DIRECTORY != 0));
        }
    }

    fn add_data(&mut self, packet: &Packet) {
        assert!(packet.data.len() <= 128 * 1024);
        assert!(self.open.contains(&packet.id), "DATA of entry {} was requested", packet.id);
        self.contents.entry(packet.id).or_default().extend_from_slice(&packet.data);
        if packet.data.is_empty() {
            self.open.remove(&packet.id);
        }
    }
}

/// Receives a directory as the daemon does. Before a file is requested, `choose` decides whether
/// it is, and can change the directory.
pub(super) async fn receive(
    directory: Arc<Directory>,
    selection: Selection,
    choose: impl FnMut(&Stat) -> bool,
) -> (Result<Sent, SendError>, Received, Option<Status>) {
    let received = receive_unbounded(directory, selection, choose);
    tokio::time::timeout(TIMEOUT, received).await.expect("the transfer ends")
}

async fn receive_unbounded(
    directory: Arc<Directory>,
    selection: Selection,
    mut choose: impl FnMut(&Stat) -> bool,
) -> (Result<Sent, SendError>, Received, Option<Status>) {
    let Connection { requests, mut packets, sender, .. } = connect(directory, selection);
    // The daemon's requests do not hold up its reading of packets.
    let (queue, mut queued) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(packet) = queued.recv().await {
            drop(requests.send(Ok(packet)).await);
        }
    });
    let mut received = Received::default();
    let mut status = None;
    while let Some(packet) = packets.next().await {
        let packet = match packet {
            Ok(packet) => packet,
            Err(error) => {
                status = Some(error);
                continue;
            }
        };
        assert!(status.is_none(), "nothing follows the status");
        match PacketType::try_from(packet.r#type).unwrap() {
            PacketType::PacketStat => match packet.stat {
                Some(stat) => {
                    let is_chosen = choose(&stat);
                    if let Some(id) = received.add_stat(stat).filter(|_| is_chosen) {
                        received.open.insert(id);
                        queue.send(request(id)).unwrap();
                    }
                }
                None => received.is_complete = true,
            },
            PacketType::PacketData => received.add_data(&packet),
            PacketType::PacketFin => {
                assert!(received.is_complete && received.open.is_empty());
                continue;
            }
            other => panic!("unexpected {}", other.as_str_name()),
        }
        if received.is_complete && received.open.is_empty() {
            queue.send(self::packet(PacketType::PacketFin)).unwrap();
        }
    }
    (sender.await.unwrap(), received, status)
}

/// Receives everything that is selected.
pub(super) async fn receive_all(root: &Path, selection: Selection) -> (Sent, Received) {
    let directory = Arc::new(Directory::open(root).unwrap());
    let (outcome, received, status) = receive(directory, selection, |_| true).await;
    assert!(status.is_none(), "{status:?}");
    (outcome.unwrap(), received)
}

/// Creates files below a directory, with their parent directories. A name that ends with a slash
/// is a directory.
pub(super) fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
    for (name, content) in files {
        let path = root.path().join(name);
        if name.ends_with('/') {
            std::fs::create_dir_all(path).unwrap();
        } else {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }
    root
}

pub(super) fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

pub(super) fn mtime(path: &Path) -> i64 {
    let metadata = path.symlink_metadata().unwrap();
    metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec()
}

/// A runtime whose threads are not root, so that permissions apply to them.
pub(super) fn unprivileged() -> Runtime {
    let user = Uid::from_raw(1000);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .on_thread_start(move || {
            if rustix::process::geteuid().is_root() {
                rustix::thread::set_thread_res_uid(user, user, user).unwrap();
            }
        })
        .enable_all()
        .build()
        .unwrap()
}
