//! An upstream's answer over HTTP/1.1, read in one way only: its head, and the framing of its body.
//!
//! Pure: no I/O and no clock. What an upstream may send that can be read in two ways (two lengths, a length beside a coding, a coding
//! other than `chunked`) is an error of the upstream's: passed on, it would be the client that reads it wrongly.

use std::fmt;
use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::headers;

/// Largest head of an answer, in bytes: twice what we take from a client by default.
const HEAD_MAX: usize = 64 * 1024;
/// Most fields of a head or trailer section.
const FIELDS_MAX: usize = 128;
/// Longest line with a chunk's size, extension included, in bytes.
const CHUNK_LINE_MAX: usize = 1024;

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the answer can't be read: {}", self.0)
    }
}

/// What the request was, as far as it decides about the answer's framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// HEAD: the answer has no body, whatever its fields say.
    pub head: bool,
    /// The request asked to switch protocols.
    pub upgrade: bool,
}

/// The head of a final answer (or of a 101).
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    /// Without what is for one hop only, and without our own cookies.
    pub headers: HeaderMap,
    pub framing: Framing,
    /// The connection can take another request after this answer.
    pub keep_alive: bool,
}

/// Where a body ends (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Here: these many bytes are still to come.
    Length(u64),
    Chunked(Chunked),
    /// With the connection.
    UntilClose,
}

/// A place in a chunked body (RFC 9112 section 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunked {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

/// The next piece of a body.
#[derive(Debug, PartialEq)]
pub enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// More input is needed.
    More,
}

/// Takes the head of the final answer from the front of `input`; none while it is incomplete. Interim answers (1xx) are skipped.
pub fn head(input: &mut BytesMut, asked: Asked) -> Result<Option<Head>, Malformed> {
    loop {
        // Left uninitialised: to fill room for so many costs more than to read the few that come.
        let mut fields = [MaybeUninit::uninit(); FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let read = parser.parse_response_with_uninit_headers(&mut parsed, input, &mut fields);
        let length = match read {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if input.len() <= HEAD_MAX => return Ok(None),
            Ok(httparse::Status::Partial) => return Err(Malformed("its head is too large")),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(Malformed("it has too many fields"));
            }
            Err(_) => return Err(Malformed("its head is not HTTP/1")),
        };
        let status = parsed.code.unwrap_or_default();
        let status =
            StatusCode::from_u16(status).map_err(|_| Malformed("it has no such status"))?;
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            input.advance(length);
            continue;
        }
        let old = parsed.version == Some(0);
        let places: Vec<(HeaderName, std::ops::Range<usize>)> = places(input, parsed.headers)?;
        let bytes = input.split_to(length).freeze();
        return finish(status, old, &bytes, places, asked).map(Some);
    }
}

/// The fields' names, and where their values stand: the values are then shared with the input, not copied.
fn places(
    input: &[u8],
    fields: &[httparse::Header<'_>],
) -> Result<Vec<(HeaderName, std::ops::Range<usize>)>, Malformed> {
    let start = input.as_ptr() as usize;
    let place = |field: &httparse::Header<'_>| {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        // An empty value may stand anywhere.
        let at = match field.value {
            [] => 0,
            value => value.as_ptr() as usize - start,
        };
        Some((name, at..at + field.value.len()))
    };
    let placed: Option<Vec<_>> = fields.iter().map(place).collect();
    placed.ok_or(Malformed("a field has no name"))
}

/// What the fields say of the connection and of the body.
#[derive(Default)]
struct Told {
    close: bool,
    length: Option<u64>,
    chunked: bool,
    /// Names in `Connection`: fields for this hop only.
    hop: Vec<HeaderName>,
}

fn finish(
    status: StatusCode,
    old: bool,
    bytes: &Bytes,
    places: Vec<(HeaderName, std::ops::Range<usize>)>,
    asked: Asked,
) -> Result<Head, Malformed> {
    let switching = status == StatusCode::SWITCHING_PROTOCOLS;
    let mut told = Told::default();
    // Room for a few of ours, so that the map need not grow.
    let mut map = HeaderMap::with_capacity(places.len() + 4);
    for (name, range) in places {
        told.note(&name, &bytes[range.clone()])?;
        if !headers::reaches_client(&name, &bytes[range.clone()], switching) {
            continue;
        }
        let value = HeaderValue::from_maybe_shared(bytes.slice(range));
        map.append(
            name,
            value.map_err(|_| Malformed("a field has a control character"))?,
        );
    }
    for name in &told.hop {
        map.remove(name);
    }
    if switching && !asked.upgrade {
        // CVE-2026-2833: passed on, the bytes behind it would be read as something else.
        return Err(Malformed("it switches protocols unasked"));
    }
    if told.chunked && (told.length.is_some() || old) {
        return Err(Malformed(
            "it has a transfer coding beside a length, or in HTTP/1.0",
        ));
    }
    let bodiless = asked.head || switching || matches!(status.as_u16(), 204 | 304);
    if status == StatusCode::NO_CONTENT {
        map.remove(header::CONTENT_LENGTH);
    }
    let framing = match told.length {
        _ if bodiless => Framing::Length(0),
        _ if told.chunked => Framing::Chunked(Chunked::Size),
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    };
    let keep_alive = !told.close && !old && !switching && framing != Framing::UntilClose;
    Ok(Head {
        status,
        headers: map,
        framing,
        keep_alive,
    })
}

