//! Tests of what is printed.

use super::*;
use std::sync::Arc;

/// A sink that can be looked at, and that closes after so many writes.
#[derive(Clone)]
struct Sink {
    written: Arc<Mutex<Vec<u8>>>,
    writes_left: usize,
    error: ErrorKind,
}

impl Sink {
    fn new(writes_left: usize) -> Sink {
        Sink { written: Arc::default(), writes_left, error: ErrorKind::BrokenPipe }
    }

    fn text(&self) -> String {
        String::from_utf8(self.written.lock().expect("unpoisoned").clone()).expect("text")
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.writes_left == 0 {
            return Err(self.error.into());
        }
        self.writes_left -= 1;
        self.written.lock().expect("unpoisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let sink = Sink::new(1);
    let mut out = Out::to(sink.clone());
    out.line("one").expect("written");
    assert!(!out.is_closed());
    out.line("two").expect("dropped");
    assert!(out.is_closed());
    out.json(&[1]).expect("dropped");
    assert_eq!(sink.text(), "one\n");
}

#[test]
fn a_full_disk_is_an_error() {
    let mut out = Out::to(Sink { error: ErrorKind::StorageFull, ..Sink::new(0) });
    assert_eq!(out.line("one").expect_err("full").kind, Kind::File);
    assert!(!out.is_closed());
}

#[test]
fn values_print_as_text_or_json() {
    let sink = Sink::new(9);
    let mut out = Out::to(sink.clone());
    out.value(false, &7, |n| format!("seven: {n}")).expect("written");
    out.value(true, &serde_json::json!({"a": 7}), |_| String::new()).expect("written");
    assert_eq!(sink.text(), "seven: 7\n{\n  \"a\": 7\n}\n");
}

#[test]
fn tables_align() {
    let mut table = Table::new([("name", Align::Left), ("tasks", Align::Right), ("state", Align::Left)]);
    assert!(table.is_empty());
    table.row(["größer", "7", "running"]);
    table.row(["b", "12345678", ""]);
    table.row(["c\x1b[2J\n"]);
    let expected = "\
NAME           TASKS  STATE
größer             7  running
b           12345678
c\\u{1b}[2J
";
    assert_eq!(table.render(), expected);
}

#[test]
fn what_a_terminal_would_obey_is_shown() {
    assert!(matches!(harmless("plain\ttext\nÄ"), Cow::Borrowed(_)));
    assert_eq!(
        harmless("a\x1b]0;title\x07\r\u{9b}1m\u{202e}b"),
        "a\\u{1b}]0;title\\u{7}\\r\\u{9b}1m\\u{202e}b"
    );
}

#[test]
fn errors_have_their_hint() {
    let error = Error::new(Kind::NoScheduler, "nobody answers\x1b").hint("start one:\nhpcdag up");
    let plain = "error: nobody answers\\u{1b}\nhint: start one:\n      hpcdag up";
    assert_eq!(error_text(&error, false), plain);
    assert!(error_text(&error, true).starts_with("\x1b[1;31merror:\x1b[0m nobody"));
}

#[test]
fn log_filters_are_found_and_shifted() {
    let steps = |verbose, quiet| Verbosity { verbose, quiet };
    assert_eq!(log_filter("info", steps(0, 0), None), "info");
    assert_eq!(log_filter("info", steps(0, 0), Some("")), "info");
    assert_eq!(log_filter("info", steps(0, 0), Some("hpcdag::net=trace")), "hpcdag::net=trace");
    assert_eq!(log_filter("info", steps(1, 0), Some("error")), "debug");
    assert_eq!(log_filter("warn", steps(0, 1), None), "error");
    assert_eq!(log_filter("warn", steps(0, 9), None), "off");
    assert_eq!(log_filter("warn", steps(200, 0), None), "trace");
    assert_eq!(log_filter("hpcdag::net=error,info", steps(1, 0), None), "debug,hpcdag::net=error");
    assert_eq!(log_filter("hpcdag::net=error", steps(1, 0), None), "info,hpcdag::net=error");
}

#[test]
fn wrong_filters_and_files_are_refused() {
    let wrong = LogSetup { filter: "hpcdag=loud".into(), ..LogSetup::default() };
    assert_eq!(start_log(&wrong).expect_err("no level").kind, Kind::Config);
    // A place that nobody can make, whoever runs this.
    let file = Some("/dev/null/log".into());
    let wrong = LogSetup { filter: "info".into(), file, ..LogSetup::default() };
    assert_eq!(start_log(&wrong).expect_err("no directory").kind, Kind::File);
}

#[test]
fn logs_are_appended_to_and_private() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("log");
    for _ in 0..2 {
        let file = Box::leak(Box::new(open_log(&path).expect("opened")));
        LogSink::File(file).write_all(b"line\n").expect("written");
    }
    assert_eq!(std::fs::read_to_string(&path).expect("read"), "line\nline\n");
    let mode = std::fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
