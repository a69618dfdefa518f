//! The build contexts.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::Context;

const BUSYBOX: &str = "/bin/busybox";

/// Writes a context whose image runs a command. Another text of the command is another step.
pub fn tiny(context: &Path, text: &str) -> anyhow::Result<()> {
    fs::create_dir_all(context)?;
    let busybox = context.join("busybox");
    if !busybox.exists() {
        fs::copy(BUSYBOX, &busybox)
            .with_context(|| format!("{BUSYBOX} is missing; the package is busybox-static"))?;
    }
    let dockerfile = format!(
        "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"echo\", \"{text}\"]\n"
    );
    Ok(fs::write(context.join("Dockerfile"), dockerfile)?)
}

/// Writes a context of files with random content, 100 to a directory.
pub fn files(context: &Path, count: usize, bytes: usize) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut content = vec![0; bytes];
    for number in 0..count {
        let directory = context.join(format!("files/{}", number / 100));
        fs::create_dir_all(&directory)?;
        random.fill(&mut content);
        fs::write(directory.join(format!("file-{number}")), &content)?;
    }
    Ok(fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY files /files\n")?)
}

/// Writes a context of one file with random content.
pub fn noise(context: &Path, bytes: usize) -> anyhow::Result<()> {
    fs::create_dir_all(context)?;
    let mut random = fastrand::Rng::with_seed(2);
    let mut file = File::create(context.join("noise"))?;
    let mut chunk = vec![0; 1_000_000];
    for _ in 0..bytes / chunk.len() {
        random.fill(&mut chunk);
        file.write_all(&chunk)?;
    }
    Ok(fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY noise /\n")?)
}

/// Sets the modification time of all files, so that the daemon requests each of them again.
pub fn touch_files(context: &Path, run: usize) -> anyhow::Result<()> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + run as u64);
    for directory in fs::read_dir(context.join("files"))? {
        for file in fs::read_dir(directory?.path())? {
            File::options().write(true).open(file?.path())?.set_modified(time)?;
        }
    }
    Ok(())
}
