//! The Concourse task: its parameters, the build that they ask for, and its way through the cluster.

pub mod access;
pub mod build;
mod outputs;
mod parameter_file;
pub mod params;
mod printer;
mod session;
pub mod summary;
pub mod task;
pub mod template;

/// A plain line: a task's terminal is wide, and nobody sees its cursor. Never waits for whoever reads it.
fn say(line: &str) {
    printer::PRINTER.say(line);
}
