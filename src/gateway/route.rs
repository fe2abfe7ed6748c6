//! Which downstream service a request goes to: the longest prefix, by whole segments, among the routes of its host.
//!
//! Routes that name the request's host are asked first (an exact name before `*.name`, a longer `*.name` before a
//! shorter one), then those that name none. Our own paths are never found.

use std::borrow::Cow;

use http::Method;

use crate::config::edge::routes::{RESERVED, RouteSettings};
use crate::gateway::host::{HostPattern, bare_name};
use crate::gateway::path::prefixes::PathPrefixes;

/// A compiled route.
#[derive(Debug)]
pub struct Route {
    index: usize,
    settings: RouteSettings,
    /// With GET comes HEAD; empty for any.
    methods: Box<[Method]>,
}

/// The compiled routes. Immutable: a reload makes new ones.
#[derive(Debug)]
pub struct Routes {
    routes: Box<[Route]>,
    /// In the order in which they are asked.
    hosts: Box<[(HostPattern, Table)]>,
    any_host: Table,
}

/// What there is for a request.
#[derive(Debug, Clone, Copy)]
pub enum Found<'r> {
    /// This route.
    Route(&'r Route),
    /// The prefix is there, but for other methods (those of this route and its twins): 405.
    MethodNotAllowed(&'r Prefix),
    /// Nothing: 404.
    Nothing,
}

/// Routes of one host, by prefix.
type Table = PathPrefixes<Prefix>;

/// Routes of one host and prefix; their methods do not overlap.
#[derive(Debug, Default)]
pub struct Prefix {
    /// Places among the routes; empty for our own paths.
    routes: Vec<usize>,
    /// For the `Allow` header of a 405; empty when any method has a route.
    allow: String,
}

impl Prefix {
    /// The methods, as the `Allow` header wants them.
    pub fn allow(&self) -> &str {
        &self.allow
    }
}

impl Routes {
    /// Compiles validated routes.
    pub fn compile(settings: &[RouteSettings]) -> Self {
        let routes: Box<[Route]> = settings
            .iter()
            .cloned()
            .enumerate()
            .map(Route::new)
            .collect();
        let mut names: Vec<&str> = settings
            .iter()
            .filter_map(|route| route.host.as_deref())
            .collect();
        // Exact names first, longer ones before shorter.
        names.sort_unstable_by_key(|name| {
            (name.starts_with('*'), std::cmp::Reverse(name.len()), *name)
        });
        names.dedup();
        let hosts = names
            .into_iter()
            .map(|name| (HostPattern::new(name), table(&routes, Some(name))))
            .collect();
        let any_host = table(&routes, None);
        Self {
            routes,
            hosts,
            any_host,
        }
    }

    /// All routes, in the order of the configuration.
    pub fn all(&self) -> &[Route] {
        &self.routes
    }

    /// The route of a request; `host` may have a port, `path` is normalised. Allocates nothing.
    pub fn find(&self, host: &str, method: &Method, path: &str) -> Option<&Route> {
        match self.lookup(host, method, path) {
            Found::Route(route) => Some(route),
            Found::MethodNotAllowed(_) | Found::Nothing => None,
        }
    }

    /// Like [`Routes::find`], and tells a wrong method from a wrong path.
    ///
    /// A prefix without a route for the method does not fall back to a shorter one: what was cut out of a broad route
    /// stays cut out.
    pub fn lookup(&self, host: &str, method: &Method, path: &str) -> Found<'_> {
        let name = bare_name(host);
        let by_host = self
            .hosts
            .iter()
            .filter(|(pattern, _)| pattern.matches(name))
            .map(|(_, table)| table);
        let prefix = by_host
            .chain([&self.any_host])
            .find_map(|table| table.longest(path));
        let Some(prefix) = prefix.filter(|prefix| !prefix.routes.is_empty()) else {
            return Found::Nothing;
        };
        let mut candidates = prefix.routes.iter().map(|at| &self.routes[*at]);
        match candidates.find(|route| route.takes(method)) {
            Some(route) => Found::Route(route),
            None => Found::MethodNotAllowed(prefix),
        }
    }
}

