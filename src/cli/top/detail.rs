//! What is behind a row of `top`: why a task is where it is and what it printed, or what a worker printed.
//! Owns what is asked for that, and the text.

use super::data::Data;
use super::state::{Act, Detail, Listed, Page, Screen};
use crate::base::error::Result;
use crate::base::ids::RunUuid;
use crate::cli::figures::{line, list, text};
use crate::cli::look::explain_text;
use crate::client::Client;
use crate::protocol::messages::client::Question;
use crate::protocol::messages::look::View;
use serde_json::Value;

/// How much of what was printed is asked for.
const PRINTED_MAX: u64 = 64 << 10;

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Task { key: String, run: Option<RunUuid> },
    Worker(String),
}

impl Wanted {
    fn title(&self) -> String {
        match self {
            Wanted::Task { key, .. } => line(key),
            Wanted::Worker(name) => line(name),
        }
    }

    /// Asks for it.
    pub async fn ask(&self, client: &Client) -> Detail {
        let logs = |of: &str, run| Question::View(View::Logs { of: of.to_owned(), run, bytes: PRINTED_MAX });
        let lines = match self {
            Wanted::Worker(name) => printed(client.ask(logs(name, None)).await),
            Wanted::Task { key, run } => {
                let question = |story: bool| match story {
                    false => Question::Explain { key: key.clone(), run: *run },
                    true => Question::Story { key: key.clone(), run: *run },
                };
                let (explained, story, logs) = tokio::join!(
                    client.ask(question(false)),
                    client.ask(question(true)),
                    client.ask(logs(key, *run))
                );
                let mut lines = explained_lines(explained);
                lines.extend(story_lines(story));
                lines.extend(printed(logs));
                lines
            }
        };
        Detail { title: self.title(), lines, top: 0 }
    }
}

/// What is behind the chosen row, and what is shown until it has come.
pub(super) fn behind(data: &Data, screen: &mut Screen) -> Option<(Wanted, Detail)> {
    let task = |value: &Value| {
        let run = value["run"].as_str().and_then(|run| run.parse().ok());
        Some(Wanted::Task { key: value["key"].as_str()?.to_owned(), run })
    };
    if screen.detail.is_some() {
        return None;
    }
    let chosen = screen.chosen();
    let wanted = match (screen.page, screen.listed.clone()) {
        (Page::Workers, _) => {
            let worker = list(&data.overview["workers"]).get(chosen)?;
            Wanted::Worker(worker["name"].as_str()?.to_owned())
        }
        (Page::Tasks, Listed::Groups) => {
            let name = data.groups(screen).get(chosen)?["name"].as_str()?.to_owned();
            let _: Act = screen.open_group(&name);
            return None;
        }
        (Page::Tasks, _) => task(data.tasks(screen).get(chosen)?)?,
        (Page::Events, _) => {
            let event = data.events.iter().rev().nth(chosen)?;
            task(event).or_else(|| Some(Wanted::Worker(event["worker"].as_str()?.to_owned())))?
        }
        (Page::Overview, _) => {
            let run = list(&data.overview["runs"]).get(chosen);
            // What a client has called is no run of its own.
            let known = run.and_then(|run| Some((run["id"].as_str()?.parse().ok()?, text(run, "name"))));
            let _: Act = screen.open_run(known);
            return None;
        }
        (Page::Stream, _) => return None,
    };
    let detail = Detail { title: wanted.title(), lines: vec!["asking the scheduler".into()], top: 0 };
    Some((wanted, detail))
}

/// Lines of a text of several.
fn lines_of(text: &str) -> impl Iterator<Item = String> {
    text.lines().map(|l| line(&l.replace('\t', "        ")))
}

fn explained_lines(answer: Result<Value>) -> Vec<String> {
    match answer {
        Ok(answer) => lines_of(&explain_text(&answer)).collect(),
        Err(error) => vec![line(&error.message)],
    }
}

fn story_lines(answer: Result<Value>) -> Vec<String> {
    let Ok(answer) = answer else { return Vec::new() };
    let records = list(&answer);
    if records.is_empty() {
        return Vec::new();
    }
    let one = |r: &Value| {
        // Only the time of the day: what is remembered is of today.
        let time = text(r, "time");
        let time = time.get(11..23).unwrap_or(&time).to_owned();
        format!(
            "  {time}  {} -> {}  {}  {}",
            text(r, "from"),
            text(r, "to"),
            text(r, "worker"),
            text(r, "cause")
        )
    };
    [String::new(), "what happened:".into()].into_iter().chain(records.iter().map(one)).collect()
}

/// What was printed.
fn printed(answer: Result<Value>) -> Vec<String> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            return vec![
                String::new(),
                format!("what it printed is not to be had: {}", line(&error.message)),
            ];
        }
    };
    let mut lines = Vec::new();
    for part in list(&answer["parts"]) {
        let text = part["text"].as_str().unwrap_or_default();
        if text.is_empty() {
            continue;
        }
        let left_out = part["left-out"].as_u64().unwrap_or(0);
        lines.push(String::new());
        lines.push(match left_out {
            0 => format!("{}:", line(part["name"].as_str().unwrap_or("output"))),
            n => format!(
                "{} (the end; {n} bytes before it are left out):",
                line(part["name"].as_str().unwrap_or("output"))
            ),
        });
        lines.extend(lines_of(text).map(|l| format!("  {l}")));
    }
    if lines.is_empty() { vec![String::new(), "it has printed nothing".into()] } else { lines }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::{Error, Kind};
    use serde_json::json;

    #[test]
    fn what_was_printed_is_shown_line_by_line_and_obeyed_by_nobody() {
        let answer = json!({ "parts": [
            { "name": "stdout", "text": "", "left-out": 0 },
            { "name": "stderr", "text": "a\tb\nred \u{1b}[31m\n", "left-out": 7 },
        ]});
        let lines = printed(Ok(answer));
        assert_eq!(lines[1], "stderr (the end; 7 bytes before it are left out):");
        assert_eq!(lines[2..], ["  a        b", "  red \\u{1b}[31m"]);
        assert_eq!(printed(Ok(json!({})))[1], "it has printed nothing");
        assert!(printed(Err(Error::new(Kind::NotFound, "gone")))[1].ends_with("gone"));
    }

    #[test]
    fn rows_lead_to_tasks_workers_and_groups() {
        let (mut data, mut screen) = (Data::default(), Screen::new());
        data.overview = json!({ "workers": [{ "name": "w1" }] });
        data.groups = json!({ "groups": [{ "name": "day", "total": 1, "done": 0 }] });
        screen.page = Page::Workers;
        assert_eq!(behind(&data, &mut screen).unwrap().0, Wanted::Worker("w1".into()));
        screen.page = Page::Tasks;
        assert_eq!(behind(&data, &mut screen), None);
        assert_eq!(screen.listed, Listed::Group("day".into()));
        data.tasks = json!({ "tasks": [{ "key": "day[0]", "run": "nonsense" }] });
        data.tasks_of = Some((None, screen.listed.clone()));
        let wanted = behind(&data, &mut screen).unwrap().0;
        assert_eq!(wanted, Wanted::Task { key: "day[0]".into(), run: None });
        screen.page = Page::Events;
        data.events = vec![json!({ "worker": "w1" }), json!({ "key": "x" })].into();
        let wanted = behind(&data, &mut screen).unwrap().0;
        assert_eq!(wanted, Wanted::Task { key: "x".into(), run: None }, "the newest is the first");
    }
}
