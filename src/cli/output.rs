//! What reaches the terminal: text, tables and JSON on stdout, errors and the log on stderr. Owns the forms;
//! what is printed comes from the commands. Nothing here panics when the reader goes away (`| head`).

use super::args::Verbosity;
use crate::base::error::{Error, Kind, Result};
use crate::base::own_log;
use indicatif::ProgressBar;
use serde::Serialize;
use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The progress bar that stands on the terminal, if there is one: it makes room for what is printed.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Names the progress bar that has to make room for other output, or none.
pub fn make_room_for(bar: Option<ProgressBar>) {
    *BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

/// Prints something while no progress bar is in the way.
fn beside_bar<T>(print: impl FnOnce() -> T) -> T {
    let bar = BAR.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match bar {
        Some(bar) => bar.suspend(print),
        None => print(),
    }
}

/// Standard output. When its reader has gone away the rest is dropped without a word, and the command goes
/// on.
pub struct Out {
    sink: Box<dyn Write + Send>,
    closed: bool,
}

impl Out {
    /// This process's stdout.
    pub fn stdout() -> Out {
        Out::to(io::stdout())
    }

    /// Another sink, for tests.
    pub fn to(sink: impl Write + Send + 'static) -> Out {
        Out { sink: Box::new(sink), closed: false }
    }

    /// The reader has gone away.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes bytes as they are and makes sure that they have gone out.
    ///
    /// # Errors
    /// `File` when they cannot be written, for instance to a full disk.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        match beside_bar(|| self.sink.write_all(bytes).and_then(|()| self.sink.flush())) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(e) => Err(Error::new(Kind::File, format!("cannot write to stdout: {e}"))),
        }
    }

    /// Writes a text and ends its line.
    ///
    /// # Errors
    /// As [`Out::bytes`].
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<()> {
        let mut line = text.as_ref().to_owned();
        if !line.ends_with('\n') {
            line.push('\n');
        }
        self.bytes(line.as_bytes())
    }

    /// Writes a table.
    ///
    /// # Errors
    /// As [`Out::bytes`].
    pub fn table(&mut self, table: &Table) -> Result<()> {
        self.bytes(table.render().as_bytes())
    }

    /// Writes a value as one JSON document, indented.
    ///
    /// # Errors
    /// As [`Out::bytes`].
    pub fn json(&mut self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(|e| Error::os("cannot print as JSON", e))?;
        self.line(text)
    }

    /// Writes a value as JSON if that was asked for, else as the text that `text` makes of it.
    ///
    /// # Errors
    /// As [`Out::bytes`].
    pub fn value<T: Serialize>(
        &mut self,
        json: bool,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<()> {
        if json { self.json(value) } else { self.line(text(value)) }
    }
}

/// Which way a column's cells lean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// For words.
    Left,
    /// For numbers.
    Right,
}

/// Rows in columns, with a line of headings. Cells are made harmless.
#[derive(Clone, Debug)]
pub struct Table {
    align: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns and no rows.
    pub fn new<const N: usize>(columns: [(&str, Align); N]) -> Table {
        let headings = columns.iter().map(|(heading, _)| heading.to_uppercase()).collect();
        Table { align: columns.iter().map(|(_, align)| *align).collect(), rows: vec![headings] }
    }

