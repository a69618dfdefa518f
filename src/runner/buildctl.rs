//! Runs buildctl as a child: its arguments (pure), its progress, its end.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{ChildStderr, Command},
};

use super::{locate::Located, progress::Tracker, stop::Stop};
use crate::plan::instructions::Instructions;

/// How long buildctl has to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(4);
/// A line of progress can list thousands of vertices; a longer one is cut and then counts as a remark.
const LINE_LIMIT: usize = 8 << 20;
/// Variables that the child keeps: the way out of the cluster, and nothing secret.
const KEPT_VARIABLES: [&str; 9] =
    ["PATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"];

/// What every run of buildctl shares.
#[derive(Clone)]
pub struct Buildctl {
    /// Address of the daemon.
    pub address: String,
    /// Folder of `config.json` with the registry credentials.
    pub docker_config: PathBuf,
    /// Folder that may be written to: home and temporary files.
    pub scratch: PathBuf,
    /// What is known so far.
    pub tracker: SharedTracker,
}

/// The tracker of the run that goes on, shared with those who report progress.
#[derive(Clone, Default)]
pub struct SharedTracker(Arc<Mutex<Tracker>>);

impl SharedTracker {
    /// Looks at it, or feeds it.
    pub fn with<T>(&self, use_it: impl FnOnce(&mut Tracker) -> T) -> T {
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins anew for another run.
    pub fn reset(&self) {
        self.with(|tracker| *tracker = Tracker::default());
    }
}

/// What the standard output of a run is for.
pub trait Sink: Send + 'static {
    /// Takes all of it; runs on a thread of its own.
    fn take(&mut self, output: File) -> io::Result<()>;
}

impl Buildctl {
    /// Runs buildctl with these arguments and input until it ends or is stopped. Its progress goes to the tracker and, as
    /// plain lines, to the standard output.
    pub async fn run<S: Sink>(
        &self,
        arguments: &[OsString],
        input: Option<Vec<u8>>,
        sink: Option<S>,
        stop: &mut Stop,
    ) -> io::Result<(ExitStatus, Option<S>)> {
        let mut command = Command::new("buildctl");
        command
            .arg(format!("--addr={}", self.address))
            .args(arguments)
            .env_clear()
            .envs(KEPT_VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("DOCKER_CONFIG", &self.docker_config)
            .env("HOME", &self.scratch)
            .env("TMPDIR", &self.scratch)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(if sink.is_some() { Stdio::piped() } else { Stdio::null() })
            .stderr(Stdio::piped())
            // A group of its own, so that one signal reaches all that it starts.
            .process_group(0)
            .kill_on_drop(true);
        let mut child =
            command.spawn().map_err(|error| io::Error::new(error.kind(), format!("buildctl cannot be started: {error}")))?;
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(&input).await?;
        }
        let sinking = match (sink, child.stdout.take()) {
            (Some(mut sink), Some(stdout)) => {
                let output = File::from(stdout.into_owned_fd()?);
                Some(tokio::task::spawn_blocking(move || sink.take(output).map(|()| sink)))
            }
            _ => None,
        };
        let following = child.stderr.take().map(|stderr| tokio::spawn(follow(stderr, self.tracker.clone())));
        let status = tokio::select! {
            status = child.wait() => status?,
            () = stop.asked() => {
                let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
                signal(group, Signal::TERM);
                if let Ok(status) = tokio::time::timeout(PATIENCE, child.wait()).await {
                    status?
                } else {
                    signal(group, Signal::KILL);
                    child.wait().await?
                }
            }
        };
        if let Some(following) = following {
            following.await.map_err(io::Error::other)??;
        }
        let sink = match sinking {
            Some(sinking) => Some(sinking.await.map_err(io::Error::other)??),
            None => None,
        };
        Ok((status, sink))
    }
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // It may have ended by itself in between.
        let _ = kill_process_group(group, signal);
    }
}

async fn follow(stderr: ChildStderr, tracker: SharedTracker) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, stderr);
    let mut line = Vec::new();
    while next_line(&mut reader, &mut line).await? {
        let printed = tracker.with(|tracker| tracker.line(&line));
        if !printed.is_empty() {
            let mut text = printed.join("\n");
            text.push('\n');
            // A reader of the log that is gone is no reason to end the build.
            let _ = io::stdout().lock().write_all(text.as_bytes());
        }
    }
    Ok(())
}

async fn next_line(reader: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    loop {
        let chunk = reader.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = chunk.iter().position(|&byte| byte == b'\n');
        let taken = end.map_or(chunk.len(), |end| end + 1);
        let room = LINE_LIMIT.saturating_sub(line.len());
        line.extend_from_slice(&chunk[..taken.min(room)]);
        reader.consume(taken);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// Arguments that build an image. Whatever a tenant wrote stands behind a `--flag=` or a `key=`, never alone.
pub fn build_arguments(instructions: &Instructions, located: &Located, metadata_file: &Path) -> Vec<OsString> {
    let mut arguments = words(&["build", "--progress=rawjson", "--frontend=dockerfile.v0"]);
    arguments.push(local("context", &located.context));
    arguments.push(local("dockerfile", &located.dockerfile_directory));
    arguments.push(option("filename", &located.dockerfile_name));
    arguments.extend(options("build-arg:", &instructions.build_args));
    arguments.extend(options("label:", &instructions.labels));
    arguments.extend(instructions.target.as_deref().map(|target| option("target", target)));
    arguments.push(joined("--metadata-file=", metadata_file));
    let name = &instructions.reference;
    // Both outputs describe the same manifest: with the same options they have the same digest.
    let same = "oci-mediatypes=true";
    if instructions.push {
        arguments.push(OsString::from(format!("--output=type=image,name={name},push=true,{same}")));
    }
    if instructions.output.is_some() {
        arguments.push(OsString::from(format!("--output=type=docker,name={name},{same},dest=-")));
    }
    arguments
}

/// Arguments that fetch a source, whose LLB comes on the standard input, into a folder.
pub fn fetch_arguments(folder: &Path) -> Vec<OsString> {
    let mut arguments = words(&["build", "--progress=rawjson"]);
    arguments.push(joined("--output=type=local,dest=", folder));
    arguments
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn option(key: &str, value: &str) -> OsString {
    OsString::from(format!("--opt={key}={value}"))
}

fn options(prefix: &str, values: &BTreeMap<String, String>) -> impl Iterator<Item = OsString> {
    values.iter().map(move |(key, value)| option(&format!("{prefix}{key}"), value))
}

fn local(name: &str, folder: &Path) -> OsString {
    joined(&format!("--local={name}="), folder)
}

fn joined(flag: &str, path: &Path) -> OsString {
    let mut joined = OsString::from(flag);
    joined.push(path);
    joined
}
