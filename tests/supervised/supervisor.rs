//! The supervisor's end of `NOTIFY_SOCKET`.

use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};

use crate::programs::DEADLINE;

pub(crate) struct Supervisor {
    socket: UnixDatagram,
}

/// A message, and the process that has sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) pid: u32,
    pub(crate) text: String,
}

impl Supervisor {
    pub(crate) fn at(path: impl AsRef<Path>) -> Self {
        Supervisor::of(UnixDatagram::bind(path).unwrap())
    }

    pub(crate) fn named(name: &str) -> Self {
        Supervisor::of(UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap())
    }

    fn of(socket: UnixDatagram) -> Self {
        setsockopt(&socket, sockopt::PassCred, &true).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Supervisor { socket }
    }

    /// The next message.
    #[track_caller]
    pub(crate) fn hear(&self) -> Told {
        let (mut bytes, mut control) = ([0; 4096], nix::cmsg_space!(libc::ucred));
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let received = loop {
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut buffers, Some(&mut control), MsgFlags::empty()) {
                Err(Errno::EINTR) => {} // By SIGCHLD of a service.
                received => break received.expect("the supervisor is told something"),
            }
        };
        let pid = received.cmsgs().unwrap().find_map(|message| match message {
            ControlMessageOwned::ScmCredentials(sender) => Some(sender.pid()),
            _ => None,
        });
        let (pid, length) = (u32::try_from(pid.unwrap()).unwrap(), received.bytes);
        Told { pid, text: String::from_utf8(bytes[..length].to_vec()).unwrap() }
    }

    /// A process that has ended has told it nothing more.
    #[track_caller]
    pub(crate) fn expect_no_more(&self) {
        self.socket.set_nonblocking(true).unwrap();
        let mut bytes = [0; 4096];
        let more = self.socket.recv(&mut bytes).map(|length| String::from_utf8_lossy(&bytes[..length]).into_owned());
        assert!(more.is_err(), "{more:?}");
    }

    /// Passes messages over until one begins like this.
    #[track_caller]
    pub(crate) fn until(&self, beginning: &str) {
        let begun = Instant::now();
        while !self.hear().text.starts_with(beginning) {
            assert!(begun.elapsed() < DEADLINE, "the supervisor is not told {beginning}");
        }
    }

    /// Closes the socket, even if a process that another test is starting has it for a moment.
    pub(crate) fn close(self) {
        self.socket.shutdown(std::net::Shutdown::Both).unwrap();
    }

    /// The next message from this process, which is this one.
    #[track_caller]
    pub(crate) fn expect(&self, pid: u32, text: &str) {
        assert_eq!(self.hear(), Told { pid, text: format!("{text}\n") });
    }
}
