//! What `doctor` says: findings with a level, in the order in which they were made, and their forms for
//! people and for scripts. Owns the names in the JSON; what is found is the other files' business.

use crate::base::error::Kind;
use crate::cli::output::harmless;
use serde::Serialize;
use serde_json::Value;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// It will work, but slowly, or not always.
    Warning,
    /// It will not work.
    Problem,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Problem => "problem",
        }
    }
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Area {
    /// The batch system, and the job that this is.
    Batch,
    /// Processors, resource limits, kernel.
    System,
    /// The memory limit.
    Memory,
    /// Interfaces and the scheduler.
    Network,
    /// Directories.
    Files,
    /// Clusters in the state directory.
    Clusters,
}

impl Area {
    fn heading(self) -> &'static str {
        match self {
            Area::Batch => "Batch system",
            Area::System => "Processors, limits and kernel",
            Area::Memory => "Memory",
            Area::Network => "Network",
            Area::Files => "Directories",
            Area::Clusters => "Your clusters",
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What it is about.
    pub area: Area,
    /// How much it matters.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What to change; for warnings and problems.
    #[serde(rename = "do", skip_serializing_if = "Option::is_none")]
    pub todo: Option<String>,
}

/// The findings about one area.
#[derive(Clone, Debug)]
pub(super) struct Findings {
    area: Area,
    /// In the order in which they were made.
    pub list: Vec<Finding>,
}

impl Findings {
    /// None yet.
    pub fn new(area: Area) -> Findings {
        Findings { area, list: Vec::new() }
    }

    /// As it should be.
    pub fn ok(&mut self, text: impl Into<String>) {
        self.add(Level::Ok, text.into(), None);
    }

    /// Worth knowing.
    pub fn note(&mut self, text: impl Into<String>) {
        self.add(Level::Note, text.into(), None);
    }

    /// What may go wrong, and what to do about it.
    pub fn warning(&mut self, text: impl Into<String>, todo: impl Into<String>) {
        self.add(Level::Warning, text.into(), Some(todo.into()));
    }

    /// What will go wrong, and what to do about it.
    pub fn problem(&mut self, text: impl Into<String>, todo: impl Into<String>) {
        self.add(Level::Problem, text.into(), Some(todo.into()));
    }

    fn add(&mut self, level: Level, text: String, todo: Option<String>) {
        self.list.push(Finding { area: self.area, level, text, todo });
    }

    /// The level that matters most.
    #[cfg(test)]
    pub fn level(&self) -> Level {
        level(&self.list)
    }
}

/// The level that matters most.
fn level(findings: &[Finding]) -> Level {
    findings.iter().map(|f| f.level).max().unwrap_or(Level::Ok)
}

/// All that was found on a host.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// The host.
    pub host: String,
    /// The level that matters most.
    level: Level,
    /// What was found.
    findings: Vec<Finding>,
    /// What was read, by area.
    readings: Value,
}

impl Report {
    /// Of findings, and what they were judged from.
    pub fn new(host: String, all: Vec<Findings>, readings: Value) -> Report {
        let findings: Vec<Finding> = all.into_iter().flat_map(|f| f.list).collect();
        Report { host, level: level(&findings), findings, readings }
    }

    /// What the command ends with.
    pub fn exit_code(&self) -> u8 {
        if self.level == Level::Problem { Kind::Unfit.exit_code() } else { 0 }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("hpcdag {} on {}\n", env!("CARGO_PKG_VERSION"), self.host);
        let mut area = None;
        for finding in &self.findings {
            if area != Some(finding.area) {
                text += &format!("\n{}\n", finding.area.heading());
                area = Some(finding.area);
            }
            text += &format!("  {:<8} {}\n", finding.level.word(), harmless(&finding.text));
            if let Some(todo) = &finding.todo {
                text += &format!("           do: {}\n", harmless(todo));
            }
        }
        let count = |level| self.findings.iter().filter(|f| f.level == level).count();
        let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
        text + &format!("\nproblems: {problems}, warnings: {warnings}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides() {
        let mut system = Findings::new(Area::System);
        system.ok("fine");
        system.warning("slow", "buy a faster one");
        let report = |all: &[&Findings]| {
            Report::new("h".into(), all.iter().map(|f| (*f).clone()).collect(), Value::Null)
        };
        assert_eq!((system.level(), report(&[&system]).exit_code()), (Level::Warning, 0));
        let mut files = Findings::new(Area::Files);
        files.problem("full", "remove something");
        let report = report(&[&system, &files]);
        assert_eq!(report.exit_code(), 12);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["level"], "problem");
        assert_eq!(json["findings"][1]["do"], "buy a faster one");
        assert_eq!(json["findings"][0].get("do"), None);
        let text = report.text();
        assert!(text.contains("  warning  slow\n           do: buy"), "{text}");
        assert!(
            text.contains("\nDirectories\n  problem  full") && text.ends_with("problems: 1, warnings: 1\n")
        );
    }
}
