//! What sessions share by name: locks, semaphores, events, variables, queues, published results. A core like
//! the other one: events in, actions out, no clock and no socket. Owns who holds what, who waits for what and
//! which results must be kept for it; what values mean is their users'.
//!
//! A request is carried out once, however often it is sent: answers are kept until the client says that it
//! has heard them, and the results that a value needs with them.

mod limits;
mod session;
mod thing;

#[cfg(test)]
mod tests;

use crate::base::ids::{ClientId, RunUuid};
use crate::base::time::Time;
use crate::protocol::messages::share::{Kind, Outcome, Share, Shared, Verb};
use session::Session;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use thing::{Holds, Thing, Value};

/// What can happen.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client asks for something.
    Request {
        /// Who.
        client: ClientId,
        /// What.
        share: Share,
    },
    /// A client's connection has ended; its session may come back.
    ConnectionGone {
        /// Whose.
        client: ClientId,
    },
    /// A client's session is over.
    SessionEnded {
        /// Whose.
        client: ClientId,
    },
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send this answer.
    Answer {
        /// To whom.
        client: ClientId,
        /// The answer.
        answer: Shared,
    },
    /// Keep these results, whoever else wants them.
    KeepWanted {
        /// Run and number of each.
        tasks: Vec<(RunUuid, u32)>,
    },
    /// These results are not needed here any more.
    LetGo {
        /// Run and number of each.
        tasks: Vec<(RunUuid, u32)>,
    },
}

/// What something is called.
type Key = (Kind, String);

/// A request that waits, or is about to be carried out.
#[derive(Clone, Debug)]
struct Pending {
    key: Key,
    verb: Verb,
    owner: String,
    value: Option<Value>,
    until: Option<Time>,
}

/// All that is shared.
#[derive(Debug, Default)]
pub struct Board {
    things: BTreeMap<Key, Thing>,
    datasets: usize,
    sessions: BTreeMap<ClientId, Session>,
    deadlines: BTreeSet<(Time, ClientId, u32)>,
    holds: Holds,
    answers: Vec<Action>,
}

impl Board {
    /// Takes in what has happened, and says what is to be done about it.
    pub fn handle(&mut self, event: Event, now: Time) -> Vec<Action> {
        match event {
            Event::Request { client, share } => self.request(client, share, now),
            Event::ConnectionGone { client } if self.is_bound(client) => self.end(client),
            Event::ConnectionGone { .. } => {}
            Event::SessionEnded { client } => self.end(client),
            Event::Tick => {}
        }
        self.expire(now);
        // Results are kept before anybody hears of them, and let go when nobody refers to them any more.
        let (keep, let_go) = self.holds.take_changes();
        let mut actions = Vec::new();
        if !keep.is_empty() {
            actions.push(Action::KeepWanted { tasks: keep });
        }
        actions.append(&mut self.answers);
        if !let_go.is_empty() {
            actions.push(Action::LetGo { tasks: let_go });
        }
        actions
    }

