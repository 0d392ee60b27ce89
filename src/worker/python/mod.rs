//! Calls of Python functions. `calls` knows the runs and batches, `environment` which interpreter they want,
//! `zygote` is the process that executors are forked from, `messages` what is said to them, `executors` runs
//! calls on executors that are kept warm, `loaded` is what one of these has been sent. Owns no policy about
//! when a call runs: that is the core's.

pub(super) mod calls;
mod environment;
mod executors;
mod loaded;
mod messages;
mod zygote;

pub(super) use executors::{Facts, Python, divide};
