//! The public methods of the crate, as its sources list them, and those that were called.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

static CALLED: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());

/// Calls a method by its full name, and records the name. The compiler checks that the method exists.
macro_rules! call {
    ($kind:ident :: $method:ident $(:: <$($parameter:ty),+>)? ( $($argument:expr),* $(,)? )) => {{
        crate::methods::note(concat!(stringify!($kind), "::", stringify!($method)));
        $kind::$method $(::<$($parameter),+>)? ( $($argument),* )
    }};
    // A type with parameters of its own.
    ($kind:ident < $($parameter:ty),+ > :: $method:ident $(:: <$($more:ty),+>)? ( $($argument:expr),* $(,)? )) => {{
        crate::methods::note(concat!(stringify!($kind), "::", stringify!($method)));
        $kind::<$($parameter),+>::$method $(::<$($more),+>)? ( $($argument),* )
    }};
}
pub(crate) use call;

pub(crate) fn note(name: &'static str) {
    CALLED.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
}

/// Fails if a public method of the sources was never called. A name that is not in the sources is a mistake here.
pub(crate) fn check_all_were_called() {
    let all = in_sources();
    let called: BTreeSet<String> =
        CALLED.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|&name| name.to_owned()).collect();
    let missing: Vec<_> = all.difference(&called).collect();
    assert!(missing.is_empty(), "never called: {missing:#?}");
    let unknown: Vec<_> = called.difference(&all).collect();
    assert!(unknown.is_empty(), "called, but not in the sources: {unknown:#?}");
    println!("{} public methods, all called", all.len());
}

/// Every `pub fn` in an `impl` block or a module, and every `fn` of a public trait, as `Type::name`.
fn in_sources() -> BTreeSet<String> {
    let mut methods = BTreeSet::new();
    visit(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut methods);
    assert!(methods.len() > 200, "the sources are not read as they are written: {methods:?}");
    methods
}

fn visit(path: &Path, methods: &mut BTreeSet<String>) {
    let name = path.file_stem().and_then(|name| name.to_str()).expect("a name in ASCII");
    // `models` is for fuzzers, `missing` has the stand-ins for features that are off, and tests are no methods.
    if ["models", "missing", "tests"].contains(&name) {
        return;
    }
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            visit(&entry.unwrap().path(), methods);
        }
        return;
    }
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
    let (mut of, mut is_trait, mut hidden) = (name.to_owned(), false, false);
    for line in code.lines() {
        let is_inner = line.starts_with(' ');
        let line = line.trim_start();
        let public_trait = line.strip_prefix("pub trait ").filter(|_| !line.contains("sealed"));
        if let Some(rest) = line.strip_prefix("impl") {
            (of, is_trait) = (implemented(rest), false);
        } else if let Some(rest) = public_trait {
            (of, is_trait) = (identifier(rest), true);
        } else if !is_inner && line == "}" {
            (of, is_trait) = (name.to_owned(), false);
        } else if let Some(rest) = function(line, is_trait)
            && !hidden
        {
            methods.insert(format!("{of}::{}", identifier(rest)));
        }
        // An attribute is about the item that follows.
        hidden = line.starts_with("#[doc(hidden)]") || hidden && line.starts_with(['#', '/']);
    }
}

/// What follows `fn` in the first line of a public function.
fn function(line: &str, is_trait: bool) -> Option<&str> {
    let line = line.strip_prefix("pub ").or_else(|| is_trait.then_some(line))?;
    line.strip_prefix("const ").unwrap_or(line).strip_prefix("fn ")
}

/// The type in `<T: Bound<U>> Type<T> {`: the first name behind the parameters.
fn implemented(rest: &str) -> String {
    let mut depth = 0;
    let end = rest.char_indices().find(|&(at, char)| {
        // The arrow of `Fn() -> T` closes nothing.
        depth += i32::from(char == '<') - i32::from(char == '>' && !rest[..at].ends_with('-'));
        depth == 0 && char == ' '
    });
    identifier(rest[end.map_or(0, |(at, _)| at)..].trim_start())
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|&char| char.is_alphanumeric() || char == '_').collect()
}

#[test]
fn the_list_of_methods_is_read_from_the_sources() {
    let methods = in_sources();
    for known in [
        "Request::set_timer",
        "Others::broadcast",
        "BaseServer::verify_request",
        "RequestHandler::connect_failed",
        "BlockingHandler::rbufsize",
        "ThreadingMixIn::unbound_with_server",
        "UnixAddress::from_abstract_name",
        "NonBlocking::init",
        "Reactor::poll",
        "Handle::run",
        "ServeOn::thread",
        "StreamRequestHandler::new",
        "testing::check_chunking",
        "ServerAddress::to_addresses",
    ] {
        assert!(methods.contains(known), "{known} is missing: {methods:#?}");
    }
}
