//! `ocibuild task`: a Concourse task that builds in the cluster what the OCI build task would build here. Called as `build` too.

use std::{
    collections::BTreeMap,
    path::Path,
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::Context;
use k8s_openapi::ByteString;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Mutex,
};

use super::{
    access,
    build::{SecretContent, TaskBuild},
    outputs::Outputs,
    parameter_file,
    params::TaskParameters,
    printer::PRINTER,
    say,
    session::Session,
    summary,
    template::template,
};
use crate::{
    client::{archive, outage::words, packing::Packing, submission::Submission},
    plan::duration::parse_duration,
};

/// Concourse kills a task 10 s after it told it to stop.
const LAST_WORDS: Duration = Duration::from_secs(6);
/// How long the last lines may take to be read, after that; and where nobody told it to stop.
const LAST_LINES: Duration = Duration::from_secs(2);
const READER: Duration = Duration::from_mins(10);
/// A lease that cannot be read is refused by the API server; until then it counts as this.
const LEASE: Duration = Duration::from_mins(1);
/// Exit code of a process that SIGTERM ended.
const TERMINATED: u8 = 143;

/// Runs the task in the folder and with the environment of this process.
pub async fn run() -> anyhow::Result<ExitCode> {
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .map(|(name, value)| {
            (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
        })
        .collect();
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let begun: OnceLock<Begun> = OnceLock::new();
    let ended = tokio::select! {
        ended = build(&variables, &begun) => Some(ended),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    let begun = begun.get();
    let mut patience = READER;
    let code = match ended {
        None => {
            let words = match begun {
                Some(begun) => format!(
                    "the build {} goes with the task; {}",
                    begun.submission.name(),
                    begun.take_back().await
                ),
                None => "nothing was begun".to_owned(),
            };
            say(&format!("told to stop: {words}"));
            patience = LAST_LINES;
            TERMINATED
        }
        Some(Ok(true)) => {
            // What is wanted is here. A build that failed stays for a while, to be looked at.
            if let Some(begun) = begun {
                let _ = begun.submission.delete_within(LAST_WORDS).await;
            }
            0
        }
        Some(Ok(false)) => 1,
        Some(Err(error)) => {
            PRINTER.error(&format!("error: {error:#}"));
            if let Some(begun) = begun.filter(|_| !error.is::<NotMade>()) {
                say(&format!("the build {}: {}", begun.submission.name(), begun.take_back().await));
            }
            1
        }
    };
    tokio::select! {
        () = PRINTER.flush(patience) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Not by a return: that would wait for what is still being packed or unpacked.
    std::process::exit(code.into());
}

/// The API server refused the build: there is nothing to take back.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotMade(String);

/// What a task has begun, and takes back when it does not end well.
struct Begun {
    submission: Submission,
    outputs: Outputs,
    /// Held while the build is being made: one that comes into being later would be left behind.
    making: Arc<Mutex<()>>,
}

impl Begun {
    async fn take_back(&self) -> String {
        let begin = Instant::now();
        let _ = tokio::time::timeout(LAST_WORDS / 2, self.making.lock()).await;
        let deleted =
            self.submission.delete_within(LAST_WORDS.saturating_sub(begin.elapsed())).await;
        self.outputs.clear();
        match deleted {
            Ok(()) => "it was deleted".to_owned(),
            Err(error) => format!(
                "it could not be deleted, and ends by itself when its lease is over: {error}"
            ),
        }
    }
}

/// Builds; whether everything is in its place.
async fn build(
    variables: &BTreeMap<String, String>,
    slot: &OnceLock<Begun>,
) -> anyhow::Result<bool> {
    let begin = Instant::now();
    let folder = std::env::current_dir().context("the task has no folder")?;
    let parameters = TaskParameters::read(variables)?.below(&folder)?;
    let name = format!("task-{:08x}", fastrand::u32(..));
    let template = template(variables, |path| parameter_file::read_text(&folder.join(path)))?;
    let task = TaskBuild::new(&parameters, &name, template);
    let secret = secret_data(&task.secret, &folder)?;
    archive::check(&folder, &task.selection)?;
    let source = Packing::begin(&folder, &task.selection)
        .context("TMPDIR takes no archive of the source")?;
    tokio::spawn(announce(source.clone()));
    let (client, namespace) = access::connect(variables).await?;
    if folder.join("cache").is_dir() {
        say(match task.spec.cache.as_ref().map(|cache| cache.registry.export) {
            Some(Some(_)) => {
                "cache: the cache that OCIBUILD_CACHE names serves; the folder stays as it is"
            }
            Some(None) => {
                "cache: the folder stays as it is, and the cache that OCIBUILD_CACHE names is only read; export: max in it fills it"
            }
            None => {
                "cache: the folder stays as it is, and nothing is cached; OCIBUILD_CACHE names a registry to keep a cache in"
            }
        });
    }

    let begun = slot.get_or_init(|| Begun {
        submission: Submission::new(&client, &namespace, &name),
        outputs: Outputs::find(&folder, &task.spec.additional_targets),
        making: Arc::default(),
    });
    if begun.outputs.is_empty() && !task.spec.push {
        say(
            "image: the task has no output `image` and does not push: nothing will be left of what is built",
        );
    }
    let submission = &begun.submission;
    let rootfs = task.spec.unpack_rootfs;
    let lease = task.spec.lease.as_deref().and_then(parse_duration).unwrap_or(LEASE);
    let (held, making) = (begun.making.clone().lock_owned().await, submission.clone());
    let made = tokio::spawn(async move {
        let made = making.create(task.spec, secret).await;
        drop(held);
        made
    });
    let made = tokio::select! {
        made = made => made?,
        error = failed(&source) => return Err(error),
    };
    made.map_err(not_made).with_context(|| {
        format!("the OciBuild {name} could not be made in namespace {namespace}")
    })?;
    say(&format!("OciBuild {namespace}/{name}"));
    let session = Session { submission, source: &source, outputs: &begun.outputs, rootfs, begin };
    tokio::select! {
        ended = session.run() => ended,
        lost = submission.keep_lease(lease) => Err(lost.into()),
        error = failed(&source) => Err(error),
    }
}

/// Says what there is to send, once that is known.
async fn announce(source: Packing) {
    let Ok(archive) = source.archive().await else { return };
    say(&format!("source: {} files, {} to send", archive.entries, summary::bytes(archive.size)));
    if archive.left_out > 0 {
        say(&format!("source: {} sockets, pipes and devices were left out", archive.left_out));
    }
}

/// Ends only if the source cannot be packed.
async fn failed(source: &Packing) -> anyhow::Error {
    match source.archive().await {
        Ok(_) => std::future::pending().await,
        Err(error) => anyhow::Error::from(error).context("the source cannot be packed"),
    }
}

/// What the API server says, and which parameter that is about.
fn not_made(error: kube::Error) -> anyhow::Error {
    let status = if let kube::Error::Api(status) = &error { status.code } else { 0 };
    let words = words(error);
    match status {
        401 => {
            NotMade(format!("{words}: the API server does not take KUBE_TOKEN, or the user of KUBECONFIG; it may have expired"))
                .into()
        }
        403 => NotMade(format!(
            "{words}; KUBE_NAMESPACE names the namespace to build in, and docs/concourse.md shows how to make an account that may"
        ))
        .into(),
        400..500 => NotMade(words).into(),
        0 if words.contains("certificate") => {
            NotMade(format!("{words}: KUBE_CA, or the authority of KUBECONFIG, is not that of the API server")).into()
        }
        _ => anyhow::anyhow!(words),
    }
}

fn secret_data(
    content: &BTreeMap<String, SecretContent>,
    folder: &Path,
) -> anyhow::Result<BTreeMap<String, ByteString>> {
    let read = |(key, content): (&String, &SecretContent)| {
        let bytes = match content {
            SecretContent::Text(text) => text.reveal().as_bytes().to_vec(),
            SecretContent::File(path) => {
                parameter_file::read(&folder.join(path)).with_context(|| {
                    format!("{path}, which the parameters name, cannot be read as a secret")
                })?
            }
        };
        Ok((key.clone(), ByteString(bytes)))
    };
    content.iter().map(read).collect()
}
