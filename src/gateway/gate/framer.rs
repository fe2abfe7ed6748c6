//! Where each message of an HTTP/1 byte stream begins and ends, told in one way only.
//!
//! Pure: no I/O, no clock, no allocation. Line by line, so that a verdict never depends on how the
//! bytes were cut into reads.

use super::lines;
use super::refusal::{Reason, Refusal};

/// 16 hex digits, `;`, an extension, CRLF.
const CHUNK_LINE_MAX: usize = CHUNK_DIGITS_MAX + 1 + CHUNK_EXTENSION_MAX + 2;
const CHUNK_DIGITS_MAX: usize = 16;
const CHUNK_EXTENSION_MAX: usize = 256;

/// How large a head may be. hyper's own limits (`max_headers`, `max_buf_size`) must not be lower.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a head, or of a trailer section, line ends included: 431 beyond.
    pub head_bytes: usize,
    /// Field lines of a head, or of a trailer section: 431 beyond.
    pub fields: usize,
    /// Bytes of a request line: 414 beyond.
    pub request_line_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_bytes: 32 * 1024,
            fields: 100,
            request_line_bytes: 8 * 1024,
        }
    }
}

/// What [`Framer::advance`] made of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The leading bytes that are checked and framed. They may be passed on; the others must be
    /// offered again, with more behind them.
    pub passed: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// Bytes that remain of a body with Content-Length.
    Length(u64),
    ChunkSize,
    /// Bytes that remain of a chunk.
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    /// Behind a request that asked for an upgrade: what follows may not be HTTP.
    Upgrade,
}

/// What the lines of the current head or trailer section have said so far.
#[derive(Clone, Copy, Debug, Default)]
struct Section {
    /// Bytes of the input that are lines already checked.
    parsed: usize,
    /// Bytes of the input that hold no LF beyond those of `parsed`.
    searched: usize,
    blank_line: bool,
    request_line: bool,
    http11: bool,
    fields: usize,
    host: bool,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

/// An incremental reader of the message framing of RFC 9112.
#[derive(Debug)]
pub struct Framer {
    limits: Limits,
    state: State,
    section: Section,
    refusal: Option<Refusal>,
    requests: u64,
}

impl Framer {
    /// A framer at the start of a connection.
    pub fn new(limits: Limits) -> Framer {
        let section = Section::default();
        Framer {
            limits,
            state: State::Head,
            section,
            refusal: None,
            requests: 0,
        }
    }

    /// Reads on. `input` begins at the first byte that was not yet passed.
    ///
    /// A head or a trailer section passes whole or not at all, and so does a chunk size line.
    /// A refusal is returned by the call whose input *begins* with what is refused, and by every
    /// call after it; [`Framer::refusal`] tells it as soon as it is known.
    pub fn advance(&mut self, input: &[u8]) -> Result<Progress, Refusal> {
        let mut passed = 0;
        while self.refusal.is_none() {
            match self.step(&input[passed..]) {
                Ok(0) => break,
                Ok(bytes) => passed += bytes,
                Err(reason) => {
                    self.refusal = Some(Refusal {
                        reason,
                        in_body: self.in_body(),
                    });
                }
            }
        }
        match self.refusal {
            Some(refusal) if passed == 0 => Err(refusal),
            _ => Ok(Progress { passed }),
        }
    }

    /// The refusal that ended this stream.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    /// How many heads were passed.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Whether a head was passed and the end of its body was not.
    pub fn in_body(&self) -> bool {
        !matches!(self.state, State::Head | State::Upgrade)
    }

    /// Whether nothing passes until it is known if the connection changes its protocol.
    pub fn awaits_upgrade(&self) -> bool {
        self.state == State::Upgrade
    }

    /// Whether the message that was begun last asks for an upgrade.
    pub fn asks_upgrade(&self) -> bool {
        self.awaits_upgrade() || self.in_body() && self.section.upgrade
    }

    /// The upgrade was not granted: what follows is HTTP/1 after all.
    pub fn resume(&mut self) {
        if self.awaits_upgrade() {
            self.state = State::Head;
        }
    }

    /// Takes the next element; 0 when it is not complete.
    fn step(&mut self, input: &[u8]) -> Result<usize, Reason> {
        match self.state {
            State::Head => self.head(input),
            State::Length(left) => Ok(self.data(input, left, State::Length)),
            State::ChunkSize => self.chunk_size(input),
            State::ChunkData(left) => Ok(self.data(input, left, State::ChunkData)),
            State::ChunkEnd => self.chunk_end(input),
            State::Trailers => self.trailers(input),
            State::Upgrade => Ok(0),
        }
    }

