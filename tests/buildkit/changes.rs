//! Contexts that change while they are sent.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use ocibuild::buildkit::{SolveError, sender::SendError};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::{build::Build, context::Context, daemon::connect};

const LARGE_BYTES: u64 = 512 << 20;

/// Builds a context with a large file and changes the file once its first bytes are sent.
async fn build_and_change(change: impl FnOnce(&Path) + Send + 'static) -> SolveError {
    let context = Context::new("FROM scratch\nCOPY large /\n");
    let path = context.join("large");
    File::create(&path).unwrap().set_len(LARGE_BYTES).unwrap();
    let build = Build::of(context.path());
    let progress = build.solve.services.progress.clone();
    let changing = std::thread::spawn(move || {
        let start = Instant::now();
        while progress.sent().bytes < 1 << 20 {
            assert!(start.elapsed() < Duration::from_mins(1), "nothing was sent");
            std::thread::yield_now();
        }
        change(&path);
    });
    let error = build.run(&connect().await).await.error();
    changing.join().unwrap();
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_truncated_while_it_is_sent_fails_the_build() {
    let truncate =
        |path: &Path| File::options().write(true).open(path).unwrap().set_len(2 << 20).unwrap();
    match build_and_change(truncate).await {
        SolveError::Send { directory, source: SendError::LengthChanged { path, expected, .. } } => {
            assert_eq!((directory.as_str(), path.as_path()), ("context", Path::new("large")));
            assert_eq!(expected, LARGE_BYTES);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_written_to_while_it_is_sent_fails_the_build() {
    let write = |path: &Path| {
        let file = File::options().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_at(&file, b"changed", 0).unwrap();
    };
    match build_and_change(write).await {
        SolveError::Send { source: SendError::Modified { path }, .. } => {
            assert_eq!(path.as_path(), Path::new("large"));
        }
        other => panic!("{other:?}"),
    }
}

const MIN_BUILDS: u32 = 40;
/// Builds in which the swap had an effect: they failed or lack a file.
const MIN_DISTURBED: u32 = 5;
const SWAP_TIMEOUT: Duration = Duration::from_mins(2);

/// A thread exchanges a directory of the context with a symlink to a foreign one, whose files have
/// the same names.
#[tokio::test(flavor = "multi_thread")]
async fn a_symlink_that_replaces_a_directory_never_leads_to_foreign_files() {
    let (context, foreign) = (Context::new("FROM scratch\nCOPY folder /\n"), Context::empty());
    let names: Vec<_> = (0..50).map(|number| format!("sub/file-{number}")).collect();
    for name in &names {
        context.write(format!("folder/{name}"), "own");
        foreign.write(name, "foreign");
    }
    symlink(foreign.path(), context.join("link")).unwrap();
    let (folder, link) = (context.join("folder"), context.join("link"));
    let connection = connect().await;
    let is_done = AtomicBool::new(false);
    let swap = || {
        while !is_done.load(Ordering::Relaxed) {
            renameat_with(CWD, &folder, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            std::thread::sleep(Duration::from_micros(fastrand::u64(0..500)));
        }
    };
    let runtime = tokio::runtime::Handle::current();
    let build_all = || {
        let (mut builds, mut disturbed) = (0, 0);
        let start = Instant::now();
        while builds < MIN_BUILDS || disturbed < MIN_DISTURBED {
            assert!(
                start.elapsed() < SWAP_TIMEOUT,
                "{disturbed} of {builds} builds were disturbed"
            );
            let build = Build::of(context.path()).export("tar", &[]);
            let built = runtime.block_on(build.run(&connection));
            builds += 1;
            if built.result.is_err() {
                disturbed += 1;
                continue;
            }
            let tree = built.tree();
            for (name, entry) in tree.iter() {
                let name = String::from_utf8_lossy(name);
                assert_ne!(entry.content, b"foreign", "build {builds} leaked {name}");
            }
            disturbed += u32::from(names.iter().any(|name| !tree.contains_key(name.as_bytes())));
        }
    };
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            scope.spawn(swap);
            let built = std::panic::catch_unwind(std::panic::AssertUnwindSafe(build_all));
            is_done.store(true, Ordering::Relaxed);
            if let Err(panic) = built {
                std::panic::resume_unwind(panic);
            }
        });
    });
    assert_eq!(fs::read_to_string(foreign.join("sub/file-0")).unwrap(), "foreign");
}
