//! The command line: argument parsing and the wiring of everything else. Nobody uses it except `main`.

pub mod args;
pub mod completions;
pub mod detach;
pub mod output;
pub mod progress;

/// Runs the command line of this process.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
