//! Who is calling: the client's address from exactly one source, and the network that limits and budgets count.
//!
//! Resolved once, first of all, before anything else looks at the request. Call in this order:
//! [`carries_forwarding`] (if the caller wants to know), [`resolve`], [`strip`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use http::header::{FORWARDED, HeaderName};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

use crate::config::ClientAddress as Source;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address. `peer` is the other end of the connection, or what the PROXY header of a trusted peer said.
///
/// All lines of the one source count as one list, which is walked from the right: trusted entries are skipped, the
/// first other one is the client. At an entry that is no address the walk ends at the last trusted hop. An untrusted
/// peer is the client itself, whatever it sends. IPv4-mapped addresses come back as IPv4, `::1` as 127.0.0.1.
pub fn resolve(source: Source, trusted: &[IpNet], peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let peer = fold(peer);
    let (name, read): (_, fn(&str) -> Option<IpAddr>) = match source {
        Source::Auto | Source::Peer | Source::ProxyProtocol => return peer,
        Source::XForwardedFor => (X_FORWARDED_FOR, parse_node),
        Source::Forwarded => (FORWARDED, forwarded_for),
    };
    let mut hop = peer;
    for line in headers.get_all(name).iter().rev() {
        // A line of other bytes than visible ASCII holds no entry that could be read.
        let mut entries = line.to_str().unwrap_or_default().rsplit(',');
        loop {
            if !is_trusted(trusted, hop) {
                return hop;
            }
            let Some(entry) = entries.next() else { break };
            match read(entry.trim_matches([' ', '\t'])) {
                Some(address) => hop = fold(address),
                None => return hop,
            }
        }
    }
    hop
}

/// Whether an address (folded or not) is one of the trusted proxies'.
pub fn is_trusted(trusted: &[IpNet], address: IpAddr) -> bool {
    let address = fold(address);
    let is_loopback = address == IpAddr::V4(Ipv4Addr::LOCALHOST);
    let twin = IpAddr::V6(Ipv6Addr::LOCALHOST);
    trusted
        .iter()
        .any(|net| net.contains(&address) || (is_loopback && net.contains(&twin)))
}

/// Whether one of the trusted proxies is in a network, or may be.
pub fn holds_trusted(trusted: &[IpNet], network: Network) -> bool {
    let own = match network.0 {
        Prefix::V4(bits) => IpNet::from(IpAddr::V4(Ipv4Addr::from_bits(bits))),
        Prefix::V6(upper) => {
            let first = Ipv6Addr::from_bits(u128::from(upper) << 64);
            IpNet::new_assert(IpAddr::V6(first), 64)
        }
    };
    is_trusted(trusted, own.addr()) || trusted.iter().any(|net| own.contains(net))
}

/// IPv4-mapped as IPv4, and the IPv6 loopback as the IPv4 one.
fn fold(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(Ipv6Addr::LOCALHOST) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        other => other,
    }
}

/// An address with an optional port: `203.0.113.7`, `203.0.113.7:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn parse_node(text: &str) -> Option<IpAddr> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let port_is_good = port.is_empty() || is_port(port.strip_prefix(':')?);
        return port_is_good
            .then(|| address.parse::<Ipv6Addr>().ok().map(IpAddr::V6))
            .flatten();
    }
    match text.split_once(':') {
        // Exactly one colon: IPv4 and a port.
        Some((address, port)) if !port.contains(':') => is_port(port)
            .then(|| address.parse::<Ipv4Addr>().ok().map(IpAddr::V4))
            .flatten(),
        _ => text.parse().ok(),
    }
}

/// A port of a proxy's list; RFC 7239 allows an obfuscated one (`_x`).
fn is_port(text: &str) -> bool {
    let is_obfuscated = text
        .strip_prefix('_')
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(is_obfuscated_byte));
    is_obfuscated
        || ((1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_obfuscated_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

/// The `for` of one element of `Forwarded`, if the *whole* element is well-formed.
///
/// The list is split at every comma, also at one inside a quoted string. The pieces of such a string have a quote
/// too many, so that what somebody smuggled into, say, `host="…"` is never taken for an element.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut found = None;
    for pair in element.split(';') {
        let (name, value) = pair.trim_matches([' ', '\t']).split_once('=')?;
        if name.is_empty() || !name.bytes().all(is_token_byte) {
            return None;
        }
        let value = unquote(value)?;
        if name.eq_ignore_ascii_case("for") {
            // Twice in one element: neither counts.
            if found.replace(parse_forwarded_node(value)?).is_some() {
                return None;
            }
        }
    }
    found
}

/// A node of RFC 7239: IPv6 only in brackets.
fn parse_forwarded_node(text: &str) -> Option<IpAddr> {
    let is_bare_v6 = !text.starts_with('[') && text.matches(':').count() > 1;
    if is_bare_v6 { None } else { parse_node(text) }
}

/// The text of a token or of a quoted string without escapes.
fn unquote(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest
            .strip_suffix('"')
            .filter(|inner| !inner.contains(['"', '\\'])),
        None => (!value.is_empty() && value.bytes().all(is_token_byte)).then_some(value),
    }
}

