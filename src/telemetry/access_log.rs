//! The access log: one JSON line a request. What is told is chosen here: addresses masked, never a query, a body or a header.
//!
//! Lines of a file are collected by core and written together, because a system call for each line is a tenth of what a proxied
//! request costs. So a line is as late as `telemetry.access_log_flush`, and who kills the process loses those of that time.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::{Millis, Nanos, rfc3339};
use crate::config::Telemetry;
use crate::cores;

/// What is collected is written when it is as large as this, in bytes, whatever the time.
const FULL: usize = 32 * 1024;

/// Where lines go.
#[derive(Debug)]
pub struct AccessLog {
    sink: Sink,
    /// Lines are written one by one.
    at_once: bool,
    /// By core.
    pending: Box<[Mutex<Pending>]>,
}

#[derive(Debug)]
enum Sink {
    Off,
    Stderr,
    File { path: String, file: Mutex<File> },
}

/// Lines of one core that are not written yet.
#[derive(Debug, Default)]
struct Pending {
    lines: Vec<u8>,
    /// The second that `text` tells: most lines are of the same one as the line before.
    second: Millis,
    text: String,
}

/// What a line tells.
#[derive(Debug)]
pub struct Line<'a> {
    pub at: Millis,
    pub request: &'a str,
    /// Is masked on its way into the line.
    pub client: IpAddr,
    /// What was read of the message; missing if the gate refused it, for then nobody has read it.
    pub read: Option<Read<'a>>,
    /// A route's name, `own` for our own calls and pages, `gate` for a message that the gate refused.
    pub route: &'a str,
    /// Host and port of the upstream that was asked last.
    pub upstream: Option<&'a str>,
    pub status: u16,
    /// Of the body, if its length is known before it is sent.
    pub bytes: Option<u64>,
    /// Why we refused, if we did: a guard rule's name, the gate's reason or an error's code.
    pub why: Option<&'a str>,
    /// The id of the trace, if it is recorded.
    pub trace: Option<String>,
    /// To the head of the answer; told as milliseconds.
    pub took: Option<Nanos>,
}

/// The parts of a message that a line tells.
#[derive(Debug)]
pub struct Read<'a> {
    /// Of HTTP.
    pub version: http::Version,
    pub method: &'a str,
    pub path: &'a str,
}

impl AccessLog {
    /// Opens what `telemetry.access_log` names, for so many cores.
    ///
    /// # Errors
    /// One sentence for a file that can't be written.
    pub fn open(settings: &Telemetry, cores: usize) -> Result<Self, String> {
        let sink = match settings.access_log.as_str() {
            "off" => Sink::Off,
            "stderr" => Sink::Stderr,
            path => Sink::File {
                path: path.to_owned(),
                file: Mutex::new(open(path)?),
            },
        };
        Ok(Self {
            at_once: matches!(sink, Sink::Stderr) || settings.access_log_flush.0 == 0,
            sink,
            pending: (0..cores.max(1)).map(|_| Mutex::default()).collect(),
        })
    }

    /// Takes a line. A full disk loses lines, never requests.
    pub fn write<'l>(&self, line: impl FnOnce() -> Line<'l>) {
        if matches!(self.sink, Sink::Off) {
            return;
        }
        let mut pending = lock(&self.pending[cores::current() % self.pending.len()]);
        pending.add(&line());
        if self.at_once || pending.lines.len() >= FULL {
            self.put(&mut pending);
        }
    }

    /// Writes what has been collected.
    pub fn flush(&self) {
        for pending in &self.pending {
            let mut pending = lock(pending);
            if !pending.lines.is_empty() {
                self.put(&mut pending);
            }
        }
    }

    /// Opens the file anew, so that whoever has moved it away (logrotate) gets the next lines in a new one.
    ///
    /// # Errors
    /// One sentence for a file that can't be written; lines go on into the old one.
    pub fn reopen(&self) -> Result<(), String> {
        self.flush();
        if let Sink::File { path, file } = &self.sink {
            let new = open(path)?;
            *lock(file) = new;
        }
        Ok(())
    }

    fn put(&self, pending: &mut Pending) {
        let _ = match &self.sink {
            Sink::Off => Ok(()),
            Sink::Stderr => std::io::stderr().write_all(&pending.lines),
            Sink::File { file, .. } => lock(file).write_all(&pending.lines),
        };
        pending.lines.clear();
    }
}

