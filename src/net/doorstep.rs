//! Connections that nobody has looked at yet: how many there may be, which of them make way for others, and
//! whether one has begun a handshake. Owns no handshake.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// The most places. One costs a descriptor and a few kilobytes; a cluster's workers may all come at once.
pub const PLACES_MAX: usize = 4096;

/// Of the descriptors that the process may have, this part is for places at most.
const DESCRIPTORS_PART: u64 = 4;

/// Who has said nothing for so long makes way when others wait: strangers who connect and stay silent must
/// not keep our own people out, who speak within milliseconds.
const SILENT_YIELDS_AFTER: Duration = Duration::from_secs(1);

/// The first byte of a TLS connection: a record with a handshake.
const TLS_HANDSHAKE: u8 = 22;

/// Type, version and length of a TLS record.
const RECORD_HEADER_BYTES: usize = 5;

/// What is looked at of a first record, in bytes. One that is longer counts as whole with that.
const RECORD_BYTES_SEEN: usize = 2048;

/// The places for connections that are not let in yet, and who has been silent for how long.
pub struct Places {
    free: Arc<Semaphore>,
    max: usize,
    /// Oldest first. Those that are closed have spoken, or are gone.
    silent: VecDeque<(Instant, oneshot::Sender<()>)>,
}

impl Places {
    /// As many as a process with this limit of descriptors can afford.
    pub fn new() -> Places {
        use nix::sys::resource::{Resource, getrlimit};
        // Without an answer there is no limit that could be reached.
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let affordable = usize::try_from(descriptors / DESCRIPTORS_PART).unwrap_or(usize::MAX);
        Places::of(affordable.clamp(1, PLACES_MAX))
    }

    fn of(max: usize) -> Places {
        Places { free: Arc::new(Semaphore::new(max)), max, silent: VecDeque::new() }
    }

    /// Waits for a place; if there is none, who has been silent longest makes way as soon as it may. `None`
    /// is never seen: the semaphore is not closed.
    pub async fn next(&mut self) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                return Some(permit);
            }
            self.silent.retain(|(_, one)| !one.is_closed());
            let freed = Arc::clone(&self.free).acquire_owned();
            // All may have spoken. Then each is let in or shown out within a time of its own.
            let Some((since, _)) = self.silent.front() else { return freed.await.ok() };
            tokio::select! {
                permit = freed => return permit.ok(),
                () = tokio::time::sleep_until((*since + SILENT_YIELDS_AFTER).into()) => {
                    // It hears of it by the loss of its sender.
                    drop(self.silent.pop_front());
                }
            }
        }
    }

    /// Somebody takes a place and has said nothing yet. What is returned resolves when it has to make way;
    /// drop it once it speaks.
    pub fn take(&mut self) -> oneshot::Receiver<()> {
        if self.silent.len() >= 2 * self.max {
            self.silent.retain(|(_, one)| !one.is_closed());
        }
        let (sender, receiver) = oneshot::channel();
        self.silent.push_back((Instant::now(), sender));
        receiver
    }
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// Too little to tell.
    Incomplete,
    /// A whole TLS record, or as much of it as is looked at.
    Handshake,
    /// Something else, or the end.
    Other,
}

fn opening(bytes: &[u8]) -> Opening {
    match bytes {
        [TLS_HANDSHAKE, _, _, high, low, ..] => {
            let record = RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
            match bytes.len() >= record.min(RECORD_BYTES_SEEN) {
                true => Opening::Handshake,
                false => Opening::Incomplete,
            }
        }
        [TLS_HANDSHAKE, ..] => Opening::Incomplete,
        _ => Opening::Other,
    }
}

