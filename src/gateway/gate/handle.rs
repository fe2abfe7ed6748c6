//! What the service of a connection and its gate tell each other.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use super::refusal::Refusal;

// 0: no request with Upgrade came yet.
const AWAITED: u8 = 1;
const GRANTED: u8 = 2;
const DECLINED: u8 = 3;

#[derive(Debug, Default)]
struct Shared {
    upgrade: AtomicU8,
    waker: Mutex<Option<Waker>>,
    refusal: OnceLock<Refusal>,
}

/// The service's side of a gate. One per connection; clones are the same handle.
///
/// A request with an Upgrade field (HTTP/1.1) stops the gate behind its end: only the service knows
/// whether the next bytes are HTTP. It must say so by [`GateHandle::transparent`] *before* it returns
/// the 101, or by [`GateHandle::resume`] with every other answer to such a request. Until then no
/// byte passes, so a service that forgets it stalls the connection and never opens it.
#[derive(Clone, Debug, Default)]
pub struct GateHandle(Arc<Shared>);

impl GateHandle {
    /// The request is answered by 101: from here on, no byte is looked at.
    ///
    /// False when the gate does not wait for this (no Upgrade field, HTTP/1.0, decided already): then
    /// the next bytes are read as HTTP/1, and the answer must not be 101.
    #[must_use]
    pub fn transparent(&self) -> bool {
        self.decide(GRANTED)
    }

    /// The request is answered otherwise: HTTP/1 goes on.
    pub fn resume(&self) {
        let _ = self.decide(DECLINED);
    }

    /// The message that was refused on this connection, if any: for the access log and the guard.
    pub fn refusal(&self) -> Option<Refusal> {
        self.0.refusal.get().copied()
    }

    pub(super) fn set_refusal(&self, refusal: Refusal) {
        // A stream ends with its first refusal, so a second cannot come.
        let _ = self.0.refusal.set(refusal);
    }

    /// Ignored unless the gate waits: a stray call must not open it.
    fn decide(&self, decision: u8) -> bool {
        let state = &self.0.upgrade;
        let decided =
            state.compare_exchange(AWAITED, decision, Ordering::AcqRel, Ordering::Acquire);
        if decided.is_ok()
            && let Some(waker) = self.waker().take()
        {
            waker.wake();
        }
        decided.is_ok()
    }

    /// Called before hyper gets the end of the request that asks.
    pub(super) fn await_upgrade(&self) {
        self.0.upgrade.store(AWAITED, Ordering::Release);
    }

    /// Whether the upgrade was granted.
    pub(super) fn poll_upgrade(&self, cx: &mut Context<'_>) -> Poll<bool> {
        // The waker first: a decision between the two steps must find it.
        *self.waker() = Some(cx.waker().clone());
        let decision = self.0.upgrade.load(Ordering::Acquire);
        if decision == AWAITED {
            return Poll::Pending;
        }
        Poll::Ready(decision == GRANTED)
    }

    pub(super) fn is_granted(&self) -> bool {
        self.0.upgrade.load(Ordering::Acquire) == GRANTED
    }

    fn waker(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        self.0.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
