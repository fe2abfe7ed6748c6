//! One request on one HTTP/1.1 connection to an upstream: out and in at the same time, streamed, in the task of whoever asked.
//!
//! Our own, because the forwarding path is what the product exists for: hyper's client costs two tasks, three channels and a copy of the
//! fields a request. A connection belongs to the request that uses it; between requests nobody polls it, and [`Conn::is_alive`] looks
//! whether it still stands.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use axum::body::Body;
use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::answer::{self, Asked, Framing, Head, Malformed, Part};
use super::connect::Stream;
use super::stream::Patience;
use super::upstreams::Place;

/// What is read at once, in bytes; doubles while a body keeps filling it …
const READ_FIRST: usize = 8 * 1024;
/// … up to this.
const READ_MOST: usize = 128 * 1024;

/// A connection to an upstream, and the request that is on it.
pub struct Conn {
    stream: Stream,
    input: BytesMut,
    read_size: usize,
    /// Kept from request to request: moving a deadline on is cheaper than a new timer.
    timer: Pin<Box<Sleep>>,
    /// It has answered a request before.
    reused: bool,
    request: Outgoing,
    /// The upstream takes no more of the request; it may have answered all the same.
    write_error: Option<io::Error>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// There was no connection: nothing of the request has left.
    Connect(io::Error),
    /// A kept connection was closed before a byte of the answer came, most likely before the request did.
    Stale,
    Broken(io::Error),
    Malformed(Malformed),
    /// HTTP/2's word for it.
    Protocol(hyper_util::client::legacy::Error),
    /// Nothing came in time.
    Timeout,
    /// The client's own body broke off; its `Upload` says how.
    Client,
}

impl Conn {
    pub fn new(stream: Stream) -> Box<Self> {
        Box::new(Self {
            stream,
            input: BytesMut::new(),
            read_size: READ_FIRST,
            timer: Box::pin(sleep_until(now())),
            reused: false,
            request: Outgoing::default(),
            write_error: None,
        })
    }

    /// Where a request's head is to be written, its empty line included, before [`Conn::exchange`].
    pub fn head(&mut self) -> &mut BytesMut {
        &mut self.request.lead
    }

    /// Whether an idle connection can take a request: the other side has neither closed it nor said anything unasked.
    pub fn is_alive(&mut self) -> bool {
        // The next request brings a waker of its own.
        let mut cx = Context::from_waker(Waker::noop());
        self.input.is_empty() && self.poll_fill(&mut cx).is_pending()
    }

    /// Sends the request and waits for the head of its answer: its silence counts from when the request is
    /// through, or the upstream stops taking it.
    pub async fn exchange(
        mut self: Box<Self>,
        body: Option<Body>,
        framing: Sent,
        asked: Asked,
        patience: Patience,
        place: Option<Place>,
    ) -> Result<(Head, Incoming), Failure> {
        (self.request.body, self.request.framing) = (body, framing);
        self.wait_from_now(patience);
        let head = poll_fn(|cx| self.poll_head(cx, asked, patience)).await?;
        let keep = head.keep_alive && self.write_error.is_none();
        let incoming = Incoming {
            framing: head.framing,
            conn: Some(self),
            place: place.filter(|_| keep),
        };
        Ok((head, incoming))
    }

    fn wait_from_now(&mut self, patience: Patience) {
        self.timer.as_mut().reset(patience.end());
    }

