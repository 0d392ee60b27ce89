//! Groups of tasks that people follow as one, and what all tasks come to. Owns their names, their counts and
//! how long they are kept. Their counts decide nothing; which group a task is in does: what its like have
//! taken and made is expected of it (`run::Usual`).
//!
//! A family is in one group, so a change of a task costs a few additions. What a run had when it was
//! forgotten leaves the counts; what was done stays.

use super::Core;
use super::event::Finished;
use super::run::Run;
use super::state::State;
use crate::base::ids::{ClientId, FamilyIx, RunId, RunUuid, TaskRef, WorkerId};
use crate::graph::layer::{Pattern, Size};
use crate::graph::split::key_split;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};

/// The group of what is counted nowhere: stand-ins for tasks of other runs.
pub(super) const NO_GROUP: u32 = u32::MAX;

/// Groups of runs that are forgotten: so many are kept.
const PAST_MAX: usize = 1000;

/// Groups of runs that are known: beyond so many, further ones are one.
const LIVE_MAX: usize = 10_000;

/// The name of that one.
const OTHERS: &str = "(others)";

/// Groups before one that are noted.
const INPUTS_MAX: usize = 64;

/// In a graph of more families than this, tasks of their own that are numbered (`t1`, `t2`) are one group.
const FAMILIES_MANY: usize = 200;

/// The longest name, bytes.
const NAME_MAX: usize = 200;

/// Tasks by state, in the order of `State::ALL`.
pub type Counts = [u64; State::ALL.len()];

/// A group of tasks.
#[derive(Clone, Debug, Default)]
pub struct TaskGroup {
    /// Its number, never used again.
    pub id: u32,
    /// Its name.
    pub name: Box<str>,
    /// The run, if all of its tasks are of one.
    pub run: Option<RunUuid>,
    /// Tasks by state, of runs that are known.
    pub counts: [u32; State::ALL.len()],
    /// How many tasks there have ever been.
    pub total: u64,
    /// How many of them have succeeded, each once.
    pub done: u64,
    /// Attempts that have failed.
    pub failed_attempts: u64,
    /// Sum of execution times, nanoseconds.
    pub ns: u64,
    /// The longest, nanoseconds.
    pub longest_ns: u64,
    /// Bytes of results made.
    pub bytes: u64,
    /// Those of the largest.
    pub bytes_max: u64,
    /// Bytes of its results that workers have fetched from one another.
    pub moved: u64,
    /// Groups that its tasks depend on, and how many pairs of tasks.
    pub inputs: SmallVec<[(u32, u32); 1]>,
    /// Runs that have such tasks.
    runs: u32,
    /// Its place among those of forgotten runs.
    past: u64,
}

/// What all tasks come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tasks by state, of runs that are known.
    pub counts: Counts,
    /// Attempts that succeeded so far.
    pub done: u64,
    /// Attempts that failed so far.
    pub failed: u64,
}

/// What the calls of one client come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallTotals {
    /// Tasks by state, of runs that are known.
    pub counts: Counts,
    /// How many calls there have ever been.
    pub total: u64,
    /// How many have succeeded, each once.
    pub done: u64,
    /// How many have failed for good or were in vain.
    pub failed: u64,
    runs: u32,
    /// The client will not come back.
    left: bool,
}

/// All groups.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// By number, from `base` on.
    list: VecDeque<Option<Box<TaskGroup>>>,
    base: u32,
    live: usize,
    /// Those of calls, of whichever run.
    calls: FxHashMap<Box<str>, u32>,
    /// Those of forgotten runs, oldest first.
    past: BTreeMap<u64, u32>,
    next_past: u64,
    pub(super) totals: Totals,
    clients: BTreeMap<ClientId, CallTotals>,
}

/// Which groups a run's tasks are in, each once.
pub(super) type Joined = SmallVec<[u32; 2]>;

impl Groups {
    fn get(&self, id: u32) -> Option<&TaskGroup> {
        self.list.get(id.checked_sub(self.base)? as usize)?.as_deref()
    }

    fn get_mut(&mut self, id: u32) -> Option<&mut TaskGroup> {
        self.list.get_mut(id.checked_sub(self.base)? as usize)?.as_deref_mut()
    }

