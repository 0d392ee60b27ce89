//! What `top` has been told of the cluster: the last answers, and the rectangles of the task stream. Owns
//! what is asked for each page and what is kept of the answers; draws nothing.

use super::state::{Listed, Page, Screen};
use crate::base::error::Error;
use crate::base::ids::RunUuid;
use crate::cli::figures::{line, list};
use crate::protocol::messages::client::Question;
use crate::protocol::messages::look::{SpanKind, TaskFilter, View};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};

/// Rectangles that are kept.
const SPANS_MAX: usize = 60_000;

/// Rectangles that are asked for at once.
const SPANS_ASKED: u32 = 20_000;

/// Events that are kept.
const EVENTS_MAX: usize = 1_000;

/// Tasks that are listed.
const TASKS_ASKED: u32 = 200;

/// A rectangle of the task stream.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rectangle {
    /// Seconds since 1970.
    pub start: f64,
    /// When it ended.
    pub end: f64,
    /// What it shows.
    pub kind: SpanKind,
    /// The group's number here.
    pub group: Option<usize>,
}

/// A worker and its lane.
type Place = (String, u64);

/// The rows of the task stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    /// Where the next answer begins.
    next: u64,
    /// Names of groups, by their number here.
    pub groups: Vec<String>,
    numbers: BTreeMap<String, usize>,
    /// By worker and lane.
    pub rows: BTreeMap<Place, VecDeque<Rectangle>>,
    /// What has not ended, of these rows.
    pub open: BTreeMap<Place, Rectangle>,
    count: usize,
    /// The latest end.
    pub latest: f64,
    /// Rectangles that nobody has because there were too many.
    pub left_out: u64,
}

/// The rectangles of an answer, or of its part about what has not ended. What makes no sense is passed over.
fn rectangles(
    part: &Value,
    workers: &[String],
    kinds: &[String],
    groups: &[usize],
) -> Vec<(Place, Rectangle)> {
    let index = |column: &str, k: usize| part[column][k].as_u64().and_then(|n| usize::try_from(n).ok());
    let float = |column: &str, k: usize| part[column][k].as_f64().filter(|n| n.is_finite());
    let one = |k: usize| {
        let word = kinds.get(index("kind", k)?)?;
        let kind = SpanKind::ALL.into_iter().find(|kind| kind.name() == word)?;
        let worker = workers.get(index("worker", k)?)?;
        let (start, seconds) = (float("start", k)?, float("seconds", k)?);
        let group = index("group", k).and_then(|n| groups.get(n)).copied();
        let lane = part["lane"][k].as_u64().unwrap_or(0);
        Some(((worker.clone(), lane), Rectangle { start, end: start + seconds.max(0.0), kind, group }))
    };
    (0..list(&part["start"]).len()).filter_map(one).collect()
}

impl Stream {
    fn group(&mut self, name: &str) -> usize {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        self.groups.push(name.to_owned());
        self.numbers.insert(name.to_owned(), self.groups.len() - 1);
        self.groups.len() - 1
    }

    /// Adds an answer.
    pub fn add(&mut self, answer: &Value) {
        let next = answer["next"].as_u64().unwrap_or(0);
        if next < self.next {
            // Another scheduler, or one that was started anew.
            *self = Stream::default();
        }
        self.next = next;
        self.left_out = self.left_out.max(answer["left-out"].as_u64().unwrap_or(0));
        let words = |name: &str| -> Vec<String> {
            list(&answer[name]).iter().map(|w| line(w.as_str().unwrap_or_default())).collect()
        };
        let (workers, kinds) = (words("workers"), words("kinds"));
        let groups: Vec<usize> = words("groups").iter().map(|name| self.group(name)).collect();
        for (place, r) in rectangles(answer, &workers, &kinds, &groups) {
            self.latest = self.latest.max(r.end);
            self.rows.entry(place).or_default().push_back(r);
            self.count += 1;
        }
        self.open.clear();
        for (place, r) in rectangles(&answer["open"], &workers, &kinds, &groups) {
            self.rows.entry(place.clone()).or_default();
            self.open.insert(place, r);
        }
        self.forget();
    }

    /// Drops the oldest of the fullest rows.
    fn forget(&mut self) {
        while self.count > SPANS_MAX {
            let fullest = self.rows.values_mut().max_by_key(|row| row.len());
            let Some(row) = fullest else { return };
            let some = (self.count - SPANS_MAX).min(row.len().div_ceil(4)).max(1);
            row.drain(..some.min(row.len()));
            self.count -= some;
        }
    }
}

/// Which answer an answer is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Slot {
    Overview,
    /// Of a run or of all.
    Groups(Option<RunUuid>),
    Tasks(Option<RunUuid>, Listed),
    Spans,
    Events,
}

