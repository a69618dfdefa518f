//! Follows one build to its end: sends the source to the pod of each attempt, prints what the build says, and fetches the files.

use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::{sync::watch, time::timeout};

use super::{
    outputs::Outputs,
    printer::PRINTER,
    say,
    summary::{self, Spans},
};
use crate::{
    api::{OciBuild, Phase},
    client::{
        logs::Log,
        packing::Packing,
        submission::{Seen, Submission},
        transfer::{Transfer, TransferError},
    },
    plan::{Attempt, pod::pod_name},
    runner::result::{BuildResult, BuiltImage, Outcome},
};

/// How soon an operator takes a build up.
const TAKEN_UP: Duration = Duration::from_secs(15);
/// How long the last answer of a pod may lag behind the build's end.
const DRAIN: Duration = Duration::from_secs(3);

/// A build on its way.
pub struct Session<'a> {
    /// The build.
    pub submission: &'a Submission,
    /// What is sent.
    pub source: &'a Packing,
    /// Where the files go.
    pub outputs: &'a Outputs,
    /// Whether the root file systems are wanted.
    pub rootfs: bool,
    /// When the task began.
    pub begin: Instant,
}

impl Session<'_> {
    /// Whether the image was built and all its files are here. A build that failed is no error: it has said why.
    pub async fn run(self) -> anyhow::Result<bool> {
        let mut seen = self.submission.watch();
        let telling = tell(seen.clone());
        tokio::select! {
            ended = self.follow(&mut seen) => ended,
            () = telling => bail!("the OciBuild {} cannot be watched any more", self.submission.name()),
        }
    }

    async fn follow(&self, seen: &mut watch::Receiver<Seen>) -> anyhow::Result<bool> {
        let mut last = None;
        loop {
            let build = self.next(seen, last.as_deref()).await?;
            let Some(pod) = current_pod(&build) else { return self.end(&build) };
            match self.attempt(&pod, seen).await? {
                Ok(Served { image, result, spans }) => {
                    let spans = Spans { total: self.begin.elapsed(), ..spans };
                    say(summary::success(&image, &result, &reference(&build), &spans).trim_end());
                    return Ok(true);
                }
                // Why it failed the status will say.
                Err(TransferError::Ended) => self.outputs.clear(),
                Err(error) => return Err(explained(error)),
            }
            last = Some(pod);
        }
    }

    /// Serves the pod of one attempt and prints its log, until it has ended or its files are here.
    async fn attempt(
        &self,
        pod: &str,
        seen: &mut watch::Receiver<Seen>,
    ) -> anyhow::Result<Result<Served, TransferError>> {
        let mut transfer =
            Transfer::new(self.submission.pods().clone(), pod.to_owned(), self.submission.token());
        let mut log = Log::new(self.submission.pods(), pod, |line: String| PRINTER.log(line));
        let served = {
            let (mut serving, following) = (Box::pin(self.serve(&mut transfer)), log.follow());
            tokio::select! {
                served = &mut serving => served,
                never = following => match never {},
                ended = self.ended(seen, pod) => {
                    // Of a build that succeeded the last answer may be on its way; any other has no files to fetch.
                    let patience = if has_succeeded(&ended?) { DRAIN } else { Duration::ZERO };
                    timeout(patience, &mut serving).await.unwrap_or(Err(TransferError::Ended))
                }
            }
        };
        if served.is_ok() {
            // Its last answer can be lost with the pod that gives it: the files are here all the same.
            let _ = timeout(DRAIN, transfer.done()).await;
        }
        log.rest().await;
        Ok(served)
    }

    /// Sends the source to a pod, waits for its result, and fetches the files.
    async fn serve(&self, transfer: &mut Transfer) -> Result<Served, TransferError> {
        transfer.reach().await?;
        let start = self.begin.elapsed();
        transfer.upload(self.source).await?;
        let result = transfer.result().await?;
        let Outcome::Succeeded(image) = result.outcome.clone() else {
            return Err(TransferError::Ended);
        };
        let built = Instant::now();
        self.outputs.fetch(transfer, &image, self.rootfs).await?;
        let spans = Spans { start, download: built.elapsed(), total: Duration::ZERO };
        Ok(Served { result, image, spans })
    }

    /// Waits for the build's end or for another pod than the one that was served last.
    async fn next(
        &self,
        seen: &mut watch::Receiver<Seen>,
        last: Option<&str>,
    ) -> anyhow::Result<OciBuild> {
        self.wait(seen, |build| {
            has_ended(build) || current_pod(build).is_some_and(|pod| Some(pod.as_str()) != last)
        })
        .await
    }

    /// Waits for the end of the build, or of the attempt of a pod.
    async fn ended(&self, seen: &mut watch::Receiver<Seen>, pod: &str) -> anyhow::Result<OciBuild> {
        self.wait(seen, |build| current_pod(build).is_none_or(|current| current != pod)).await
    }

    async fn wait(
        &self,
        seen: &mut watch::Receiver<Seen>,
        wanted: impl Fn(&OciBuild) -> bool,
    ) -> anyhow::Result<OciBuild> {
        let found = seen.wait_for(|seen| match seen {
            Seen::Nothing => false,
            Seen::Build(build) => wanted(build),
            Seen::Lost(_) => true,
        });
        match found.await.as_deref() {
            Ok(Seen::Build(build)) => Ok(build.as_ref().clone()),
            Ok(Seen::Lost(lost)) => Err(lost.clone().into()),
            Ok(Seen::Nothing) | Err(_) => {
                bail!("the OciBuild {} cannot be watched any more", self.submission.name())
            }
        }
    }

    /// A build that ended without its files being here.
    fn end(&self, build: &OciBuild) -> anyhow::Result<bool> {
        let status = build.status.clone().unwrap_or_default();
        if has_succeeded(build) {
            bail!(
                "the image was built, but its pod ended before the files were here; run the task again"
            );
        }
        say(summary::failure(
            status.failure.as_ref(),
            self.submission.namespace(),
            self.submission.name(),
        )
        .trim_end());
        Ok(false)
    }
}

