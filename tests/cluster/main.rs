//! Clusters of real processes over loopback: the binary as users start it, with signals, files, lost workers
//! and lost clients. Each test has a place of its own (`site`) and can run beside the others.

mod commands;
mod doctor;
mod lifetimes;
mod logs;
mod looking;
mod runs;
mod sessions;
mod site;
mod terminal;
