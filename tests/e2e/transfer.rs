//! A client that sends the source and fetches the image, as anybody could: with kubectl port-forward and curl.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::cluster::{Namespace, kubectl_binary, run};

const BUILD: &str = "
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: { name: sent }
spec:
  source: { upload: {} }
  context: app
  imageName: sent
  output: { download: { timeout: 2m } }
";

/// A tunnel to the loopback address of a build's pod.
struct Tunnel {
    child: Child,
    address: String,
    /// kubectl dies when nobody would read what it prints.
    _output: BufReader<ChildStdout>,
}

impl Tunnel {
    fn open(namespace: &Namespace, pod: &str) -> Self {
        let mut child = Command::new(kubectl_binary())
            .env("KUBECONFIG", std::env::var("OCIBUILD_KUBECONFIG").unwrap())
            .args(["--namespace", &namespace.name, "port-forward", &format!("pod/{pod}"), ":24681"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let port =
            line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).expect(&line);
        Self { address: format!("http://127.0.0.1:{port}"), child, _output: output }
    }

    /// A tunnel to a runner that listens: a container that runs may not have come so far.
    fn to_upload(namespace: &Namespace, pod: &str) -> Self {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let tunnel = Self::open(namespace, pod);
            if tunnel.ask(&[], "/upload").0 == "200" {
                return tunnel;
            }
            assert!(
                Instant::now() < deadline,
                "the runner does not listen\n{}",
                namespace.story("sent")
            );
        }
    }

    /// The status code and the body of an answer.
    fn ask(&self, arguments: &[&str], path: &str) -> (String, String) {
        let address = format!("{}{path}", self.address);
        let output = run(
            "curl",
            &[&["--silent", "--write-out", "\n%{http_code}"], arguments, &[&address]].concat(),
            b"",
        )
        .stdout;
        let (body, code) = output.rsplit_once('\n').unwrap();
        (code.to_owned(), body.to_owned())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_client_sends_the_source_in_pieces_and_fetches_the_files() {
    let namespace = Namespace::new("transfer");
    let folder = tempfile::tempdir().unwrap();
    let app = folder.path().join("tree/app");
    std::fs::create_dir_all(&app).unwrap();
    std::fs::write(
        app.join("Dockerfile"),
        "FROM busybox:1.37\nCOPY greeting /\nCMD cat /greeting\n",
    )
    .unwrap();
    std::fs::write(app.join("greeting"), "sent by a client").unwrap();
    let archive = folder.path().join("source.tar.gz");
    run("tar", &["-czf", text(&archive), "-C", text(&folder.path().join("tree")), "."], b"").ok();
    let bytes = std::fs::read(&archive).unwrap();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    std::fs::write(folder.path().join("first"), first).unwrap();
    std::fs::write(folder.path().join("second"), second).unwrap();
    let sum = run("sha256sum", &[text(&archive)], b"").ok().split(' ').next().unwrap().to_owned();

    namespace.apply(BUILD);
    namespace
        .kubectl(&["wait", "--for=jsonpath={.status.phase}=Running", "ocib/sent", "--timeout=240s"])
        .ok();
    let tunnel = Tunnel::to_upload(&namespace, "sent-g1-a1");
    let put = |part: &str, offset: usize| {
        let file = format!("@{}", text(&folder.path().join(part)));
        tunnel
            .ask(&["--request", "PUT", "--data-binary", &file], &format!("/upload?offset={offset}"))
    };
    let finish = |size: usize, sum: &str| {
        let body = json!({ "size": size, "sha256": sum }).to_string();
        tunnel
            .ask(&["--header", "Content-Type: application/json", "--data", &body], "/upload/finish")
    };
    assert_eq!(put("first", 7).0, "409", "what does not begin at the end is refused");
    assert_eq!(put("first", 0), ("200".to_owned(), json!({ "received": first.len() }).to_string()));
    assert_eq!(
        tunnel.ask(&[], "/upload").1,
        json!({ "received": first.len() }).to_string(),
        "where to go on"
    );
    assert_eq!(finish(bytes.len(), &sum).0, "409", "half of it is not all of it");
    assert_eq!(tunnel.ask(&["--request", "POST"], "/fetched").0, "409");
    assert_eq!(
        tunnel.ask(&[], "/files/image.tar").0,
        "409",
        "nothing is given before the build has ended"
    );
    assert_eq!(put("second", first.len()).0, "200");
    let (code, words) = finish(bytes.len(), &"0".repeat(64));
    assert_eq!((code.as_str(), words), ("422", format!("the SHA-256 of what arrived is {sum}")));
    assert_eq!(put("first", 0).0, "200", "after a wrong sum everything is sent again");
    assert_eq!(put("second", first.len()).0, "200");
    assert_eq!(finish(bytes.len(), &sum).0, "204");
    assert_eq!(put("first", 0).0, "410", "nothing is taken while steps may run");

    let result: Value =
        serde_json::from_str(&tunnel.ask(&["--max-time", "120"], "/result").1).unwrap();
    let image = &result["outcome"]["succeeded"];
    let tar = folder.path().join("image.tar");
    let (begin, end) = (folder.path().join("begin"), folder.path().join("end"));
    let size = usize::try_from(image["tar"]["size"].as_u64().unwrap()).unwrap();
    assert_eq!(tunnel.ask(&["--output", text(&tar)], "/files/image.tar").0, "200");
    assert_eq!(
        tunnel
            .ask(&["--output", text(&end), "--header", "Range: bytes=1000-"], "/files/image.tar")
            .0,
        "206"
    );
    let whole = std::fs::read(&tar).unwrap();
    std::fs::write(&begin, &whole[..1000]).unwrap();
    assert_eq!((whole.len(), &whole[1000..]), (size, std::fs::read(&end).unwrap().as_slice()));
    let found = run("sha256sum", &[text(&tar)], b"").ok().split(' ').next().unwrap().to_owned();
    assert_eq!(image["tar"]["sha256"], found);
    assert_eq!(tunnel.ask(&[], "/files/digest").1, image["configDigest"].as_str().unwrap());
    for path in [
        "/files/%2e%2e/instructions/instructions.json",
        "/files/..%2f..%2fetc%2fhosts",
        "/files//etc/hosts",
        "/files/nothing",
    ] {
        assert_eq!(tunnel.ask(&["--path-as-is"], path).0, "404", "{path}");
    }
    assert_eq!(tunnel.ask(&["--request", "POST"], "/fetched").0, "204");
    let status = namespace.succeeded("sent");
    assert_eq!(status["image"]["digest"], image["digest"]);
    assert_eq!(namespace.kubectl(&["get", "pvc", "-o", "name"]).ok(), "", "no volume was made");
    assert_eq!(namespace.run_image(&tar, "sent:latest"), "sent by a client");
}

#[test]
fn files_that_nobody_fetches_are_not_kept_for_ever() {
    let namespace = Namespace::new("unfetched");
    namespace.apply(
        "
apiVersion: ocibuild.dev/v1alpha1
kind: OciBuild
metadata: { name: unfetched }
spec:
  source: { files: { Dockerfile: \"FROM busybox:1.37\\n\" } }
  context: .
  imageName: unfetched
  output: { download: { timeout: 1s } }
",
    );
    let failure = namespace.failed("unfetched", "Timeout")["failure"].clone();
    assert!(
        failure["message"].as_str().unwrap().contains("no client fetched its files within 1s"),
        "{failure}"
    );
}
