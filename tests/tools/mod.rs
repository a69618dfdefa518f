//! The command line tools that tests drive: those of the development cluster, else those of PATH.

use std::{env, path::PathBuf};

/// Where a tool is. A test that cannot find it fails and says how to get it.
pub fn tool(name: &str) -> PathBuf {
    let cache = env::var_os("OCIBUILD_DEV_CACHE")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cache/ocibuild-dev")))
        .map(|cache| cache.join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    cache.into_iter().chain(env::split_paths(&path)).map(|folder| folder.join(name)).find(|tool| tool.is_file()).unwrap_or_else(
        || panic!("{name} is neither in ~/.cache/ocibuild-dev/bin nor on PATH: dev/test builds it, or install it"),
    )
}
