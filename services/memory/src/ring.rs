//! Operational memory: the latest events of the machine, in RAM.
//!
//! Invariants: never more than the configured number of events nor more than [`MAX_BYTES`]; the
//! oldest go first and are counted; `seq` grows by one per event and never repeats, not even after
//! a restart, whose first number lies above all earlier ones; nobody who listens slowly holds
//! anybody else up.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aios_proto::v1::{ListEventsRequest, MemoryEvent};
use prost::Message as _;
use tokio::sync::watch;

/// Bytes that all events together may take.
pub const MAX_BYTES: usize = 32 << 20;
/// Numbers that one start of the daemon has for itself.
const SEQS_PER_START: u64 = 1 << 32;

/// The bounded ring.
#[derive(Debug)]
pub struct Ring {
    inner: Mutex<Inner>,
    /// The last `seq`; `None` once the ring is closed.
    news: watch::Sender<Option<u64>>,
}

#[derive(Debug)]
struct Inner {
    events: VecDeque<MemoryEvent>,
    bytes: usize,
    max_entries: usize,
    /// The number that the next event gets.
    next: u64,
    dropped: u64,
}

/// What comes after a position in the ring.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// The next event that the filter lets pass.
    Event(Box<MemoryEvent>),
    /// Nothing yet; everything up to this number has been looked at.
    Nothing(u64),
    /// Events have been dropped before they could be delivered; the oldest that is left.
    Lost(u64),
}

impl Ring {
    /// A ring of `max_entries` (at least one) for the `start`th start, counted from 1.
    #[must_use]
    pub fn new(max_entries: usize, start: u64) -> Self {
        let next = start
            .saturating_sub(1)
            .saturating_mul(SEQS_PER_START)
            .saturating_add(1);
        Self {
            inner: Mutex::new(Inner {
                events: VecDeque::new(),
                bytes: 0,
                max_entries: max_entries.max(1),
                next,
                dropped: 0,
            }),
            news: watch::Sender::new(Some(next - 1)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event, which gets its number here; drops the oldest when there is no room.
    pub fn push(&self, mut event: MemoryEvent) -> u64 {
        let mut inner = self.lock();
        let seq = inner.next;
        inner.next += 1;
        event.seq = seq;
        inner.bytes += event.encoded_len();
        inner.events.push_back(event);
        while inner.events.len() > inner.max_entries
            || (inner.bytes > MAX_BYTES && inner.events.len() > 1)
        {
            if let Some(oldest) = inner.events.pop_front() {
                inner.bytes -= oldest.encoded_len();
                inner.dropped += 1;
            }
        }
        // Under the lock, so that the numbers are announced in order.
        self.news
            .send_if_modified(|last| last.as_mut().map(|last| *last = seq).is_some());
        seq
    }

    /// The first events after `after_seq` that fit, and how many have been dropped in all.
    #[must_use]
    pub fn list(&self, request: &ListEventsRequest, limit: usize) -> (Vec<MemoryEvent>, u64) {
        let inner = self.lock();
        let events = inner
            .after(request.after_seq)
            .filter(|event| fits(request, event))
            .take(limit)
            .cloned()
            .collect();
        (events, inner.dropped)
    }

    /// The first event after `after_seq` for a watcher who has everything up to there.
    #[must_use]
    pub fn next_after(&self, after_seq: u64, filter: &ListEventsRequest) -> Next {
        let inner = self.lock();
        if after_seq + 1 < inner.oldest() {
            return Next::Lost(inner.oldest());
        }
        inner
            .after(after_seq)
            .find(|event| fits(filter, event))
            .map_or(Next::Nothing(inner.next - 1), |event| {
                Next::Event(Box::new(event.clone()))
            })
    }

    /// Where a watcher who asks for events after `after_seq` begins: not before the oldest event
    /// that is left, not after the newest.
    #[must_use]
    pub fn position(&self, after_seq: u64) -> u64 {
        let inner = self.lock();
        after_seq.clamp(inner.oldest() - 1, inner.next - 1)
    }

    /// Tells of new events.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<Option<u64>> {
        self.news.subscribe()
    }

    /// Ends every watch.
    pub fn close(&self) {
        self.news.send_replace(None);
    }

    /// How many events there are, and how many there may be.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.events.len(), inner.max_entries)
    }
}

impl Inner {
    /// The number of the oldest event that is left, or that the next one will have.
    fn oldest(&self) -> u64 {
        self.events.front().map_or(self.next, |event| event.seq)
    }

