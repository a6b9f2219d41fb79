//! Bytes that several connections send, and that exist once in memory.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Bytes that are not copied when they are queued. They are the argument of
/// [`write_shared`](crate::Output::write_shared) and [`broadcast_shared`](crate::Others::broadcast_shared).
///
/// Made without a copy from `&'static [u8]`, `&'static str`, `Vec<u8>`, `String`, `Box<[u8]>`, `Arc<[u8]>`,
/// `Arc<Vec<u8>>` and `Arc<str>`. A clone and a [`slice`](Self::slice) share the same memory, which is freed with the last
/// of them. Source: none; Python's `bytes` are shared in the same way.
///
/// ```
/// use socketserver::{testing::Client, Next, Request, RequestHandler, Result, SharedBytes};
///
/// struct Page(SharedBytes);
/// impl RequestHandler for Page {
///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         request.input.take_all();
///         request.output.write_shared("HTTP/1.0 200 OK\r\n\r\n")?;
///         request.output.write_shared(self.0.slice(0..5))?;
///         Ok(Next::Close)
///     }
/// }
/// let mut client = Client::new(Page(b"hello, world"[..].into()));
/// client.feed(b"GET / HTTP/1.0\r\n\r\n");
/// assert_eq!(client.sent(), b"HTTP/1.0 200 OK\r\n\r\nhello");
/// ```
#[derive(Clone)]
pub struct SharedBytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Static(&'static [u8]),
    Slice(Arc<[u8]>),
    Vec(Arc<Vec<u8>>),
}

impl SharedBytes {
    /// Returns a part of the bytes, in the same memory.
    ///
    /// # Panics
    /// If the range exceeds the bytes, as for indexing a slice.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let _within = &self[range.clone()];
        let from = self.range.start;
        SharedBytes { owner: self.owner.clone(), range: from + range.start..from + range.end }
    }

    fn all(owner: Owner, length: usize) -> Self {
        SharedBytes { owner, range: 0..length }
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all = match &self.owner {
            Owner::Static(bytes) => bytes,
            Owner::Slice(bytes) => &bytes[..],
            Owner::Vec(bytes) => &bytes[..],
        };
        &all[self.range.clone()]
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBytes").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl From<&'static [u8]> for SharedBytes {
    fn from(bytes: &'static [u8]) -> Self {
        SharedBytes::all(Owner::Static(bytes), bytes.len())
    }
}

impl<const N: usize> From<&'static [u8; N]> for SharedBytes {
    fn from(bytes: &'static [u8; N]) -> Self {
        SharedBytes::from(&bytes[..])
    }
}

impl From<&'static str> for SharedBytes {
    fn from(text: &'static str) -> Self {
        SharedBytes::from(text.as_bytes())
    }
}

impl From<Arc<[u8]>> for SharedBytes {
    fn from(bytes: Arc<[u8]>) -> Self {
        let length = bytes.len();
        SharedBytes::all(Owner::Slice(bytes), length)
    }
}

impl From<Arc<str>> for SharedBytes {
    fn from(text: Arc<str>) -> Self {
        SharedBytes::from(Arc::<[u8]>::from(text))
    }
}

impl From<Arc<Vec<u8>>> for SharedBytes {
    fn from(bytes: Arc<Vec<u8>>) -> Self {
        let length = bytes.len();
        SharedBytes::all(Owner::Vec(bytes), length)
    }
}

impl From<Vec<u8>> for SharedBytes {
    fn from(bytes: Vec<u8>) -> Self {
        SharedBytes::from(Arc::new(bytes))
    }
}

impl From<Box<[u8]>> for SharedBytes {
    fn from(bytes: Box<[u8]>) -> Self {
        SharedBytes::from(bytes.into_vec())
    }
}

impl From<String> for SharedBytes {
    fn from(text: String) -> Self {
        SharedBytes::from(text.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_copied() {
        let vec = b"hello".to_vec();
        let at = vec.as_ptr();
        assert_eq!(SharedBytes::from(vec).as_ptr(), at);
        let boxed: Box<[u8]> = b"hello"[..].into();
        let at = boxed.as_ptr();
        assert_eq!(SharedBytes::from(boxed).as_ptr(), at);
        let text = "hello".to_owned();
        let at = text.as_ptr();
        assert_eq!(SharedBytes::from(text).as_ptr(), at);
        let shared: Arc<[u8]> = b"hello"[..].into();
        assert_eq!(SharedBytes::from(Arc::clone(&shared)).as_ptr(), shared.as_ptr());
        let shared = Arc::new(b"hello".to_vec());
        assert_eq!(SharedBytes::from(Arc::clone(&shared)).as_ptr(), shared.as_ptr());
        let shared: Arc<str> = "hello".into();
        assert_eq!(SharedBytes::from(Arc::clone(&shared)).as_ptr(), shared.as_ptr());
        static TEXT: &str = "hello";
        assert_eq!(SharedBytes::from(TEXT).as_ptr(), TEXT.as_ptr());
    }

    #[test]
    fn a_slice_of_a_slice_is_within_it() {
        let part = SharedBytes::from(b"hello, world").slice(3..9).slice(1..4);
        assert_eq!(part[..], b"o, "[..]);
        assert!(part.slice(3..3).is_empty());
        assert!(std::panic::catch_unwind(|| part.slice(2..4)).is_err(), "it may not reach beyond");
    }
}
