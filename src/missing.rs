//! Stand-ins for methods of features that are off, so that the compiler names the feature. For types it does this by
//! itself.
//!
//! Each requires a trait that nothing implements. The bound is on a type with a lifetime, because the compiler refuses
//! an unsatisfied bound without parameters at the definition.

/// Methods without arguments that need a feature.
#[allow(unused_macros, reason = "with all features no method is missing")]
macro_rules! needs {
    ($feature:ident, $receiver:ty: $($method:ident),+ -> $returned:ty) => {$(
        #[doc(hidden)]
        pub fn $method<'a>(self: $receiver) -> $returned
        where
            $receiver: $feature,
        {
            unreachable!("nothing is `{}`", stringify!($feature))
        }
    )+};
}

#[cfg(not(feature = "signals"))]
mod signals {
    use crate::error::Result;
    use crate::net::family::Family;
    use crate::reactor::Reactor;
    use crate::server::Server;
    use crate::workers::Workers;

    #[diagnostic::on_unimplemented(
        message = "this method needs the feature `signals` of `socketserver`",
        label = "the feature `signals` is off",
        note = "`cargo add socketserver --features signals`"
    )]
    pub trait Signals {}

    impl Reactor {
        needs!(Signals, &'a mut Self: shutdown_on_signals, reload_on_signal -> Result<()>);
    }

    impl Workers {
        needs!(Signals, &'a mut Self: shutdown_on_signals, reload_on_signal -> Result<()>);
    }

    impl<F: Family, S, H> Server<F, S, H> {
        needs!(Signals, &'a mut Self: shutdown_on_signals, reload_on_signal -> Result<()>);
    }
}

#[cfg(not(all(unix, feature = "proxy-protocol")))]
mod proxy_protocol {
    use crate::blocking::BlockingRequest;
    use crate::handler::request::Request;
    use crate::net::Stream;

    #[diagnostic::on_unimplemented(
        message = "`proxy_header` needs the feature `proxy-protocol` of `socketserver`, and Unix",
        label = "the feature `proxy-protocol` is off",
        note = "`cargo add socketserver --features proxy-protocol`"
    )]
    pub trait ProxyProtocol {}

    impl<S> Request<'_, S> {
        needs!(ProxyProtocol, &'a Self: proxy_header -> ());
    }

    impl<S> BlockingRequest<S> {
        needs!(ProxyProtocol, &'a Self: proxy_header -> ());
    }

    impl Stream {
        needs!(ProxyProtocol, &'a Self: proxy_header -> ());
    }
}

#[cfg(all(unix, not(feature = "inherit")))]
mod inherit {
    use crate::error::Result;
    use crate::server::inherited::InheritedSockets;

    #[diagnostic::on_unimplemented(
        message = "`InheritedSockets::from_env` needs the feature `inherit` of `socketserver`",
        label = "the feature `inherit` is off",
        note = "`cargo add socketserver --features inherit`"
    )]
    pub trait Inherit<'a> {}

    impl InheritedSockets {
        #[doc(hidden)]
        pub fn from_env<'a>() -> Result<Self>
        where
            &'a Self: Inherit<'a>,
        {
            unreachable!("nothing is `Inherit`")
        }
    }
}

#[cfg(not(all(unix, feature = "restart")))]
mod restart {
    use crate::error::Result;
    use crate::handler::others::Others;
    use crate::reactor::Reactor;
    use crate::workers::handle::WorkersHandle;

    #[diagnostic::on_unimplemented(
        message = "`restart` needs the feature `restart` of `socketserver`, and Unix",
        label = "the feature `restart` is off",
        note = "`cargo add socketserver --features restart`"
    )]
    pub trait Restart {}

    impl Reactor {
        needs!(Restart, &'a mut Self: restart -> Result<()>);
    }

    impl<S> Others<'_, S> {
        needs!(Restart, &'a mut Self: restart -> Result<()>);
    }

    impl WorkersHandle {
        needs!(Restart, &'a Self: restart -> Result<()>);
    }
}

#[cfg(not(all(unix, feature = "signals", feature = "restart")))]
mod restart_on_signal {
    use crate::error::Result;
    use crate::net::family::Family;
    use crate::reactor::Reactor;
    use crate::server::Server;
    use crate::workers::Workers;

    #[diagnostic::on_unimplemented(
        message = "`restart_on_signal` needs the features `restart` and `signals` of `socketserver`, and Unix",
        label = "one of the features `restart` and `signals` is off",
        note = "`cargo add socketserver --features restart,signals`"
    )]
    pub trait RestartOnSignal {}

    impl Reactor {
        needs!(RestartOnSignal, &'a mut Self: restart_on_signal -> Result<()>);
    }

    impl<F: Family, S, H> Server<F, S, H> {
        needs!(RestartOnSignal, &'a mut Self: restart_on_signal -> Result<()>);
    }

    impl Workers {
        needs!(RestartOnSignal, &'a mut Self: restart_on_signal -> Result<()>);
    }
}

#[cfg(not(all(unix, feature = "sd-notify")))]
mod sd_notify {
    use crate::error::Result;
    use crate::net::family::Family;
    use crate::reactor::Reactor;
    use crate::server::Server;
    use crate::workers::Workers;

    #[diagnostic::on_unimplemented(
        message = "`notify_supervisor` needs the feature `sd-notify` of `socketserver`, and Unix",
        label = "the feature `sd-notify` is off",
        note = "`cargo add socketserver --features sd-notify`"
    )]
    pub trait SdNotify {}

    impl Reactor {
        needs!(SdNotify, &'a mut Self: notify_supervisor -> Result<()>);
    }

    impl<F: Family, S, H> Server<F, S, H> {
        needs!(SdNotify, &'a mut Self: notify_supervisor -> Result<()>);
    }

    impl Workers {
        needs!(SdNotify, &'a mut Self: notify_supervisor -> Result<()>);
    }
}

#[cfg(all(unix, not(feature = "credentials")))]
mod credentials {
    use std::io;

    use crate::net::Stream;

    #[diagnostic::on_unimplemented(
        message = "`peer_credentials` needs the feature `credentials` of `socketserver`",
        label = "the feature `credentials` is off",
        note = "`cargo add socketserver --features credentials`"
    )]
    pub trait PeerCredentials {}

    impl Stream {
        needs!(PeerCredentials, &'a Self: peer_credentials -> io::Result<()>);
    }
}

#[cfg(not(feature = "tls"))]
mod tls {
    use crate::error::Result;
    use crate::handler::request::Request;

    #[diagnostic::on_unimplemented(
        message = "`start_tls` needs the feature `tls` of `socketserver`",
        label = "the feature `tls` is off",
        note = "`cargo add socketserver --features tls`"
    )]
    pub trait Tls {}

    impl<S> Request<'_, S> {
        #[doc(hidden)]
        pub fn start_tls<'a, T>(&'a mut self, _: &T) -> Result<()>
        where
            &'a mut Self: Tls,
        {
            unreachable!("nothing is `Tls`")
        }
    }
}

#[cfg(all(unix, not(feature = "children")))]
mod children {
    use std::process::Command;

    use crate::blocking::ServeOn;

    #[diagnostic::on_unimplemented(
        message = "`ServeOn::program` needs the feature `children` of `socketserver`",
        label = "the feature `children` is off",
        note = "`cargo add socketserver --features children`"
    )]
    pub trait Children {}

    impl<S> ServeOn<S> {
        #[doc(hidden)]
        pub fn program(_: Command) -> Self
        where
            Self: Children,
        {
            unreachable!("nothing is `Children`")
        }
    }
}
