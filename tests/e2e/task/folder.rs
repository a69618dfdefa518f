//! A task as Concourse runs it: a folder with inputs and declared outputs, and parameters as the whole environment.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::cluster::{Namespace, run};

const OCIBUILD: &str = env!("CARGO_BIN_EXE_ocibuild");
/// Longer than any task of these tests; only one that hangs reaches it.
const PATIENCE: Duration = Duration::from_mins(4);

/// A task's folder.
pub struct Task<'a> {
    namespace: &'a Namespace,
    folder: tempfile::TempDir,
    kubeconfig: String,
}

impl<'a> Task<'a> {
    pub fn new(namespace: &'a Namespace, files: &[(&str, &str)], outputs: &[&str]) -> Self {
        let kubeconfig = fs::read_to_string(std::env::var("OCIBUILD_KUBECONFIG").unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let task = Self { namespace, folder, kubeconfig };
        for (path, content) in files {
            task.write(path, content.as_bytes());
        }
        for output in outputs {
            fs::create_dir(task.path(output)).unwrap();
        }
        task
    }

    /// The same by another way to the API server.
    pub fn through(self, kubeconfig: String) -> Self {
        Self { kubeconfig, ..self }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub fn write(&self, path: &str, content: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// An input that no compression makes smaller.
    pub fn write_noise(&self, path: &str, mebibytes: usize) {
        let mut noise = vec![0; mebibytes << 20];
        fastrand::Rng::with_seed(7).fill(&mut noise);
        self.write(path, &noise);
    }

    pub fn command(&self, parameters: &[(&str, &str)]) -> Command {
        let mut command = Command::new(OCIBUILD);
        command
            .arg("task")
            .current_dir(self.folder.path())
            .env_clear()
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBE_NAMESPACE", &self.namespace.name)
            .envs(parameters.iter().copied());
        command
    }

    /// Runs the task to its end.
    pub fn run(&self, parameters: &[(&str, &str)]) -> Ended {
        self.start(parameters).end()
    }

    /// Runs the task, which must succeed; its log.
    pub fn succeeds(&self, parameters: &[(&str, &str)]) -> String {
        let ended = self.run(parameters);
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        ended.log
    }

    /// Runs the task, which must fail; its log.
    pub fn fails(&self, parameters: &[(&str, &str)]) -> String {
        let ended = self.run(parameters);
        assert_eq!(ended.code, Some(1), "{}", ended.log);
        ended.log
    }

    pub fn start(&self, parameters: &[(&str, &str)]) -> Running {
        Running::of(self.command(parameters))
    }

    /// Names in a folder.
    pub fn names(&self, folder: &str) -> Vec<String> {
        names(&self.path(folder))
    }

    pub fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

pub fn names(folder: &Path) -> Vec<String> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A task that runs.
pub struct Running {
    child: Child,
    log: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

/// A task that has ended.
pub struct Ended {
    pub code: Option<i32>,
    pub log: String,
}

impl Running {
    pub fn of(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        let readers = streams.into_iter().map(|mut stream| {
            let log = log.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    log.lock().unwrap().extend_from_slice(&buffer[..read]);
                }
            })
        });
        let readers = readers.collect();
        Self { child, log, readers }
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }

    /// Waits until the log has these words, and the task still runs.
    pub fn until(&mut self, words: &str) {
        self.until_it(words, |task| task.log().contains(words));
    }

    /// Waits for a condition, while the task runs.
    pub fn until_it(&mut self, what: &str, is_met: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_met(self) {
            assert!(Instant::now() < deadline, "{what} did not come: {}", self.log());
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "it ended before {what}: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn signal(&self, signal: &str) {
        run("kill", &[signal, &self.child.id().to_string()], b"");
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                panic!("the task hangs: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        for reader in std::mem::take(&mut self.readers) {
            reader.join().unwrap();
        }
        Ended { code: status.code(), log: self.log() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
