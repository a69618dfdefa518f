//! What drives a build from outside the cluster: which files are sent, and how they are packed.

pub mod archive;
pub mod ignore;
