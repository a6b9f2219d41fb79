//! Length-prefixed frames in the input and in the output.

use std::io::IoSlice;

use super::input::Input;
use super::output::Output;
use crate::error::{Error, Result};

/// The format of the length in front of a frame's payload.
///
/// ```
/// use socketserver::{testing::Client, Next, Prefix, Request, RequestHandler, Result};
///
/// struct EchoFrames;
/// impl RequestHandler for EchoFrames {
///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         while let Some(payload) = request.input.read_frame(Prefix::U16Be)? {
///             request.output.write_frame(Prefix::Varint, payload)?;
///         }
///         Ok(Next::Wait)
///     }
/// }
/// let mut client = Client::new(EchoFrames);
/// client.feed(b"\x00\x03ab");
/// client.feed(b"c\x00\x00");
/// assert_eq!(client.sent(), b"\x03abc\x00");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// One byte.
    U8,
    /// Two bytes, big-endian (network order).
    U16Be,
    /// Two bytes, little-endian.
    U16Le,
    /// Four bytes, big-endian.
    U32Be,
    /// Four bytes, little-endian.
    U32Le,
    /// Eight bytes, big-endian.
    U64Be,
    /// Eight bytes, little-endian.
    U64Le,
    /// One to ten bytes of seven bits each, the lowest first: unsigned LEB128, as in Protocol Buffers.
    Varint,
}

impl<'a> Input<'a> {
    /// Consumes a frame and returns its payload, or `None` until it is complete. At the end of the stream an incomplete
    /// frame stays unread, and the result stays `None`.
    ///
    /// # Errors
    /// [`Error::InputLimit`] if the payload is longer than
    /// [`Limits::frame_bytes_max`](crate::Limits::frame_bytes_max), as soon as the prefix says so, or if a varint
    /// does not end after ten bytes.
    pub fn read_frame(&mut self, prefix: Prefix) -> Result<Option<&'a [u8]>> {
        if self.is_held() {
            return Ok(None);
        }
        let Some((prefix_bytes, length)) = prefix.decode(self.unread())? else {
            return Ok(None);
        };
        let max = self.budget.limits.frame_bytes_max;
        match usize::try_from(length) {
            Ok(length) if length <= max => {
                if self.len() - prefix_bytes < length {
                    return Ok(None);
                }
                self.take(prefix_bytes);
                Ok(Some(self.take(length)))
            }
            _ => Err(Error::InputLimit { what: "frame", max }),
        }
    }
}

impl Output<'_> {
    /// Queues a frame: the length of `payload`, then `payload`.
    ///
    /// # Errors
    /// [`Error::Other`] if the length does not fit the prefix; then nothing is queued. Otherwise as for
    /// [`write`](Output#method.write).
    pub fn write_frame(&mut self, prefix: Prefix, payload: &[u8]) -> Result<()> {
        let (bytes, used) = prefix.encode(payload.len())?;
        // As one piece, so that a refused payload leaves no prefix behind.
        self.put_all(&[IoSlice::new(&bytes[..used]), IoSlice::new(payload)])
    }
}

impl Prefix {
    #[cfg(any(test, fuzzing))]
    pub(crate) const ALL: [Prefix; 8] = [
        Prefix::U8,
        Prefix::U16Be,
        Prefix::U16Le,
        Prefix::U32Be,
        Prefix::U32Le,
        Prefix::U64Be,
        Prefix::U64Le,
        Prefix::Varint,
    ];

    /// A message with its length in front.
    pub(crate) fn framed(self, message: &[u8]) -> Result<Vec<u8>> {
        let (bytes, used) = self.encode(message.len())?;
        Ok([&bytes[..used], message].concat())
    }

    /// Size of the prefix in bytes and the length it states; `None` if it is not complete.
    fn decode(self, bytes: &[u8]) -> Result<Option<(usize, u64)>> {
        let width = match self {
            Prefix::U8 => 1,
            Prefix::U16Be | Prefix::U16Le => 2,
            Prefix::U32Be | Prefix::U32Le => 4,
            Prefix::U64Be | Prefix::U64Le => 8,
            Prefix::Varint => return decode_varint(bytes),
        };
        let Some(prefix) = bytes.get(..width) else {
            return Ok(None);
        };
        let mut wide = [0; 8];
        let length = if matches!(self, Prefix::U16Le | Prefix::U32Le | Prefix::U64Le) {
            wide[..width].copy_from_slice(prefix);
            u64::from_le_bytes(wide)
        } else {
            wide[8 - width..].copy_from_slice(prefix);
            u64::from_be_bytes(wide)
        };
        Ok(Some((width, length)))
    }