/// What came of an attempt.
struct Served {
    result: BuildResult,
    /// The image: its files are here.
    image: BuiltImage,
    spans: Spans,
}

/// Says what the build waits for, each thing once.
async fn tell(mut seen: watch::Receiver<Seen>) {
    let mut told = None;
    loop {
        let waits = match &*seen.borrow_and_update() {
            Seen::Build(build) => summary::waiting(build),
            _ => None,
        };
        if let Some(words) = waits.filter(|words| told.as_ref() != Some(words)) {
            say(&words);
            told = Some(words);
        }
        let is_new = matches!(&*seen.borrow(), Seen::Build(build) if build.status.is_none());
        let changed = match timeout(TAKEN_UP, seen.changed()).await {
            Ok(changed) => changed,
            Err(_) if is_new => {
                say(
                    "waiting: no operator has taken the build up yet; are its pods there, and does it watch this namespace?",
                );
                seen.changed().await
            }
            Err(_) => continue,
        };
        if changed.is_err() {
            return;
        }
    }
}

fn has_succeeded(build: &OciBuild) -> bool {
    has_ended(build)
        && build.status.as_ref().is_some_and(|status| status.phase == Some(Phase::Succeeded))
}

fn has_ended(build: &OciBuild) -> bool {
    let Some(status) = &build.status else { return false };
    let is_current = status.observed_generation == build.metadata.generation;
    is_current && status.phase.is_some_and(Phase::is_final)
}

/// The pod of the attempt that goes on. Its name is known before it is there: whoever waits for the kubelet's word that it runs
/// waits longer.
fn current_pod(build: &OciBuild) -> Option<String> {
    let status = build.status.as_ref().filter(|_| !has_ended(build))?;
    let generation = build
        .metadata
        .generation
        .filter(|generation| status.observed_generation == Some(*generation))?;
    let attempt = Attempt::from_number(status.attempt?)?;
    Some(pod_name(build.metadata.name.as_deref()?, generation, attempt))
}

fn reference(build: &OciBuild) -> String {
    let image = build.status.as_ref().and_then(|status| status.image.as_ref());
    image.map(|image| image.reference.clone()).unwrap_or_default()
}

/// A failure on the way with what to do about it.
fn explained(error: TransferError) -> anyhow::Error {
    let advice = match &error {
        TransferError::File { error, .. } if error.kind() == std::io::ErrorKind::StorageFull => {
            "the disk of this Concourse worker is full: free some of it, or build a smaller image"
        }
        TransferError::File { .. } => "the task could not read or write its own folder",
        TransferError::Checksum { .. } => "what arrived is damaged; run the task again",
        TransferError::Tunnel(error) if error.is_forbidden() => {
            "the task's account needs the right to create pods/portforward: see the ClusterRole ocibuild-pipeline"
        }
        _ => "the connection through the API server did not come back; run the task again",
    };
    anyhow::Error::from(error).context(advice)
}
