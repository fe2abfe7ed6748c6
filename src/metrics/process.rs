//! What the system knows of this process (Linux's `/proc`), under the names that every Prometheus client library gives it.

use std::fs;

/// Read anew for each scrape. Elsewhere than on Linux there is nothing to read.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// In user and in system mode.
    pub cpu_seconds: f64,
    pub resident_bytes: i64,
    pub open_files: i64,
    /// The soft limit; none if there is no limit.
    pub max_files: Option<i64>,
}

impl Process {
    pub fn read() -> Option<Self> {
        let limits = fs::read_to_string("/proc/self/limits").ok()?;
        let ticks = rustix::param::clock_ticks_per_second();
        let page = rustix::param::page_size();
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let (cpu_ticks, pages) = parse_stat(&stat)?;
        Some(Self {
            cpu_seconds: cpu_ticks as f64 / ticks as f64,
            resident_bytes: pages * page as i64,
            open_files: fs::read_dir("/proc/self/fd").ok()?.count() as i64,
            max_files: parse_open_files(&limits),
        })
    }
}

/// Ticks of processor time and resident pages: proc(5), fields 14, 15 and 24. The second field is the program's name, in parentheses,
/// and may hold anything.
fn parse_stat(stat: &str) -> Option<(u64, i64)> {
    let after_name = stat.rsplit_once(')')?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some((number(14)? + number(15)?, number(24)? as i64))
}

fn parse_open_files(limits: &str) -> Option<i64> {
    let line = limits
        .lines()
        .find_map(|it| it.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_any_name_is_read() {
        let stat = "7 (a b) c) R 1 1 1 0 -1 4194560 91 0 0 0 250 50 0 0 20 0 4 0 100 9000000 2048 18446744073709551615 1";
        assert_eq!(parse_stat(stat), Some((300, 2048)));
        assert_eq!(parse_stat("7 (a) R 1"), None);
    }

    #[test]
    fn no_limit_is_no_number() {
        let limits = |soft: &str| {
            format!("Limit  Soft Limit  Hard Limit  Units\nMax open files  {soft}  4096  files\n")
        };
        assert_eq!(parse_open_files(&limits("1024")), Some(1024));
        assert_eq!(parse_open_files(&limits("unlimited")), None);
    }
}