    fn encode(self, length: usize) -> Result<([u8; VARINT_BYTES_MAX], usize)> {
        let mut bytes = [0; VARINT_BYTES_MAX];
        let length = length as u64;
        let width = match self {
            Prefix::U8 => 1,
            Prefix::U16Be | Prefix::U16Le => 2,
            Prefix::U32Be | Prefix::U32Le => 4,
            Prefix::U64Be | Prefix::U64Le => 8,
            Prefix::Varint => return Ok(encode_varint(length)),
        };
        if width < 8 && length >> (width * 8) != 0 {
            return Err(format!("a frame of {length} bytes does not fit a length of {width} bytes").into());
        }
        if matches!(self, Prefix::U16Le | Prefix::U32Le | Prefix::U64Le) {
            bytes[..width].copy_from_slice(&length.to_le_bytes()[..width]);
        } else {
            bytes[..width].copy_from_slice(&length.to_be_bytes()[8 - width..]);
        }
        Ok((bytes, width))
    }
}

fn decode_varint(bytes: &[u8]) -> Result<Option<(usize, u64)>> {
    let mut length = 0u64;
    for (i, &byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit only.
        if i == VARINT_BYTES_MAX - 1 && bits > 1 {
            break;
        }
        length |= bits << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(Some((i + 1, length)));
        }
    }
    if bytes.len() < VARINT_BYTES_MAX {
        return Ok(None);
    }
    Err(Error::InputLimit { what: "varint", max: VARINT_BYTES_MAX })
}

fn encode_varint(mut length: u64) -> ([u8; VARINT_BYTES_MAX], usize) {
    let mut bytes = [0; VARINT_BYTES_MAX];
    let mut used = 0;
    loop {
        bytes[used] = (length as u8 & 0x7f) | if length > 0x7f { 0x80 } else { 0 };
        used += 1;
        length >>= 7;
        if length == 0 {
            return (bytes, used);
        }
    }
}

/// 64 bits, seven to a byte.
const VARINT_BYTES_MAX: usize = crate::limits::PREFIX_BYTES_MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::budget::Budget;
    use crate::limits::Limits;

    #[test]
    fn every_prefix_comes_back_and_waits_for_its_last_byte() {
        for prefix in Prefix::ALL {
            for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536, 1 << 31, u64::from(u32::MAX), 1 << 40] {
                // On 32 bits nothing is as long as the last one.
                let Ok(length) = usize::try_from(length) else {
                    continue;
                };
                let Ok((bytes, used)) = prefix.encode(length) else {
                    continue;
                };
                assert_eq!(prefix.decode(&bytes[..used]).unwrap(), Some((used, length as u64)), "{prefix:?}");
                assert_eq!(prefix.decode(&bytes[..used - 1]).unwrap(), None, "{prefix:?} {length}");
            }
        }
        assert!(Prefix::U8.encode(256).is_err());
        assert!(Prefix::U16Le.encode(65_536).is_err());
    }

    #[test]
    fn an_oversized_frame_is_refused_from_its_prefix() {
        let budget = Budget::of(Limits { frame_bytes_max: 4, ..Limits::default() });
        for (prefix, bytes) in [(Prefix::U64Be, &[0xff; 8][..]), (Prefix::U8, &[5]), (Prefix::Varint, &[0x80, 0x01])] {
            let mut input = Input::new(bytes, Default::default(), &budget, false, false);
            assert!(matches!(input.read_frame(prefix), Err(Error::InputLimit { what: "frame", max: 4 })), "{prefix:?}");
        }
    }

    #[test]
    fn a_varint_without_end_is_refused() {
        assert!(decode_varint(&[0xff; 9]).unwrap().is_none());
        assert!(decode_varint(&[0xff; 10]).is_err());
        assert!(decode_varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]).is_err());
        assert_eq!(
            decode_varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).unwrap(),
            Some((10, u64::MAX))
        );
    }
}
