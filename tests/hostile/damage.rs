//! Damage to bytes and texts, by chance. Owns what is done; not what it is done to.

use fastrand::Rng;

/// Numbers at which things go wrong.
const EDGES: &[u64] =
    &[0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];

/// One of the numbers at which things go wrong, or any.
pub fn number(rng: &mut Rng) -> u64 {
    if rng.bool() { EDGES[rng.usize(..EDGES.len())] } else { rng.u64(..) >> rng.u32(..64) }
}

/// Changes a few bytes: flips, sets, cuts, repeats, moves and inserts.
pub fn bytes(rng: &mut Rng, data: &mut Vec<u8>) {
    for _ in 0..rng.usize(1..6) {
        if data.is_empty() {
            data.push(rng.u8(..));
        }
        let (at, len) = (rng.usize(..data.len()), data.len());
        match rng.u32(..7) {
            0 => data[at] ^= 1 << rng.u32(..8),
            1 => data[at] = rng.u8(..),
            2 => data.truncate(at),
            3 => drop(data.drain(at..(at + rng.usize(1..9)).min(len))),
            4 => {
                let piece = data[at..(at + rng.usize(1..40)).min(len)].to_vec();
                data.splice(at..at, piece);
            }
            5 => {
                let word = number(rng).to_le_bytes();
                let width = [1, 2, 4, 8][rng.usize(..4)].min(len - at);
                data[at..at + width].copy_from_slice(&word[..width]);
            }
            _ => drop(data.splice(at..at, (0..rng.usize(1..20)).map(|_| rng.u8(..)).collect::<Vec<u8>>())),
        }
    }
}

/// Changes a text in units that its format knows: lines and words are dropped, repeated, exchanged and
/// replaced.
pub fn text(rng: &mut Rng, text: &str, words: &[&str]) -> String {
    let mut pieces: Vec<String> =
        text.split_inclusive([' ', '\n', ',', '=', '"', '{', '}', '[', ']']).map(String::from).collect();
    for _ in 0..rng.usize(1..6) {
        if pieces.is_empty() {
            return String::new();
        }
        let (a, b) = (rng.usize(..pieces.len()), rng.usize(..pieces.len()));
        match rng.u32(..6) {
            0 => drop(pieces.remove(a)),
            1 => pieces.swap(a, b),
            2 => pieces.insert(a, pieces[b].clone()),
            3 => pieces[a] = number(rng).to_string(),
            4 if !words.is_empty() => pieces[a] = words[rng.usize(..words.len())].into(),
            _ => {
                let mut raw = pieces[a].clone().into_bytes();
                bytes(rng, &mut raw);
                pieces[a] = String::from_utf8_lossy(&raw).into_owned();
            }
        }
    }
    pieces.concat()
}
