//! Bodies and tunnels on their way through: never buffered, bounded in silence, and ended with their session.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, Sleep, sleep_until};

use super::connect::Stream;
use super::http1::now;
use super::upstreams::Leased;
use crate::config::edge::routes::RouteSettings;
use crate::error::Error;
use crate::gateway::breaker::Ending;

/// Makes a future that ends when the session behind a stream has ended. It is made only once a stream falls silent or a tunnel opens,
/// so that an ordinary answer costs nothing.
#[derive(Clone)]
pub struct Ended(pub Arc<dyn Fn() -> Wait + Send + Sync>);

/// What a body breaks off with.
type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Ends with a session.
pub type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

impl std::fmt::Debug for Ended {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Ended")
    }
}

/// How long somebody waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the last step on.
    pub silence: Duration,
    /// In all.
    pub until: Option<Instant>,
}

impl Patience {
    /// When it ends, if there is no further step.
    pub fn end(self) -> Instant {
        let end = now() + self.silence;
        self.until.map_or(end, |until| until.min(end))
    }

    /// Whether there is no time left.
    pub fn is_over(self) -> bool {
        self.until.is_some_and(|until| until <= now())
    }
}

/// What bounds the streams of a request.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Of silence.
    idle: Duration,
    /// Of everything.
    until: Option<Instant>,
    /// Of the session behind it.
    ended: Option<Ended>,
}

impl Bounds {
    pub fn of(settings: &RouteSettings, context: &super::Context<'_>) -> Self {
        let total = settings.timeouts.total_ms.map(Duration::from_millis);
        Self {
            idle: Duration::from_millis(settings.timeouts.idle_ms),
            until: total.map(|total| now() + total),
            ended: context.ended.clone(),
        }
    }

    /// How long the head of an answer may take.
    pub fn for_answer(&self, settings: &RouteSettings) -> Patience {
        Patience {
            silence: Duration::from_millis(settings.timeouts.response_ms),
            until: self.until,
        }
    }

    /// Ends when the time for everything is over.
    async fn over(until: Option<Instant>) {
        match until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    }
}

/// How a client's body fares, for whoever waits for the answer to it.
#[derive(Clone, Debug, Default)]
pub struct Upload(Arc<State>);

#[derive(Debug, Default)]
struct State {
    now: AtomicU8,
    frames: AtomicU32,
}

impl Upload {
    const FLOWS: u8 = 0;
    const AWAITED: u8 = 1;
    const SILENT: u8 = 2;
    const BROKEN: u8 = 3;
    const ENDED: u8 = 4;

    /// Whether it is the client that keeps everybody waiting.
    pub fn is_awaited(&self) -> bool {
        self.0.now.load(Ordering::Acquire) == Self::AWAITED
    }

    /// Frames that came so far (or so many more than a multiple of 2^32).
    pub fn frames(&self) -> u32 {
        self.0.frames.load(Ordering::Acquire)
    }

    /// Why it broke off, if it did.
    pub fn fault(&self) -> Option<Error> {
        match self.0.now.load(Ordering::Acquire) {
            Self::SILENT => Some(Error::RequestTimeout),
            Self::BROKEN => Some(Error::BadRequest),
            Self::ENDED => Some(Error::Unauthorized),
            _ => None,
        }
    }
}

/// A body that breaks off after too much silence, when its time is over, or when its session ends.
struct Bounded<B> {
    body: B,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    total: Option<Pin<Box<Sleep>>>,
    ended: Option<Ended>,
    waiting: Option<Wait>,
    /// Of an answer: its upstream's, until the body is through.
    lease: Option<Leased>,
    /// How the client's body fares; of an answer, the one of its request.
    upload: Upload,
    is_upload: bool,
    fault: Fault,
}

/// An error comes one step behind the data before it: in the same step, hyper would drop that data, and an answer's head with it.
enum Fault {
    None,
    /// Data was handed on in this step.
    Flowing,
    Next(BodyError),
}

/// A client's body on its way to a downstream service.
pub fn upload(body: Body, bounds: &Bounds, upload: Upload) -> Body {
    Body::new(Bounded::new(body, bounds, None, upload))
}

/// A downstream service's body on its way to the client.
/// Its upstream has been reported as having answered; only that it breaks off is news.
pub fn answer<B>(body: B, bounds: &Bounds, leased: Leased, upload: Upload) -> Body
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BodyError>,
{
    if body.is_end_stream() {
        leased.finish(Ending::Unknown);
        return Body::new(body);
    }
    Body::new(Bounded::new(body, bounds, Some(leased), upload))
}

impl<B> Bounded<B> {
    fn new(body: B, bounds: &Bounds, lease: Option<Leased>, upload: Upload) -> Self {
        Self {
            body,
            idle: bounds.idle,
            timer: None,
            total: bounds.until.map(|until| Box::pin(sleep_until(until))),
            ended: bounds.ended.clone(),
            waiting: None,
            is_upload: lease.is_none(),
            lease,
            upload,
            fault: Fault::None,
        }
    }
}