    /// The name that a new group gets, if there may be one.
    fn name_for<'a>(&self, name: &'a str, is_calls: bool) -> &'a str {
        let is_known = || is_calls && self.calls.contains_key(name);
        if self.live < LIVE_MAX || is_known() { name } else { OTHERS }
    }

    /// The group of that name, for a run that begins.
    fn join(&mut self, name: &str, run: RunUuid, is_calls: bool) -> u32 {
        let is_shared = is_calls || name == OTHERS;
        if is_shared
            && let Some(&id) = self.calls.get(name)
            && let Some(group) = self.get_mut(id)
        {
            group.run = group.run.filter(|r| *r == run);
            group.runs += 1;
            if group.runs == 1 {
                let past = group.past;
                self.past.remove(&past);
                self.live += 1;
            }
            return id;
        }
        let id = self.base + self.list.len() as u32;
        let group = TaskGroup { id, name: name.into(), run: Some(run), runs: 1, ..TaskGroup::default() };
        self.list.push_back(Some(Box::new(group)));
        self.live += 1;
        if is_shared {
            self.calls.insert(name.into(), id);
        }
        id
    }

    /// A run that had such tasks is forgotten.
    fn leave(&mut self, id: u32) {
        let past = self.next_past;
        let Some(group) = self.get_mut(id) else { return };
        group.runs -= 1;
        if group.runs > 0 {
            return;
        }
        group.past = past;
        self.next_past += 1;
        self.live -= 1;
        self.past.insert(past, id);
        if self.past.len() > PAST_MAX
            && let Some((_, oldest)) = self.past.pop_first()
        {
            self.drop_group(oldest);
        }
    }

    fn drop_group(&mut self, id: u32) {
        let at = (id - self.base) as usize;
        if let Some(group) = self.list.get_mut(at).and_then(Option::take)
            && self.calls.get(&group.name) == Some(&id)
        {
            self.calls.remove(&group.name);
        }
        while let Some(None) = self.list.front() {
            self.list.pop_front();
            self.base += 1;
        }
    }

    /// New tasks.
    pub(super) fn add(&mut self, run: &RunGroups, id: u32, state: State, n: u32) {
        let Some(group) = self.get_mut(id) else { return };
        group.counts[state as usize] += n;
        let n = u64::from(n);
        group.total += n;
        self.totals.counts[state as usize] += n;
        if let Some(client) = run.of_client(&mut self.clients) {
            client.counts[state as usize] += n;
            client.total += n;
        }
    }

    /// A change of state.
    pub(super) fn change(&mut self, run: &RunGroups, id: u32, from: State, to: State) {
        let Some(group) = self.get_mut(id) else { return };
        group.counts[from as usize] -= 1;
        group.counts[to as usize] += 1;
        self.totals.counts[from as usize] -= 1;
        self.totals.counts[to as usize] += 1;
        if let Some(client) = run.of_client(&mut self.clients) {
            client.counts[from as usize] -= 1;
            client.counts[to as usize] += 1;
            client.failed += u64::from(to == State::Erred);
        }
    }

    /// A task has succeeded for the first time.
    pub(super) fn done(&mut self, run: &RunGroups, id: u32) {
        let Some(group) = self.get_mut(id) else { return };
        group.done += 1;
        if let Some(client) = run.of_client(&mut self.clients) {
            client.done += 1;
        }
    }

    /// An attempt has succeeded.
    pub(super) fn finished(&mut self, id: u32, finished: &Finished) {
        self.totals.done += 1;
        let Some(group) = self.get_mut(id) else { return };
        let ns = u64::try_from(finished.duration.as_nanos()).unwrap_or(u64::MAX);
        group.ns = group.ns.saturating_add(ns);
        group.longest_ns = group.longest_ns.max(ns);
        group.bytes = group.bytes.saturating_add(finished.nbytes);
        group.bytes_max = group.bytes_max.max(finished.nbytes);
    }

    /// An attempt has failed.
    pub(super) fn failed(&mut self, id: u32) {
        self.totals.failed += 1;
        if let Some(group) = self.get_mut(id) {
            group.failed_attempts += 1;
        }
    }

    /// A result was fetched by another worker.
    pub(super) fn moved(&mut self, id: u32, nbytes: u64) {
        if let Some(group) = self.get_mut(id) {
            group.moved = group.moved.saturating_add(nbytes);
        }
    }

    /// So many tasks of one group depend on as many of another, pair by pair.
    pub(super) fn connect(&mut self, from: u32, to: u32, pairs: u64) {
        if from == to || from == NO_GROUP {
            return;
        }
        let Some(group) = self.get_mut(to) else { return };
        if let Some((_, n)) = group.inputs.iter_mut().find(|(input, _)| *input == from) {
            *n = n.saturating_add(u32::try_from(pairs).unwrap_or(u32::MAX));
        } else if group.inputs.len() < INPUTS_MAX {
            group.inputs.push((from, u32::try_from(pairs).unwrap_or(u32::MAX)));
        }
    }

    /// A client will not come back.
    pub(super) fn client_left(&mut self, client: ClientId) {
        if let Some(totals) = self.clients.get_mut(&client) {
            totals.left = true;
            if totals.runs == 0 {
                self.clients.remove(&client);
            }
        }
    }
}