    /// Reads more. `Ready(0)` at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let read = if self.read_size == READ_FIRST {
            ready!(self.poll_fill_little(cx))?
        } else {
            self.input.reserve(self.read_size);
            ready!(pin!(self.stream.read_buf(&mut self.input)).poll(cx))?
        };
        if read >= self.read_size {
            self.read_size = (self.read_size * 2).min(READ_MOST);
        }
        Poll::Ready(Ok(read))
    }

    /// By way of a buffer that all connections of a thread share: most answers are small, and a buffer of their own would be made anew for
    /// each, because the fields of the answer before still point into the last one.
    fn poll_fill_little(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        thread_local! {
            static SHARED: RefCell<Box<[u8; READ_FIRST]>> = RefCell::new(Box::new([0; READ_FIRST]));
        }
        SHARED.with_borrow_mut(|shared| {
            let mut space = ReadBuf::new(&mut shared[..]);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space))?;
            self.input.extend_from_slice(space.filled());
            Poll::Ready(Ok(space.filled().len()))
        })
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        asked: Asked,
        patience: Patience,
    ) -> Poll<Result<Head, Failure>> {
        let waits = self.send(cx, Some(patience))?;
        loop {
            if let Some(head) = answer::head(&mut self.input, asked).map_err(Failure::Malformed)? {
                return Poll::Ready(Ok(head));
            }
            match self.poll_fill(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(self.closed(io::ErrorKind::UnexpectedEof.into())));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.closed(error))),
                Poll::Pending => break,
            }
        }
        // A client's silence has a time-out of its own.
        if waits != Waits::ForClient {
            ready!(self.timer.as_mut().poll(cx));
            return Poll::Ready(Err(Failure::Timeout));
        }
        Poll::Pending
    }

    /// Sends on what is left of the request. Each step that the request makes gives the upstream its whole time again.
    fn send(&mut self, cx: &mut Context<'_>, patience: Option<Patience>) -> Result<Waits, Failure> {
        if self.write_error.is_some() || self.request.is_through() {
            return Ok(Waits::Through);
        }
        match self.request.poll_send(&mut self.stream, cx) {
            Ok((waits, moved)) => {
                if let Some(patience) = patience.filter(|_| moved) {
                    self.wait_from_now(patience);
                }
                Ok(waits)
            }
            Err(Failure::Broken(error)) => {
                self.write_error = Some(error);
                Ok(Waits::Through)
            }
            Err(failure) => Err(failure),
        }
    }

    fn closed(&mut self, error: io::Error) -> Failure {
        match self.reused && self.input.is_empty() {
            true => Failure::Stale,
            false => Failure::Broken(self.write_error.take().unwrap_or(error)),
        }
    }
}

/// A request on its way. Its buffer stays with the connection.
#[derive(Default)]
struct Outgoing {
    /// Head, or a chunk's size.
    lead: BytesMut,
    data: Bytes,
    tail: &'static [u8],
    body: Option<Body>,
    framing: Sent,
    unflushed: bool,
}

/// How the body that we send is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// No body, or bytes that are still to come of a known number.
    Length(u64),
    Chunked,
}

impl Default for Sent {
    fn default() -> Self {
        Self::Length(0)
    }
}

/// Whom a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// It is through.
    Through,
    ForClient,
    ForUpstream,
}

impl Outgoing {
    fn is_through(&self) -> bool {
        self.body.is_none() && !self.has_bytes() && !self.unflushed
    }

    fn has_bytes(&self) -> bool {
        !self.lead.is_empty() || !self.data.is_empty() || !self.tail.is_empty()
    }

    /// Sends on; whom it waits for then, and whether anything moved.
    fn poll_send(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Result<(Waits, bool), Failure> {
        let mut moved = false;
        loop {
            while self.has_bytes() {
                let Poll::Ready(written) = self.poll_write(stream, cx).map_err(Failure::Broken)?
                else {
                    return Ok((Waits::ForUpstream, moved));
                };
                self.advance(written);
                (moved, self.unflushed) = (true, true);
            }
            if self.unflushed {
                if Pin::new(&mut *stream)
                    .poll_flush(cx)
                    .map_err(Failure::Broken)?
                    .is_pending()
                {
                    return Ok((Waits::ForUpstream, moved));
                }
                self.unflushed = false;
            }
            let Some(body) = &mut self.body else {
                return Ok((Waits::Through, moved));
            };
            match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return Ok((Waits::ForClient, moved)),
                Poll::Ready(Some(Ok(frame))) => {
                    // A client's trailers end here: few servers want them, and some take them for fields.
                    if let Ok(data) = frame.into_data() {
                        self.load(data)?;
                    }
                }
                Poll::Ready(None) => self.end()?,
                Poll::Ready(Some(Err(_))) => return Err(Failure::Client),
            }
        }
    }