impl<B> HttpBody for Bounded<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

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
        if let Some(total) = &mut this.total
            && total.as_mut().poll(cx).is_ready()
        {
            // Whose fault that is nobody can say: a slow client's, as likely as not.
            this.report(Ending::Unknown);
            return this.silent("the route's total_timeout_ms is over");
        }
        let flowing = match std::mem::replace(&mut this.fault, Fault::None) {
            Fault::Next(error) => return Poll::Ready(Some(Err(error))),
            Fault::Flowing => true,
            Fault::None => false,
        };
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                (this.timer, this.fault) = (None, Fault::Flowing);
                this.note(Upload::FLOWS);
                if this.is_upload {
                    this.upload.0.frames.fetch_add(1, Ordering::Release);
                }
                // Of a body whose length is known, nobody asks for what comes after the last frame.
                if this.body.is_end_stream() {
                    this.conclude();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.fail();
                this.note(Upload::BROKEN);
                if flowing {
                    this.fault = Fault::Next(error.into());
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                this.note(Upload::FLOWS);
                this.conclude();
                Poll::Ready(None)
            }
            Poll::Pending => this.poll_silence(cx),
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
    /// Nothing comes: how long may that last? The timer is set when silence begins, so that a body that flows costs none.
    fn poll_silence<T>(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, BodyError>>> {
        let idle = self.idle;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(now() + idle)));
        if timer.as_mut().poll(cx).is_ready() {
            return self.silent("nothing came for the route's idle_timeout_ms");
        }
        if let (None, Some(ended)) = (&self.waiting, &self.ended) {
            let waiting = self.waiting.insert((ended.0)());
            if waiting.as_mut().poll(cx).is_ready() {
                return self.end();
            }
        }
        self.note(Upload::AWAITED);
        Poll::Pending
    }

    /// The body is through: its upstream's breaker hears how it answered.
    fn conclude(&mut self) {
        self.report(Ending::Unknown);
    }

    /// The upstream broke off, unless it was the client whose own body did.
    fn fail(&mut self) {
        let client = self.upload.fault().is_some();
        self.report(if client {
            Ending::Unknown
        } else {
            Ending::Failure
        });
    }

    fn report(&mut self, ending: Ending) {
        if let Some(leased) = self.lease.take() {
            leased.finish(ending);
        }
    }

    fn note(&self, state: u8) {
        if !self.is_upload {
            return;
        }
        self.upload.0.now.store(state, Ordering::Release);
    }

    fn silent<T>(&mut self, why: &'static str) -> Poll<Option<Result<T, BodyError>>> {
        self.fail();
        self.note(Upload::SILENT);
        Poll::Ready(Some(Err(why.into())))
    }

    /// The session has ended. What waited for that is through and must not be asked again.
    fn end<T>(&mut self) -> Poll<Option<Result<T, BodyError>>> {
        (self.waiting, self.ended) = (None, None);
        self.note(Upload::ENDED);
        Poll::Ready(Some(Err("the session has ended".into())))
    }
}

/// Copies both ways until an end closes, both are silent for too long, time is over, or the session ends. `downstream` comes with what
/// it has said behind its 101.
pub async fn tunnel(
    client: OnUpgrade,
    (mut downstream, first): (Stream, Bytes),
    bounds: Bounds,
    leased: Leased,
) {
    let Ok(client) = client.await else {
        leased.finish(Ending::Unknown);
        return;
    };
    leased.finish(Ending::Success);
    let mut client = TokioIo::new(client);
    let session = async move {
        match bounds.ended {
            Some(ended) => (ended.0)().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = session => {}
        () = Bounds::over(bounds.until) => {}
        () = copy(&mut client, &mut downstream, &first, bounds.idle) => {}
    }
}

async fn copy<A, B>(client: &mut A, downstream: &mut B, first: &[u8], idle: Duration)
where
    A: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    B: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (mut down_read, mut down_write) = tokio::io::split(downstream);
    if client_write.write_all(first).await.is_err() || client_write.flush().await.is_err() {
        return;
    }
    let (mut up, mut down) = (vec![0; 8192], vec![0; 8192]);
    let (mut up_open, mut down_open) = (true, true);
    while up_open && down_open {
        let moved = async {
            tokio::select! {
                read = client_read.read(&mut up) => match read {
                    Ok(0) | Err(_) => { up_open = false; Ok(()) }
                    Ok(count) => pass(&mut down_write, &up[..count]).await,
                },
                read = down_read.read(&mut down) => match read {
                    Ok(0) | Err(_) => { down_open = false; Ok(()) }
                    Ok(count) => pass(&mut client_write, &down[..count]).await,
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

/// Flushed each time: TLS keeps what the socket did not take, and nobody would write again.
async fn pass<W: tokio::io::AsyncWrite + Unpin>(to: &mut W, bytes: &[u8]) -> std::io::Result<()> {
    use tokio::io::AsyncWriteExt;
    to.write_all(bytes).await?;
    to.flush().await
}
