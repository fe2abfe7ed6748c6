use proptest::prelude::*;

use super::*;

fn v2(command: u8, family: u8, length: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([command, family]);
    bytes.extend(length.to_be_bytes());
    bytes.extend(rest);
    bytes
}

fn v2_of(client: SocketAddr, tlvs: &[u8]) -> Vec<u8> {
    let mut rest = Vec::new();
    let family = match client.ip() {
        IpAddr::V4(ip) => {
            rest.extend(ip.octets());
            rest.extend([127, 0, 0, 1]);
            0x11
        }
        IpAddr::V6(ip) => {
            rest.extend(ip.octets());
            rest.extend(Ipv6Addr::LOCALHOST.octets());
            0x21
        }
    };
    rest.extend(client.port().to_be_bytes());
    rest.extend(9000u16.to_be_bytes());
    rest.extend(tlvs);
    v2(0x21, family, rest.len() as u16, &rest)
}

fn whole(length: usize, client: &str) -> Result<Header, Fault> {
    let client = (!client.is_empty()).then(|| client.parse().expect("an address"));
    Ok(Header::Whole { length, client })
}

#[test]
fn version_1_is_read_as_written_and_in_no_other_way() {
    for (line, expected) in [
        (
            "PROXY TCP4 192.0.2.1 10.0.0.1 50000 443\r\n",
            whole(41, "192.0.2.1:50000"),
        ),
        (
            "PROXY TCP6 2001:db8::1 ::1 1 2\r\n",
            whole(32, "[2001:db8::1]:1"),
        ),
        (
            "PROXY TCP4 192.0.2.1 10.0.0.1 50000 443\r\nGET / HTTP/1.1\r\n",
            whole(41, "192.0.2.1:50000"),
        ),
        ("PROXY UNKNOWN\r\n", whole(15, "")),
        (
            "PROXY UNKNOWN ffff:f...f:ffff ffff 65535 65535\r\n",
            whole(48, ""),
        ),
        ("", Ok(Header::Partial)),
        ("PRO", Ok(Header::Partial)),
        (
            "PROXY TCP4 192.0.2.1 10.0.0.1 50000 443\r",
            Ok(Header::Partial),
        ),
        (
            "PROXY TCP4 192.0.2.1 10.0.0.1 50000 443\n",
            Err(Fault::Line),
        ),
        (
            "PROXY  TCP4 192.0.2.1 10.0.0.1 50000 443\r\n",
            Err(Fault::Line),
        ),
        ("PROXY TCP4 192.0.2.1 10.0.0.1 50000\r\n", Err(Fault::Line)),
        (
            "PROXY TCP4 192.0.2.1 10.0.0.1 50000 443 1\r\n",
            Err(Fault::Line),
        ),
        (
            "PROXY TCP4 192.0.2.1 10.0.0.1 +5000 443\r\n",
            Err(Fault::Line),
        ),
        (
            "PROXY TCP4 192.0.2.1 10.0.0.1 05000 443\r\n",
            Err(Fault::Line),
        ),
        (
            "PROXY TCP4 192.0.2.1 10.0.0.1 65536 443\r\n",
            Err(Fault::Line),
        ),
        (
            "PROXY TCP4 192.0.2.256 10.0.0.1 5000 443\r\n",
            Err(Fault::Line),
        ),
        ("PROXY TCP4 2001:db8::1 ::1 1 2\r\n", Err(Fault::Line)),
        ("PROXY TCP6 192.0.2.1 10.0.0.1 1 2\r\n", Err(Fault::Line)),
        ("PROXY UDP4 192.0.2.1 10.0.0.1 1 2\r\n", Err(Fault::Line)),
        ("PROXY\r\n", Err(Fault::Signature)),
        (
            "proxy TCP4 192.0.2.1 10.0.0.1 1 2\r\n",
            Err(Fault::Signature),
        ),
        ("GET / HTTP/1.1\r\n", Err(Fault::Signature)),
        ("\x16\x03\x01", Err(Fault::Signature)),
    ] {
        assert_eq!(read(line.as_bytes()), expected, "{line:?}");
    }
}

#[test]
fn a_line_of_version_1_has_an_end() {
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
    assert_eq!(read(&endless[..106]), Ok(Header::Partial));
    assert_eq!(read(&endless[..107]), Err(Fault::Line));
    assert_eq!(read(&endless), Err(Fault::Line));
}

