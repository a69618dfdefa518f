//! Order and completeness of random trees, against a model.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

use super::super::{Directory, Selection};
use super::receiver::{path_of, receive, receive_all, tree};

#[derive(Clone, Debug)]
enum Node {
    File(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Node>),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop::sample::select(b"ab.-!0\x01\x7f\xc3\xff".to_vec());
    prop::collection::vec(byte, 1..4).prop_filter("dots", |it| it != b"." && it != b"..")
}

fn node() -> impl Strategy<Value = BTreeMap<Vec<u8>, Node>> {
    let file = prop::collection::vec(any::<u8>(), 0..64).prop_map(Node::File);
    let node = file.prop_recursive(5, 60, 8, |inner| {
        prop::collection::btree_map(name(), inner, 0..8).prop_map(Node::Directory)
    });
    prop::collection::btree_map(name(), node, 0..8)
}

/// Writes a tree, and lists it by the parts of the paths, whose order is that of the protocol.
fn write(
    directory: &Path,
    parents: &[Vec<u8>],
    nodes: &BTreeMap<Vec<u8>, Node>,
    listed: &mut BTreeMap<Vec<Vec<u8>>, Option<Vec<u8>>>,
) {
    for (name, node) in nodes {
        let path = directory.join(path_of(name));
        let parts = [parents, std::slice::from_ref(name)].concat();
        match node {
            Node::File(content) => {
                std::fs::write(&path, content).unwrap();
                listed.insert(parts, Some(content.clone()));
            }
            Node::Directory(nodes) => {
                std::fs::create_dir(&path).unwrap();
                write(&path, &parts, nodes, listed);
                listed.insert(parts, None);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..<_>::default() })]

    #[test]
    fn random_trees_arrive_in_order(nodes in node(), has_openat2 in any::<bool>()) {
        let root = tree(&[]);
        let mut listed = BTreeMap::new();
        write(root.path(), &[], &nodes, &mut listed);
        let directory = Directory::open(root.path()).unwrap();
        directory.has_openat2.store(has_openat2, Ordering::Relaxed);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
        let (outcome, received, _) =
            runtime.block_on(receive(Arc::new(directory), Selection::default(), |_| true));
        outcome.unwrap();

        let expected = listed.into_iter().map(|(parts, content)| (parts.join(&b'/'), content));
        let arrived = received.stats.iter().enumerate().map(|(id, stat)| {
            let content = received.contents.get(&u32::try_from(id).unwrap()).cloned();
            (stat.path.clone(), content)
        });
        prop_assert_eq!(arrived.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_directory_comes_before_its_entries_and_after_smaller_names() {
    let root = tree(&[("a/b", ""), ("a.b", ""), ("a-/x", ""), ("B", ""), ("a0", "")]);
    let (_, received) = receive_all(root.path(), Selection::default()).await;
    assert_eq!(received.paths(), ["B", "a", "a/b", "a-", "a-/x", "a.b", "a0"]);
}

#[tokio::test]
async fn a_tree_may_be_deeper_than_a_path_is_long() {
    let root = tree(&[]);
    let name = "d".repeat(200);
    let open = |parent: &std::os::fd::OwnedFd, name: &str| {
        openat(parent, name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    };
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut directory = openat(CWD, root.path(), flags, Mode::empty()).unwrap();
    for _ in 0..100 {
        mkdirat(&directory, &*name, Mode::from_raw_mode(0o755)).unwrap();
        directory = open(&directory, &name);
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let file = openat(&directory, "z", flags, Mode::from_raw_mode(0o644)).unwrap();
        rustix::io::write(&file, b"deep").unwrap();
    }
    let (sent, received) = receive_all(root.path(), Selection::default()).await;
    assert_eq!((sent.entries, sent.files, sent.bytes), (200, 100, 400));
    assert!(received.contents.values().all(|content| content == b"deep"));
}
