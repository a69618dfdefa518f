//! OciBuild: a Kubernetes operator that drives OCI image builds as custom resources.
//!
//! A build flows through the modules in this order: [`api`] (what the user wrote) → [`plan`] (what is to be done, as a pod) →
//! [`runner`] (doing it, inside the pod) → [`controller`] (what became of it, as status).

pub mod api;
pub mod buildkit;
pub mod client;
pub mod concourse;
pub mod controller;
pub mod ignore;
pub mod plan;
pub mod runner;
pub mod telemetry;
mod text;
