//! Tests against a receiver that follows the protocol as the daemon does.

mod changes;
mod entries;
mod failures;
mod flow;
mod hostile;
mod order;
mod receiver;
mod selections;
