//! The main job on a real cluster: `kubectl apply` an OciBuild, get the digest and the tar. `dev/test` runs these on the node
//! that `dev/cluster up` starts; with `OCIBUILD_KUBECONFIG` they run on any cluster that has the operator.

mod cluster;
mod failures;
mod faults;
mod gitops;
mod image_source;
mod isolation;
mod lifecycle;
mod push;
mod scenarios;
mod secure_registry;
mod sources;
mod task;
mod transfer;
mod world;
