//! Faults in graph files, shown with the line they are on. Owns the rendering; what is wrong is said by those
//! who find it.

use crate::base::error::{Error, Kind};
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::ops::Range;

/// A text with the name that people know it by.
#[derive(Clone, Debug)]
pub struct Source {
    /// Path as the user wrote it.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where, bytes of the source.
    pub span: Range<usize>,
    /// What is wrong: a lower-case sentence.
    pub message: String,
    /// What was expected there; stands beside the caret.
    pub label: String,
    /// A second place that matters and what it is.
    pub other: Option<(Range<usize>, String)>,
}

/// How many faults are shown at once.
const SHOWN: usize = 10;

impl Diagnostic {
    /// A fault at a place.
    pub fn new(span: &Range<usize>, message: impl Into<String>, label: impl Into<String>) -> Diagnostic {
        Diagnostic { span: span.clone(), message: message.into(), label: label.into(), other: None }
    }

    /// The same with a second place.
    pub fn other(mut self, span: &Range<usize>, label: impl Into<String>) -> Diagnostic {
        self.other = Some((span.clone(), label.into()));
        self
    }

    /// The fault with file, line, column, the line itself and a caret.
    pub fn render(&self, source: &Source) -> String {
        let mut snippet = Snippet::source(source.text.as_str())
            .path(source.name.as_str())
            .annotation(AnnotationKind::Primary.span(source.one_line(&self.span)).label(self.label.as_str()));
        if let Some((span, label)) = &self.other {
            snippet =
                snippet.annotation(AnnotationKind::Context.span(source.one_line(span)).label(label.as_str()));
        }
        let text = Renderer::plain().render(&[Level::ERROR.primary_title(&self.message).element(snippet)]);
        let text: Vec<&str> = text.lines().map(str::trim_end).collect();
        text.join("\n").trim_start_matches("error: ").to_string()
    }
}

impl Source {
    /// The part of a span that is on its first line: what spans a table would mark half the file.
    fn one_line(&self, span: &Range<usize>) -> Range<usize> {
        let end = span.end.min(self.text.len());
        let start = span.start.min(end);
        let line = self.text.get(start..end).and_then(|t| t.find('\n'));
        start..line.map_or(end, |n| start + n)
    }

    /// The error that shows all faults, in the order of the file.
    pub fn error(&self, mut faults: Vec<Diagnostic>) -> Error {
        faults.sort_by_key(|f| f.span.start);
        faults.dedup();
        let mut blocks: Vec<String> = faults.iter().take(SHOWN).map(|f| f.render(self)).collect();
        if faults.len() > SHOWN {
            blocks.push(format!("and {} more errors in {}", faults.len() - SHOWN, self.name));
        }
        Error::new(Kind::Graph, blocks.join("\n\n"))
    }
}