/// What is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Data {
    pub overview: Value,
    pub groups: Value,
    groups_of: Option<RunUuid>,
    pub tasks: Value,
    /// What `tasks` lists.
    pub tasks_of: Option<(Option<RunUuid>, Listed)>,
    pub stream: Stream,
    /// Newest last.
    pub events: VecDeque<Value>,
    next_event: u64,
    /// Why the last question was not answered.
    pub trouble: Option<String>,
}

impl Data {
    /// What a screen needs to be told, besides what it has been told.
    pub fn questions(&self, screen: &Screen) -> Vec<(Slot, Question)> {
        let view = |slot, view| (slot, Question::View(view));
        let run = screen.run.as_ref().map(|(run, _)| *run);
        let mut all = vec![view(Slot::Overview, View::Overview)];
        match (screen.page, &screen.listed) {
            (Page::Overview | Page::Workers, _) => {}
            (Page::Tasks, Listed::Groups) => all.push(view(Slot::Groups(run), View::Groups { run })),
            (Page::Tasks, listed) => {
                let mut filter = TaskFilter { run, limit: TASKS_ASKED, ..TaskFilter::default() };
                match listed {
                    Listed::Group(name) => filter.group = Some(name.clone()),
                    _ => filter.state = Some("erred".into()),
                }
                all.push(view(Slot::Tasks(run, listed.clone()), View::Tasks(filter)));
            }
            (Page::Stream, _) => {
                let after = self.stream.next;
                all.push(view(Slot::Spans, View::Spans { after, limit: SPANS_ASKED, run: None }));
            }
            (Page::Events, _) => {
                let (after, limit) = (self.next_event, EVENTS_MAX as u32);
                all.push(view(Slot::Events, View::Events { after, limit }));
            }
        }
        all
    }

