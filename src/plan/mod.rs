//! From an `OciBuild` and the operator's configuration to what is to be made: the pod, its instructions, the claim. Pure: no
//! client, no clock.

pub mod claim;
mod daemon_config;
pub mod duration;
pub mod instructions;
pub mod layout;
pub mod operator_config;
pub mod pod;
mod reference;
mod registries;
mod translate;
mod validate;
mod volumes;

pub use daemon_config::daemon_config;
pub use operator_config::OperatorConfig;
pub use reference::{Digest, ImageReference, InvalidDigest, InvalidReference};
pub use validate::{Attempt, InvalidSpec, KUEUE_PREFIX, OutputPlan, Validated, validate};

#[cfg(test)]
mod tests;
