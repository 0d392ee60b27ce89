//! A terminal for tests: a pty with a program on it, and the screen as that program has drawn it. Owns as
//! much of a terminal as `top` needs: where the cursor goes, what is cleared, what is printed.

use crate::site::{Site, wait_until};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::{Termios, tcgetattr};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

/// A program on a terminal.
pub struct Terminal {
    child: Child,
    keys: File,
    slave: OwnedFd,
    before: Termios,
    screen: Arc<Mutex<Screen>>,
}

fn size(columns: u16, lines: u16) -> Winsize {
    Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Terminal {
    /// Starts the program with arguments on a terminal of this size.
    pub fn start(site: &Site, args: &[&str], columns: u16, lines: u16) -> Terminal {
        let OpenptyResult { master, slave } = openpty(Some(&size(columns, lines)), None).expect("a pty");
        let before = tcgetattr(&slave).expect("a terminal");
        let end = || Stdio::from(slave.try_clone().expect("a copy"));
        let mut command = site.command(args);
        command
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .env_remove("COLUMNS")
            .env_remove("LINES");
        command.stdin(end()).stdout(end()).stderr(end());
        // It is the terminal of a session of its own: only then is it told of another size, and only then is
        // it `/dev/tty`.
        let session = || {
            nix::unistd::setsid()?;
            // SAFETY: nothing but a call of the kernel.
            match unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: calls of the kernel only, between fork and exec.
        let child = unsafe { command.pre_exec(session) }.spawn().expect("it starts");
        let screen = Arc::new(Mutex::new(Screen::default()));
        let mut output = File::from(master.try_clone().expect("a copy"));
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end of the pty is an error on Linux.
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                shown.lock().unwrap().print(&buffer[..n]);
            }
        });
        Terminal { child, keys: File::from(master), slave, before, screen }
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal is there");
    }

    /// Changes the window's size.
    pub fn resize(&mut self, columns: u16, lines: u16) {
        let size = size(columns, lines);
        // SAFETY: the descriptor is a terminal's, and the structure lives.
        let set = unsafe { libc::ioctl(self.keys.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        assert_eq!(set, 0, "it has another size");
    }

    pub fn lines(&self) -> Vec<String> {
        self.screen.lock().unwrap().lines()
    }

    /// Waits until a line of the screen is such.
    pub fn wait(&self, what: &str, mut is_so: impl FnMut(&[String]) -> bool) {
        let mut last = Vec::new();
        let patience = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(what, || {
                last = self.lines();
                is_so(&last)
            });
        }));
        assert!(patience.is_ok(), "{what} is not on the screen:\n{}", last.join("\n"));
    }

    /// Waits until a text is on the screen.
    pub fn wait_for(&self, text: &str) {
        self.wait(text, |lines| lines.iter().any(|line| line.contains(text)));
    }

    /// Waits for the program's end; returns its exit code and whether the terminal is as it was.
    pub fn end(mut self) -> (Option<i32>, bool) {
        let mut code = None;
        wait_until("the program has ended", || {
            code = self.child.try_wait().expect("ours").map(|s| s.code());
            code.is_some()
        });
        let after = tcgetattr(&self.slave).expect("a terminal");
        let same =
            after.local_flags == self.before.local_flags && after.input_flags == self.before.input_flags;
        wait_until("the other screen is left", || !self.screen.lock().unwrap().other);
        (code.flatten(), same)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is drawn.
#[derive(Default)]
struct Screen {
    cells: BTreeMap<(usize, usize), char>,
    at: (usize, usize),
    /// Bytes of a sequence, or of a character, that has not ended.
    rest: Vec<u8>,
    /// The second screen is on.
    other: bool,
}

impl Screen {
    fn lines(&self) -> Vec<String> {
        let height = self.cells.keys().map(|(y, _)| y + 1).max().unwrap_or(0);
        let mut lines = vec![String::new(); height];
        for ((y, x), c) in &self.cells {
            let line = &mut lines[*y];
            let length = line.chars().count();
            line.extend(std::iter::repeat_n(' ', x.saturating_sub(length)));
            line.push(*c);
        }
        lines.iter().map(|l| l.trim_end().to_owned()).collect()
    }

    fn print(&mut self, bytes: &[u8]) {
        self.rest.extend(bytes);
        let valid = match std::str::from_utf8(&self.rest) {
            Ok(text) => text.len(),
            Err(e) => e.valid_up_to(),
        };
        let text = String::from_utf8_lossy(&self.rest[..valid]).into_owned();
        let mut rest = text.as_str();
        while let Some(c) = rest.chars().next() {
            if c == '\u{1b}' {
                let Some(end) = sequence_end(rest) else { break };
                self.obey(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            match c {
                '\r' => self.at.1 = 0,
                '\n' => self.at.0 += 1,
                c => {
                    self.cells.insert(self.at, c);
                    self.at.1 += 1;
                }
            }
            rest = &rest[c.len_utf8()..];
        }
        let done = text.len() - rest.len();
        self.rest.drain(..done);
    }

    fn obey(&mut self, sequence: &str) {
        let Some(body) = sequence.strip_prefix("\u{1b}[") else { return };
        let (arguments, last) = body.split_at(body.len() - 1);
        let number = |k: usize| arguments.split(';').nth(k).and_then(|n| n.parse().ok()).unwrap_or(1usize);
        match last {
            "H" => self.at = (number(0) - 1, number(1) - 1),
            "J" => self.cells.clear(),
            "h" | "l" if arguments == "?1049" => self.other = last == "h",
            _ => {}
        }
    }
}

/// Where an escape sequence at the start of a text ends, if it does.
fn sequence_end(text: &str) -> Option<usize> {
    let Some(body) = text.strip_prefix("\u{1b}[") else { return (text.len() >= 2).then_some(2) };
    body.find(|c: char| ('@'..='~').contains(&c)).map(|at| at + 3)
}

#[test]
fn the_terminal_of_these_tests_obeys() {
    let mut screen = Screen::default();
    screen.print(b"old\x1b[2J\x1b[?1049h\x1b[2;3Hab\x1b[38;5;1mc\x1b[1;1Hx\xe2\x94");
    screen.print(b"\x82\x1b[");
    screen.print(b"2;1Hy");
    assert_eq!((screen.lines(), screen.other), (vec!["x\u{2502}".to_owned(), "y abc".to_owned()], true));
}
