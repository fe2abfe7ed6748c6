//! Traces: a span for each request, and one for each attempt at an upstream, on their way to a collector of OpenTelemetry.
//!
//! Off unless `telemetry.otlp_endpoint` is set. Recording never waits: what the queue can't take is dropped and counted. A span ends with
//! the head of its answer; the body may stream for hours. What a span tells is chosen in `otlp`: never a query, header, body, e-mail
//! address or address of a client.

use std::fmt::Write;

use http::{HeaderValue, Method, StatusCode, Uri, Version};
use tokio::sync::{Mutex, mpsc};

use crate::clock::{Clock, Millis, Nanos};
use crate::config::Telemetry;
use crate::metrics::{Metrics, SpanMetrics};
use crate::random::Random;

pub mod export;
mod otlp;

/// The ids of one request's trace, which begins with us: a client's own `traceparent` is not believed.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    id: u128,
    /// Of the request's span; those of its attempts follow it.
    span: u64,
    is_sampled: bool,
}

impl Trace {
    /// Ids for a downstream service's logs; nothing is recorded.
    pub fn unsampled(random: &Random) -> Self {
        let bytes: [u8; 24] = random.bytes();
        let (id, span) = bytes.split_at(16);
        Self {
            id: id.iter().fold(0, |id, byte| id << 8 | u128::from(*byte)),
            // Neither this one nor those that follow are 0, which would mean "no span".
            span: span.iter().fold(0, |id, byte| id << 8 | u64::from(*byte)) >> 1 | 1,
            is_sampled: false,
        }
    }

    /// The last eight bytes are as good as random, and whoever samples by them comes to the same answer (OpenTelemetry's
    /// `TraceIdRatioBased`).
    fn is_below(&self, share: f64) -> bool {
        share > 0.0 && self.id as u64 as f64 / u64::MAX as f64 <= share
    }

    fn attempt(&self, number: u64) -> u64 {
        self.span + number
    }

    /// The id as text.
    pub fn id(&self) -> String {
        format!("{:032x}", self.id)
    }

    /// W3C Trace Context, level 1.
    fn parent(&self, span: u64) -> HeaderValue {
        let mut text = String::with_capacity(55);
        let (id, flags) = (self.id, u8::from(self.is_sampled));
        write!(text, "00-{id:032x}-{span:016x}-{flags:02x}").expect("a String can be written to");
        HeaderValue::try_from(text).expect("digits and dashes")
    }
}

/// What becomes of a request at its upstreams, for the access log and the trace.
#[derive(Debug, Default)]
pub struct Trail {
    /// None until somebody needs it.
    trace: Option<Trace>,
    /// The place among the route's upstreams of the one that was asked last.
    upstream: Option<usize>,
    tries: u64,
    /// Only of a sampled trace.
    attempts: Vec<Attempt>,
}

#[derive(Debug)]
struct Attempt {
    span: u64,
    /// Scheme and authority.
    upstream: Uri,
    /// Without query.
    path: String,
    began: Nanos,
    took: Nanos,
    end: End,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub enum End {
    Answered(StatusCode),
    /// Why not, in a word.
    Failed(&'static str),
    /// Nobody waited for it any more.
    Unknown,
}

impl Trail {
    /// Notes an attempt at an upstream; the `traceparent` that the upstream gets.
    pub fn begin(
        &mut self,
        upstream: usize,
        at: &Uri,
        path: &str,
        clock: &Clock,
        random: &Random,
    ) -> HeaderValue {
        let trace = *self.trace.get_or_insert_with(|| Trace::unsampled(random));
        self.upstream = Some(upstream);
        self.tries += 1;
        let span = trace.attempt(self.tries);
        if trace.is_sampled {
            self.attempts.push(Attempt {
                span,
                upstream: at.clone(),
                path: path.to_owned(),
                began: clock.nanos(),
                took: 0,
                end: End::Unknown,
            });
        }
        trace.parent(span)
    }

    /// The last attempt is through.
    pub fn end(&mut self, end: End, clock: &Clock) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.took = clock.nanos_since(attempt.began);
            attempt.end = end;
        }
    }

    /// The upstream that was asked last.
    pub fn upstream(&self) -> Option<usize> {
        self.upstream
    }

    /// The trace that is recorded, if it is.
    pub fn sampled(&self) -> Option<&Trace> {
        self.trace.as_ref().filter(|trace| trace.is_sampled)
    }
}

