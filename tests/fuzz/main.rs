//! Everything that a tenant, a registry or a daemon can write is read 100,000 times in strange shapes: as arbitrary bytes, and as
//! documents that are almost right, which get further in. Nothing may panic, leave its folder, or take more memory than is given
//! here to all of it together.

mod environment;
mod ignore;
mod message;
mod progress;
mod reference;
mod schema;
mod tar;

use std::sync::Once;

use proptest::{
    prelude::*,
    test_runner::{FileFailurePersistence, TestRunner},
};
use rustix::process::{Resource, Rlimit, setrlimit};

const CASES: u32 = 100_000;
/// Data of the whole process; an allocation beyond it ends the test.
const MEMORY: u64 = 512 << 20;

static LIMITED: Once = Once::new();

/// Tries a property with this share of the cases: a subject's properties share its 100,000.
fn hold<S: Strategy>(
    share: u32,
    inputs: S,
    property: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    LIMITED.call_once(|| {
        setrlimit(Resource::Data, Rlimit { current: Some(MEMORY), maximum: None }).unwrap()
    });
    let config = ProptestConfig {
        cases: CASES / share,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    };
    if let Err(error) = TestRunner::new(config).run(&inputs, property) {
        panic!("{error}");
    }
}

/// Texts that are made of the pieces of a grammar.
fn made_of(pieces: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(pieces), 0..most).prop_map(|pieces| pieces.concat())
}
