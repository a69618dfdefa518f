//! Tests of the BuildKit client against a real daemon, without a cluster.
//!
//! They need root, `runc` and the daemon (`buildkitd` from PATH, or the program that
//! `OCIBUILD_TEST_BUILDKITD` names), a static busybox at `/bin/busybox`, and for some tests
//! BuildKit's own client, `registry` and `ssh-add`. They do not need the network.

mod build;
mod cancel;
mod certificates;
mod changes;
mod context;
mod daemon;
mod differential;
mod entries;
mod errors;
mod exports;
mod headers;
mod image;
mod loss;
mod processes;
mod proxy;
mod random_context;
mod registry;
mod registry_auth;
mod services;
mod shared_key;
mod stalls;
mod tls;
mod unreadable;
