//! The error that reaches the user, and the table of exit codes. Owns the kinds and their codes; the words
//! come from whoever found the fault.

use std::fmt;

/// What went wrong, as far as scripts need to tell apart. Each kind has its own exit code, kept for ever;
/// `docs/exit-codes.md` is the user's copy of this table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something failed that should not: a fault in hpcdag or an operating system error without a better
    /// name.
    Internal,
    /// The command line is wrong.
    Usage,
    /// At least one task of the graph failed.
    TasksFailed,
    /// The graph file is wrong.
    Graph,
    /// The configuration is wrong.
    Config,
    /// No scheduler was found or none answers.
    NoScheduler,
    /// The other side was reached and refused: credentials, version, cluster.
    Refused,
    /// A wait ended without what was waited for.
    Timeout,
    /// The thing named does not exist: a key, a run, a worker.
    NotFound,
    /// A file could not be read or written.
    File,
    /// A batch system or a program that hpcdag calls refused or failed.
    Launch,
    /// `doctor` found a problem, or a benchmark is worse than its record.
    Unfit,
    /// Interrupted by the user or cancelled.
    Cancelled,
}

impl Kind {
    /// All kinds, in the order of their exit codes.
    pub const ALL: [Kind; 13] = [
        Kind::Internal,
        Kind::Usage,
        Kind::TasksFailed,
        Kind::Graph,
        Kind::Config,
        Kind::NoScheduler,
        Kind::Refused,
        Kind::Timeout,
        Kind::NotFound,
        Kind::File,
        Kind::Launch,
        Kind::Unfit,
        Kind::Cancelled,
    ];

    /// The process's exit code for an error of this kind.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Internal => 1,
            Kind::Usage => 2,
            Kind::TasksFailed => 3,
            Kind::Graph => 4,
            Kind::Config => 5,
            Kind::NoScheduler => 6,
            Kind::Refused => 7,
            Kind::Timeout => 8,
            Kind::NotFound => 9,
            Kind::File => 10,
            Kind::Launch => 11,
            Kind::Unfit => 12,
            Kind::Cancelled => 130,
        }
    }
}

/// An error for the user: what happened, in one sentence, and what to do about it where that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The kind, which gives the exit code.
    pub kind: Kind,
    /// What happened. A lower-case sentence without a full stop; may have several lines (a diagnostic).
    pub message: String,
    /// What the user can do.
    pub hint: Option<String>,
}

/// A result with the user's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of a kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), hint: None }
    }

    /// The same with advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// A file that could not be used: `what` says what was tried, e.g. `cannot read`.
    pub fn file(what: &str, path: &std::path::Path, error: &std::io::Error) -> Error {
        use std::io::ErrorKind;
        let fault = Error::new(Kind::File, format!("{what} {}: {error}", path.display()));
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => fault.hint(
                "the file system is full, or your quota on it is used up: make room, or name a place \
                 elsewhere (XDG_STATE_HOME for what hpcdag keeps about clusters)",
            ),
            _ => fault,
        }
    }

    /// An operating system error in something that is not about a named file.
    pub fn os(what: &str, error: impl fmt::Display) -> Error {
        Error::new(Kind::Internal, format!("{what}: {error}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_differ() {
        let mut codes: Vec<u8> = Kind::ALL.iter().map(|k| k.exit_code()).collect();
        codes.dedup();
        assert_eq!(codes.len(), Kind::ALL.len());
        assert!(codes.is_sorted());
    }
}