impl Told {
    fn note(&mut self, name: &HeaderName, value: &[u8]) -> Result<(), Malformed> {
        match *name {
            header::CONTENT_LENGTH => {
                let digits =
                    (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
                let length = std::str::from_utf8(value).ok().filter(|_| digits);
                let length = length.and_then(|text| text.parse().ok());
                let length = length.ok_or(Malformed("its length is no number"))?;
                if self.length.replace(length).is_some() {
                    return Err(Malformed("it has two lengths"));
                }
            }
            header::TRANSFER_ENCODING => {
                if self.chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed("it has a transfer coding other than chunked"));
                }
                self.chunked = true;
            }
            header::CONNECTION => {
                for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    if option.eq_ignore_ascii_case(b"close") {
                        self.close = true;
                    } else if !option.eq_ignore_ascii_case(b"keep-alive")
                        && !option.eq_ignore_ascii_case(b"upgrade")
                    {
                        self.hop.extend(HeaderName::from_bytes(option).ok());
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Framing {
    /// Whether the body is through.
    pub fn is_done(self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunked::Done))
    }

    /// What is still to come, where that is known.
    pub fn left(self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(left),
            Self::Chunked(Chunked::Done) => Some(0),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// Takes the next piece of the body from the front of `input`.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Part, Malformed> {
        match self {
            Self::Length(0) => Ok(Part::End),
            Self::Length(left) => Ok(take(input, left)),
            Self::UntilClose if input.is_empty() => Ok(Part::More),
            Self::UntilClose => Ok(Part::Data(input.split().freeze())),
            Self::Chunked(at) => at.next(input),
        }
    }
}

/// Up to `left` bytes.
fn take(input: &mut BytesMut, left: &mut u64) -> Part {
    let bytes = input
        .len()
        .min(usize::try_from(*left).unwrap_or(usize::MAX));
    if bytes == 0 {
        return Part::More;
    }
    *left -= bytes as u64;
    Part::Data(input.split_to(bytes).freeze())
}

impl Chunked {
    fn next(&mut self, input: &mut BytesMut) -> Result<Part, Malformed> {
        loop {
            match self {
                Self::Size => match chunk_size(input)? {
                    None => return Ok(Part::More),
                    Some(0) => *self = Self::Trailers,
                    Some(size) => *self = Self::Data(size),
                },
                Self::Data(left) => {
                    let part = take(input, left);
                    if *left == 0 {
                        *self = Self::DataEnd;
                    }
                    return Ok(part);
                }
                Self::DataEnd => match input.get(..2) {
                    None => return Ok(Part::More),
                    Some(b"\r\n") => {
                        input.advance(2);
                        *self = Self::Size;
                    }
                    Some(_) => return Err(Malformed("a chunk is longer than it said")),
                },
                Self::Trailers => {
                    let Some(trailers) = trailers(input)? else {
                        return Ok(Part::More);
                    };
                    *self = Self::Done;
                    if !trailers.is_empty() {
                        return Ok(Part::Trailers(trailers));
                    }
                }
                Self::Done => return Ok(Part::End),
            }
        }
    }
}

/// The size that a chunk's first line tells.
fn chunk_size(input: &mut BytesMut) -> Result<Option<u64>, Malformed> {
    let window = &input[..input.len().min(CHUNK_LINE_MAX)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return match input.len() < CHUNK_LINE_MAX {
            true => Ok(None),
            false => Err(Malformed("a chunk's first line is too long")),
        };
    };
    const WRONG: Malformed = Malformed("a chunk has no size");
    let line = window[..end].strip_suffix(b"\r").ok_or(WRONG)?;
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let digits = digits.trim_ascii_end();
    if !(1..=16).contains(&digits.len()) {
        return Err(WRONG);
    }
    let size = digits.iter().try_fold(0u64, |sum, &byte| {
        let digit = char::from(byte).to_digit(16).ok_or(WRONG)?;
        Ok(sum << 4 | u64::from(digit))
    })?;
    input.advance(end + 1);
    Ok(Some(size))
}

/// The trailer section, without fields that mean something in a head only.
fn trailers(input: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut map = HeaderMap::new();
    let length = match httparse::parse_headers(input, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) => {
            for field in fields {
                let name = HeaderName::from_bytes(field.name.as_bytes());
                let value = HeaderValue::from_bytes(field.value);
                let (Ok(name), Ok(value)) = (name, value) else {
                    return Err(Malformed("a trailer can't be read"));
                };
                if headers::may_trail(&name) {
                    map.append(name, value);
                }
            }
            length
        }
        Ok(httparse::Status::Partial) if input.len() <= HEAD_MAX => return Ok(None),
        _ => return Err(Malformed("its trailers can't be read")),
    };
    input.advance(length);
    Ok(Some(map))
}

#[cfg(test)]
mod tests;