/// A request that is through, as [`Tracer::record`] takes it.
#[derive(Debug)]
pub struct Request<'a> {
    pub started: Millis,
    /// By the clock that nobody sets.
    pub began: Nanos,
    pub took: Nanos,
    pub method: &'a Method,
    pub path: &'a str,
    /// The route's name.
    pub route: &'a str,
    /// `http` or `https`, as the client sees us.
    pub scheme: &'static str,
    pub version: Version,
    pub status: u16,
    /// Why we refused, if we did.
    pub why: Option<&'a str>,
}

/// The same on its way to the collector.
#[derive(Debug)]
struct Record {
    trace: Trace,
    started: Millis,
    began: Nanos,
    took: Nanos,
    method: Method,
    path: String,
    route: String,
    scheme: &'static str,
    version: Version,
    status: u16,
    why: Option<String>,
    attempts: Vec<Attempt>,
}

/// Decides what is traced, and keeps it until it is sent.
#[derive(Debug)]
pub enum Tracer {
    Off,
    On(Box<Recorder>),
}

#[derive(Debug)]
pub struct Recorder {
    /// Of all requests, 0 to 1.
    share: f64,
    queue: mpsc::Sender<Record>,
    /// The exporter's end.
    waiting: Mutex<mpsc::Receiver<Record>>,
    collector: export::Collector,
    metrics: SpanMetrics,
}

impl Tracer {
    /// As configured and checked.
    pub fn new(settings: &Telemetry, metrics: &Metrics) -> Self {
        let Some(collector) = export::Collector::new(settings) else {
            return Self::Off;
        };
        let (queue, waiting) = mpsc::channel(settings.otlp_queue);
        Self::On(Box::new(Recorder {
            share: settings.otlp_sample,
            queue,
            waiting: Mutex::new(waiting),
            collector,
            metrics: metrics.spans(),
        }))
    }

    /// The trail of a request that has just come.
    pub fn begin(&self, random: &Random) -> Trail {
        let Self::On(recorder) = self else {
            return Trail::default();
        };
        let mut trace = Trace::unsampled(random);
        trace.is_sampled = trace.is_below(recorder.share);
        Trail {
            trace: Some(trace),
            ..Trail::default()
        }
    }

    /// Hands a sampled request over to the exporter. Never waits.
    pub fn record(&self, trail: Trail, request: &Request<'_>) {
        let (Self::On(recorder), Some(trace)) = (self, trail.sampled()) else {
            return;
        };
        let record = Record {
            trace: *trace,
            started: request.started,
            began: request.began,
            took: request.took,
            method: request.method.clone(),
            path: request.path.to_owned(),
            route: request.route.to_owned(),
            scheme: request.scheme,
            version: request.version,
            status: request.status,
            why: request.why.map(str::to_owned),
            attempts: trail.attempts,
        };
        let spans = record.spans();
        if recorder.queue.try_send(record).is_err() {
            recorder.metrics.dropped.inc_by(spans);
        }
    }
}

impl Record {
    fn spans(&self) -> u64 {
        1 + self.attempts.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_gets_the_span_of_its_attempt_and_the_truth_about_sampling() {
        let (clock, random) = (Clock::manual(0), Random::seeded(1));
        let at: Uri = "http://127.0.0.1:1".parse().expect("a URI");
        let mut trail = Trail::default();
        let mut parents = [0, 1].map(|upstream| {
            let parent = trail.begin(upstream, &at, "/x", &clock, &random);
            parent.to_str().expect("text").to_owned()
        });
        assert_eq!(
            (trail.upstream(), trail.sampled().is_some()),
            (Some(1), false)
        );
        assert!(
            trail.attempts.is_empty(),
            "nothing is kept of what nobody records"
        );
        assert!(
            parents
                .iter()
                .all(|it| it.len() == 55 && it.ends_with("-00")),
            "{parents:?}"
        );
        assert_eq!(parents[0][..36], parents[1][..36], "one trace");
        assert_ne!(parents[0], parents[1], "two spans");

        trail.trace.as_mut().expect("it was needed").is_sampled = true;
        let parent = trail.begin(0, &at, "/x", &clock, &random);
        parents[0] = parent.to_str().expect("text").to_owned();
        let span = format!("-{:016x}-01", trail.attempts[0].span);
        assert!(parents[0].ends_with(&span), "{parents:?}");
    }

    #[test]
    fn a_share_is_kept() {
        let random = Random::seeded(7);
        let traces: Vec<Trace> = (0..2000).map(|_| Trace::unsampled(&random)).collect();
        let kept = |share| traces.iter().filter(|trace| trace.is_below(share)).count();
        assert_eq!((kept(0.0), kept(1.0)), (0, 2000));
        assert!((400..600).contains(&kept(0.25)), "{}", kept(0.25));
    }
}
