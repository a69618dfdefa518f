//! The queue as the reconciles of all namespaces share it: who gets a turn is reconciled at once.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::scheduling::v1::PriorityClass,
    jiff::{SignedDuration, Timestamp},
};
use kube::{Api, Client, ResourceExt, api::ListParams};
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc, watch},
    time::{Instant, timeout, timeout_at},
};

use super::{
    metrics::Metrics,
    queue::{Queue, Ticket, Turn},
};
use crate::plan::operator_config::QueueLimits;

/// How long a namespace that refused a pod is left alone.
const HELD: Duration = Duration::from_secs(2);
/// How often those who wait learn their position: rarely where many do, for each is a write.
const MOST_OFTEN: Duration = Duration::from_secs(15);
const WRITES_PER_SECOND: u32 = 20;
const MOST_SELDOM: Duration = Duration::from_mins(10);
/// How long a look at the priority classes counts.
const FRESH: Duration = Duration::from_mins(1);
/// How long such a look may take: all who ask wait for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the first lists of all watches are waited for: a namespace that cannot be read must not hold the others up for ever.
const FIRST_LISTS: Duration = Duration::from_secs(20);

/// The queue, and whom to tell that a turn has come.
pub struct Turns {
    queue: Mutex<Queue>,
    /// Watches that have not yet listed who has a turn already.
    unlisted: watch::Sender<usize>,
    begun: Instant,
    limits: QueueLimits,
    metrics: Arc<Metrics>,
    listeners: Mutex<Vec<mpsc::UnboundedSender<(String, String)>>>,
    classes: PriorityClasses,
}

impl Turns {
    /// Nothing runs and nothing waits; this many watches will say who does.
    pub fn new(client: Client, limits: QueueLimits, watches: usize, metrics: Arc<Metrics>) -> Self {
        let classes = PriorityClasses { client, seen: AsyncMutex::new(None) };
        let unlisted = watch::Sender::new(watches);
        Self {
            queue: Mutex::new(Queue::new(limits)),
            unlisted,
            begun: Instant::now(),
            limits,
            metrics,
            listeners: Mutex::default(),
            classes,
        }
    }

    /// A watch has said who has a turn.
    pub fn listed(&self) {
        self.unlisted.send_modify(|unlisted| *unlisted = unlisted.saturating_sub(1));
    }

    /// Waits until all watches have, or have had time to: before that nobody knows how many turns are left.
    pub async fn all_listed(&self) {
        let mut unlisted = self.unlisted.subscribe();
        let listed = unlisted.wait_for(|unlisted| *unlisted == 0);
        if self.limits != QueueLimits::default() {
            let _ = timeout_at(self.begun + FIRST_LISTS, listed).await;
        }
    }

    /// Namespace and name of each build whose turn has come, from now on.
    pub fn listen(&self) -> mpsc::UnboundedReceiver<(String, String)> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }

    /// Whether it is the build's turn.
    pub fn turn(&self, uid: &str, ticket: &Ticket) -> Turn {
        self.with(|queue| queue.turn(uid, ticket, Timestamp::now()))
    }

    /// The build runs already.
    pub fn resume(&self, uid: &str, namespace: &str) {
        self.with(|queue| queue.resume(uid, namespace));
    }

    /// UID and namespace of each build that runs or waits.
    pub fn known(&self) -> Vec<(String, String)> {
        self.with(|queue| queue.known())
    }

    /// The build needs no turn any more. Perhaps it was told that it has one, and never took it: so the next are told anyway.
    pub fn leave(&self, uid: &str) {
        self.change(|queue, now| {
            queue.leave(uid, now);
        });
    }

    /// The build's namespace had room for its pod: where it had none before, the next one may try.
    pub fn fits(&self, uid: &str) {
        self.change(|queue, now| queue.fits(uid, now));
    }

    /// The build's namespace has no room for it now: others have the turn, those of its own namespace after a while.
    /// Its place in the queue.
    pub fn hold(self: &Arc<Self>, uid: &str, ticket: &Ticket) -> Option<usize> {
        self.change(|queue, now| {
            queue.hold(uid, ticket, now, now + SignedDuration::try_from(HELD).unwrap_or_default());
        });
        let turns = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(HELD).await;
            turns.change(|_, _| {});
        });
        match self.turn(uid, ticket) {
            Turn::Waiting { position } => Some(position),
            Turn::Granted => None,
        }
    }

    /// After how long a build that waits looks at its position again.
    pub fn recheck(&self) -> Duration {
        let waiting = u32::try_from(self.with(|queue| queue.waiting())).unwrap_or(u32::MAX);
        Duration::from_secs((waiting / WRITES_PER_SECOND).into()).clamp(MOST_OFTEN, MOST_SELDOM)
    }

    /// Value of a priority class. It matters only where builds may have to wait.
    pub async fn priority(&self, class: Option<&str>) -> i32 {
        if self.limits == QueueLimits::default() {
            return 0;
        }
        self.classes.value(class).await
    }

    /// Changes the queue, and tells those whose turn has come by it.
    fn change(&self, change_it: impl FnOnce(&mut Queue, Timestamp)) {
        let next = self.with(|queue| {
            let now = Timestamp::now();
            change_it(queue, now);
            queue.next(now)
        });
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        for build in next {
            listeners.retain(|listener| listener.send(build.clone()).is_ok());
        }
    }

    /// Asks or changes the queue, and counts it. Each call of the queue leaves it whole, whatever happened to a thread.
    fn with<T>(&self, use_it: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = use_it(&mut queue);
        self.metrics.queue(queue.running(), queue.waiting());
        answer
    }
}

/// The cluster's priority classes, looked at no more than once a minute.
struct PriorityClasses {
    client: Client,
    seen: AsyncMutex<Option<(Instant, Vec<PriorityClass>)>>,
}

impl PriorityClasses {
    /// An unknown class counts as none: the API server refuses the pod, and says so.
    async fn value(&self, name: Option<&str>) -> i32 {
        let mut seen = self.seen.lock().await;
        if seen.as_ref().is_none_or(|(at, _)| at.elapsed() >= FRESH) {
            let (api, all) =
                (Api::<PriorityClass>::all(self.client.clone()), ListParams::default());
            let listed = timeout(PATIENCE, api.list(&all)).await.map_err(anyhow::Error::from);
            match listed.and_then(|listed| listed.map_err(Into::into)) {
                Ok(classes) => *seen = Some((Instant::now(), classes.items)),
                Err(error) => {
                    tracing::warn!(%error, "the priority classes cannot be read; the queue goes by what was read before");
                    let before = seen.take().map(|(_, classes)| classes).unwrap_or_default();
                    *seen = Some((Instant::now(), before));
                }
            }
        }
        let classes = seen.as_ref().map(|(_, classes)| classes.as_slice()).unwrap_or_default();
        let found = match name {
            Some(name) => classes.iter().find(|class| class.name_any() == name),
            None => classes.iter().find(|class| class.global_default == Some(true)),
        };
        found.map_or(0, |class| class.value)
    }
}
