//! The Concourse task: its parameters, the build that they ask for, and its way through the cluster.

pub mod access;
pub mod build;
mod outputs;
mod parameter_file;
pub mod params;
mod session;
pub mod summary;
pub mod task;
pub mod template;

use std::io::Write;

/// A plain line: a task's terminal is wide, and nobody sees its cursor.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
