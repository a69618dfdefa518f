//! The client sends random contexts exactly as `buildctl` does.

use std::{collections::BTreeSet, env, fmt::Write, path::Path, process::Stdio};

use futures::{StreamExt, stream};
use ocibuild::buildkit::Connection;
use tar::EntryType;
use tokio::process::Command;

use crate::{
    build::Build,
    context::Context,
    daemon::{connect, shared},
    image::{Entry, Image, Tree, digest},
    random_context::RandomContext,
};

const CONTEXTS: u64 = 250;
const AT_ONCE: usize = 3;
/// Fewer would mean that the contexts are made badly.
const MIN_EQUAL: usize = 135;
/// BuildKit's own client differs from itself in about one of 70 contexts.
const MAX_NEARLY_EQUAL: usize = 12;
/// Repeats one context.
const SEED_VARIABLE: &str = "OCIBUILD_TEST_SEED";
/// Directories that COPY creates get this time; all files of a context are older.
const EPOCH: u64 = 1_700_000_000;

/// An image and the tar of its files; nothing for a build that failed.
type Outcome = Option<(Image, Vec<u8>)>;

async fn with_client(connection: &Connection, random: &RandomContext) -> (Outcome, String) {
    let built = Build::of(random.context.path())
        .directory("dockerfile", random.dockerfile.path())
        .directory("extra", random.extra.path())
        .attribute("context:extra", "local:extra")
        .attribute("build-arg:SOURCE_DATE_EPOCH", &EPOCH.to_string())
        .attribute("no-cache", "")
        .export("oci", &[("rewrite-timestamp", "true")])
        .export("tar", &[])
        .run(connection)
        .await;
    match &built.result {
        Ok(_) => (Some((Image::read(&built.exports[0]), built.exports[1].clone())), String::new()),
        Err(error) => (None, error.to_string()),
    }
}

async fn with_buildctl(random: &RandomContext) -> (Outcome, String) {
    let output = Context::empty();
    let local = |name: &str, path: &Path| format!("{name}={}", path.display());
    let ended = Command::new("buildctl")
        .arg(format!("--addr=unix://{}", shared().socket().display()))
        .args(["build", "--progress=plain", "--frontend=dockerfile.v0", "--no-cache"])
        .args(["--local", &local("context", random.context.path())])
        .args(["--local", &local("dockerfile", random.dockerfile.path())])
        .args(["--local", &local("extra", random.extra.path())])
        .args(["--opt", "context:extra=local:extra"])
        .args(["--opt", &format!("build-arg:SOURCE_DATE_EPOCH={EPOCH}")])
        .arg("--output")
        .arg(format!("type=oci,rewrite-timestamp=true,dest={}", output.join("oci").display()))
        .arg("--output")
        .arg(format!("type=tar,dest={}", output.join("tar").display()))
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    if !ended.status.success() {
        return (None, String::from_utf8_lossy(&ended.stderr).into_owned());
    }
    let read = |name: &str| std::fs::read(output.join(name)).unwrap();
    (Some((Image::read(&read("oci")), read("tar"))), String::new())
}

/// Describes how the layers of two images differ; nothing if they do not.
fn different_entries(ours: &Image, theirs: &Image) -> String {
    let mut lines = String::new();
    if ours.layers().len() != theirs.layers().len() {
        return format!("{} and {} layers", ours.layers().len(), theirs.layers().len());
    }
    for number in 0..ours.layers().len() {
        let place = format!("layer {number}");
        lines += &different_files(&place, &ours.layer(number), &theirs.layer(number));
    }
    lines
}

fn different_files(place: &str, ours: &Tree, theirs: &Tree) -> String {
    let mut lines = String::new();
    for name in ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
        let (ours, theirs) = (ours.get(name), theirs.get(name));
        if !are_equal(ours, theirs) {
            let (ours, theirs) = (ours.map(describe), theirs.map(describe));
            let name = String::from_utf8_lossy(name);
            let _ = write!(lines, "\n{place}, {name}:\n  {ours:?}\n  {theirs:?}");
        }
    }
    lines
}

