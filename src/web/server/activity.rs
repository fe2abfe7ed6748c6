//! What happens on a connection, for those who must not end it at a wrong moment, or must end it at all.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// An answer on an HTTP/2 stream that stands still for so many looks belongs to a client that does not read it.
const STILL_LOOKS: u32 = 3;

/// Counts of one connection.
#[derive(Debug, Default)]
pub struct Activity {
    reads: AtomicU64,
    begun: AtomicU64,
    under_way: AtomicUsize,
    /// HTTP/2: answers whose last frame has not been asked for since, and how often that was seen. At most one a stream.
    still: Mutex<HashMap<u64, u32>>,
}

/// A request, from its head to the last byte of its answer's body.
#[derive(Debug)]
pub struct UnderWay {
    activity: Arc<Activity>,
    number: u64,
}

impl Activity {
    pub fn note_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    pub fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay {
            activity: self.clone(),
            number: self.begun.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// How often something came.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// How many requests there have been.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    pub fn is_idle(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0
    }

    /// Looks at the answers; true when nothing is under way but answers that have stood still for longer than twice the time between two
    /// looks. One that nobody reads is no reason to end the others.
    pub fn all_stand_still(&self) -> bool {
        let mut still = self.still();
        let counts = still.values_mut().map(|looks| {
            *looks += 1;
            *looks
        });
        let stand = counts.filter(|looks| *looks >= STILL_LOOKS).count();
        stand > 0 && stand as u64 >= self.under_way.load(Ordering::Relaxed) as u64
    }

    fn still(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        self.still.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.activity.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer. Its end is the end of the request.
#[derive(Debug)]
pub struct Tracked {
    body: Body,
    request: UnderWay,
    /// Whether it counts who does not read on: on HTTP/2, where a client that takes nothing does not hold up the socket. hyper asks for the
    /// next frame only when the client's window had room for the one before.
    watched: bool,
    /// Of a frame that is handed on in pieces, so that a slow client is seen to read.
    rest: Bytes,
}

/// Largest piece, in bytes: a frame of HTTP/2 (RFC 9113 section 4.2).
const PIECE: usize = 16 * 1024;

impl Tracked {
    pub fn new(body: Body, request: UnderWay, watched: bool) -> Self {
        Self {
            body,
            request,
            watched,
            rest: Bytes::new(),
        }
    }

    fn moves(&self) {
        self.request.activity.still().remove(&self.request.number);
    }
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if !this.watched {
            return Pin::new(&mut this.body).poll_frame(cx);
        }
        this.moves();
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(cx)).transpose()? {
                None => return Poll::Ready(None),
                Some(frame) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
            }
        }
        let number = this.request.number;
        this.request.activity.still().insert(number, 0);
        let piece = this.rest.split_to(this.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut whole = SizeHint::new();
        whole.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper + rest);
        }
        whole
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if self.watched {
            self.moves();
        }
    }
}
