//! Every test through the front door: the real binary, HTTP in, HTTP out. Modules are named after what a user sees.

mod calls;
mod departures;
mod failover;
mod faults;
mod keys;
mod limits;
mod money;
mod smuggling;
mod support;
mod tidy;
