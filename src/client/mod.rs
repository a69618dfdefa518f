//! What drives a build from outside the cluster: makes it, sends its files, follows it, fetches the image.

pub mod archive;
pub mod connect;
mod forward;
pub mod logs;
pub mod outage;
pub mod packing;
mod pieces;
pub mod submission;
pub mod transfer;
pub mod tunnel;