    /// Adds a row, one cell for each column. Missing ones stay empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        let cells = cells.into_iter().map(|cell| {
            let cell: String = cell.into();
            // A cell is one line.
            harmless(&cell.trim_end().replace('\n', " ")).into_owned()
        });
        self.rows.push(cells.collect());
    }

    /// No row was added.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The table as text, each line ended.
    pub fn render(&self) -> String {
        let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
        let length = |text: &str| text.chars().count();
        let widths: Vec<usize> = (0..self.align.len())
            .map(|column| self.rows.iter().map(|row| length(&cell(row, column))).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (align, width)) in self.align.iter().zip(&widths).enumerate() {
                let gap = if column == 0 { "" } else { "  " };
                let cell = cell(row, column);
                let width = *width;
                line += &match align {
                    Align::Left => format!("{gap}{cell:<width$}"),
                    Align::Right => format!("{gap}{cell:>width$}"),
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A text from elsewhere with everything shown that a terminal would obey: escape sequences, carriage
/// returns, marks that reverse the reading direction. Line ends and tabs stay.
pub fn harmless(text: &str) -> Cow<'_, str> {
    let acts = |c: char| {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        (c.is_control() && c != '\n' && c != '\t') || turns
    };
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// Whether to colour what goes to stderr: only on a terminal that can, and not where the user says no.
pub fn stderr_has_colour() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    io::stderr().is_terminal() && !set("NO_COLOR") && !dumb
}

/// Prints an error: what happened and what to do.
pub fn print_error(error: &Error) {
    say(&error_text(error, stderr_has_colour()));
}

/// Prints a line for the user to stderr, besides the log: what a command did, a summary.
pub fn say(text: &str) {
    // If stderr is gone there is nobody to tell.
    let _ = beside_bar(|| writeln!(io::stderr(), "{}", text.trim_end_matches('\n')));
}

fn error_text(error: &Error, colour: bool) -> String {
    let (red, bold, plain) = if colour { ("\x1b[1;31m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
    let mut text = format!("{red}error:{plain} {}", harmless(&error.message));
    if let Some(hint) = &error.hint {
        text += &format!("\n{bold}hint:{plain} {}", harmless(hint).replace('\n', "\n      "));
    }
    text
}

/// The forms of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogForm {
    /// A line of text for each event.
    #[default]
    Text,
    /// A JSON object on a line for each event.
    Json,
}

/// Where the log goes and what is in it.
#[derive(Clone, Debug, Default)]
pub struct LogSetup {
    /// What is logged, as in `info,hpcdag::net=debug`; see [`log_filter`].
    pub filter: String,
    /// In which form.
    pub form: LogForm,
    /// A file to append to, made for its owner alone; without one, stderr.
    pub file: Option<PathBuf>,
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What is logged: `usual` (the configuration's, or less for commands that are done at once) unless the
/// variable `HPCDAG_LOG` says otherwise, and steps up or down from `usual` by `-v` and `-Q`, which win over
/// both.
pub fn log_filter(usual: &str, verbosity: Verbosity, variable: Option<&str>) -> String {
    let steps = isize::from(verbosity.steps());
    if steps == 0 {
        return variable.filter(|v| !v.is_empty()).unwrap_or(usual).to_owned();
    }
    let shifted = |level: usize| LEVELS[level.saturating_add_signed(steps).min(LEVELS.len() - 1)];
    let level_of = |part: &str| LEVELS.iter().position(|level| level.eq_ignore_ascii_case(part.trim()));
    // Only the general level moves; levels of single parts are as precise as their author meant them.
    let general = usual.split(',').find_map(level_of).unwrap_or(2);
    let parts = usual.split(',').filter(|part| part.contains('=')).map(str::to_owned);
    std::iter::once(shifted(general).to_owned()).chain(parts).collect::<Vec<_>>().join(",")
}

/// Starts the log of this process. Once per process.
///
/// # Errors
/// `Config` when the filter is none; `File` when the file cannot be opened; `Internal` when a log was started
/// before.
pub fn start_log(setup: &LogSetup) -> Result<()> {
    let filter = EnvFilter::try_new(&setup.filter).map_err(|e| {
        let levels = LEVELS.join(", ");
        Error::new(Kind::Config, format!("the log level {:?} is not understood: {e}", setup.filter))
            .hint(format!("write one of {levels}, or for single parts: info,hpcdag::net=debug"))
    })?;
    let (sink, colour) = match &setup.file {
        Some(path) => (LogSink::File(Box::leak(Box::new(open_log(path)?))), false),
        None => (LogSink::Stderr, stderr_has_colour()),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(sink)
        .with_ansi(colour)
        // It would say so on stderr, and panic where that is gone.
        .log_internal_errors(false);
    let started = match setup.form {
        LogForm::Text => log.try_init(),
        LogForm::Json => log.json().try_init(),
    };
    started.map_err(|e| Error::os("cannot start the log", e))
}

/// Opens a log to append to, for its owner alone: command lines are in it.
///
/// # Errors
/// `File` when that fails.
pub fn open_log(path: &Path) -> Result<File> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    file.map_err(|e| Error::file("cannot open the log", path, &e))
}

/// Where log lines go. Each event is written at once, and whole.
#[derive(Clone, Copy)]
enum LogSink {
    Stderr,
    /// Kept until the process ends, as the log is.
    File(&'static File),
}

impl MakeWriter<'_> for LogSink {
    type Writer = LogSink;

    fn make_writer(&self) -> LogSink {
        *self
    }
}

impl Write for LogSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        own_log::push(bytes);
        match self {
            LogSink::Stderr => beside_bar(|| io::stderr().write(bytes)),
            LogSink::File(file) => {
                let mut file: &File = file;
                file.write(bytes)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
