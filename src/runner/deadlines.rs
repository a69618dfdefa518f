//! How long each part of a run may take. Pure: the moments come in as they pass.

use std::time::{Duration, Instant};

use crate::plan::instructions::PhaseSeconds;

/// A part of a run that has a deadline of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunPhase {
    /// The source is fetched, unpacked and checked.
    Source,
    /// BuildKit pulls base images and runs steps.
    Build,
    /// The layers are made and the files of the image written.
    Export,
    /// The image is pushed.
    Push,
}

impl RunPhase {
    /// The field of `spec.deadlines`.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Build => "build",
            Self::Export => "export",
            Self::Push => "push",
        }
    }

    /// The phase as a message names it.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Source => "bringing the source",
            Self::Build => "pulling base images and running steps",
            Self::Export => "making layers and writing the files of the image",
            Self::Push => "pushing the image",
        }
    }

    const fn seconds(self, deadlines: &PhaseSeconds) -> Option<u64> {
        match self {
            Self::Source => deadlines.source,
            Self::Build => deadlines.build,
            Self::Export => deadlines.export,
            Self::Push => deadlines.push,
        }
    }
}

/// Where a run is, and how long it was in each phase: a build of several targets is in some of them several times.
#[derive(Clone, Debug)]
pub struct Clock {
    deadlines: PhaseSeconds,
    current: Option<(RunPhase, Instant)>,
    spent: [Duration; 4],
    has_ended: bool,
}

impl Clock {
    /// A clock that stands still.
    pub fn new(deadlines: PhaseSeconds) -> Self {
        Self { deadlines, current: None, spent: [Duration::ZERO; 4], has_ended: false }
    }

    /// From now on the run is in this phase; whether it was in another before.
    pub fn enter(&mut self, phase: RunPhase, now: Instant) -> bool {
        if let Some((before, since)) = self.current {
            if before == phase {
                return false;
            }
            self.spent[before as usize] += now.saturating_duration_since(since);
        }
        self.current = Some((phase, now));
        true
    }

    /// BuildKit says where it is; that counts while it builds, not while it fetches a source.
    pub fn follow(&mut self, phase: RunPhase, now: Instant) -> bool {
        self.current.is_some_and(|(current, _)| current != RunPhase::Source)
            && self.enter(phase, now)
    }

    /// The image is there: no deadline of the run counts any more.
    pub fn end(&mut self) {
        self.current = None;
        self.has_ended = true;
    }

    /// Whether the run has ended.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Seconds that a phase may take.
    pub fn limit(&self, phase: RunPhase) -> Option<u64> {
        phase.seconds(&self.deadlines)
    }

    /// Which phase is overdue when, if nothing changes.
    pub fn overdue(&self) -> Option<(RunPhase, Instant)> {
        let (phase, since) = self.current?;
        let left =
            Duration::from_secs(self.limit(phase)?).saturating_sub(self.spent[phase as usize]);
        Some((phase, since.checked_add(left)?))
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, Duration, Instant, PhaseSeconds, RunPhase};

    fn clock() -> Clock {
        Clock::new(PhaseSeconds {
            source: Some(10),
            build: Some(20),
            push: Some(5),
            ..PhaseSeconds::default()
        })
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn each_phase_has_a_deadline_of_its_own() {
        let start = Instant::now();
        let mut clock = clock();
        assert_eq!(clock.overdue(), None, "nothing has begun");
        clock.enter(RunPhase::Source, start);
        assert_eq!(clock.overdue(), Some((RunPhase::Source, start + seconds(10))));
        clock.enter(RunPhase::Build, start + seconds(9));
        assert_eq!(clock.overdue(), Some((RunPhase::Build, start + seconds(29))));
        clock.enter(RunPhase::Export, start + seconds(12));
        assert_eq!(clock.overdue(), None, "this one has no deadline");
        clock.enter(RunPhase::Push, start + seconds(40));
        assert_eq!(clock.overdue(), Some((RunPhase::Push, start + seconds(45))));
        clock.end();
        assert!(clock.overdue().is_none() && clock.has_ended());
    }

    #[test]
    fn a_phase_that_comes_again_goes_on_where_it_was() {
        let start = Instant::now();
        let mut clock = clock();
        clock.enter(RunPhase::Build, start);
        clock.enter(RunPhase::Export, start + seconds(15));
        clock.enter(RunPhase::Build, start + seconds(30));
        clock.enter(RunPhase::Build, start + seconds(32));
        assert_eq!(clock.overdue(), Some((RunPhase::Build, start + seconds(35))));
    }

    #[test]
    fn what_buildkit_says_while_it_fetches_a_source_is_no_build() {
        let start = Instant::now();
        let mut clock = clock();
        clock.follow(RunPhase::Build, start);
        assert_eq!(clock.overdue(), None);
        clock.enter(RunPhase::Source, start);
        clock.follow(RunPhase::Build, start + seconds(1));
        assert_eq!(clock.overdue(), Some((RunPhase::Source, start + seconds(10))));
        clock.enter(RunPhase::Build, start + seconds(2));
        clock.follow(RunPhase::Push, start + seconds(3));
        assert_eq!(clock.overdue(), Some((RunPhase::Push, start + seconds(8))));
    }
}
