//! `hpcdag bench`: measures this program on this machine. Owns nothing but the choice of what.

mod alone;
mod cluster;
mod disk;
mod figures;
mod memory;
mod parts;
mod pretend;
mod replay;
mod sessions;
mod shapes;
mod simulated;
mod spawn;
mod speed;
mod start;
mod stencil;
mod submit;
mod usage;
mod viewers;
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
        BenchCommand::Core(args) => alone::core(args),
        BenchCommand::Spawn(args) => spawn::spawn(context, args),
        BenchCommand::Start(args) => start::start(args),
        BenchCommand::Submit(args) => submit::submit(args),
        BenchCommand::ZeroWorker(args) => speed::zero_worker(context, args),
        BenchCommand::Tasks(args) => speed::tasks(context, args),
        BenchCommand::Stencil(args) => stencil::stencil(context, args),
        BenchCommand::Connections(args) => speed::connections(context, args),
        BenchCommand::Replay(args) => replay::replay(context, args),
        BenchCommand::Sessions(args) => sessions::sessions(context, args),
    }
}