    /// Takes an answer.
    pub fn take(&mut self, slot: Slot, answer: Result<Value, Error>) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.trouble = Some(line(&error.message));
                return;
            }
        };
        match slot {
            Slot::Overview => {
                self.trouble = None;
                self.overview = answer;
            }
            Slot::Groups(run) => (self.groups, self.groups_of) = (answer, run),
            Slot::Tasks(run, listed) => (self.tasks, self.tasks_of) = (answer, Some((run, listed))),
            Slot::Spans => self.stream.add(&answer),
            Slot::Events => self.add_events(&answer),
        }
    }

    fn add_events(&mut self, answer: &Value) {
        let next = answer["next"].as_u64().unwrap_or(0);
        if next < self.next_event {
            self.events.clear();
        }
        self.next_event = next;
        self.events.extend(list(&answer["events"]).iter().cloned());
        let over = self.events.len().saturating_sub(EVENTS_MAX);
        self.events.drain(..over);
    }

    /// The groups that the screen lists, those with work first, then by name.
    pub fn groups(&self, screen: &Screen) -> Vec<&Value> {
        if self.groups_of != screen.run.as_ref().map(|(run, _)| *run) {
            return Vec::new();
        }
        let mut groups: Vec<&Value> = list(&self.groups["groups"]).iter().collect();
        let key = |g: &Value| {
            let open = g["total"].as_u64().unwrap_or(0).saturating_sub(g["done"].as_u64().unwrap_or(0));
            (open == 0, g["name"].as_str().unwrap_or_default().to_owned())
        };
        groups.sort_by_cached_key(|g| key(g));
        groups
    }

    /// The tasks that the screen lists, if they have come.
    pub fn tasks(&self, screen: &Screen) -> &[Value] {
        if self.has_tasks(screen) { list(&self.tasks["tasks"]) } else { &[] }
    }

    /// Whether they have come.
    pub fn has_tasks(&self, screen: &Screen) -> bool {
        let run = screen.run.as_ref().map(|(run, _)| *run);
        self.tasks_of.as_ref().is_some_and(|(of, listed)| (of, listed) == (&run, &screen.listed))
    }

    /// How many rows a screen can choose from.
    pub fn rows(&self, screen: &Screen) -> usize {
        match (screen.page, &screen.listed) {
            (Page::Overview, _) => list(&self.overview["runs"]).len(),
            (Page::Workers, _) => list(&self.overview["workers"]).len(),
            (Page::Tasks, Listed::Groups) => self.groups(screen).len(),
            (Page::Tasks, _) => self.tasks(screen).len(),
            (Page::Stream, _) => self.stream.rows.len(),
            (Page::Events, _) => self.events.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Kind;
    use serde_json::json;

    fn spans(next: u64, workers: &[&str], start: f64, n: usize) -> Value {
        json!({ "next": next, "left-out": 0, "workers": workers, "groups": ["day", "sum"],
            "kinds": ["compute", "failed", "fetch", "spill-write", "spill-read", "wait"],
            "worker": vec![0; n], "lane": vec![1; n], "kind": vec![0; n], "group": vec![1; n],
            "key": vec![Value::Null; n], "count": vec![1; n], "bytes": vec![0; n], "seconds": vec![0.5; n],
            "start": (0..n).map(|k| start + k as f64).collect::<Vec<_>>() })
    }

    #[test]
    fn rectangles_keep_their_group_whatever_its_number_in_the_answer() {
        let mut stream = Stream::default();
        stream.add(&spans(2, &["w1"], 10.0, 2));
        let mut second = spans(3, &["w2", "w1"], 20.0, 1);
        second["groups"] = json!(["new", "day"]);
        second["worker"] = json!([1]);
        stream.add(&second);
        let row = &stream.rows[&("w1".to_owned(), 1)];
        let names: Vec<&str> = row.iter().map(|r| stream.groups[r.group.unwrap()].as_str()).collect();
        assert_eq!((names, stream.latest, stream.rows.len()), (vec!["sum", "sum", "day"], 20.5, 1));
    }

    #[test]
    fn what_makes_no_sense_is_passed_over_and_a_new_scheduler_begins_anew() {
        let mut stream = Stream::default();
        let mut bad = spans(9, &["w1"], 1.0, 3);
        bad["kind"] = json!([99, -1, "x"]);
        stream.add(&bad);
        stream.add(&json!({ "next": 9, "start": [1], "worker": "no list" }));
        assert!(stream.rows.is_empty());
        stream.add(&spans(10, &["w1"], 1.0, 3));
        stream.add(&spans(1, &["w9"], 1.0, 1));
        assert_eq!(stream.rows.keys().map(|(w, _)| w.as_str()).collect::<Vec<_>>(), ["w9"]);
    }

    #[test]
    fn what_has_not_ended_is_what_the_last_answer_says() {
        let mut stream = Stream::default();
        let mut answer = spans(2, &["w1"], 10.0, 2);
        answer["open"] = spans(0, &[], 12.0, 1);
        answer["open"]["lane"] = json!([7]);
        stream.add(&answer);
        let place = ("w1".to_owned(), 7);
        assert_eq!((stream.open[&place].start, stream.rows[&place].len(), stream.count), (12.0, 0, 2));
        stream.add(&spans(2, &["w1"], 14.0, 0));
        assert!(stream.open.is_empty());
    }

    #[test]
    fn the_stream_is_bounded() {
        let mut stream = Stream::default();
        for k in 0..5 {
            stream.add(&spans(k, &["w1"], k as f64 * 1e6, SPANS_MAX / 4));
        }
        let kept: usize = stream.rows.values().map(VecDeque::len).sum();
        assert_eq!((kept, stream.count), (SPANS_MAX, SPANS_MAX));
        assert!(stream.rows.values().next().unwrap()[0].start > 0.0, "the oldest went");
    }

    #[test]
    fn pages_ask_for_what_they_show_only() {
        let (mut data, mut screen) = (Data::default(), Screen::new());
        assert_eq!(data.questions(&screen).len(), 1);
        screen.page = Page::Events;
        data.take(Slot::Events, Ok(json!({ "next": 17, "events": [{ "number": 16 }] })));
        let asked = data.questions(&screen);
        assert_eq!(asked[1].1, Question::View(View::Events { after: 17, limit: 1000 }));
        assert_eq!(data.rows(&screen), 1);
        screen.page = Page::Tasks;
        screen.listed = Listed::Failed;
        data.take(Slot::Tasks(None, Listed::Group("a".into())), Ok(json!({ "tasks": [{}, {}] })));
        assert_eq!(data.rows(&screen), 0, "these are not those that are listed now");
        screen.run = Some((RunUuid::from_u128(7), "days".into()));
        let filter = |asked: Vec<(Slot, Question)>| match asked.into_iter().nth(1) {
            Some((_, Question::View(View::Tasks(filter)))) => filter.run,
            Some((_, Question::View(View::Groups { run }))) => run,
            other => panic!("{other:?}"),
        };
        assert_eq!(filter(data.questions(&screen)), Some(RunUuid::from_u128(7)));
        screen.listed = Listed::Groups;
        assert_eq!(filter(data.questions(&screen)), Some(RunUuid::from_u128(7)));
        data.take(Slot::Groups(None), Ok(json!({ "groups": [{}] })));
        assert_eq!(data.rows(&screen), 0, "these are of all runs");
        data.take(Slot::Overview, Err(Error::new(Kind::Timeout, "no\u{1b}answer")));
        assert_eq!(data.trouble.as_deref(), Some("no\\u{1b}answer"));
        data.take(Slot::Overview, Ok(json!({})));
        assert_eq!(data.trouble, None);
    }
}
