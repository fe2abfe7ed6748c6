#![allow(
    clippy::too_many_lines,
    reason = "tables of cases may be as long as there are cases"
)]
#![allow(clippy::unwrap_used, reason = "tests")]
use http::header::HeaderName;
use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            value.parse().unwrap(),
        );
    }
    map
}

fn trusted() -> Vec<IpNet> {
    ["10.0.0.0/8", "192.0.2.1/32", "2001:db8:ffff::/48"]
        .map(|net| net.parse().unwrap())
        .to_vec()
}

fn from(source: Source, peer: &str, lines: &[(&str, &str)]) -> String {
    resolve(source, &trusted(), ip(peer), &headers(lines)).to_string()
}

#[test]
fn x_forwarded_for_is_walked_from_the_right() {
    const XFF: &str = "x-forwarded-for";
    for (peer, lines, want) in [
        ("203.0.113.9", vec![(XFF, "1.1.1.1")], "203.0.113.9"),
        ("10.0.0.1", vec![], "10.0.0.1"),
        (
            "10.0.0.1",
            vec![(XFF, "1.1.1.1, 203.0.113.7")],
            "203.0.113.7",
        ),
        (
            "10.0.0.1",
            vec![(XFF, "1.1.1.1, 203.0.113.7, 10.2.3.4")],
            "203.0.113.7",
        ),
        (
            "10.0.0.1",
            vec![
                (XFF, "1.1.1.1"),
                (XFF, "203.0.113.7"),
                (XFF, "10.2.3.4,192.0.2.1"),
            ],
            "203.0.113.7",
        ),
        (
            "10.0.0.1",
            vec![(XFF, "203.0.113.7"), (XFF, "10.2.3.4")],
            "203.0.113.7",
        ),
        ("10.0.0.1", vec![(XFF, "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
        (
            "10.0.0.1",
            vec![(XFF, "203.0.113.7, unknown, 10.0.0.2")],
            "10.0.0.2",
        ),
        ("10.0.0.1", vec![(XFF, "203.0.113.7, ")], "10.0.0.1"),
        (
            "10.0.0.1",
            vec![(XFF, "203.0.113.7"), (XFF, "")],
            "10.0.0.1",
        ),
        ("10.0.0.1", vec![(XFF, "203.0.113.7:4711")], "203.0.113.7"),
        ("10.0.0.1", vec![(XFF, "[2001:db8::1]:4711")], "2001:db8::1"),
        ("10.0.0.1", vec![(XFF, "[2001:db8::1]")], "2001:db8::1"),
        ("10.0.0.1", vec![(XFF, "2001:db8::1")], "2001:db8::1"),
        ("10.0.0.1", vec![(XFF, "::ffff:203.0.113.7")], "203.0.113.7"),
        ("::ffff:10.0.0.1", vec![(XFF, "203.0.113.7")], "203.0.113.7"),
        (
            "2001:db8:ffff::2",
            vec![(XFF, "203.0.113.7,2001:db8:ffff::3")],
            "203.0.113.7",
        ),
        ("10.0.0.1", vec![(XFF, "203.0.113.7:99x")], "10.0.0.1"),
        ("10.0.0.1", vec![(XFF, "[203.0.113.7]")], "10.0.0.1"),
        ("10.0.0.1", vec![(XFF, "203.0.113.07")], "10.0.0.1"),
        (
            "10.0.0.1",
            vec![(XFF, "203.0.113.7 203.0.113.8")],
            "10.0.0.1",
        ),
        ("10.0.0.1", vec![(XFF, "ü")], "10.0.0.1"),
        (
            "10.0.0.1",
            vec![("forwarded", "for=203.0.113.7")],
            "10.0.0.1",
        ),
    ] {
        assert_eq!(
            from(Source::XForwardedFor, peer, &lines),
            want,
            "{peer} {lines:?}"
        );
    }
}

#[test]
fn forwarded_is_read_strictly() {
    for (value, want) in [
        ("for=203.0.113.7", "203.0.113.7"),
        (
            "For=\"203.0.113.7:80\";proto=https;by=10.0.0.9",
            "203.0.113.7",
        ),
        (
            "for=1.1.1.1, for=\"[2001:db8::1]:4711\" , for=10.0.0.2",
            "2001:db8::1",
        ),
        ("for=\"[2001:db8::1]:_port\"", "2001:db8::1"),
        ("for=\"2001:db8::1\"", "10.0.0.1"),
        ("for=1.1.1.1, for=_hidden", "10.0.0.1"),
        ("for=1.1.1.1, for=unknown, for=10.0.0.2", "10.0.0.2"),
        ("for=1.1.1.1, proto=https", "10.0.0.1"),
        ("for=1.1.1.1;for=2.2.2.2", "10.0.0.1"),
        ("for=203.0.113.7;host=\"a, for=1.1.1.1\"", "10.0.0.1"),
        ("for=203.0.113.7;host=\"a, for=1.1.1.1;x=b\"", "10.0.0.1"),
        ("for=203.0.113.7;host=\"a, for=1.1.1.1;x=\\\"\"", "10.0.0.1"),
        ("for=\", for=203.0.113.7", "203.0.113.7"),
        ("for=203.0.113.7;", "10.0.0.1"),
        ("for =203.0.113.7", "10.0.0.1"),
    ] {
        assert_eq!(
            from(Source::Forwarded, "10.0.0.1", &[("forwarded", value)]),
            want,
            "{value}"
        );
    }
}

#[test]
fn no_header_of_an_untrusted_peer_counts_and_only_the_named_source_does() {
    let mut lines: Vec<(&str, &str)> = FORWARDING.iter().map(|name| (*name, "1.1.1.1")).collect();
    lines.extend([
        ("x-forwarded-for", "1.1.1.1"),
        ("forwarded", "for=1.1.1.1"),
        ("x_forwarded_for", "1.1.1.1"),
    ]);
    for source in [
        Source::Peer,
        Source::XForwardedFor,
        Source::Forwarded,
        Source::ProxyProtocol,
    ] {
        assert_eq!(from(source, "203.0.113.9", &lines), "203.0.113.9");
    }
    assert_eq!(from(Source::Peer, "10.0.0.1", &lines), "10.0.0.1");
    assert_eq!(from(Source::ProxyProtocol, "10.0.0.1", &lines), "10.0.0.1");
}

#[test]
fn loopback_is_one_address() {
    let nets = ["127.0.0.1/32".parse().unwrap()];
    assert_eq!(
        resolve(
            Source::XForwardedFor,
            &nets,
            ip("::1"),
            &headers(&[("x-forwarded-for", "1.1.1.1")])
        ),
        ip("1.1.1.1")
    );
    assert!(is_trusted(&["::1/128".parse().unwrap()], ip("127.0.0.1")));
    assert!(!is_trusted(&["::1/128".parse().unwrap()], ip("127.0.0.2")));
    assert_eq!(Network::from(ip("::1")).to_string(), "127.0.0.1");
    assert!(Network::from(ip("::1")).is_loopback());
}

#[test]
fn strip_leaves_only_the_source_and_what_is_no_forwarding_header() {
    let mut lines: Vec<(&str, &str)> = FORWARDING.iter().map(|name| (*name, "x")).collect();
    lines.extend([
        ("x-forwarded-for", "a"),
        ("x-forwarded-for", "b"),
        ("x-forwarded-host", "x"),
        ("x-forwarded-anything-new-and-long-enough", "x"),
        ("x_forwarded_for", "x"),
        ("x_real-ip", "x"),
        ("via", "1.1 v"),
        ("accept", "*/*"),
        ("x-request-id", "1"),
    ]);
    let names = |source| {
        let mut map = headers(&lines);
        assert!(carries_forwarding(&map));
        strip(&mut map, source);
        let mut left: Vec<String> = map.keys().map(|name| name.to_string()).collect();
        left.sort();
        left
    };
    assert_eq!(names(Source::Peer), ["accept", "via", "x-request-id"]);
    assert_eq!(
        names(Source::ProxyProtocol),
        ["accept", "via", "x-request-id"]
    );
    assert_eq!(
        names(Source::XForwardedFor),
        ["accept", "via", "x-forwarded-for", "x-request-id"]
    );
    assert_eq!(
        names(Source::Forwarded),
        ["accept", "forwarded", "via", "x-request-id"]
    );
    assert!(!carries_forwarding(&headers(&[
        ("via", "x"),
        ("x-request-id", "x"),
        ("accept", "x")
    ])));
}

#[test]
fn the_table_of_names_is_sorted_and_its_longest_is_known() {
    assert!(FORWARDING.is_sorted());
    assert_eq!(
        FORWARDING.iter().map(|name| name.len()).max(),
        Some(LONGEST)
    );
    assert!(
        FORWARDING
            .iter()
            .all(|name| is_forwarding(&HeaderName::from_static(name)))
    );
}

#[test]
fn networks_are_shown_and_read() {
    for (address, network, ceiling) in [
        ("203.0.113.7", "203.0.113.7", None),
        ("::ffff:203.0.113.7", "203.0.113.7", None),
        (
            "2001:db8:1:2:3:4:5:6",
            "2001:db8:1:2::/64",
            Some("2001:db8:1::/48"),
        ),
        ("::", "::/64", Some("::/48")),
    ] {
        let got = Network::from(ip(address));
        assert_eq!(got.to_string(), network);
        assert_eq!(network.parse(), Ok(got));
        assert_eq!(got.ceiling().map(|c| c.to_string()).as_deref(), ceiling);
    }
    for bad in ["", "x", "2001:db8::/48", "203.0.113.0/24", "203.0.113.7/"] {
        assert_eq!(bad.parse::<Network>(), Err(NotANetwork), "{bad}");
    }
    assert_eq!(size_of::<Network>(), 16);
}

#[test]
fn a_thousand_addresses_of_one_64_are_one_network() {
    let base = u128::from(Ipv6Addr::from_str("2001:db8:1:2::").unwrap());
    let networks: std::collections::HashSet<Network> = (0..1000_u128)
        .map(|i| IpAddr::V6(Ipv6Addr::from_bits(base + i * 0x1234_5678_9abc)).into())
        .collect();
    assert_eq!(networks.len(), 1);
}

proptest! {
    /// Whatever a client writes, the entry that its trusted proxy appended decides.
    #[test]
    fn what_a_client_sends_never_moves_it(garbage in prop::collection::vec("[ -~]{0,40}", 0..4), same_line: bool) {
        for (source, name, entry) in [
            (Source::XForwardedFor, "x-forwarded-for", "203.0.113.7"),
            (Source::Forwarded, "forwarded", "for=203.0.113.7"),
        ] {
            let mut lines: Vec<(&str, String)> = garbage.iter().map(|value| (name, value.clone())).collect();
            match lines.last_mut() {
                Some((_, last)) if same_line => *last = format!("{last}, {entry}"),
                _ => lines.push((name, entry.to_owned())),
            }
            let lines: Vec<(&str, &str)> = lines.iter().map(|(n, v)| (*n, v.as_str())).collect();
            prop_assert_eq!(from(source, "10.0.0.1", &lines), "203.0.113.7");
        }
    }

    #[test]
    fn every_address_has_a_readable_network(bits: u128, v4: bool) {
        let address = if v4 { IpAddr::V4(Ipv4Addr::from_bits(bits as u32)) } else { IpAddr::V6(Ipv6Addr::from_bits(bits)) };
        let network = Network::from(address);
        prop_assert_eq!(network.to_string().parse::<Network>(), Ok(network));
    }
}
