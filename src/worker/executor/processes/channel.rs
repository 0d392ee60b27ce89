//! Frames between a worker and an executor process over a unix socket: a fixed header, a control part in
//! MessagePack, raw bytes, and descriptors beside them. Owns the frame and nothing about its meaning;
//! blocking, with time limits, the same code on both sides. `docs/protocol.md` has the layout.

use crate::worker::executor::control::lock;
use bytes::Bytes;
use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    setsockopt, socketpair, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;
use std::time::Duration;

/// Bytes of a header.
const HEADER_BYTES: usize = 12;

/// Control part and raw bytes of one frame at most.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// Descriptors of one frame at most; the kernel takes 253.
pub(in crate::worker) const DESCRIPTORS_MAX: usize = 128;

/// How long the other side may leave a frame half sent, or not take one. It does nothing else meanwhile.
const STALL_TIME: Duration = Duration::from_secs(60);

/// Messages that are held back to be sent together have so many bytes at most.
const HELD_BYTES_MAX: usize = 64 << 10;

/// One end of a connection.
#[derive(Debug)]
pub(in crate::worker) struct Channel {
    socket: OwnedFd,
    /// What `gather` has not sent yet.
    held: Mutex<Option<Vec<u8>>>,
}

/// A frame that has come.
#[derive(Debug)]
pub(in crate::worker) struct Frame {
    /// Which message.
    pub tag: u16,
    control: Vec<u8>,
    /// Raw bytes.
    pub body: Bytes,
    /// Descriptors, in order.
    pub descriptors: Vec<OwnedFd>,
}

impl Frame {
    /// The message.
    pub fn control<M: DeserializeOwned>(&self) -> io::Result<M> {
        rmp_serde::from_slice(&self.control).map_err(|e| wrong(format!("message {}: {e}", self.tag)))
    }
}

