//! The loop of a registered worker: messages, ended tasks, arrived results, requests and timers, one at a
//! time, and one report about all of it. Owns when things are said and when the worker has to leave; what
//! happens to tasks is `work`'s.

use super::answers::Answers;
use super::core::event::Event;
use super::cpu::Cpu;
use super::peaks::Peaks;
use super::scheduler_link::Link;
use super::server::{Ending, Request};
use super::transfer::Traffic;
use super::transfer::brought::Brought;
use super::work::Work;
use crate::base::error::Result;
use crate::net::connection::{Sender, TrySendError};
use crate::protocol::messages::client::Reason;
use crate::protocol::messages::worker::{FromWorker, Heartbeat, ToWorker};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior};

/// How often tasks that wait in line behind others are looked after.
const LINE_LOOK: Duration = Duration::from_millis(20);

/// Between two reports, where the second one may wait: at thousands of commands a second, one report for each
/// costs as much as a tenth of what a short command itself does.
const REPORT_GAP: Duration = Duration::from_millis(2);

/// How often those who look are told something while tasks execute.
const PULSE: Duration = Duration::from_secs(1);

/// When nothing is left to do they are told at once, but not again within this time.
const PULSE_MIN: Duration = Duration::from_millis(250);

/// How long a farewell may take.
const FAREWELL_TIME: Duration = Duration::from_secs(2);

/// Why a worker leaves that is as old as it was to become.
pub(super) const LIFETIME_OVER: &str = "its lifetime is over";

/// How long a worker that is stopped still writes for a later run.
const STOPPED_TIME: Duration = Duration::from_secs(5);

/// When a worker leaves by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// After so long without anything to do.
    pub idle: Option<Duration>,
    /// At this time, and why.
    pub until: Option<(Instant, &'static str)>,
    /// So long after it has said that it wants to leave.
    pub retire: Duration,
}

/// How a registration ended.
pub(super) enum End {
    /// The worker leaves.
    Over(Ending),
    /// The connection is gone, for this reason.
    Lost(String),
}

/// A registered worker.
pub(super) struct Driver {
    link: Link,
    /// Tasks and results.
    pub work: Work,
    terms: Terms,
    embedded: bool,
    traffic: Arc<Traffic>,
    /// Set by the pool when tasks have ended.
    ended: Arc<Notify>,
    /// Messages that are not reports, to be sent with the next one.
    notes: Vec<FromWorker>,
    retiring_until: Option<Instant>,
    idle_since: Option<Instant>,
    /// Whether it is its lifetime that makes it leave.
    pub is_aged: bool,
    peaks: Peaks,
    cpu: Cpu,
    /// When the last heartbeat was sent, and the last rectangles.
    beaten: Instant,
    shown: Instant,
    answers: Answers,
}

/// What woke the loop.
enum Woken {
    Messages(Result<usize>),
    Ended,
    Arrived(Event),
    Request(Option<Request>),
    Brought(Brought),
    Beat,
    Memory,
    Pulse,
    Timer,
    Room,
    Report,
    Line,
}

impl Driver {
    pub(super) fn new(
        link: Link,
        work: Work,
        terms: Terms,
        embedded: bool,
        traffic: Arc<Traffic>,
        ended: Arc<Notify>,
        answers: Answers,
    ) -> Driver {
        let (notes, retiring_until, idle_since) = (Vec::new(), None, None);
        let (peaks, is_aged, now) = (Peaks::default(), false, Instant::now());
        Driver {
            link,
            work,
            terms,
            embedded,
            traffic,
            ended,
            notes,
            retiring_until,
            idle_since,
            is_aged,
            peaks,
            cpu: Cpu::default(),
            beaten: now,
            shown: now,
            answers,
        }
    }

