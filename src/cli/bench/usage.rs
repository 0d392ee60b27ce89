//! What processes use, as the kernel and the allocator count it: processor time, heap, resident memory. Owns
//! nothing.

use std::time::Duration;

/// Processor time of a process so far: all its threads, not its children. `None` when it is gone.
pub fn cpu_of(pid: u32) -> Option<Duration> {
    let pid = libc::pid_t::try_from(pid).ok()?;
    let mut clock = 0;
    // SAFETY: writes to `clock`, which lives here.
    match unsafe { libc::clock_getcpuclockid(pid, &mut clock) } {
        0 => read(clock),
        _ => None,
    }
}

/// Processor time of this process so far.
pub fn cpu() -> Duration {
    read(libc::CLOCK_PROCESS_CPUTIME_ID).unwrap_or_default()
}

/// Processor time of this thread so far.
pub fn cpu_of_thread() -> Duration {
    read(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or_default()
}

fn read(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to `time`, which lives here.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return None;
    }
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

/// Processor time of a process so far and of its children that have ended and were waited for, to a hundredth
/// of a second. `None` when it is gone.
pub fn cpu_with_children_of(pid: u32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything.
    let rest = text.get(text.rfind(')')? + 1..)?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Behind the name begins field 3; 14 to 17 are the times.
    let ticks: u64 = fields.get(11..15)?.iter().filter_map(|f| f.parse::<u64>().ok()).sum();
    // SAFETY: a plain question.
    let each = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok().filter(|n| *n > 0)?;
    Some(Duration::from_millis(ticks.saturating_mul(1000) / each))
}

/// Bytes of this process's heap that are in use: blocks that were allocated and not freed, in all arenas and
/// by `mmap`. `None` where the C library does not count.
pub fn heap_bytes() -> Option<u64> {
    #[cfg(target_env = "gnu")]
    {
        // Only glibc from 2.33 on has it, and the program is to start with older ones: hence not by linking.
        // SAFETY: a plain question.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"mallinfo2".as_ptr()) };
        if found.is_null() {
            return None;
        }
        // SAFETY: what has this name in glibc has this type.
        let ask: unsafe extern "C" fn() -> libc::mallinfo2 = unsafe { std::mem::transmute(found) };
        // SAFETY: a plain question.
        let info = unsafe { ask() };
        Some((info.uordblks + info.hblkhd) as u64)
    }
    #[cfg(not(target_env = "gnu"))]
    None
}

/// Resident bytes of a process that are not pages of files. `None` when it is gone.
pub fn anonymous_bytes(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_memory_grow_with_use() {
        let me = std::process::id();
        let before = (cpu(), cpu_of_thread(), heap_bytes(), anonymous_bytes(me));
        let block = std::hint::black_box(vec![1u8; 32 << 20]);
        let mut x = 1u64;
        while cpu_of_thread() < before.1 + Duration::from_millis(5) {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(cpu() > before.0);
        assert!(cpu_of(me).unwrap() >= Duration::from_millis(5));
        assert!(cpu_with_children_of(me).is_some());
        if let (Some(before), Some(now)) = (before.2, heap_bytes()) {
            assert!(now >= before + (30 << 20), "{before} {now}");
        }
        assert!(anonymous_bytes(me) > before.3);
        drop(block);
    }
}
