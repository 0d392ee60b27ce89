//! Results a worker holds or is getting: who needs them, whom to ask, what to do when asking fails. Owns the
//! fetch queues, one for each peer, and their bounds.

use super::Core;
use super::event::Kin;
use super::event::{Action, Fetched};
use crate::base::ids::{Attempt, TaskRef, WorkerId};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Fetches under way from one peer at a time.
const FETCHES_PER_PEER: u32 = 2;
/// Results asked for in one fetch, and bytes (the first is asked for whatever its size).
const FETCH_TASKS_MAX: usize = 512;
const FETCH_BYTES_MAX: u64 = 64 << 20;

/// A result that is here or wanted.
pub(super) struct Datum {
    /// Its size, once it is here.
    pub(super) here: Option<u64>,
    /// Size as announced.
    nbytes: u64,
    /// Tasks in hand that have it as an input (once for each time).
    pub(super) users: u32,
    /// Tasks that wait for it.
    pub(super) waiters: SmallVec<[TaskRef; 2]>,
    /// Who may have it and has not been asked in vain.
    holders: SmallVec<[WorkerId; 2]>,
    /// Who was asked in vain.
    tried: SmallVec<[WorkerId; 2]>,
    /// Queued at or being fetched from this peer.
    asked: Option<WorkerId>,
    /// The scheduler asked for a copy.
    pub(super) copy: bool,
    /// The scheduler counts it as not here; dropped with its last user.
    pub(super) doomed: bool,
    /// It was fetched for tasks here, from a worker that keeps it.
    pub(super) replica: bool,
    /// It is not in memory.
    pub(super) on_disk: bool,
    /// Whose task made it here.
    pub(super) made_by: Option<Kin>,
    /// Bytes in memory of what was made here, as long as it is not on disk.
    pub(super) memory: u64,
    /// Whose task was the last to use it here.
    pub(super) last_user: Option<Kin>,
    /// Where it stands among the copies that no task in hand needs.
    pub(super) spare: Option<u64>,
}

impl Datum {
    pub(super) fn wanted(nbytes: u64) -> Datum {
        Datum {
            here: None,
            nbytes,
            users: 0,
            waiters: SmallVec::new(),
            holders: SmallVec::new(),
            tried: SmallVec::new(),
            asked: None,
            copy: false,
            doomed: false,
            replica: false,
            on_disk: false,
            made_by: None,
            memory: 0,
            last_user: None,
            spare: None,
        }
    }
}

/// What is asked of a peer.
#[derive(Default)]
pub(super) struct Peer {
    queue: VecDeque<TaskRef>,
    pub(super) in_flight: u32,
}

impl Core {
    /// Notes who holds a wanted result and queues it for fetching.
    pub(super) fn want(&mut self, task: TaskRef, holders: &[WorkerId]) {
        let Some(datum) = self.data.get_mut(&task) else { return };
        for holder in holders {
            if !datum.holders.contains(holder) {
                datum.holders.push(*holder);
            }
            // The scheduler names it anew: worth another try.
            datum.tried.retain(|t| t != holder);
        }
        if datum.here.is_none() && datum.asked.is_none() {
            self.ask_next(task);
        }
    }

    /// Queues a wanted result at the least busy of its holders, or gives it up.
    fn ask_next(&mut self, task: TaskRef) {
        let Some(datum) = self.data.get_mut(&task) else { return };
        let load = |w: &WorkerId| self.peers.get(w).map_or(0, |p| p.queue.len() + p.in_flight as usize);
        match datum.holders.iter().copied().min_by_key(load) {
            Some(peer) => {
                datum.asked = Some(peer);
                self.peers.entry(peer).or_default().queue.push_back(task);
            }
            None => self.give_up(task),
        }
    }

    /// Nobody has it: whoever waits for it goes back to the scheduler.
    fn give_up(&mut self, task: TaskRef) {
        let Some(datum) = self.data.get_mut(&task) else { return };
        datum.asked = None;
        let tried: Vec<(TaskRef, WorkerId)> = datum.tried.iter().map(|w| (task, *w)).collect();
        let waiters = std::mem::take(&mut datum.waiters);
        if std::mem::take(&mut datum.copy) {
            self.report.uncopied.extend(tried.iter().copied());
        }
        for waiter in waiters {
            let Some(attempt) = self.hands.get(&waiter).map(|h| h.attempt) else { continue };
            if self.remove_hand(waiter, attempt).is_some() {
                self.report.missing.push((waiter, attempt, tried.clone()));
            }
        }
        self.tidy(task);
    }

    /// Sends as many fetches as the bounds allow; none while paused, so that inputs do not fill what results
    /// on their way to disk leave.
    pub(super) fn fetch_wanted(&mut self) {
        if !self.paused {
            self.fetch(usize::MAX);
        }
    }

    /// Sends at most so many fetches.
    pub(super) fn fetch(&mut self, most: usize) {
        let mut sent = 0;
        for (&peer, state) in &mut self.peers {
            while sent < most && state.in_flight < FETCHES_PER_PEER && !state.queue.is_empty() {
                let (mut tasks, mut bytes) = (Vec::new(), 0);
                while let Some(&task) = state.queue.front() {
                    // What was queued may be here by now, unwanted, or asked elsewhere.
                    let wanted = self.data.get(&task).filter(|d| d.here.is_none() && d.asked == Some(peer));
                    if let Some(datum) = wanted {
                        if !tasks.is_empty()
                            && (tasks.len() == FETCH_TASKS_MAX || bytes + datum.nbytes > FETCH_BYTES_MAX)
                        {
                            break;
                        }
                        bytes += datum.nbytes;
                        self.room.fetch_begins(task, datum.nbytes);
                        tasks.push(task);
                    }
                    state.queue.pop_front();
                }
                if !tasks.is_empty() {
                    sent += 1;
                    state.in_flight += 1;
                    self.actions.push(Action::Fetch { peer, tasks });
                }
            }
        }
        self.peers.retain(|_, p| p.in_flight > 0 || !p.queue.is_empty());
    }

