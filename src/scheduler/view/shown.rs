//! The task stream as an answer. Owns what of it is copied out of the driver, and the JSON that is made of
//! that by the session of who asked: of 100,000 rectangles that takes longer than the driver may.

use super::spans::{LANE_MAX, NONE, Row, Stream};
use crate::base::ids::{FamilyIx, RunId, TaskRef};
use crate::graph::Packed;
use crate::graph::layer::Shape;
use crate::protocol::messages::look::SpanKind;
use crate::scheduler::driver::Driver;
use rustc_hash::FxHashMap;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// What a task's key is made of: the number of the graph, and the place in it.
#[derive(Clone, Copy, Debug)]
struct Named {
    graph: u32,
    family: FamilyIx,
    element: u32,
    shape: Shape,
}

/// Rectangles and all that their names need.
#[derive(Debug)]
pub(in crate::scheduler) struct Shown {
    now_ns: u64,
    next: u64,
    left_out: u64,
    workers: Vec<Arc<str>>,
    groups: Vec<Arc<str>>,
    graphs: Vec<Arc<Packed>>,
    rows: Vec<(Row, Option<Named>)>,
    /// Of what has not ended.
    open: Vec<(Row, Option<Named>)>,
}

/// Finds what tasks' keys are made of.
struct Finder<'a> {
    driver: &'a Driver,
    graphs: Vec<Arc<Packed>>,
    numbers: FxHashMap<RunId, Option<u32>>,
}

impl Finder<'_> {
    fn graph(&mut self, run: RunId) -> Option<u32> {
        let (driver, graphs) = (self.driver, &mut self.graphs);
        *self.numbers.entry(run).or_insert_with(|| {
            graphs.push(Arc::clone(&driver.runs.get(run)?.info.graph));
            Some(graphs.len() as u32 - 1)
        })
    }

    fn find(&mut self, task: TaskRef) -> Option<Named> {
        let (family, element) = self.driver.core.locate(task)?;
        let alone = Shape { total: element.saturating_add(1), first_export: 0 };
        let shape = self.driver.core.shape(task.run, family).unwrap_or(alone);
        Some(Named { graph: self.graph(task.run)?, family, element, shape })
    }
}

impl Shown {
    /// Copies these rows, and those of tasks that have not ended.
    pub(super) fn of(driver: &Driver, stream: &Stream, rows: Vec<&Row>, open: Vec<Row>, now_ns: u64) -> Self {
        let mut finder = Finder { driver, graphs: Vec::new(), numbers: FxHashMap::default() };
        let mut named = |row: Row| (row, finder.find(row.task));
        let rows = rows.into_iter().map(|row| named(*row)).collect();
        let open = open.into_iter().map(named).collect();
        let (workers, groups) = stream.names();
        let (next, left_out) = stream.numbers();
        Shown { now_ns, next, left_out, workers, groups, graphs: finder.graphs, rows, open }
    }

    /// About how long the JSON will be, bytes.
    pub(super) fn bytes(&self) -> usize {
        let names: usize = self.workers.iter().chain(&self.groups).map(|name| name.len() + 4).sum();
        1000 + names + 120 * (self.rows.len() + self.open.len())
    }

    /// The answer.
    pub(super) fn json(&self) -> Value {
        let names = |names: &[Arc<str>]| names.iter().map(|name| json!(**name)).collect::<Vec<Value>>();
        let mut answer = self.columns(&self.rows);
        answer["next"] = json!(self.next);
        answer["left-out"] = json!(self.left_out);
        answer["time"] = json!(seconds(self.now_ns));
        answer["workers"] = json!(names(&self.workers));
        answer["groups"] = json!(names(&self.groups));
        answer["kinds"] = json!(SpanKind::ALL.map(SpanKind::name));
        answer["open"] = self.columns(&self.open);
        answer
    }

    fn columns(&self, rows: &[(Row, Option<Named>)]) -> Value {
        let number = |n: u32| if n == NONE { json!(-1) } else { json!(n) };
        let key = |named: &Option<Named>| match named {
            Some(Named { graph, family, element, shape }) => {
                Value::String(self.graphs[*graph as usize].key(*family, *element, *shape))
            }
            None => Value::Null,
        };
        let column = |of: &dyn Fn(&Row) -> Value| rows.iter().map(|(row, _)| of(row)).collect::<Vec<Value>>();
        json!({
            "worker": column(&|row| number(row.worker)),
            "lane": column(&|row| json!(row.lane & LANE_MAX)),
            "kind": column(&|row| json!(row.lane >> 24)),
            "group": column(&|row| number(row.group)),
            "key": rows.iter().map(|(_, named)| key(named)).collect::<Vec<Value>>(),
            "count": column(&|row| json!(row.count)),
            "start": column(&|row| json!(seconds(row.start_ns))),
            "seconds": column(&|row| json!(seconds(row.ns))),
            "bytes": column(&|row| json!(row.bytes)),
        })
    }
}

fn seconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64()
}
