//! Binds sockets, makes them listen, and binds them again after a stop.

use std::io;
use std::sync::Arc;

use crate::address::Address;
use crate::error::{Error, Result, reason};
use crate::logging::note;
use crate::net::Socket;
use crate::net::family::Bound;
use crate::net::site::{Options, Site};
use crate::reactor::hosted::Hosted;

/// Binds a socket to each of these addresses; addresses without a port get the first port that the system chooses.
/// Binds all or none.
pub(super) fn bind_all(
    hosted: &mut dyn Hosted,
    options: &Arc<dyn Options>,
    addresses: &[Address],
) -> Result<Vec<(Socket, Site)>> {
    let mut tries = PORT_TRIES;
    loop {
        tries -= 1;
        match try_all(hosted, options, addresses) {
            // The port that the system has chosen for one address is in use at another.
            Err(Error::Bind { address, source })
                if source.kind() == io::ErrorKind::AddrInUse && !addresses.contains(&address) && tries > 0 => {}
            result => return result,
        }
    }
}

fn try_all(hosted: &mut dyn Hosted, options: &Arc<dyn Options>, addresses: &[Address]) -> Result<Vec<(Socket, Site)>> {
    let (mut bound, mut port, mut passed_over) = (Vec::new(), None, None);
    for address in addresses {
        let wanted = port.map_or_else(|| address.clone(), |port| address.clone().with_port(port));
        match bind(hosted, &Site { address: wanted, options: Arc::clone(options), adopted: false }) {
            Ok((socket, site)) => {
                port = port.or_else(|| site.address.port().filter(|_| address.port() == Some(0)));
                bound.push((socket, site));
            }
            Err(Error::Bind { address, source }) if addresses.len() > 1 && is_not_here(&source) => {
                note!(Warn, "{address} is not served: {}", reason(&source));
                passed_over = Some(Error::Bind { address, source });
            }
            Err(error) => return Err(error),
        }
    }
    match passed_over {
        Some(error) if bound.is_empty() => Err(error),
        _ => Ok(bound),
    }
}

/// Opens and binds a socket. Returns it with its address.
fn bind(hosted: &mut dyn Hosted, site: &Site) -> Result<(Socket, Site)> {
    site.options.check()?;
    let failed = |source| Error::Bind { address: site.address.clone(), source };
    let socket = site.options.open(&site.address).map_err(failed)?;
    hosted.server_bind(&socket, &site.address)?.map_err(failed)?;
    let address = socket.local_address().map_err(failed)?;
    Ok((socket, Site { address, ..site.clone() }))
}

/// Makes bound sockets listen, all or none.
pub(super) fn activate(hosted: &mut dyn Hosted, bound: Vec<(Socket, Site)>) -> Result<(Vec<Bound>, Vec<Site>)> {
    let (mut activated, mut sites) = (Vec::new(), Vec::new());
    for (socket, site) in bound {
        let failed = |source| Error::Listen { address: site.address.clone(), source };
        hosted.server_activate(&socket, site.options.request_queue_size())?.map_err(failed)?;
        activated.push(site.options.finish(socket).map_err(failed)?);
        sites.push(site);
    }
    Ok((activated, sites))
}

/// Binds and activates a socket at each of these sites again, all or none.
pub(super) fn bind_again(hosted: &mut dyn Hosted, sites: &[Site]) -> Result<(Vec<Bound>, Vec<Site>)> {
    let mut bound = Vec::new();
    for site in sites {
        bound.push(bind(hosted, site).map_err(|error| site.explain(error))?);
    }
    activate(hosted, bound)
}

/// How often another port is tried until one is free at all addresses of a name.
const PORT_TRIES: u32 = 32;

/// Returns whether a bind failed because this machine does not have the address or its family.
fn is_not_here(error: &io::Error) -> bool {
    #[cfg(unix)]
    use libc::EAFNOSUPPORT as NO_FAMILY;
    #[cfg(windows)]
    const NO_FAMILY: i32 = 10_047; // WSAEAFNOSUPPORT
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(NO_FAMILY)
}
