//! The requests of a daemon to the services of a session: headers that select a directory, its
//! files, an export, a blob, an SSH agent, and the bytes after the headers.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use ocibuild::buildkit::{
    Consumer, ExportReader, Secret, Services,
    proto::{
        containerd::services::content::v1::{InfoRequest, ReadContentRequest, ReadContentResponse},
        fsutil::types::Packet,
        moby::{
            buildkit::secrets::v1::{GetSecretRequest, GetSecretResponse},
            filesync::v1::BytesMessage,
            sshforward::v1::CheckAgentRequest,
        },
    },
    router,
    sender::Directory,
    ssh_agent::SshAgent,
};
use proptest::prelude::*;
use prost::Message;
use tokio::time::timeout;
use tonic::{Status, body::Body};

use crate::{
    hold, large_input, made_of,
    packets::{CONTENT, check_stat, directory, runtime},
    wire::{Damage, damage, noise},
};

/// An answer takes seconds at most, with the largest headers; one that takes this long hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(5);
/// Headers that hyper accepts in one request.
const MAX_HEADER_LIST_BYTES: usize = 16 << 20;
/// What an entry of the list counts beside its name and value (RFC 9113, section 6.5.2).
const HEADER_BYTES: usize = 32;

const FILES: &str = "/moby.filesync.v1.FileSync/DiffCopy";
const EXPORT: &str = "/moby.filesync.v1.FileSend/DiffCopy";
const BLOB_INFO: &str = "/containerd.services.content.v1.Content/Info";
const BLOB: &str = "/containerd.services.content.v1.Content/Read";
const SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const AGENT: &str = "/moby.sshforward.v1.SSH/CheckAgent";
const FORWARD: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
const OTHER_METHODS: &[&str] = &["/", "", "/moby.filesync.v1.FileSync/../FileSend", "/x/y", FILES];

const PIECES: &[&str] = &[
    "file", "sub", "link", "outside", "a", "*", "**", "?", "[", "]", "[a-z]", "[^a]", "[b-a]", "-",
    "\\", "/", "./", "../", "..", "!", "#", " ", "ä", "(", "{9}", "{99999}", "$", "%2e%2e", "%2F",
    "%", "%zz", "%00", "%FF", "%0A", "+", "%21",
];
const NAMES: &[&str] = &[
    "context",
    "dockerfile",
    "oci:",
    "layout",
    "..",
    "/",
    "%2e",
    "%63ontext",
    "0",
    "1",
    "99999999999999999999",
    "-",
    "default",
    "ä",
    "+",
    "sha256:",
];

