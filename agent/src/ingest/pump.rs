//! Owns the open stream of one source: connects, notices silence, backs off, forwards batches. Never decides where to read:
//! after every break it waits to be told. One task per source, started by the agent's loop.

use super::{Batch, BatchStream, Snapshot, Source, SourceError};
use lifecycle::position::Position;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;

/// Batches waiting for the fold, over all sources: behind it the source's own flow control holds back.
pub const EVENTS_MAX: usize = 8;
/// Orders waiting for one pump.
pub const ORDERS_MAX: usize = 16;
/// A stream that says nothing for so long is taken for dead (sources speak once a second).
pub const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Longest time for one call.
pub const CALL_MAX: Duration = Duration::from_secs(10);
/// Longest time for a whole snapshot.
pub const SNAPSHOT_MAX: Duration = Duration::from_secs(120);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What a pump is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Take a snapshot.
    Snapshot,
    /// Read after this position; batches carry `generation`, so that older ones can be told apart.
    Read { after: Position, generation: u64 },
    /// Everything up to here is durable.
    Confirm(Position),
}

/// What a pump tells. `source` is the index it was started with.
#[derive(Debug)]
pub struct Event {
    /// Which source.
    pub source: usize,
    /// What happened.
    pub kind: EventKind,
}

/// What happened at a source.
#[derive(Debug)]
pub enum EventKind {
    /// The whole state.
    Snapshot(Snapshot),
    /// More frames, for the order with this generation.
    Batch { batch: Batch, generation: u64 },
    /// The stream or a call failed; an [`Order`] is needed to go on (it waits out the back-off by itself).
    Down(SourceError),
}

/// One source's connection.
pub struct Pump {
    index: usize,
    source: Arc<dyn Source>,
    orders: mpsc::Receiver<Order>,
    events: mpsc::Sender<Event>,
    failures: u32,
}

impl Pump {
    /// A pump that does nothing until it is told.
    pub fn new(
        index: usize,
        source: Arc<dyn Source>,
        orders: mpsc::Receiver<Order>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Pump { index, source, orders, events, failures: 0 }
    }

    /// Runs until the agent's loop is gone.
    pub async fn run(mut self) {
        let mut next = self.orders.recv().await;
        while let Some(order) = next {
            next = match order {
                Order::Confirm(position) => {
                    self.confirm(position).await;
                    self.orders.recv().await
                }
                Order::Snapshot => self.snapshot().await,
                Order::Read { after, generation } => self.read(after, generation).await,
            };
        }
    }

    async fn snapshot(&mut self) -> Option<Order> {
        self.back_off().await;
        let kind = match within(SNAPSHOT_MAX, self.source.snapshot()).await {
            Ok(snapshot) => {
                self.failures = 0;
                EventKind::Snapshot(snapshot)
            }
            Err(error) => self.failed(error),
        };
        self.tell(kind).await?;
        self.orders.recv().await
    }

    /// Forwards one stream; returns the order that ends it.
    async fn read(&mut self, after: Position, generation: u64) -> Option<Order> {
        self.back_off().await;
        let error = match within(CALL_MAX, self.source.read(after)).await {
            Ok(stream) => match self.forward(stream, generation).await {
                Ended::Ordered(order) => return order,
                Ended::Broke(error) => error,
            },
            Err(error) => error,
        };
        let kind = self.failed(error);
        self.tell(kind).await?;
        // confirmations need no stream
        loop {
            match self.orders.recv().await? {
                Order::Confirm(position) => self.confirm(position).await,
                order => return Some(order),
            }
        }
    }

    async fn forward(&mut self, mut stream: BatchStream, generation: u64) -> Ended {
        loop {
            let item = tokio::select! {
                order = self.orders.recv() => match order {
                    Some(Order::Confirm(position)) => {
                        self.confirm(position).await;
                        continue;
                    }
                    other => return Ended::Ordered(other),
                },
                item = timeout(SILENCE_MAX, stream.next()) => item,
            };
            let batch = match item {
                Err(_) => return Ended::Broke(SourceError::Unavailable("silent for too long".into())),
                Ok(None) => return Ended::Broke(SourceError::Unavailable("stream ended".into())),
                Ok(Some(Err(error))) => return Ended::Broke(error),
                Ok(Some(Ok(batch))) => batch,
            };
            self.failures = 0;
            if self.tell(EventKind::Batch { batch, generation }).await.is_none() {
                return Ended::Ordered(None);
            }
        }
    }

    async fn confirm(&self, position: Position) {
        // a lost confirmation only keeps the broker's journal longer; the next one repeats it
        if let Err(error) = within(CALL_MAX, self.source.confirm(position)).await {
            tracing::debug!(source = %self.source.name(), %error, "confirmation failed");
        }
    }

    fn failed(&mut self, error: SourceError) -> EventKind {
        self.failures = self.failures.saturating_add(1);
        EventKind::Down(error)
    }

    async fn back_off(&self) {
        if self.failures > 0 {
            let doublings = (self.failures - 1).min(6);
            sleep((BACKOFF_FIRST * (1 << doublings)).min(BACKOFF_MAX)).await;
        }
    }

    async fn tell(&self, kind: EventKind) -> Option<()> {
        self.events.send(Event { source: self.index, kind }).await.ok()
    }
}

enum Ended {
    Ordered(Option<Order>),
    Broke(SourceError),
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, SourceError>>,
) -> Result<T, SourceError> {
    timeout(limit, call).await.unwrap_or_else(|_| Err(SourceError::Unavailable("no answer in time".into())))
}
