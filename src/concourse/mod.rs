//! The Concourse task: its parameters, the build that they ask for, and its way through the cluster.

pub mod access;
pub mod build;
pub mod params;
pub mod task;
