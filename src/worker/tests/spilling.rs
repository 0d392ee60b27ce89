//! Results that go to disk, on whole workers: spilling, a full disk, damaged files.

use super::*;

/// A worker that keeps one MiB of results in memory, with two results of 800 kB.
/// Also tells whether the worker paused or went on by the time that both results were there.
async fn spilling(played: &mut Played, max_spill: Option<u64>) -> (Worker, Session, Option<bool>) {
    let settings = &mut played.config.worker;
    settings.memory_limit = MemoryLimit::Size(ByteSize(1 << 40));
    settings.memory.target = Some(Fraction(1.0 / f64::from(1 << 20)));
    settings.memory.max_spill = max_spill.map(ByteSize);
    played.publish().await;
    let (worker, mut session) = played.worker("w", 1).await;
    let make = spec("make", "head -c 800000 /dev/zero | tr '\\0' {index}", &[]);
    let count = spec("count", "tr -d {index} | wc -c", &["make"]);
    session.families(vec![info(0, make, Items::Index), info(1, count, Items::Index)]).await;
    session.compute((0..2).map(|i| Handed(i, 0, i, vec![], None)).collect()).await;
    let news = session.news(|news| news.finished.len() == 2).await;
    (worker, session, news.rare.paused)
}

impl Session {
    async fn beat(&mut self, enough: impl Fn(&Heartbeat) -> bool) {
        let told = async {
            loop {
                let message = self.connection.receiver.recv().await.unwrap().unwrap();
                if matches!(&message, FromWorker::Heartbeat(beat) if enough(beat)) {
                    return;
                }
            }
        };
        soon(told).await;
    }
}

#[tokio::test]
async fn spilled_results_are_served_and_used() {
    let mut played = played().await;
    let (_worker, mut session, _) = spilling(&mut played, None).await;
    session.beat(|b| b.managed <= 1 << 20 && b.spilled >= 800_000 && b.unmanaged > 0).await;
    let got = played.fetch(&session, EPOCH, &[task(0), task(1)]).await.unwrap().0;
    for (index, (_, content)) in got.iter().enumerate() {
        assert!(content.as_ref().unwrap() == &vec![b'0' + index as u8; 800_000], "{index}");
    }
    session.compute((0..2).map(|i| Handed(2 + i, 1, i, vec![(i, vec![])], None)).collect()).await;
    let news = session.news(|news| news.finished.len() + news.rare.failed.len() == 2).await;
    assert_eq!(news.rare.failed, []);
    let got = played.fetch(&session, EPOCH, &[task(2), task(3)]).await.unwrap().0;
    assert!(got.iter().all(|(_, content)| content.as_deref() == Some(b"0\n")), "{got:?}");
}

#[tokio::test]
async fn a_worker_whose_disk_is_full_pauses_and_comes_back() {
    let mut played = played().await;
    let (_worker, mut session, mut paused) = spilling(&mut played, Some(1000)).await;
    if paused.is_none() {
        paused = session.news(|news| news.rare.paused.is_some()).await.rare.paused;
    }
    assert_eq!(paused, Some(true));
    // Its results stay, are served, and one task at a time still runs: it might be what frees them.
    assert_eq!(
        played.fetch(&session, EPOCH, &[task(0)]).await.unwrap().0[0].1.as_ref().unwrap().len(),
        800_000
    );
    session.compute(vec![Handed(2, 1, 0, vec![(0, vec![])], None)]).await;
    session.news(|news| news.finished.len() == 1).await;
    session.say(ToWorker::Free(crate::protocol::messages::worker::Tasks { tasks: vec![task(0)] })).await;
    assert_eq!(session.news(|news| news.rare.paused.is_some()).await.rare.paused, Some(false));
}

#[tokio::test]
async fn a_damaged_file_means_that_the_result_is_not_here() {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    let mut played = played().await;
    let (_worker, mut session, _) = spilling(&mut played, None).await;
    session.beat(|b| b.spilled >= 800_000).await;
    let local = played.dir.path().join("local");
    let mut damaged = 0;
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        if target.starts_with(&local) && target.to_string_lossy().ends_with("(deleted)") {
            std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
            let file = std::fs::OpenOptions::new().write(true).open(entry.path()).unwrap();
            file.write_at(b"wrong", 400_000).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1);
    session.compute((0..2).map(|i| Handed(2 + i, 1, i, vec![(i, vec![])], None)).collect()).await;
    let both = |news: &News| news.rare.missing.len() == 2 && !news.finished.is_empty();
    let news = session.news(|news| both(news) || news.finished.len() == 2).await;
    assert_eq!((news.finished.len(), news.rare.failed.len()), (1, 0), "no wrong answer, nobody to blame");
    // Whichever was finished first went to disk.
    let lost = news.rare.missing[0].0;
    assert_eq!(news.rare.missing[1].0, task(lost.index + 2));
    let hole = vec![(lost, WorkerId(1))];
    assert!(news.rare.missing.iter().all(|(_, _, holes)| *holes == hole), "{:?}", news.rare.missing);
    assert_eq!(played.fetch(&session, EPOCH, &[lost]).await.unwrap().0, [(lost, None)]);
}
