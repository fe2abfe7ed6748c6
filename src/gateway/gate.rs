//! A strict HTTP/1 gate over the byte stream ahead of hyper.
//!
//! hyper drops a Content-Length beside Transfer-Encoding, folds equal Content-Lengths, drops a
//! fragment and takes bare LF before a service could see any of it. Whatever can be read in two ways
//! is refused here instead; what passes reaches hyper byte for byte.
//!
//! **Order of answers.** hyper must answer the requests before the refused one first, and must not
//! take the end of its input for a client that left (it would drop the answer in flight). So the
//! gate lets one empty line in place of the refused message through. An empty line between requests
//! means nothing (RFC 9112 §2.2), but while it lies in hyper's buffer, hyper reads again only when it
//! wants a next request: the answers before are written then, the gate reports the end of input,
//! hyper flushes and shuts down, and [`Gate::poll_shutdown`] writes the refusal first.
//!
//! A fault *behind* a head becomes an error of the request body: hyper has passed the head on.

mod closing;
mod framer;
mod handle;
pub mod http2;
mod lines;
mod refusal;

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use closing::Closing;
pub use framer::{Framer, Limits, Progress};
pub use handle::GateHandle;
pub use refusal::{Reason, Refusal};

/// RFC 9113 §3.4.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const EMPTY_LINE: &[u8] = b"\r\n";
/// A buffer that grew beyond this is not kept for the next message.
const KEPT_BUFFER: usize = 4 * 1024;

/// Makes the answer to a refused message of a peer; the place to count and log it and to give it a request id.
pub type AnswerFn = dyn Fn(&Refusal, SocketAddr) -> Vec<u8> + Send + Sync;

/// What the gates of a listener have in common.
pub struct Settings {
    /// The sizes that are accepted.
    pub limits: Limits,
    /// From the first byte of a head to its last: 408 beyond. Unlike hyper's time-out, which closes
    /// without an answer and so must be longer, it does not run on an idle connection.
    pub head_timeout: Option<Duration>,
    /// How long an answer that ends the connection may take, reading what the client still sends
    /// included: closing with unread input would reset the connection and lose the answer.
    pub linger: Duration,
    /// Let HTTP/2 with prior knowledge pass unchecked: only ahead of a server that detects it.
    pub http2: bool,
    /// Makes the answers; by default without a request id.
    pub answer: Box<AnswerFn>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            limits: Limits::default(),
            head_timeout: Some(Duration::from_secs(10)),
            linger: Duration::from_secs(2),
            http2: false,
            answer: Box::new(|refusal, _| refusal.answer(None)),
        }
    }
}

/// A connection whose input is checked; hand it to hyper in place of the connection.
pub struct Gate<S> {
    io: S,
    /// The other end of the connection.
    peer: SocketAddr,
    settings: Arc<Settings>,
    handle: GateHandle,
    framer: Framer,
    mode: Mode,
    /// Input that is not yet passed on: empty as long as messages come whole.
    held: Vec<u8>,
    /// How much of `held` is checked: hyper gets it with its next reads.
    cleared: usize,
    /// How much of `held` hyper has.
    given: usize,
    head_deadline: Option<Pin<Box<Sleep>>>,
    /// The service knows of the current request's wish for an upgrade.
    asked: bool,
    /// An upgrade was asked for and not granted. hyper then never calls `poll_shutdown` (1.12 keeps
    /// the offer of the upgrade and takes the end of the connection for its fulfilment), so the
    /// refusal has to be written before hyper hears of the end.
    declined: bool,
    flush: Flush,
    closing: Closing,
}

/// Whether hyper has written all that it had when it asked for the refused message.
enum Flush {
    Unasked,
    Awaited(Waker),
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Nothing read yet; it may become HTTP/2.
    Start,
    Http1,
    /// Not ours any more: HTTP/2, or upgraded.
    Transparent,
    /// A message was refused and hyper does not know yet that nothing follows.
    Refused(Refusal),
    /// hyper wanted the message after the last good one, and was told that the input ended.
    Ended(Refusal),
    /// The fault is in the body that hyper reads.
    Broken(Refusal),
}