    fn after(&self, after_seq: u64) -> impl Iterator<Item = &MemoryEvent> {
        let skip = (after_seq + 1).saturating_sub(self.oldest());
        self.events
            .iter()
            .skip(usize::try_from(skip).unwrap_or(usize::MAX))
    }
}

fn fits(filter: &ListEventsRequest, event: &MemoryEvent) -> bool {
    (filter.kind.is_empty() || filter.kind == event.kind)
        && (filter.goal_id.is_empty() || filter.goal_id == event.goal_id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(summary: impl ToString) -> MemoryEvent {
        MemoryEvent {
            summary: summary.to_string(),
            kind: "system".into(),
            ..MemoryEvent::default()
        }
    }

    fn all() -> ListEventsRequest {
        ListEventsRequest::default()
    }

    #[test]
    fn the_ten_thousand_and_first_event_pushes_the_oldest_out() {
        let ring = Ring::new(10_000, 1);
        for number in 1..=10_000 {
            ring.push(event(number));
        }
        let (events, dropped) = ring.list(&all(), usize::MAX);
        assert_eq!((events.len(), dropped, events[0].seq), (10_000, 0, 1));
        ring.push(event(10_001));
        let (events, dropped) = ring.list(&all(), usize::MAX);
        assert_eq!((events.len(), dropped), (10_000, 1));
        assert_eq!((events[0].summary.as_str(), events[0].seq), ("2", 2));
        assert_eq!(events[9_999].summary, "10001");
    }

    #[test]
    fn large_events_are_bounded_by_their_bytes() {
        let ring = Ring::new(10_000, 1);
        for _ in 0..100 {
            ring.push(event("x".repeat(1 << 20)));
        }
        let (entries, _) = ring.size();
        assert!((20..32).contains(&entries), "{entries}");
    }

    #[test]
    fn a_watcher_who_falls_behind_is_told() {
        let ring = Ring::new(2, 1);
        let start = ring.position(0);
        for number in 0..2 {
            ring.push(event(number));
        }
        assert!(matches!(ring.next_after(start, &all()), Next::Event(found) if found.seq == 1));
        ring.push(event(2));
        assert_eq!(ring.next_after(start, &all()), Next::Lost(2));
    }

    #[test]
    fn numbers_never_repeat_after_a_restart() {
        let before = Ring::new(10, 1);
        let last = before.push(event(0));
        let after = Ring::new(10, 2);
        assert_eq!(after.position(last), SEQS_PER_START);
        assert!(after.push(event(1)) > last);
        let position = after.position(last);
        assert!(matches!(after.next_after(position, &all()), Next::Event(_)));
        assert_eq!(after.position(u64::MAX), SEQS_PER_START + 1);
    }

    proptest! {
        #[test]
        fn the_ring_is_the_tail_of_what_was_pushed(
            max in 1_usize..20, pushed in 0_u64..60, after in 0_u64..80, limit in 0_usize..30
        ) {
            let ring = Ring::new(max, 1);
            for number in 1..=pushed {
                prop_assert_eq!(ring.push(event(number)), number);
            }
            let oldest = pushed.saturating_sub(max as u64) + 1;
            let expected: Vec<u64> =
                (oldest.max(after + 1)..=pushed).take(limit).collect();
            let request = ListEventsRequest { after_seq: after, ..all() };
            let (events, dropped) = ring.list(&request, limit);
            prop_assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), expected);
            prop_assert_eq!(dropped, oldest - 1);
        }
    }
}
