//! Figures of the scheduler's answers as people read them, for `status` and `top`. Owns how amounts, times
//! and bars look; unknown values are `-`. Texts from elsewhere come out harmless.

use super::output::harmless;
use crate::base::units::{ByteSize, Span};
use serde_json::Value;
use std::time::{Duration, UNIX_EPOCH};

/// A text in an answer; `-` where there is none.
pub(super) fn text(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::String(text) => line(text),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

/// A text as one harmless line.
pub(super) fn line(text: &str) -> String {
    harmless(&text.replace(['\n', '\t'], " ")).into_owned()
}

/// A number in an answer; 0 where there is none, or none that makes sense.
pub(super) fn number(value: &Value, name: &str) -> f64 {
    known(value, name).unwrap_or(0.0)
}

/// A number in an answer, if it is known.
pub(super) fn known(value: &Value, name: &str) -> Option<f64> {
    value[name].as_f64().filter(|n| n.is_finite())
}

/// The elements of a list; none where there is no list.
pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// `1.5 GiB`
pub(super) fn size(bytes: f64) -> String {
    ByteSize(bytes.max(0.0) as u64).to_string()
}

/// A size that may be unknown.
pub(super) fn size_of(value: &Value, name: &str) -> String {
    known(value, name).map_or("-".into(), size)
}

/// `1.5 GiB/s`; nothing for none.
pub(super) fn rate(bytes: f64) -> String {
    if bytes < 1.0 { "0".into() } else { format!("{}/s", size(bytes)) }
}

/// `1m15s`
pub(super) fn span(seconds: f64) -> String {
    // A tenth of a second is of interest only as long as there are few seconds.
    let rounded = if seconds >= 10.0 { seconds.round() } else { seconds };
    Span(Duration::try_from_secs_f64(rounded).unwrap_or_default()).to_string()
}

/// A span of time that may be unknown.
pub(super) fn span_of(value: &Value, name: &str) -> String {
    known(value, name).map_or("-".into(), span)
}

/// A number with no more digits than it needs: `4`, `3.9`, `120`.
pub(super) fn short(number: f64) -> String {
    let rounded = if number.abs() < 100.0 { (number * 10.0).round() / 10.0 } else { number.round() };
    format!("{rounded}")
}

/// `3 tasks`, `1 task`
pub(super) fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// How `width` characters are shared by parts of a whole: none that is more than nothing stays without one as
/// long as there is room.
pub(super) fn share(parts: &[f64], whole: f64, width: usize) -> Vec<usize> {
    let positive = |n: f64| if n.is_finite() { n.max(0.0) } else { 0.0 };
    let sum: f64 = parts.iter().map(|p| positive(*p)).sum();
    let whole = positive(whole).max(sum);
    let mut left = width;
    let mut cells = Vec::with_capacity(parts.len());
    for part in parts {
        let part = positive(*part);
        let n = if whole > 0.0 { (part / whole * width as f64).round() as usize } else { 0 };
        let n = n.max(usize::from(part > 0.0)).min(left);
        left -= n;
        cells.push(n);
    }
    cells
}

/// A bar of text: each part in its own character, the rest dots.
pub(super) fn bar(parts: &[(f64, char)], whole: f64, width: usize) -> String {
    let values: Vec<f64> = parts.iter().map(|(value, _)| *value).collect();
    let cells = share(&values, whole, width);
    let mut bar = String::from("[");
    for ((_, c), n) in parts.iter().zip(&cells) {
        bar.extend(std::iter::repeat_n(*c, *n));
    }
    bar.extend(std::iter::repeat_n('.', width - cells.iter().sum::<usize>()));
    bar.push(']');
    bar
}

/// The time of day in UTC: `14:33:20`
pub(super) fn clock(seconds: f64) -> String {
    let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let time = UNIX_EPOCH.checked_add(since).filter(|_| seconds < 2.5e11).unwrap_or(UNIX_EPOCH);
    let whole = humantime::format_rfc3339_seconds(time).to_string();
    whole.get(11..19).unwrap_or("-").to_owned()
}

/// What tasks there are, in the words that people use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    /// They have succeeded.
    pub done: u64,
    /// Workers have them.
    pub processing: u64,
    /// They could run.
    pub queued: u64,
    /// They wait for others, or for their next attempt.
    pub waiting: u64,
    /// They have failed for good.
    pub failed: u64,
    /// They were cancelled.
    pub cancelled: u64,
}

impl Counts {
    /// From counts by state.
    pub(super) fn of(counts: &Value) -> Counts {
        let n = |name: &str| counts[name].as_u64().unwrap_or(0);
        Counts {
            done: n("memory") + n("released"),
            processing: n("processing"),
            queued: n("queued"),
            waiting: n("waiting") + n("delayed"),
            failed: n("erred"),
            cancelled: n("cancelled"),
        }
    }

    /// All of them.
    pub(super) fn total(&self) -> u64 {
        self.done + self.processing + self.queued + self.waiting + self.failed + self.cancelled
    }

    /// `100 done, 4 processing`; without those that are none.
    pub(super) fn words(&self) -> String {
        let named = [
            (self.done, "done"),
            (self.processing, "processing"),
            (self.queued, "queued"),
            (self.waiting, "waiting"),
            (self.failed, "failed"),
            (self.cancelled, "cancelled"),
        ];
        let some: Vec<String> =
            named.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
        if some.is_empty() { "none".into() } else { some.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bars_show_the_least_part_and_never_overflow() {
        assert_eq!(bar(&[(50.0, '#'), (25.0, '+')], 100.0, 8), "[####++..]");
        assert_eq!(bar(&[(1.0, '#')], 1e9, 4), "[#...]");
        assert_eq!(bar(&[(0.0, '#')], 0.0, 4), "[....]");
        assert_eq!(bar(&[(200.0, '#'), (1.0, '+')], 100.0, 4), "[####]");
        assert_eq!(bar(&[(f64::NAN, '#'), (-5.0, '+')], f64::INFINITY, 4), "[....]");
    }

    #[test]
    fn figures_are_short_and_unknown_ones_are_dashes() {
        let value = json!({ "a": 75.2, "b": null, "c": "x\u{1b}[2J\ny", "d": 2048 });
        assert_eq!(span_of(&value, "a"), "1m15s");
        assert_eq!((span_of(&value, "b"), size_of(&value, "b")), ("-".into(), "-".into()));
        assert_eq!((size_of(&value, "d"), text(&value, "d")), ("2 KiB".into(), "2048".into()));
        assert_eq!(text(&value, "c"), "x\\u{1b}[2J y");
        assert_eq!([short(3.94), short(4.0), short(120.4)], ["3.9", "4", "120"]);
        assert_eq!(counted(1, "task") + &counted(2, "run"), "1 task2 runs");
    }

    #[test]
    fn counts_are_told_in_words() {
        let counts =
            Counts::of(&json!({ "memory": 1, "released": 2, "delayed": 1, "waiting": 3, "erred": 1 }));
        assert_eq!(counts.words(), "3 done, 4 waiting, 1 failed");
        assert_eq!((counts.total(), Counts::default().words().as_str()), (8, "none"));
    }
}
