//! Bounds and cancellation.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tonic::Status;

use super::super::super::proto::fsutil::types::packet::PacketType;
use super::super::{Directory, Selection, SendError};
use super::receiver::{Connection, connect, packet, receive, request, tree};

/// Creates as many files of a size as given.
fn files(count: usize, size: usize) -> (tempfile::TempDir, Arc<Directory>) {
    let root = tree(&[]);
    for index in 0..count {
        let path = root.path().join(format!("{index:05}"));
        std::fs::write(path, vec![u8::try_from(index % 251).unwrap(); size]).unwrap();
    }
    let directory = Arc::new(Directory::open(root.path()).unwrap());
    (root, directory)
}

#[tokio::test]
async fn requests_are_answered_while_entries_are_announced() {
    let (_root, directory) = files(5000, 100);
    let (outcome, received, _) = receive(directory, Selection::default(), |_| true).await;
    assert_eq!(outcome.unwrap().bytes, 500_000);
    for (id, content) in &received.contents {
        assert_eq!(*content, vec![u8::try_from(id % 251).unwrap(); 100]);
    }
}

#[tokio::test]
async fn requests_are_read_while_the_receiver_does_not_read() {
    let (_root, directory) = files(3000, 1000);
    let Connection { requests, mut packets, sender, .. } = connect(directory, Selection::default());
    let first = packets.next().await.unwrap().unwrap();
    assert!(first.stat.is_some());
    // The first batch is in the channel, so these entries have been announced.
    for id in (0..100).rev() {
        let sent = requests.send(Ok(request(id)));
        tokio::time::timeout(Duration::from_secs(10), sent).await.expect("REQ is read").unwrap();
    }
    let mut ended = 0;
    while ended < 100 {
        let packet = packets.next().await.unwrap().unwrap();
        let is_data = packet.r#type == i32::from(PacketType::PacketData);
        ended += u32::from(is_data && packet.data.is_empty());
    }
    while packets.next().await.unwrap().unwrap().stat.is_some() {}
    requests.send(Ok(packet(PacketType::PacketFin))).await.unwrap();
    let last = packets.next().await.unwrap().unwrap();
    assert_eq!(last.r#type, i32::from(PacketType::PacketFin));
    assert!(packets.next().await.is_none());
    assert_eq!(sender.await.unwrap().unwrap().files, 100);
}

#[tokio::test]
async fn a_slow_receiver_bounds_what_is_read() {
    let (_root, directory) = files(64, 1 << 20);
    let Connection { requests, mut packets, sender, progress } =
        connect(Arc::clone(&directory), Selection::default());
    while packets.next().await.unwrap().unwrap().stat.is_some() {}
    for id in 0..64 {
        requests.send(Ok(request(id))).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    // 16 batches wait in the channel, and each of the four readers waits with one more.
    let sent = progress.sent().bytes;
    assert!((15 << 17..=16 << 17).contains(&sent), "{sent} bytes");
    drop(packets);
    let error = sender.await.unwrap().unwrap_err();
    assert!(matches!(error, SendError::Disconnected(_)), "{error}");
    drop(requests);
}

#[tokio::test]
async fn the_transfer_fails_if_the_receiver_goes_away() {
    let (_root, directory) = files(3000, 10);
    let Connection { requests, packets, sender, .. } =
        connect(Arc::clone(&directory), Selection::default());
    drop(packets);
    let error = sender.await.unwrap().unwrap_err();
    assert!(matches!(error, SendError::Disconnected(_)), "{error}");
    drop(requests);

    let Connection { requests, packets, sender, .. } =
        connect(Arc::clone(&directory), Selection::default());
    drop(requests);
    let error = sender.await.unwrap().unwrap_err();
    assert!(matches!(error, SendError::Disconnected(_)), "{error}");
    let last = packets.collect::<Vec<_>>().await.pop().unwrap();
    assert_eq!(last.unwrap_err().code(), tonic::Code::Cancelled);

    let connection = connect(directory, Selection::default());
    connection.requests.send(Err(Status::unavailable("connection reset"))).await.unwrap();
    let error = connection.outcome().await.unwrap_err();
    assert!(error.to_string().ends_with("connection reset"), "{error}");
}

#[tokio::test]
async fn a_cancelled_transfer_ends_its_threads_and_its_stream() {
    let (_root, directory) = files(3000, 10);
    let Connection { requests, packets, sender, .. } =
        connect(Arc::clone(&directory), Selection::default());
    tokio::time::sleep(Duration::from_millis(50)).await;
    sender.abort();
    let last = packets.collect::<Vec<_>>().await.pop().unwrap();
    assert_eq!(last.unwrap_err().code(), tonic::Code::Cancelled);
    for _ in 0..500 {
        if Arc::strong_count(&directory) == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(Arc::strong_count(&directory), 1, "no thread holds the directory");
    drop(requests);
}
