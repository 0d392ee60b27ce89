//! Frames: the one container for everything on the wire and in journals. Owns the header, the limits and the
//! incremental decoder; knows nothing of what messages mean (`wire`) and reads no socket (`net::connection`).
//!
//! A frame is a header of 12 bytes, all little-endian, then a MessagePack control part, then raw bytes:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | length of all that follows the header: control part and body |
//! | 4 | 2 | tag of the message |
//! | 6 | 2 | flags: none exists yet, must be 0 |
//! | 8 | 4 | length of the control part; the rest is the body |

use crate::base::error::{Error, Kind};
use crate::protocol::wire::Wire;
use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 12;

/// The largest frame after its header that a welcomed peer may send, in bytes.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

/// The largest frame after its header that a peer may send before it has been welcomed, in bytes.
pub const FRAME_BYTES_MAX_BEFORE_WELCOME: usize = 1 << 20;

/// Bodies from this size on, in bytes, are neither copied into the send buffer nor out of the receive buffer.
pub const BODY_BYTES_LARGE: usize = 64 << 10;

/// What can be wrong with a frame or with the message in it. All but `TooLargeToSend` and `Unencodable` are
/// the peer's fault, and the connection cannot be used any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The announced length is beyond the limit in force.
    #[error("frame of {bytes} bytes is beyond the limit of {limit} bytes")]
    TooLarge {
        /// Length announced, without the header.
        bytes: usize,
        /// The limit in force.
        limit: usize,
    },
    /// The control part is longer than the frame.
    #[error("frame with tag {tag} of {bytes} bytes announces a control part of {control} bytes")]
    ControlTooLong {
        /// The message's tag.
        tag: u16,
        /// Length of the frame without its header.
        bytes: usize,
        /// Length announced for the control part.
        control: usize,
    },
    /// Flags that this version does not know.
    #[error("frame with tag {tag} has unknown flags {flags:#06x}")]
    UnknownFlags {
        /// The message's tag.
        tag: u16,
        /// The flags found.
        flags: u16,
    },
    /// No message of this direction has the tag.
    #[error("{direction} has no message with tag {tag}")]
    UnknownTag {
        /// The enum of messages that was expected.
        direction: &'static str,
        /// The tag found.
        tag: u16,
    },
    /// The tag belonged to a message that is no longer in use.
    #[error("{direction} message with tag {tag} is retired")]
    RetiredTag {
        /// The enum of messages that was expected.
        direction: &'static str,
        /// The tag found.
        tag: u16,
    },
    /// The control part is not what the tag says.
    #[error("{direction}::{message} cannot be read: {reason}")]
    Malformed {
        /// The enum of messages that was expected.
        direction: &'static str,
        /// The message by its tag.
        message: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// A message that has no body came with one.
    #[error("message has an unexpected body of {bytes} bytes")]
    UnexpectedBody {
        /// Length of the body.
        bytes: usize,
    },
    /// Raw columns do not have the lengths that the control part or the column header announces.
    #[error("columns cannot be read: {0}")]
    Columns(String),
    /// The stream ended within a frame.
    #[error("stream ends within a frame: {missing} bytes are missing")]
    Truncated {
        /// Bytes that would have completed what was begun (the header at least).
        missing: usize,
    },
    /// Our own message is larger than peers accept.
    #[error("message with tag {tag} has {bytes} bytes, peers accept {limit}")]
    TooLargeToSend {
        /// The message's tag.
        tag: u16,
        /// Its length without the header.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Our own message cannot be expressed.
    #[error("{direction}::{message} cannot be encoded: {reason}")]
    Unencodable {
        /// The enum of messages.
        direction: &'static str,
        /// The message.
        message: &'static str,
        /// What the encoder said.
        reason: String,
    },
}

impl From<FrameError> for Error {
    fn from(e: FrameError) -> Error {
        let kind = match e {
            FrameError::TooLargeToSend { .. } | FrameError::Unencodable { .. } => Kind::Internal,
            _ => Kind::Refused,
        };
        Error::new(kind, e.to_string())
    }
}

/// A frame as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Says which message this is.
    pub tag: u16,
    /// The MessagePack part.
    pub control: Bytes,
    /// The raw bytes after it.
    pub body: Bytes,
}

