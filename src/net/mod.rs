//! How processes of a cluster find and reach one another: addresses, the scheduler file, the state directory,
//! TLS connections that carry frames. Owns sockets and these files; knows no scheduling and no message.

pub mod address;
pub mod ahead;
pub mod backoff;
pub mod connection;
pub mod discovery;
mod doorstep;
pub mod fetch;
pub mod listener;
pub mod page;
pub mod private_file;
pub mod receiver;
pub mod scheduler_file;
pub mod state_dir;
pub mod tls;

#[cfg(test)]
mod tests;
