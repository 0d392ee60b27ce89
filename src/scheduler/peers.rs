//! What the driver remembers of each worker and client: how to reach it, what it has been told. Owns these
//! records; the core knows workers by what they can do.

use super::core::event::BYTES_MAX;
use super::input::{ClientLink, WorkerLink};
use super::view::meter::Meter;
use crate::base::ids::{FamilyIx, Incarnation, RunId, WorkerId};
use crate::base::time::Time;
use crate::protocol::messages::calls::Prepare;
use crate::protocol::messages::client::Hello;
use crate::protocol::messages::worker::{Heartbeat, Register};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// A set of small numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// Adds a number; false if it was there.
    pub fn insert(&mut self, n: u32) -> bool {
        let (word, bit) = (n as usize / 64, 1u64 << (n % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }
}

/// A connected worker.
#[derive(Debug)]
pub struct WorkerPeer {
    /// Its name.
    pub name: String,
    /// Its host.
    pub host: String,
    /// Where others reach it.
    pub address: String,
    /// Its process.
    pub pid: u32,
    /// The batch job it belongs to.
    pub job_id: Option<String>,
    /// The pool of jobs that it belongs to.
    pub pool: Option<String>,
    /// This life of its process.
    pub incarnation: Incarnation,
    /// When it registered.
    pub joined: SystemTime,
    /// What it said of itself last.
    pub figures: Heartbeat,
    /// How fast these grow: CPU, bytes in and out, bytes written and read, tasks.
    pub(super) meter: Meter<6>,
    /// Bytes at which it acts on its memory: target, spill, pause, terminate.
    pub thresholds: [Option<u64>; 4],
    /// Whether the end of its connection is no surprise.
    pub leaving: bool,
    /// How to reach it.
    pub link: WorkerLink,
    /// Families it has been told about.
    families: BTreeMap<RunId, Bits>,
    /// Workers whose addresses it has been told.
    peers: Bits,
}

impl WorkerPeer {
    /// A worker that has just registered.
    pub fn new(register: Register, link: WorkerLink) -> WorkerPeer {
        WorkerPeer {
            name: register.name,
            host: register.host,
            address: register.address,
            pid: register.pid,
            job_id: register.job_id,
            pool: register.pool,
            incarnation: register.incarnation,
            joined: SystemTime::now(),
            figures: Heartbeat::default(),
            meter: Meter::default(),
            thresholds: register.memory_thresholds.map(|t| t.map(|bytes| bytes.min(BYTES_MAX))),
            leaving: false,
            link,
            families: BTreeMap::new(),
            peers: Bits::default(),
        }
    }

    /// Notes that the worker is being told about a family; false if it knows it.
    pub fn meet_family(&mut self, run: RunId, family: FamilyIx) -> bool {
        self.families.entry(run).or_default().insert(family.0)
    }

    /// Notes that the worker is being told another's address; false if it knows it.
    pub fn meet_peer(&mut self, peer: WorkerId) -> bool {
        self.peers.insert(peer.0)
    }

    /// Notes that the worker is being told that a run is over; false if it never heard of it.
    pub fn forget_run(&mut self, run: RunId) -> bool {
        self.families.remove(&run).is_some()
    }
}

/// The names of gone workers that are kept.
const GONE_MAX: usize = 1000;

/// Names of workers that are gone, for stories: the latest thousand.
#[derive(Debug, Default)]
pub struct GoneWorkers(BTreeMap<WorkerId, String>);

impl GoneWorkers {
    /// Notes that a worker is gone.
    pub fn note(&mut self, worker: WorkerId, name: &str) {
        self.0.insert(worker, name.to_owned());
        if self.0.len() > GONE_MAX {
            self.0.pop_first();
        }
    }

    /// Its name, if it is still known.
    pub fn name(&self, worker: WorkerId) -> Option<&str> {
        self.0.get(&worker).map(String::as_str)
    }
}

/// A client session, connected or within its lease.
#[derive(Debug)]
pub struct ClientPeer {
    /// Its session.
    pub session: uuid::Uuid,
    /// Its host and process, for the log.
    pub place: String,
    /// Whether it only looks: it is none of those whom the cluster is there for.
    pub looks_only: bool,
    /// How to reach it, while it is connected.
    pub link: Option<ClientLink>,
    /// Which of its connections this is.
    pub connection: u64,
    /// When its connection ended.
    pub left: Time,
    /// What its calls will need, as far as it has said.
    pub prepare: Option<Prepare>,
}

impl ClientPeer {
    /// A client that has just connected.
    pub fn new(hello: &Hello, link: ClientLink, connection: u64) -> ClientPeer {
        let place = format!("{} (process {})", hello.host.escape_debug(), hello.pid);
        let (session, looks_only) = (hello.session, hello.looks_only);
        ClientPeer {
            session,
            place,
            looks_only,
            link: Some(link),
            connection,
            left: Time::ZERO,
            prepare: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_gone_workers_are_known() {
        let mut gone = GoneWorkers::default();
        (0..=1000).for_each(|n| gone.note(WorkerId(n), &format!("w{n}")));
        assert_eq!((gone.name(WorkerId(0)), gone.name(WorkerId(1000))), (None, Some("w1000")));
    }

    #[test]
    fn bits_say_what_is_new() {
        let mut bits = Bits::default();
        for n in [0, 63, 64, 1000] {
            assert!(bits.insert(n));
            assert!(!bits.insert(n));
        }
        assert!(bits.insert(1));
    }
}