/// Compares two entries, but for what BuildKit's COPY does not do reliably: on a busy daemon a
/// directory rarely keeps the current time, or lacks extended attributes of its source. Two
/// builds with `buildctl` differ in the same way.
fn are_equal(ours: Option<&Entry>, theirs: Option<&Entry>) -> bool {
    let (Some(ours), Some(theirs)) = (ours, theirs) else { return false };
    let (mut ours, mut theirs) = (ours.clone(), theirs.clone());
    if ours.kind == EntryType::Directory {
        if ours.mtime == EPOCH || theirs.mtime == EPOCH {
            (ours.mtime, theirs.mtime) = (EPOCH, EPOCH);
        }
        let is_within = |few: &Entry, many: &Entry| {
            few.xattrs.iter().all(|(name, value)| many.xattrs.get(name) == Some(value))
        };
        if is_within(&ours, &theirs) || is_within(&theirs, &ours) {
            ours.xattrs.clear();
            theirs.xattrs.clear();
        }
    }
    ours == theirs
}

fn describe(entry: &Entry) -> String {
    let content = digest(&entry.content);
    format!("{content} {:?}", Entry { content: Vec::new(), ..entry.clone() })
}

#[derive(PartialEq)]
enum Verdict {
    Equal,
    /// Equal but for the metadata of a directory.
    NearlyEqual,
    /// Neither program could build the context.
    BothFailed,
}

/// Compares the two programs, or describes how they differ.
async fn compare(connection: &Connection, seed: u64) -> Result<Verdict, String> {
    let random = tokio::task::block_in_place(|| RandomContext::new(seed));
    let ((ours, our_error), (theirs, their_error)) =
        tokio::join!(with_client(connection, &random), with_buildctl(&random));
    let difference = match (&ours, &theirs) {
        (None, None) => {
            println!("seed {seed}: {our_error}");
            return Ok(Verdict::BothFailed);
        }
        (Some((our_image, our_tar)), Some((their_image, their_tar))) => {
            if our_image.layers() == their_image.layers() && our_tar == their_tar {
                return Ok(Verdict::Equal);
            }
            let layers = different_entries(our_image, their_image);
            let files = different_files("tar", &Tree::read(our_tar), &Tree::read(their_tar));
            if layers.is_empty() && files.is_empty() {
                println!("seed {seed}: directories differ");
                return Ok(Verdict::NearlyEqual);
            }
            format!("the layers or the tars differ{layers}{files}")
        }
        (Some(_), None) => format!("only the client built; buildctl: {their_error}"),
        (None, Some(_)) => format!("only buildctl built; client: {our_error}"),
    };
    Err(format!("{SEED_VARIABLE}={seed}\n{}\n{difference}", random.description))
}

#[tokio::test(flavor = "multi_thread")]
async fn random_contexts_give_the_same_layers_as_with_buildctl() {
    let connection = connect().await;
    let only = env::var(SEED_VARIABLE).ok().map(|seed| seed.parse::<u64>().unwrap());
    let seeds = only.map_or(1..=CONTEXTS, |seed| seed..=seed);
    println!("seeds {seeds:?}; {SEED_VARIABLE} repeats one of them");
    let results: Vec<_> = stream::iter(seeds)
        .map(|seed| compare(&connection, seed))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let count =
        |verdict: &Verdict| results.iter().filter(|result| result.as_ref() == Ok(verdict)).count();
    let (equal, nearly_equal) = (count(&Verdict::Equal), count(&Verdict::NearlyEqual));
    let differences: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    let count = differences.len();
    assert!(differences.is_empty(), "{count} contexts differ:\n{}", differences.join("\n\n"));
    assert!(only.is_some() || equal >= MIN_EQUAL, "only {equal} contexts gave equal images");
    assert!(nearly_equal <= MAX_NEARLY_EQUAL, "in {nearly_equal} contexts directories differ");
}
