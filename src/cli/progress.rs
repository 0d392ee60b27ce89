//! Shows a run's progress while it goes on and its summary at the end. Owns the words and when they are
//! printed; the numbers come from `client::summary`.

use super::output;
use crate::base::units::{ByteSize, Span};
use crate::client::summary::{FAILURES_DESCRIBED_MAX, FailedTask, RunProgress, RunSummary};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// How many of the last lines of a failed task's stderr are printed.
const STDERR_LINES_MAX: usize = 10;

/// How many characters of a line are printed: a task may write megabytes without a line end.
const LINE_LENGTH_MAX: usize = 400;

/// The display of one run's progress: a bar on a terminal, else a line now and then, on stderr.
pub struct Progress {
    display: Display,
}

enum Display {
    None,
    Bar(ProgressBar),
    Lines(LineClock),
}

impl Progress {
    /// The display that suits stderr; none at all if `quiet`.
    pub fn new(quiet: bool) -> Progress {
        if quiet {
            return Progress { display: Display::None };
        }
        if !std::io::stderr().is_terminal() {
            return Progress { display: Display::Lines(LineClock::default()) };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style("{spinner} {pos} tasks, {msg}"));
        output::make_room_for(Some(bar.clone()));
        Progress { display: Display::Bar(bar) }
    }

    /// Shows where the run stands. Cheap enough for several times a second.
    pub fn update(&mut self, progress: &RunProgress) {
        match &mut self.display {
            Display::None => {}
            Display::Bar(bar) => {
                // Once the number of tasks is known the spinner becomes a bar.
                if let (None, Some(total)) = (bar.length(), progress.total) {
                    bar.set_style(style("{bar:30} {pos}/{len} tasks, {msg}"));
                    bar.set_length(total);
                }
                if let Some(total) = progress.total.filter(|total| bar.length() != Some(*total)) {
                    bar.set_length(total);
                }
                bar.set_position(progress.settled());
                bar.set_message(details(progress));
            }
            Display::Lines(clock) => {
                if clock.is_due(progress) {
                    output::say(&line(progress));
                }
            }
        }
    }