/// What a run knows of its groups.
#[derive(Clone, Debug, Default)]
pub(super) struct RunGroups {
    pub(super) joined: Joined,
    /// Whose calls they are.
    pub(super) client: Option<ClientId>,
}

impl RunGroups {
    fn of_client<'a>(&self, clients: &'a mut BTreeMap<ClientId, CallTotals>) -> Option<&'a mut CallTotals> {
        clients.get_mut(&self.client?)
    }
}

/// A name without the number at its end, unless it is nothing else.
fn without_number(name: &str) -> &str {
    let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
    if digits == name.len() { name } else { &name[..name.len() - digits] }
}

impl Run {
    /// Finds the group of each family, before there are tasks.
    pub(super) fn join_groups(&mut self, groups: &mut Groups) {
        let calls = self.calls.as_ref();
        let imports = calls.map_or(0, |c| c.imports.len());
        let is_calls = calls.is_some();
        let is_many = !is_calls && self.families.len() > FAMILIES_MANY;
        let names = self.names.clone();
        let mut known: FxHashMap<&str, u32> = FxHashMap::default();
        let mut last = ("", NO_GROUP);
        for (f, family) in self.families.iter_mut().enumerate().skip(imports) {
            let name = names.get(FamilyIx(f as u32)).unwrap_or_default();
            let is_one = family.layer.size == Size::Fixed(1);
            let name = if is_calls || is_one { key_split(name) } else { name };
            let name = if is_many && is_one { without_number(name) } else { name };
            let name = cut(name);
            if last.1 == NO_GROUP || last.0 != name {
                let id = known.get(name).copied().unwrap_or_else(|| {
                    let name = groups.name_for(name, is_calls);
                    *known.entry(name).or_insert_with(|| groups.join(name, self.uuid, is_calls))
                });
                last = (name, id);
            }
            family.group = last.1;
        }
        let mut joined: Joined = known.into_values().collect();
        joined.sort_unstable();
        self.groups = RunGroups { joined, client: self.owner.filter(|_| is_calls) };
        if let Some(client) = self.groups.client {
            let totals = groups.clients.entry(client).or_default();
            totals.runs += 1;
            totals.left = false;
        }
    }

    /// Takes its tasks out of the counts: it is being forgotten.
    pub(super) fn leave_groups(&self, groups: &mut Groups) {
        self.each_count(|id, state, n| {
            let Some(group) = groups.get_mut(id) else { return };
            group.counts[state as usize] -= n as u32;
            groups.totals.counts[state as usize] -= n;
            if let Some(client) = self.groups.of_client(&mut groups.clients) {
                client.counts[state as usize] -= n;
            }
        });
        self.groups.joined.iter().for_each(|id| groups.leave(*id));
        if let Some(client) = self.groups.client
            && let Some(totals) = groups.clients.get_mut(&client)
        {
            totals.runs -= 1;
            if totals.runs == 0 && totals.left {
                groups.clients.remove(&client);
            }
        }
    }

    /// The tasks of each family by state, where it has a group.
    fn each_count(&self, mut visit: impl FnMut(u32, State, u64)) {
        for (tasks, f) in self.stretches() {
            let id = self.families[f.index()].group;
            if id == NO_GROUP {
                continue;
            }
            for i in tasks {
                visit(id, self.state_of(i), 1);
            }
        }
    }

    /// Notes how a family that has come into being depends on others.
    pub(super) fn connect_groups(&self, groups: &mut Groups, f: FamilyIx) {
        let to = self.families[f.index()].group;
        let total = self.families[f.index()].shape.map_or(0, |s| s.total);
        for edge in self.edges.of(f) {
            let from = self.families[edge.producer.index()].group;
            if from != to {
                let pairs = if edge.is_pair() {
                    1
                } else {
                    pairs(edge.pattern(), self.exports(edge.producer), total)
                };
                groups.connect(from, to, pairs);
            }
        }
    }

    /// The group of a task.
    pub(super) fn group_of(&self, i: u32) -> u32 {
        self.families[self.place_of(i).0.index()].group
    }
}

impl Core {
    /// What all tasks come to. Stand-ins for tasks of other runs do not count.
    pub fn totals(&self) -> Totals {
        self.cx.groups.totals
    }

