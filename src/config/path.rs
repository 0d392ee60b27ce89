//! Paths with variables in them: `$VAR`, `${VAR}`, a leading `~`, `{job-id}`, `{host}`. Owns the syntax; who
//! expands says where the values come from.

use crate::base::error::{Error, Kind, Result};
use std::fmt;
use std::path::PathBuf;

/// A path as written, checked but not expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    text: String,
}

enum Piece<'a> {
    Plain(&'a str),
    Variable(&'a str),
    Word(&'a str),
}

impl PathTemplate {
    /// Checks a path. Fails if a brace is not closed or names anything but `{job-id}` and `{host}`.
    pub fn new(text: impl Into<String>) -> Result<PathTemplate> {
        let template = PathTemplate { text: text.into() };
        template.pieces()?;
        Ok(template)
    }

    /// The path with all variables replaced. `variable` looks up the environment, `job_id` is the batch
    /// job's. Fails if something that the path names is unknown here.
    pub fn expand(
        &self,
        variable: &dyn Fn(&str) -> Option<String>,
        job_id: Option<&str>,
        host: &str,
    ) -> Result<PathBuf> {
        let lacks = |what: String| {
            Error::new(Kind::Config, format!("cannot expand the path '{}': {what}", self.text))
        };
        let mut path = String::new();
        for piece in self.pieces()? {
            match piece {
                Piece::Plain(text) => path.push_str(text),
                Piece::Variable(name) => {
                    let value = variable(name).filter(|value| !value.is_empty());
                    path.push_str(&value.ok_or_else(|| lacks(format!("${name} is not set")))?);
                }
                Piece::Word("host") => path.push_str(host),
                Piece::Word(_) => {
                    path.push_str(job_id.ok_or_else(|| lacks("this is not inside a batch job".into()))?)
                }
            }
        }
        Ok(PathBuf::from(path))
    }

    fn pieces(&self) -> Result<Vec<Piece<'_>>> {
        let wrong = |what: String| Error::new(Kind::Config, format!("the path '{}' {what}", self.text));
        let mut pieces = Vec::new();
        let mut rest = self.text.as_str();
        if let Some(after) = rest.strip_prefix('~') {
            if !after.is_empty() && !after.starts_with('/') {
                return Err(wrong("names another user's home; only a plain ~ is understood".into()));
            }
            pieces.push(Piece::Variable("HOME"));
            rest = after;
        }
        while let Some(at) = rest.find(['$', '{', '}']) {
            pieces.push(Piece::Plain(&rest[..at]));
            let tail = &rest[at..];
            let braced = |open: &str| tail.strip_prefix(open).and_then(|inner| inner.split_once('}'));
            let (piece, after) = if let Some((name, after)) = braced("${") {
                (Piece::Variable(name), after)
            } else if let Some(plain) = tail.strip_prefix('$') {
                let end = plain.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(plain.len());
                (Piece::Variable(&plain[..end]), &plain[end..])
            } else if let Some((word @ ("job-id" | "host"), after)) = braced("{") {
                (Piece::Word(word), after)
            } else {
                return Err(wrong("has braces other than {job-id}, {host} and ${VARIABLE}".into()));
            };
            if let Piece::Variable(name) = piece
                && (name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
            {
                return Err(wrong("has a $ without a variable's name".into()));
            }
            pieces.push(piece);
            rest = after;
        }
        pieces.push(Piece::Plain(rest));
        Ok(pieces)
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> Result<PathBuf> {
        let variable = |name: &str| match name {
            "HOME" => Some("/home/ada".to_owned()),
            "SCRATCH" => Some("/scratch".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        PathTemplate::new(text)?.expand(&variable, Some("1234"), "n7")
    }

    #[test]
    fn expands() {
        for (text, path) in [
            ("/plain/path", "/plain/path"),
            ("~", "/home/ada"),
            ("~/x", "/home/ada/x"),
            ("/a~b", "/a~b"),
            ("$SCRATCH/{job-id}/{host}", "/scratch/1234/n7"),
            ("${SCRATCH}x", "/scratchx"),
        ] {
            assert_eq!(expand(text), Ok(PathBuf::from(path)), "{text}");
        }
    }

    #[test]
    fn refuses() {
        for (text, why) in [
            ("$NOPE/x", "$NOPE is not set"),
            ("$EMPTY/x", "$EMPTY is not set"),
            ("~bob/x", "another user"),
            ("/x/{pid}", "braces"),
            ("/x/{host", "braces"),
            ("/x}", "braces"),
            ("/x/$/y", "without a variable"),
            ("/x/${a b}", "without a variable"),
            ("/x/${", "without a variable"),
        ] {
            let error = expand(text).unwrap_err().message;
            assert!(error.contains(why), "{text}: {error}");
        }
        let template = PathTemplate::new("/x/{job-id}").unwrap();
        assert!(template.expand(&|_| None, None, "n7").unwrap_err().message.contains("batch job"));
    }
}
