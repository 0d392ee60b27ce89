//! Completion scripts for shells, generated from the definition in `args`.

use super::args::Cli;
use clap::CommandFactory;
use clap_complete::Shell;

/// The completion script for a shell.
pub fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hpcdag", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_shell_knows_the_commands() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(script(*shell)).expect("text");
            for word in ["submit", "each-line", "scheduler-file"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