/// Appends the frame of a message to `out`. A body of `BODY_BYTES_LARGE` or more is not copied: it is
/// returned and has to follow what is in `out` on the wire. On error `out` is as it was.
pub fn encode<M: Wire>(mut message: M, out: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
    let begin = out.len();
    let tag = message.tag();
    let body = message.take_body();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    if let Err(e) = message.encode_control(out) {
        out.truncate(begin);
        return Err(e);
    }
    let control = out.len() - begin - HEADER_BYTES;
    let bytes = control + body.len();
    if bytes > FRAME_BYTES_MAX {
        out.truncate(begin);
        return Err(FrameError::TooLargeToSend { tag, bytes, limit: FRAME_BYTES_MAX });
    }
    // Both lengths are at most FRAME_BYTES_MAX here, so the casts lose nothing.
    let header = &mut out[begin..begin + HEADER_BYTES];
    header[0..4].copy_from_slice(&(bytes as u32).to_le_bytes());
    header[4..6].copy_from_slice(&tag.to_le_bytes());
    header[8..12].copy_from_slice(&(control as u32).to_le_bytes());
    if body.len() >= BODY_BYTES_LARGE {
        return Ok(Some(body));
    }
    out.extend_from_slice(&body);
    Ok(None)
}

/// The frame of a message in one piece: for journals, files and tests.
pub fn encode_whole<M: Wire>(message: M) -> Result<Bytes, FrameError> {
    let mut out = BytesMut::new();
    if let Some(body) = encode(message, &mut out)? {
        out.extend_from_slice(&body);
    }
    Ok(out.freeze())
}

/// What a header says.
#[derive(Clone, Copy)]
struct Header {
    tag: u16,
    bytes: usize,
    control: usize,
}

/// Cuts frames out of a buffer that grows as bytes arrive.
#[derive(Clone, Debug)]
pub struct Decoder {
    limit: usize,
}

impl Decoder {
    /// A decoder that refuses frames of more than `limit` bytes after the header.
    pub fn new(limit: usize) -> Decoder {
        Decoder { limit }
    }

    /// Changes the limit for the frames to come, e.g. when the peer has been welcomed.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes the next complete frame off the front of `buffer`; `None` if more bytes have to arrive first.
    pub fn next(&self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(header) = self.complete(buffer)? else { return Ok(None) };
        buffer.advance(HEADER_BYTES);
        let mut control = buffer.split_to(header.bytes).freeze();
        let body = control.split_off(header.control);
        Ok(Some(Frame { tag: header.tag, control, body }))
    }

    /// Takes the next complete message off the front of `buffer`; `None` if more bytes have to arrive first.
    /// Small bodies are copied out, so that a result kept for long does not keep the whole buffer.
    pub fn next_message<M: Wire>(&self, buffer: &mut BytesMut) -> Result<Option<M>, FrameError> {
        let Some(header) = self.complete(buffer)? else { return Ok(None) };
        let body = header.bytes - header.control;
        buffer.advance(HEADER_BYTES);
        if body < BODY_BYTES_LARGE {
            let (control, rest) = buffer[..header.bytes].split_at(header.control);
            let message = M::decode(header.tag, control, Bytes::copy_from_slice(rest))?;
            buffer.advance(header.bytes);
            return Ok(Some(message));
        }
        let mut control = buffer.split_to(header.bytes).freeze();
        let body = control.split_off(header.control);
        M::decode(header.tag, &control, body).map(Some)
    }

    /// How many bytes have to arrive before the frame at the front of `buffer` is complete; 0 if it is or if
    /// its header is refused.
    pub fn missing(&self, buffer: &BytesMut) -> usize {
        match self.header(buffer) {
            Ok(Some(header)) => (HEADER_BYTES + header.bytes).saturating_sub(buffer.len()),
            Ok(None) => HEADER_BYTES - buffer.len(),
            Err(_) => 0,
        }
    }