    /// The next line of a section without its CRLF, `None` when it is not complete.
    fn line<'a>(&mut self, input: &'a [u8]) -> Result<Option<&'a [u8]>, Reason> {
        let start = self.section.parsed;
        let found = memchr::memchr(b'\n', &input[self.section.searched..]);
        let end = found.map_or(input.len(), |at| self.section.searched + at + 1);
        // Before any look at the content: a line that came in pieces gets the same verdict.
        let is_first = self.state == State::Head && !self.section.request_line;
        if is_first && end - start > self.limits.request_line_bytes {
            return Err(Reason::TargetTooLong);
        }
        if end > self.limits.head_bytes {
            return Err(Reason::HeadTooLarge);
        }
        self.section.searched = end;
        if found.is_none() {
            return Ok(None);
        }
        self.section.parsed = end;
        input[start..end - 1]
            .strip_suffix(b"\r")
            .map(Some)
            .ok_or(Reason::BareLf)
    }

    fn head(&mut self, input: &[u8]) -> Result<usize, Reason> {
        while let Some(line) = self.line(input)? {
            match (self.section.request_line, line) {
                (true, []) => return self.end_of_head(),
                (true, _) => self.head_field(line)?,
                // RFC 9112 §2.2: old clients send an empty line behind a body.
                (false, []) if !self.section.blank_line => self.section.blank_line = true,
                (false, []) => return Err(Reason::LeadingLines),
                (false, _) => {
                    self.section.http11 = lines::request_line(line)?;
                    self.section.request_line = true;
                }
            }
        }
        Ok(0)
    }

    fn field<'a>(&mut self, line: &'a [u8]) -> Result<lines::Field<'a>, Reason> {
        self.section.fields += 1;
        if self.section.fields > self.limits.fields {
            return Err(Reason::TooManyFields);
        }
        lines::field(line)
    }

    #[inline]
    fn head_field(&mut self, line: &[u8]) -> Result<(), Reason> {
        let lines::Field { name, value } = self.field(line)?;
        // By length first: most fields are none of these.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(value),
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.section.upgrade = true;
                Ok(())
            }
            10 if name.eq_ignore_ascii_case(b"connection") => lines::connection(value),
            14 if name.eq_ignore_ascii_case(b"content-length") => self.content_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.transfer_encoding(value),
            _ => Ok(()),
        }
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Reason> {
        if std::mem::replace(&mut self.section.host, true) {
            return Err(Reason::DuplicateHost);
        }
        lines::host(value)
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Reason> {
        match self.section.length.replace(lines::content_length(value)?) {
            Some(_) => Err(Reason::DuplicateLength),
            None => Ok(()),
        }
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Reason> {
        if !self.section.http11 {
            return Err(Reason::EncodingInHttp10);
        }
        if std::mem::replace(&mut self.section.chunked, true) {
            return Err(Reason::Encoding);
        }
        lines::transfer_encoding(value)
    }

    /// What a whole head says of its body (RFC 9112 §6.3).
    fn end_of_head(&mut self) -> Result<usize, Reason> {
        let head = self.section;
        if head.http11 && !head.host {
            return Err(Reason::MissingHost);
        }
        if head.chunked && head.length.is_some() {
            return Err(Reason::LengthAndEncoding);
        }
        self.requests += 1;
        // RFC 9110 §7.8: a server ignores Upgrade in HTTP/1.0.
        self.section = Section {
            upgrade: head.upgrade && head.http11,
            ..Section::default()
        };
        match head.length {
            _ if head.chunked => self.state = State::ChunkSize,
            Some(length @ 1..) => self.state = State::Length(length),
            Some(0) | None => self.end_of_message(),
        }
        Ok(head.parsed)
    }

    fn end_of_message(&mut self) {
        self.state = if self.section.upgrade {
            State::Upgrade
        } else {
            State::Head
        };
        self.section = Section::default();
    }

    /// Body bytes of a known number, of which `left` remain.
    fn data(&mut self, input: &[u8], left: u64, state: fn(u64) -> State) -> usize {
        let bytes = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - bytes as u64;
        match (left, self.state) {
            (0, State::ChunkData(_)) => self.state = State::ChunkEnd,
            (0, _) => self.end_of_message(),
            _ => self.state = state(left),
        }
        bytes
    }

    /// A chunk size line (RFC 9112 §7.1).
    fn chunk_size(&mut self, input: &[u8]) -> Result<usize, Reason> {
        let window = &input[..input.len().min(CHUNK_LINE_MAX)];
        let Some(end) = memchr::memchr(b'\n', window) else {
            return match input.len() > CHUNK_LINE_MAX {
                true => Err(Reason::ChunkExtension),
                false => Ok(0),
            };
        };
        let line = window[..end].strip_suffix(b"\r").ok_or(Reason::BareLf)?;
        self.state = match chunk_line(line)? {
            0 => State::Trailers,
            size => State::ChunkData(size),
        };
        Ok(end + 1)
    }

    fn chunk_end(&mut self, input: &[u8]) -> Result<usize, Reason> {
        match input {
            [b'\r', b'\n', ..] => {
                self.state = State::ChunkSize;
                Ok(2)
            }
            [] | [b'\r'] => Ok(0),
            _ => Err(Reason::ChunkEnd),
        }
    }

    /// The trailer section, which ends the message (RFC 9112 §7.1.2).
    fn trailers(&mut self, input: &[u8]) -> Result<usize, Reason> {
        while let Some(line) = self.line(input)? {
            if line.is_empty() {
                let parsed = self.section.parsed;
                self.end_of_message();
                return Ok(parsed);
            }
            lines::trailer_name(self.field(line)?.name)?;
        }
        Ok(0)
    }
}

/// The size that a chunk line tells; its extension is checked and means nothing to us.
fn chunk_line(line: &[u8]) -> Result<u64, Reason> {
    let digits = memchr::memchr(b';', line).unwrap_or(line.len());
    let (size, extension) = line.split_at(digits);
    if size.is_empty() || size.len() > CHUNK_DIGITS_MAX {
        return Err(Reason::ChunkSize);
    }
    // `from_str_radix` would take a sign.
    let size = size.iter().try_fold(0u64, |sum, &byte| {
        let digit = char::from(byte).to_digit(16).ok_or(Reason::ChunkSize)?;
        Ok(sum << 4 | u64::from(digit))
    })?;
    match extension {
        [] => Ok(size),
        // A lone `;` is where parsers have disagreed about the line's end.
        [_] => Err(Reason::ChunkExtension),
        [_, rest @ ..] if rest.len() > CHUNK_EXTENSION_MAX || lines::has_control(rest) => {
            Err(Reason::ChunkExtension)
        }
        _ => Ok(size),
    }
}
