//! What each kind does, one by one; and anything in any order, by seeds, with all invariants checked.

use super::limits::{OPEN_MAX, VALUE_BYTES_MAX};
use super::*;
use bytes::Bytes;
use uuid::Uuid;

const A: ClientId = ClientId(1);
const B: ClientId = ClientId(2);

/// Sends requests, with numbers as clients count them.
#[derive(Default)]
struct Stage {
    board: Board,
    now: Time,
    ids: BTreeMap<ClientId, u32>,
    answers: BTreeMap<(ClientId, u32), Shared>,
    /// Results that are kept.
    kept: BTreeSet<(Uuid, u32)>,
}

fn share(kind: Kind, verb: Verb, name: &str) -> Share {
    Share {
        id: 0,
        heard: Vec::new(),
        kind,
        verb,
        name: name.into(),
        owner: "o".into(),
        limit: None,
        timeout_ms: None,
        tasks: Vec::new(),
        body: Bytes::new(),
    }
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

impl Stage {
    fn handle(&mut self, event: Event) {
        for action in self.board.handle(event, self.now) {
            match action {
                Action::Answer { client, answer } => {
                    if let Some(before) = self.answers.insert((client, answer.id), answer.clone()) {
                        assert_eq!(before, answer, "an answer that is given again is the same");
                    }
                }
                Action::KeepWanted { tasks } => {
                    tasks.into_iter().for_each(|t| assert!(self.kept.insert(t), "{t:?} is kept already"));
                }
                Action::LetGo { tasks } => {
                    tasks.into_iter().for_each(|t| assert!(self.kept.remove(&t), "{t:?} was not kept"));
                }
            }
        }
    }

    fn ask(&mut self, client: ClientId, share: Share) -> u32 {
        let id = self.ids.entry(client).or_default();
        *id += 1;
        let id = *id;
        self.handle(Event::Request { client, share: Share { id, ..share } });
        id
    }

    fn outcome(&self, client: ClientId, id: u32) -> Option<&Outcome> {
        self.answers.get(&(client, id)).map(|a| &a.outcome)
    }

    /// Asks, and the answer if it is there at once.
    fn now(&mut self, client: ClientId, share: Share) -> Option<Outcome> {
        let id = self.ask(client, share);
        self.outcome(client, id).cloned()
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now.after(Duration::from_millis(ms));
        self.handle(Event::Tick);
    }
}

fn acquire(name: &str, owner: &str) -> Share {
    Share { owner: owner.into(), ..share(Kind::Lock, Verb::Acquire, name) }
}

fn release(name: &str, owner: &str) -> Share {
    Share { owner: owner.into(), ..share(Kind::Lock, Verb::Release, name) }
}

#[test]
fn a_lock_goes_from_one_to_the_next_in_their_order() {
    let mut s = Stage::default();
    assert_eq!(s.now(A, acquire("x", "1")), Some(Outcome::Done));
    let waiting: Vec<u32> = (2..5).map(|n| s.ask(B, acquire("x", &n.to_string()))).collect();
    assert!(waiting.iter().all(|id| s.outcome(B, *id).is_none()));
    assert_eq!(s.now(A, acquire("other", "1")), Some(Outcome::Done));
    assert!(matches!(s.now(B, release("x", "1")), Some(Outcome::Refused(_))), "it is not B's");
    assert_eq!(s.now(A, release("x", "1")), Some(Outcome::Done));
    assert_eq!(s.outcome(B, waiting[0]), Some(&Outcome::Done));
    assert_eq!(s.outcome(B, waiting[1]), None);
    assert_eq!(s.now(A, share(Kind::Lock, Verb::Count, "x")), Some(Outcome::Number(1)));
    let now = Share { timeout_ms: Some(0), ..acquire("x", "9") };
    assert_eq!(s.now(A, now), Some(Outcome::TimedOut));
    assert!(matches!(s.now(A, release("x", "1")), Some(Outcome::Refused(_))), "it was let go already");
}

#[test]
fn who_waits_too_long_does_not_get_it_later() {
    let mut s = Stage::default();
    s.ask(A, acquire("x", "1"));
    let late = s.ask(B, Share { timeout_ms: Some(100), ..acquire("x", "2") });
    let patient = s.ask(B, acquire("x", "3"));
    s.pass(99);
    assert_eq!(s.outcome(B, late), None);
    assert!(s.board.next_deadline().is_some());
    s.pass(1);
    assert_eq!(s.outcome(B, late), Some(&Outcome::TimedOut));
    assert_eq!(s.board.next_deadline(), None);
    let withdrawn = s.ask(A, acquire("x", "4"));
    let last = s.ask(A, acquire("x", "5"));
    let withdraw = Share { limit: Some(withdrawn), ..share(Kind::Session, Verb::Withdraw, "") };
    assert_eq!(s.now(A, withdraw), Some(Outcome::Done));
    assert_eq!(s.outcome(A, withdrawn), Some(&Outcome::TimedOut));
    s.ask(A, release("x", "1"));
    assert_eq!(s.outcome(B, patient), Some(&Outcome::Done));
    s.ask(B, release("x", "3"));
    assert_eq!(s.outcome(A, last), Some(&Outcome::Done));
}

#[test]
fn sessions_that_end_let_go_and_connections_only_if_they_are_bound() {
    let mut s = Stage::default();
    s.ask(A, acquire("x", "1"));
    s.ask(A, acquire("x", "2"));
    let next = s.ask(B, acquire("x", "3"));
    s.handle(Event::ConnectionGone { client: A });
    assert_eq!(s.outcome(B, next), None, "the session may come back");
    s.handle(Event::SessionEnded { client: A });
    assert_eq!(s.outcome(B, next), Some(&Outcome::Done), "neither of A's is before it any more");
    assert_eq!(s.now(B, share(Kind::Session, Verb::Bind, "")), Some(Outcome::Done));
    assert!(s.board.is_bound(B) && !s.board.is_bound(A));
    let c = ClientId(3);
    let after = s.ask(c, acquire("x", "4"));
    s.handle(Event::ConnectionGone { client: B });
    assert_eq!(s.outcome(c, after), Some(&Outcome::Done));
}

#[test]
fn what_is_sent_again_is_done_once() {
    let mut s = Stage::default();
    let put = Share { body: value("v"), ..share(Kind::Queue, Verb::Put, "q") };
    let id = s.ask(A, put.clone());
    s.handle(Event::Request { client: A, share: Share { id, ..put } });
    assert_eq!(s.now(B, share(Kind::Queue, Verb::Count, "q")), Some(Outcome::Number(1)));
    let get = s.ask(B, share(Kind::Queue, Verb::Get, "q"));
    s.answers.clear();
    s.handle(Event::Request { client: B, share: Share { id: get, ..share(Kind::Queue, Verb::Get, "q") } });
    let again = &s.answers[&(B, get)];
    assert_eq!((&again.outcome, &again.body[..]), (&Outcome::Value(Vec::new()), &b"v"[..]));
    // While it waits, too.
    let waits = s.ask(B, share(Kind::Queue, Verb::Get, "q"));
    s.handle(Event::Request { client: B, share: Share { id: waits, ..share(Kind::Queue, Verb::Get, "q") } });
    s.ask(A, Share { body: value("w"), ..share(Kind::Queue, Verb::Put, "q") });
    assert_eq!(s.now(A, share(Kind::Queue, Verb::Count, "q")), Some(Outcome::Number(0)));
    assert_eq!(&s.answers[&(B, waits)].body[..], b"w");
}

#[test]
fn semaphores_have_as_many_holders_as_they_say() {
    let mut s = Stage::default();
    let lease = |owner: &str, limit| Share {
        owner: owner.into(),
        limit: Some(limit),
        ..share(Kind::Semaphore, Verb::Acquire, "s")
    };
    assert_eq!(s.now(A, lease("1", 2)), Some(Outcome::Done));
    assert_eq!(s.now(A, lease("2", 2)), Some(Outcome::Done));
    let third = s.ask(B, lease("3", 2));
    assert!(matches!(s.now(B, lease("4", 3)), Some(Outcome::Refused(why)) if why.contains("limited to 2")));
    assert!(matches!(s.now(B, lease("4", 0)), Some(Outcome::Refused(_))));
    assert_eq!(s.outcome(B, third), None);
    s.ask(A, Share { owner: "1".into(), ..share(Kind::Semaphore, Verb::Release, "s") });
    assert_eq!(s.outcome(B, third), Some(&Outcome::Done));
}

#[test]
fn events_variables_and_queues() {
    let mut s = Stage::default();
    let waits = s.ask(A, share(Kind::Event, Verb::Wait, "e"));
    assert_eq!(s.now(B, share(Kind::Event, Verb::Set, "e")), Some(Outcome::Done));
    assert_eq!(s.outcome(A, waits), Some(&Outcome::Done));
    assert_eq!(s.now(A, share(Kind::Event, Verb::Wait, "e")), Some(Outcome::Done));
    s.ask(B, share(Kind::Event, Verb::Clear, "e"));
    assert_eq!(s.now(A, share(Kind::Event, Verb::Wait, "e")), None);

    let waits = s.ask(A, share(Kind::Variable, Verb::Get, "e"));
    s.ask(B, Share { body: value("1"), ..share(Kind::Variable, Verb::Set, "e") });
    assert_eq!(&s.answers[&(A, waits)].body[..], b"1");
    s.ask(B, Share { body: value("2"), ..share(Kind::Variable, Verb::Set, "e") });
    let second = s.ask(A, share(Kind::Variable, Verb::Get, "e"));
    assert_eq!(&s.answers[&(A, second)].body[..], b"2");
    assert_eq!(s.now(A, share(Kind::Variable, Verb::Delete, "e")), Some(Outcome::Done));
    assert_eq!(s.now(A, share(Kind::Variable, Verb::Delete, "e")), Some(Outcome::Missing));

    let put = |text: &str| Share { body: value(text), limit: Some(1), ..share(Kind::Queue, Verb::Put, "q") };
    assert_eq!(s.now(A, put("1")), Some(Outcome::Done));
    let (second, third) = (s.ask(A, put("2")), s.ask(A, Share { timeout_ms: Some(50), ..put("3") }));
    assert_eq!((s.outcome(A, second), s.outcome(A, third)), (None, None), "it is full");
    let first = s.ask(B, share(Kind::Queue, Verb::Get, "q"));
    assert_eq!(&s.answers[&(B, first)].body[..], b"1");
    assert_eq!(s.outcome(A, second), Some(&Outcome::Done));
    s.pass(50);
    assert_eq!(s.outcome(A, third), Some(&Outcome::TimedOut));
    let closed = s.ask(A, put("4"));
    assert_eq!(s.now(B, share(Kind::Queue, Verb::Delete, "q")), Some(Outcome::Done));
    assert!(matches!(s.outcome(A, closed), Some(Outcome::Refused(why)) if why.contains("closed")));
}

#[test]
fn results_are_kept_while_a_value_or_an_unheard_answer_refers_to_them() {
    let mut s = Stage::default();
    let task = (Uuid::from_u128(5), 7);
    let publish = Share { body: value("d"), tasks: vec![task], ..share(Kind::Dataset, Verb::Put, "d") };
    assert_eq!(s.now(A, publish.clone()), Some(Outcome::Done));
    assert!(matches!(s.now(A, publish.clone()), Some(Outcome::Refused(why)) if why.contains("already")));
    assert_eq!(s.now(A, Share { verb: Verb::Set, ..publish }), Some(Outcome::Done), "replaced");
    s.handle(Event::SessionEnded { client: A });
    assert!(s.kept.contains(&task), "published results outlive their session");
    assert_eq!(s.now(B, share(Kind::Dataset, Verb::List, "")), Some(Outcome::Names(vec!["d".into()])));
    let got = s.ask(B, share(Kind::Dataset, Verb::Get, "d"));
    assert_eq!(s.outcome(B, got), Some(&Outcome::Value(vec![task])));
    assert_eq!(s.now(B, share(Kind::Dataset, Verb::Delete, "d")), Some(Outcome::Done));
    assert!(s.kept.contains(&task), "B may not have the answer yet");
    s.ask(B, Share { heard: vec![got], ..share(Kind::Session, Verb::Heard, "") });
    assert!(s.kept.is_empty());
    assert_eq!(s.now(B, share(Kind::Dataset, Verb::Get, "d")), Some(Outcome::Missing));
}

#[test]
fn too_much_is_refused_with_what_to_do() {
    let mut s = Stage::default();
    let refused = |s: &mut Stage, share: Share| match s.now(A, share) {
        Some(Outcome::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    let large = Bytes::from(vec![0; VALUE_BYTES_MAX + 1]);
    let large = Share { body: large, ..share(Kind::Variable, Verb::Set, "v") };
    assert!(refused(&mut s, large).contains("client.scatter"));
    assert!(refused(&mut s, share(Kind::Lock, Verb::Put, "v")).contains("a lock has no Put"));
    assert!(refused(&mut s, share(Kind::Lock, Verb::Acquire, &"n".repeat(2000))).contains("1000 bytes"));
    let odd = Share { body: value("x"), ..share(Kind::Event, Verb::Set, "v") };
    assert!(refused(&mut s, odd).contains("takes no value"));
    let before = s.ids[&A];
    let mut last = None;
    for _ in 0..=OPEN_MAX {
        last = s.now(A, share(Kind::Event, Verb::Wait, "never"));
    }
    assert!(matches!(last, Some(Outcome::Refused(why)) if why.contains("without an answer")), "{before}");
}

/// A board as it must be at any time.
fn check(s: &Stage) {
    let mut counts: BTreeMap<(Uuid, u32), u32> = BTreeMap::new();
    let mut add = |value: &Value| value.tasks.iter().for_each(|t| *counts.entry(*t).or_default() += 1);
    for (key, thing) in &s.board.things {
        assert!(!thing.is_idle(), "{key:?} is not used");
        if key.0 == Kind::Lock {
            assert!(thing.holders.len() <= 1);
        }
        if matches!(key.0, Kind::Lock | Kind::Semaphore) && !thing.takers.is_empty() {
            assert!(!thing.holders.is_empty(), "{key:?} is free and somebody waits");
        }
        assert!(key.0 != Kind::Queue || thing.takers.is_empty() || thing.values.is_empty());
        for (client, _) in &thing.holders {
            assert!(s.board.sessions.contains_key(client), "{key:?} is held by nobody");
        }
        for (client, id) in thing.takers.iter().chain(&thing.givers) {
            assert!(s.board.sessions[client].waiting.contains_key(id), "{key:?}: {client} {id}");
        }
        thing.values.iter().for_each(&mut add);
    }
    let mut deadlines = 0;
    for session in s.board.sessions.values() {
        session.answers.values().filter_map(|a| a.value.as_ref()).for_each(&mut add);
        session.waiting.values().filter_map(|p| p.value.as_ref()).for_each(&mut add);
        deadlines += session.waiting.values().filter(|p| p.until.is_some()).count();
    }
    assert_eq!(deadlines, s.board.deadlines.len());
    assert_eq!(&counts, s.board.holds.counts());
    assert_eq!(s.kept, counts.into_keys().collect());
    let datasets = s.board.things.keys().filter(|k| k.0 == Kind::Dataset).count();
    assert_eq!(datasets, s.board.datasets);
}

#[test]
fn anything_in_any_order() {
    let kinds =
        [Kind::Lock, Kind::Semaphore, Kind::Event, Kind::Variable, Kind::Queue, Kind::Dataset, Kind::Session];
    let verbs = [
        Verb::Acquire,
        Verb::Release,
        Verb::Set,
        Verb::Clear,
        Verb::Wait,
        Verb::Put,
        Verb::Get,
        Verb::Delete,
        Verb::Count,
        Verb::List,
        Verb::Bind,
        Verb::Withdraw,
        Verb::Heard,
    ];
    let (mut granted, mut timed_out) = (0, 0);
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut s = Stage::default();
        for _ in 0..200 {
            let client = ClientId(rng.u32(0..4));
            match rng.u32(0..40) {
                0 => s.handle(Event::SessionEnded { client }),
                1 => s.handle(Event::ConnectionGone { client }),
                2..6 => s.pass(rng.u64(0..40)),
                6 => {
                    // Again, as after a reconnection: whatever it was, nothing new may come of it.
                    let id = rng.u32(0..=s.ids.get(&client).copied().unwrap_or_default());
                    let known = s.board.sessions.get(&client);
                    let known = known.is_some_and(|x| x.is_waiting(id) || x.answered(id).is_some());
                    if known {
                        let again = Share { id, ..share(Kind::Queue, Verb::Put, "0") };
                        s.handle(Event::Request { client, share: again });
                    }
                }
                _ => {
                    let (kind, verb) = (kinds[rng.usize(0..7)], verbs[rng.usize(0..verbs.len())]);
                    let is_value = matches!(verb, Verb::Set | Verb::Put) && kind != Kind::Event;
                    let last = s.ids.get(&client).copied().unwrap_or_default();
                    // Nobody has heard what was not said.
                    let said = |id: &u32| s.answers.contains_key(&(client, *id));
                    let heard = (1..=last).filter(|id| said(id) && rng.u32(0..4) == 0).collect();
                    let share = Share {
                        owner: rng.u32(0..3).to_string(),
                        heard,
                        limit: match kind {
                            Kind::Semaphore => Some(2),
                            Kind::Session => Some(rng.u32(0..=last)),
                            _ => rng.bool().then_some(3),
                        },
                        timeout_ms: [None, Some(0), Some(rng.u64(1..50))][rng.usize(0..3)],
                        tasks: (0..if is_value { rng.u32(0..3) } else { 0 })
                            .map(|_| (Uuid::from_u128(1), rng.u32(0..5)))
                            .collect::<BTreeSet<_>>()
                            .into_iter()
                            .collect(),
                        body: if is_value { value("v") } else { Bytes::new() },
                        ..share(kind, verb, &rng.u32(0..2).to_string())
                    };
                    s.ask(client, share);
                }
            }
            check(&s);
        }
        granted += s.answers.values().filter(|a| a.outcome == Outcome::Done).count();
        timed_out += s.answers.values().filter(|a| a.outcome == Outcome::TimedOut).count();
        (0..4).for_each(|c| s.handle(Event::SessionEnded { client: ClientId(c) }));
        let lasting = |key: &Key| matches!(key.0, Kind::Variable | Kind::Queue | Kind::Dataset | Kind::Event);
        assert!(s.board.things.keys().all(lasting) && s.board.sessions.is_empty(), "seed {seed}");
        assert!(s.board.deadlines.is_empty());
        check(&s);
    }
    assert!(granted > 5000 && timed_out > 500, "{granted} {timed_out}: it is no walk without these");
}
