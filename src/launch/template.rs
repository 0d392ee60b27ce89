//! Job scripts from templates: the built-in ones, which are files beside this one, or a user's own. Owns
//! what a template may use and how text becomes a word of the shell; the head's options are the dialects'.

use super::dialect::System;
use crate::base::error::{Error, Kind, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;

/// What a script is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Workers that join a cluster.
    Workers,
    /// A scheduler, workers and a graph in one job.
    Run,
    /// A scheduler alone.
    Scheduler,
}

/// What templates may use. A name that is not here is an error, not an empty text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Context {
    /// `slurm`, `pbs` or `sge`.
    pub system: String,
    /// Options of the head, one a line, without `#SBATCH` and the like.
    pub directives: Vec<String>,
    /// The same for each component of a heterogeneous job; with one element for other jobs.
    pub groups: Vec<Vec<String>>,
    /// Lines of a comment about the script.
    pub about: Vec<String>,
    /// The job's name.
    pub name: String,
    /// The cluster's id; empty where it is not known yet.
    pub cluster: String,
    /// Nodes of each job.
    pub nodes: u32,
    /// How many jobs: more than one is an array.
    pub jobs: u32,
    /// Processors on each node, if that was said.
    pub cpus: Option<u32>,
    /// The program: a path, or `hpcdag`.
    pub program: String,
    /// Its path as a word of the shell: other nodes need not find it by its name.
    pub program_word: String,
    /// The path of the scheduler file as a word of the shell.
    pub scheduler_file_word: String,
    /// The path of the graph file as a word of the shell, where PBS takes it from a variable.
    pub graph_word: String,
    /// What runs on the cluster of a whole run: a command line of the shell. Without it the script takes a
    /// graph as its argument.
    pub command: String,
    /// Where the cluster of a whole run keeps its state, as a word of the shell.
    pub state_word: String,
    /// For a whole run: the path of the file that is there when it is over, as a word of the shell.
    pub ended_word: String,
    /// The file with the workers' settings.
    pub settings_file: Option<String>,
    /// Further arguments of `hpcdag worker`, quoted, with a space before each.
    pub worker_args: String,
    /// Where each worker of a step of many writes its log.
    pub worker_log: Option<String>,
    /// Lines that run before the workers, on each node.
    pub prologue: String,
    /// Lines that run after the workers.
    pub epilogue: String,
    /// The script that processes on other nodes begin with: the prologue, then what is in `"$@"`.
    pub node_prologue: String,
}

impl Context {
    /// Fills what follows from the rest.
    pub fn complete(mut self) -> Context {
        if self.groups.is_empty() {
            self.groups = vec![self.directives.clone()];
        }
        if self.program_word.is_empty() {
            self.program_word = shell_quoted(&self.program);
        }
        let mut lines: Vec<String> = Vec::new();
        if !self.prologue.is_empty() {
            lines.push(self.prologue.clone());
        }
        lines.extend(self.settings_file.iter().map(|f| format!("export HPCDAG_CONFIG={}", shell_quoted(f))));
        match self.system == System::GridEngine.key() {
            true => lines.push(not_ended_by_a_signal("\"$@\"").join("; ")),
            false => lines.push("exec \"$@\"".into()),
        }
        self.node_prologue = lines.join("\n");
        self
    }
}

/// Lines of the shell that run a command and never end by a signal, nor as if by one: Grid Engine kills the
/// whole job when a part of it does that `qrsh -inherit` has started, and a worker may well be killed.
pub fn not_ended_by_a_signal(command: &str) -> [String; 4] {
    let lines = ["trap : TERM USR1 USR2 XCPU", command, "code=$?", "[ $code -le 128 ] || code=1; exit $code"];
    lines.map(str::to_owned)
}

