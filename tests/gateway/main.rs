//! Every test through the front door: the real binary, HTTP in, HTTP out. Modules are named after what a user sees.

mod books;
mod bounds;
mod calls;
mod cluster;
mod control;
mod departures;
mod deploy;
mod docs;
mod durability;
mod failover;
mod faults;
mod keys;
mod limits;
mod media;
mod metrics;
mod money;
mod objects;
mod passthrough;
mod projects;
mod protocols;
mod quotas;
mod realtime;
mod smuggling;
mod support;
mod tidy;