/// Waits until the peer has sent the whole beginning of a handshake, without taking any of it. Nothing is
/// computed until then, whoever it is and however slowly it speaks. False if what it sends is no TLS, or if
/// it is gone before its first record is whole.
pub async fn has_spoken(tcp: &TcpStream) -> io::Result<bool> {
    use nix::sys::socket::{MsgFlags, recv};
    loop {
        let ready = tcp.ready(Interest::READABLE).await?;
        let seen = tcp.try_io(Interest::READABLE, || {
            let mut bytes = [0; RECORD_BYTES_SEEN];
            let n = recv(tcp.as_raw_fd(), &mut bytes, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)?;
            match opening(bytes.get(..n).unwrap_or_default()) {
                Opening::Handshake => Ok(true),
                Opening::Other => Ok(false),
                // Makes the next turn wait until more has come.
                Opening::Incomplete => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        match seen {
            // Nothing more comes, and the end stays readable: waiting would not wait.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && ready.is_read_closed() => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            seen => return seen,
        }
    }
}

/// Whether a peer that has spoken has ended the connection since: then nothing needs to be computed for it.
pub async fn has_left(tcp: &TcpStream) -> bool {
    // What it said is still there, so this does not wait.
    tcp.ready(Interest::READABLE).await.is_ok_and(|ready| ready.is_read_closed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[test]
    fn what_first_bytes_are() {
        let record = [&[TLS_HANDSHAKE, 3, 1, 1, 0][..], &[7; 256]].concat();
        for n in 1..record.len() {
            assert_eq!(opening(&record[..n]), Opening::Incomplete, "{n}");
        }
        assert_eq!(opening(&record), Opening::Handshake);
        let long = [&[TLS_HANDSHAKE, 3, 1, 255, 255][..], &[7; RECORD_BYTES_SEEN]].concat();
        assert_eq!(opening(&long[..RECORD_BYTES_SEEN]), Opening::Handshake);
        assert_eq!(opening(&long[..RECORD_BYTES_SEEN - 1]), Opening::Incomplete);
        for other in [&b""[..], b"G", b"GET / HTTP/1.1", &[0; 100]] {
            assert_eq!(opening(other), Opening::Other, "{other:?}");
        }
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_record_in_pieces_is_waited_for_and_left_where_it_is() {
        use tokio::io::AsyncReadExt;
        let record = [&[TLS_HANDSHAKE, 3, 1, 0, 20][..], &[7; 20]].concat();
        let (mut near, mut far) = pair().await;
        let (all, last) = (record.clone(), record.len() - 1);
        let (tell, told) = oneshot::channel::<()>();
        let speak = tokio::spawn(async move {
            for byte in &all[..last] {
                near.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            told.await.unwrap();
            near.write_all(&all[last..]).await.unwrap();
            near
        });
        let early = tokio::time::timeout(Duration::from_millis(100), has_spoken(&far)).await;
        assert!(early.is_err(), "{early:?}");
        tell.send(()).unwrap();
        assert!(has_spoken(&far).await.unwrap());
        assert!(!has_left(&far).await);
        let mut read = vec![0; record.len()];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(read, record);
        drop(speak.await.unwrap());
    }

    #[tokio::test]
    async fn an_end_is_seen_whatever_came_before() {
        for said in [&b""[..], &[TLS_HANDSHAKE], &[TLS_HANDSHAKE, 3, 1, 0, 20, 1, 2]] {
            let (mut near, far) = pair().await;
            near.write_all(said).await.unwrap();
            drop(near);
            let spoken = tokio::time::timeout(Duration::from_secs(20), has_spoken(&far)).await;
            assert!(!spoken.unwrap().unwrap(), "{said:?}");
        }
    }

    #[tokio::test]
    async fn whoever_has_been_silent_longest_makes_way_and_speakers_stay() {
        let mut places = Places::of(2);
        let first = (places.next().await.unwrap(), places.take());
        let speaks = (places.next().await.unwrap(), places.take());
        drop(speaks.1);
        let waiting = tokio::spawn(async move { places.next().await.map(|place| (place, places)) });
        // Its end is that of its sender.
        assert!(first.1.await.is_err());
        assert!(!waiting.is_finished());
        drop(first.0);
        let (place, mut places) = waiting.await.unwrap().unwrap();
        // Both have spoken: nobody is told to go, and the next waits for a place.
        let waiting = tokio::spawn(async move { places.next().await.is_some() });
        tokio::task::yield_now().await;
        drop(place);
        assert!(waiting.await.unwrap());
        drop(speaks.0);
    }
}