/// The built-in template.
pub fn built_in(system: System, purpose: Purpose) -> &'static str {
    match (system, purpose) {
        (_, Purpose::Scheduler) => include_str!("templates/scheduler.sh.j2"),
        (System::Slurm, Purpose::Workers) => include_str!("templates/slurm-workers.sh.j2"),
        (System::Slurm, Purpose::Run) => include_str!("templates/slurm-run.sh.j2"),
        (System::Pbs, Purpose::Workers) => include_str!("templates/pbs-workers.sh.j2"),
        (System::Pbs, Purpose::Run) => include_str!("templates/pbs-run.sh.j2"),
        (System::GridEngine, Purpose::Workers) => include_str!("templates/sge-workers.sh.j2"),
        (System::GridEngine, Purpose::Run) => include_str!("templates/sge-run.sh.j2"),
    }
}

/// Renders a template. `name` is what errors call it.
///
/// # Errors
/// `Config` when the template is wrong or uses a name that there is not.
pub fn render(name: &str, template: &str, context: &Context) -> Result<String> {
    let fault = |e: minijinja::Error| {
        let line = e.line().map_or(String::new(), |line| format!(":{line}"));
        let what = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
        let error = Error::new(Kind::Config, format!("{name}{line}: {what}"));
        match e.kind() {
            minijinja::ErrorKind::UndefinedError => {
                error.hint("templates may use the names that docs/jobs.md lists")
            }
            _ => error,
        }
    };
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true);
    environment.set_syntax(syntax.build().map_err(fault)?);
    environment.add_filter("sh", |text: String| shell_quoted(&text));
    let template = environment.template_from_named_str(name, template).map_err(fault)?;
    template.render(Serde(context)).map_err(fault)
}

/// A text as one word of the shell.
pub fn shell_quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:%@+,=".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn context(system: System) -> Context {
        Context {
            system: system.key().into(),
            directives: vec!["-N x".into()],
            about: vec!["Workers.".into()],
            name: "hpcdag-a1".into(),
            cluster: "a1".into(),
            nodes: 2,
            jobs: 1,
            program: "/opt/it's here/hpcdag".into(),
            scheduler_file_word: shell_quoted("/home/a b/scheduler.json"),
            settings_file: Some("/home/a b/w.toml".into()),
            graph_word: "g.toml".into(),
            ..Context::default()
        }
    }

    #[test]
    fn quoted_text_is_one_word() {
        for text in ["plain-1.2", "", "a b", "it's", "$HOME", "a\nb", "`x`", "\\", "*"] {
            let line = format!("printf %s {}", shell_quoted(text));
            let output = Command::new("sh").args(["-c", &line]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text, "{line}");
        }
        assert_eq!(shell_quoted("plain-1.2"), "plain-1.2");
    }

    #[test]
    fn built_in_templates_are_bash_in_every_form() {
        for system in System::ALL {
            for purpose in [Purpose::Workers, Purpose::Run, Purpose::Scheduler] {
                for (nodes, epilogue) in [(1, ""), (1, "echo end"), (2, ""), (2, "echo end")] {
                    let context = Context {
                        nodes,
                        prologue: "module load x\nsource 'y z'".into(),
                        epilogue: epilogue.into(),
                        ..context(system)
                    };
                    let text = render("built-in", built_in(system, purpose), &context.complete()).unwrap();
                    let check = Command::new("bash").args(["-n", "-c", &text]).output().unwrap();
                    assert!(check.status.success(), "{}\n{text}", String::from_utf8_lossy(&check.stderr));
                    assert!(
                        text.starts_with("#!/bin/bash\n") && text.ends_with('\n') && !text.contains("{%")
                    );
                    assert!(text.contains("module load x\n"), "{text}");
                    assert!(!text.contains("\n\n\n"), "{text}");
                }
            }
        }
    }

    #[test]
    fn faults_name_the_line() {
        let context = context(System::Slurm).complete();
        assert_eq!(render("t", "{{ name }} {{ 'a b' | sh }}\n", &context).unwrap(), "hpcdag-a1 'a b'\n");
        let error = render("mine.j2", "a\n{{ nmae }}\n", &context).unwrap_err();
        assert!(error.kind == Kind::Config && error.message.starts_with("mine.j2:2: "), "{error}");
        let error = render("mine.j2", "a\n{% if %}\n", &context).unwrap_err();
        assert!(error.message.starts_with("mine.j2:2: "), "{error}");
    }
}
