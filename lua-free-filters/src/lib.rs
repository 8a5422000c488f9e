//! The vocabulary and the decisions of Tollgate. No I/O, no clock, no environment: everything that a decision needs is
//! an argument, so every decision can be tested as a plain function.
//!
//! Read [`pipeline`] first: the stages of a call. Then one step per file:
//!
//! - [`scope`] routes and scopes · [`request_head`] what is read of a request · `authenticate` · [`resolve`] · [`reserve`] · [`admit`] · `growth` · [`settle`]
//! - [`meter`] counts an answer: [`sse`] cuts events, [`answer_scan`] reads whole bodies, [`dialect`] knows each protocol,
//!   [`tally`] keeps the figures
//! - the nouns: [`key`] [`money`] [`usage`] [`price`] [`catalogue`] [`quota`] [`lease`] [`window`] [`time`] [`id`] [`denied`]
//! - [`ports`] what the decisions ask of the world; [`memory`] the same in memory, for tests

pub mod admit;
pub mod answer_scan;
mod authenticate;
pub mod catalogue;
pub mod denied;
pub mod dialect;
mod growth;
pub mod id;
pub mod key;
pub mod lease;
pub mod memory;
pub mod meter;
pub mod money;
pub mod pipeline;
pub mod ports;
pub mod price;
pub mod quota;
pub mod request_head;
pub mod reserve;
pub mod resolve;
pub mod scope;
pub mod settle;
pub mod sse;
pub mod tally;
pub mod time;
pub mod usage;
pub mod window;
