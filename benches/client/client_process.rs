//! The process that builds with OciBuild's client, as the runner does: it connects, runs one solve,
//! reads the events, and writes and hashes the export as it arrives.
//!
//! The bench starts its own binary again for this, so that the CPU time and the memory it measures
//! are those of the client.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    path::Path,
    sync::{Arc, mpsc},
};

use anyhow::Context;
use ocibuild::buildkit::{
    Connection, Consumer, ExportReader, Exporter, Input, Services, Solve,
    sender::{Directory, Progress},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    build::{Build, Sink},
    rate::RateLimit,
};

/// The first argument of a client process.
pub const ARGUMENT: &str = "client-process";
/// The size of the runner's buffer for an export.
const BUFFER_BYTES: usize = 1 << 20;
/// The size of a read by a slow sink.
const SLOW_BUFFER_BYTES: usize = 64 << 10;

/// What a client process prints.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub files_sent: u64,
    pub bytes_sent: u64,
    pub bytes_exported: u64,
    pub sha256: String,
    pub events: u64,
}

/// Runs the build that is described in JSON, with as many threads as the runner has.
pub fn run(build: &str) -> anyhow::Result<()> {
    let build: Build = serde_json::from_str(build).context("the description of the build")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(solve(&build))?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

async fn solve(build: &Build) -> anyhow::Result<Report> {
    let connection = Connection::open(&build.address.parse()?, None).await?;
    let progress = Arc::new(Progress::default());
    let directory = Arc::new(Directory::open(&build.context)?);
    let (sender, exported) = mpsc::channel();
    let exporters = build.output.iter().map(|output| {
        let (sink, sender) = (output.sink.clone(), sender.clone());
        let consumer: Consumer = Box::new(move |stream| {
            let _ = sender.send(consume(stream, &sink)?);
            Ok(())
        });
        Exporter {
            kind: output.kind.clone(),
            attributes: output.attributes.clone(),
            consumer: Some(consumer),
        }
    });
    let solve = Solve {
        input: Input::Frontend { name: "dockerfile.v0".to_owned(), attributes: BTreeMap::new() },
        exporters: exporters.collect(),
        cache_imports: Vec::new(),
        cache_exports: Vec::new(),
        services: Services {
            // The empty shared key is buildctl's: the daemon keeps one copy of the upload for both.
            shared_key: String::new(),
            directories: ["context", "dockerfile"]
                .map(|name| (name.to_owned(), directory.clone()))
                .into(),
            progress: progress.clone(),
            ..Services::default()
        },
    };
    let mut events = 0;
    solve.run(&connection, std::future::pending(), |_| events += 1).await?;
    let sent = progress.sent();
    let (bytes_exported, sha256) = exported.try_recv().unwrap_or_default();
    let (files_sent, bytes_sent) = (sent.files, sent.bytes);
    Ok(Report { files_sent, bytes_sent, bytes_exported, sha256, events })
}

/// Reads an export to its end; returns its size and its SHA-256.
fn consume(stream: ExportReader, sink: &Sink) -> io::Result<(u64, String)> {
    match sink {
        Sink::File(path) => write_file(stream, path),
        Sink::BytesPerSecond(rate) => {
            let mut stream = RateLimit::new(stream, *rate);
            copy_hashed(&mut stream, &mut io::sink(), SLOW_BUFFER_BYTES)
        }
    }
}

fn write_file(mut stream: ExportReader, path: &Path) -> io::Result<(u64, String)> {
    copy_hashed(&mut stream, &mut File::create(path)?, BUFFER_BYTES)
}

fn copy_hashed(
    from: &mut impl Read,
    to: &mut impl Write,
    buffer_bytes: usize,
) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; buffer_bytes];
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok((size, hex::encode(hash.finalize())));
        }
        hash.update(&buffer[..length]);
        to.write_all(&buffer[..length])?;
        size += length as u64;
    }
}
