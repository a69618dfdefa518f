//! The pure core stays pure: no client, no clock of the runtime, no files that move away unseen.

use std::{fs, path::Path};

/// Modules that decide and compute. They are tested by tables, without a cluster.
const PURE: &[&str] = &[
    "src/api",
    "src/plan",
    "src/client/ignore.rs",
    "src/concourse/params.rs",
    "src/controller/lifecycle.rs",
    "src/controller/queue.rs",
    "src/controller/diagnose.rs",
    "src/controller/durations.rs",
    "src/controller/summarise.rs",
    "src/runner/progress.rs",
    "src/runner/diagnose.rs",
    "src/runner/message.rs",
    "src/runner/report.rs",
    "src/runner/parameters.rs",
    "src/runner/arguments.rs",
    "src/text.rs",
    "src/runner/image_source/manifest.rs",
];

/// What only the shell around them may touch.
const SHELL: &[&str] =
    &["kube::Client", "Api<", "Api::<", "tokio", "std::process", "SystemTime::now", "Instant::now"];

#[test]
fn pure_modules_touch_no_client_and_no_runtime() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for module in PURE {
        let path = root.join(module);
        assert!(path.exists(), "{module} is gone: name its new place here, so that it stays pure");
        for file in files(&path) {
            let text = fs::read_to_string(&file).unwrap();
            for (number, line) in text.lines().enumerate() {
                for word in SHELL {
                    assert!(
                        !line.contains(word),
                        "{}:{}: {word} in a pure module: {line}",
                        file.display(),
                        number + 1
                    );
                }
            }
        }
    }
}

/// The file and the folder of the same name beside it.
fn files(path: &Path) -> Vec<std::path::PathBuf> {
    if path.is_dir() {
        return fs::read_dir(path)
            .unwrap()
            .flat_map(|entry| files(&entry.unwrap().path()))
            .collect();
    }
    if path.extension().is_none_or(|extension| extension != "rs") {
        return Vec::new();
    }
    let mut found = vec![path.to_owned()];
    let folder = path.with_extension("");
    if folder.is_dir() {
        found.extend(files(&folder));
    }
    found
}
