use http::Request;
use proptest::prelude::*;

use super::*;
use crate::gateway::gate::Framer;

/// Method, target with scheme and authority, fields.
type Head<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

fn parts(head: Head<'_>) -> Parts {
    let (method, uri, fields) = head;
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request").into_parts().0
}

fn judged(head: Head<'_>) -> Result<Parts, Reason> {
    let mut parts = parts(head);
    check(&mut parts, &Limits::default()).map(|()| parts)
}

const REFUSED: &[(Head<'_>, Reason)] = &[
    (("CONNECT", "x:443", &[]), Reason::MethodNotAllowed),
    (("CONNECT", "https://x/a", &[]), Reason::MethodNotAllowed),
    (("connect", "https://x/a", &[]), Reason::MethodNotAllowed),
    (("TRACE", "https://x/a", &[]), Reason::MethodNotAllowed),
    (
        ("AMETHODTHATISLONGERTHANANYTHATIS1", "https://x/a", &[]),
        Reason::MethodTooLong,
    ),
    (("GET", "ftp://x/a", &[]), Reason::Scheme),
    (("GET", "/a", &[("host", "x")]), Reason::Scheme),
    (("GET", "https://x?a", &[]), Reason::TargetForm),
    (("GET", "https://a@x/a", &[]), Reason::Host),
    (("GET", "https://x:99999/a", &[]), Reason::Host),
    (("GET", "https://x!y/a", &[]), Reason::Host),
    (
        ("GET", "https://x/a", &[("host", "y")]),
        Reason::DuplicateHost,
    ),
    (
        ("GET", "https://x/a", &[("host", "X")]),
        Reason::DuplicateHost,
    ),
    (
        ("GET", "https://x/a", &[("host", "x"), ("host", "x")]),
        Reason::DuplicateHost,
    ),
    (
        (
            "POST",
            "https://x/a",
            &[("content-length", "3"), ("content-length", "3")],
        ),
        Reason::DuplicateLength,
    ),
    (
        ("POST", "https://x/a", &[("content-length", "+3")]),
        Reason::Length,
    ),
    (
        ("POST", "https://x/a", &[("content-length", "3, 3")]),
        Reason::Length,
    ),
    (
        ("POST", "https://x/a", &[("transfer-encoding", "chunked")]),
        Reason::Connection,
    ),
    (
        ("GET", "https://x/a", &[("connection", "close")]),
        Reason::Connection,
    ),
    (
        ("GET", "https://x/a", &[("upgrade", "websocket")]),
        Reason::Connection,
    ),
    (
        ("GET", "https://x/a", &[("keep-alive", "1")]),
        Reason::Connection,
    ),
    (
        ("GET", "https://x/a", &[("proxy-connection", "close")]),
        Reason::Connection,
    ),
    (
        ("GET", "https://x/a", &[("te", "gzip")]),
        Reason::Connection,
    ),
    (("GET", "https://x/a", &[("a", " b")]), Reason::FieldValue),
    (("GET", "https://x/a", &[("a", "b\t")]), Reason::FieldValue),
];

#[test]
fn what_http1_could_not_say_is_refused() {
    for (head, expected) in REFUSED {
        let found = judged(*head).map(|_| ());
        assert_eq!(found, Err(*expected), "{head:?}");
    }
}

#[test]
fn what_is_too_large_is_refused() {
    let target = format!("https://x/{}", "a".repeat(8192));
    let value = "a".repeat(40_000);
    let many: Vec<String> = (0..100).map(|n| format!("a{n}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "b")).collect();
    for (head, expected) in [
        (("GET", target.as_str(), &[] as &[_]), Reason::TargetTooLong),
        (("GET", "https://x/a", &many), Reason::TooManyFields),
        (
            ("GET", "https://x/a", &[("a", &value)]),
            Reason::HeadTooLarge,
        ),
    ] {
        let found = judged(head).map(|_| ());
        assert_eq!(found, Err(expected));
    }
    // One fewer: Host is the hundredth.
    assert!(judged(("GET", "https://x/a", &many[1..])).is_ok());
}

#[test]
fn a_good_request_looks_as_if_it_had_come_by_http1() {
    for (head, target, host) in [
        (("GET", "https://x/a?b=c", &[] as &[_]), "/a?b=c", "x"),
        (
            ("GET", "http://x:8080/", &[("host", "x:8080")]),
            "/",
            "x:8080",
        ),
        (
            ("OPTIONS", "https://[::1]:9000/a", &[("te", "trailers")]),
            "/a",
            "[::1]:9000",
        ),
    ] {
        let parts = judged(head).expect("it is good");
        assert_eq!(parts.uri.to_string(), target);
        assert_eq!(parts.headers[header::HOST], host);
        assert_eq!(parts.headers.get_all(header::HOST).iter().count(), 1);
    }
    // What the crate `http` can't build from text: a target of `*`, and no authority.
    let mut parts = parts(("OPTIONS", "/", &[("host", "x")]));
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(http::uri::Scheme::HTTPS);
    uri.authority = Some("x".parse().expect("an authority"));
    uri.path_and_query = Some("*".parse().expect("a target"));
    parts.uri = Uri::from_parts(uri).expect("a URI");
    assert_eq!(check(&mut parts, &Limits::default()), Ok(()));
    assert_eq!(parts.uri.path(), "*");
    parts.method = Method::GET;
    let found = check(&mut parts, &Limits::default());
    assert_eq!(
        found,
        Err(Reason::Scheme),
        "it has been through here already"
    );
}

#[test]
fn cookies_are_one_line() {
    let cookies: &[_] = &[("cookie", "a=1"), ("cookie", "b=2; c=3"), ("cookie", "a=4")];
    let parts = judged(("GET", "https://x/", cookies)).expect("it is good");
    let lines: Vec<_> = parts.headers.get_all(header::COOKIE).iter().collect();
    assert_eq!(lines, ["a=1; b=2; c=3; a=4"]);
}

#[test]
fn trailers_are_held_to_the_rules_of_chunked_ones() {
    for (name, value, expected) in [
        ("grpc-status", "0", Ok(())),
        ("content-length", "3", Err(Reason::ForbiddenTrailer)),
        ("x_account_id", "3", Err(Reason::ForbiddenTrailer)),
        ("a", "b ", Err(Reason::FieldValue)),
    ] {
        let mut fields = HeaderMap::new();
        fields.insert(name, HeaderValue::from_static(value));
        assert_eq!(
            check_trailers(&fields, &Limits::default()),
            expected,
            "{name}"
        );
    }
}

proptest! {
    /// Whatever passes here would pass the gate of HTTP/1, written as it is now.
    #[test]
    fn what_passes_would_pass_as_http1(
        method in "GET|POST|OPTIONS|[A-Za-z!#-]{1,34}",
        scheme in "https?|ftp",
        authority in "x|localhost:9000|[a-zA-Z0-9.:@!\\[\\]-]{1,5}",
        target in "/|/[a-z%?&=]{0,9}|[/?][ -~]{0,9}",
        fields in prop::collection::vec(
            (
                "[a-z_-]{1,8}|x|cookie|cookie|content-length|te|host",
                "[ -~\t]{0,9}|[0-9]{1,2}|trailers|x|a=1",
            ),
            0..4,
        ),
    ) {
        let mut uri = http::uri::Parts::default();
        uri.scheme = scheme.parse().ok();
        uri.authority = authority.parse().ok();
        uri.path_and_query = target.parse().ok();
        let (Ok(uri), Ok(method)) = (Uri::from_parts(uri), method.parse::<Method>()) else {
            return Ok(());
        };
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in &fields {
            request = request.header(name, value);
        }
        let Ok(request) = request.body(()) else { return Ok(()) };
        let mut parts = request.into_parts().0;
        if check(&mut parts, &Limits::default()).is_ok() {
            let mut text = format!("{} {} HTTP/1.1\r\n", parts.method, parts.uri).into_bytes();
            for (name, value) in &parts.headers {
                text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
            }
            text.extend(b"\r\n");
            let mut framer = Framer::new(Limits::default());
            prop_assert!(framer.advance(&text).is_ok(), "{}", String::from_utf8_lossy(&text));
            prop_assert_eq!(framer.refusal(), None);
            prop_assert_eq!(framer.requests(), 1);
        }
    }
}
