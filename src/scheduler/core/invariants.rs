//! What must hold between any two events, checked against the whole state from scratch. For tests and
//! simulations: it costs as much as the state is large. Owns no state.

use super::Core;
use super::pinned::Pin;
use super::ready::Entry;
use super::run::Run;
use super::state::State;
use crate::base::ids::{FamilyIx, TaskRef, WorkerId};

impl Core {
    /// Checks every invariant and describes the first that does not hold.
    pub fn check(&self) -> Result<(), String> {
        for run in self.runs.iter().flatten() {
            run.check().map_err(|e| format!("run {}: {e}", run.id))?;
            self.check_holders(run)?;
        }
        self.check_groups()?;
        self.check_workers()?;
        self.check_queues()?;
        self.check_gangs()
    }

    fn check_holders(&self, run: &Run) -> Result<(), String> {
        for i in 0..run.state.len() as u32 {
            let (state, task) = (run.state_of(i), run.origin(i));
            if state == State::Memory && run.holders(i).is_empty() {
                return Err(format!("{task:?} is in memory nowhere"));
            }
            for w in run.holders(i) {
                if !self.cx.worker(w).is_some_and(|x| x.has.contains(&task)) {
                    return Err(format!("{task:?} should be on worker {w}, which does not know of it"));
                }
            }
            if state == State::Processing {
                let w = WorkerId(run.worker[i as usize]);
                let Some(hand) = self.cx.worker(w).and_then(|x| x.processing.get(&task)) else {
                    return Err(format!("{task:?} is processing on worker {w}, which does not have it"));
                };
                let pin = run.pin_of(&self.cx, i);
                if hand.started.is_none() && !matches!(pin, Pin::Free) && !matches!(pin, Pin::To(p) if p == w)
                {
                    return Err(format!("{task:?} was given to worker {w} and needs what is at {pin:?}"));
                }
            }
            if run.is_pinned(i) && (state != State::Memory || run.holders(i).len() != 1) {
                return Err(format!("{task:?} is {state:?} and pinned, on workers {:?}", run.holders(i)));
            }
        }
        Ok(())
    }

    fn check_workers(&self) -> Result<(), String> {
        for (w, worker) in self.cx.workers.iter().enumerate() {
            let Some(worker) = worker else { continue };
            let mut nbytes = 0;
            for task in &worker.has {
                let run = self.run(task.run).ok_or_else(|| format!("worker {w} holds {task:?} of no run"))?;
                if !run.holders(task.index).contains(&WorkerId(w as u32)) {
                    return Err(format!("worker {w} has {task:?}, which does not list it"));
                }
                nbytes += run.nbytes[task.index as usize];
            }
            if nbytes != worker.nbytes {
                return Err(format!("worker {w} counts {} bytes and holds {nbytes}", worker.nbytes));
            }
            let slots: u64 = worker.processing.values().filter(|h| !h.away).map(|h| u64::from(h.slots)).sum();
            let started = worker.processing.values().filter(|h| h.started.is_some()).count();
            if slots != worker.slots_in_hand || started != worker.started as usize {
                return Err(format!("worker {w} counts its tasks wrongly"));
            }
            let keeps = self.cx.ready.keepers.contains(&WorkerId(w as u32));
            let is_member = worker.kept_for.is_some_and(|task| {
                let gang = self.cx.gangs.formed.get(&task);
                gang.is_some_and(|gang| gang.members.contains(&WorkerId(w as u32)))
            });
            if (keeps || is_member) != worker.kept_for.is_some() || (keeps && is_member) {
                return Err(format!("worker {w} is kept for {:?}, the list says {keeps}", worker.kept_for));
            }
            let has = worker.kept_for.is_some_and(|t| worker.processing.contains_key(&t));
            if has && worker.processing.len() > 1 {
                return Err(format!("{:?} is not alone on worker {w}", worker.kept_for));
            }
            if worker.processing.is_empty() && worker.occupancy != 0 {
                return Err(format!("worker {w} has nothing to do and is occupied"));
            }
            for task in worker.processing.keys() {
                let run = self.run(task.run).ok_or_else(|| format!("worker {w} runs {task:?} of no run"))?;
                if run.state_of(task.index) != State::Processing
                    || run.worker[task.index as usize] != w as u32
                {
                    return Err(format!("worker {w} runs {task:?}, which says otherwise"));
                }
            }
        }
        Ok(())
    }

