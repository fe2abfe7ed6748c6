//! Writes a file of the MaxMind format 2.0 (maxmind.github.io/MaxMind-DB), as small as it can be: one record a network.

use ipnet::IpNet;

#[derive(Clone, Copy)]
enum Branch {
    Nothing,
    Node(usize),
    /// An offset in the data section.
    Record(usize),
}

/// The file that says which network is in which country. A network without a country has a record without one.
pub fn countries(networks: &[(&str, Option<&str>)]) -> Vec<u8> {
    let (mut nodes, mut data) = (vec![[Branch::Nothing; 2]], Vec::new());
    for (network, code) in networks {
        insert(&mut nodes, network, data.len());
        data.extend(match code {
            Some(code) => map(&[("country", map(&[("iso_code", text(code))]))]),
            None => map(&[("traits", map(&[("is_anycast", text("yes"))]))]),
        });
    }
    let count = nodes.len();
    let mut file = Vec::new();
    for branch in nodes.into_iter().flatten() {
        let number = match branch {
            Branch::Nothing => count,
            Branch::Node(at) => at,
            // The data begins 16 bytes behind the tree.
            Branch::Record(offset) => count + 16 + offset,
        };
        file.extend(&u32::try_from(number).expect("a small file").to_be_bytes()[1..]);
    }
    file.extend([0; 16]);
    file.extend(data);
    file.extend(b"\xab\xcd\xefMaxMind.com");
    file.extend(map(&[
        ("binary_format_major_version", number(5, 2)),
        ("binary_format_minor_version", number(5, 0)),
        (
            "build_epoch",
            [&[4, 2][..], &1_795_435_200_u32.to_be_bytes()].concat(),
        ),
        ("database_type", text("Test-Country")),
        ("description", map(&[])),
        ("ip_version", number(5, 6)),
        ("languages", vec![0, 4]),
        ("node_count", number(6, count)),
        ("record_size", number(5, 24)),
    ]));
    file
}

/// IPv4 stands below `::/96`.
fn insert(nodes: &mut Vec<[Branch; 2]>, network: &str, offset: usize) {
    let (bits, length) = match network.parse().expect("a network") {
        IpNet::V4(net) => (u128::from(net.network().to_bits()), 96 + net.prefix_len()),
        IpNet::V6(net) => (net.network().to_bits(), net.prefix_len()),
    };
    let mut at = 0;
    for depth in 1..=length {
        let side = (bits >> (128 - u32::from(depth)) & 1) as usize;
        if depth == length {
            nodes[at][side] = Branch::Record(offset);
        } else if let Branch::Node(next) = nodes[at][side] {
            at = next;
        } else {
            nodes.push([Branch::Nothing; 2]);
            nodes[at][side] = Branch::Node(nodes.len() - 1);
            at = nodes.len() - 1;
        }
    }
}

/// Type 7.
fn map(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let head = 7 << 5 | u8::try_from(pairs.len()).expect("few");
    let pairs = pairs.iter();
    let body = pairs.flat_map(|(key, value)| [text(key), value.clone()].concat());
    std::iter::once(head).chain(body).collect()
}

/// Type 2, shorter than 29 bytes.
fn text(text: &str) -> Vec<u8> {
    let head = 2 << 5 | u8::try_from(text.len()).expect("short");
    [&[head][..], text.as_bytes()].concat()
}

/// Type 5 (16 bits) or 6 (32 bits), written in two bytes.
fn number(kind: u8, value: usize) -> Vec<u8> {
    let value = u16::try_from(value).expect("a small number");
    [&[kind << 5 | 2][..], &value.to_be_bytes()].concat()
}
