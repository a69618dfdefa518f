//! The pure core stays pure: no client, no clock of the runtime, no files that move away unseen.

use std::{fs, path::Path, process::Command};

/// Modules that decide and compute. They are tested by tables, without a cluster.
const PURE: &[&str] = &[
    "src/api",
    "src/plan",
    "src/ignore",
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
    "src/runner/request.rs",
    "src/runner/docker_config.rs",
    "src/buildkit/event.rs",
    "src/buildkit/llb.rs",
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

/// Independent modules: directory, and modules they may use. The client applies ignore patterns, as
/// a crate would by depending on the other.
const INDEPENDENT: &[(&str, &[&str])] =
    &[("src/ignore", &["ignore::"]), ("src/buildkit", &["buildkit::", "ignore::"])];

#[test]
fn independent_modules_name_no_other_module() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (folder, allowed) in INDEPENDENT {
        for file in files(&root.join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            for (number, line) in text.lines().enumerate() {
                for rest in line.split("crate::").skip(1) {
                    assert!(
                        allowed.iter().any(|module| rest.starts_with(module)),
                        "{}:{}: {folder} names another module: {line}",
                        file.display(),
                        number + 1
                    );
                }
            }
        }
    }
}

/// BuildKit's own client is allowed only in dev/ and as the reference of benches and the
/// differential test.
#[test]
fn buildkits_own_client_occurs_only_where_it_is_the_tool_or_the_reference() {
    let name = ["build", "ctl"].concat();
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("git lists the tracked files");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let tracked = String::from_utf8(listed.stdout).unwrap();
    let is_allowed = |file: &&str| {
        ["dev/", "benches/", "tests/buildkit/differential", "CHANGELOG.md"]
            .iter()
            .any(|allowed| file.starts_with(allowed))
    };
    let mut searched = 0;
    for file in tracked.split('\0').filter(|file| !file.is_empty() && !is_allowed(file)) {
        // A file that was deleted is still listed until that is committed.
        let Ok(content) = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)) else {
            continue;
        };
        searched += 1;
        let text = String::from_utf8_lossy(&content).to_lowercase();
        assert!(!text.contains(&name), "{file} names BuildKit's own client");
    }
    assert!(searched > 100, "only {searched} files were searched");
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