    /// A ready task and a worker with room for it may not be there at once: that would be a lost wake-up.
    fn check_queues(&self) -> Result<(), String> {
        let mut queued = std::collections::BTreeMap::new();
        for run in self.runs.iter().flatten() {
            for i in (0..run.state.len() as u32).filter(|&i| run.state_of(i) == State::Queued) {
                queued.insert(run.task(i), run.families[run.place_of(i).0.index()].class);
            }
        }
        for (c, class) in self.cx.ready.classes.iter().enumerate() {
            let waits = class.heap.iter().any(|e| self.tasks_of(e).iter().any(|t| queued.contains_key(t)));
            if waits && !class.open.is_empty() {
                return Err(format!("class {c} has ready tasks and open workers {:?}", class.open));
            }
            for (w, worker) in self.cx.workers.iter().enumerate() {
                let open = worker
                    .as_ref()
                    .is_some_and(|x| x.is_open(class.slots, &class.resources, self.cx.settings.saturation));
                if open != self.cx.ready.is_open(WorkerId(w as u32), c as u32) {
                    return Err(format!("worker {w} is listed wrongly for class {c}"));
                }
            }
        }
        for run in self.runs.iter().flatten().filter(|run| !run.is_full()) {
            let is_queued = |e: &Entry| self.tasks_of(e).iter().any(|t| queued.contains_key(t));
            let could_go = |class: &u32| !self.cx.ready.classes[*class as usize].open.is_empty();
            if run.parked.iter().any(|(class, entries)| could_go(class) && entries.iter().any(is_queued)) {
                return Err(format!("run {} holds tasks back though it may hand out more", run.id));
            }
        }
        for run in self.runs.iter().flatten() {
            let early: std::collections::BTreeSet<u32> = run.early.entries().map(|e| e.task.index).collect();
            run.check_turns(|i| early.contains(&i) && run.state_of(i) == State::Queued)?;
        }
        let in_heaps = self.cx.ready.classes.iter().flat_map(|c| c.entries());
        let in_local = self.cx.workers.iter().flatten().flat_map(|w| w.local.iter());
        let parked = self.runs.iter().flatten().flat_map(|run| run.parked.values().flatten());
        let early = self.runs.iter().flatten().flat_map(|run| run.early.entries());
        for entry in in_heaps.chain(in_local).chain(parked).chain(early) {
            self.tasks_of(entry).iter().for_each(|task| {
                queued.remove(task);
            });
        }
        let in_gangs = self.cx.gangs.waiting.values().flatten();
        for (_, task) in self.cx.ready.alone.iter().chain(in_gangs) {
            queued.remove(task);
        }
        match queued.keys().next() {
            Some(task) => Err(format!("{task:?} is queued and in no queue")),
            None => Ok(()),
        }
    }
}

impl Core {
    /// The tasks that an entry stands for.
    fn tasks_of(&self, entry: &Entry) -> Vec<TaskRef> {
        let task = |index| TaskRef { run: entry.task.run, index };
        let run = self.run(entry.task.run);
        match entry.as_pool() {
            Some(pool) => run.into_iter().flat_map(|r| r.pooled(pool)).map(task).collect(),
            None => (entry.task.index..entry.end).map(task).collect(),
        }
    }
}

