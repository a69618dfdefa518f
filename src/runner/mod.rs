//! In the build pod: drives the BuildKit daemon by its socket and reports how the build ended.

pub mod result;