impl<S> Gate<S> {
    /// A gate at the start of a connection.
    pub fn new(io: S, peer: SocketAddr, settings: Arc<Settings>) -> Gate<S> {
        Gate {
            io,
            peer,
            handle: GateHandle::default(),
            framer: Framer::new(settings.limits),
            mode: if settings.http2 {
                Mode::Start
            } else {
                Mode::Http1
            },
            held: Vec::new(),
            cleared: 0,
            given: 0,
            head_deadline: None,
            asked: false,
            declined: false,
            flush: Flush::Unasked,
            closing: Closing::default(),
            settings,
        }
    }

    /// A gate that stands open: ahead of it, it was agreed that the client speaks HTTP/2.
    pub fn open(io: S, peer: SocketAddr, settings: Arc<Settings>) -> Gate<S> {
        let mut gate = Gate::new(io, peer, settings);
        gate.mode = Mode::Transparent;
        gate
    }

    /// What the service of this connection needs, to be put into the extensions of its requests.
    pub fn handle(&self) -> GateHandle {
        self.handle.clone()
    }

    /// The connection itself.
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// Gives hyper what is cleared; false when nothing is.
    fn give(&mut self, out: &mut ReadBuf<'_>) -> bool {
        let bytes = (self.cleared - self.given).min(out.remaining());
        if bytes == 0 {
            return false;
        }
        out.put_slice(&self.held[self.given..self.given + bytes]);
        self.given += bytes;
        if self.given == self.held.len() {
            self.hold(&[]);
        }
        true
    }

    /// Replaces what is held.
    fn hold(&mut self, bytes: &[u8]) {
        if self.held.capacity() > KEPT_BUFFER {
            self.held = Vec::new();
        }
        self.held.clear();
        self.held.extend_from_slice(bytes);
        (self.cleared, self.given) = (0, 0);
    }

    /// Checks `input`, of which no byte was passed before; how much of it may pass.
    fn check(&mut self, input: &[u8]) -> usize {
        if self.mode == Mode::Start {
            let common = input.len().min(HTTP2_PREFACE.len());
            match input[..common] == HTTP2_PREFACE[..common] {
                true if common < HTTP2_PREFACE.len() => return 0,
                true => {
                    self.mode = Mode::Transparent;
                    return input.len();
                }
                false => self.mode = Mode::Http1,
            }
        }
        let passed = self
            .framer
            .advance(input)
            .map_or(0, |progress| progress.passed);
        // With the head, for the service may decide while the body still comes.
        if self.framer.asks_upgrade() && !self.asked {
            self.asked = true;
            self.handle.await_upgrade();
        }
        passed
    }

    /// Checks `held` once more after it grew, or after an upgrade was not granted.
    fn check_held(&mut self) {
        if self.given > 0 {
            self.held.drain(..self.given);
            self.given = 0;
        }
        let held = std::mem::take(&mut self.held);
        self.cleared = self.check(&held);
        self.held = held;
        if self.cleared > 0 {
            self.head_deadline = None;
        }
    }

    /// Drops the refused message and sees to it that hyper hears of its end.
    fn refuse(&mut self, refusal: Refusal) {
        self.handle.set_refusal(refusal);
        self.head_deadline = None;
        if refusal.in_body {
            self.hold(&[]);
            self.mode = Mode::Broken(refusal);
        } else {
            self.hold(EMPTY_LINE);
            self.cleared = EMPTY_LINE.len();
            self.mode = Mode::Refused(refusal);
        }
    }
}

