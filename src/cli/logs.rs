//! `hpcdag logs`: what tasks, workers and the scheduler have printed. Owns the text and how it is followed;
//! the data is the scheduler's answer (`docs/api.md`), printed as it is with --json.

use super::args::LogsArgs;
use super::context::{Context, run_id, run_short};
use super::output::{self, Out};
use crate::base::error::Result;
use crate::base::units::ByteSize;
use crate::client::Client;
use crate::protocol::messages::client::Question;
use crate::protocol::messages::look::View;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often it is asked for more.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// `logs`
pub fn logs(context: &Context, args: &LogsArgs) -> Result<u8> {
    let run = args.run.as_deref().map(run_id).transpose()?;
    let of = args.of.clone();
    let question = || Question::View(View::Logs { of: of.clone(), run, bytes: args.bytes.0 });
    let mut out = Out::stdout();
    run_short(async {
        let client = context.client(&args.scheduler).await?;
        let answer = client.ask(question()).await;
        let shown = match answer {
            Ok(answer) if args.json.json => out.json(&answer),
            Ok(answer) => match show(&mut out, context, &answer) {
                Ok(ends) if args.follow => follow(&client, &question, ends, &mut out).await,
                shown => shown.map(drop),
            },
            Err(error) => Err(error),
        };
        client.close().await;
        shown
    })?;
    Ok(0)
}

/// Where each stream has been shown up to, bytes.
type Ends = BTreeMap<String, u64>;

fn parts(answer: &Value) -> impl Iterator<Item = (&str, &str, u64)> {
    let parts = answer["parts"].as_array().map(Vec::as_slice).unwrap_or_default();
    parts.iter().map(|part| {
        let text = |name: &str| part[name].as_str().unwrap_or_default();
        (text("name"), text("text"), part["left-out"].as_u64().unwrap_or(0))
    })
}

fn show(out: &mut Out, context: &Context, answer: &Value) -> Result<Ends> {
    let mut ends = Ends::new();
    let place = answer["where"].as_str().unwrap_or("?");
    let several = parts(answer).count() > 1;
    let say = |text: &str| {
        if context.verbosity.quiet == 0 {
            output::say(&output::harmless(text));
        }
    };
    if parts(answer).next().is_none() {
        say("it has printed nothing, or that was too long ago");
    } else if answer["gone"] == true {
        say(&format!("worker {place} is gone; this is what it has left behind"));
    }
    for (name, text, left_out) in parts(answer) {
        if several {
            out.line(format!("==> {} <==", output::harmless(name)))?;
        }
        if left_out > 0 {
            say(&format!("{name}: {} before this are left out", ByteSize(left_out)));
        }
        print(out, text)?;
        ends.insert(name.to_owned(), left_out + text.len() as u64);
    }
    Ok(ends)
}

fn print(out: &mut Out, text: &str) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    out.line(output::harmless(text.strip_suffix('\n').unwrap_or(text)))
}

/// Prints what comes until nobody reads any more. An attempt that begins anew is shown from its start.
async fn follow(
    client: &Client,
    question: &impl Fn() -> Question,
    mut ends: Ends,
    out: &mut Out,
) -> Result<()> {
    let mut attempt = None;
    while !out.is_closed() {
        tokio::time::sleep(FOLLOW_INTERVAL).await;
        let answer = client.ask(question()).await?;
        let now = answer["attempt"].as_u64();
        if attempt.is_some() && now != attempt {
            ends.clear();
        }
        attempt = now.or(attempt);
        for (name, text, left_out) in parts(&answer) {
            let shown = ends.get(name).copied().unwrap_or(0);
            print(out, new(text, left_out, shown))?;
            ends.insert(name.to_owned(), left_out + text.len() as u64);
        }
    }
    Ok(())
}

/// What of a text that begins at `start` of its stream comes after `shown`.
fn new(text: &str, start: u64, shown: u64) -> &str {
    let skip = usize::try_from(shown.saturating_sub(start)).unwrap_or(usize::MAX).min(text.len());
    let at = (skip..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    &text[at..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_is_not_shown_again() {
        assert_eq!(new("abcdef", 10, 13), "def");
        assert_eq!(new("abcdef", 10, 5), "abcdef");
        assert_eq!(new("abcdef", 10, 16), "");
        assert_eq!(new("a\u{e9}f", 0, 2), "f");
    }
}