/// The routes of one host, with our own paths as prefixes without routes.
fn table(routes: &[Route], host: Option<&str>) -> Table {
    let own = RESERVED
        .iter()
        .map(|path| (format!("{path}/"), Prefix::default()));
    let theirs = routes
        .iter()
        .filter(|route| route.settings.host.as_deref() == host);
    let theirs = theirs.map(|route| (format!("{}/", route.settings.prefix), Prefix::default()));
    let mut table = PathPrefixes::new(theirs.chain(own));
    for (literal, prefix) in table.values_mut() {
        let here = |route: &&Route| {
            route.settings.host.as_deref() == host
                && literal.strip_suffix('/') == Some(&route.settings.prefix)
        };
        let here: Vec<&Route> = routes.iter().filter(here).collect();
        let methods: Vec<&str> = here
            .iter()
            .flat_map(|route| &route.methods)
            .map(Method::as_str)
            .collect();
        *prefix = Prefix {
            routes: here.iter().map(|route| route.index).collect(),
            allow: methods.join(", "),
        };
    }
    table
}

impl Route {
    fn new((index, settings): (usize, RouteSettings)) -> Self {
        let mut methods = settings.methods.clone();
        if methods.contains(&Method::GET) && !methods.contains(&Method::HEAD) {
            methods.push(Method::HEAD);
        }
        Self {
            index,
            settings,
            methods: methods.into(),
        }
    }

    /// The place among [`Routes::all`], for state that is kept per route.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How it is configured.
    pub fn settings(&self) -> &RouteSettings {
        &self.settings
    }

    fn takes(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }

