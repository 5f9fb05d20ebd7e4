//! Owns the way from an edge to the core: a shared queue that the core's turn drains. Used from the core's own thread
//! (both edges) and from the agent's; never waits, except for an answer.

use crate::api::{ReplyFn, Request};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, oneshot};

/// Most requests waiting for a turn; beyond it callers are told `Busy`. Edges stop reading sockets long before.
pub const INBOX_MAX: usize = 65_536;

#[derive(Default)]
struct Inbox {
    requests: Vec<Request>,
    closed: bool,
}

/// Hands requests to the core. Cloning costs a counter.
#[derive(Clone, Default)]
pub struct CoreHandle {
    inbox: Arc<Mutex<Inbox>>,
    arrived: Arc<Notify>,
}

/// The core does not take the request: its queue is full, or it is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// [`INBOX_MAX`] requests are waiting.
    #[error("too many requests are waiting")]
    Full,
    /// No more turns will run.
    #[error("the broker is stopping")]
    Stopped,
}

impl CoreHandle {
    /// A queue nobody drains yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Queues a request for the next turn. Its reply is called on the core's thread.
    pub fn submit(&self, request: Request) -> Result<(), NotTaken> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.closed {
            return Err(NotTaken::Stopped);
        }
        if inbox.requests.len() >= INBOX_MAX {
            return Err(NotTaken::Full);
        }
        inbox.requests.push(request);
        drop(inbox);
        self.arrived.notify_one();
        Ok(())
    }

    /// Asks and waits for the answer.
    pub async fn call<T: Send + 'static>(
        &self,
        request: impl FnOnce(ReplyFn<T>) -> Request,
    ) -> Result<T, NotTaken> {
        let (sender, receiver) = oneshot::channel();
        // the caller may have gone: then nobody misses the answer
        self.submit(request(Box::new(move |answer| drop(sender.send(answer)))))?;
        receiver.await.map_err(|_| NotTaken::Stopped)
    }

    /// Takes everything that waits (the core's turn); answers whether more can come.
    pub fn drain(&self, into: &mut Vec<Request>) -> bool {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        into.append(&mut inbox.requests);
        !inbox.closed
    }

    /// Completes when something has arrived since the last wait.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Wakes the core without a request.
    pub fn wake(&self) {
        self.arrived.notify_one();
    }

    /// Refuses everything from now on.
    pub fn close(&self) {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.arrived.notify_one();
    }
}
