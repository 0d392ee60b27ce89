//! The threads that bring results to disk. Owns how much is written at once and what happens when the disk
//! does not take it; how much has to leave memory it is told.

use crate::worker::store::Store;
use crate::worker::store::data::TaskResult;
use crate::worker::store::spill::{Spill, is_crowded};
use std::io;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Threads: one can write while another waits for the disk.
const THREADS: usize = 2;

/// Bytes that one thread takes at a time.
const BATCH_BYTES: u64 = 32 << 20;

/// Results that wait to be read ahead.
const AHEAD_MAX: usize = 64;

/// How long a disk that failed is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Brings results to disk, off the event loop.
pub(in crate::worker) struct Spiller {
    shared: Arc<Shared>,
    /// To the thread that reads ahead.
    ahead: SyncSender<Arc<TaskResult>>,
}

/// Says that something has left memory.
type Tell = Box<dyn Fn() + Send + Sync>;

struct Shared {
    tell: Tell,
    store: Arc<Mutex<Store>>,
    spill: Arc<Spill>,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Results may have so many bytes in memory.
    keep: Option<u64>,
    /// Also results that others have may be written.
    replicas: bool,
    /// There is nothing that could leave.
    exhausted: bool,
    /// Bytes being written.
    leaving: u64,
    fault: Option<(String, Instant)>,
    closed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Spiller {
    /// Starts the threads. They call `tell` whenever something has left memory, or could not.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        store: Arc<Mutex<Store>>,
        spill: Arc<Spill>,
        tell: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Spiller> {
        let (state, work, tell) = (Mutex::default(), Condvar::new(), Box::new(tell));
        let (ahead, results) = mpsc::sync_channel::<Arc<TaskResult>>(AHEAD_MAX);
        // What cannot be read now is found out when it is needed.
        let read = move || results.iter().for_each(|result| drop(result.check_on_disk()));
        std::thread::Builder::new().name("spill-ahead".into()).spawn(read)?;
        let spiller = Spiller { shared: Arc::new(Shared { tell, store, spill, state, work }), ahead };
        for n in 0..THREADS {
            let shared = spiller.shared.clone();
            std::thread::Builder::new().name(format!("spill-{n}")).spawn(move || shared.run())?;
        }
        Ok(spiller)
    }

    /// Lets results go to disk until those in memory have `keep` bytes; `None` stops that. With `replicas`
    /// also those that other workers have.
    pub fn keep(&self, keep: Option<u64>, replicas: bool) {
        let mut state = lock(&self.shared.state);
        if state.keep == keep && keep.is_none() {
            return;
        }
        if state.keep != keep || state.replicas != replicas {
            state.exhausted = false;
        }
        (state.keep, state.replicas) = (keep, replicas);
        self.shared.work.notify_all();
    }

    /// Why results cannot go to disk, if they cannot.
    pub fn fault(&self) -> Option<String> {
        lock(&self.shared.state).fault.as_ref().map(|(why, _)| why.clone())
    }

    /// Whether waiting makes room: something is being written, or will be.
    pub fn is_hopeful(&self) -> bool {
        let state = lock(&self.shared.state);
        state.leaving > 0 || (state.keep.is_some() && !state.exhausted && state.fault.is_none())
    }

    /// Whether something is being written.
    pub fn is_busy(&self) -> bool {
        lock(&self.shared.state).leaving > 0
    }

    /// Reads a result that is on disk, and checks it, so that whoever needs it soon finds it in the kernel's
    /// cache.
    pub fn read_ahead(&self, result: &Arc<TaskResult>) {
        // With more to read than is read in time nothing is gained.
        drop(self.ahead.try_send(result.clone()));
    }

    /// Where results are on disk.
    pub fn spill(&self) -> &Spill {
        &self.shared.spill
    }
}

impl std::fmt::Debug for Spiller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spiller").field("spill", &self.shared.spill).finish_non_exhaustive()
    }
}