impl<S: AsyncRead + Unpin> Gate<S> {
    /// Waits until the first bytes tell which protocol the client speaks: true for HTTP/2.
    ///
    /// A client that begins and does not go on is refused after `head_timeout`, by HTTP/1; one that sends nothing is waited for.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn speaks_http2(&mut self) -> io::Result<bool> {
        std::future::poll_fn(|cx| self.poll_start(cx)).await
    }

    fn poll_start(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.mode == Mode::Start {
            let mut space = [MaybeUninit::uninit(); HTTP2_PREFACE.len()];
            let mut fresh = ReadBuf::uninit(&mut space);
            let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(cx, &mut fresh) else {
                ready!(self.poll_head_deadline(cx))?;
                break;
            };
            read?;
            if fresh.filled().is_empty() {
                break;
            }
            self.held.extend_from_slice(fresh.filled());
            self.check_held();
        }
        Poll::Ready(Ok(self.mode == Mode::Transparent))
    }

    /// Reads and checks. `Ready(true)` when `out` has got something or the input has ended.
    fn poll_checked(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        let before = out.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(cx, out) else {
            return self.poll_head_deadline(cx);
        };
        read?;
        let fresh = &out.filled()[before..];
        if fresh.is_empty() {
            return Poll::Ready(Ok(true));
        }
        if !self.held.is_empty() {
            self.held.extend_from_slice(fresh);
            out.set_filled(before);
            self.check_held();
            return Poll::Ready(Ok(false));
        }
        // The usual case: the bytes stay where they are.
        let passed = self.check(fresh);
        if passed < fresh.len() {
            self.hold(&fresh[passed..]);
        }
        out.set_filled(before + passed);
        Poll::Ready(Ok(passed > 0))
    }

    /// Refuses a head that was begun and does not end. `Ready(false)` when it did so.
    fn poll_head_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        // An empty line alone is the tail of the message before, sent by old clients.
        let begun = !EMPTY_LINE.starts_with(&self.held[self.given..]) && !self.framer.in_body();
        let Some(timeout) = self.settings.head_timeout.filter(|_| begun) else {
            return Poll::Pending;
        };
        let deadline = self
            .head_deadline
            .get_or_insert_with(|| sleep_after(timeout));
        ready!(deadline.as_mut().poll(cx));
        self.refuse(Refusal {
            reason: Reason::HeadTimeout,
            in_body: false,
        });
        Poll::Ready(Ok(false))
    }

    /// Waits for the service to say what the bytes behind an upgrade request are, and meanwhile
    /// for the client to leave. `Ready(true)` when it left.
    fn poll_upgrade(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        match self.handle.poll_upgrade(cx) {
            Poll::Ready(true) => {
                self.mode = Mode::Transparent;
                self.cleared = self.held.len();
                return Poll::Ready(Ok(false));
            }
            Poll::Ready(false) => {
                (self.asked, self.declined) = (false, true);
                self.framer.resume();
                self.check_held();
                return Poll::Ready(Ok(false));
            }
            Poll::Pending => {}
        }
        if !self.held.is_empty() {
            return Poll::Pending;
        }
        let before = out.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, out))?;
        if out.filled().len() == before {
            return Poll::Ready(Ok(true));
        }
        self.hold(&out.filled()[before..]);
        out.set_filled(before);
        Poll::Pending
    }

    /// Waits until hyper calls `poll_flush`, which it does with an empty buffer only, and after
    /// each read.
    fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Flush::Done = self.flush {
            return Poll::Ready(());
        }
        self.flush = Flush::Awaited(cx.waker().clone());
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gate<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if out.remaining() == 0 || this.give(out) {
                return Poll::Ready(Ok(()));
            }
            let done = match this.mode {
                Mode::Transparent => return Pin::new(&mut this.io).poll_read(cx, out),
                Mode::Broken(refusal) => return Poll::Ready(Err(refusal.into())),
                Mode::Refused(refusal) => {
                    if this.declined {
                        ready!(this.poll_flushed(cx));
                    }
                    this.mode = Mode::Ended(refusal);
                    false
                }
                Mode::Ended(_) => {
                    if this.declined {
                        // hyper would not do anything with an error but report it.
                        let _ = ready!(this.poll_close(cx));
                    }
                    true
                }
                Mode::Start | Mode::Http1 => match this.framer.refusal() {
                    Some(refusal) => {
                        this.refuse(refusal);
                        false
                    }
                    None if this.framer.awaits_upgrade() => ready!(this.poll_upgrade(cx, out))?,
                    None => ready!(this.poll_checked(cx, out))?,
                },
            };
            if done {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        if let Flush::Awaited(reader) = &this.flush {
            reader.wake_by_ref();
            this.flush = Flush::Done;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_close(cx)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a peer is silent is measured on the runtime's own clock, not on the product's"
)]
fn sleep_after(time: Duration) -> Pin<Box<Sleep>> {
    Box::pin(sleep_until(Instant::now() + time))
}
