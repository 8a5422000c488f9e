//! Every test through the front door: the real binary, HTTP in, HTTP out. Modules are named after what a user sees.

mod books;
mod bounds;
mod calls;
mod departures;
mod durability;
mod failover;
mod faults;
mod keys;
mod limits;
mod metrics;
mod money;
mod projects;
mod quotas;
mod smuggling;
mod support;
mod tidy;
