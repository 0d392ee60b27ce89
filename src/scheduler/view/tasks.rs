//! Single tasks that match what somebody looks for. Owns how far is looked, for whoever looks at tasks keeps
//! the scheduler from its work.

use crate::base::ids::{RunId, TaskRef};
use crate::protocol::messages::look::TaskFilter;
use crate::scheduler::core::look::{TaskRow, Wanted};
use crate::scheduler::core::state::State;
use crate::scheduler::driver::Driver;
use crate::scheduler::waits::Reply;
use serde_json::{Value, json};
use std::ops::ControlFlow;

/// Tasks in one answer.
const LIMIT_MAX: usize = 1000;

/// Tasks that are looked at for one answer.
const LOOKED_AT: usize = 200_000;

/// To read a key takes as long as to look at so many tasks.
const KEY_COST: usize = 4;

/// What has been found.
struct Found<'a> {
    filter: &'a TaskFilter,
    limit: usize,
    skip: u64,
    /// Found already, whatever comes.
    first: Option<TaskRef>,
    rows: Vec<(TaskRow, Option<String>)>,
    more: bool,
    budget: usize,
}

impl Found<'_> {
    fn take(&mut self, row: TaskRow, key: Option<String>) -> ControlFlow<()> {
        if self.skip > 0 {
            self.skip -= 1;
        } else if self.rows.len() < self.limit {
            self.rows.push((row, key));
        } else {
            self.more = true;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Takes a task if its key matches.
    fn consider(&mut self, driver: &Driver, row: TaskRow) -> ControlFlow<()> {
        if self.first == Some(row.task) {
            return ControlFlow::Continue(());
        }
        let Some(text) = &self.filter.text else { return self.take(row, None) };
        self.budget = self.budget.saturating_sub(KEY_COST);
        let key = driver.key(row.task);
        match key.contains(text.as_str()) {
            true => self.take(row, Some(key)),
            false => ControlFlow::Continue(()),
        }
    }
}

impl Driver {
    pub(super) fn view_tasks(&self, filter: &TaskFilter) -> Reply {
        let refused = |what: String| ("refused".to_string(), what);
        let run = self.run_asked(filter.run)?;
        let find = |name: &String| {
            let state = State::ALL.into_iter().find(|s| s.name() == name);
            state.ok_or_else(|| refused(format!("no state is called {}", name.escape_debug())))
        };
        let state = filter.state.as_ref().map(find).transpose()?;
        let wanted = Wanted { state, group: filter.group.as_deref() };
        let text = filter.text.as_deref().filter(|text| !text.is_empty());
        let filter = &TaskFilter { text: text.map(str::to_owned), ..filter.clone() };
        let mut found = Found {
            filter,
            limit: (filter.limit as usize).clamp(1, LIMIT_MAX),
            skip: filter.skip,
            first: None,
            rows: Vec::new(),
            more: false,
            budget: LOOKED_AT,
        };
        match &filter.worker {
            Some(name) => self.tasks_of_worker(name, run, &wanted, &mut found),
            None => self.tasks_of_runs(run, &wanted, &mut found),
        }
        let more = found.more || found.budget == 0;
        let tasks: Vec<TaskRef> = found.rows.iter().map(|(row, _)| row.task).collect();
        let seconds = self.views.stream.seconds_of(&tasks);
        let row = |(row, key): (TaskRow, _)| self.task_row(&row, key, seconds.get(&row.task).copied());
        let rows: Vec<Value> = found.rows.into_iter().map(row).collect();
        Ok(json!({ "tasks": rows, "more": more }))
    }

    /// What one worker has in its hands or holds: looked up there.
    fn tasks_of_worker(&self, name: &str, run: Option<RunId>, wanted: &Wanted, found: &mut Found) {
        let Some(worker) = self.workers.iter().find(|(_, w)| w.name == name).map(|(id, _)| *id) else {
            return;
        };
        let mut tasks = self.core.tasks_at(worker, LOOKED_AT);
        tasks.sort_unstable();
        for task in tasks.into_iter().filter(|t| run.is_none_or(|run| t.run == run)) {
            found.budget = found.budget.saturating_sub(1);
            let row = self.core.task_row(task).filter(|row| self.core.is_wanted(row, wanted));
            if row.is_some_and(|row| found.consider(self, row).is_break()) || found.budget == 0 {
                return;
            }
        }
    }

    fn tasks_of_runs(&self, run: Option<RunId>, wanted: &Wanted, found: &mut Found) {
        // Whoever names a task need not have it looked for.
        if let Some(text) = &found.filter.text
            && let Ok((_, task, ..)) = self.find_task(text, found.filter.run)
            && let Some(row) = self.core.task_row(task).filter(|row| self.core.is_wanted(row, wanted))
        {
            let _ = found.take(row, None);
            found.first = Some(task);
        }
        let runs: Vec<RunId> = match run {
            Some(run) => vec![run],
            None => self.runs.iter().map(|(run, _)| run).take(LOOKED_AT).collect(),
        };
        for run in runs {
            let mut budget = found.budget;
            let flow = self.core.each_task(run, wanted, &mut budget, |row, budget| {
                found.budget = *budget;
                let flow = found.consider(self, row);
                *budget = found.budget;
                flow
            });
            found.budget = budget;
            if flow.is_break() || found.budget == 0 {
                return;
            }
        }
    }

    fn task_row(&self, row: &TaskRow, key: Option<String>, seconds: Option<f64>) -> Value {
        let group = self.core.group_of(row.task).and_then(|id| self.core.group_name(id));
        json!({
            "key": key.unwrap_or_else(|| self.key(row.task)),
            "run": self.runs.get(row.task.run).map(|e| e.info.uuid),
            "group": group,
            "state": row.state.name(),
            "worker": row.worker.map(|w| self.worker_name(w)),
            "bytes": row.nbytes,
            "seconds": seconds,
            "attempts": row.attempts,
        })
    }
}