fn wrong(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Channel {
    /// A connection; the second end is for a process that is about to be started.
    pub fn pair() -> io::Result<(Channel, OwnedFd)> {
        let (own, other) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Channel::of(own)?, other))
    }

    /// The end that this process was given.
    pub fn of(socket: OwnedFd) -> io::Result<Channel> {
        let time = TimeVal::seconds(i64::try_from(STALL_TIME.as_secs()).unwrap_or(60));
        setsockopt(&socket, sockopt::SendTimeout, &time)?;
        Ok(Channel { socket, held: Mutex::new(None) })
    }

    /// Ends the connection in both directions; the other side sees its end.
    pub fn close(&self) {
        // It may have ended already.
        let _ = nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }

    /// For waiting until something comes.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a message, with its raw bytes in pieces.
    pub fn send<M: Serialize>(
        &self,
        tag: u16,
        message: &M,
        body: &[Bytes],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let control = rmp_serde::to_vec(message).map_err(|e| wrong(format!("message {tag}: {e}")))?;
        let total = control.len() + body.iter().map(Bytes::len).sum::<usize>();
        if total > FRAME_BYTES_MAX || descriptors.len() > DESCRIPTORS_MAX {
            return Err(wrong(format!("message {tag} is too large: {total} bytes")));
        }
        let mut bytes = Vec::with_capacity(HEADER_BYTES + total);
        // Both are bounded by what was just checked.
        bytes.extend_from_slice(&(total as u32).to_le_bytes());
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&(descriptors.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(control.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&control);
        body.iter().for_each(|piece| bytes.extend_from_slice(piece));
        let mut held = lock(&self.held);
        if let Some(before) = held.as_mut() {
            if descriptors.is_empty() && before.len() + bytes.len() <= HELD_BYTES_MAX {
                before.append(&mut bytes);
                return Ok(());
            }
            self.write(&std::mem::take(before), &[])?;
        }
        self.write(&bytes, descriptors)
    }

    /// Sends what `work` sends, small messages at once: each by itself may wake the other side. What was sent
    /// before an error goes, too.
    pub fn gather<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        *lock(&self.held) = Some(Vec::new());
        let done = work();
        let held = lock(&self.held).take().unwrap_or_default();
        self.write(&held, &[])?;
        done
    }

    fn write(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let mut beside: &[ControlMessage<'_>] = &[ControlMessage::ScmRights(&raw)];
        if raw.is_empty() {
            beside = &[];
        }
        let mut left = bytes;
        while !left.is_empty() {
            let flags = MsgFlags::MSG_NOSIGNAL;
            match sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(left)], beside, flags, None) {
                Ok(n) => {
                    left = &left[n..];
                    beside = &[];
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits for a frame; `None` at the end of the connection.
    pub fn receive(&self) -> io::Result<Option<Frame>> {
        let mut header = [0; HEADER_BYTES];
        let mut descriptors = Vec::new();
        let mut got = 0;
        while got < HEADER_BYTES {
            match self.receive_some(&mut header[got..], &mut descriptors)? {
                0 if got == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => got += n,
            }
        }
        let [a, b, c, d, t0, t1, n0, n1, e, f, g, h] = header;
        let total = u32::from_le_bytes([a, b, c, d]) as usize;
        let control = u32::from_le_bytes([e, f, g, h]) as usize;
        let (tag, promised) = (u16::from_le_bytes([t0, t1]), usize::from(u16::from_le_bytes([n0, n1])));
        if total > FRAME_BYTES_MAX || control > total || promised != descriptors.len() {
            let with = descriptors.len();
            return Err(wrong(format!("frame {tag}: {total} bytes, {with} of {promised} descriptors")));
        }
        let mut bytes = vec![0; total];
        let mut got = 0;
        while got < total {
            // A frame's descriptors came with its first byte; the next frame's do not come before its own.
            match self.receive_some(&mut bytes[got..], &mut descriptors)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => got += n,
            }
        }
        let mut body = Bytes::from(bytes);
        let control = body.split_to(control).to_vec();
        Ok(Some(Frame { tag, control, body, descriptors }))
    }

    fn receive_some(&self, into: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
        let mut room = cmsg_space!([RawFd; DESCRIPTORS_MAX]);
        let mut pieces = [IoSliceMut::new(into)];
        let received = loop {
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut pieces, Some(&mut room), flags) {
                Err(nix::errno::Errno::EINTR) => {}
                // The other side has died with bytes of ours unread: that is an end, too.
                Err(nix::errno::Errno::ECONNRESET) => return Ok(0),
                received => break received?,
            }
        };
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = message {
                // SAFETY: the kernel has just made these descriptors for us, and nobody else owns them.
                descriptors.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        if received.flags.contains(MsgFlags::MSG_CTRUNC) {
            return Err(wrong("descriptors were lost: is the limit of open files reached?".into()));
        }
        Ok(received.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    #[test]
    fn frames_carry_bytes_and_descriptors() {
        let (one, other) = Channel::pair().unwrap();
        let other = Channel::of(other).unwrap();
        let (mut read, write) = io::pipe().unwrap();
        let large = Bytes::from(vec![7; 3 << 20]);
        let sender = std::thread::spawn(move || {
            one.send(3, &("a", 1u32), &[], &[write.as_fd(), write.as_fd()]).unwrap();
            one.send(4, &[1u8, 2], &["xy".into(), large], &[]).unwrap();
            one.send(5, &(), &[], &[write.as_fd()]).unwrap();
        });
        let frame = other.receive().unwrap().unwrap();
        assert_eq!((frame.tag, frame.body.len(), frame.descriptors.len()), (3, 0, 2));
        assert_eq!(frame.control::<(String, u32)>().unwrap(), ("a".into(), 1));
        assert!(frame.control::<u32>().is_err());
        File::from(frame.descriptors.into_iter().next().unwrap()).write_all(b"z").unwrap();
        let frame = other.receive().unwrap().unwrap();
        assert_eq!((frame.tag, &frame.body[..3], frame.body.len()), (4, &b"xy\x07"[..], (3 << 20) + 2));
        assert_eq!(other.receive().unwrap().unwrap().descriptors.len(), 1);
        sender.join().unwrap();
        assert!(other.receive().unwrap().is_none());
        let mut got = [0];
        read.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"z");
    }

    #[test]
    fn gathered_messages_arrive_in_order_with_what_cannot_wait() {
        let (one, other) = Channel::pair().unwrap();
        let other = Channel::of(other).unwrap();
        let (_read, write) = io::pipe().unwrap();
        let nothing_yet = |channel: &Channel| {
            let mut poll = [nix::poll::PollFd::new(channel.fd(), nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut poll, nix::poll::PollTimeout::ZERO).unwrap() == 0
        };
        let failed = one.gather(|| {
            one.send(1, &1u8, &["a".into()], &[])?;
            one.send(2, &2u8, &[], &[])?;
            assert!(nothing_yet(&other));
            one.send(3, &3u8, &[], &[write.as_fd()])?;
            assert!(!nothing_yet(&other));
            one.send(4, &4u8, &[Bytes::from(vec![4; 100 << 10])], &[])?;
            one.send(5, &5u8, &[], &[])?;
            Err::<(), _>(io::Error::other("no"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no");
        one.send(6, &6u8, &[], &[]).unwrap();
        for tag in 1..=6 {
            let frame = other.receive().unwrap().unwrap();
            assert_eq!((frame.tag, frame.control::<u8>().unwrap()), (tag, tag as u8));
            assert_eq!(frame.descriptors.len(), usize::from(tag == 3));
        }
    }

    #[test]
    fn garbage_is_refused() {
        for bytes in
            [&[0xff; 12][..], &[1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0], &[0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0]]
        {
            let (one, other) = Channel::pair().unwrap();
            File::from(other).write_all(bytes).unwrap();
            assert!(one.receive().is_err(), "{bytes:?}");
        }
        let (one, other) = Channel::pair().unwrap();
        File::from(other).write_all(&[1, 2]).unwrap();
        assert_eq!(one.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