    fn load(&mut self, data: Bytes) -> Result<(), Failure> {
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.framing {
            Sent::Length(left) => {
                // hyper has seen to it; were it ever wrong, the rest would be a request of its own.
                *left = left.checked_sub(data.len() as u64).ok_or(Failure::Client)?;
            }
            Sent::Chunked => {
                use std::fmt::Write;
                let _ = write!(self.lead, "{:x}\r\n", data.len());
                self.tail = b"\r\n";
            }
        }
        self.data = data;
        // The last frame and the end go out together.
        if self.body.as_ref().is_some_and(HttpBody::is_end_stream) {
            self.end()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Failure> {
        self.body = None;
        match self.framing {
            Sent::Length(0) => Ok(()),
            Sent::Length(_) => Err(Failure::Client),
            Sent::Chunked => {
                self.tail = match self.tail {
                    [] => b"0\r\n\r\n",
                    _ => b"\r\n0\r\n\r\n",
                };
                Ok(())
            }
        }
    }

    fn poll_write(&self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let stream = Pin::new(stream);
        let written = if self.data.is_empty() && self.tail.is_empty() {
            ready!(stream.poll_write(cx, &self.lead))?
        } else if stream.is_write_vectored() {
            let slices = [&self.lead[..], &self.data, self.tail].map(IoSlice::new);
            ready!(stream.poll_write_vectored(cx, &slices))?
        } else {
            let parts = [&self.lead[..], &self.data, self.tail];
            let first = parts.into_iter().find(|part| !part.is_empty());
            ready!(stream.poll_write(cx, first.unwrap_or_default()))?
        };
        match written {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            _ => Poll::Ready(Ok(written)),
        }
    }

    fn advance(&mut self, mut written: usize) {
        for part in [
            &mut self.lead as &mut dyn Buf,
            &mut self.data,
            &mut self.tail,
        ] {
            let bytes = written.min(part.remaining());
            part.advance(bytes);
            written -= bytes;
        }
    }
}

/// The body of an answer. When it is through, its connection goes back to its place.
pub struct Incoming {
    framing: Framing,
    conn: Option<Box<Conn>>,
    place: Option<Place>,
}

impl Incoming {
    /// The whole body, if it has come already: most are as short as that.
    pub fn take_whole(&mut self) -> Option<Bytes> {
        let Framing::Length(length) = self.framing else {
            return None;
        };
        let conn = self.conn.as_mut()?;
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= conn.input.len())?;
        let body = conn.input.split_to(length).freeze();
        self.framing = Framing::Length(0);
        self.release();
        Some(body)
    }

    /// What a 101 leaves: the connection, and what came behind the head.
    pub fn into_switched(self) -> Option<(Stream, Bytes)> {
        let conn = self.conn?;
        Some((conn.stream, conn.input.freeze()))
    }

    /// Back to its place, if nothing of either message is left.
    fn release(&mut self) {
        let Some(mut conn) = self.conn.take() else {
            return;
        };
        let clean = conn.request.is_through() && conn.input.is_empty();
        if let (true, Some(place)) = (clean, self.place.take()) {
            (conn.reused, conn.read_size) = (true, READ_FIRST);
            place.keep(conn);
        }
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Part>> {
        let Some(conn) = &mut self.conn else {
            return Poll::Ready(Ok(Part::End));
        };
        if conn.send(cx, None).is_err() {
            return Poll::Ready(Err(io::Error::other("the client's body broke off")));
        }
        if conn.write_error.is_some() {
            self.place = None;
        }
        loop {
            match self.framing.next(&mut conn.input) {
                Ok(Part::More) => {}
                Ok(part) => return Poll::Ready(Ok(part)),
                Err(malformed) => return Poll::Ready(Err(io::Error::other(malformed.to_string()))),
            }
            if ready!(conn.poll_fill(cx))? == 0 {
                return Poll::Ready(match self.framing {
                    Framing::UntilClose => Ok(Part::End),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                });
            }
        }
    }
}

impl HttpBody for Incoming {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let part = ready!(self.poll_part(cx));
        if self.framing.is_done() || matches!(part, Ok(Part::End)) {
            self.release();
        }
        Poll::Ready(match part {
            Ok(Part::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Part::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(Part::End | Part::More) => None,
            Err(error) => {
                self.conn = None;
                Some(Err(error))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.conn.is_none() || self.framing.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        self.framing
            .left()
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a peer is silent is measured on the runtime's own clock, not on the product's"
)]
pub fn now() -> Instant {
    Instant::now()
}