#[test]
fn version_2_is_read_with_its_tlvs_and_within_its_bounds() {
    let four = [192, 0, 2, 1, 10, 0, 0, 1, 0xc3, 0x50, 1, 0xbb];
    let mut six = [0; 36];
    six[..2].copy_from_slice(&[0x20, 0x01]);
    six[33] = 7;
    let tlv = [four.as_slice(), &[0x04, 0, 1, 0], b"GET /"].concat();
    for (name, bytes, expected) in [
        (
            "tcp4",
            v2(0x21, 0x11, 12, &four),
            whole(28, "192.0.2.1:50000"),
        ),
        ("tcp6", v2(0x21, 0x21, 36, &six), whole(52, "[2001::]:7")),
        (
            "a TLV and a request",
            v2(0x21, 0x11, 16, &tlv),
            whole(32, "192.0.2.1:50000"),
        ),
        ("local", v2(0x20, 0x00, 0, &[]), whole(16, "")),
        (
            "local with addresses",
            v2(0x20, 0x11, 12, &four),
            whole(28, ""),
        ),
        ("local of no length", v2(0x20, 0x11, 0, &[]), whole(16, "")),
        ("unspecified", v2(0x21, 0x00, 0, &[]), whole(16, "")),
        ("udp", v2(0x21, 0x12, 12, &four), whole(28, "")),
        ("unix", v2(0x21, 0x31, 216, &[0; 216]), whole(232, "")),
        ("torn", v2(0x21, 0x11, 12, &four[..11]), Ok(Header::Partial)),
        ("too short", v2(0x21, 0x11, 11, &four), Err(Fault::Length)),
        ("too long", v2(0x21, 0x11, 2049, &four), Err(Fault::Length)),
        (
            "version 1 in binary",
            v2(0x11, 0x11, 12, &four),
            Err(Fault::Version),
        ),
        (
            "another command",
            v2(0x22, 0x11, 12, &four),
            Err(Fault::Version),
        ),
        (
            "another family",
            v2(0x21, 0x41, 12, &four),
            Err(Fault::Family),
        ),
        (
            "another transport",
            v2(0x21, 0x13, 12, &four),
            Err(Fault::Family),
        ),
        ("a signature alone", SIGNATURE.to_vec(), Ok(Header::Partial)),
        (
            "another signature",
            b"\r\n\r\n\0\r\nQUIT\r".to_vec(),
            Err(Fault::Signature),
        ),
    ] {
        assert_eq!(read(&bytes), expected, "{name}");
    }
}

proptest! {
    #[test]
    fn what_a_proxy_writes_is_read_however_it_is_cut(
        ip in any::<IpAddr>(),
        port in any::<u16>(),
        tlvs in prop::collection::vec(any::<u8>(), 0..300),
        behind in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let client = SocketAddr::new(ip, port);
        let (kind, here) = if ip.is_ipv4() { ("TCP4", "127.0.0.1") } else { ("TCP6", "::1") };
        let line = format!("PROXY {kind} {ip} {here} {port} 9000\r\n").into_bytes();
        for header in [line, v2_of(client, &tlvs)] {
            let length = header.len();
            for end in 0..length {
                prop_assert_eq!(read(&header[..end]), Ok(Header::Partial));
            }
            let more = [header, behind.clone()].concat();
            prop_assert_eq!(read(&more), Ok(Header::Whole { length, client: Some(client) }));
        }
    }

    /// A verdict is final: what is refused or whole stays so, whatever comes behind; and nobody is asked for more than the bounds.
    #[test]
    fn no_bytes_make_it_change_its_mind(
        start in prop_oneof![
            Just(Vec::new()),
            Just(b"PROXY TCP4 ".to_vec()),
            Just(SIGNATURE.to_vec()),
            Just([SIGNATURE.as_slice(), &[0x21, 0x11]].concat()),
        ],
        more in prop::collection::vec(any::<u8>(), 0..3000),
    ) {
        let bytes = [start, more].concat();
        let all = read(&bytes);
        for end in 0..bytes.len().min(300) {
            match read(&bytes[..end]) {
                Ok(Header::Partial) => {}
                verdict => prop_assert_eq!(verdict, all),
            }
        }
        if bytes.len() >= FIXED + REST_MAX {
            prop_assert_ne!(all, Ok(Header::Partial));
        }
    }
}