    /// When `Tick` is due.
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(at, ..)| *at)
    }

    /// Whether a session is that of an executor: what it holds ends with its connection.
    pub fn is_bound(&self, client: ClientId) -> bool {
        self.sessions.get(&client).is_some_and(|s| s.bound)
    }

    fn request(&mut self, client: ClientId, share: Share, now: Time) {
        let session = self.sessions.entry(client).or_default();
        for answer in session.hear(&share.heard) {
            self.holds.drop_value(&answer.value);
        }
        if let Some(answer) = session.answered(share.id) {
            let answer = answer.message(share.id);
            return self.answers.push(Action::Answer { client, answer });
        }
        if session.is_waiting(share.id) {
            return;
        }
        let id = share.id;
        if session.is_full() {
            let why = limits::too_many_requests();
            let answer = Shared { id, outcome: Outcome::Refused(why), body: Default::default() };
            // Not kept: what is sent again may have room then.
            return self.answers.push(Action::Answer { client, answer });
        }
        match self.begin(client, share, now) {
            Ok(None) => {}
            Ok(Some((outcome, value))) => self.answer(client, id, outcome, value),
            Err(why) => self.answer(client, id, Outcome::Refused(why), None),
        }
    }

    /// Carries out a request, as far as it can be at once; `None` if the answer comes otherwise.
    fn begin(
        &mut self,
        client: ClientId,
        share: Share,
        now: Time,
    ) -> Result<Option<(Outcome, Option<Value>)>, String> {
        let waits = limits::check(&share, self.things.len(), self.datasets, self.holds.bytes())?;
        let key: Key = (share.kind, share.name);
        let number = |n: usize| Ok(Some((Outcome::Number(n as u64), None)));
        let done = Ok(Some((Outcome::Done, None)));
        match (share.kind, share.verb) {
            (Kind::Session, Verb::Bind) => {
                self.sessions.entry(client).or_default().bound = true;
                return done;
            }
            (Kind::Session, Verb::Withdraw) => {
                let id = share.limit.unwrap_or_default();
                let key = self.sessions.get(&client).and_then(|s| s.waiting.get(&id)).map(|p| p.key.clone());
                self.give_up(client, id, Outcome::TimedOut);
                key.iter().for_each(|key| self.withdraw(key, client, id));
                return done;
            }
            (Kind::Session, _) => return done,
            (_, Verb::List) => {
                let names = self.things.range((Kind::Dataset, String::new())..);
                let names = names.take_while(|((kind, _), _)| *kind == Kind::Dataset);
                return Ok(Some((Outcome::Names(names.map(|((_, name), _)| name.clone()).collect()), None)));
            }
            (kind, Verb::Count) => return number(self.things.get(&key).map_or(0, |t| t.count(kind))),
            (Kind::Dataset, Verb::Get) => {
                let value = self.things.get(&key).and_then(|t| t.values.front()).cloned();
                return Ok(Some(match value {
                    Some(value) => (Outcome::Value(value.tasks.to_vec()), Some(value)),
                    None => (Outcome::Missing, None),
                }));
            }
            (Kind::Dataset, Verb::Put) if self.things.contains_key(&key) => {
                return Err(format!("there is a dataset {:?} already; unpublish it first", key.1));
            }
            (Kind::Variable | Kind::Dataset | Kind::Queue, Verb::Delete) => {
                let found = self.delete(&key);
                return Ok(Some((if found { Outcome::Done } else { Outcome::Missing }, None)));
            }
            (_, Verb::Release) => {
                self.release(client, &key, &share.owner)?;
                return done;
            }
            _ => {}
        }
        if share.kind == Kind::Dataset && !self.things.contains_key(&key) {
            self.datasets += 1;
        }
        let thing = self.things.entry(key.clone()).or_default();
        if let Err(why) = thing.agree(share.kind, share.limit) {
            return Err(format!("{} {:?} {why}", limits::word(share.kind), key.1));
        }
        let has_value = matches!(share.verb, Verb::Set | Verb::Put) && share.kind != Kind::Event;
        let value = has_value.then(|| Value::new(&share.body, share.tasks));
        if let Some(value) = &value {
            self.holds.keep(value);
        }
        match share.verb {
            Verb::Clear => thing.set = false,
            Verb::Set if share.kind == Kind::Event => thing.set = true,
            Verb::Set | Verb::Put if share.kind != Kind::Queue => {
                for old in thing.values.drain(..).collect::<Vec<_>>() {
                    self.holds.drop_value(&Some(old));
                }
                thing.values.extend(value);
            }
            verb => {
                let until = share.timeout_ms.map(|ms| now.after(Duration::from_millis(ms)));
                let queue = if verb == Verb::Put { &mut thing.givers } else { &mut thing.takers };
                queue.push_back((client, share.id));
                let pending = Pending { key: key.clone(), verb, owner: share.owner, value, until };
                self.deadlines.extend(until.map(|at| (at, client, share.id)));
                self.sessions.entry(client).or_default().waiting.insert(share.id, pending);
            }
        }
        self.serve(&key);
        Ok(if waits { None } else { Some((Outcome::Done, None)) })
    }

    /// Lets those go on that can.
    fn serve(&mut self, key: &Key) {
        while let Some(thing) = self.things.get_mut(key) {
            let Some((client, id)) = thing.next(key.0) else { break };
            let Some(pending) = self.sessions.get_mut(&client).and_then(|s| s.waiting.remove(&id)) else {
                continue;
            };
            self.forget_deadline(client, id, pending.until);
            self.carry_out(client, id, pending);
        }
        if self.things.get(key).is_some_and(Thing::is_idle) {
            self.remove(key);
        }
    }

    /// What a request waited for is there.
    fn carry_out(&mut self, client: ClientId, id: u32, pending: Pending) {
        let Some(thing) = self.things.get_mut(&pending.key) else { return };
        let (mut outcome, mut value) = (Outcome::Done, None);
        let mut taken = None;
        match (pending.key.0, pending.verb) {
            (Kind::Lock | Kind::Semaphore, _) => {
                thing.holders.push((client, pending.owner));
                if let Some(session) = self.sessions.get_mut(&client) {
                    session.holds(&pending.key);
                }
            }
            (Kind::Queue, Verb::Put) => thing.values.extend(pending.value),
            (Kind::Queue, _) => {
                taken = thing.values.pop_front();
                value = taken.clone();
            }
            (Kind::Variable, _) => value = thing.values.front().cloned(),
            _ => {}
        }
        if let Some(value) = &value {
            outcome = Outcome::Value(value.tasks.to_vec());
        }
        self.answer(client, id, outcome, value);
        self.holds.drop_value(&taken);
    }

    fn answer(&mut self, client: ClientId, id: u32, outcome: Outcome, value: Option<Value>) {
        if let Some(value) = &value {
            self.holds.keep(value);
        }
        let answer = session::Answer { outcome, value };
        self.answers.push(Action::Answer { client, answer: answer.message(id) });
        match self.sessions.get_mut(&client) {
            Some(session) => session.answers.extend([(id, answer)]),
            None => self.holds.drop_value(&answer.value),
        }
    }

    fn release(&mut self, client: ClientId, key: &Key, owner: &str) -> Result<(), String> {
        let what = limits::word(key.0);
        let is_ours = |(c, o): &(ClientId, String)| *c == client && o == owner;
        let holders = self.things.get_mut(key).map(|thing| &mut thing.holders);
        let Some((holders, at)) = holders.and_then(|h| h.iter().position(is_ours).map(|at| (h, at))) else {
            return Err(format!("{what} {:?} is not held by {owner:?} (any more)", key.1));
        };
        holders.remove(at);
        if let Some(session) = self.sessions.get_mut(&client) {
            session.lets_go(key);
        }
        self.serve(key);
        Ok(())
    }

    /// Drops what something has; those who wait to put something into it are told.
    fn delete(&mut self, key: &Key) -> bool {
        let Some(thing) = self.things.get_mut(key) else { return false };
        let values: Vec<Value> = thing.values.drain(..).collect();
        let waiting: Vec<(ClientId, u32)> = match key.0 {
            Kind::Queue => thing.givers.drain(..).chain(thing.takers.drain(..)).collect(),
            _ => Vec::new(),
        };
        for (client, id) in waiting {
            self.give_up(client, id, Outcome::Refused(format!("queue {:?} was closed", key.1)));
        }
        let found = !values.is_empty() || key.0 == Kind::Queue;
        values.into_iter().for_each(|value| self.holds.drop_value(&Some(value)));
        self.serve(key);
        found
    }

    /// Answers a request that was taken out of its queue.
    fn give_up(&mut self, client: ClientId, id: u32, outcome: Outcome) {
        let Some(pending) = self.sessions.get_mut(&client).and_then(|s| s.waiting.remove(&id)) else {
            return;
        };
        self.forget_deadline(client, id, pending.until);
        self.holds.drop_value(&pending.value);
        self.answer(client, id, outcome, None);
    }

    fn forget_deadline(&mut self, client: ClientId, id: u32, until: Option<Time>) {
        if let Some(at) = until {
            self.deadlines.remove(&(at, client, id));
        }
    }

    fn expire(&mut self, now: Time) {
        while let Some(&(at, client, id)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            let key = self.sessions.get(&client).and_then(|s| s.waiting.get(&id)).map(|p| p.key.clone());
            self.give_up(client, id, Outcome::TimedOut);
            if let Some(key) = key {
                self.withdraw(&key, client, id);
            }
        }
    }

    /// Takes a request out of its queue; the next may be able to go on then.
    fn withdraw(&mut self, key: &Key, client: ClientId, id: u32) {
        if let Some(thing) = self.things.get_mut(key) {
            thing.givers.retain(|w| *w != (client, id));
            thing.takers.retain(|w| *w != (client, id));
        }
        self.serve(key);
    }

    /// Forgets a session, and lets go of what it holds.
    fn end(&mut self, client: ClientId) {
        let Some(session) = self.sessions.remove(&client) else { return };
        session.answers.values().for_each(|answer| self.holds.drop_value(&answer.value));
        for (id, pending) in session.waiting {
            self.forget_deadline(client, id, pending.until);
            self.holds.drop_value(&pending.value);
            self.withdraw(&pending.key, client, id);
        }
        for key in session.held.into_keys() {
            if let Some(thing) = self.things.get_mut(&key) {
                thing.holders.retain(|(c, _)| *c != client);
            }
            self.serve(&key);
        }
    }

    fn remove(&mut self, key: &Key) {
        if self.things.remove(key).is_some() && key.0 == Kind::Dataset {
            self.datasets -= 1;
        }
    }
}
