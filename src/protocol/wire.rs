//! How message types become frames: the traits, and the macro that makes one enum per direction with stable
//! tags. Owns no message; those are in `messages`.

use crate::protocol::framing::FrameError;
use bytes::{BufMut, Bytes, BytesMut};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

/// All messages of one direction, e.g. from the scheduler to workers. Made by `messages!`.
pub trait Wire: Sized + Send + 'static {
    /// The tag of this message, kept for ever.
    fn tag(&self) -> u16;

    /// The name of this message.
    fn name(&self) -> &'static str;

    /// Appends the MessagePack part to `out`.
    fn encode_control(&self, out: &mut BytesMut) -> Result<(), FrameError>;

    /// The length of the raw bytes that follow the control part.
    fn body_bytes(&self) -> usize;

    /// Takes the raw bytes that follow the control part out of the message; empty if it has none.
    fn take_body(&mut self) -> Bytes;

    /// The message that a frame holds.
    fn decode(tag: u16, control: &[u8], body: Bytes) -> Result<Self, FrameError>;
}

/// One message: a structure whose fields make the control part, as a MessagePack array in the order of their
/// declaration. With raw bytes besides, use `payload_with_body!`.
pub trait Payload: Serialize + DeserializeOwned {
    /// The length of the raw bytes.
    fn body_bytes(&self) -> usize {
        0
    }

    /// Takes the raw bytes out.
    fn take_body(&mut self) -> Bytes {
        Bytes::new()
    }

    /// Puts the raw bytes in that came with the control part. Refuses any if this message has none.
    fn set_body(&mut self, body: Bytes) -> Result<(), FrameError> {
        match body.len() {
            0 => Ok(()),
            bytes => Err(FrameError::UnexpectedBody { bytes }),
        }
    }
}

/// For `messages!`: appends a payload's control part.
pub fn encode_payload<P: Payload>(
    direction: &'static str,
    message: &'static str,
    payload: &P,
    out: &mut BytesMut,
) -> Result<(), FrameError> {
    rmp_serde::encode::write(&mut out.writer(), payload).map_err(|e| FrameError::Unencodable {
        direction,
        message,
        reason: e.to_string(),
    })
}

/// For `messages!`: reads a payload from its control part and body.
pub fn decode_payload<P: Payload>(
    direction: &'static str,
    message: &'static str,
    control: &[u8],
    body: Bytes,
) -> Result<P, FrameError> {
    let malformed = |reason: String| FrameError::Malformed { direction, message, reason };
    let mut from = rmp_serde::Deserializer::from_read_ref(control);
    let mut payload = P::deserialize(&mut from).map_err(|e| malformed(e.to_string()))?;
    // The deserializer does not say where it stopped, but at the end it cannot find one more marker.
    match IgnoredAny::deserialize(&mut from) {
        Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => {}
        _ => return Err(malformed("the control part is longer than the message".into())),
    }
    payload.set_body(body).map_err(|e| malformed(e.to_string()))?;
    Ok(payload)
}

/// For `messages!`: whether no tag occurs twice, neither among those in use nor the retired ones.
pub const fn tags_differ(tags: &[u16], retired: &[u16]) -> bool {
    let mut i = 0;
    while i < tags.len() + retired.len() {
        let mut j = 0;
        while j < i {
            let a = if i < tags.len() { tags[i] } else { retired[i - tags.len()] };
            let b = if j < tags.len() { tags[j] } else { retired[j - tags.len()] };
            if a == b {
                return false;
            }
            j += 1;
        }
        i += 1;
    }
    true
}

/// Makes the enum of all messages of one direction. Tags are written out and never used again: those of
/// removed messages go to `retired`. A tag that occurs twice does not compile.
///
/// ```
/// use hpcdag::protocol::wire::{Payload, Wire};
/// #[derive(Debug, serde::Serialize, serde::Deserialize)]
/// pub struct Ping {
///     /// Comes back in the answer.
///     pub n: u32,
/// }
/// impl Payload for Ping {}
/// hpcdag::messages! {
///     /// What anyone may say.
///     #[derive(Debug)]
///     pub enum ToAnyone {
///         /// Are you there?
///         1 => Ping(Ping),
///     }
///     retired: [2]
/// }
/// assert_eq!(ToAnyone::Ping(Ping { n: 1 }).tag(), 1);
/// ```
#[macro_export]
macro_rules! messages {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $($(#[$variant_meta:meta])* $tag:literal => $variant:ident($payload:ty)),+ $(,)?
        }
        retired: [$($retired:literal),* $(,)?]
    ) => {
        $(#[$meta])*
        $vis enum $name {
            $($(#[$variant_meta])* $variant($payload)),+
        }

        const _: () = assert!(
            $crate::protocol::wire::tags_differ(&[$($tag),+], &[$($retired),*]),
            "a tag occurs twice"
        );

        impl $crate::protocol::wire::Wire for $name {
            fn tag(&self) -> u16 {
                match self {
                    $(Self::$variant(_) => $tag),+
                }
            }

            fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => stringify!($variant)),+
                }
            }

            fn encode_control(
                &self,
                out: &mut ::bytes::BytesMut,
            ) -> Result<(), $crate::protocol::framing::FrameError> {
                match self {
                    $(Self::$variant(payload) => $crate::protocol::wire::encode_payload(
                        stringify!($name), stringify!($variant), payload, out,
                    )),+
                }
            }

            fn body_bytes(&self) -> usize {
                match self {
                    $(Self::$variant(payload) => $crate::protocol::wire::Payload::body_bytes(payload)),+
                }
            }

            fn take_body(&mut self) -> ::bytes::Bytes {
                match self {
                    $(Self::$variant(payload) => $crate::protocol::wire::Payload::take_body(payload)),+
                }
            }

            fn decode(
                tag: u16,
                control: &[u8],
                body: ::bytes::Bytes,
            ) -> Result<Self, $crate::protocol::framing::FrameError> {
                match tag {
                    $($tag => $crate::protocol::wire::decode_payload(
                        stringify!($name), stringify!($variant), control, body,
                    ).map(Self::$variant),)+
                    $($retired => Err($crate::protocol::framing::FrameError::RetiredTag {
                        direction: stringify!($name), tag,
                    }),)*
                    _ => Err($crate::protocol::framing::FrameError::UnknownTag {
                        direction: stringify!($name), tag,
                    }),
                }
            }
        }
    };
}

/// Implements `Payload` for structures whose raw bytes are their field `#[serde(skip)] body: Bytes`.
#[macro_export]
macro_rules! payload_with_body {
    ($($payload:ty),+ $(,)?) => {
        $(impl $crate::protocol::wire::Payload for $payload {
            fn body_bytes(&self) -> usize {
                self.body.len()
            }

            fn take_body(&mut self) -> ::bytes::Bytes {
                std::mem::take(&mut self.body)
            }

            fn set_body(
                &mut self,
                body: ::bytes::Bytes,
            ) -> Result<(), $crate::protocol::framing::FrameError> {
                self.body = body;
                Ok(())
            }
        })+
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubled_tags_are_found() {
        assert!(tags_differ(&[1, 2], &[3]));
        assert!(!tags_differ(&[1, 2, 1], &[]));
        assert!(!tags_differ(&[1, 2], &[2]));
        assert!(!tags_differ(&[1], &[5, 5]));
    }
}
