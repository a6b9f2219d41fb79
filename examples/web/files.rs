//! Files below a folder: which one a path names, and which part of it a request asks for.

use std::fs::File;
use std::ops::Range;
use std::path::{Component, Path};
use std::time::{Duration, SystemTime};

use super::http::{Head, NOT_MODIFIED, Status};

/// An open file, and the part of it to send.
pub(crate) struct Found {
    pub(crate) status: Status,
    /// The headers that describe it.
    pub(crate) headers: String,
    pub(crate) file: File,
    pub(crate) part: Range<u64>,
}

/// Opens the file that a path names. Neither `..` nor a symbolic link leads out of the folder.
pub(crate) fn open(root: &Path, path: &str, head: &Head<'_>) -> Result<Found, Status> {
    let name = percent_encoding::percent_decode_str(path).decode_utf8().map_err(|_| NOT_FOUND)?;
    let name = Path::new(&*name);
    if !name.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(NOT_FOUND);
    }
    let path = root.join(name);
    let path = if path.is_dir() { path.join("index.html") } else { path };
    let path = path.canonicalize().ok().filter(|path| path.starts_with(root) && path.is_file()).ok_or(NOT_FOUND)?;
    let file = File::open(&path).map_err(|_| "403 Forbidden")?;
    let metadata = file.metadata().map_err(|_| NOT_FOUND)?;
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let date = httpdate::fmt_http_date(modified);
    let mut headers = format!("Content-Type: {}\r\nLast-Modified: {date}\r\nAccept-Ranges: bytes\r\n", kind(&path));
    let is_known = |since: SystemTime| modified < since + Duration::from_secs(1);
    if head.if_modified_since.and_then(|date| httpdate::parse_http_date(date).ok()).is_some_and(is_known) {
        return Ok(Found { status: NOT_MODIFIED, headers, file, part: 0..0 });
    }
    let wanted = head.range.filter(|_| head.if_range.is_none_or(|version| version == date));
    let Some(part) = wanted.and_then(|range| part(range, metadata.len())) else {
        return Ok(Found { status: "200 OK", headers, file, part: 0..metadata.len() });
    };
    if part.is_empty() {
        headers += &format!("Content-Range: bytes */{}\r\n", metadata.len());
        return Ok(Found { status: "416 Range Not Satisfiable", headers, file, part: 0..0 });
    }
    headers += &format!("Content-Range: bytes {}-{}/{}\r\n", part.start, part.end - 1, metadata.len());
    Ok(Found { status: "206 Partial Content", headers, file, part })
}

/// The part of a file that a range stands for, which is empty if the file is too short. `None` for several ranges and for
/// other units, which may be ignored.
fn part(range: &str, length: u64) -> Option<Range<u64>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| !text.starts_with('+'));
    match (number(first), number(last)) {
        (None, Some(count)) if first.is_empty() => Some(length.saturating_sub(count)..length),
        (Some(first), None) if last.is_empty() => Some(first..length.max(first)),
        (Some(first), Some(last)) if first <= last => Some(first..length.min(last.saturating_add(1)).max(first)),
        _ => None,
    }
}

fn kind(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()).unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "txt" | "md" => "text/plain; charset=utf-8",
        "json" => "application/json",
        "png" => "image/png",
        "svg" => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

const NOT_FOUND: Status = "404 Not Found";
