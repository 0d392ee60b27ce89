//! The command line: argument parsing and the wiring of everything else. Nobody uses it except `main`.

mod allocation;
pub mod args;
mod background;
mod batch;
mod bench;
mod clusters;
mod command_graph;
mod compat;
pub mod completions;
mod context;
mod dashboard;
pub mod detach;
mod doctor;
mod figures;
mod gather;
mod hosts;
mod import;
mod jobs;
mod lock;
mod logs;
mod look;
pub mod output;
mod processes;
pub mod progress;
mod relay;
mod report;
mod run;
mod serve;
mod shape;
mod signals;
mod status;
mod steer;
mod submit;
mod top;
mod up;

use crate::base::error::{Kind, Result};
use args::{Cli, Command, ConfigCommand, Setting, WorkersCommand};
use clap::Parser;
use context::{Context, Logger};
use std::process::ExitCode;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // If the terminal is gone there is nobody to tell.
            let _ = e.print();
            return if e.use_stderr() { ExitCode::from(Kind::Usage.exit_code()) } else { ExitCode::SUCCESS };
        }
    };
    match run(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::print_error(&error);
            ExitCode::from(error.kind.exit_code())
        }
    }
}

fn run(cli: &Cli) -> Result<u8> {
    if let Command::Completions(args) = &cli.command {
        output::Out::stdout().bytes(&completions::script(args.shell))?;
        return Ok(0);
    }
    // It knows no configuration: what it has to know its worker tells it.
    if let Command::Executor = &cli.command {
        return serve::executor();
    }
    if let Command::Relay(args) = &cli.command {
        return relay::relay(args);
    }
    let context = Context::load(cli.verbosity, settings(&cli.command))?;
    // Processes that run for long have logs of their own; what draws has no room for one.
    if !matches!(cli.command, Command::Scheduler(_) | Command::Worker(_) | Command::Top(_)) {
        context.start_log(&Logger::Short)?;
    }
    match &cli.command {
        Command::Scheduler(args) => serve::scheduler(&context, args),
        Command::Worker(args) => serve::worker(&context, args),
        Command::Workers(args) => match &args.command {
            WorkersCommand::Start(args) => up::workers_start(&context, args),
            WorkersCommand::List(args) => look::workers_list(&context, args),
            WorkersCommand::Stop(args) => jobs::stop::stop(&context, args),
            WorkersCommand::Wait(args) => jobs::wait::wait(&context, args),
            WorkersCommand::Scale(args) => jobs::scale::scale(&context, args),
            WorkersCommand::Adapt(args) => jobs::adapt::adapt(&context, args),
        },
        Command::Up(args) => up::up(&context, args),
        Command::Down(args) => up::down(&context, args),
        Command::Clusters(args) => clusters::clusters(&context, args),
        Command::Run(args) => run::run(&context, args),
        Command::Submit(args) => submit::submit(&context, args),
        Command::Resume(args) => batch::resume(&context, args),
        Command::Wait(args) => steer::wait(&context, args),
        Command::Status(args) => status::status(&context, args),
        Command::Dashboard(args) => dashboard::dashboard(&context, args),
        Command::Report(args) => report::report(&context, args),
        Command::Top(args) => top::top(&context, args),
        Command::Explain(args) => look::explain(&context, args),
        Command::Story(args) => look::story(&context, args),
        Command::Logs(args) => logs::logs(&context, args),
        Command::Cancel(args) => steer::cancel(&context, args),
        Command::Fetch(args) => look::fetch(&context, args),
        Command::Stop(args) => steer::stop(&context, args),
        Command::Config(args) => match &args.command {
            ConfigCommand::Show(args) => look::config_show(&context, args),
            ConfigCommand::Import(args) => import::import(args),
        },
        Command::Doctor(args) => doctor::doctor(&context, args),
        Command::Bench(args) => bench::bench(&context, args),
        // Done above.
        Command::Completions(_) | Command::Executor | Command::Relay(_) => Ok(0),
    }
}

/// The settings among a command's flags. Those of background processes are checked here too, before they
/// start.
fn settings(command: &Command) -> Vec<Setting> {
    match command {
        Command::Scheduler(args) => args.settings(),
        Command::Worker(args) => args.settings(),
        Command::Up(args) => args.settings(),
        Command::Run(args) => args.settings(),
        Command::Submit(args) => args.settings(),
        Command::Workers(args) => match &args.command {
            WorkersCommand::Start(args) => args.worker.settings(),
            WorkersCommand::Scale(args) => args.pool.worker.settings(),
            WorkersCommand::Adapt(args) => args.pool.worker.settings(),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}