/// RFC 9110, section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Headers by which proxies hand on the client's address, or the request as they saw it, beside `x-forwarded*`.
/// Sorted.
const FORWARDING: [&str; 38] = [
    "ali-cdn-real-ip",
    "cdn-src-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-ipcountry",
    "cf-pseudo-ipv4",
    "client-ip",
    "do-connecting-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded",
    "forwarded-for",
    "incap-client-ip",
    "proxy-client-ip",
    "proxy-user",
    "true-client-ip",
    "wl-proxy-client-ip",
    "x-appengine-user-ip",
    "x-arr-clientip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-coming-from",
    "x-envoy-external-address",
    "x-envoy-original-path",
    "x-host",
    "x-nf-client-connection-ip",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-uri",
    "x-original-url",
    "x-originating-ip",
    "x-proxyuser-ip",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-rewrite-url",
];
/// Longest name above, in bytes.
const LONGEST: usize = 25;

/// Removes every forwarding header except the one of `source`, underscore spellings included. `Via` stays.
pub fn strip(headers: &mut HeaderMap, source: Source) {
    let kept = match source {
        Source::XForwardedFor => Some(X_FORWARDED_FOR),
        Source::Forwarded => Some(FORWARDED),
        Source::Auto | Source::Peer | Source::ProxyProtocol => None,
    };
    // One name at a time: an ordinary request has none, and then nothing is copied.
    while let Some(name) = headers
        .keys()
        .find(|name| is_forwarding(name) && Some(*name) != kept.as_ref())
        .cloned()
    {
        headers.remove(name);
    }
}

/// Whether the request, as it came, has any header that only a proxy should set.
pub fn carries_forwarding(headers: &HeaderMap<HeaderValue>) -> bool {
    headers.keys().any(is_forwarding)
}

fn is_forwarding(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    if !matches!(
        name[0],
        b'a' | b'c' | b'd' | b'f' | b'i' | b'p' | b't' | b'w' | b'x'
    ) {
        return false;
    }
    let mut folded = [0; LONGEST];
    let length = name.len().min(LONGEST);
    for (to, &from) in folded.iter_mut().zip(name) {
        *to = if from == b'_' { b'-' } else { from };
    }
    let folded = &folded[..length];
    folded.starts_with(b"x-forwarded")
        || (name.len() <= LONGEST
            && FORWARDING
                .binary_search_by(|known| known.as_bytes().cmp(folded))
                .is_ok())
}

/// The client's network: what limits, budgets and bans count. An IPv4 address, or the /64 of an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network(Prefix);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Prefix {
    V4(u32),
    /// The upper 64 bits.
    V6(u64),
}

/// The /48 above an IPv6 network: one site, which may have 65,536 networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ceiling(u64);

impl Network {
    /// The /48 of an IPv6 network; none for IPv4.
    pub fn ceiling(self) -> Option<Ceiling> {
        match self.0 {
            Prefix::V4(_) => None,
            Prefix::V6(upper) => Some(Ceiling(upper >> 16)),
        }
    }

    /// Whether it is this machine.
    pub fn is_loopback(self) -> bool {
        matches!(self.0, Prefix::V4(bits) if bits >> 24 == 127)
    }

    /// A family byte and the prefix, for hashing and storing.
    pub fn to_bytes(self) -> [u8; 9] {
        let (family, bits) = match self.0 {
            Prefix::V4(bits) => (4, u64::from(bits)),
            Prefix::V6(upper) => (6, upper),
        };
        let mut out = [family; 9];
        out[1..].copy_from_slice(&bits.to_be_bytes());
        out
    }
}

impl Ceiling {
    /// The 48 bits, for hashing and storing.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(match fold(address) {
            IpAddr::V4(v4) => Prefix::V4(v4.to_bits()),
            IpAddr::V6(v6) => Prefix::V6((v6.to_bits() >> 64) as u64),
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Prefix::V4(bits) => Ipv4Addr::from_bits(bits).fmt(f),
            Prefix::V6(upper) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(upper) << 64)),
        }
    }
}

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/48", Ipv6Addr::from_bits(u128::from(self.0) << 80))
    }
}

/// A text that is neither an address nor `ADDRESS/64` (IPv6) or `ADDRESS/32` (IPv4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotANetwork;

impl fmt::Display for NotANetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a client network; write an address like 203.0.113.7 or 2001:db8:1:2::/64")
    }
}

impl std::error::Error for NotANetwork {}

impl FromStr for Network {
    type Err = NotANetwork;

    /// Reads what `Display` writes, and any single address.
    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotANetwork)?;
        let want = if address.is_ipv4() { "32" } else { "64" };
        if length.is_some_and(|length| length != want) {
            return Err(NotANetwork);
        }
        Ok(Self::from(address))
    }
}

#[cfg(test)]
mod tests;
