//! The Concourse task: its parameters.

pub mod params;