    /// Takes the bar away: the run has ended, or is left alone.
    pub fn finish(self) {}
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
            output::make_room_for(None);
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; a test makes both.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// When a line is printed: every tenth of the tasks, but not twice a second, and every ten seconds, later
/// every minute and every five, so that a run of a day does not fill its batch job's output.
#[derive(Clone, Copy, Debug, Default)]
struct LineClock {
    printed_at: Duration,
    printed_tenths: u64,
}

impl LineClock {
    fn is_due(&mut self, progress: &RunProgress) -> bool {
        let since = progress.elapsed.saturating_sub(self.printed_at);
        let interval = match progress.elapsed.as_secs() {
            0..600 => Duration::from_secs(10),
            600..7200 => Duration::from_secs(60),
            _ => Duration::from_secs(300),
        };
        let settled = progress.settled();
        let tenths = progress
            .total
            .filter(|total| *total > 0)
            .map_or(0, |total| u64::try_from(u128::from(settled) * 10 / u128::from(total)).unwrap_or(10));
        let is_due = since >= interval || (tenths > self.printed_tenths && since >= Duration::from_secs(1));
        if is_due {
            *self = LineClock { printed_at: progress.elapsed, printed_tenths: tenths };
        }
        is_due
    }
}

/// `120 of 2000 tasks (6%), 16 running, 3 failed, 1.2 GiB moved, 12s`
fn line(progress: &RunProgress) -> String {
    let settled = progress.settled();
    let tasks = match progress.total {
        Some(total) => {
            let percent = u128::from(settled) * 100 / u128::from(total.max(1));
            format!("{settled} of {total} tasks ({percent}%)")
        }
        None => format!("{settled} tasks"),
    };
    format!("{tasks}, {}", details(progress))
}

fn details(progress: &RunProgress) -> String {
    let mut parts = vec![format!("{} running", progress.running)];
    if progress.queued > 0 {
        parts.push(format!("{} queued", progress.queued));
    }
    if progress.failed > 0 {
        parts.push(format!("{} failed", progress.failed));
    }
    if progress.bytes_moved > 0 {
        parts.push(format!("{} moved", ByteSize(progress.bytes_moved)));
    }
    parts.push(Span(progress.elapsed).to_string());
    let parts = parts.join(", ");
    match &progress.stuck {
        Some(reason) => format!("{parts}: nothing runs, {reason}"),
        None => parts,
    }
}

/// What a run came to, as text: one line, then each failed task.
pub fn summary_text(summary: &RunSummary) -> String {
    let mut parts = vec![match summary.tasks {
        tasks if tasks == summary.succeeded => format!("{} run", tasks_word(tasks)),
        tasks => format!("{} of {} done", summary.succeeded, tasks_word(tasks)),
    }];
    for (count, what) in [
        (summary.failed, "failed"),
        (summary.skipped, "not run because of those"),
        (summary.cancelled, "cancelled"),
        (summary.retried, "retried"),
    ] {
        if count > 0 || what == "failed" {
            parts.push(format!("{count} {what}"));
        }
    }
    parts.push(format!("wall {}", Span(summary.wall)));
    parts.push(format!("task time {}", Span(summary.task_time)));
    parts.push(format!("{} moved", ByteSize(summary.bytes_moved)));
    let mut text = parts.join(", ");
    text.push('\n');
    if let Some(reason) = summary.cancel_reason.as_ref().filter(|_| summary.cancelled > 0) {
        text += &format!("cancelled: {}\n", output::harmless(reason));
    }
    for failure in summary.failures.iter().take(FAILURES_DESCRIBED_MAX) {
        text.push('\n');
        text += &failure_text(failure);
    }
    let described = summary.failures.len().min(FAILURES_DESCRIBED_MAX) as u64;
    match summary.failed.saturating_sub(described) {
        0 => {}
        more if described == 0 => text += &format!("\n{} failed\n", tasks_word(more)),
        more => text += &format!("\nand {} more failed\n", tasks_word(more)),
    }
    text
}

fn tasks_word(count: u64) -> String {
    if count == 1 { "1 task".to_owned() } else { format!("{count} tasks") }
}

/// A failed task, over several lines. Everything in it comes from elsewhere and is made harmless.
pub fn failure_text(failure: &FailedTask) -> String {
    let mut place = match failure.host.as_str() {
        "" => String::new(),
        // Reasons that name several attempts name their hosts.
        host if failure.reason.contains(&format!(" on {host}: ")) => String::new(),
        host => format!(" on {}", output::harmless(host)),
    };
    if failure.attempts > 1 {
        place += &format!(", {} attempts", failure.attempts);
    }
    let mut text =
        format!("{} failed: {}{place}\n", output::harmless(&failure.key), output::harmless(&failure.reason));
    if !failure.command.is_empty() {
        text += &indented("  command: ", "           ", failure.command.lines());
    }
    let lines: Vec<&str> = failure.stderr.lines().collect();
    let from = lines.len().saturating_sub(STDERR_LINES_MAX);
    text + &indented("  stderr:  ", "           ", lines[from..].iter().copied())
}

fn indented<'a>(first: &str, others: &str, lines: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for (index, line) in lines.enumerate() {
        text.push_str(if index == 0 { first } else { others });
        // The end of a long line says more than its beginning.
        let cut = line.char_indices().nth_back(LINE_LENGTH_MAX - 1).map_or(0, |(at, _)| at);
        if cut > 0 {
            text.push_str("... ");
        }
        text.push_str(&output::harmless(&line[cut..]));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(settled: u64, seconds: u64) -> RunProgress {
        let elapsed = Duration::from_secs(seconds);
        RunProgress { total: Some(1000), done: settled, running: 4, elapsed, ..RunProgress::default() }
    }

