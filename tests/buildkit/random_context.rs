//! Random contexts with Dockerfiles that copy from them.

use std::{
    ffi::CString,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::{Path, PathBuf},
};

use fastrand::Rng;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, chmod, makedev, mknodat,
    setxattr, utimensat,
};

use crate::context::{Context, noise};

const NAMES: [&[u8]; 16] = [
    b"a",
    b"b",
    b"src",
    b"lib",
    b"x.log",
    b"README.md",
    b".hidden",
    b"a b",
    "ü".as_bytes(),
    b"\xff\xfe",
    b"-dash",
    b"st*r",
    b"[x]",
    b"#c",
    b"!bang",
    b"back\\slash",
];
const MODES: [u32; 9] = [0o644, 0o600, 0o755, 0o777, 0o000, 0o4755, 0o2711, 0o1777, 0o6444];
const TARGETS: [&[u8]; 10] =
    [b"a", b"../a", b"/a", b"/src/lib", b"src", b"..", b"/", b"nowhere", b"/../b", b"\xff\xfe"];
const PATTERNS: [&str; 24] = [
    "*",
    "**",
    "*.log",
    "**/*.log",
    "a",
    "!a",
    "src",
    "!src/lib",
    "src/**",
    "**/lib",
    "!**/*.md",
    "/b/",
    "*/*",
    "[a-c]",
    "?",
    "# a comment",
    "  a b  ",
    "!**",
    "**/.*",
    "s*/l*",
    "./lib",
    "ü",
    "a/../b",
    "\\#c",
];
const MAX_DEPTH: u32 = 3;
/// Earlier than the epoch that the tests clamp to.
const LATEST_MTIME: i64 = 1_600_000_000;
/// cap_net_raw=p, as the kernel stores it (VFS_CAP_REVISION_2).
const CAPABILITY: [u8; 20] = [0, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A context, a second one that the Dockerfile calls `extra`, and the Dockerfile.
pub struct RandomContext {
    pub context: Context,
    pub extra: Context,
    pub dockerfile: Context,
    /// The text of the Dockerfile and of `.dockerignore`.
    pub description: String,
}

impl RandomContext {
    pub fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let context = Context::empty();
        let extra = Context::empty();
        let mut files = Vec::new();
        fill(&mut random, context.path(), 0, &mut files);
        let ignored = ignore_patterns(&mut random);
        if random.u8(..) < 140 {
            context.write(".dockerignore", &ignored);
            set_mtime(&mut random, &context.join(".dockerignore"));
        }
        fill(&mut random, extra.path(), 1, &mut Vec::new());
        extra.write("always", "there");
        set_mtime(&mut random, &extra.join("always"));
        let lines = dockerfile(&mut random, &top_level_names(context.path()));
        let description = format!("{lines}--- .dockerignore\n{ignored}");
        Self { context, extra, dockerfile: Context::new(&lines), description }
    }
}

fn pick<T: Clone>(random: &mut Rng, choices: &[T]) -> T {
    choices[random.usize(..choices.len())].clone()
}

/// Creates entries. The metadata of a directory is set after its entries are there.
fn fill(random: &mut Rng, folder: &Path, depth: u32, files: &mut Vec<PathBuf>) {
    for _ in 0..random.usize(1..8) {
        let path = folder.join(std::ffi::OsStr::from_bytes(pick(random, &NAMES)));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        create(random, &path, depth, files);
    }
}

fn create(random: &mut Rng, path: &Path, depth: u32, files: &mut Vec<PathBuf>) {
    match random.u32(0..20) {
        0..=5 if depth < MAX_DEPTH => {
            fs::create_dir(path).unwrap();
            fill(random, path, depth + 1, files);
        }
        6 | 7 => {
            symlink(std::ffi::OsStr::from_bytes(pick(random, &TARGETS)), path).unwrap();
            set_mtime(random, path);
            return;
        }
        8 if !files.is_empty() => {
            fs::hard_link(pick(random, files), path).unwrap();
            return;
        }
        9 => {
            let (kind, device) = pick(
                random,
                &[
                    (FileType::Fifo, 0),
                    (FileType::Socket, 0),
                    (FileType::CharacterDevice, makedev(1, 3)),
                    (FileType::BlockDevice, makedev(7, 300)),
                ],
            );
            mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), device).unwrap();
        }
        _ => {
            let length = pick(random, &[0, 1, 100, 5_000, 131_072, 300_000]);
            fs::write(path, noise(random.u64(..), length)).unwrap();
            files.push(path.to_owned());
        }
    }
    set_xattrs(random, path);
    chmod(path, Mode::from_raw_mode(pick(random, &MODES))).unwrap();
    set_mtime(random, path);
}

fn set_xattrs(random: &mut Rng, path: &Path) {
    let kind = path.symlink_metadata().unwrap().file_type();
    if random.u8(..) < 60 && (kind.is_file() || kind.is_dir()) {
        // The reader of the tests' tars takes a line feed for the end of a value.
        let mut value = noise(random.u64(..), random.usize(0..40));
        value.retain(|byte| *byte != b'\n');
        let name = CString::new(format!("user.{}", random.alphanumeric())).unwrap();
        setxattr(path, &name, &value, XattrFlags::empty()).unwrap();
    }
    if random.u8(..) < 30 && kind.is_file() {
        setxattr(path, "security.capability", &CAPABILITY, XattrFlags::empty()).unwrap();
    }
}

fn set_mtime(random: &mut Rng, path: &Path) {
    let time =
        Timespec { tv_sec: random.i64(0..LATEST_MTIME), tv_nsec: random.i64(0..1_000_000_000) };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn ignore_patterns(random: &mut Rng) -> String {
    let patterns = (0..random.usize(0..6)).map(|_| format!("{}\n", pick(random, &PATTERNS)));
    patterns.collect()
}

fn top_level_names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    names
}

fn dockerfile(random: &mut Rng, names: &[String]) -> String {
    let mut lines = String::from("FROM scratch\n");
    for number in 0..random.usize(1..4) {
        lines += &copy(random, names, number);
    }
    lines
}

/// Escapes a name for a source of COPY, which is a pattern.
fn escape(name: &str) -> String {
    let special = |character| matches!(character, '*' | '?' | '[' | ']' | '\\');
    let escaped = name
        .chars()
        .flat_map(|character| special(character).then_some('\\').into_iter().chain([character]));
    escaped.collect()
}

fn copy(random: &mut Rng, names: &[String], number: usize) -> String {
    let mut name = || match names {
        [] => "*".to_owned(),
        names => escape(&pick(random, names)),
    };
    let (first, second) = (name(), name());
    let flags = pick(
        random,
        &[
            "",
            "",
            "",
            "--chmod=750 ",
            "--chown=12:34 ",
            "--link ",
            "--exclude=*.log ",
            "--parents ",
        ],
    );
    match random.u32(0..10) {
        0 | 1 => format!("COPY {flags}. /\n"),
        2 => format!("COPY {flags}. /all-{number}/\n"),
        3 | 4 => {
            let sources = serde_json::json!([first, second, format!("/several-{number}/")]);
            format!("COPY {flags}{sources}\n")
        }
        5 => format!("COPY {flags}{}\n", serde_json::json!([first, format!("/one-{number}")])),
        6 => format!("COPY {flags}* /wild-{number}/\n"),
        7 => format!("COPY {flags}[a-s]* .h* /class-{number}/\n"),
        8 => format!("COPY {flags}*/* /deep-{number}/\n"),
        _ => format!("COPY --from=extra {flags}alway? * /extra-{number}/\n"),
    }
}
