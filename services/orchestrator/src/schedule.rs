//! What runs next. Pure: which tasks are ready, and which of those that wait get which agent.
//!
//! Invariants: a task is ready only when everything before it is completed; no agent gets more than
//! it has room for; nothing of lower priority overtakes something that could have used the same
//! agent.

use aios_proto::v1::TaskRecord;

/// Something that waits for an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its number in the queue.
    pub id: u64,
    /// Priority of its goal, 9 first.
    pub priority: u32,
    /// When its goal was given, in milliseconds since the epoch.
    pub since_ms: u64,
    /// The capabilities that the agent has to hold, all of them, with their resources.
    pub needed: Vec<String>,
    /// An agent that is preferred, because it may still have the task in hand.
    pub prefer: String,
}

/// An agent's room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Its name.
    pub name: String,
    /// Tasks that it has.
    pub running: usize,
    /// Tasks that it may have.
    pub max: usize,
}

/// The positions of the tasks that may begin.
#[must_use]
pub fn ready(tasks: &[TaskRecord]) -> Vec<usize> {
    let done = |id: &String| {
        tasks
            .iter()
            .any(|task| task.step_id == *id && task.status == "completed")
    };
    tasks
        .iter()
        .enumerate()
        .filter(|(_, task)| task.status == "pending" && task.depends_on.iter().all(done))
        .map(|(index, _)| index)
        .collect()
}

/// Gives agents to those who wait: the most urgent first, the oldest first among equals, and to the
/// least loaded agent that fits.
pub fn assign(
    waiting: &[Waiting],
    rooms: &[Room],
    fits: impl Fn(&Waiting, &str) -> bool,
) -> Vec<(u64, String)> {
    let mut rooms = rooms.to_vec();
    let mut order: Vec<&Waiting> = waiting.iter().collect();
    order.sort_by_key(|waiting| {
        (
            std::cmp::Reverse(waiting.priority),
            waiting.since_ms,
            waiting.id,
        )
    });
    let mut given = Vec::new();
    for waiting in order {
        let room = rooms
            .iter_mut()
            .filter(|room| room.running < room.max && fits(waiting, &room.name))
            .min_by_key(|room| (room.name != waiting.prefer, room.running, room.name.clone()));
        if let Some(room) = room {
            room.running += 1;
            given.push((waiting.id, room.name.clone()));
        }
    }
    given
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn task(id: &str, status: &str, after: &[&str]) -> TaskRecord {
        TaskRecord {
            step_id: id.to_owned(),
            status: status.to_owned(),
            depends_on: after.iter().map(|&id| id.to_owned()).collect(),
            ..TaskRecord::default()
        }
    }

    #[test]
    fn only_what_has_everything_before_it_done_is_ready() {
        let tasks = [
            task("a", "completed", &[]),
            task("b", "pending", &["a"]),
            task("c", "pending", &["a", "b"]),
            task("d", "failed", &[]),
            task("e", "pending", &["d"]),
        ];
        assert_eq!(ready(&tasks), [1]);
    }

    proptest! {
        #[test]
        fn assignment_is_fair_and_within_bounds(
            asked in prop::collection::vec((0u32..10, 0u64..5, 0usize..3), 0..12),
            sizes in prop::collection::vec((0usize..3, 0usize..4), 3),
        ) {
            let waiting: Vec<Waiting> = asked.iter().zip(0u64..).map(|(&(priority, since_ms, only), id)| Waiting {
                id, priority, since_ms, needed: vec![only.to_string()], prefer: String::new(),
            }).collect();
            let rooms: Vec<Room> = sizes.iter().enumerate().map(|(index, &(running, max))| Room {
                name: index.to_string(), running, max,
            }).collect();
            // Kind 0 fits everywhere, the others only at one agent.
            let fits = |waiting: &Waiting, name: &str| waiting.needed == ["0"] || waiting.needed == [name];
            let given = assign(&waiting, &rooms, fits);
            for room in &rooms {
                let got = given.iter().filter(|(_, name)| *name == room.name).count();
                prop_assert!(got == 0 || room.running + got <= room.max);
            }
            for left in waiting.iter().filter(|w| !given.iter().any(|(id, _)| *id == w.id)) {
                for (id, name) in &given {
                    if fits(left, name) {
                        let winner = waiting.iter().find(|w| w.id == *id).unwrap();
                        prop_assert!(winner.priority >= left.priority);
                    }
                }
            }
        }
    }
}
