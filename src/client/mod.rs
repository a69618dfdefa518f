//! What drives a build from outside the cluster: which files are sent.

pub mod ignore;
