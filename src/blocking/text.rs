//! Reading to the end, and reading text, for files and sockets.

use std::io::{self, Read};

use crate::error::Error;

/// Reads to the end, which may be at most this many bytes away.
pub(super) fn read_to_end_within(reader: &mut impl Read, max: usize, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let count = reader.take((max as u64).saturating_add(1)).read_to_end(bytes)?;
    if count > max { Err(Error::InputLimit { what: "unread input", max }.into()) } else { Ok(count) }
}

/// Appends input to a text, or nothing if the input is not valid text.
pub(super) fn read_text(text: &mut String, read: impl FnOnce(&mut Vec<u8>) -> io::Result<usize>) -> io::Result<usize> {
    let mut bytes = std::mem::take(text).into_bytes();
    let length = bytes.len();
    let result = read(&mut bytes);
    let (valid, result) = match String::from_utf8(bytes) {
        Ok(valid) => (valid, result),
        Err(error) => {
            let mut bytes = error.into_bytes();
            bytes.truncate(length);
            let valid = String::from_utf8(bytes).expect("this part was a text before");
            let invalid = io::Error::new(io::ErrorKind::InvalidData, "stream did not contain valid UTF-8");
            (valid, result.and(Err(invalid)))
        }
    };
    *text = valid;
    result
}
