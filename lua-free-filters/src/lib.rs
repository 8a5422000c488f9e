//! The vocabulary and the decisions of Tollgate. No I/O, no clock, no environment: everything that a decision needs is
//! an argument, so every decision can be tested as a plain function.
//!
//! Read [`pipeline`] first: the stages of a call. Then one step per file:
//!
//! - [`route`] the table of routes · [`scope`] · [`request_head`] what is read of a request · `authenticate` · [`resolve`] · [`reserve`] (`units`: what is billed beside tokens) · [`admit`] · `growth` · [`settle`]
//! - [`meter`] counts an answer: [`sse`] cuts events, [`event_stream`] cuts frames, [`answer_scan`] reads whole bodies,
//!   [`dialect`] knows each protocol, [`tally`] keeps the figures
//! - [`objects`] what providers store, and whose it is · [`attribution`] for whom a call is · [`own`] credentials that organisations have themselves
//! - the nouns: [`key`] [`money`] [`network`] [`usage`] [`price`] [`catalogue`] [`quota`] [`lease`] [`window`] [`time`] [`id`] [`denied`]
//! - [`ports`] what the decisions ask of the world; [`memory`] the same in memory, for tests

pub mod admit;
pub mod answer_scan;
pub mod attribution;
mod authenticate;
pub mod catalogue;
pub mod denied;
pub mod dialect;
pub mod estimate;
pub mod event_stream;
mod growth;
pub mod id;
pub mod key;
pub mod lease;
pub mod memory;
pub mod meter;
pub mod money;
pub mod network;
pub mod objects;
pub mod own;
pub mod pipeline;
pub mod ports;
pub mod price;
pub mod quota;
pub mod request_head;
pub mod reserve;
pub mod resolve;
pub mod route;
pub mod scope;
pub mod settle;
pub mod sse;
pub mod tally;
pub mod time;
mod units;
pub mod usage;
pub mod websocket;
pub mod window;
