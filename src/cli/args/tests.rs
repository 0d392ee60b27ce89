//! Tests of the command line as a whole.

use super::*;
use clap::CommandFactory;

/// Every command without subcommands, with its full name.
fn leaves() -> Vec<(String, clap::Command)> {
    fn visit(command: &clap::Command, path: &str, leaves: &mut Vec<(String, clap::Command)>) {
        let name = format!("{path}{}", command.get_name());
        if !command.has_subcommands() && !command.is_hide_set() {
            leaves.push((name.clone(), command.clone()));
        }
        for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
            visit(sub, &format!("{name} "), leaves);
        }
    }
    let mut root = Cli::command();
    root.build();
    let mut found = Vec::new();
    visit(&root, "", &mut found);
    found
}

fn parse(line: &str) -> Result<Command, clap::Error> {
    Cli::try_parse_from(std::iter::once("hpcdag").chain(line.split_whitespace())).map(|cli| cli.command)
}

fn submit(line: &str) -> SubmitArgs {
    match parse(line) {
        Ok(Command::Submit(args)) => *args,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_help_with_an_example() {
    let leaves = leaves();
    assert!(leaves.len() > 15);
    for (name, mut command) in leaves {
        let help = command.render_long_help().to_string();
        let example = help.split_once("Example").map(|(_, rest)| rest).unwrap_or_default();
        let (_, lines) = example.split_once(":\n").unwrap_or_default();
        assert!(lines.contains("hpcdag "), "{name} has no example:\n{help}");
        assert!(command.get_about().is_some(), "{name} has no description");
        for arg in command.get_arguments() {
            assert!(arg.get_help().is_some(), "{name} {} has no help", arg.get_id());
            let heading = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(!heading.ends_with('.'), "{name} {}: short help ends without a full stop", arg.get_id());
        }
    }
}

#[test]
fn letters_mean_what_they_mean_in_sbatch() {
    let allowed = [
        ('c', "nthreads"),
        ('c', "cpus"),
        ('n', "nworkers"),
        ('o', "output"),
        ('N', "nodes"),
        ('t', "walltime"),
        ('p', "partition"),
        ('A', "account"),
        ('q', "qos"),
        ('C', "constraint"),
        ('J', "job-name"),
        ('j', "jobs"),
        ('v', "verbose"),
        ('Q', "quiet"),
        ('h', "help"),
        ('f', "follow"),
    ];
    for (name, command) in leaves() {
        for arg in command.get_arguments() {
            let Some(letter) = arg.get_short() else { continue };
            let long = arg.get_long().unwrap_or_default();
            assert!(allowed.contains(&(letter, long)), "{name} -{letter} --{long}");
        }
    }
}

#[test]
fn commands_that_print_data_print_json() {
    let silent =
        ["hpcdag scheduler", "hpcdag workers adapt", "hpcdag completions", "hpcdag top", "hpcdag report"];
    for (name, command) in leaves() {
        let json = command.get_arguments().any(|a| a.get_long() == Some("json"));
        assert_eq!(json, !silent.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn submit_takes_a_graph_or_a_command() {
    let args = submit("submit g.toml report plots --set day=1 --set host=a=b --local -n 2 --nthreads 3");
    assert_eq!(args.graph.as_deref(), Some(std::path::Path::new("g.toml")));
    assert_eq!(args.targets, ["report", "plots"]);
    assert_eq!(args.params[1].value, "a=b");
    assert_eq!((args.local, args.nworkers), (true, Some(2)));
    assert_eq!(args.settings(), [("worker.nthreads", "3".to_owned())]);

    let args = submit("submit --array 1-3 -j 2 -o out/{index} -- gzip -k --check {item}");
    assert_eq!(args.command, ["gzip", "-k", "--check", "{item}"]);
    assert_eq!(args.array.map(|a| a.count()), Some(3));
    assert_eq!((args.graph, args.jobs, args.output.as_deref()), (None, Some(2), Some("out/{index}")));
    assert_eq!(submit("submit --stdout none -- ls").stdout, Some(Stdout::None));
    assert_eq!(submit("submit --stdout out -- ls").stdout, Some(Stdout::Directory("out".into())));
}

#[test]
fn submit_refuses_what_makes_no_sense() {
    for line in [
        "submit",
        "submit --",
        "submit g.toml -- ls",
        "submit g.toml --each-line f",
        "submit g.toml --array 1-3",
        "submit g.toml -o x",
        "submit --set a=b -- ls",
        "submit --check -- ls",
        "submit --array 1-3 --each-line f -- ls",
        "submit g.toml --nworkers 2",
        "submit g.toml --nworkers 2 --detach",
        "submit g.toml --nthreads 2 --address h:1",
        "submit g.toml --local --wait-workers 2",
        "submit g.toml --stdout none",
        "submit g.toml --local --nworkers 0",
        "submit g.toml --local --detach",
        "submit g.toml --local --scheduler-file s.json",
        "submit g.toml --fail-fast --max-fails 3",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), i32::from(crate::base::error::Kind::Usage.exit_code()), "{line}");
    }
}

#[test]
fn failures_allowed() {
    assert_eq!(submit("submit g.toml").failures_allowed(), None);
    assert_eq!(submit("submit g.toml --fail-fast").failures_allowed(), Some(0));
    assert_eq!(submit("submit g.toml --max-fails 7").failures_allowed(), Some(7));
}

#[test]
fn worker_flags_survive_being_handed_on() {
    let line = "worker -c 4 --memory-limit 2G --local-directory /scratch/me --resources gpus=1 --lifetime 1h \
        --idle-timeout 5m --death-timeout 1m --lifetime-stagger 10s --processes 2";
    let Ok(Command::Worker(args)) = parse(line) else { panic!("refused") };
    let again = args.worker.to_args();
    let line = std::iter::once("hpcdag".into()).chain(["worker".into()]).chain(again);
    let Ok(Cli { command: Command::Worker(copy), .. }) = Cli::try_parse_from(line) else { panic!("refused") };
    assert_eq!(copy.worker.settings(), args.worker.settings());
    assert_eq!(args.worker.settings().len(), 9);
}

#[test]
fn verbosity_counts() {
    let steps = |line: &str| Cli::try_parse_from(line.split(' ')).expect(line).verbosity.steps();
    assert_eq!(steps("hpcdag -vv status"), 2);
    assert_eq!(steps("hpcdag status -Q"), -1);
    assert_eq!(steps("hpcdag status"), 0);
    assert!(parse("status -v -Q").is_err());
}

#[test]
fn durations_need_units() {
    let error = parse("workers wait 3 --timeout 30").expect_err("no unit").to_string();
    assert!(error.contains("30"), "{error}");
    let Ok(Command::Workers(WorkersArgs { command: WorkersCommand::Wait(args) })) =
        parse("workers wait 3 --timeout 1h30m")
    else {
        panic!("refused")
    };
    assert_eq!(args.timeout.0.as_secs(), 5400);
}

/// `docs/cli.md`, made from the definitions.
fn reference() -> String {
    let mut text = "# Commands\n\n\
        What `hpcdag help COMMAND` prints, for all commands. Written by a test from the \
        program itself; `HPCDAG_BLESS=1 cargo test --lib docs_are_current` writes it anew.\n"
        .to_owned();
    let mut root = Cli::command();
    root.build();
    for (name, command) in [("hpcdag".to_owned(), root)].into_iter().chain(leaves()) {
        // Help is wrapped for the terminal at hand; the reference is wrapped the same everywhere.
        let help = command.term_width(100).render_long_help().to_string();
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        text += &format!("\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end());
    }
    text
}

#[test]
fn docs_are_current() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    if std::env::var_os("HPCDAG_BLESS").is_some() {
        std::fs::write(&path, reference()).expect("written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == reference(), "docs/cli.md is stale: HPCDAG_BLESS=1 cargo test --lib docs_are_current");
}