impl Run {
    fn check(&self) -> Result<(), String> {
        let mut counts = [0u64; State::ALL.len()];
        let mut wanted = 0;
        for packed in &self.state {
            counts[packed.state() as usize] += 1;
            wanted += u64::from(packed.wanted());
        }
        if counts != self.counts || wanted != self.wanted {
            return Err(format!(
                "counts {:?} should be {counts:?}, wanted {} {wanted}",
                self.counts, self.wanted
            ));
        }
        if self.count(State::Processing) > self.max_in_hand() {
            return Err(format!("{} tasks are handed out at a time", self.count(State::Processing)));
        }
        let mut ready = vec![0; self.families.len()];
        let is_ready = |i: &u32| super::demand::is_ready(self.state_of(*i));
        (0..self.state.len() as u32).filter(is_ready).for_each(|i| ready[self.place_of(i).0.index()] += 1);
        if let Some(f) = (0..ready.len()).find(|&f| self.families[f].ready != ready[f]) {
            return Err(format!("family {f} counts {} ready tasks of {}", self.families[f].ready, ready[f]));
        }
        self.pools.iter().try_for_each(|pool| pool.check())?;
        if self.cancelled.is_some() {
            return Ok(());
        }
        let refs = self.count_refs()?;
        for i in 0..self.state.len() as u32 {
            let (f, element) = self.place_of(i);
            if self.index_of(f, element) != i {
                return Err(format!("task {i} is not where it says: family {f} element {element}"));
            }
            if refs[i as usize] != self.refs[i as usize] {
                let (is, should) = (self.refs[i as usize], refs[i as usize]);
                return Err(format!(
                    "task {i} ({:?}) has {is} references, should be {should}",
                    self.state_of(i)
                ));
            }
            self.check_task(i, f, element)?;
        }
        Ok(())
    }

    fn check_task(&self, i: u32, f: FamilyIx, element: u32) -> Result<(), String> {
        let unmet = self.unmet(f, element);
        let waiting = self.waiting[i as usize];
        let right = match self.state_of(i) {
            State::Waiting => unmet == Ok(waiting) && waiting > 0,
            State::Queued | State::Delayed => unmet == Ok(0),
            State::Memory => self.refs[i as usize] > 0 && self.state[i as usize].done_once(),
            State::Released => self.state[i as usize].done_once() && self.refs[i as usize] == 0,
            State::Processing | State::Erred | State::Cancelled => true,
        };
        if right {
            Ok(())
        } else {
            Err(format!("task {i} is {:?}, waits for {waiting}, unmet {unmet:?}", self.state_of(i)))
        }
    }

    /// The references every task should have, and on the way the gates.
    fn count_refs(&self) -> Result<Vec<u32>, String> {
        let mut refs = vec![0u32; self.state.len()];
        for (i, packed) in self.state.iter().enumerate() {
            refs[i] += u32::from(packed.wanted()) + self.lent(i as u32);
        }
        for (c, family) in self.families.iter().enumerate() {
            let f = FamilyIx(c as u32);
            for (e, edge) in (0..).zip(self.edges.of(f)).filter(|(_, e)| e.data) {
                let exports: Vec<u32> =
                    (0..self.exports(edge.producer)).map(|j| self.export(edge.producer, j)).collect();
                let holds = |&x: &u32| !self.state_of(self.index_of(f, x)).is_final();
                let unfinished = self.elements(f).filter(holds).count() as u32;
                if family.shape.is_none() {
                    exports.iter().for_each(|&i| refs[i as usize] += 1);
                } else if let Some(gate) = edge.gate() {
                    let missing =
                        exports.iter().filter(|&&i| self.state_of(i) != State::Memory).count() as u32;
                    let growing = u32::from(family.grows() && !family.closed);
                    if gate.missing != missing || gate.unfinished != unfinished + growing {
                        return Err(format!(
                            "gate of family {c}: {gate:?}, should be {missing} {unfinished}"
                        ));
                    }
                    exports.iter().for_each(|&i| refs[i as usize] += u32::from(unfinished + growing > 0));
                } else {
                    for x in self.elements(f).filter(holds) {
                        self.each_input(f, x, e, |i| refs[i as usize] += 1);
                    }
                    if let Some(former) = edge.former() {
                        let ungrouped = former.grouped()..exports.len() as u32;
                        ungrouped.for_each(|j| refs[exports[j as usize] as usize] += 1);
                    }
                }
            }
        }
        Ok(refs)
    }
}