    /// To be called when the stream has ended: an error if it ended within a frame.
    pub fn finish(&self, buffer: &BytesMut) -> Result<(), FrameError> {
        if buffer.is_empty() {
            return Ok(());
        }
        self.header(buffer)?;
        Err(FrameError::Truncated { missing: self.missing(buffer) })
    }

    /// The header at the front of `buffer` if the whole frame is there.
    fn complete(&self, buffer: &BytesMut) -> Result<Option<Header>, FrameError> {
        let header = self.header(buffer)?;
        Ok(header.filter(|h| buffer.len() >= HEADER_BYTES + h.bytes))
    }

    /// The header at the front of `buffer`, checked as soon as it is there, before its frame is waited for.
    fn header(&self, buffer: &BytesMut) -> Result<Option<Header>, FrameError> {
        let Some(mut raw) = buffer.get(..HEADER_BYTES) else { return Ok(None) };
        let bytes = raw.get_u32_le() as usize;
        let tag = raw.get_u16_le();
        let flags = raw.get_u16_le();
        let control = raw.get_u32_le() as usize;
        if bytes > self.limit {
            return Err(FrameError::TooLarge { bytes, limit: self.limit });
        }
        if flags != 0 {
            return Err(FrameError::UnknownFlags { tag, flags });
        }
        if control > bytes {
            return Err(FrameError::ControlTooLong { tag, bytes, control });
        }
        Ok(Some(Header { tag, bytes, control }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages;
    use crate::protocol::wire::Payload;
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub struct Hello {
        name: String,
        n: u32,
    }
    impl Payload for Hello {}

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub struct Part {
        offset: u64,
        #[serde(skip)]
        body: Bytes,
    }
    crate::payload_with_body!(Part);

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub struct Ping;
    impl Payload for Ping {}

    messages! {
        /// Messages of these tests.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Test {
            1 => Hello(Hello),
            2 => Part(Part),
            5 => Ping(Ping),
        }
        retired: [3, 4]
    }

    fn hello() -> Test {
        Test::Hello(Hello { name: "ab".into(), n: 7 })
    }

    fn part(n: usize) -> Test {
        Test::Part(Part { offset: 300, body: vec![9; n].into() })
    }

    fn decode_all(bytes: &[u8]) -> Result<Vec<Test>, FrameError> {
        let decoder = Decoder::new(FRAME_BYTES_MAX);
        let mut buffer = BytesMut::from(bytes);
        let mut all = Vec::new();
        while let Some(m) = decoder.next_message(&mut buffer)? {
            all.push(m);
        }
        decoder.finish(&buffer)?;
        Ok(all)
    }

    #[test]
    fn golden_bytes() {
        let bytes = encode_whole(hello()).unwrap();
        assert_eq!(&bytes[..], [5, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0x92, 0xa2, b'a', b'b', 7]);
        let bytes = encode_whole(part(2)).unwrap();
        assert_eq!(&bytes[..], [6, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 0x91, 0xcd, 1, 44, 9, 9]);
        let bytes = encode_whole(Test::Ping(Ping)).unwrap();
        assert_eq!(&bytes[..], [1, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0x90]);
    }

    #[test]
    fn byte_by_byte_and_all_at_once() {
        let messages = [hello(), part(0), part(3), Test::Ping(Ping), part(BODY_BYTES_LARGE), hello()];
        let mut wire = Vec::new();
        for m in &messages {
            wire.extend_from_slice(&encode_whole(m.clone()).unwrap());
        }
        assert_eq!(decode_all(&wire).unwrap(), messages);
        let decoder = Decoder::new(FRAME_BYTES_MAX);
        let mut buffer = BytesMut::new();
        let mut seen = Vec::new();
        for chunk in wire.chunks(1) {
            assert!(decoder.missing(&buffer) > 0);
            buffer.extend_from_slice(chunk);
            seen.extend(decoder.next_message::<Test>(&mut buffer).unwrap());
        }
        assert_eq!(seen, messages);
    }

    #[test]
    fn large_bodies_are_not_copied_into_the_buffer() {
        let mut out = BytesMut::new();
        let body = encode(part(BODY_BYTES_LARGE), &mut out).unwrap().unwrap();
        assert_eq!((out.len(), body.len()), (HEADER_BYTES + 4, BODY_BYTES_LARGE));
        assert_eq!(encode(part(BODY_BYTES_LARGE - 1), &mut out).unwrap(), None);
    }

    #[test]
    fn raw_frames() {
        let mut buffer = BytesMut::from(&encode_whole(part(2)).unwrap()[..]);
        let frame = Decoder::new(100).next(&mut buffer).unwrap().unwrap();
        assert_eq!(
            (frame.tag, &frame.control[..], &frame.body[..]),
            (2, &[0x91, 0xcd, 1, 44][..], &[9, 9][..])
        );
        assert!(buffer.is_empty());
    }

    #[test]
    fn truncation_is_found_at_every_length() {
        let wire = encode_whole(part(5)).unwrap();
        for n in 1..wire.len() {
            let missing = if n < HEADER_BYTES { HEADER_BYTES - n } else { wire.len() - n };
            assert_eq!(decode_all(&wire[..n]), Err(FrameError::Truncated { missing }), "{n}");
        }
    }

    #[test]
    fn garbage_is_named() {
        let header = |len: u32, tag: u16, flags: u16, control: u32| {
            [&len.to_le_bytes()[..], &tag.to_le_bytes(), &flags.to_le_bytes(), &control.to_le_bytes()]
                .concat()
        };
        let is = |bytes: Vec<u8>, text: &str| {
            assert_eq!(decode_all(&bytes).unwrap_err().to_string(), text);
        };
        is(b"GET / HTTP/1.1\r\n".to_vec(), "frame of 542393671 bytes is beyond the limit of 67108864 bytes");
        is(header(4, 1, 0, 5), "frame with tag 1 of 4 bytes announces a control part of 5 bytes");
        is(header(4, 1, 1, 4), "frame with tag 1 has unknown flags 0x0001");
        is(header(0, 9, 0, 0), "Test has no message with tag 9");
        is(header(0, 3, 0, 0), "Test message with tag 3 is retired");
        let with = |tag, control: &[u8], body: &[u8]| {
            let mut bytes = header((control.len() + body.len()) as u32, tag, 0, control.len() as u32);
            bytes.extend_from_slice(control);
            bytes.extend_from_slice(body);
            bytes
        };
        is(with(5, &[0x90], b"x"), "Test::Ping cannot be read: message has an unexpected body of 1 bytes");
        is(
            with(5, &[0x90, 0xc0], b""),
            "Test::Ping cannot be read: the control part is longer than the message",
        );
        for control in
            [&[0x92, 0xa2, b'a', b'b'][..], &[0x91, 0xa0], &[0x93, 0xa0, 1, 1], &[0xc1], &[0x92, 1, 1]]
        {
            let e = decode_all(&with(1, control, b"")).unwrap_err();
            assert!(matches!(e, FrameError::Malformed { message: "Hello", .. }), "{e}");
        }
    }

    #[test]
    fn limits_hold_before_the_frame_has_arrived() {
        let mut decoder = Decoder::new(10);
        let wire = encode_whole(part(20)).unwrap();
        let mut buffer = BytesMut::from(&wire[..HEADER_BYTES]);
        assert_eq!(decoder.next(&mut buffer), Err(FrameError::TooLarge { bytes: 24, limit: 10 }));
        decoder.set_limit(24);
        assert_eq!(decoder.next(&mut buffer), Ok(None));
        assert_eq!(decoder.missing(&buffer), 24);
    }

    #[test]
    fn too_large_to_send_leaves_the_buffer_alone() {
        let mut out = BytesMut::from(&b"before"[..]);
        let e = encode(part(FRAME_BYTES_MAX), &mut out).unwrap_err();
        assert!(matches!(e, FrameError::TooLargeToSend { tag: 2, .. }), "{e}");
        assert_eq!(&out[..], b"before");
    }
}
