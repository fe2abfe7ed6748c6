//! Logging and the access log. What is logged is chosen at the call: addresses masked, never a secret.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::clock::Nanos;
use crate::config::{LogFormat, Telemetry};

/// Installs the log to standard error.
///
/// # Errors
/// A sentence when `telemetry.log` is no filter.
pub fn install(settings: &Telemetry) -> Result<(), String> {
    let filter = EnvFilter::try_new(&settings.log)
        .map_err(|_| "telemetry.log: must be error, warn, info, debug or a filter".to_owned())?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match settings.format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

/// The access log: one JSON line a request, written by one system call, so that no line is torn or late.
#[derive(Debug)]
pub enum AccessLog {
    Off,
    Stderr,
    File(File),
}

/// What a line tells. Never a query, a body or a header: they may hold secrets.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    pub at: String,
    pub request: &'a str,
    pub client: String,
    /// Of HTTP. This and the next two are missing if the gate refused the message: nobody has read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<&'a str>,
    /// A route's name, `own` for our own calls and pages, `gate` for a message that the gate refused.
    pub route: &'a str,
    /// Host and port of the upstream that was asked last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<&'a str>,
    pub status: u16,
    /// Of the body, if its length is known before it is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Why we refused, if we did: a guard rule's name, the gate's reason or an error's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'a str>,
    /// The id of the trace, if it is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// To the head of the answer, to the microsecond.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub millis: Option<f64>,
}

impl AccessLog {
    /// Opens what `telemetry.access_log` names.
    ///
    /// # Errors
    /// One sentence for a file that can't be written.
    pub fn open(target: &str) -> Result<Self, String> {
        match target {
            "off" => Ok(Self::Off),
            "stderr" => Ok(Self::Stderr),
            path => OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .map(Self::File)
                .map_err(|error| {
                    format!("telemetry.access_log: {path} can't be written to: {error}")
                }),
        }
    }

    /// Writes a line. A full disk loses lines, never requests.
    pub fn write(&self, line: impl FnOnce() -> Vec<u8>) {
        let _ = match self {
            Self::Off => Ok(()),
            Self::Stderr => std::io::stderr().write_all(&line()),
            Self::File(file) => (&mut &*file).write_all(&line()),
        };
    }
}

impl Line<'_> {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

/// Milliseconds with three decimals.
pub fn millis(took: Nanos) -> f64 {
    (took / 1_000) as f64 / 1_000.0
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

/// An address as the log may hold it: IPv4 to /24, IPv6 to /48.
pub fn masked(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => format!("{}/24", Ipv4Addr::from_bits(v4.to_bits() & 0xffff_ff00)),
        IpAddr::V6(v6) => format!("{}/48", Ipv6Addr::from_bits(v6.to_bits() >> 80 << 80)),
    }
}
