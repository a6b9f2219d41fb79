//! Files below a folder: which one a path names, and which part of it a request asks for.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use http_range_header::{RangeUnsatisfiableError, parse_range_header};
use httpdate::HttpDate;

use super::http::{Content, Head, Reply, Status};

/// The files below a folder. Those that were asked for in this second are kept: small ones in memory, and a few that are
/// open.
pub(crate) struct Files {
    pub(crate) root: PathBuf,
    pub(crate) kept: HashMap<String, Reply>,
}

impl Files {
    pub(crate) fn find(&mut self, path: &str, head: &Head<'_>) -> Result<Reply, Status> {
        let is_whole = head.range.or(head.if_modified_since).is_none();
        if let Some(reply) = self.kept.get(path).filter(|_| is_whole) {
            return Ok(reply.clone());
        }
        let reply = locate(&self.root, path).and_then(|file| open(&file, head)).map_err(|error| status_of(&error))?;
        // An open file needs a descriptor.
        let kept_max = if let Content::File(..) = reply.body { 32 } else { 1_000 };
        if is_whole && self.kept.len() < kept_max {
            self.kept.insert(path.to_owned(), reply.clone());
        }
        Ok(reply)
    }
}

/// Finds the file that a path names. Neither `..` nor a symbolic link leads out of the folder.
fn locate(root: &Path, path: &str) -> io::Result<PathBuf> {
    let is_below = |name: &str| Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    let name = percent_encoding::percent_decode_str(path).decode_utf8().ok();
    let name = name.filter(|name| is_below(name)).ok_or(ErrorKind::NotFound)?;
    let name = if name.is_empty() || name.ends_with('/') { name + "index.html" } else { name };
    let path = root.join(&*name).canonicalize()?;
    if path.starts_with(root) && path.is_file() { Ok(path) } else { Err(ErrorKind::NotFound.into()) }
}

fn status_of(error: &io::Error) -> Status {
    use ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound, PermissionDenied};
    match (error.kind(), error.raw_os_error()) {
        (NotFound | NotADirectory | InvalidFilename | InvalidInput, _) => "404 Not Found",
        (PermissionDenied, _) => "403 Forbidden",
        #[cfg(unix)]
        (_, Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => "503 Service Unavailable",
        _ => "500 Internal Server Error",
    }
}

/// Opens the file, or the part of it that the request asks for.
fn open(path: &Path, head: &Head<'_>) -> io::Result<Reply> {
    let mut file = File::open(path)?;
    let (length, modified) = (file.metadata()?.len(), file.metadata()?.modified()?);
    let modified = HttpDate::from(modified.max(SystemTime::UNIX_EPOCH));
    let kind = mime_guess::from_path(path).first_or_octet_stream();
    let charset = if kind.type_() == "text" { "; charset=utf-8" } else { "" };
    let headers = format!("Content-Type: {kind}{charset}\r\nLast-Modified: {modified}\r\nAccept-Ranges: bytes\r\n");
    if head.if_modified_since.and_then(|date| date.parse().ok()).is_some_and(|date| modified <= date) {
        return Ok(Reply { status: "304 Not Modified", headers: headers.into(), body: Content::Bytes("".into()) });
    }
    // A range of another version is ignored, and so are several, and what is no range.
    let is_other = head.if_range.is_some_and(|version| version != modified.to_string());
    let range = head.range.filter(|_| !is_other).unwrap_or_default();
    let ranges = parse_range_header(range).and_then(|ranges| ranges.validate(length));
    let (status, range, part) = match ranges.as_deref() {
        Ok([part]) => {
            let (first, last) = (*part.start(), *part.end());
            ("206 Partial Content", format!("Content-Range: bytes {first}-{last}/{length}\r\n"), first..last + 1)
        }
        Err(RangeUnsatisfiableError::Unsatisfiable) => {
            ("416 Range Not Satisfiable", format!("Content-Range: bytes */{length}\r\n"), 0..0)
        }
        _ => ("200 OK", String::new(), 0..length),
    };
    let length = part.end - part.start;
    let headers = format!("{headers}{range}Content-Length: {length}\r\n").into();
    if length > SMALL_BYTES_MAX {
        return Ok(Reply { status, headers, body: Content::File(file.into(), part) });
    }
    let mut bytes = vec![0; length as usize];
    file.seek(SeekFrom::Start(part.start))?;
    file.read_exact(&mut bytes)?;
    Ok(Reply { status, headers, body: Content::Bytes(bytes.into()) })
}

const SMALL_BYTES_MAX: u64 = 16 * 1024;
