//! Packets that the protocol does not allow.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use proptest::prelude::*;

use super::super::super::proto::fsutil::types::{Packet, Stat, packet::PacketType};
use super::super::files::{Content, Files, ROOT};
use super::super::{Directory, Selection, SendError, Sent};
use super::receiver::{Connection, connect, packet, request, tree};

/// Sends packets after the last STAT and returns the outcome.
async fn outcome_of(sent: Vec<Packet>) -> Result<Sent, SendError> {
    let root = tree(&[("dir/", ""), ("file", "content")]);
    let directory = Arc::new(Directory::open(root.path()).unwrap());
    let Connection { requests, mut packets, sender, .. } = connect(directory, Selection::default());
    while packets.next().await.unwrap().unwrap().stat.is_some() {}
    let drained = tokio::spawn(async move { while packets.next().await.is_some() {} });
    for packet in sent {
        if requests.send(Ok(packet)).await.is_err() {
            break;
        }
    }
    drop(requests);
    drained.await.unwrap();
    sender.await.unwrap()
}

async fn assert_protocol_error(sent: Vec<Packet>, text: &str) {
    match outcome_of(sent).await.unwrap_err() {
        SendError::Protocol(found) => assert!(found.contains(text), "{found}"),
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn requests_that_cannot_be_answered_fail() {
    assert_protocol_error(vec![request(2)], "entry 2, but only 2 were announced").await;
    assert_protocol_error(vec![request(u32::MAX)], "entry 4294967295").await;
    assert_protocol_error(vec![request(0)], "entry 0, which is not a file").await;
    assert_protocol_error(vec![request(1), request(1)], "entry 1, which was requested before")
        .await;
    assert_protocol_error(vec![request(1); 1_000_000], "entry 1, which was requested before").await;
}

#[tokio::test]
async fn packets_of_the_sender_or_with_content_fail() {
    let data = Bytes::from(vec![0; 1 << 20]);
    let large = Packet { data: data.clone(), ..request(1) };
    assert_protocol_error(vec![large], "REQ with content").await;
    let stat = Packet { stat: Some(Stat::default()), ..request(1) };
    assert_protocol_error(vec![stat], "REQ with content").await;
    assert_protocol_error(vec![packet(PacketType::PacketStat)], "PACKET_STAT").await;
    let data = Packet { data, ..packet(PacketType::PacketData) };
    assert_protocol_error(vec![data], "PACKET_DATA").await;
    assert_protocol_error(vec![Packet { r#type: 99, ..Packet::default() }], "type 99").await;
}

#[tokio::test]
async fn an_early_fin_fails() {
    let fin = || packet(PacketType::PacketFin);
    outcome_of(vec![fin()]).await.unwrap();

    let files = Files::default();
    files.push(ROOT, b"file", Content::Empty);
    files.complete();
    files.request(0).unwrap();
    let error = files.check_finished().unwrap_err();
    assert!(error.to_string().ends_with("FIN before 1 requested files were sent"), "{error}");

    let root = tree(&[("file", "")]);
    let directory = Arc::new(Directory::open(root.path()).unwrap());
    for index in 0..3000 {
        std::fs::write(root.path().join(format!("{index}")), "").unwrap();
    }
    let connection = connect(directory, Selection::default());
    connection.requests.send(Ok(fin())).await.unwrap();
    let error = connection.outcome().await.unwrap_err();
    assert!(error.to_string().ends_with("FIN before the last STAT"), "{error}");
}

#[tokio::test]
async fn an_error_of_the_receiver_is_reported() {
    let data = Bytes::from("no space left ".repeat(100_000));
    let error = outcome_of(vec![Packet { data, ..packet(PacketType::PacketErr) }]).await;
    let text = error.unwrap_err().to_string();
    assert!(text.starts_with("the daemon failed to receive the files: no space left"));
    assert!(text.len() < 5000);
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let data = prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    let id = prop_oneof![0..4_u32, any::<u32>()];
    let stat = prop_oneof![9 => Just(None), 1 => Just(Some(Stat::default()))];
    let data = prop_oneof![4 => Just(Bytes::new()), 1 => data];
    (prop_oneof![4 => Just(1), 1 => -1..6_i32], stat, id, data)
        .prop_map(|(packet_type, stat, id, data)| Packet { r#type: packet_type, stat, id, data })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..<_>::default() })]

    #[test]
    fn any_packets_end_in_an_outcome(sent in prop::collection::vec(any_packet(), 0..12)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
        let is_complete = sent.last().is_some_and(|it| it.r#type == 3);
        let outcome = runtime.block_on(async {
            let outcome = tokio::time::timeout(std::time::Duration::from_secs(20), outcome_of(sent));
            outcome.await.expect("the transfer ends")
        });
        if outcome.is_ok() {
            prop_assert!(is_complete || outcome.unwrap().files <= 1);
        }
    }
}
