//! Through the front door with raw sockets: each protocol, each fault, the log.
#![allow(clippy::unwrap_used)]

mod client;
mod faults;
mod protocols;
mod records;