    /// Attempts that have succeeded on a worker.
    pub fn done_by(&self, worker: WorkerId) -> u64 {
        self.cx.worker(worker).map_or(0, |w| w.done)
    }

    /// What the calls of each client come to.
    pub fn call_totals(&self) -> impl Iterator<Item = (ClientId, &CallTotals)> {
        self.cx.groups.clients.iter().map(|(client, totals)| (*client, totals))
    }

    /// The groups that are shown, of one run or of all, in order of their numbers, and how many others there
    /// are: those of runs that are known go first, of these the latest.
    pub fn groups(&self, run: Option<RunId>, most: usize) -> (Vec<&TaskGroup>, usize) {
        let groups = &self.cx.groups;
        let mut shown: Vec<&TaskGroup> = match run {
            Some(run) => {
                let joined = self.run(run).map(|r| r.groups.joined.as_slice()).unwrap_or_default();
                joined.iter().rev().filter_map(|id| groups.get(*id)).collect()
            }
            None => {
                let live = groups.list.iter().rev().filter_map(|g| g.as_deref()).filter(|g| g.runs > 0);
                live.chain(groups.past.values().rev().filter_map(|id| groups.get(*id))).collect()
            }
        };
        let more = shown.len().saturating_sub(most);
        shown.truncate(most);
        shown.sort_unstable_by_key(|g| g.id);
        (shown, more)
    }

    /// The group of a task, if it has one.
    pub fn group_of(&self, task: TaskRef) -> Option<u32> {
        let run = self.run(task.run).filter(|run| run.has(task.index))?;
        Some(run.group_of(task.index)).filter(|id| *id != NO_GROUP)
    }

    /// The name of a group that is kept.
    pub fn group_name(&self, id: u32) -> Option<&str> {
        Some(&*self.cx.groups.get(id)?.name)
    }

    /// Counts all groups anew.
    pub(super) fn check_groups(&self) -> Result<(), String> {
        let groups = &self.cx.groups;
        let mut right: BTreeMap<u32, (Counts, u32)> = BTreeMap::new();
        let mut clients: BTreeMap<ClientId, Counts> = BTreeMap::new();
        let mut all = Counts::default();
        for run in self.runs.iter().flatten() {
            run.each_count(|id, state, n| {
                right.entry(id).or_default().0[state as usize] += n;
                all[state as usize] += n;
                if let Some(client) = run.groups.client {
                    clients.entry(client).or_default()[state as usize] += n;
                }
            });
            run.groups.joined.iter().for_each(|id| right.entry(*id).or_default().1 += 1);
        }
        if all != groups.totals.counts {
            return Err(format!("all tasks are {:?}, should be {all:?}", groups.totals.counts));
        }
        for (client, totals) in &groups.clients {
            let right = clients.remove(client).unwrap_or_default();
            if totals.counts != right {
                return Err(format!("calls of {client} are {:?}, should be {right:?}", totals.counts));
            }
        }
        let mut live = 0;
        for group in groups.list.iter().flatten() {
            let right = right.remove(&group.id).unwrap_or_default();
            if (group.counts.map(u64::from), group.runs) != right {
                return Err(format!("group {group:?} should have {right:?}"));
            }
            live += usize::from(group.runs > 0);
            if group.runs == 0 && groups.past.get(&group.past) != Some(&group.id) {
                return Err(format!("group {} is past and not listed so", group.name));
            }
        }
        let kept = groups.list.iter().flatten().count();
        match right.is_empty()
            && clients.is_empty()
            && live == groups.live
            && kept == live + groups.past.len()
        {
            true => Ok(()),
            false => Err(format!("{live} groups are counted as {}, {kept} are kept", groups.live)),
        }
    }
}

/// The beginning of a name that is too long.
fn cut(name: &str) -> &str {
    if name.len() <= NAME_MAX {
        return name;
    }
    let end = (0..=NAME_MAX).rev().find(|&end| name.is_char_boundary(end));
    &name[..end.unwrap_or(0)]
}

/// How many pairs of tasks an edge has; 0 where that comes out while running.
fn pairs(pattern: &Pattern, n: u32, total: u32) -> u64 {
    match pattern {
        Pattern::Each => total.into(),
        Pattern::All => u64::from(n) * u64::from(total),
        Pattern::Group { .. } | Pattern::Tree { .. } => n.into(),
        Pattern::Window { .. } => {
            let of = |i| pattern.inputs(i, n).iter().map(|s| s.range.len() as u64).sum::<u64>();
            (0..total).map(of).sum()
        }
        Pattern::Explicit(csr) => csr.targets.len() as u64,
        Pattern::GroupBytes { .. } => 0,
    }
}