fn open(path: &str) -> Result<File, String> {
    // Paths and networks are nobody else's business; a group may be let in to read.
    let mut options = OpenOptions::new();
    let opened = options.append(true).create(true).mode(0o640).open(path);
    opened.map_err(|error| format!("telemetry.access_log: {path} can't be written to: {error}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pending {
    fn add(&mut self, line: &Line<'_>) {
        let second = line.at.div_euclid(1000);
        if self.text.is_empty() || self.second != second {
            (self.second, self.text) = (second, rfc3339(line.at));
        }
        let out = &mut self.lines;
        out.extend_from_slice(b"{\"at\":\"");
        out.extend_from_slice(self.text.as_bytes());
        out.push(b'"');
        text(out, "request", line.request);
        out.extend_from_slice(b",\"client\":\"");
        mask(out, line.client);
        out.push(b'"');
        if let Some(read) = &line.read {
            text(out, "version", version(read.version));
            text(out, "method", read.method);
            text(out, "path", read.path);
        }
        text(out, "route", line.route);
        optional(out, "upstream", line.upstream);
        let _ = write!(out, ",\"status\":{}", line.status);
        if let Some(bytes) = line.bytes {
            let _ = write!(out, ",\"bytes\":{bytes}");
        }
        optional(out, "why", line.why);
        optional(out, "trace", line.trace.as_deref());
        if let Some(took) = line.took {
            let (millis, micros) = (took / 1_000_000, took / 1_000 % 1_000);
            let _ = write!(out, ",\"millis\":{millis}.{micros:03}");
        }
        out.extend_from_slice(b"}\n");
    }
}

fn optional(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        text(out, name, value);
    }
}

/// `,"name":"value"`, escaped as RFC 8259 section 7 demands.
fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":\"");
    if value
        .bytes()
        .all(|byte| byte >= b' ' && !matches!(byte, b'"' | b'\\'))
    {
        out.extend_from_slice(value.as_bytes());
    } else {
        for byte in value.bytes() {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
                0..b' ' => {
                    let _ = write!(out, "\\u{byte:04x}");
                }
                _ => out.push(byte),
            }
        }
    }
    out.push(b'"');
}

/// An address as the log may hold it: IPv4 to /24, IPv6 to /48.
fn mask(out: &mut Vec<u8>, address: IpAddr) {
    let _ = match address.to_canonical() {
        IpAddr::V4(v4) => write!(
            out,
            "{}/24",
            Ipv4Addr::from_bits(v4.to_bits() & 0xffff_ff00)
        ),
        IpAddr::V6(v6) => write!(out, "{}/48", Ipv6Addr::from_bits(v6.to_bits() >> 80 << 80)),
    };
}

/// `1.1` and so on.
pub fn version(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_09 => "0.9",
        http::Version::HTTP_10 => "1.0",
        http::Version::HTTP_2 => "2",
        http::Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(path: &str, client: &str) -> serde_json::Value {
        let mut pending = Pending::default();
        pending.add(&Line {
            at: 1_795_435_200_999,
            request: "r",
            client: client.parse().expect("an address"),
            read: Some(Read {
                version: http::Version::HTTP_11,
                method: "GET",
                path,
            }),
            route: "x",
            upstream: Some("a:1"),
            status: 200,
            bytes: Some(3),
            why: None,
            trace: None,
            took: Some(12_345_678),
        });
        serde_json::from_slice(&pending.lines).expect("JSON")
    }

    #[test]
    fn a_line_is_json_with_the_address_masked() {
        let whole = serde_json::json!({
            "at": "2026-11-23T12:00:00Z", "request": "r", "client": "203.0.113.0/24", "version": "1.1", "method": "GET",
            "path": "/x", "route": "x", "upstream": "a:1", "status": 200, "bytes": 3, "millis": 12.345,
        });
        assert_eq!(line("/x", "203.0.113.77"), whole);
        assert_eq!(line("/x", "2001:db8:1:2::3")["client"], "2001:db8:1::/48");
    }

    proptest! {
        #[test]
        fn no_path_breaks_a_line(path in ".*") {
            prop_assert_eq!(&line(&path, "::1")["path"], &path);
        }
    }
}
