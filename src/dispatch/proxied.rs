//! Connections from proxies: the header comes before the hooks (feature `proxy-protocol`).

use std::io;

use super::Host;
use crate::address::Address;
use crate::error::reason;
use crate::handler::RequestHandler;
use crate::logging::note_fault;
use crate::net::proxy_protocol::Head;
use crate::net::{ProxyProtocol, Stream};
use crate::panics::catch;
use crate::reactor::core::Core;
use crate::reactor::hosted::Scratch;
use crate::server::hooks::BaseServer;

impl<S: BaseServer, H: RequestHandler<S>> Host<S, H> {
    /// Takes in a connection that has just been accepted. Its header has usually arrived by then.
    pub(super) fn take_in_from_proxy(
        &mut self,
        core: &mut Core,
        scratch: &mut Scratch,
        protocol: &ProxyProtocol,
        stream: Stream,
        peer: Address,
    ) -> io::Result<()> {
        match catch(|| protocol.trusts(&peer)) {
            Ok(true) => {}
            Ok(false) if !protocol.required => return self.take_in(core, scratch, stream, peer),
            Ok(false) => {
                self.refuse_peer(core, &peer, Some("it is no trusted proxy (proxy_protocol)"));
                return Ok(());
            }
            Err(panic) => {
                core.stats.panics += 1;
                self.calls.hook(core, |state| state.handle_error(&peer, &panic));
                self.refuse_peer(core, &peer, Some("whether it is trusted is not known"));
                return Ok(());
            }
        }
        match stream.peek_header() {
            Ok(Head::Undecided(_) | Head::Incomplete) => {
                core.await_header(self.calls.number(), stream, peer, protocol.clone())
            }
            head => self.take_in_after(core, scratch, protocol, head, stream, peer),
        }
    }

    /// More of a header may have arrived, or it is `late`.
    pub(super) fn read_on(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, late: bool) {
        let Some(heading) = core.slots.heading(key) else { return };
        let Some(stream) = &heading.stream else { return };
        let head = stream.peek_header();
        if matches!(head, Ok(Head::Undecided(_) | Head::Incomplete)) && !heading.ended && !late {
            return;
        }
        let (protocol, ended) = (heading.protocol.clone(), heading.ended);
        let Some((stream, proxy)) = core.take_heading(key) else { return };
        self.begin(core, scratch);
        let taken = match head {
            // Health checks only connect.
            Ok(Head::Undecided(0)) if ended => {
                self.refuse_peer(core, &proxy, None);
                Ok(())
            }
            // The client may wait for the server to speak, or for an answer to these bytes.
            Ok(Head::Undecided(_)) if !protocol.required => self.take_in(core, scratch, stream, proxy.clone()),
            Ok(Head::Undecided(_) | Head::Incomplete) if ended => {
                self.refuse_header(core, &proxy, &stream, "its PROXY header is cut off");
                Ok(())
            }
            Ok(Head::Undecided(_) | Head::Incomplete) => {
                let why = format!("no whole PROXY header in {:?} (proxy_protocol.timeout)", protocol.timeout);
                self.refuse_header(core, &proxy, &stream, &why);
                Ok(())
            }
            head => self.take_in_after(core, scratch, &protocol, head, stream, proxy.clone()),
        };
        if let Err(error) = taken {
            core.stats.accept_errors += 1;
            note_fault!(Debug, "{proxy} is lost before it is served: {}", reason(&error));
        }
    }

    /// Takes in a connection after its header, or without one.
    fn take_in_after(
        &mut self,
        core: &mut Core,
        scratch: &mut Scratch,
        protocol: &ProxyProtocol,
        head: io::Result<Head>,
        mut stream: Stream,
        proxy: Address,
    ) -> io::Result<()> {
        match head {
            Ok(Head::Complete(header, length)) => {
                stream.skip_header(length)?;
                let client = header.client_address().unwrap_or(&proxy).clone();
                stream.set_proxy_header(header.with_proxy(proxy));
                return self.take_in(core, scratch, stream, client);
            }
            Ok(Head::Absent) if !protocol.required => return self.take_in(core, scratch, stream, proxy),
            Ok(Head::Absent) => self.refuse_header(core, &proxy, &stream, "no PROXY header"),
            Ok(Head::Malformed(why)) => {
                self.refuse_header(core, &proxy, &stream, &format!("its PROXY header is wrong ({why})"));
            }
            Ok(Head::Undecided(_) | Head::Incomplete) => unreachable!("that is waited for"),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Refuses a connection because of its first bytes, and shows them.
    #[cold]
    fn refuse_header(&mut self, core: &mut Core, proxy: &Address, stream: &Stream, why: &str) {
        let first = match stream.first_bytes() {
            none if none.is_empty() => "no byte has come".to_owned(),
            first => format!("it begins with \"{first}\""),
        };
        self.refuse_peer(core, proxy, Some(&format!("{why}, {first}")));
    }

    /// Refuses a connection without an acceptable header.
    #[cold]
    fn refuse_peer(&mut self, core: &mut Core, peer: &Address, why: Option<&str>) {
        if let Some(why) = why {
            core.stats.proxy_headers_failed += 1;
            note_fault!(Warn, "{peer} is refused: {why}");
        }
        self.calls.refuse(core, peer, None);
    }
}