impl Drop for Spiller {
    fn drop(&mut self) {
        lock(&self.shared.state).closed = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn run(&self) {
        let mut state = lock(&self.state);
        while !state.closed {
            let resting = state.fault.as_ref().is_some_and(|(_, since)| since.elapsed() < RETRY_AFTER);
            let chosen = match state.keep {
                Some(keep) if !resting => {
                    let mut store = lock(&self.store);
                    let over = store.managed_bytes().saturating_sub(keep).saturating_sub(state.leaving);
                    // Few of them at a time would be many files.
                    let least = if over > 0 && is_crowded() { BATCH_BYTES } else { 0 };
                    store.choose(over.max(least), BATCH_BYTES, state.replicas)
                }
                _ => Default::default(),
            };
            if chosen.victims.is_empty() && chosen.gone.is_empty() {
                let enough = state.keep.is_none_or(|keep| lock(&self.store).managed_bytes() <= keep);
                if enough && state.keep.is_some() {
                    state.fault = None;
                }
                if !enough && !resting && state.leaving == 0 && !state.exhausted {
                    state.exhausted = true;
                    (self.tell)();
                }
                // Woken when more has to go; readers that let go are not told.
                state = self.work.wait_timeout(state, RETRY_AFTER).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            state.leaving += chosen.bytes;
            drop(state);
            drop(chosen.gone);
            let written = self.write(&chosen.victims);
            state = lock(&self.state);
            state.leaving -= chosen.bytes;
            match written {
                Ok(()) if chosen.victims.is_empty() => {}
                Ok(()) => {
                    if state.fault.take().is_some() {
                        tracing::info!("results go to disk again");
                    }
                }
                Err(error) => {
                    let why = format!("results cannot be spilled: {error}");
                    if state.fault.is_none() {
                        tracing::warn!("{why}; they stay in memory");
                    }
                    state.fault = Some((why, Instant::now()));
                }
            }
            drop(chosen.victims);
            (self.tell)();
        }
    }

    /// Writes results and takes them out of memory. Those that could not be written stay.
    fn write(&self, victims: &[crate::worker::store::Victim]) -> io::Result<()> {
        if victims.is_empty() {
            return Ok(());
        }
        let put = || {
            let results: Vec<_> = victims.iter().map(|v| v.result.clone()).collect();
            self.spill.write(&results)
        };
        let mut written = put();
        if written.is_err() && lock(&self.store).drop_copies() {
            // These only saved writing them again.
            written = put();
        }
        let mut store = lock(&self.store);
        match written {
            Ok(moved) => {
                for (victim, moved) in victims.iter().zip(moved) {
                    store.left(victim, moved);
                }
                Ok(())
            }
            Err(error) => {
                victims.iter().for_each(|victim| store.stays(victim));
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Attempt, RunId, TaskRef};
    use crate::worker::store::data::Data;
    use crate::worker::store::spill::tests::PoorDisk;
    use std::sync::atomic::{AtomicU64, Ordering};

    const SIZE: u64 = 1 << 20;

    fn spiller(room: u64) -> (Spiller, Arc<Mutex<Store>>, Arc<AtomicU64>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let room = Arc::new(AtomicU64::new(room));
        let disk = PoorDisk { room: room.clone(), ..PoorDisk::default() };
        let store = Arc::new(Mutex::new(Store::default()));
        let spill = Spill::new(dir.path(), None, disk);
        (Spiller::start(store.clone(), spill, || {}).unwrap(), store, room, dir)
    }

    fn fill(store: &Mutex<Store>, n: u32) {
        for index in 0..n {
            let result = TaskResult::of(Data::of_bytes(vec![index as u8; SIZE as usize].into()).unwrap());
            let task = TaskRef { run: RunId(1), index };
            lock(store).insert(task, Attempt { epoch: 1, n: 1 }, Arc::new(result));
        }
    }

    /// Bytes in memory and on disk.
    fn bytes(store: &Mutex<Store>) -> (u64, u64) {
        let store = lock(store);
        (store.managed_bytes(), store.spilled_bytes())
    }

    fn until(what: &str, check: impl Fn() -> bool) {
        let begin = Instant::now();
        while !check() {
            assert!(begin.elapsed() < Duration::from_secs(30), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn only_what_is_too_much_leaves() {
        let (spiller, store, _, _dir) = spiller(u64::MAX);
        fill(&store, 10);
        spiller.keep(Some(4 * SIZE), false);
        until("it goes", || bytes(&store).0 <= 4 * SIZE && !spiller.is_busy());
        assert_eq!(bytes(&store), (4 * SIZE, 6 * SIZE));
        let first = lock(&store).find(TaskRef { run: RunId(1), index: 0 }).unwrap().clone();
        assert_eq!(first.parts[0].1.bytes().unwrap(), vec![0; SIZE as usize]);
        assert_eq!(first.spilled_bytes(), SIZE);
    }

    #[test]
    fn a_full_disk_leaves_results_in_memory_until_it_has_room() {
        let (spiller, store, room, _dir) = spiller(SIZE / 2);
        fill(&store, 3);
        assert!(!spiller.is_hopeful());
        spiller.keep(Some(0), false);
        until("it says why", || spiller.fault().is_some());
        assert!(spiller.fault().unwrap().contains("space"), "{:?}", spiller.fault());
        assert_eq!((bytes(&store).0, spiller.spill().used()), (3 * SIZE, 0));
        room.store(u64::MAX, Ordering::Relaxed);
        until("it goes", || bytes(&store).0 == 0);
        until("the fault is over", || spiller.fault().is_none());
    }

    #[test]
    fn there_is_no_hope_when_everything_is_in_use() {
        let (spiller, store, _, _dir) = spiller(u64::MAX);
        fill(&store, 2);
        let task = |index| TaskRef { run: RunId(1), index };
        let reader = lock(&store).use_result(task(0));
        spiller.keep(Some(0), false);
        until("the other goes", || bytes(&store).0 == SIZE);
        until("it gives up", || !spiller.is_hopeful());
        drop(reader);
        spiller.keep(Some(1), false);
        until("it goes too", || bytes(&store).0 == 0);
    }
}