    /// Works until the end of the registration. Tasks may still be running then.
    pub(super) async fn run(
        &mut self,
        requests: &mut mpsc::UnboundedReceiver<Request>,
        brought: &mut mpsc::Receiver<Brought>,
    ) -> End {
        let mut beat =
            tokio::time::interval(Duration::from_millis(self.link.registered.heartbeat_ms.max(10)));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (reporter, reports) = mpsc::channel(1);
        let reporting = tokio::spawn(report(self.link.sender.clone(), reports));
        let mut inbox = Vec::new();
        let gauge = self.work.gauge();
        let mut held_back = false;
        let (mut told, mut later) = (Instant::now(), None);
        let mut look = tokio::time::interval(LINE_LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = loop {
            let timer = self.next_timer();
            let ended = self.ended.clone();
            let woken = tokio::select! {
                received = self.link.receiver.recv_many(&mut inbox) => Woken::Messages(received),
                () = ended.notified() => Woken::Ended,
                event = self.work.next_arrival() => Woken::Arrived(event),
                request = requests.recv() => Woken::Request(request),
                Some(brought) = brought.recv() => Woken::Brought(brought),
                _ = beat.tick() => Woken::Beat,
                _ = pulse.tick(), if self.work.is_active() => Woken::Pulse,
                () = gauge.changed() => Woken::Memory,
                () = tokio::time::sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {
                    Woken::Timer
                }
                _ = look.tick(), if self.work.has_line() => Woken::Line,
                () = tokio::time::sleep_until(later.unwrap_or(told)), if later.is_some() => Woken::Report,
                // An error means that the connection is broken, which the receiver finds too.
                Ok(_) = reporter.reserve(), if held_back => Woken::Room,
            };
            let is_line = matches!(woken, Woken::Line);
            self.note_peaks();
            if let Some(end) = self.on_woken(woken, &mut inbox) {
                break end;
            }
            self.work.on_finished();
            if is_line {
                self.work.look_at_line();
            }
            self.note_peaks();
            self.work.on_growth();
            self.work.note_waiting();
            if self.work.is_quiet() && self.shown.elapsed() >= PULSE_MIN {
                self.show(true);
                self.on_beat();
            }
            later = self.report_at(told);
            if later.is_some() {
                held_back = false;
                continue;
            }
            held_back = match reporter.try_reserve() {
                Ok(room) => {
                    let mut messages = self.work.take_reports();
                    messages.append(&mut self.notes);
                    if !messages.is_empty() {
                        told = Instant::now();
                        room.send(messages);
                    }
                    false
                }
                Err(_) => true,
            };
        };
        reporting.abort();
        end
    }

    /// Until when news may gather: until a moment after the last ones were `told`.
    fn report_at(&self, told: Instant) -> Option<Instant> {
        let at = told + REPORT_GAP;
        (self.notes.is_empty() && self.work.may_tell_later() && Instant::now() < at).then_some(at)
    }

    fn note_peaks(&mut self) {
        self.peaks.note(self.work.managed_bytes(), self.work.unmanaged_bytes());
        self.peaks.note_paused(self.work.is_paused(), std::time::Instant::now());
    }

    fn on_woken(&mut self, woken: Woken, inbox: &mut Vec<ToWorker>) -> Option<End> {
        match woken {
            Woken::Messages(Ok(0)) => return Some(End::Lost("the scheduler ended the connection".into())),
            Woken::Messages(Ok(_)) => return inbox.drain(..).find_map(|message| self.on_message(message)),
            Woken::Messages(Err(error)) => return Some(End::Lost(error.message)),
            Woken::Arrived(event) => self.work.handle(event),
            Woken::Request(Some(Request::Retire(reason, within))) => self.retire(reason, within),
            Woken::Request(Some(Request::Stop) | None) => return Some(End::Over(Ending::Stopped)),
            Woken::Brought(brought) => self.work.on_brought(brought),
            Woken::Beat => self.on_beat(),
            Woken::Pulse => {
                self.show(false);
                if self.beaten.elapsed() >= PULSE * 9 / 10 {
                    self.on_beat();
                }
            }
            Woken::Memory => {
                self.work.on_memory(true);
                if self.work.memory_has_changed() {
                    self.on_beat();
                }
            }
            Woken::Timer => return self.on_timer(),
            Woken::Ended | Woken::Line | Woken::Room | Woken::Report => {}
        }
        None
    }

    fn on_message(&mut self, message: ToWorker) -> Option<End> {
        match message {
            ToWorker::Families(families) => self.work.learn(families),
            ToWorker::Compute(compute) => {
                if let Err(error) = self.work.on_compute(compute) {
                    return Some(End::Lost(format!("the scheduler sent what it must not: {error}")));
                }
            }
            ToWorker::Free(tasks) => self.work.handle(Event::Free(tasks.tasks)),
            ToWorker::Cancel(attempts) => self.work.on_withdrawn(attempts.attempts, false),
            ToWorker::Steal(attempts) => self.work.on_withdrawn(attempts.attempts, true),
            ToWorker::Replicate(copy) => {
                self.work.handle(Event::Replicate { tasks: copy.tasks, from: copy.from });
            }
            ToWorker::Save(save) => {
                let now = std::time::Instant::now();
                self.work.save(save.tasks, now + self.time_to_save(now.into()));
            }
            ToWorker::Peers(peers) => self.work.meet(peers),
            ToWorker::ForgetRun(run) => self.work.forget_run(run.run),
            ToWorker::Retire(reason) => self.retire(reason.reason, None),
            ToWorker::Dismiss(_) => return Some(End::Over(Ending::Dismissed)),
            ToWorker::Stop(reason) => {
                tracing::info!("stopping: {}", reason.reason);
                return Some(End::Over(Ending::Stopped));
            }
            ToWorker::Prepare(prepare) => self.work.prepare(prepare),
            ToWorker::CallRun(run) => self.work.learn_calls(run),
            ToWorker::CallBatch(batch) => {
                if let Err(error) = self.work.learn_batch(&batch) {
                    return Some(End::Lost(format!("the scheduler sent what it must not: {error}")));
                }
            }
            ToWorker::Look(look) => self.answers.answer(look),
            ToWorker::Refused(reason) => return Some(End::Over(Ending::Refused(reason.reason))),
            ToWorker::Registered(_) => {
                return Some(End::Lost("the scheduler answered a registration twice".into()));
            }
        }
        None
    }

    /// How long results may be written for a later run.
    fn time_to_save(&self, now: Instant) -> Duration {
        let until = self.retiring_until.unwrap_or(now + self.terms.retire);
        until.saturating_duration_since(now).saturating_sub(FAREWELL_TIME)
    }

    /// Waits for what is being written for a later run; not long if the worker is to end at once.
    pub(super) async fn finish_saving(&mut self, ending: &Ending) {
        let limit = match ending {
            Ending::Dismissed => self.time_to_save(Instant::now()),
            _ => STOPPED_TIME,
        };
        self.work.finish_saving(limit).await;
    }

    /// Asks the scheduler to be let go.
    fn retire(&mut self, reason: String, within: Option<Duration>) {
        let timeout = within.unwrap_or(self.terms.retire).min(self.terms.retire);
        let until = Instant::now() + timeout;
        if let Some(before) = self.retiring_until {
            if within.is_some() && until < before {
                tracing::info!(?timeout, "retiring sooner: {reason}");
                self.retiring_until = Some(until);
            }
            return;
        }
        tracing::info!(?timeout, "retiring: {reason}");
        self.retiring_until = Some(until);
        self.notes.push(FromWorker::Retiring(Reason { reason }));
    }

    /// When to look at the clock next.
    fn next_timer(&mut self) -> Option<Instant> {
        if let Some(until) = self.retiring_until {
            return Some(until);
        }
        let idle = self.terms.idle.filter(|_| self.work.is_idle());
        let idle_until = idle.map(|time| *self.idle_since.get_or_insert_with(Instant::now) + time);
        if idle_until.is_none() {
            self.idle_since = None;
        }
        [idle_until, self.terms.until.map(|(at, _)| at)].into_iter().flatten().min()
    }

    fn on_timer(&mut self) -> Option<End> {
        let now = Instant::now();
        if let Some(until) = self.retiring_until {
            if until > now {
                return None;
            }
            tracing::warn!("leaving before the scheduler has let go: the time to retire is over");
            return Some(End::Over(Ending::Stopped));
        }
        if let Some((_, why)) = self.terms.until.filter(|(until, _)| *until <= now) {
            self.is_aged = why == LIFETIME_OVER;
            self.retire(why.into(), None);
        } else if let (Some(since), Some(time)) = (self.idle_since, self.terms.idle)
            && since + time <= now
        {
            self.retire(format!("it had nothing to do for {}", humantime::format_duration(time)), None);
        }
        None
    }

    /// Has rectangles of the task stream sent with the next report.
    fn show(&mut self, last: bool) {
        self.shown = Instant::now();
        self.notes.extend(self.work.take_spans(last).map(FromWorker::Spans));
    }

    fn on_beat(&mut self) {
        self.beaten = Instant::now();
        self.work.close_idle_connections();
        let memory = self.work.tell_memory();
        let now = std::time::Instant::now();
        let disk = self.work.disk();
        let (compute_seconds, fetch_seconds, wait_seconds) = self.work.seconds();
        let sample = self.work.sample();
        let cpu_seconds = match self.embedded {
            true => self.cpu.of_tasks(self.work.cpu, &sample, &self.work.processes()),
            false => self.cpu.of_process(&sample),
        };
        let heartbeat = Heartbeat {
            executing: u32::try_from(self.work.running()).unwrap_or(u32::MAX),
            managed: self.work.managed_bytes(),
            spilled: memory.spilled,
            unmanaged: memory.unmanaged,
            kept: memory.kept,
            process: resident_bytes(),
            cpu_seconds,
            bytes_in: self.traffic.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.traffic.bytes_out.load(Ordering::Relaxed),
            peak_managed: self.peaks.managed(),
            peak_total: self.peaks.total(),
            spill_written: disk.written,
            spill_copied: self.work.copies_written(),
            paused_seconds: self.peaks.paused(now).as_secs_f64(),
            spill_write_seconds: disk.writing.as_secs_f64(),
            spill_read: disk.read,
            spill_read_seconds: disk.reading.as_secs_f64(),
            executors: self.work.executors(),
            compute_seconds,
            fetch_seconds,
            wait_seconds,
            host_network: host_network(),
        };
        match self.link.sender.try_send(FromWorker::Heartbeat(heartbeat)) {
            // The receiver finds out as well, and what is queued shows that we live.
            Ok(()) | Err(TrySendError::Closed(_) | TrySendError::Full(_)) => {}
        }
    }

    /// Says good-bye and ends the connection.
    pub(super) async fn farewell(mut self, ending: &Ending) {
        // When the cluster ends nobody will ask.
        if matches!(ending, Ending::Dismissed) || self.retiring_until.is_some() {
            self.answers.say_last_words(FAREWELL_TIME).await;
        }
        let spans = self.work.take_spans(true);
        let sender = self.link.sender;
        let reason = match ending {
            Ending::Dismissed => "dismissed",
            Ending::Stopped => "stopped",
            Ending::Renewed | Ending::SchedulerGone | Ending::Refused(_) => return,
        };
        let goodbye = FromWorker::Goodbye(Reason { reason: reason.into() });
        let words = spans.map(FromWorker::Spans).into_iter().chain([goodbye]);
        let say = async {
            for word in words {
                sender.send(word).await?;
            }
            Ok::<(), crate::base::error::Error>(())
        };
        let said = tokio::time::timeout(FAREWELL_TIME, say).await;
        if matches!(said, Ok(Ok(()))) {
            // If it does not take it, it notices the end of the connection.
            let _ = sender.close(FAREWELL_TIME).await;
        }
    }
}

/// Sends reports as fast as the scheduler takes them. While it waits here, further news gather in the core
/// and become one report.
async fn report(sender: Sender<FromWorker>, mut reports: mpsc::Receiver<Vec<FromWorker>>) {
    while let Some(messages) = reports.recv().await {
        for message in messages {
            if sender.send(message).await.is_err() {
                return;
            }
        }
    }
}

/// Resident bytes of this process.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    // SAFETY: a plain query without pointers.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages.saturating_mul(u64::try_from(page).unwrap_or(4096))
}

/// Bytes that the host's network has received and sent since it started, the loopback not counted.
fn host_network() -> (u64, u64) {
    let table = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    network_bytes(&table)
}

fn network_bytes(table: &str) -> (u64, u64) {
    let row = |line: &str| {
        let (name, figures) = line.split_once(':')?;
        let mut figures = figures.split_whitespace();
        let received: u64 = figures.next()?.parse().ok()?;
        let sent: u64 = figures.nth(7)?.parse().ok()?;
        (name.trim() != "lo").then_some((received, sent))
    };
    let add = |a: (u64, u64), b: (u64, u64)| (a.0.saturating_add(b.0), a.1.saturating_add(b.1));
    table.lines().filter_map(row).fold((0, 0), add)
}
