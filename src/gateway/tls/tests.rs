use std::path::PathBuf;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::*;

/// In the year 2026.
const NOW: Millis = 1_795_435_200_000;

fn write(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("a file");
    path
}

/// A certificate for `names`, valid from 2026 to the end of the year `until`.
fn files(folder: &tempfile::TempDir, names: &[&str], from: i32, until: i32) -> CertificateFiles {
    let key = KeyPair::generate().expect("a key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let file = names.join("+").replace('*', "any");
    let mut params = CertificateParams::new(names).expect("names");
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(until, 12, 31);
    let certificate = params.self_signed(&key).expect("a certificate");
    CertificateFiles {
        certificate: write(folder, &format!("{file}.pem"), &certificate.pem()),
        key: write(folder, &format!("{file}.key"), &key.serialize_pem()),
    }
}

fn tls(certificates: Vec<CertificateFiles>) -> Tls {
    Tls {
        listen: vec!["127.0.0.1:9443".parse().expect("an address")],
        certificates,
        hsts: String::new(),
    }
}

#[test]
fn a_certificate_is_chosen_by_the_names_in_it_and_the_first_for_all_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let lists: [&[&str]; 3] = [
        &["www.example.com", "example.com"],
        &["*.example.com", "example.com"],
        &["Shop.Example.ORG"],
    ];
    let provider = aws_lc_rs::default_provider();
    let mut by_name = ByName::default();
    let mut keys = Vec::new();
    for names in lists {
        let files = files(&folder, names, 2026, 2027);
        let key = Arc::new(certified_key(&files, &provider).expect("a key"));
        assert_eq!(by_name.add(&files, &key, NOW), Ok(None));
        keys.push(key);
    }
    for (name, expected) in [
        (Some("www.example.com"), 0),
        (Some("WWW.example.com"), 0),
        (Some("example.com"), 0),
        (Some("api.example.com"), 1),
        (Some("a.b.example.com"), 0),
        (Some("shop.example.org"), 2),
        (Some("*.example.org"), 0),
        (Some("localhost"), 0),
        (None, 0),
    ] {
        let found = by_name.find(name).expect("a certificate");
        assert!(Arc::ptr_eq(&found, &keys[expected]), "{name:?}");
    }
}

#[test]
fn what_cannot_be_used_is_one_sentence_that_names_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (good, other) = (
        files(&folder, &["a.example"], 2026, 2027),
        files(&folder, &["b.example"], 2026, 2027),
    );
    let text = write(&folder, "notes.txt", "nothing of the kind");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let broken = write(&folder, "broken.pem", broken);
    let missing = folder.path().join("missing.pem");
    let with = |certificate: &PathBuf, key: &PathBuf| CertificateFiles {
        certificate: certificate.clone(),
        key: key.clone(),
    };
    let (certificate, key) = (&good.certificate, &good.key);
    for (files, file, what) in [
        (with(&missing, key), &missing, "no certificate can be read"),
        (with(&text, key), &text, "holds no certificate"),
        (with(key, key), key, "holds no certificate"),
        (with(&broken, key), &broken, "can't be used"),
        (
            with(certificate, &missing),
            &missing,
            "no private key can be read",
        ),
        (
            with(certificate, certificate),
            certificate,
            "no private key can be read",
        ),
        (
            with(certificate, &other.key),
            &other.key,
            "is not the key of",
        ),
    ] {
        let said = load(&tls(vec![other.clone(), files]), true, NOW).expect_err(what);
        let begins = format!("server.tls.certificates: {}: ", file.display());
        assert!(said.starts_with(&begins) && said.contains(what), "{said}");
        assert!(!said.contains('\n'), "{said}");
    }
}

#[test]
fn a_certificate_out_of_its_time_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    for (from, until, what) in [
        (2026, 2027, None),
        (2024, 2025, Some("has expired; renew it")),
        (
            2027,
            2028,
            Some("is not valid yet; look at this machine's clock"),
        ),
    ] {
        let files = files(&folder, &["a.example"], from, until);
        let path = files.certificate.display().to_string();
        let loaded = load(&tls(vec![files]), true, NOW).expect("it can be read");
        let expected: Vec<String> = what
            .map(|what| format!("server.tls.certificates: {path}: {what}"))
            .into_iter()
            .collect();
        assert_eq!(loaded.expect("it listens").invalid, expected);
    }
}

#[test]
fn nothing_is_read_where_nobody_listens() {
    let missing = CertificateFiles {
        certificate: PathBuf::from("missing.pem"),
        key: PathBuf::from("missing.key"),
    };
    let mut tls = tls(vec![missing]);
    tls.listen.clear();
    assert!(load(&tls, true, NOW).expect("nothing is wrong").is_none());
}
