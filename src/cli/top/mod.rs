//! `hpcdag top`: the cluster in a terminal, live. Owns the loop of keys, answers and drawing, and that the
//! terminal is left as it was; what is drawn is in the files below.

mod data;
mod detail;
mod draw;
mod state;
mod stream;
mod tables;
#[cfg(test)]
mod tests;

use super::args::TopArgs;
use super::context::{Context, run_short};
use super::figures::span;
use super::signals::Requests;
use crate::base::error::{Error, Kind, Result};
use crate::client::Client;
use crate::protocol::messages::client::Question;
use data::{Data, Slot};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEvent};
use serde_json::Value;
use state::{Act, Detail, Screen};
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

/// The most often that the scheduler is asked.
const INTERVAL_MIN: Duration = Duration::from_millis(200);

/// How long the scheduler may think before it is said that it does.
const SILENCE: Duration = Duration::from_secs(3);

/// How often the thread that reads keys looks whether it is still needed.
const KEYS_POLL: Duration = Duration::from_millis(200);

/// `top`
pub(super) fn top(context: &Context, args: &TopArgs) -> Result<u8> {
    if !std::io::stdout().is_terminal() {
        return Err(Error::new(Kind::Usage, "top needs a terminal to draw on")
            .hint("hpcdag status prints one screen of text"));
    }
    let interval = args.interval.0.max(INTERVAL_MIN);
    run_short(async {
        let client = context.looker(&args.scheduler).await?;
        let requests = Requests::listen()?;
        let terminal = ratatui::try_init().map_err(|e| Error::os("cannot set up the terminal", e))?;
        let restore = Restore;
        let shown = show(client.clone(), requests, terminal, interval).await;
        drop(restore);
        client.close().await;
        shown.map(|()| 0)
    })
}

/// Leaves the terminal as it was.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        // A terminal that is gone cannot be restored.
        let _ = ratatui::try_restore();
    }
}

/// What reaches the loop.
enum Update {
    /// Answers to the questions of a page.
    Answers(Vec<(Slot, Result<Value>)>),
    /// A text that was opened.
    Detail(Detail),
}

/// Keys, and that the window has changed, from a thread of their own: reading them blocks.
fn keys() -> mpsc::Receiver<Option<KeyEvent>> {
    let (sender, keys) = mpsc::channel(64);
    std::thread::spawn(move || {
        loop {
            let read = match event::poll(KEYS_POLL) {
                Ok(true) => event::read(),
                Ok(false) if sender.is_closed() => return,
                Ok(false) => continue,
                Err(e) => Err(e),
            };
            let told = match read {
                Ok(Event::Key(key)) => sender.blocking_send(Some(key)),
                Ok(Event::Resize(..)) => sender.blocking_send(None),
                Ok(_) => Ok(()),
                // The terminal is gone: the end of the channel says so.
                Err(_) => return,
            };
            if told.is_err() {
                return;
            }
        }
    });
    keys
}

async fn show(
    client: Client,
    mut requests: Requests,
    mut terminal: DefaultTerminal,
    interval: Duration,
) -> Result<()> {
    let (mut data, mut screen) = (Data::default(), Screen::new());
    let mut keys = keys();
    let (sender, mut updates) = mpsc::channel(4);
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked: Option<Instant> = None;
    let mut ask_again = false;
    loop {
        let mut act = Act::None;
        tokio::select! {
            key = keys.recv() => match key {
                Some(Some(key)) => act = screen.on_key(key),
                Some(None) => {}
                None => return Ok(()),
            },
            update = updates.recv() => match update {
                Some(Update::Answers(answers)) => {
                    asked = None;
                    for (slot, answer) in answers {
                        if let Err(error) = &answer && error.kind == Kind::NoScheduler {
                            return Err(error.clone());
                        }
                        data.take(slot, answer);
                    }
                }
                // Unless it was left in the meantime.
                Some(Update::Detail(detail)) if screen.shows(&detail) => screen.detail = Some(detail),
                Some(Update::Detail(_)) | None => {}
            },
            _ = ticks.tick() => ask_again |= !screen.paused,
            _ = requests.next() => return Ok(()),
        }
        match act {
            Act::None => {}
            Act::Quit => return Ok(()),
            Act::Ask => ask_again = true,
            Act::Open => {
                if let Some((wanted, detail)) = detail::behind(&data, &mut screen) {
                    screen.detail = Some(detail);
                    let (client, sender) = (client.clone(), sender.clone());
                    // Whoever opened it may be gone when it comes.
                    tokio::spawn(async move { sender.send(Update::Detail(wanted.ask(&client).await)).await });
                } else {
                    ask_again = true;
                }
            }
        }
        if let Some(since) = asked.map(|at| at.elapsed()).filter(|since| *since > SILENCE) {
            data.trouble = Some(format!("no answer for {}", span(since.as_secs_f64().floor())));
        }
        if ask_again && asked.is_none() {
            (ask_again, asked) = (false, Some(Instant::now()));
            let (client, sender, questions) = (client.clone(), sender.clone(), data.questions(&screen));
            tokio::spawn(async move { sender.send(Update::Answers(ask(&client, questions).await)).await });
        }
        let drawn = terminal.draw(|frame| draw::draw(frame, &data, &mut screen));
        drawn.map_err(|e| Error::os("cannot draw on the terminal", e))?;
    }
}

async fn ask(client: &Client, questions: Vec<(Slot, Question)>) -> Vec<(Slot, Result<Value>)> {
    let mut answers = Vec::with_capacity(questions.len());
    for (slot, question) in questions {
        answers.push((slot, client.ask(question).await));
    }
    answers
}
