//! What the kernel says of a socket.

/// What the kernel says of one socket. May be spurious; never taken for more than a reason to try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness(pub(crate) u8);

impl Readiness {
    pub(crate) const READABLE: u8 = 1 << 0;
    pub(crate) const WRITABLE: u8 = 1 << 1;
    /// A short read is not to be trusted: the end of the stream, or a byte out of band (which cuts a read short,
    /// tcp(7)), may follow without another event. Of a stream that [cuts reads short](super::stream::Stream::cuts_reads_short) no
    /// short read is.
    pub(crate) const READ_TO_END: u8 = 1 << 2;
    /// Both directions are over.
    pub(crate) const HUNG_UP: u8 = 1 << 3;

    #[inline]
    pub(super) fn of(event: &mio::event::Event) -> Self {
        let mut bits = 0;
        if event.is_readable() {
            bits |= Readiness::READABLE;
        }
        if event.is_writable() {
            bits |= Readiness::WRITABLE;
        }
        if event.is_priority() {
            bits |= Readiness::READ_TO_END;
        }
        // Hang-up and error alone are a reason to try both ways: the attempt then says what is wrong.
        if event.is_read_closed() || event.is_error() {
            bits |= Readiness::READABLE | Readiness::READ_TO_END;
        }
        if event.is_write_closed() {
            bits |= Readiness::WRITABLE | Readiness::HUNG_UP;
        }
        Readiness(bits)
    }
}
