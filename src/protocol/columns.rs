//! Raw little-endian columns in the body of a frame: one after the other, each with its length in front. Owns
//! the layout; which columns a message has is the message's affair.
//!
//! A column is its number of values (u32), its bytes per value (u32), the values, and zeros up to a multiple
//! of eight bytes.

use crate::protocol::framing::FrameError;
use bytes::{Bytes, BytesMut};

/// Bytes in front of the values of a column.
const HEADER_BYTES: usize = 8;

/// Columns start at multiples of this.
const ALIGN_BYTES: usize = 8;

/// A type that can be a column's value.
pub trait Value: Copy + sealed::Sealed {
    /// Bytes per value.
    const BYTES: usize;

    /// Appends values.
    fn write(values: &[Self], out: &mut BytesMut);

    /// The values in `raw`, whose length is a multiple of `BYTES`.
    fn read(raw: &[u8]) -> Vec<Self>;
}

mod sealed {
    /// Keeps `Value` to the types below.
    pub trait Sealed {}
}

macro_rules! value {
    ($($type:ty),+) => {
        $(impl sealed::Sealed for $type {}
        impl Value for $type {
            const BYTES: usize = size_of::<$type>();

            fn write(values: &[Self], out: &mut BytesMut) {
                for value in values {
                    out.extend_from_slice(&value.to_le_bytes());
                }
            }

            fn read(raw: &[u8]) -> Vec<Self> {
                let (values, _) = raw.as_chunks::<{ size_of::<$type>() }>();
                values.iter().map(|v| <$type>::from_le_bytes(*v)).collect()
            }
        })+
    };
}

value!(u8, u16, u32, u64, i64, f64);

/// Writes columns into one body.
#[derive(Debug, Default)]
pub struct ColumnWriter {
    out: BytesMut,
}

impl ColumnWriter {
    /// A writer without columns.
    pub fn new() -> ColumnWriter {
        ColumnWriter::default()
    }

    /// Appends a column. Panics on more than 2^32 - 1 values, which no frame can hold.
    pub fn push<T: Value>(&mut self, values: &[T]) -> &mut ColumnWriter {
        let n = u32::try_from(values.len()).expect("a column has fewer than 2^32 values");
        self.out.reserve(HEADER_BYTES + values.len() * T::BYTES + ALIGN_BYTES);
        u32::write(&[n, T::BYTES as u32], &mut self.out);
        T::write(values, &mut self.out);
        self.out.resize(self.out.len().next_multiple_of(ALIGN_BYTES), 0);
        self
    }

    /// The body.
    pub fn finish(self) -> Bytes {
        self.out.freeze()
    }
}

/// Reads the columns of a body in the order in which they were written.
#[derive(Debug)]
pub struct ColumnReader<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> ColumnReader<'a> {
    /// A reader at the first column.
    pub fn new(body: &'a [u8]) -> ColumnReader<'a> {
        ColumnReader { rest: body, at: 0 }
    }

    /// The next column. Refuses one of another type, one that is longer than the body, and the end.
    pub fn column<T: Value>(&mut self) -> Result<Vec<T>, FrameError> {
        let fault = |what: String| FrameError::Columns(format!("column {} {what}", self.at));
        let Some((header, rest)) = self.rest.split_at_checked(HEADER_BYTES) else {
            return Err(fault(format!("is missing: {} bytes are left", self.rest.len())));
        };
        let header = u32::read(header);
        let (n, bytes) = (header[0] as usize, header[1] as usize);
        if bytes != T::BYTES {
            return Err(fault(format!("has values of {bytes} bytes, not {}", T::BYTES)));
        }
        let padded = n.checked_mul(bytes).and_then(|b| b.checked_next_multiple_of(ALIGN_BYTES));
        let Some((raw, rest)) = padded.and_then(|b| rest.split_at_checked(b)) else {
            return Err(fault(format!("has {n} values of {bytes} bytes, {} bytes are left", rest.len())));
        };
        self.rest = rest;
        self.at += 1;
        Ok(T::read(&raw[..n * bytes]))
    }

    /// The next column, which must have `n` values.
    pub fn column_of<T: Value>(&mut self, n: usize) -> Result<Vec<T>, FrameError> {
        let at = self.at;
        let values = self.column()?;
        if values.len() != n {
            let found = values.len();
            return Err(FrameError::Columns(format!("column {at} has {found} values, not {n}")));
        }
        Ok(values)
    }

    /// To be called after the last column: an error if there is more.
    pub fn finish(self) -> Result<(), FrameError> {
        match self.rest.len() {
            0 => Ok(()),
            n => Err(FrameError::Columns(format!("{n} bytes follow the last of {} columns", self.at))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_golden_bytes() {
        let mut w = ColumnWriter::new();
        w.push(&[1u32, 0x01020304, u32::MAX]).push::<u64>(&[]).push(&[5u64]).push(&[7u8]).push(&[1.5f64]);
        let body = w.finish();
        assert_eq!(
            &body[..24],
            [3, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 4, 3, 2, 1, 255, 255, 255, 255, 0, 0, 0, 0]
        );
        let mut r = ColumnReader::new(&body);
        assert_eq!(r.column::<u32>().unwrap(), [1, 0x01020304, u32::MAX]);
        assert!(r.column_of::<u64>(0).unwrap().is_empty());
        assert_eq!(r.column::<u64>().unwrap(), [5]);
        assert_eq!(r.column::<u8>().unwrap(), [7]);
        assert_eq!(r.column::<f64>().unwrap(), [1.5]);
        r.finish().unwrap();
    }

    #[test]
    fn faults_are_named() {
        let mut w = ColumnWriter::new();
        w.push(&[1u32, 2, 3]);
        let body = w.finish();
        let text = |r: Result<Vec<u32>, FrameError>| r.unwrap_err().to_string();
        assert!(text(ColumnReader::new(&body).column_of(2)).ends_with("column 0 has 3 values, not 2"));
        for n in 0..body.len() {
            assert!(ColumnReader::new(&body[..n]).column::<u32>().is_err(), "{n}");
        }
        let e = ColumnReader::new(&body).column::<u64>().unwrap_err().to_string();
        assert!(e.ends_with("column 0 has values of 4 bytes, not 8"), "{e}");
        let e = ColumnReader::new(&body).finish().unwrap_err().to_string();
        assert!(e.ends_with("24 bytes follow the last of 0 columns"), "{e}");
        let huge = [255, 255, 255, 255, 4, 0, 0, 0, 1, 2, 3, 4];
        assert!(text(ColumnReader::new(&huge).column()).contains("4294967295 values of 4 bytes"));
    }
}
