//! Files that guard rules name: networks as a list, and countries by address. Read when the configuration is, so that a bad
//! one is a problem like any other: it stops a start, and a reload with it changes nothing.

use std::fmt;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use maxminddb::{PathElement, Reader, WithinOptions};

use super::network;

/// Most entries of a list of networks.
const MAX_NETWORKS: usize = 100_000;
/// Largest list of networks, in bytes: as many of the longest spelling, with as much again for comments.
const MAX_LIST: u64 = 10_000_000;
/// Largest file of countries, in bytes; it is held in memory. A City edition has about 60 MB.
const MAX_COUNTRIES: u64 = 256_000_000;
/// Of the mistakes in one list, so many are named.
const MAX_NAMED: usize = 10;
/// Records that are looked at to see whether a file names countries at all.
const SAMPLE: usize = 10_000;

/// The networks of a list: an address or network a line, `#` begins a comment.
pub(super) fn networks_in(at: &str, path: &str, problems: &mut Vec<String>) -> Vec<IpNet> {
    let text = match read(Path::new(path), MAX_LIST).map(String::from_utf8) {
        Ok(Ok(text)) => text,
        Ok(Err(_)) => {
            problems.push(format!("{at}: {path} is no text; write a network a line"));
            return Vec::new();
        }
        Err(why) => {
            problems.push(format!("{at}: {path} {why}"));
            return Vec::new();
        }
    };
    let entries = text.lines().zip(1..).filter_map(|(line, number)| {
        let entry = line.split('#').next().unwrap_or_default().trim();
        (!entry.is_empty()).then_some((entry, number))
    });
    let (mut found, mut wrong) = (Vec::new(), 0);
    for (entry, number) in entries {
        match network(entry) {
            Ok(network) => found.push(network),
            Err(why) => {
                wrong += 1;
                if wrong <= MAX_NAMED {
                    problems.push(format!("{at}: {path}, line {number}: {why}"));
                }
            }
        }
    }
    if wrong > MAX_NAMED {
        let more = wrong - MAX_NAMED;
        problems.push(format!("{at}: {path} has {more} more lines like these"));
    }
    if found.len() > MAX_NETWORKS {
        problems.push(format!(
            "{at}: {path} has {} entries; at most {MAX_NETWORKS} are allowed",
            found.len()
        ));
    }
    if found.is_empty() && wrong == 0 {
        problems.push(format!(
            "{at}: {path} holds no network; fill it or remove the rule"
        ));
    }
    found
}

/// Which country an address belongs to: a file of the MaxMind format, in memory.
#[derive(Clone)]
pub struct Countries(Arc<Reader<Vec<u8>>>);

impl Countries {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it and what to do, without its name.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let bytes = read(path, MAX_COUNTRIES)?;
        let reader = Reader::from_source(bytes).map_err(|error| {
            format!("is no file of the MaxMind format ({error}); download it again")
        })?;
        let records = reader.networks(WithinOptions::default());
        let records = records.into_iter().flatten().take(SAMPLE).flatten();
        let names_countries = records.filter_map(|record| code(&record)).next().is_some();
        if !names_countries {
            return Err("names no countries; use an edition that does, such as Country".to_owned());
        }
        Ok(Self(Arc::new(reader)))
    }

    /// The ISO 3166 code of an address's country in two capitals; none if the file does not know it. Allocates nothing.
    pub fn of(&self, address: IpAddr) -> Option<&str> {
        code(&self.0.lookup(address.to_canonical()).ok()?)
    }
}

impl fmt::Debug for Countries {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Countries({})", self.0.metadata().database_type)
    }
}

/// `country.iso_code`: where the address is, not where its network is registered.
fn code<'r>(record: &maxminddb::LookupResult<'r, Vec<u8>>) -> Option<&'r str> {
    let path = [PathElement::Key("country"), PathElement::Key("iso_code")];
    record.decode_path(&path).ok().flatten()
}

/// A file of at most so many bytes.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let unreadable = |error: std::io::Error| format!("can't be read: {error}; correct the path");
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > most {
        return Err(format!("is larger than {most} bytes; use a smaller one"));
    }
    Ok(bytes)
}
