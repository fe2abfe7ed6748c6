//! Which core serves: threads with a runtime of their own, so that what one of them keeps needs no lock that another waits for.

use std::cell::Cell;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// The number of the core that this thread is; 0 elsewhere.
pub fn current() -> usize {
    CURRENT.get()
}
