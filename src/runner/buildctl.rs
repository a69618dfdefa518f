//! Runs buildctl as a child: its streams, its progress, its end.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{ChildStderr, Command},
    task::JoinHandle,
};

use super::{progress::Tracker, stop::Stop};

/// How long buildctl has to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(4);
/// A line of progress can list thousands of vertices; a longer one is cut and then counts as a remark.
const LINE_LIMIT: usize = 8 << 20;
/// Variables that the child keeps: the way out of the cluster, and nothing secret.
const KEPT_VARIABLES: [&str; 9] = [
    "PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

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
        self.with(Tracker::reset);
    }
}

/// Takes all of a stream; runs on a thread of its own.
pub type Taker<T> = Box<dyn FnOnce(File) -> io::Result<T> + Send>;

/// What the streams of a run are for.
pub struct Streams<T = (), U = ()> {
    /// What buildctl reads on its standard input.
    pub input: Option<Vec<u8>>,
    /// Who takes its standard output.
    pub output: Option<Taker<T>>,
    /// Who takes what it writes to its standard input, which then is a pipe in the other direction: a second output without
    /// a file or a name in between.
    pub back_channel: Option<Taker<U>>,
}

/// What came of a run.
pub struct Ended<T, U> {
    /// How buildctl ended.
    pub status: ExitStatus,
    /// What became of its standard output and of the back channel. Where buildctl failed, who took them most often has an error
    /// too: that they ended early.
    pub taken: io::Result<(Option<T>, Option<U>)>,
}

impl Buildctl {
    /// Runs buildctl with these arguments and streams until it ends or is stopped. Its progress goes to the tracker and, as
    /// plain lines, to the standard output of this process.
    pub async fn run<T: Send + 'static, U: Send + 'static>(
        &self,
        arguments: &[OsString],
        streams: Streams<T, U>,
        stop: &mut Stop,
    ) -> io::Result<Ended<T, U>> {
        let mut command = Command::new("buildctl");
        command
            .arg(format!("--addr={}", self.address))
            .args(arguments)
            .env_clear()
            .envs(KEPT_VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("DOCKER_CONFIG", &self.docker_config)
            .env("HOME", &self.scratch)
            .env("TMPDIR", &self.scratch)
            .stdin(if streams.input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(if streams.output.is_some() { Stdio::piped() } else { Stdio::null() })
            .stderr(Stdio::piped())
            // A group of its own, so that one signal reaches all that it starts.
            .process_group(0)
            .kill_on_drop(true);
        let back_channel = match streams.back_channel {
            Some(taker) => {
                let (reader, writer) = io::pipe()?;
                command.stdin(writer);
                Some((File::from(OwnedFd::from(reader)), taker))
            }
            None => None,
        };
        let mut child = command.spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("buildctl cannot be started: {error}"))
        })?;
        // It holds the pipe's writing end, which must close when the child ends.
        drop(command);
        if let (Some(input), Some(mut stdin)) = (streams.input, child.stdin.take()) {
            stdin.write_all(&input).await?;
        }
        let output = match (streams.output, child.stdout.take()) {
            (Some(taker), Some(stdout)) => {
                let stdout = File::from(stdout.into_owned_fd()?);
                Some(tokio::task::spawn_blocking(move || taker(stdout)))
            }
            _ => None,
        };
        let back_channel =
            back_channel.map(|(reader, taker)| tokio::task::spawn_blocking(move || taker(reader)));
        let following = child
            .stderr
            .take()
            .map(|stderr| tokio::spawn(follow(stderr, self.tracker.clone(), stop.clone())));
        let status = tokio::select! {
            status = child.wait() => status?,
            () = stop.asked() => {
                self.tracker.with(Tracker::stop);
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
        let (output, back_channel) = tokio::join!(taken(output), taken(back_channel));
        let taken = output.and_then(|output| Ok((output, back_channel?)));
        Ok(Ended { status, taken })
    }
}

async fn taken<T>(taking: Option<JoinHandle<io::Result<T>>>) -> io::Result<Option<T>> {
    match taking {
        Some(taking) => taking.await.map_err(io::Error::other)?.map(Some),
        None => Ok(None),
    }
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // It may have ended by itself in between.
        let _ = kill_process_group(group, signal);
    }
}

async fn follow(stderr: ChildStderr, tracker: SharedTracker, stop: Stop) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, stderr);
    let mut line = Vec::new();
    while next_line(&mut reader, &mut line).await? {
        let (printed, phase) = tracker.with(|tracker| (tracker.line(&line), tracker.phase()));
        stop.follow(phase);
        if !printed.is_empty() {
            let mut text = printed.join("\n");
            text.push('\n');
            // A reader of the log that is gone is no reason to end the build.
            let _ = io::stdout().lock().write_all(text.as_bytes());
        }
    }
    Ok(())
}

async fn next_line(
    reader: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
) -> io::Result<bool> {
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
