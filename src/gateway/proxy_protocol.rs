//! The PROXY protocol, versions 1 and 2: how a proxy of the fourth layer says whose connection it passes on.
//!
//! Pure: no I/O. Whom to believe is the caller's business. Source: haproxy.org, `doc/proxy-protocol.txt` (2020-03-05).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Version 1, line end included (section 2.1).
const LINE_MAX: usize = 107;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED: usize = 16;
/// Addresses and TLVs of version 2. The field could say 65,535; what proxies send (a certificate's name, a few ids) fits in this.
const REST_MAX: usize = 2048;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// A header's beginning: more must come.
    Partial,
    /// A header of `length` bytes. No client: the proxy speaks for itself (`LOCAL`, a health check) or does not know (`UNKNOWN`).
    Whole {
        length: usize,
        client: Option<SocketAddr>,
    },
}

/// Why the first bytes of a connection are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Neither version's beginning.
    Signature,
    /// Version 1 that is longer than any can be, or that is not written as section 2.1 says.
    Line,
    /// A version 2 that does not exist, or a command other than LOCAL and PROXY.
    Version,
    /// An address family or a transport that does not exist.
    Family,
    /// Longer than we read, or too short for its addresses.
    Length,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no PROXY header: {self:?}")
    }
}

impl std::error::Error for Fault {}

/// Reads a header at the beginning of `bytes`. The verdict does not depend on how many bytes stand behind it.
///
/// # Errors
/// [`Fault`], as soon as no further byte could make it a header.
pub fn read(bytes: &[u8]) -> Result<Header, Fault> {
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] == SIGNATURE[..common] && common > 0 {
        return version2(bytes);
    }
    let begins = b"PROXY ";
    let common = bytes.len().min(begins.len());
    if bytes[..common] == begins[..common] {
        return version1(bytes);
    }
    Err(Fault::Signature)
}

fn version1(bytes: &[u8]) -> Result<Header, Fault> {
    let window = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return match bytes.len() >= LINE_MAX {
            true => Err(Fault::Line),
            false => Ok(Header::Partial),
        };
    };
    let line = window[..end].strip_suffix(b"\r").ok_or(Fault::Line)?;
    let text = std::str::from_utf8(line).map_err(|_| Fault::Line)?;
    // One space between the parts, and nothing else: `split` gives empty ones for two.
    let parts: Vec<&str> = text.split(' ').collect();
    let client = match parts[..] {
        // What follows it must be ignored (section 2.1).
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", "TCP4", from, to, from_port, to_port] => {
            let (from, _): (Ipv4Addr, Ipv4Addr) = (address(from)?, address(to)?);
            Some((IpAddr::V4(from), port(from_port)?, port(to_port)?))
        }
        ["PROXY", "TCP6", from, to, from_port, to_port] => {
            let (from, _): (Ipv6Addr, Ipv6Addr) = (address(from)?, address(to)?);
            Some((IpAddr::V6(from), port(from_port)?, port(to_port)?))
        }
        _ => return Err(Fault::Line),
    };
    Ok(Header::Whole {
        length: end + 1,
        client: client.map(|(from, port, _)| SocketAddr::new(from, port)),
    })
}

fn address<A: std::str::FromStr>(text: &str) -> Result<A, Fault> {
    text.parse().map_err(|_| Fault::Line)
}

/// Decimal, without leading zeros.
fn port(text: &str) -> Result<u16, Fault> {
    let is_plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let number = text.parse().ok().filter(|_| is_plain);
    number.ok_or(Fault::Line)
}

fn version2(bytes: &[u8]) -> Result<Header, Fault> {
    // Told as soon as the byte is there: nobody needs to wait for a header that can't be one.
    let is_local = match bytes.get(12) {
        None => return Ok(Header::Partial),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(Fault::Version),
    };
    let Some(family) = bytes.get(13).copied() else {
        return Ok(Header::Partial);
    };
    let addresses = match family {
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(Fault::Family),
    };
    let Some(length) = bytes.get(14..FIXED) else {
        return Ok(Header::Partial);
    };
    let rest = usize::from(u16::from_be_bytes([length[0], length[1]]));
    if rest > REST_MAX || (rest < addresses && !is_local) {
        return Err(Fault::Length);
    }
    let length = FIXED + rest;
    let Some(rest) = bytes.get(FIXED..length) else {
        return Ok(Header::Partial);
    };
    let client = if is_local { None } else { source(family, rest) };
    Ok(Header::Whole { length, client })
}

/// The source of a TCP connection. TLVs behind the addresses are not read, the checksum among them: TCP has its own.
fn source(family: u8, rest: &[u8]) -> Option<SocketAddr> {
    let port = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
    let (address, port): (IpAddr, u16) = match family {
        0x11 => (<[u8; 4]>::try_from(rest.get(..4)?).ok()?.into(), port(8)?),
        0x21 => (
            <[u8; 16]>::try_from(rest.get(..16)?).ok()?.into(),
            port(32)?,
        ),
        // A datagram or a Unix socket passes no client's TCP connection on.
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests;
