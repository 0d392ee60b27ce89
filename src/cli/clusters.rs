//! `clusters`: the list of a user's clusters, and which of them answer.

use super::args::ClustersArgs;
use super::context::{Context, run_short};
use super::output::{Align, Out, Table};
use crate::base::error::{Error, Result};
use crate::net::scheduler_file::{self, Liveness, SchedulerFile};
use crate::net::state_dir::{Listed, StateDir};
use serde_json::{Value, json};

/// `clusters`
pub fn clusters(_: &Context, args: &ClustersArgs) -> Result<u8> {
    let listed = StateDir::of_user()?.clusters()?;
    let states = run_short(async {
        let mut probes = tokio::task::JoinSet::new();
        for (at, l) in listed.iter().enumerate() {
            let file = l.file.clone().ok();
            probes.spawn(async move { (at, probe(file).await) });
        }
        let mut states = vec![("unreadable", String::new()); listed.len()];
        while let Some(probed) = probes.join_next().await {
            let (at, state) = probed.map_err(|e| Error::os("cannot look for clusters", e))?;
            states[at] = state;
        }
        Ok(states)
    })?;
    let mut out = Out::stdout();
    if args.json.json {
        let all: Vec<Value> = listed.iter().zip(&states).map(|(l, s)| cluster_json(l, s)).collect();
        out.json(&all)?;
        return Ok(0);
    }
    if listed.is_empty() {
        out.line("you have no cluster")?;
        return Ok(0);
    }
    let mut table = Table::new([
        ("cluster", Align::Left),
        ("state", Align::Left),
        ("host", Align::Left),
        ("since", Align::Left),
        ("job", Align::Left),
        ("scheduler file", Align::Left),
    ]);
    for (l, (state, _)) in listed.iter().zip(&states) {
        let file = l.file.as_ref().ok();
        let text = |of: &dyn Fn(&SchedulerFile) -> Option<String>| file.and_then(of).unwrap_or("-".into());
        table.row([
            l.id.clone(),
            (*state).to_owned(),
            text(&|f| Some(f.host.clone())),
            text(&|f| Some(f.started.clone())),
            text(&|f| f.job_id.clone()),
            l.path.display().to_string(),
        ]);
    }
    out.table(&table)?;
    Ok(0)
}

async fn probe(file: Option<SchedulerFile>) -> (&'static str, String) {
    let Some(file) = file else { return ("unreadable", String::new()) };
    match scheduler_file::probe(&file).await {
        Liveness::Alive => ("alive", String::new()),
        Liveness::NobodyAnswers(why) | Liveness::OtherAnswers(why) => ("stale", why),
    }
}

fn cluster_json(listed: &Listed, (state, why): &(&str, String)) -> Value {
    let mut json = json!({ "id": listed.id, "state": state, "scheduler-file": listed.path });
    match &listed.file {
        Ok(file) => {
            json["host"] = json!(file.host);
            json["pid"] = json!(file.pid);
            json["address"] = json!(file.address);
            json["started"] = json!(file.started);
            json["job-id"] = json!(file.job_id);
        }
        Err(e) => json["why"] = json!(e.to_string()),
    }
    if !why.is_empty() {
        json["why"] = json!(why);
    }
    json
}