    /// The path that the downstream service is asked for. Allocates only when a prefix is put in the old one's place.
    pub fn upstream_path<'p>(&self, path: &'p str) -> Cow<'p, str> {
        let Some(replacement) = &self.settings.replace_prefix else {
            return Cow::Borrowed(path);
        };
        let rest = path
            .strip_prefix(self.settings.prefix.as_str())
            .unwrap_or(path);
        match (replacement.is_empty(), rest.is_empty()) {
            (true, true) => Cow::Borrowed("/"),
            (true, false) => Cow::Borrowed(rest),
            (false, _) => Cow::Owned(format!("{replacement}{rest}")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::config::edge::RawEdge;
    use proptest::prelude::*;

    fn route(name: &str, rest: &str) -> String {
        format!(
            "[[gateway.routes]]\nname = \"{name}\"\nupstreams = [\"http://a\"]\nauth = \"none\"\n{rest}\n"
        )
    }

    fn routes(text: &str) -> Routes {
        Routes::compile(
            &toml::from_str::<RawEdge>(text)
                .unwrap()
                .validate()
                .unwrap()
                .routes,
        )
    }

    fn name<'r>(routes: &'r Routes, host: &str, method: Method, path: &str) -> &'r str {
        match routes.lookup(host, &method, path) {
            Found::Route(route) => &route.settings().name,
            Found::MethodNotAllowed(prefix) => prefix.allow(),
            Found::Nothing => "-",
        }
    }

    #[test]
    fn the_longest_whole_segment_prefix_of_the_host_wins() {
        let routes = routes(
            &[
                ("root", "prefix = \"/\""),
                ("api", "prefix = \"/api/v1\""),
                ("ship", "prefix = \"/api/v1/shipment/\""),
                (
                    "ship-read",
                    "prefix = \"/api/v1/shipment/x\"\nmethods = [\"GET\"]",
                ),
                (
                    "ship-write",
                    "prefix = \"/api/v1/shipment/x\"\nmethods = [\"POST\", \"PUT\"]",
                ),
                ("a", "prefix = \"/\"\nhost = \"a.example.com\""),
                ("sub", "prefix = \"/api\"\nhost = \"*.example.com\""),
                ("deep", "prefix = \"/api\"\nhost = \"*.z.example.com\""),
            ]
            .map(|(name, rest)| route(name, rest))
            .concat(),
        );
        for (host, method, path, want) in [
            ("h", Method::GET, "/", "root"),
            ("h", Method::GET, "/api/v1", "api"),
            ("h", Method::GET, "/api/v1/", "api"),
            ("h", Method::GET, "/api/v1x", "root"),
            ("h", Method::GET, "/API/v1/shipment", "root"),
            ("h", Method::GET, "/api/v1/shipment", "ship"),
            ("h", Method::GET, "/api/v1/shipments", "api"),
            ("h", Method::GET, "/api/v1/shipment/7", "ship"),
            ("h", Method::GET, "/api/v1/shipment/x/y", "ship-read"),
            ("h", Method::HEAD, "/api/v1/shipment/x", "ship-read"),
            ("h", Method::PUT, "/api/v1/shipment/x/", "ship-write"),
            (
                "h",
                Method::DELETE,
                "/api/v1/shipment/x/y",
                "GET, HEAD, POST, PUT",
            ),
            ("A.example.com:9000", Method::GET, "/api/v1/shipment", "a"),
            ("c.example.com", Method::GET, "/api/v1/shipment", "sub"),
            ("c.z.example.com", Method::GET, "/api", "deep"),
            ("c.example.com", Method::GET, "/x", "root"),
            ("example.com", Method::GET, "/api", "root"),
        ] {
            assert_eq!(
                name(&routes, host, method.clone(), path),
                want,
                "{host} {method} {path}"
            );
        }
    }

    #[test]
    fn our_own_paths_are_never_found() {
        let routes = routes(
            &(route("root", "prefix = \"/\"") + &route("host", "prefix = \"/api\"\nhost = \"a\"")),
        );
        for own in RESERVED {
            for path in [own.to_owned(), format!("{own}/"), format!("{own}/x/y")] {
                assert!(routes.find("a", &Method::GET, &path).is_none(), "{path}");
                assert!(routes.find("b", &Method::GET, &path).is_none(), "{path}");
            }
            assert!(routes.find("b", &Method::GET, &format!("{own}s")).is_some());
        }
    }

    #[test]
    fn paths_are_rewritten() {
        let text = [
            ("keep", "prefix = \"/a\""),
            (
                "strip",
                "prefix = \"/b/c\"\nrewrite = { strip_prefix = true }",
            ),
            (
                "replace",
                "prefix = \"/d\"\nrewrite = { replace_prefix = \"/v2/x/\" }",
            ),
            (
                "to-root",
                "prefix = \"/e\"\nrewrite = { replace_prefix = \"/\" }",
            ),
        ]
        .map(|(name, rest)| route(name, rest))
        .concat();
        let routes = routes(&text);
        for (path, want) in [
            ("/a/x", "/a/x"),
            ("/b/c", "/"),
            ("/b/c/", "/"),
            ("/b/c/x/", "/x/"),
            ("/d", "/v2/x"),
            ("/d/", "/v2/x/"),
            ("/d/y", "/v2/x/y"),
            ("/e", "/"),
            ("/e/y", "/y"),
        ] {
            assert_eq!(
                routes
                    .find("h", &Method::GET, path)
                    .unwrap()
                    .upstream_path(path),
                want,
                "{path}"
            );
        }
    }

    proptest! {
        #[test]
        fn agrees_with_trying_every_route(
            prefixes in prop::collection::btree_set("(/[ab]{1,2}){0,3}", 0..8),
            path in "(/[ab]{1,2}){1,4}/?",
        ) {
            let text = prefixes.iter().enumerate()
                .map(|(i, prefix)| route(&format!("r{i}"), &format!("prefix = \"{prefix}/\""))).collect::<String>();
            let routes = routes(&text);
            let covers = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            let want = prefixes.iter().filter(|prefix| covers(prefix)).max_by_key(|prefix| prefix.len());
            let got = routes.find("h", &Method::GET, &path).map(|route| &route.settings().prefix);
            prop_assert_eq!(got, want);
        }
    }
}
