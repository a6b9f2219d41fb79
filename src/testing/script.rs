//! What happens to a scripted connection, in order.

use super::pipe::Arrival;

/// A script for a simulated connection: the input that arrives, and how much of the output it accepts.
///
/// ```
/// use socketserver::testing::{Client, Script};
/// # use socketserver::{Next, Request, RequestHandler, Result};
/// # struct Echo;
/// # impl RequestHandler for Echo {
/// #     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
/// #         std::io::Write::write_all(&mut request.output, request.input.take_all())?;
/// #         Ok(Next::Wait)
/// #     }
/// # }
/// let mut client = Client::new(Echo);
/// client.play(Script::new().short_write(1).read(b"he").would_block().read(b"llo\n").eof());
/// assert_eq!(client.sent(), b"hello\n");
/// assert_eq!(client.transcript(), ["setup", "handle 2", "handle 4", "eof", "finish peer closed"]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub(super) arrivals: Vec<Arrival>,
    pub(super) short_writes: Vec<usize>,
}

impl Script {
    /// Creates an empty script.
    pub fn new() -> Self {
        Script::default()
    }

    /// Bytes arrive. One read returns them all if the buffer is large enough. It never returns them together with later
    /// input.
    #[must_use]
    pub fn read(mut self, bytes: &[u8]) -> Self {
        if !bytes.is_empty() {
            self.arrivals.push(Arrival::Bytes(bytes.to_vec()));
        }
        self
    }

    /// A read returns `WouldBlock`. Later input arrives separately and causes an event.
    #[must_use]
    pub fn would_block(mut self) -> Self {
        self.arrivals.push(Arrival::WouldBlock);
        self
    }

    /// The client ends its direction.
    #[must_use]
    pub fn eof(mut self) -> Self {
        self.arrivals.push(Arrival::Eof);
        self
    }

    /// The client resets the connection.
    #[must_use]
    pub fn reset(mut self) -> Self {
        self.arrivals.push(Arrival::Reset);
        self
    }

    /// The next write accepts at most this many bytes. If there are several short writes, they apply to successive
    /// writes in order. With 0, the write would block.
    #[must_use]
    pub fn short_write(mut self, bytes: usize) -> Self {
        self.short_writes.push(bytes);
        self
    }
}
