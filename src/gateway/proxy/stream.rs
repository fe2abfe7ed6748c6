//! Bodies and tunnels on their way through: never buffered, bounded in silence, and ended with their session.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Leased;
use crate::error::Error;
use crate::gateway::breaker::Ending;

/// Makes a future that ends when the session behind a stream has ended. It is made only once a stream falls silent or a tunnel opens,
/// so that an ordinary answer costs nothing.
#[derive(Clone)]
pub struct Ended(pub Arc<dyn Fn() -> Wait + Send + Sync>);

/// Ends with a session.
pub type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

impl std::fmt::Debug for Ended {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Ended")
    }
}

/// How a client's body fares, for whoever waits for the answer to it.
#[derive(Clone, Debug, Default)]
pub struct Upload(Arc<AtomicU8>);

impl Upload {
    const FLOWS: u8 = 0;
    const AWAITED: u8 = 1;
    const SILENT: u8 = 2;
    const BROKEN: u8 = 3;
    const ENDED: u8 = 4;

    /// Whether it is the client that keeps everybody waiting.
    pub fn is_awaited(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::AWAITED
    }

    /// Why it broke off, if it did.
    pub fn fault(&self) -> Option<Error> {
        match self.0.load(Ordering::Acquire) {
            Self::SILENT => Some(Error::RequestTimeout),
            Self::BROKEN => Some(Error::BadRequest),
            Self::ENDED => Some(Error::Unauthorized),
            _ => None,
        }
    }
}

/// A body that breaks off after `idle` of silence, or when its session ends.
struct Bounded<B> {
    body: B,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    ended: Option<Ended>,
    waiting: Option<Wait>,
    /// Of an answer: what its upstream is told when the body is through.
    lease: Option<(Leased, Ending)>,
    /// Of a client's body; nobody looks at an answer's.
    upload: Upload,
}

/// A client's body on its way to a downstream service.
pub fn idle_bounded(body: Body, idle_ms: u64, ended: Option<Ended>, upload: Upload) -> Body {
    if body.is_end_stream() {
        return body;
    }
    bounded(body, idle_ms, ended, None, upload)
}

/// A downstream service's body on its way to the client.
pub fn answer_body(
    body: Incoming,
    idle_ms: u64,
    ended: Option<Ended>,
    leased: Leased,
    ending: Ending,
) -> Body {
    if body.is_end_stream() {
        leased.finish(ending);
        return Body::new(body);
    }
    let lease = Some((leased, ending));
    bounded(body, idle_ms, ended, lease, Upload::default())
}

fn bounded<B>(
    body: B,
    idle_ms: u64,
    ended: Option<Ended>,
    lease: Option<(Leased, Ending)>,
    upload: Upload,
) -> Body
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    Body::new(Bounded {
        body,
        idle: Duration::from_millis(idle_ms),
        timer: None,
        ended,
        waiting: None,
        lease,
        upload,
    })
}

impl<B> HttpBody for Bounded<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if let Some(waiting) = &mut this.waiting
            && waiting.as_mut().poll(cx).is_ready()
        {
            return this.end();
        }
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.timer = None;
                this.note(Upload::FLOWS);
                // Of a body whose length is known, nobody asks for what comes after the last frame.
                if this.body.is_end_stream() {
                    this.conclude();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.report(Ending::Failure);
                this.note(Upload::BROKEN);
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                this.note(Upload::FLOWS);
                this.conclude();
                Poll::Ready(None)
            }
            Poll::Pending => {
                // Set when silence begins, so that a body that flows costs no timer.
                let idle = this.idle;
                let timer = this
                    .timer
                    .get_or_insert_with(|| Box::pin(sleep_until(deadline(idle))));
                if timer.as_mut().poll(cx).is_pending() {
                    if let (None, Some(ended)) = (&this.waiting, &this.ended)
                        && this
                            .waiting
                            .insert((ended.0)())
                            .as_mut()
                            .poll(cx)
                            .is_ready()
                    {
                        return this.end();
                    }
                    this.note(Upload::AWAITED);
                    return Poll::Pending;
                }
                this.report(Ending::Failure);
                this.note(Upload::SILENT);
                Poll::Ready(Some(Err(
                    "nothing came for the route's idle_timeout_ms".into()
                )))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Bounded<B> {
    /// The body is through: its upstream's breaker hears how it answered.
    fn conclude(&mut self) {
        if let Some((leased, ending)) = self.lease.take() {
            leased.finish(ending);
        }
    }

    fn report(&mut self, ending: Ending) {
        if let Some((leased, _)) = self.lease.take() {
            leased.finish(ending);
        }
    }

    fn note(&self, state: u8) {
        self.upload.0.store(state, Ordering::Release);
    }

    /// The session has ended. What waited for that is through and must not be asked again.
    fn end<T>(&mut self) -> Poll<Option<Result<T, Box<dyn std::error::Error + Send + Sync>>>> {
        (self.waiting, self.ended) = (None, None);
        self.note(Upload::ENDED);
        Poll::Ready(Some(Err("the session has ended".into())))
    }
}

/// Copies both ways until an end closes, both are silent for `idle`, or the session ends.
pub async fn tunnel(
    client: OnUpgrade,
    downstream: OnUpgrade,
    idle: Duration,
    ended: Option<Ended>,
    leased: Leased,
) {
    let (Ok(client), Ok(downstream)) = tokio::join!(client, downstream) else {
        leased.finish(Ending::Failure);
        return;
    };
    leased.finish(Ending::Success);
    let (mut client, mut downstream) = (TokioIo::new(client), TokioIo::new(downstream));
    let session = async move {
        match ended {
            Some(ended) => (ended.0)().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = session => {}
        () = copy(&mut client, &mut downstream, idle) => {}
    }
}

async fn copy<A, B>(client: &mut A, downstream: &mut B, idle: Duration)
where
    A: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    B: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (mut down_read, mut down_write) = tokio::io::split(downstream);
    let (mut up, mut down) = (vec![0; 8192], vec![0; 8192]);
    let (mut up_open, mut down_open) = (true, true);
    while up_open && down_open {
        let moved = async {
            tokio::select! {
                read = client_read.read(&mut up) => match read {
                    Ok(0) | Err(_) => { up_open = false; Ok(()) }
                    Ok(count) => down_write.write_all(&up[..count]).await,
                },
                read = down_read.read(&mut down) => match read {
                    Ok(0) | Err(_) => { down_open = false; Ok(()) }
                    Ok(count) => client_write.write_all(&down[..count]).await,
                },
            }
        };
        match tokio::time::timeout(idle, moved).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    let _ = client_write.shutdown().await;
    let _ = down_write.shutdown().await;
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a peer is silent is measured on the runtime's own clock, not on the product's"
)]
fn deadline(idle: Duration) -> Instant {
    Instant::now() + idle
}
