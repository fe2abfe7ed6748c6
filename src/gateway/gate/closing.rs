//! The end of a connection: the answer to a refused message, and a close that does not destroy it.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::{Gate, Mode, sleep_after};

/// What a client may still send after the end before it is cut off.
const LINGER_BYTES: usize = 256 * 1024;

/// How far the end of a connection has come.
#[derive(Default)]
pub(super) struct Closing {
    stage: Stage,
    /// None waits for nobody: what is there is read, and no more.
    deadline: Option<Pin<Box<Sleep>>>,
}

#[derive(Default)]
enum Stage {
    #[default]
    Open,
    Answer {
        bytes: Vec<u8>,
        written: usize,
    },
    Finish,
    /// Closing a socket with unread input resets it, and the client may lose what it has not read.
    Drain {
        left: usize,
    },
    Closed,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gate<S> {
    /// Writes the refusal if one is due, ends the output and drains the input.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let deadline = self.closing.deadline.as_mut();
            if deadline.is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
                self.closing.stage = Stage::Closed;
            }
            self.closing.stage = match &mut self.closing.stage {
                Stage::Open => self.first_stage(),
                Stage::Answer { .. } => {
                    ready!(self.poll_answer(cx))?;
                    Stage::Finish
                }
                Stage::Finish => {
                    ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
                    // An upgrade counts from its grant on, for its owner may close before it reads.
                    // When to stop reading is the owner's business.
                    match self.handle.is_granted() {
                        true => Stage::Closed,
                        false => Stage::Drain { left: LINGER_BYTES },
                    }
                }
                Stage::Drain { .. } => {
                    ready!(self.poll_drain(cx));
                    Stage::Closed
                }
                Stage::Closed => return Poll::Ready(Ok(())),
            };
        }
    }

    fn first_stage(&mut self) -> Stage {
        let unfinished = match self.mode {
            Mode::Refused(_) | Mode::Ended(_) | Mode::Broken(_) => true,
            // hyper did not read this message to its end: more of it may be on its way.
            _ => self.framer.in_body() && !self.handle.is_granted(),
        };
        if unfinished {
            self.closing.deadline = Some(sleep_after(self.settings.linger));
        }
        match self.mode {
            Mode::Ended(refusal) => {
                let bytes = (self.settings.answer)(&refusal, self.peer);
                Stage::Answer { bytes, written: 0 }
            }
            _ => Stage::Finish,
        }
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Stage::Answer { bytes, written } = &mut self.closing.stage {
            while *written < bytes.len() {
                match ready!(Pin::new(&mut self.io).poll_write(cx, &bytes[*written..]))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    more => *written += more,
                }
            }
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Discards input until the client closes, or bytes run out, or nothing more is awaited.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Stage::Drain { left } = &mut self.closing.stage else {
            return Poll::Ready(());
        };
        let mut space = [MaybeUninit::uninit(); 4096];
        while *left > 0 {
            let mut buffer = ReadBuf::uninit(&mut space);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    *left = left.saturating_sub(buffer.filled().len());
                }
                Poll::Pending if self.closing.deadline.is_some() => return Poll::Pending,
                _ => break,
            }
        }
        Poll::Ready(())
    }
}
