//! `hpcdag bench`: measures this program on this machine. Owns nothing but the choice of what.

mod cluster;
mod disk;
mod memory;
mod workload;

use super::args::{BenchArgs, BenchCommand};
use super::context::Context;
use crate::base::error::Result;

/// Runs the command; returns the exit code.
///
/// # Errors
/// What keeps a benchmark from running to its end.
pub fn bench(context: &Context, args: &BenchArgs) -> Result<u8> {
    match &args.command {
        BenchCommand::Memory(args) => memory::memory(context, args),
    }
}
