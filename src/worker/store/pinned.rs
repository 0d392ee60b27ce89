//! Results that stay in the process that made them, as objects that nothing can turn into bytes. Owns what
//! is known of such a process: whether it lives, what lives in it, and what of that nobody needs any more.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A process in which objects may live.
#[derive(Debug, Default)]
pub struct Home {
    ended: AtomicBool,
    /// How many of its tasks wait for tasks that they have launched.
    away: AtomicU32,
    /// Tasks that it can run at once, less one.
    more: AtomicU32,
    /// Objects that somebody needs.
    held: AtomicUsize,
    /// Objects that nobody needs, by number.
    dropped: Mutex<Vec<u64>>,
    /// To be set if it ends with objects in it.
    watcher: OnceLock<Arc<AtomicBool>>,
}

impl Home {
    /// Has a flag set if the process ends with objects in it. The first one counts.
    pub fn watch(&self, lost: &Arc<AtomicBool>) {
        let _ = self.watcher.set(lost.clone());
    }

    /// Whether the process has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether anything lives in it that somebody needs.
    pub fn is_used(&self) -> bool {
        self.held.load(Ordering::Acquire) > 0
    }

    /// Says how many tasks it can run at once.
    pub fn set_threads(&self, threads: u32) {
        self.more.store(threads.saturating_sub(1), Ordering::Release);
    }

    /// Whether all its tasks wait for tasks that they have launched, so that none of them may end before a
    /// further one has run.
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire) > self.more.load(Ordering::Acquire)
    }

    /// One of its tasks begins to wait for tasks that it has launched, or goes on.
    pub fn set_away(&self, away: bool) {
        match away {
            true => self.away.fetch_add(1, Ordering::AcqRel),
            false => self.away.fetch_sub(1, Ordering::AcqRel),
        };
    }

    /// What nobody needs any more since the last call.
    pub fn take_dropped(&self) -> Vec<u64> {
        std::mem::take(&mut *self.dropped.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// It has ended.
    pub fn end(&self) {
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(watcher) = self.watcher.get().filter(|_| self.is_used()) {
            watcher.store(true, Ordering::Release);
        }
    }
}

/// Kept as long as the process lives.
#[derive(Debug, Default)]
pub struct Living(Arc<Home>);

impl Living {
    /// What is known of the process.
    pub fn home(&self) -> &Arc<Home> {
        &self.0
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// An object that lives in a process. With its last user it goes.
#[derive(Debug)]
pub struct Pinned {
    home: Arc<Home>,
    number: u64,
}

impl Pinned {
    /// An object that the process knows by this number.
    pub fn new(home: &Arc<Home>, number: u64) -> Pinned {
        home.held.fetch_add(1, Ordering::AcqRel);
        Pinned { home: home.clone(), number }
    }

    /// Where it lives.
    pub fn home(&self) -> &Arc<Home> {
        &self.home
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.home.held.fetch_sub(1, Ordering::AcqRel);
        self.home.dropped.lock().unwrap_or_else(PoisonError::into_inner).push(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_needs_is_told_once_and_its_end_only_if_something_lived_there() {
        let (living, lost) = (Living::default(), Arc::new(AtomicBool::new(false)));
        living.home().watch(&lost);
        let object = Arc::new(Pinned::new(living.home(), 7));
        let again = object.clone();
        drop(object);
        assert!(living.home().is_used() && living.home().take_dropped().is_empty());
        drop(again);
        assert!(!living.home().is_used());
        assert_eq!((living.home().take_dropped(), living.home().take_dropped()), (vec![7], vec![]));
        drop(living);
        assert!(!lost.load(Ordering::Acquire), "nothing lived there");

        let living = Living::default();
        living.home().watch(&lost);
        let object = Pinned::new(living.home(), 1);
        drop(living);
        assert!(object.home().has_ended() && lost.load(Ordering::Acquire));
    }

    #[test]
    fn a_process_is_away_when_all_its_threads_are() {
        let living = Living::default();
        let home = living.home();
        home.set_threads(2);
        home.set_away(true);
        assert!(!home.is_away());
        home.set_away(true);
        assert!(home.is_away());
        home.set_away(false);
        assert!(!home.is_away());
    }
}
