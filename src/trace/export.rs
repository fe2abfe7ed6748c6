//! Sending spans: a task of its own, in batches, each within `telemetry.otlp_timeout`. A collector that is down costs spans, which are
//! counted, and nothing else.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::{Record, Recorder, Tracer, otlp};
use crate::config::Telemetry;

/// Bytes of a collector's answer that are read; it has nothing to say but what it did not take.
const ANSWER_MOST: usize = 64 * 1024;
/// Idle connections to the collector are dropped after so long.
const IDLE: Duration = Duration::from_secs(30);

/// Where spans go, and how.
#[derive(Debug)]
pub struct Collector {
    endpoint: Uri,
    service: String,
    batch: usize,
    delay: Duration,
    timeout: Duration,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Collector {
    /// None if no endpoint is configured.
    pub(super) fn new(settings: &Telemetry) -> Option<Self> {
        let endpoint = settings.otlp_endpoint.parse().ok()?;
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(settings.otlp_timeout.std()));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Some(Self {
            endpoint,
            service: settings.service_name.clone(),
            batch: settings.otlp_batch,
            delay: settings.otlp_delay.std(),
            timeout: settings.otlp_timeout.std(),
            client,
        })
    }

    async fn send(&self, batch: &[Record]) -> Result<(), String> {
        let request = Request::post(self.endpoint.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(otlp::body(&self.service, batch)))
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let answer = self.client.request(request).await;
            let (parts, body) = answer.map_err(|error| error.to_string())?.into_parts();
            // Read to its end, so that the connection can be used again.
            let _ = Limited::new(body, ANSWER_MOST).collect().await;
            if parts.status.is_success() {
                Ok(())
            } else {
                Err(format!("it answered {}", parts.status))
            }
        };
        let sent = timeout(self.timeout, exchange).await;
        sent.unwrap_or_else(|_| Err("it did not answer within telemetry.otlp_timeout".to_owned()))
    }
}

impl Tracer {
    /// Sends what is recorded until `stop` turns true, then what is left, for at most `telemetry.otlp_timeout`. One task at a time.
    pub async fn export(&self, mut stop: watch::Receiver<bool>) {
        let Self::On(recorder) = self else { return };
        let collector = &recorder.collector;
        let mut queue = recorder.waiting.lock().await;
        let mut exporter = Exporter {
            recorder,
            batch: Vec::with_capacity(collector.batch),
            is_ailing: false,
        };
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                () = exporter.fill(&mut queue) => {}
            }
            exporter.flush().await;
        }
        queue.close();
        let rest = async {
            while exporter.top_up(&mut queue).await {
                exporter.flush().await;
            }
        };
        if timeout(collector.timeout, rest).await.is_err() {
            tracing::warn!("the last spans did not reach telemetry.otlp_endpoint");
        }
    }
}

struct Exporter<'a> {
    recorder: &'a Recorder,
    batch: Vec<Record>,
    /// The last export failed: said once, not once a batch.
    is_ailing: bool,
}

impl Exporter<'_> {
    /// Waits for a first record, then for more until the batch is full or `telemetry.otlp_delay` is over. What was taken stays in the
    /// batch if nobody waits for the end.
    async fn fill(&mut self, queue: &mut mpsc::Receiver<Record>) {
        if !self.top_up(queue).await {
            return std::future::pending().await;
        }
        let collector = &self.recorder.collector;
        let more =
            async { while self.batch.len() < collector.batch && self.top_up(queue).await {} };
        let _ = timeout(collector.delay, more).await;
    }

    /// Takes what is there, or waits for it; false when the batch is empty and nothing will come.
    async fn top_up(&mut self, queue: &mut mpsc::Receiver<Record>) -> bool {
        let room = self.recorder.collector.batch - self.batch.len();
        let taken = queue.recv_many(&mut self.batch, room).await;
        taken > 0 || !self.batch.is_empty()
    }

    async fn flush(&mut self) {
        let metrics = &self.recorder.metrics;
        let spans = self.batch.iter().map(Record::spans).sum();
        let sent = self.recorder.collector.send(&self.batch).await;
        self.batch.clear();
        match sent {
            Ok(()) => {
                metrics.sent.inc_by(spans);
                if self.is_ailing {
                    tracing::info!("telemetry.otlp_endpoint takes spans again");
                }
                self.is_ailing = false;
            }
            Err(why) => {
                metrics.failed.inc_by(spans);
                if !self.is_ailing {
                    tracing::warn!(
                        why,
                        "telemetry.otlp_endpoint does not take spans; they are lost until it does"
                    );
                }
                self.is_ailing = true;
            }
        }
    }
}
