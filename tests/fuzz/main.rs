//! Feeds every reader of untrusted input 100,000 inputs: arbitrary bytes, and documents that are
//! almost valid, which get further. Tenants, registries, BuildKit daemons and frontends write these
//! inputs. No reader may panic, hang, leave its directory, or exceed the memory limit below.
//!
//! With `OCIBUILD_FUZZ_SECONDS=600` the number of cases is unlimited: each subject (a module of
//! this test) runs for ten minutes, which its properties share, and every property prints the
//! number of its cases to standard error. Select one subject by its name:
//!
//! ```text
//! OCIBUILD_FUZZ_SECONDS=600 cargo test --test fuzz packets::
//! ```

mod environment;
mod error_details;
mod exporter_response;
mod ignore;
mod message;
mod metadata;
mod packets;
mod progress;
mod reference;
mod schema;
mod status;
mod tar;
mod wire;

use std::{
    env, fs,
    io::Write,
    sync::{Mutex, MutexGuard, Once, PoisonError},
    thread,
    time::{Duration, Instant},
};

use proptest::{
    prelude::*,
    test_runner::{FileFailurePersistence, TestRunner},
};
use rustix::process::{Resource, Rlimit, setrlimit};

const CASES: u32 = 100_000;
/// Data of the whole process; an allocation beyond it ends the test.
const MAX_MEMORY_BYTES: u64 = 512 << 20;
/// The seconds that each subject runs, instead of a number of cases.
const SECONDS: &str = "OCIBUILD_FUZZ_SECONDS";
/// Cases between two looks at the clock.
const CASES_AT_ONCE: u32 = 500;

static LIMITED: Once = Once::new();
static LARGE_INPUT: Mutex<()> = Mutex::new(());

/// Tests a property with its share of the subject's cases or time: 1 for all, 2 for half of it.
fn hold<S: Strategy>(
    share: u32,
    inputs: S,
    property: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    limit_memory();
    let Some(seconds) = env::var(SECONDS).ok() else {
        return run(CASES / share, &inputs, &property);
    };
    let seconds: u64 = seconds.parse().unwrap_or_else(|error| panic!("{SECONDS}: {error}"));
    let time = Duration::from_secs(seconds) / share;
    let start = Instant::now();
    let mut cases: u64 = 0;
    while start.elapsed() < time {
        run(CASES_AT_ONCE, &inputs, &property);
        cases += u64::from(CASES_AT_ONCE);
    }
    report(&format!("{cases} cases in {}s", start.elapsed().as_secs()));
}

/// Waits until no other test has an input of the greatest size: the memory limit allows one such
/// test at a time.
fn large_input() -> MutexGuard<'static, ()> {
    limit_memory();
    LARGE_INPUT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn limit_memory() {
    LIMITED.call_once(|| {
        let limit = Rlimit { current: Some(MAX_MEMORY_BYTES), maximum: None };
        setrlimit(Resource::Data, limit).unwrap();
    });
}

fn run<S: Strategy>(
    cases: u32,
    inputs: &S,
    property: &impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let config = ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    };
    if let Err(error) = TestRunner::new(config).run(inputs, property) {
        panic!("{error}");
    }
}

/// Prints a line about the running test, past the capture of the test harness.
fn report(text: &str) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    let thread = thread::current();
    let name = thread.name().unwrap_or_default();
    let _ = writeln!(std::io::stderr(), "{name}: {text}, peak memory {}", peak.trim());
}

/// Texts that are made of the pieces of a grammar.
fn made_of(pieces: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(pieces), 0..most).prop_map(|pieces| pieces.concat())
}