type Header = (&'static str, Vec<u8>);

#[derive(Clone, Debug)]
struct Call {
    method: &'static str,
    headers: Vec<Header>,
    /// Messages of the body.
    messages: Vec<Vec<u8>>,
    /// Of the bytes of the body.
    damage: Damage,
}

fn a_digest() -> BoxedStrategy<String> {
    prop_oneof![
        3 => Just(format!("sha256:{}", "0a".repeat(32))),
        1 => Just(format!("sha256:{}", "0A".repeat(32))),
        1 => Just(format!("sha256:{}", "../".repeat(21) + "a")),
        1 => Just("sha256:../../../outside".to_owned()),
        1 => made_of(NAMES, 4),
        1 => any::<String>(),
    ]
    .boxed()
}

fn a_name() -> BoxedStrategy<Vec<u8>> {
    prop_oneof![
        3 => Just(b"context".to_vec()),
        1 => Just(b"oci:layout".to_vec()),
        4 => made_of(NAMES, 3).prop_map(String::into_bytes),
        1 => noise(20),
    ]
    .boxed()
}

fn a_pattern() -> BoxedStrategy<Vec<u8>> {
    prop_oneof![6 => made_of(PIECES, 10).prop_map(String::into_bytes), 1 => noise(30)].boxed()
}

fn a_header() -> BoxedStrategy<Header> {
    let names = prop::sample::select(vec![
        "dir-name",
        "buildkit-attachable-exporter-id",
        "buildkit-attachable-store-id",
        "buildkit.ssh.id",
        "grpc-timeout",
        "grpc-encoding",
    ]);
    let patterns =
        prop::sample::select(vec!["include-patterns", "exclude-patterns", "followpaths"]);
    let encoded = prop::sample::select(vec![
        "dir-name-encoded",
        "include-patterns-encoded",
        "exclude-patterns-encoded",
        "followpaths-encoded",
    ]);
    let flag = prop::sample::select(vec![b"1".to_vec(), b"0".to_vec(), b"".to_vec()]);
    prop_oneof![2 => (names, a_name()), 4 => (patterns, a_pattern()), 1 => (encoded, flag)].boxed()
}

fn a_call() -> impl Strategy<Value = Call> {
    let content = (a_digest(), prop_oneof![0..9_i64, any::<i64>()], any::<i64>());
    let read = content.prop_map(|(digest, offset, size)| {
        (BLOB, ReadContentRequest { digest, offset, size }.encode_to_vec())
    });
    let id = || made_of(NAMES, 3);
    let export = prop::collection::vec(any::<u8>(), 0..20)
        .prop_map(|data| (EXPORT, BytesMessage { data: data.into() }.encode_to_vec()));
    let other = (prop::sample::select(OTHER_METHODS), noise(20));
    let message = prop_oneof![
        4 => Just((FILES, Vec::new())),
        2 => read,
        1 => a_digest().prop_map(|digest| (BLOB_INFO, InfoRequest { digest }.encode_to_vec())),
        2 => export,
        1 => id().prop_map(|id| {
            (SECRET, GetSecretRequest { id, ..GetSecretRequest::default() }.encode_to_vec())
        }),
        1 => id().prop_map(|id| (AGENT, CheckAgentRequest { id }.encode_to_vec())),
        1 => noise(20).prop_map(|data| {
            (FORWARD, BytesMessage { data: data.into() }.encode_to_vec())
        }),
        1 => other,
    ];
    let directory = prop::option::weighted(0.7, Just(("dir-name", b"context".to_vec())));
    (message, directory, prop::collection::vec(a_header(), 0..7), damage()).prop_map(
        |((method, message), directory, headers, damage)| Call {
            method,
            headers: directory.into_iter().chain(headers).collect(),
            messages: vec![message],
            damage,
        },
    )
}

/// What the services offer, below a directory with a file that they do not offer.
struct Offer {
    context: Arc<Directory>,
    dockerfile: Arc<Directory>,
    layout: PathBuf,
    agent: SshAgent,
}

impl Offer {
    fn new(root: &Path) -> Self {
        let (layout, dockerfile) = (root.join("layout"), root.join("dockerfile"));
        fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        fs::create_dir_all(&dockerfile).unwrap();
        fs::write(dockerfile.join("Dockerfile"), "").unwrap();
        fs::write(layout.join("blobs/sha256").join("0a".repeat(32)), CONTENT).unwrap();
        Self {
            context: directory(root),
            dockerfile: Arc::new(Directory::open(&dockerfile).unwrap()),
            layout,
            agent: SshAgent::new(Vec::new()),
        }
    }

    /// Consumers, and the exporters whose consumers were called.
    fn consumers() -> (BTreeMap<usize, Consumer>, Arc<Mutex<Vec<usize>>>) {
        let called = Arc::new(Mutex::new(Vec::new()));
        let consumer = |exporter: usize| -> (usize, Consumer) {
            let called = called.clone();
            let consume = move |mut reader: ExportReader| {
                called.lock().unwrap().push(exporter);
                reader.read_to_end(&mut Vec::new()).map(drop)
            };
            (exporter, Box::new(consume))
        };
        ([0, 1].map(consumer).into(), called)
    }

    fn services(&self) -> Services {
        let directories = [("context", &self.context), ("dockerfile", &self.dockerfile)];
        Services {
            directories: directories
                .map(|(name, directory)| (name.to_owned(), directory.clone()))
                .into(),
            secrets: [("0".to_owned(), Secret::new(CONTENT.to_vec()).unwrap())].into(),
            ssh: BTreeMap::from([("default".to_owned(), self.agent.clone())]),
            layouts: [("layout".to_owned(), self.layout.clone())].into(),
            ..Services::default()
        }
    }
}

fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, message].concat()
}

/// The request of a call, without the headers that HTTP does not allow. The body of a request for
/// files stays open, as a daemon's does.
fn request(call: &Call) -> Request<Body> {
    let bytes: Vec<u8> = call.messages.iter().flat_map(|message| frame(message)).collect();
    let bytes = if call.method == FILES { Vec::new() } else { call.damage.apply(bytes) };
    let first = stream::iter([Ok::<_, Status>(Frame::data(Bytes::from(bytes)))]);
    let body = if call.method == FILES {
        Body::new(StreamBody::new(first.chain(stream::pending())))
    } else {
        Body::new(StreamBody::new(first))
    };
    let uri = if call.method.starts_with('/') { call.method } else { "/" };
    let mut request = Request::post(uri).body(body).unwrap();
    for (name, value) in &call.headers {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            request.headers_mut().append(*name, value);
        }
    }
    request
}

