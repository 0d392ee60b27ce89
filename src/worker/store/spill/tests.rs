//! Files that are written, read back, damaged, cut short and refused.

use super::*;
use std::os::unix::fs::MetadataExt;

/// A disk with so much room, that forgets a bit when told to.
#[derive(Debug, Default)]
pub(in crate::worker) struct PoorDisk {
    pub room: Arc<AtomicU64>,
    pub damaged: Arc<AtomicBool>,
}

impl Disk for PoorDisk {
    fn write(&self, file: &File, block: &[u8], at: u64) -> io::Result<()> {
        let take = |room: u64| room.checked_sub(block.len() as u64);
        match self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => file.write_all_at(block, at),
            Err(_) => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        }
    }

    fn read(&self, file: &File, block: &mut [u8], at: u64) -> io::Result<()> {
        file.read_exact_at(block, at)?;
        block[0] ^= u8::from(self.damaged.load(Ordering::Relaxed));
        Ok(())
    }
}

fn sample(n: u32) -> Arc<TaskResult> {
    let big: Vec<u8> = (0..2_500_000 + n).map(|i| (i / 7) as u8).collect();
    let parts = vec![
        (String::new(), Data::of_bytes(format!("small {n}").into_bytes().into()).unwrap()),
        ("none".into(), Data::Heap(Bytes::new())),
        ("big".into(), Data::of_bytes(big.into()).unwrap()),
    ];
    Arc::new(TaskResult { parts, pinned: None })
}

#[test]
fn results_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let spill = Spill::new(dir.path(), None, RealDisk);
    let before = [sample(1), sample(2)];
    let after = spill.write(&before).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the files have no names");
    let bytes: u64 = before.iter().map(|r| r.nbytes()).sum();
    assert_eq!(spill.used(), bytes);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((after.memory_bytes(), after.nbytes()), (0, before.nbytes()));
        for ((_, was), (_, is)) in before.parts.iter().zip(&after.parts) {
            assert_eq!(was.bytes().unwrap(), is.bytes().unwrap());
            let mut read = Vec::new();
            io::Read::read_to_end(&mut is.reopen().unwrap(), &mut read).unwrap();
            assert_eq!(read, was.bytes().unwrap());
        }
        let (mut stream, mut at) = (Vec::new(), 0);
        while at < after.travelling_bytes() {
            let piece = after.read_stream_at(at, 300_000).unwrap();
            at += piece.len() as u64;
            stream.extend_from_slice(&piece);
        }
        let whole: Vec<u8> = before.parts.iter().flat_map(|(_, d)| d.bytes().unwrap()).collect();
        assert!(stream == whole);
    }
    let Data::Spilled(extent) = &after[0].parts[2].1 else { panic!("{after:?}") };
    let meta = std::fs::metadata(extent.path().unwrap().unwrap()).unwrap();
    assert_eq!((meta.mode() & 0o777, meta.nlink()), (0o400, 0));
    drop(after);
    assert_eq!(spill.used(), 0);
}

#[test]
fn damage_is_noticed_whichever_way_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let disk = PoorDisk { room: Arc::new(AtomicU64::new(u64::MAX)), ..PoorDisk::default() };
    let damaged = disk.damaged.clone();
    let spill = Spill::new(dir.path(), None, disk);
    let after = spill.write(&[sample(1)]).unwrap();
    assert!(!spill.take_lost());
    damaged.store(true, Ordering::Relaxed);
    for (_, data) in after[0].parts.iter().filter(|(_, data)| !data.is_empty()) {
        assert!(data.bytes().is_err() && spill.take_lost());
        assert!(data.reopen().is_err() && spill.take_lost());
        assert!(data.read_at(0, 10).is_err() && spill.take_lost());
    }
}

#[test]
fn a_truncated_file_is_noticed_before_it_is_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let spill = Spill::new(dir.path(), None, RealDisk);
    let after = spill.write(&[sample(1)]).unwrap();
    let Data::Spilled(extent) = &after[0].parts[2].1 else { panic!("{after:?}") };
    let path = extent.path().unwrap().unwrap();
    let whole = extent.bytes().unwrap();
    assert_eq!(whole.len() as u64, extent.len(), "it can be read in place");
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
    assert!(extent.bytes().is_err() && spill.take_lost() && extent.is_lost());
    assert!(extent.reopen().is_err() && extent.recall().is_err() && extent.read_at(2 << 20, 9).is_err());
}

#[test]
fn what_many_tasks_read_is_checked_once_and_again_when_somebody_changed_it() {
    let dir = tempfile::tempdir().unwrap();
    let spill = Spill::new(dir.path(), None, RealDisk);
    let after = spill.write(&[sample(1)]).unwrap();
    let Data::Spilled(extent) = &after[0].parts[2].1 else { panic!("{after:?}") };
    let path = extent.path().unwrap().unwrap();
    let read = spill.disk_use().read;
    assert_eq!(read, extent.len());
    assert!(extent.path().unwrap().is_some() && extent.bytes().is_ok());
    assert_eq!(spill.disk_use().read, read, "it was checked a moment ago");
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert!(extent.path().is_ok() && spill.disk_use().read == 2 * read);
}

#[test]
fn what_is_mapped_stays_when_the_result_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let spill = Spill::new(dir.path(), None, RealDisk);
    let before = sample(3);
    let after = spill.write(std::slice::from_ref(&before)).unwrap();
    let bytes = after[0].parts[2].1.bytes().unwrap();
    drop(after);
    assert_eq!(spill.used(), bytes.len() as u64, "its room is not free yet");
    assert!(bytes == before.parts[2].1.bytes().unwrap());
    drop(bytes);
    assert_eq!(spill.used(), 0);
}

#[test]
fn a_disk_that_does_not_take_direct_writes_gets_others() {
    #[derive(Debug)]
    struct OldDisk;
    impl Disk for OldDisk {
        fn write(&self, file: &File, block: &[u8], at: u64) -> io::Result<()> {
            use nix::fcntl::{FcntlArg, OFlag, fcntl};
            let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL).unwrap());
            if flags.contains(OFlag::O_DIRECT) {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            file.write_all_at(block, at)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let before = sample(5);
    let after = Spill::new(dir.path(), None, OldDisk).write(std::slice::from_ref(&before)).unwrap();
    assert!(after[0].parts[2].1.bytes().unwrap() == before.parts[2].1.bytes().unwrap());
}

#[test]
fn a_full_disk_and_the_bound_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let disk = PoorDisk { room: Arc::new(AtomicU64::new(3 << 20)), ..PoorDisk::default() };
    let spill = Spill::new(dir.path(), None, disk);
    let error = spill.write(&[sample(1), sample(2)]).unwrap_err();
    assert_eq!((error.raw_os_error(), spill.used()), (Some(libc::ENOSPC), 0));
    let spill = Spill::new(dir.path(), Some(3 << 20), RealDisk);
    let kept = spill.write(&[sample(1)]).unwrap();
    let error = spill.write(&[sample(2)]).unwrap_err();
    assert!(error.to_string().contains("max-spill"), "{error}");
    assert_eq!(spill.used(), kept[0].nbytes());
}

#[test]
fn memory_and_networks_are_complained_about() {
    assert!(complaint(Path::new("/dev/shm")).is_none_or(|text| text.contains("memory")));
    assert_eq!(network_name(0x6969), Some("NFS"));
    assert_eq!(network_name(0xef53), None);
}
