//! Through the front door with raw sockets: each protocol, each fault, the log.
#![allow(clippy::unwrap_used)]

mod bedrock;
mod client;
mod cohere;
mod faults;
mod gemini;
mod media;
mod objects;
mod protocols;
mod realtime;
mod records;
mod responses;
mod texts;
