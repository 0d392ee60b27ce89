//! Frames: whatever arrives is a message, the wait for more, or a refusal.

use crate::support::repository;
use crate::{damage, fuzz};
use bytes::BytesMut;
use hpcdag::protocol::framing::{Decoder, FRAME_BYTES_MAX_BEFORE_WELCOME, FrameError, encode_whole};
use hpcdag::protocol::messages::client::{FromClient, ToClient};
use hpcdag::protocol::messages::peer::{FromPeer, ToPeer};
use hpcdag::protocol::messages::worker::{FromWorker, ToWorker};
use hpcdag::protocol::wire::Wire;
use std::fmt::Debug;

/// One whole frame of each kind of message, with the direction it belongs to.
fn frames() -> Vec<(String, Vec<u8>)> {
    let path = repository().join("src/protocol/messages/tests/golden.txt");
    let text = std::fs::read_to_string(path).expect("recorded frames");
    let frame = |line: &str| {
        let (name, hex) = line.split_once(' ').expect("a name and a frame");
        let byte = |i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hexadecimal");
        (name.split('.').next().expect("a direction").into(), (0..hex.len() / 2).map(byte).collect())
    };
    text.lines().filter(|l| !l.starts_with('#')).map(frame).collect()
}

/// Decodes a stream to its end or its fault. What was understood must survive being said again.
fn decode<M: Wire + Clone + Debug + PartialEq>(
    stream: &[u8],
    understood: &mut u32,
) -> Result<(), FrameError> {
    let decoder = Decoder::new(FRAME_BYTES_MAX_BEFORE_WELCOME);
    let mut buffer = BytesMut::from(stream);
    while let Some(message) = decoder.next_message::<M>(&mut buffer)? {
        *understood += 1;
        let again = encode_whole(message.clone())?;
        let second = decoder.next_message::<M>(&mut BytesMut::from(&again[..]))?.expect("a whole frame");
        // Not a number is not equal to itself: then at least the bytes are.
        assert!(second == message || encode_whole(second)? == again, "{message:?}");
        unpack(&message);
    }
    assert!(decoder.missing(&buffer) <= FRAME_BYTES_MAX_BEFORE_WELCOME + 12);
    decoder.finish(&buffer)
}

/// Columns inside of messages are read later, by the sessions.
fn unpack(message: &impl std::any::Any) {
    let any = message as &dyn std::any::Any;
    if let Some(FromWorker::Report(report)) = any.downcast_ref() {
        // Damaged columns are refused; whether they are is not this test's business.
        let _ = report.clone().unpack();
    }
    if let Some(ToWorker::Compute(compute)) = any.downcast_ref() {
        let _ = compute.clone().unpack();
    }
}

fn decode_as(direction: &str, stream: &[u8], understood: &mut u32) -> Result<(), FrameError> {
    match direction {
        "FromClient" => decode::<FromClient>(stream, understood),
        "ToClient" => decode::<ToClient>(stream, understood),
        "FromWorker" => decode::<FromWorker>(stream, understood),
        "ToWorker" => decode::<ToWorker>(stream, understood),
        "FromPeer" => decode::<FromPeer>(stream, understood),
        "ToPeer" => decode::<ToPeer>(stream, understood),
        other => panic!("unknown direction {other}: add it here"),
    }
}

#[test]
fn damaged_frames_are_refused_or_understood() {
    let frames = frames();
    let counts = std::cell::Cell::new((0, 0));
    fuzz(20_000, |rng| {
        let (direction, frame) = &frames[rng.usize(..frames.len())];
        let mut stream = frame.clone();
        if rng.bool() {
            stream.extend(&frames[rng.usize(..frames.len())].1);
        }
        damage::bytes(rng, &mut stream);
        let mut understood = 0;
        let refused = decode_as(direction, &stream, &mut understood);
        if let Err(e) = &refused {
            assert!(!e.to_string().is_empty());
        }
        let (before, faults) = counts.get();
        counts.set((before + understood, faults + u32::from(refused.is_err())));
    });
    let (understood, refused) = counts.get();
    assert!(understood > 0 || refused > 0, "{understood} understood, {refused} refused");
}

#[test]
fn noise_is_refused() {
    fuzz(2_000, |rng| {
        let noise: Vec<u8> = (0..rng.usize(13..400)).map(|_| rng.u8(..)).collect();
        for direction in ["FromClient", "FromWorker", "ToPeer", "FromPeer"] {
            assert!(decode_as(direction, &noise, &mut 0).is_err(), "{direction}: {noise:?}");
        }
    });
}
