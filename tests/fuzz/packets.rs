//! The packets of a daemon that receives a directory.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use ocibuild::buildkit::{
    proto::fsutil::types::{Packet, Stat, packet::PacketType},
    sender::{Directory, Packets, Progress, Selection, SendError, Sent, channel, send},
};
use proptest::prelude::*;
use prost::Message;
use tokio::{runtime::Runtime, sync::Notify, time::timeout};
use tonic::Status;

use crate::{
    hold,
    wire::{damage, noise},
};

/// A transfer of three files takes microseconds; one that takes this long hangs.
const TRANSFER_TIMEOUT: Duration = Duration::from_mins(1);
pub const CONTENT: &[u8] = b"content";
const OUTSIDE: &[u8] = b"outside of the directory";
/// Longest text of an error that the daemon did not write itself.
const MAX_ERROR_BYTES: usize = 5000;

/// How the stream of the daemon's packets ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Ends,
    Breaks,
    /// The daemon says nothing more, and closes its receiving stream.
    Leaves,
}

#[derive(Clone, Debug)]
struct Daemon {
    /// Encoded packets.
    messages: Vec<Vec<u8>>,
    /// Whether the packets are sent after the last STAT, or while the entries are announced.
    waits: bool,
    end: End,
}

fn a_packet() -> impl Strategy<Value = Packet> {
    let id = prop_oneof![8 => 0..6_u32, 1 => any::<u32>(), 1 => Just(u32::MAX)];
    let kind = prop_oneof![6 => Just(1), 2 => Just(3), 1 => -1..6_i32, 1 => any::<i32>()];
    let stat = prop_oneof![15 => Just(None), 1 => Just(Some(Stat::default()))];
    let data = prop_oneof![
        15 => Just(Vec::new()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        1 => Just(b"\xffno space ".repeat(1000)),
    ];
    (kind, stat, id, data).prop_map(|(kind, stat, id, data)| Packet {
        r#type: kind,
        stat,
        id,
        data: data.into(),
    })
}

fn a_daemon() -> impl Strategy<Value = Daemon> {
    let message =
        (a_packet(), damage()).prop_map(|(packet, damage)| damage.apply(packet.encode_to_vec()));
    let valid = a_packet().prop_map(|packet| packet.encode_to_vec());
    let messages = prop::collection::vec(prop_oneof![3 => valid, 1 => message], 0..8);
    let noise = prop::collection::vec(noise(30), 0..4);
    let messages = prop_oneof![4 => messages, 1 => noise];
    let end = prop::sample::select(vec![End::Ends, End::Breaks, End::Leaves]);
    (messages, any::<bool>(), end).prop_map(|(messages, waits, end)| Daemon {
        messages,
        waits,
        end,
    })
}

/// A directory `context` with a symlink to a file outside of it.
pub fn directory(root: &Path) -> Arc<Directory> {
    fs::create_dir_all(root.join("context/sub")).unwrap();
    fs::write(root.join("outside"), OUTSIDE).unwrap();
    fs::write(root.join("context/file"), CONTENT).unwrap();
    fs::write(root.join("context/sub/file"), CONTENT).unwrap();
    fs::write(root.join("context/z"), b"").unwrap();
    symlink("../outside", root.join("context/link")).unwrap();
    Arc::new(Directory::open(&root.join("context")).unwrap())
}

/// Checks that an announced entry is one of the directory's.
pub fn check_stat(stat: &Stat) -> Result<(), TestCaseError> {
    let path = String::from_utf8_lossy(&stat.path);
    let known = ["Dockerfile", "file", "link", "sub", "sub/file", "z"];
    prop_assert!(known.contains(&path.as_ref()), "announced {path:?}");
    Ok(())
}

/// What a daemon notices of a transfer.
#[derive(Default)]
struct Receiver {
    announced: AtomicBool,
    announced_all: Notify,
    left: AtomicBool,
    leaves: Notify,
}

impl Receiver {
    /// The packets that a daemon sends.
    fn incoming(&self, daemon: Daemon) -> impl Stream<Item = Result<Packet, Status>> {
        let Daemon { messages, waits, end } = daemon;
        let started = async move {
            while waits && !self.announced.load(Ordering::Relaxed) {
                self.announced_all.notified().await;
            }
        };
        let packets = messages.into_iter().map(|message| {
            Packet::decode(message.as_slice()).map_err(|error| Status::internal(error.to_string()))
        });
        let ending = stream::once(async move {
            match end {
                End::Ends => None,
                End::Breaks => Some(Err(Status::unavailable("connection reset"))),
                End::Leaves => {
                    self.left.store(true, Ordering::Relaxed);
                    self.leaves.notify_one();
                    futures::future::pending().await
                }
            }
        });
        stream::once(started)
            .filter_map(|()| async { None })
            .chain(stream::iter(packets))
            .chain(ending.filter_map(|last| async { last }))
    }

    /// Reads what is sent, and checks that it comes from the directory.
    async fn receive(&self, mut packets: Packets) -> Result<(), TestCaseError> {
        let mut received = Ok(());
        loop {
            let packet = tokio::select! {
                packet = packets.next() => packet,
                () = self.leaves.notified() => return received,
            };
            match packet {
                Some(Ok(packet)) => received = received.and(self.check(&packet)),
                Some(Err(_)) => {}
                None => return received,
            }
        }
    }

    fn check(&self, packet: &Packet) -> Result<(), TestCaseError> {
        let kind = PacketType::try_from(packet.r#type);
        match (kind, &packet.stat) {
            (Ok(PacketType::PacketStat), Some(stat)) => {
                check_stat(stat)?;
            }
            (Ok(PacketType::PacketStat), None) => {
                self.announced.store(true, Ordering::Relaxed);
                self.announced_all.notify_one();
            }
            (Ok(PacketType::PacketData), None) => {
                let is_content = packet.data.is_empty() || packet.data.as_ref() == CONTENT;
                prop_assert!(is_content, "sent {:?}", packet.data);
            }
            (Ok(PacketType::PacketFin), None) => {}
            _ => prop_assert!(false, "sent {packet:?}"),
        }
        Ok(())
    }
}

async fn transfer(
    directory: &Arc<Directory>,
    daemon: Daemon,
) -> Result<Result<Sent, SendError>, TestCaseError> {
    let (outgoing, packets) = channel();
    let receiver = Receiver::default();
    let incoming = receiver.incoming(daemon);
    let progress = Arc::new(Progress::default());
    let sending = send(directory.clone(), Selection::default(), incoming, outgoing, progress);
    let both = async { tokio::join!(sending, receiver.receive(packets)) };
    let both = timeout(TRANSFER_TIMEOUT, both).await;
    let (sent, received) = both.map_err(|_| TestCaseError::fail("the transfer hangs"))?;
    received.map(|()| sent)
}

/// Blocking threads with small stacks: each counts as data of the process.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(16)
        .thread_stack_size(256 << 10)
        .build()
        .unwrap()
}

#[test]
fn packets_in_any_order_end_a_transfer() {
    let folder = tempfile::tempdir().unwrap();
    let (directory, runtime) = (directory(folder.path()), runtime());
    hold(1, a_daemon(), |daemon| {
        let is_fin = |message: &Vec<u8>| {
            Packet::decode(message.as_slice()).is_ok_and(|packet| packet.r#type == 3)
        };
        let has_fin = daemon.messages.iter().any(is_fin);
        match runtime.block_on(transfer(&directory, daemon))? {
            Ok(sent) => {
                prop_assert!(has_fin, "success without FIN");
                prop_assert!(sent.files <= 3 && sent.bytes <= 14, "{sent:?}");
            }
            Err(SendError::Panicked(text)) => prop_assert!(false, "panicked: {text}"),
            Err(error) => prop_assert!(error.to_string().len() <= MAX_ERROR_BYTES, "{error}"),
        }
        Ok(())
    });
}
