//! The dashboard of clusters of real processes, over loopback, as browsers and scripts see it: who is let in,
//! what every answer carries, every path, and requests that mean no good.

#[path = "../cluster/site.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod site;

mod access;
mod http;
mod https;
mod paths;