/// Reads the messages of a response, of a directory up to the last STAT.
async fn messages(response: Response<Body>, is_directory: bool) -> Vec<Vec<u8>> {
    let mut body = response.into_body();
    let (mut buffer, mut messages) = (Vec::new(), Vec::new());
    while let Some(Ok(part)) = body.frame().await {
        let Ok(data) = part.into_data() else { continue };
        buffer.extend_from_slice(&data);
        while let Some((head, rest)) = buffer.split_first_chunk::<5>() {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            if rest.len() < length {
                break;
            }
            let message = rest[..length].to_vec();
            buffer.drain(..5 + length);
            let is_last = Packet::decode(message.as_slice()).is_ok_and(|it| it.stat.is_none());
            messages.push(message);
            if is_directory && is_last {
                return messages;
            }
        }
    }
    messages
}

fn check(call: &Call, messages: &[Vec<u8>]) -> Result<(), TestCaseError> {
    for message in messages {
        let message = message.as_slice();
        match call.method {
            FILES => {
                if let Some(stat) = Packet::decode(message).unwrap().stat {
                    check_stat(&stat)?;
                }
            }
            BLOB => {
                let response = ReadContentResponse::decode(message).unwrap();
                let start = usize::try_from(response.offset).unwrap();
                prop_assert!(CONTENT[start..].starts_with(&response.data), "{response:?}");
            }
            SECRET => {
                prop_assert_eq!(GetSecretResponse::decode(message).unwrap().data, CONTENT);
            }
            _ => {}
        }
    }
    let is_valid = |value: &[u8]| HeaderValue::from_bytes(value).is_ok();
    let valid = call.headers.iter().filter(|(_, value)| is_valid(value));
    let value = |name| {
        let found = valid.clone().find(|(other, _)| *other == name);
        found.map(|(_, value)| value)
    };
    let is_encoded = value("dir-name-encoded").is_some_and(|value| value == b"1");
    if call.method == FILES && !messages.is_empty() && !is_encoded {
        let name = value("dir-name").map(Vec::as_slice);
        prop_assert!(name == Some(b"context") || name == Some(b"dockerfile"), "{name:?}");
    }
    Ok(())
}

async fn answer(offer: &Offer, call: &Call) -> Result<(), TestCaseError> {
    let (consumers, called) = Offer::consumers();
    let answering = async {
        let Ok(response) = router(offer.services(), consumers)(request(call)).await;
        messages(response, call.method == FILES).await
    };
    let messages = timeout(ANSWER_TIMEOUT, answering).await;
    let messages = messages.map_err(|_| TestCaseError::fail("the answer hangs"))?;
    check(call, &messages)?;
    let called = called.lock().unwrap();
    prop_assert!(called.is_empty() || call.method == EXPORT && called.len() == 1, "{called:?}");
    Ok(())
}

#[test]
fn requests_of_a_daemon_reach_what_the_session_offers_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (offer, runtime) = (Offer::new(folder.path()), runtime());
    hold(1, a_call(), |call| runtime.block_on(answer(&offer, &call)));
}

#[test]
fn patterns_that_fill_the_largest_header_list_take_little_memory() {
    let _alone = large_input();
    let folder = tempfile::tempdir().unwrap();
    let (offer, runtime) = (Offer::new(folder.path()), runtime());
    for pattern in ["a", "*/[a-z]{1000}/**/?", &"*/".repeat(1000), &"[a]{9}".repeat(100_000)] {
        for name in ["include-patterns", "exclude-patterns", "followpaths"] {
            let count = MAX_HEADER_LIST_BYTES / (HEADER_BYTES + name.len() + pattern.len());
            let patterns = std::iter::repeat_n((name, pattern.as_bytes().to_vec()), count);
            let directory = ("dir-name", b"context".to_vec());
            let call = Call {
                method: FILES,
                headers: std::iter::once(directory).chain(patterns).collect(),
                messages: Vec::new(),
                damage: Damage::default(),
            };
            runtime.block_on(answer(&offer, &call)).unwrap();
        }
    }
}
