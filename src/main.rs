//! The binary: parses the command line, runs it, and turns an error into an exit code. Nothing else.

fn main() -> std::process::ExitCode {
    hpcdag::cli::main()
}
