//! A client's connection as bytes: what it holds a place for, what was read ahead of its owner, and its patience with who does not read.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::server::TlsStream;

use super::activity::Activity;
use super::places::Place;
use crate::cores::Seat;
use crate::gateway::proxy_protocol::{self, Header};
use crate::metrics::Metrics;

/// Bytes read at once while a PROXY header is awaited.
const AHEAD: usize = 512;

/// A TCP connection of a client.
pub struct Socket {
    io: TcpStream,
    /// Read, and not yet given to the owner.
    ahead: Vec<u8>,
    send_timeout: Duration,
    /// Runs while a byte waits to be written.
    stalled: Option<Pin<Box<Sleep>>>,
    gave_up: bool,
    activity: Arc<Activity>,
    metrics: Arc<Metrics>,
    pub place: Place,
    _seat: Option<Seat>,
}

/// What belongs to a socket beside its bytes.
pub struct Belongings {
    pub place: Place,
    pub seat: Option<Seat>,
    pub activity: Arc<Activity>,
    pub metrics: Arc<Metrics>,
    /// A write that makes no progress for so long is an error.
    pub send_timeout: Duration,
}

impl Socket {
    pub fn new(io: TcpStream, with: Belongings) -> Self {
        Self {
            io,
            ahead: Vec::new(),
            send_timeout: with.send_timeout,
            stalled: None,
            gave_up: false,
            activity: with.activity,
            metrics: with.metrics,
            place: with.place,
            _seat: with.seat,
        }
    }

    /// Reads the PROXY header that comes before anything else; what comes behind it stays. `None`: the header names no client.
    ///
    /// # Errors
    /// No header, a bad one, or the connection's end.
    pub async fn proxy_header(&mut self) -> io::Result<Option<SocketAddr>> {
        loop {
            match proxy_protocol::read(&self.ahead) {
                Ok(Header::Whole { length, client }) => {
                    self.ahead.drain(..length);
                    return Ok(client);
                }
                Ok(Header::Partial) => {}
                Err(fault) => return Err(io::Error::new(io::ErrorKind::InvalidData, fault)),
            }
            let mut space = [0; AHEAD];
            match self.io.read(&mut space).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => self.ahead.extend_from_slice(&space[..more]),
            }
        }
    }

    /// What a write came to, under the time-out of those that do not come to anything.
    fn patient(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let send_timeout = self.send_timeout;
        let stalled = self
            .stalled
            .get_or_insert_with(|| sleep_after(send_timeout));
        ready!(stalled.as_mut().poll(cx));
        if !std::mem::replace(&mut self.gave_up, true) {
            self.metrics.count_connection("send_timeout");
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a peer takes nothing is measured on the runtime's own clock, not on the product's"
)]
fn sleep_after(time: Duration) -> Pin<Box<Sleep>> {
    Box::pin(sleep_until(Instant::now() + time))
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            let bytes = this.ahead.len().min(out.remaining());
            out.put_slice(&this.ahead[..bytes]);
            this.ahead.drain(..bytes);
            return Poll::Ready(Ok(()));
        }
        let before = out.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, out);
        if out.filled().len() > before {
            this.activity.note_read();
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.patient(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bytes);
        this.patient(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// A client's connection, in clear or under TLS.
pub enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

/// Calls the same of whichever it is.
macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Plain($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            Stream::Tls($inner) => {
                let $inner = Pin::new($inner.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_read(cx, out))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, inner => inner.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, inner => inner.poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(inner) => inner.is_write_vectored(),
            Self::Tls(inner) => inner.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_shutdown(cx))
    }
}
