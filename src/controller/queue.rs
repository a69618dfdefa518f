//! Whose turn it is. Pure: builds that want to run in, turns out. Namespaces share the operator evenly: the next build is of the
//! namespace that runs the fewest, and of these the one whose last turn is the longest ago; within a namespace the higher
//! priority goes first, then who has waited longest.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap},
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::plan::operator_config::QueueLimits;

/// Below this many waiting builds their positions are counted anew each time that one is asked for.
const FEW: usize = 100;
/// How old positions of a longer queue may be.
const STALE: SignedDuration = SignedDuration::from_secs(1);
/// How long a namespace that had no room waits for whether the next pod fits.
const TRIAL: SignedDuration = SignedDuration::from_secs(10);

/// A build that wants to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Value of its priority class (scheduling.k8s.io/v1); more goes first.
    pub priority: i32,
    /// Since when it waits.
    pub since: Timestamp,
}

/// Whether a build may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It may, until it leaves.
    Granted,
    /// Not yet.
    Waiting {
        /// How many turns it is away, from 1.
        position: usize,
    },
}

/// The builds that run, and those that wait for it.
#[derive(Debug, Default)]
pub struct Queue {
    limits: QueueLimits,
    /// UID to namespace.
    running: HashMap<String, String>,
    running_in: HashMap<String, usize>,
    /// Number of the last turn of each namespace that runs or waits.
    last_turn: HashMap<String, u64>,
    turns: u64,
    waiting: HashMap<String, (Ticket, Place)>,
    lines: HashMap<String, BTreeSet<Place>>,
    /// Namespaces that had no room for a pod: until then nobody of them gets a turn, from then on one at a time.
    held: HashMap<String, Timestamp>,
    /// How often the namespace had no room for a build that runs or waits.
    refusals: HashMap<String, u32>,
    positions: Option<(Timestamp, HashMap<String, usize>)>,
}

/// A build in the line of its namespace: the least is the next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    refusals: u32,
    priority: Reverse<i32>,
    since: Timestamp,
    uid: String,
}

impl Queue {
    /// Nothing runs and nothing waits.
    pub fn new(limits: QueueLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Whether it is the build's turn. One that has its turn keeps it; another is in the queue from now on.
    pub fn turn(&mut self, uid: &str, ticket: &Ticket, now: Timestamp) -> Turn {
        if self.running.contains_key(uid) {
            return Turn::Granted;
        }
        if self.waiting.get(uid).is_none_or(|(known, _)| known != ticket) {
            self.wait(uid, ticket);
        }
        if self.is_next(uid, ticket, now) {
            self.resume(uid, &ticket.namespace);
            if let Some(until) = self.held.get_mut(&ticket.namespace) {
                *until = now + TRIAL;
            }
            return Turn::Granted;
        }
        Turn::Waiting { position: self.position(uid, now) }
    }

    /// The build runs already, whatever the limits say: it did before this operator started, or its pod is there.
    pub fn resume(&mut self, uid: &str, namespace: &str) {
        self.remove_waiting(uid);
        if self.running.insert(uid.to_owned(), namespace.to_owned()).is_none() {
            *self.running_in.entry(namespace.to_owned()).or_default() += 1;
            self.turns += 1;
            self.last_turn.insert(namespace.to_owned(), self.turns);
        }
    }

    /// The build has ended, is gone, or wants to run no more. Whether it had a turn.
    pub fn leave(&mut self, uid: &str, now: Timestamp) -> bool {
        self.remove_waiting(uid);
        self.refusals.remove(uid);
        let Some(namespace) = self.running.remove(uid) else { return false };
        self.try_again(&namespace, now);
        if self.running_in.get(&namespace) == Some(&1) && !self.lines.contains_key(&namespace) {
            self.last_turn.remove(&namespace);
        }
        if let Some(count) = self.running_in.get_mut(&namespace) {
            *count -= 1;
            if *count == 0 {
                self.running_in.remove(&namespace);
            }
        }
        true
    }

    /// The namespace has no room for the pod of the build: it gives its turn back and goes behind those of its namespace that
    /// were refused less often, of which a smaller one may fit. Nobody of the namespace gets a turn until then.
    pub fn hold(&mut self, uid: &str, ticket: &Ticket, now: Timestamp, until: Timestamp) {
        let refusals = self.refusals.get(uid).map_or(1, |refusals| refusals.saturating_add(1));
        self.leave(uid, now);
        self.refusals.insert(uid.to_owned(), refusals);
        self.wait(uid, ticket);
        self.held.insert(ticket.namespace.clone(), until);
    }

    /// The namespace had room for the pod of the build: the next one may try.
    pub fn fits(&mut self, uid: &str, now: Timestamp) {
        self.refusals.remove(uid);
        if let Some(namespace) = self.running.get(uid).cloned() {
            self.try_again(&namespace, now);
        }
    }

    fn try_again(&mut self, namespace: &str, now: Timestamp) {
        if let Some(until) = self.held.get_mut(namespace) {
            *until = now;
        }
    }

    fn wait(&mut self, uid: &str, ticket: &Ticket) {
        self.remove_waiting(uid);
        let refusals = self.refusals.get(uid).copied().unwrap_or_default();
        let place = Place {
            refusals,
            priority: Reverse(ticket.priority),
            since: ticket.since,
            uid: uid.to_owned(),
        };
        self.lines.entry(ticket.namespace.clone()).or_default().insert(place.clone());
        self.waiting.insert(uid.to_owned(), (ticket.clone(), place));
    }

    /// The builds whose turn it is by now, each with namespace and name, and who do not know it yet.
    pub fn next(&mut self, now: Timestamp) -> Vec<(String, String)> {
        let free = self.free().min(self.waiting.len());
        if free == 0 {
            return Vec::new();
        }
        let picked: Vec<String> = self.order(true, now).take(free).collect();
        picked
            .iter()
            .filter_map(|uid| self.waiting.get(uid))
            .map(|(ticket, _)| (ticket.namespace.clone(), ticket.name.clone()))
            .collect()
    }

    /// UID and namespace of each build that runs or waits.
    pub fn known(&self) -> Vec<(String, String)> {
        let running = self.running.iter().map(|(uid, namespace)| (uid.clone(), namespace.clone()));
        running
            .chain(
                self.waiting
                    .iter()
                    .map(|(uid, (ticket, _))| (uid.clone(), ticket.namespace.clone())),
            )
            .collect()
    }

    /// How many builds run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// How many builds wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn remove_waiting(&mut self, uid: &str) {
        let Some((ticket, place)) = self.waiting.remove(uid) else { return };
        if let Some(line) = self.lines.get_mut(&ticket.namespace) {
            line.remove(&place);
            if line.is_empty() {
                self.lines.remove(&ticket.namespace);
                self.held.remove(&ticket.namespace);
                if !self.running_in.contains_key(&ticket.namespace) {
                    self.last_turn.remove(&ticket.namespace);
                }
            }
        }
    }

