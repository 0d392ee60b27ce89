//! The end of this process's own log, for those who ask for it from elsewhere. Owns the text and its bound;
//! who writes the log hands each line over, and somebody else may keep it besides.

use std::collections::VecDeque;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Bytes that are kept.
pub const BYTES_MAX: usize = 1 << 20;

/// Bytes of a line that are kept.
const LINE_MAX: usize = 16 << 10;

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<String>,
    bytes: usize,
    /// Bytes of lines that are not kept any more.
    before: u64,
}

impl Kept {
    fn push(&mut self, line: String) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.bytes > BYTES_MAX
            && let Some(first) = self.lines.pop_front()
        {
            self.bytes -= first.len();
            self.before += first.len() as u64;
        }
    }

    fn last(&self, bytes: u64) -> (String, u64) {
        let mut size = 0;
        let fits = |line: &&String| {
            size += line.len() as u64;
            size <= bytes
        };
        let n = self.lines.iter().rev().take_while(fits).count();
        let begin = self.lines.len() - n;
        let left_out = self.lines.iter().take(begin).map(|line| line.len() as u64).sum::<u64>();
        (self.lines.range(begin..).map(String::as_str).collect(), self.before + left_out)
    }
}

static KEPT: Mutex<Kept> = Mutex::new(Kept { lines: VecDeque::new(), bytes: 0, before: 0 });

type Also = Box<dyn Fn(&str) + Send + Sync>;

static ALSO: OnceLock<Also> = OnceLock::new();

/// Keeps a line of the log. What only colours it is left out.
pub fn push(line: &[u8]) {
    let line = plain(&line[..line.len().min(LINE_MAX)]);
    if let Some(also) = ALSO.get() {
        also(&line);
    }
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(line);
}

/// Whole lines at the end of the log, no more than `bytes`, and how many bytes came before them.
pub fn last(bytes: u64) -> (String, u64) {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).last(bytes)
}

/// Gives each line to somebody else as well, those first that are kept already. Once per process.
pub fn also(keep: impl Fn(&str) + Send + Sync + 'static) {
    for line in &KEPT.lock().unwrap_or_else(PoisonError::into_inner).lines {
        keep(line);
    }
    // A second one would be told nothing.
    let _ = ALSO.set(Box::new(keep));
}

/// Text without the escapes by which a terminal shows colours, and with an end.
fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut plain = String::with_capacity(text.len());
    let mut parts = text.split("\u{1b}[");
    plain.extend(parts.next());
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit() && c != ';').map_or(part.len(), |at| at + 1);
        plain.extend(part.get(end..));
    }
    if !plain.ends_with('\n') {
        plain.push('\n');
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_in_whole_lines() {
        let mut kept = Kept::default();
        (0..100_000).for_each(|n| kept.push(format!("line number {n:08}\n")));
        let (text, left_out) = kept.last(50);
        assert_eq!(text, "line number 00099998\nline number 00099999\n");
        assert_eq!(left_out + text.len() as u64, 100_000 * 21);
        let (all, left_out) = kept.last(u64::MAX);
        assert!(all.len() <= BYTES_MAX && all.len() > BYTES_MAX - 21);
        assert_eq!(left_out + all.len() as u64, 100_000 * 21);
        assert_eq!(kept.last(5), (String::new(), 100_000 * 21));
    }

    #[test]
    fn colours_are_left_out() {
        assert_eq!(plain(b"\x1b[2m12:00\x1b[0m \x1b[1;32m INFO\x1b[0m x [1m\n"), "12:00  INFO x [1m\n");
        assert_eq!(plain(b"\x1b["), "\n");
    }
}
