//! Build contexts.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

/// Lines of the Dockerfile that [`Context::with_shell`] begins with.
pub const SHELL_LINES: u32 = 3;
const SHELL: &str =
    "FROM scratch\nCOPY busybox /bin/busybox\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n";

/// A temporary directory with a Dockerfile.
pub struct Context(TempDir);

impl Context {
    /// Creates a directory without a Dockerfile.
    pub fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn new(dockerfile: &str) -> Self {
        let context = Self::empty();
        context.write("Dockerfile", dockerfile);
        context
    }

    /// Creates a context whose stage has a static shell. The lines follow those that add it.
    pub fn with_shell(lines: &str) -> Self {
        let context = Self::new(&format!("{SHELL}{lines}"));
        fs::copy("/bin/busybox", context.join("busybox"))
            .expect("a static busybox at /bin/busybox (Debian's busybox-static)");
        context
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Returns the path of an entry, whose name need not be UTF-8.
    pub fn join(&self, name: impl AsRef<[u8]>) -> PathBuf {
        self.path().join(OsStr::from_bytes(name.as_ref()))
    }

    /// Writes a file and creates the directories above it.
    pub fn write(&self, name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) {
        let path = self.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// Returns bytes that neither repeat nor compress.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}
