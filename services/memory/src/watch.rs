//! A stream over the ring for one watcher. It holds a position and nothing else: who does not read
//! costs nobody anything, and learns from a status what was lost.

use std::sync::Arc;

use aios_kit::{Category, Error};
use aios_proto::v1::{ListEventsRequest, MemoryEvent};
use futures::stream::{self, Stream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::Status;

use crate::ring::{Next, Ring};

struct Watcher {
    ring: Arc<Ring>,
    news: watch::Receiver<Option<u64>>,
    filter: ListEventsRequest,
    position: u64,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

/// Events after `filter.after_seq` that fit the filter, old ones and then new ones, until the
/// watcher goes, falls behind, or the daemon stops.
pub fn watch(
    ring: Arc<Ring>,
    filter: ListEventsRequest,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<MemoryEvent, Status>> + Send {
    let watcher = Watcher {
        news: ring.news(),
        position: ring.position(filter.after_seq),
        ring,
        filter,
        ended: false,
        _place: place,
    };
    stream::unfold(watcher, |mut watcher| async move {
        let item = watcher.next().await?;
        watcher.ended = item.is_err();
        Some((item, watcher))
    })
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<MemoryEvent, Status>> {
        if self.ended {
            return None;
        }
        loop {
            let closed = self.news.borrow_and_update().is_none();
            match self.ring.next_after(self.position, &self.filter) {
                Next::Event(event) => {
                    self.position = event.seq;
                    return Some(Ok(*event));
                }
                Next::Lost(oldest) => return Some(Err(self.too_slow(oldest))),
                Next::Nothing(last) => self.position = last,
            }
            if closed || self.news.changed().await.is_err() {
                return Some(Err(Status::unavailable(
                    "the memory is stopping; watch again",
                )));
            }
        }
    }

    fn too_slow(&self, oldest: u64) -> Status {
        Error::new(
            Category::RateLimit,
            format!(
                "events {} to {} were dropped before this watcher took them",
                self.position + 1,
                oldest - 1
            ),
        )
        .hint(format!("watch again after event {}", oldest - 1))
        .into()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::StreamExt as _;
    use tokio::sync::Semaphore;

    use super::*;

    fn event(kind: &str) -> MemoryEvent {
        MemoryEvent {
            kind: kind.into(),
            ..MemoryEvent::default()
        }
    }

    async fn start(
        ring: &Arc<Ring>,
        filter: ListEventsRequest,
    ) -> impl Stream<Item = Result<MemoryEvent, Status>> {
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        watch(ring.clone(), filter, place)
    }

    #[tokio::test]
    async fn old_events_come_first_and_new_ones_when_they_happen() {
        let ring = Arc::new(Ring::new(10, 1));
        ring.push(event("goal"));
        ring.push(event("goal"));
        let filter = ListEventsRequest {
            after_seq: 1,
            ..ListEventsRequest::default()
        };
        let mut events = pin!(start(&ring, filter).await);
        assert_eq!(events.next().await.unwrap().unwrap().seq, 2);
        let later = ring.clone();
        let push = tokio::spawn(async move { later.push(event("tool")) });
        assert_eq!(
            events.next().await.unwrap().unwrap().seq,
            push.await.unwrap()
        );
        ring.close();
        let status = events.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert!(events.next().await.is_none());
    }

    #[tokio::test]
    async fn a_slow_watcher_is_told_what_it_lost() {
        let ring = Arc::new(Ring::new(3, 1));
        let mut events = pin!(start(&ring, ListEventsRequest::default()).await);
        ring.push(event("goal"));
        assert_eq!(events.next().await.unwrap().unwrap().seq, 1);
        for _ in 0..5 {
            ring.push(event("goal"));
        }
        let status = events.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert!(status.message().contains("events 2 to 3"), "{status}");
        assert!(events.next().await.is_none());
    }

    #[tokio::test]
    async fn events_that_a_filter_leaves_out_are_not_lost() {
        let ring = Arc::new(Ring::new(3, 1));
        let filter = ListEventsRequest {
            kind: "goal".into(),
            ..ListEventsRequest::default()
        };
        let mut events = pin!(start(&ring, filter).await);
        for _ in 0..10 {
            ring.push(event("tool"));
            assert!(futures::poll!(events.next()).is_pending());
        }
        ring.push(event("goal"));
        assert_eq!(events.next().await.unwrap().unwrap().seq, 11);
    }
}
