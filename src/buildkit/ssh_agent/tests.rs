//! Checks keys and the agent against OpenSSH's own tools, which must be installed.

use std::{fs, io, path::Path, time::Duration};

use proptest::prelude::*;
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
    process::Command,
};

use super::{
    MAX_MESSAGE_BYTES, SshAgent, SshKey, SshKeyError, protocol,
    wire::{Reader, put_string},
};

/// Runs a program and returns what it prints.
fn run(directory: &Path, program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap_or_else(|error| {
            panic!("{program} cannot be started ({error}); install openssh-client and openssl")
        });
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

/// Generates a key in a new directory and returns its text.
fn generate(arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    generate_in(directory.path(), arguments)
}

fn generate_in(directory: &Path, arguments: &[&str]) -> String {
    let passphrase: &[&str] = if arguments.contains(&"-N") { &[] } else { &["-N", ""] };
    let arguments = [&["-q", "-f", "key"], passphrase, arguments].concat();
    run(directory, "ssh-keygen", &arguments);
    fs::read_to_string(directory.join("key")).unwrap()
}

fn openssl(arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let arguments = [&arguments[..1], &["-out", "key"], &arguments[1..]].concat();
    run(directory.path(), "openssl", &arguments);
    fs::read_to_string(directory.path().join("key")).unwrap()
}

fn error(pem: &str) -> SshKeyError {
    SshKey::parse(pem.as_bytes()).expect_err("the key is accepted")
}

/// The kinds of keys, and the options of `ssh-keygen` that generate them.
const KINDS: [(&str, &[&str]); 9] = [
    ("ssh-ed25519", &["-t", "ed25519"]),
    ("ecdsa-sha2-nistp256", &["-t", "ecdsa", "-b", "256"]),
    ("ecdsa-sha2-nistp384", &["-t", "ecdsa", "-b", "384"]),
    ("ecdsa-sha2-nistp256", &["-t", "ecdsa", "-b", "256", "-m", "PEM"]),
    ("ecdsa-sha2-nistp384", &["-t", "ecdsa", "-b", "384", "-m", "PKCS8"]),
    ("ssh-rsa", &["-t", "rsa", "-b", "2048"]),
    ("ssh-rsa", &["-t", "rsa", "-b", "3072", "-m", "PEM"]),
    ("ssh-rsa", &["-t", "rsa", "-b", "2048", "-m", "PKCS8"]),
    ("ssh-rsa", &["-t", "rsa", "-b", "4096"]),
];

/// An agent that listens on a unix socket.
struct Socket {
    directory: TempDir,
    task: tokio::task::JoinHandle<()>,
}

impl Socket {
    fn new(agent: SshAgent) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("agent")).unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let agent = agent.clone();
                tokio::spawn(async move { agent.serve(stream).await });
            }
        });
        Self { directory, task }
    }

    /// Runs a program that uses the agent. Returns whether it succeeds, and what it prints.
    async fn run(&self, directory: &Path, program: &str, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(directory)
            .env("SSH_AUTH_SOCK", self.directory.path().join("agent"))
            .stdin(std::process::Stdio::null())
            .output()
            .await
            .unwrap_or_else(|error| {
                panic!("{program} cannot be started ({error}); install openssh-client")
            });
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssh_lists_every_kind_of_key_and_verifies_its_signatures() {
    for (kind, options) in KINDS {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let key = SshKey::parse(generate_in(directory, options).as_bytes())
            .unwrap_or_else(|error| panic!("{options:?}: {error}"));
        assert_eq!(key.kind(), kind);
        let socket = Socket::new(SshAgent::new(vec![key]));
        let fingerprint = run(directory, "ssh-keygen", &["-l", "-f", "key.pub"]);
        let (_, listed) = socket.run(directory, "ssh-add", &["-l"]).await;
        let hash = |line: &str| line.split(' ').nth(1).unwrap().to_owned();
        assert_eq!(hash(&listed), hash(&fingerprint), "{options:?}");

        // Only the agent can sign: the private key is gone.
        fs::remove_file(directory.join("key")).unwrap();
        fs::write(directory.join("message"), "a message").unwrap();
        let sign = ["-Y", "sign", "-U", "-n", "test", "-f", "key.pub", "message"];
        let (signed, text) = socket.run(directory, "ssh-keygen", &sign).await;
        assert!(signed, "{options:?}: {text}");
        let verify = "ssh-keygen -Y check-novalidate -n test -s message.sig < message";
        let text = run(directory, "sh", &["-c", verify]);
        assert!(text.contains("Good"), "{options:?}: {text}");

        // Asks for SHA-1 if the key is an RSA key.
        if kind != "ssh-rsa" {
            let (works, text) = socket.run(directory, "ssh-add", &["-T", "key.pub"]).await;
            assert!(works, "{options:?}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_cannot_be_changed() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let key = SshKey::parse(generate_in(directory, &["-t", "ed25519"]).as_bytes()).unwrap();
    let socket = Socket::new(SshAgent::new(vec![key]));
    for arguments in [&["key"][..], &["-d", "key.pub"], &["-D"]] {
        let (succeeds, text) = socket.run(directory, "ssh-add", arguments).await;
        assert!(!succeeds, "{arguments:?}: {text}");
    }
    let (_, listed) = socket.run(directory, "ssh-add", &["-L"]).await;
    assert_eq!(listed.lines().count(), 1, "{listed}");
    let public = fs::read_to_string(directory.join("key.pub")).unwrap();
    let comment = public.trim().rsplit(' ').next().unwrap();
    assert!(!listed.contains(comment), "the agent tells the comment: {listed}");
}

#[test]
fn further_pem_formats_are_read() {
    for (kind, arguments) in [
        ("ssh-ed25519", &["genpkey", "-algorithm", "ed25519"][..]),
        // This one writes the curve's parameters before the key.
        ("ecdsa-sha2-nistp256", &["ecparam", "-name", "prime256v1", "-genkey"]),
        ("ssh-rsa", &["genrsa", "-traditional", "2048"]),
    ] {
        let pem = openssl(arguments);
        assert_eq!(SshKey::parse(pem.as_bytes()).unwrap().kind(), kind, "{arguments:?}");
        let pem = format!("A comment.\r\n{}", pem.replace('\n', "\r\n"));
        assert_eq!(SshKey::parse(pem.as_bytes()).unwrap().kind(), kind, "{arguments:?}");
    }
}

#[test]
fn keys_that_cannot_be_used_are_told_apart() {
    for format in [&[][..], &["-m", "PEM"], &["-m", "PKCS8"]] {
        let key = generate(&[&["-t", "ecdsa", "-N", "secret"], format].concat());
        assert_eq!(error(&key), SshKeyError::PassphraseProtected, "{format:?}");
        let key = generate(&[&["-t", "rsa", "-b", "1024"], format].concat());
        assert_eq!(error(&key), SshKeyError::RsaKeySize { bits: 1024 }, "{format:?}");
        let key = generate(&[&["-t", "ecdsa", "-b", "521"], format].concat());
        let text = error(&key).to_string();
        assert!(text.contains("521") && text.contains("Ed25519"), "{format:?}: {text}");
    }
    for bits in ["2056", "2560"] {
        let key = generate(&["-t", "rsa", "-b", bits]);
        assert!(error(&key).to_string().contains("multiple of 1024"), "{}", error(&key));
    }
    let key = openssl(&["genrsa", "-3", "2048"]);
    assert!(error(&key).to_string().contains("public exponent"), "{}", error(&key));
    let key = openssl(&["genpkey", "-algorithm", "x25519"]);
    assert!(matches!(error(&key), SshKeyError::Unsupported(_)));
    let explicit = ["-name", "prime256v1", "-genkey", "-noout", "-param_enc", "explicit"];
    let key = openssl(&[&["ecparam"][..], &explicit].concat());
    assert!(error(&key).to_string().contains("explicit"), "{}", error(&key));
    let dsa = "-----BEGIN DSA PRIVATE KEY-----\nMAA=\n-----END DSA PRIVATE KEY-----\n";
    assert!(error(dsa).to_string().contains("DSA"), "{}", error(dsa));

    for text in ["", "ssh-ed25519 AAAA", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"] {
        assert_eq!(error(text), SshKeyError::NotAPrivateKey, "{text}");
    }
    assert_eq!(SshKey::parse(&[0xff, 0xfe]).unwrap_err(), SshKeyError::NotAPrivateKey);
}

#[test]
fn damaged_keys_are_refused() {
    for options in [&["-t", "ed25519"][..], &["-t", "ecdsa"], &["-t", "rsa", "-b", "2048"]] {
        let key = generate(options);
        let lines: Vec<&str> = key.lines().collect();
        let cut = lines[..lines.len() - 1].join("\n");
        assert_eq!(error(&cut), SshKeyError::Damaged, "{options:?}");
        let without_line = [&lines[..2], &lines[3..]].concat().join("\n");
        assert_eq!(error(&without_line), SshKeyError::Damaged, "{options:?}");
    }
}

fn sign_request(key: &SshKey, flags: u32) -> Vec<u8> {
    let mut request = vec![protocol::SIGN_REQUEST];
    put_string(&mut request, key.public_key());
    put_string(&mut request, b"message");
    request.extend_from_slice(&flags.to_be_bytes());
    request
}

#[test]
fn rsa_keys_sign_with_sha2_only() {
    let key = SshKey::parse(generate(&["-t", "rsa", "-b", "2048"]).as_bytes()).unwrap();
    let keys = [key];
    let mut public = Reader::new(keys[0].public_key());
    let _kind = public.string();
    let (e, n) = (public.unsigned().unwrap(), public.unsigned().unwrap());
    let public = RsaPublicKeyComponents { n, e };
    let sha256 = ("rsa-sha2-256", &RSA_PKCS1_2048_8192_SHA256);
    let sha512 = ("rsa-sha2-512", &RSA_PKCS1_2048_8192_SHA512);
    for (flags, expected) in [
        (0, None),
        (protocol::RSA_SHA2_256, Some(sha256)),
        (protocol::RSA_SHA2_512, Some(sha512)),
        (protocol::RSA_SHA2_256 | protocol::RSA_SHA2_512, Some(sha256)),
        (protocol::RSA_SHA2_256 | 1, None),
    ] {
        let reply = protocol::reply(&keys, &sign_request(&keys[0], flags));
        let mut reader = Reader::new(&reply);
        let Some((algorithm, parameters)) = expected else {
            assert_eq!(reply, [protocol::FAILURE], "flags {flags}");
            continue;
        };
        assert_eq!(reader.u8(), Some(protocol::SIGN_RESPONSE), "flags {flags}");
        let mut signature = Reader::new(reader.string().unwrap());
        assert_eq!(signature.string(), Some(algorithm.as_bytes()), "flags {flags}");
        public.verify(parameters, b"message", signature.string().unwrap()).unwrap();
    }
}

#[test]
fn unknown_keys_and_malformed_requests_fail() {
    let key = || SshKey::parse(generate(&["-t", "ed25519"]).as_bytes()).unwrap();
    let keys = [key()];
    let valid = sign_request(&keys[0], 0);
    assert_eq!(protocol::reply(&keys, &valid)[0], protocol::SIGN_RESPONSE);
    let longer = [&valid[..], &[0]].concat();
    for request in [&[][..], &[0], &[27], &valid[..20], &longer, &sign_request(&key(), 0)] {
        assert_eq!(protocol::reply(&keys, request), [protocol::FAILURE], "{request:?}");
    }
}

/// Sends bytes to an agent without keys, and returns how the connection ends and what it answers.
async fn exchange(bytes: &[u8], closes: bool) -> (io::Result<()>, Vec<u8>) {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    client.write_all(bytes).await.unwrap();
    if closes {
        client.shutdown().await.unwrap();
    }
    let agent = SshAgent::new(Vec::new());
    let served = tokio::time::timeout(Duration::from_secs(10), agent.serve(server));
    let ended = served.await.expect("the agent waits for more");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    (ended, answer)
}

#[tokio::test]
async fn a_peer_that_breaks_the_framing_loses_the_connection() {
    let too_long = (MAX_MESSAGE_BYTES + 1).to_be_bytes();
    for (bytes, closes, expected) in [
        (&[0; 4][..], false, Some(io::ErrorKind::InvalidData)),
        (&too_long, false, Some(io::ErrorKind::InvalidData)),
        (&[0xff; 4], false, Some(io::ErrorKind::InvalidData)),
        (&[0, 0], true, Some(io::ErrorKind::UnexpectedEof)),
        (&[0, 0, 0, 2, protocol::REQUEST_IDENTITIES], true, Some(io::ErrorKind::UnexpectedEof)),
        (&[], true, None),
    ] {
        let (ended, answer) = exchange(bytes, closes).await;
        assert_eq!(ended.err().map(|error| error.kind()), expected, "{bytes:?}");
        assert!(answer.is_empty(), "{bytes:?}");
    }
    let longest = [&MAX_MESSAGE_BYTES.to_be_bytes()[..], &vec![0; 256 << 10]].concat();
    let (ended, answer) = exchange(&longest, true).await;
    assert!(ended.is_ok());
    assert_eq!(answer, [0, 0, 0, 1, protocol::FAILURE]);
}

#[test]
fn keys_are_not_shown() {
    let key = SshKey::parse(generate(&["-t", "ed25519"]).as_bytes()).unwrap();
    assert_eq!(
        format!("{:?}", SshAgent::new(vec![key])),
        "SshAgent { keys: [SshKey(ssh-ed25519)] }"
    );
}

proptest! {
    #[test]
    fn no_request_panics(request in prop::collection::vec(any::<u8>(), 0..300), kind in 0_u8..30) {
        let keys: [SshKey; 0] = [];
        protocol::reply(&keys, &request);
        prop_assert!(!protocol::reply(&keys, &[&[kind][..], &request].concat()).is_empty());
    }

    #[test]
    fn no_stream_hangs_or_panics(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _ = runtime.block_on(exchange(&bytes, true));
    }

    #[test]
    fn no_text_panics_the_parser(content in prop::collection::vec(any::<u8>(), 0..200)) {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let _ = SshKey::parse(&content);
        for (label, prefix) in [
            ("OPENSSH", &b"openssh-key-v1\0\0\0\0\x04none\0\0\0\x04none\0\0\0\0\0\0\0\x01"[..]),
            ("RSA", b"\x30\x81\xc0"),
            ("EC", b"\x30\x81\xc0"),
        ] {
            let content = STANDARD.encode([prefix, &content].concat());
            let pem = format!(
                "-----BEGIN {label} PRIVATE KEY-----\n{content}\n-----END {label} PRIVATE KEY-----"
            );
            prop_assert!(SshKey::parse(pem.as_bytes()).is_err());
        }
    }

    #[test]
    fn no_changed_byte_panics_the_parser(position in 0_usize..400, value in any::<u8>()) {
        use std::sync::LazyLock;
        use base64::{Engine, engine::general_purpose::STANDARD};
        static KEYS: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| {
            let ec = &["-t", "ecdsa", "-m", "PEM"][..];
            [&["-t", "ed25519"][..], &["-t", "rsa", "-b", "2048"], ec].map(|options| {
                let text = generate(options);
                let body: String = text.lines().filter(|line| !line.starts_with("---")).collect();
                STANDARD.decode(body).unwrap()
            })
        });
        for (label, key) in ["OPENSSH", "OPENSSH", "EC"].into_iter().zip(&*KEYS) {
            let mut key = key.clone();
            let position = position % key.len();
            key[position] = value;
            let body = STANDARD.encode(&key);
            let pem = format!(
                "-----BEGIN {label} PRIVATE KEY-----\n{body}\n-----END {label} PRIVATE KEY-----"
            );
            let _ = SshKey::parse(pem.as_bytes());
        }
    }
}
