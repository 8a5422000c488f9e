//! The control plane: who may do what with organisations, people, keys, money and credentials.

mod access;
mod calls;
mod command_line;
mod credentials;
mod credits;
mod injections;
mod invitations;
mod keys;
mod matrix;
mod members;
mod orgs;
mod projects;
mod sessions;
mod trail;
mod usage;
mod users;
mod webhooks;