    #[test]
    fn lines_come_with_tenths_and_time() {
        let mut clock = LineClock::default();
        let mut due = |settled, seconds| clock.is_due(&progress(settled, seconds));
        assert!(!due(50, 1));
        assert!(due(100, 2));
        assert!(!due(199, 3));
        assert!(due(350, 4));
        assert!(!due(460, 4), "twice a second");
        assert!(due(460, 5));
        assert!(!due(461, 14));
        assert!(due(461, 15));
        assert!(!due(461, 24));
        assert!(due(461, 700));
        assert!(!due(461, 720));
        assert!(due(500, 721));
        assert!(due(500, 8000));
        assert!(!due(500, 8299));
        assert!(due(500, 8300));
    }

    #[test]
    fn lines_read_well() {
        let all = RunProgress { queued: 3, failed: 2, bytes_moved: 1 << 30, ..progress(58, 12) };
        assert_eq!(line(&all), "60 of 1000 tasks (6%), 4 running, 3 queued, 2 failed, 1 GiB moved, 12s");
        let unknown = RunProgress { total: None, ..progress(5, 1) };
        assert_eq!(line(&unknown), "5 tasks, 4 running, 1s");
        assert!(
            line(&RunProgress { total: Some(0), ..RunProgress::default() }).starts_with("0 of 0 tasks (0%)")
        );
    }

    #[test]
    fn templates_are_valid() {
        for template in ["{spinner} {pos} tasks, {msg}", "{bar:30} {pos}/{len} tasks, {msg}"] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    fn failure(key: &str) -> FailedTask {
        FailedTask {
            key: key.into(),
            command: "zcat a.gz |\nsort".into(),
            reason: "exit code 3".into(),
            exit_code: Some(3),
            host: "node7".into(),
            attempts: 2,
            stderr: (1..=12).map(|n| format!("line {n}\x1b[1m\n")).collect(),
            ..FailedTask::default()
        }
    }

    #[test]
    fn success_is_one_line() {
        let summary = RunSummary {
            tasks: 3,
            succeeded: 3,
            wall: Duration::from_secs(2),
            task_time: Duration::from_secs(5),
            bytes_moved: 2048,
            ..RunSummary::default()
        };
        assert_eq!(summary_text(&summary), "3 tasks run, 0 failed, wall 2s, task time 5s, 2 KiB moved\n");
    }

    #[test]
    fn failures_are_described() {
        let text = failure_text(&failure("day[3]"));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "day[3] failed: exit code 3 on node7, 2 attempts");
        assert_eq!(lines[1], "  command: zcat a.gz |");
        assert_eq!(lines[2], "           sort");
        assert_eq!(lines[3], "  stderr:  line 3\\u{1b}[1m");
        assert_eq!(lines.len(), 3 + STDERR_LINES_MAX);
        let endless = FailedTask { stderr: "x".repeat(100_000), ..failure("long") };
        assert!(failure_text(&endless).len() < 1000);
        let exact = FailedTask { stderr: "ä".repeat(LINE_LENGTH_MAX), ..failure("exact") };
        assert!(!failure_text(&exact).contains("..."));
    }

    #[test]
    fn many_failures_are_counted() {
        let failures: Vec<FailedTask> = (0..20).map(|n| failure(&format!("t[{n}]"))).collect();
        let summary = RunSummary {
            tasks: 100,
            succeeded: 60,
            failed: 25,
            skipped: 15,
            failures,
            cancelled: 1,
            cancel_reason: Some("asked by ada".into()),
            ..RunSummary::default()
        };
        let text = summary_text(&summary);
        assert!(
            text.starts_with(
                "60 of 100 tasks done, 25 failed, 15 not run because of those, 1 cancelled, wall"
            ),
            "{text}"
        );
        assert_eq!(text.lines().nth(1), Some("cancelled: asked by ada"));
        assert_eq!(text.matches(" failed: ").count(), 20);
        assert!(text.ends_with("\nand 5 tasks more failed\n"), "{text}");
    }
}