    pub(super) fn on_fetched(&mut self, peer: WorkerId, outcomes: Vec<(TaskRef, Fetched)>) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.in_flight = state.in_flight.saturating_sub(1);
        }
        for (task, outcome) in outcomes {
            self.room.fetch_ends(task);
            let Some(datum) = self.data.get_mut(&task) else {
                // Nobody waits for it any more.
                if matches!(outcome, Fetched::Here(_)) {
                    self.actions.push(Action::Drop(vec![task]));
                }
                continue;
            };
            if datum.here.is_some() {
                continue;
            }
            match outcome {
                Fetched::Here(nbytes) => {
                    datum.here = Some(nbytes);
                    datum.on_disk = false;
                    datum.asked = None;
                    datum.doomed = false;
                    datum.replica = !std::mem::take(&mut datum.copy);
                    if !datum.replica {
                        self.actions.push(Action::Own(vec![task]));
                    }
                    self.report.replicas.push(task);
                    self.wake(task);
                }
                Fetched::Absent | Fetched::Unreachable => {
                    datum.holders.retain(|w| *w != peer);
                    datum.tried.push(peer);
                    datum.asked = None;
                    self.ask_next(task);
                }
            }
        }
    }

    /// A result was brought: it is this worker's alone.
    pub(super) fn on_stored(&mut self, task: TaskRef, nbytes: u64) {
        let datum = self.data.entry(task).or_insert_with(|| Datum::wanted(nbytes));
        if datum.here.is_some() {
            return;
        }
        datum.here = Some(nbytes);
        (datum.replica, datum.on_disk, datum.doomed, datum.copy) = (false, false, false, false);
        datum.asked = None;
        self.report.stored.push((task, nbytes));
        self.wake(task);
    }

    /// Tells the tasks that wait for a result that it is here.
    pub(super) fn wake(&mut self, task: TaskRef) {
        let waiters = self.data.get_mut(&task).map(|d| std::mem::take(&mut d.waiters)).unwrap_or_default();
        waiters.into_iter().for_each(|w| self.on_input(w));
    }

    pub(super) fn on_free(&mut self, tasks: &[TaskRef]) {
        for task in tasks {
            if let Some(datum) = self.data.get_mut(task).filter(|d| d.here.is_some()) {
                datum.doomed = true;
            }
            self.tidy(*task);
        }
    }

    pub(super) fn on_replicate(&mut self, tasks: &[(TaskRef, u64)], from: WorkerId) {
        for &(task, nbytes) in tasks {
            let datum = self.data.entry(task).or_insert_with(|| Datum::wanted(nbytes));
            if datum.here.is_some() {
                datum.doomed = false;
                datum.replica = false;
                self.room.unspare(&mut datum.spare);
                self.actions.push(Action::Own(vec![task]));
                self.report.replicas.push(task);
                continue;
            }
            datum.copy = true;
            self.want(task, &[from]);
        }
    }

    /// Results cannot be read any more: whoever needs them goes back to the scheduler, which is told that
    /// they are not here.
    pub(super) fn on_lost(&mut self, tasks: &[TaskRef], here: WorkerId) {
        for &task in tasks {
            let Some(datum) = self.data.get_mut(&task).filter(|d| d.here.is_some()) else { continue };
            if !datum.on_disk {
                self.room.let_go(datum.made_by, datum.memory, false);
            }
            (datum.here, datum.made_by) = (None, None);
            datum.copy = false;
            datum.replica = false;
            self.room.unspare(&mut datum.spare);
            // No attempt has this number: only the hole counts.
            self.report.missing.push((task, Attempt::default(), vec![(task, here)]));
            let reads = |inputs: &[(u32, TaskRef)]| inputs.iter().any(|(_, input)| *input == task);
            let users: Vec<_> =
                self.hands.iter().filter(|(_, h)| reads(&h.inputs)).map(|(t, h)| (*t, h.attempt)).collect();
            for (user, attempt) in users {
                self.on_cancel(user, attempt);
                self.report.missing.push((user, attempt, vec![(task, here)]));
            }
            self.tidy(task);
        }
    }

    /// Whether a wanted result is queued at or being fetched from somebody.
    pub(super) fn is_asked(&self, task: TaskRef) -> bool {
        let asked = self.data.get(&task).and_then(|d| d.asked);
        asked.is_some_and(|peer| self.peers.contains_key(&peer))
    }

    /// Forgets a result that nothing here needs: one on its way, or a doomed one.
    pub(super) fn tidy(&mut self, task: TaskRef) {
        let Some(datum) = self.data.get(&task) else { return };
        if datum.users > 0 {
            return;
        }
        let (mut spare, last, bytes) = (datum.spare, datum.last_user, datum.here.unwrap_or(0));
        if datum.here.is_none() && !datum.copy {
            self.data.swap_remove(&task);
        } else if datum.here.is_some() && datum.doomed {
            if !datum.on_disk {
                self.room.let_go(datum.made_by, datum.memory, true);
            }
            self.room.learn_dropped(datum.made_by, datum.memory);
            self.data.swap_remove(&task);
            self.room.unspare(&mut spare);
            self.room.learn_freed(last, bytes);
            self.actions.push(Action::Drop(vec![task]));
        } else {
            self.note_spare(task);
        }
    }
}
