//! The kernel's reports about a socket.

/// The kernel's reports about one socket. They may be spurious, and are only a reason to try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness(pub(crate) u8);

impl Readiness {
    pub(crate) const READABLE: u8 = 1 << 0;
    pub(crate) const WRITABLE: u8 = 1 << 1;
    /// A short read does not mean that the socket is drained: the end of the stream, or an out-of-band byte (which cuts
    /// a read short, tcp(7)), may follow without another event. For a stream that [cuts reads
    /// short](super::stream::Stream::cuts_reads_short), no short read means that.
    pub(crate) const READ_TO_END: u8 = 1 << 2;
    /// Both directions are over.
    pub(crate) const HUNG_UP: u8 = 1 << 3;

    #[inline(always)]
    pub(super) fn of(event: &mio::event::Event) -> Self {
        let readable = if event.is_readable() { Readiness::READABLE } else { 0 };
        let writable = if event.is_writable() { Readiness::WRITABLE } else { 0 };
        if event.is_error() || event.is_read_closed() || event.is_write_closed() || event.is_priority() {
            return Readiness(readable | writable | Readiness::of_the_end(event));
        }
        Readiness(readable | writable)
    }

    /// The rest of an event that reports more than room or bytes.
    #[inline(never)]
    fn of_the_end(event: &mio::event::Event) -> u8 {
        let mut bits = 0;
        if event.is_priority() {
            bits |= Readiness::READ_TO_END;
        }
        // A hang-up or an error alone is a reason to try both directions. The attempt then returns the error.
        if event.is_read_closed() || event.is_error() {
            bits |= Readiness::READABLE | Readiness::READ_TO_END;
        }
        if event.is_write_closed() {
            bits |= Readiness::WRITABLE | Readiness::HUNG_UP;
        }
        bits
    }
}
