//! A way to the API server that can be slow, and cuts connections.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::Value;

use crate::cluster::kubectl;

/// What a proxy does, and how much has passed.
pub struct Proxy {
    pub kubeconfig: String,
    state: Arc<State>,
}

struct State {
    server: String,
    /// Bytes after which a connection is cut.
    cut_after: u64,
    /// Pause after each 64 KiB.
    pause: Duration,
    passed: AtomicU64,
    cuts: AtomicU64,
}

impl Proxy {
    pub fn new(cut_after: u64, pause: Duration) -> Self {
        let view =
            kubectl(&["config", "view", "--raw", "--minify", "--flatten", "-o", "json"]).ok();
        let mut config: Value = serde_json::from_str(&view).unwrap();
        let cluster = &mut config["clusters"][0]["cluster"];
        let server = cluster["server"]
            .as_str()
            .unwrap()
            .trim_start_matches("https://")
            .trim_end_matches('/')
            .to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        cluster["server"] = format!("https://{}", listener.local_addr().unwrap()).into();
        // A name that every API server's certificate has.
        cluster["tls-server-name"] = "kubernetes.default.svc".into();
        let state = Arc::new(State {
            server,
            cut_after,
            pause,
            passed: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || state.forward(connection));
            }
        });
        // JSON is YAML, and its line breaks tell a text from a path.
        Self { kubeconfig: serde_json::to_string_pretty(&config).unwrap(), state }
    }

    /// Bytes that have passed, both ways.
    pub fn passed(&self) -> u64 {
        self.state.passed.load(Ordering::Relaxed)
    }

    pub fn cuts(&self) -> u64 {
        self.state.cuts.load(Ordering::Relaxed)
    }
}

impl State {
    fn forward(self: Arc<Self>, client: TcpStream) {
        // While the API server is away nobody answers.
        let Ok(server) = TcpStream::connect(&self.server) else { return };
        let moved = Arc::new(AtomicU64::new(0));
        let (state, moved_up) = (self.clone(), moved.clone());
        let (client_reads, server_writes) =
            (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || state.pump(client_reads, server_writes, &moved_up));
        self.pump(server, client, &moved);
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, moved: &AtomicU64) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
            self.passed.fetch_add(read as u64, Ordering::Relaxed);
            if moved.fetch_add(read as u64, Ordering::Relaxed) + read as u64 > self.cut_after {
                self.cuts.fetch_add(1, Ordering::Relaxed);
                break;
            }
            if read > 8 << 10 {
                std::thread::sleep(self.pause);
            }
        }
        for stream in [from, to] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
