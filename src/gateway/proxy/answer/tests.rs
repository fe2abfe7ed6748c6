#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use proptest::prelude::*;

const GET: Asked = Asked {
    head: false,
    upgrade: false,
};

fn parse(text: &str, asked: Asked) -> Result<Option<Head>, Malformed> {
    head(&mut BytesMut::from(text), asked)
}

fn framing(fields: &str) -> Result<Framing, &'static str> {
    let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
    parse(&text, GET)
        .map(|head| head.unwrap().framing)
        .map_err(|malformed| malformed.0)
}

#[test]
fn framing_has_one_reading() {
    let chunked = Framing::Chunked(Chunked::Size);
    assert_eq!(framing("content-length: 5\r\n"), Ok(Framing::Length(5)));
    assert_eq!(framing(""), Ok(Framing::UntilClose));
    assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Ok(chunked));
    for bad in [
        "content-length: 5\r\ncontent-length: 5\r\n",
        "content-length: 5, 5\r\n",
        "content-length: +5\r\n",
        "content-length: -1\r\n",
        "content-length: \r\n",
        "content-length: 99999999999999999999\r\n",
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: identity\r\n",
        "a: 1\r\n b\r\n",
        "a : 1\r\n",
    ] {
        assert!(framing(bad).is_err(), "{bad}");
    }
    assert!(parse("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", GET).is_err());
    assert!(parse("SSH-2.0-OpenSSH\r\n\r\n", GET).is_err());
}

#[test]
fn bodiless_answers_end_with_their_head() {
    let head = Asked { head: true, ..GET };
    for (text, asked) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", head),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            head,
        ),
        ("HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\n", GET),
        ("HTTP/1.1 304 Not\r\ncontent-length: 5\r\n\r\n", GET),
    ] {
        let head = parse(text, asked).unwrap().unwrap();
        assert!(head.framing.is_done() && head.keep_alive, "{text}");
        let told = head.headers.contains_key(header::CONTENT_LENGTH);
        assert_eq!(
            told,
            text.contains("length") && head.status != 204,
            "{text}"
        );
    }
}

#[test]
fn interim_answers_are_skipped_and_a_switch_must_be_asked_for() {
    let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(parse(text, GET).unwrap().unwrap().status, 200);
    let switch = "HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    assert!(parse(switch, GET).is_err());
    let asked = Asked {
        upgrade: true,
        ..GET
    };
    let head = parse(switch, asked).unwrap().unwrap();
    assert_eq!(head.headers[header::UPGRADE], "echo");
}

#[test]
fn what_is_for_one_hop_stays_here() {
    let text = "HTTP/1.1 200 OK\r\nconnection: close, x-private\r\nx-private: 1\r\nkeep-alive: 5\r\nupgrade: h2c\r\n\
        proxy-authenticate: x\r\nset-cookie: customerToken=stolen\r\nset-cookie: a=1\r\nset-cookie: cxDevice = x\r\ncontent-length: 0\r\nX-Y: z\r\n\r\n";
    let head = parse(text, GET).unwrap().unwrap();
    let pairs = head.headers.iter();
    let pairs = pairs.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let mut names: Vec<(&str, &[u8])> = pairs.collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            ("content-length", &b"0"[..]),
            ("set-cookie", b"a=1"),
            ("x-y", b"z")
        ]
    );
    assert!(!head.keep_alive);
}

/// A body's data and trailers, however the input was cut into pieces.
fn read(
    framing: Framing,
    pieces: &[&[u8]],
) -> Result<(Vec<u8>, Option<HeaderMap>, bool), Malformed> {
    let (mut framing, mut input) = (framing, BytesMut::new());
    let (mut data, mut trailers) = (Vec::new(), None);
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match framing.next(&mut input)? {
                Part::Data(bytes) => data.extend_from_slice(&bytes),
                Part::Trailers(map) => trailers = Some(map),
                Part::End => return Ok((data, trailers, true)),
                Part::More => break,
            }
        }
    }
    Ok((data, trailers, false))
}

#[test]
fn broken_chunks_are_refused_and_trailers_are_sifted() {
    let start = Framing::Chunked(Chunked::Size);
    for bad in [
        "\r\n",
        "g\r\n",
        "-1\r\n",
        "+1\r\na\r\n",
        "1\na\r\n",
        "1\r\nab\r\n",
        "11111111111111111\r\n",
        "0x1\r\na\r\n",
        " 1\r\na\r\n",
    ] {
        assert!(read(start, &[bad.as_bytes()]).is_err(), "{bad:?}");
    }
    assert!(read(start, &[&[b'1'; 2000][..]]).is_err());
    let text = "2;a=b\r\nhi\r\n0\r\nGrpc-Status: 0\r\nContent-Length: 9\r\nX-Account-Id: forged\r\nSet-Cookie: customerToken=x\r\n\r\n";
    let (data, trailers, ended) = read(start, &[text.as_bytes()]).unwrap();
    assert_eq!((data.as_slice(), ended), (&b"hi"[..], true));
    let trailers = trailers.unwrap();
    assert_eq!(
        (trailers.len(), &trailers["grpc-status"]),
        (1, &HeaderValue::from_static("0"))
    );
}

proptest! {
    #[test]
    fn chunks_are_read_as_they_were_written(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            wire.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n\r\n");
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len())).collect();
        places.push(0);
        places.push(wire.len());
        places.sort_unstable();
        let pieces: Vec<&[u8]> = places.windows(2).map(|pair| &wire[pair[0]..pair[1]]).collect();
        let (data, trailers, ended) = read(Framing::Chunked(Chunked::Size), &pieces).unwrap();
        prop_assert_eq!(data, chunks.concat());
        prop_assert!(trailers.is_none() && ended);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), head_only: bool) {
        let mut input = BytesMut::from(&bytes[..]);
        let _ = head(&mut input, Asked { head: head_only, upgrade: true });
        let _ = read(Framing::Chunked(Chunked::Size), &[&bytes]);
        let _ = read(Framing::Chunked(Chunked::Trailers), &[&bytes]);
    }
}