    fn free(&self) -> usize {
        self.limits.max_running.map_or(usize::MAX, |most| most.saturating_sub(self.running.len()))
    }

    /// Turns that a namespace has left.
    fn free_in(&self, namespace: &str, now: Timestamp) -> usize {
        let tried_at_once = match self.held.get(namespace) {
            Some(until) if now < *until => 0,
            Some(_) => 1,
            None => usize::MAX,
        };
        let running = self.running_in.get(namespace).copied().unwrap_or_default();
        let left = self
            .limits
            .max_running_per_namespace
            .map_or(usize::MAX, |most| most.saturating_sub(running));
        left.min(tried_at_once)
    }

    fn is_next(&mut self, uid: &str, ticket: &Ticket, now: Timestamp) -> bool {
        let free = self.free();
        if free < self.waiting.len() {
            return self.order(true, now).take(free).any(|next| next == uid);
        }
        // There is room for all that wait: only the namespace's own limit counts.
        let line = self.lines.get(&ticket.namespace).into_iter().flatten();
        line.take(self.free_in(&ticket.namespace, now)).any(|place| place.uid == uid)
    }

    fn position(&mut self, uid: &str, now: Timestamp) -> usize {
        let is_fresh = |at: Timestamp| {
            self.waiting.len() >= FEW
                && (SignedDuration::ZERO..STALE).contains(&now.duration_since(at))
        };
        if !self
            .positions
            .as_ref()
            .is_some_and(|(at, positions)| is_fresh(*at) && positions.contains_key(uid))
        {
            let counted = self.order(false, now).zip(1..).collect();
            self.positions = Some((now, counted));
        }
        let counted =
            self.positions.as_ref().and_then(|(_, positions)| positions.get(uid).copied());
        counted.unwrap_or(self.waiting.len())
    }

    /// The order in which those who wait get their turns if nothing else changes: with the limits of the namespaces, or without.
    fn order(&self, is_limited: bool, now: Timestamp) -> impl Iterator<Item = String> {
        let mut heads = BinaryHeap::new();
        let mut turns = self.turns;
        for (namespace, line) in &self.lines {
            let mut places = line.iter();
            let left = if is_limited { self.free_in(namespace, now) } else { usize::MAX };
            let running = self.running_in.get(namespace).copied().unwrap_or_default();
            if let Some(place) = places.next().filter(|_| left > 0) {
                let last_turn = self.last_turn.get(namespace).copied().unwrap_or_default();
                heads.push(Reverse(Head { running, last_turn, place, left, rest: places }));
            }
        }
        std::iter::from_fn(move || {
            let Reverse(mut head) = heads.pop()?;
            let picked = head.place.uid.clone();
            head.left -= 1;
            if let Some(place) = head.rest.next().filter(|_| head.left > 0) {
                turns += 1;
                heads.push(Reverse(Head {
                    running: head.running + 1,
                    last_turn: turns,
                    place,
                    ..head
                }));
            }
            Some(picked)
        })
    }
}

/// The first in the line of a namespace, as it is compared with those of the others.
struct Head<'a> {
    running: usize,
    last_turn: u64,
    place: &'a Place,
    left: usize,
    rest: std::collections::btree_set::Iter<'a, Place>,
}

impl Head<'_> {
    fn rank(&self) -> (usize, u64, &Place) {
        (self.running, self.last_turn, self.place)
    }
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Head<'_> {}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

#[cfg(test)]
mod tests;
