//! The states of goals, tasks and agents, and which may follow which.
//!
//! Invariants: the tables below are the only place where a transition is allowed; a terminal state
//! has no successor; every other state can reach a terminal one.

use crate::error::Error;

macro_rules! states {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal => [$($next:ident),* $(,)?]),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant),+ }

        impl $name {
            /// Every state.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name on the wire and in storage.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The state of that name.
            ///
            /// # Errors
            /// When no state has it.
            pub fn parse(text: &str) -> Result<Self, Error> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    other => Err(Error::Stored(format!(
                        concat!("`{}` is not a state of a ", stringify!($name)), other
                    ))),
                }
            }

            /// The states that may follow.
            #[must_use]
            pub fn successors(self) -> &'static [Self] {
                match self { $(Self::$variant => &[$(Self::$next),*]),+ }
            }

            /// Whether nothing follows any more.
            #[must_use]
            pub fn is_terminal(self) -> bool {
                self.successors().is_empty()
            }

            /// The next state, if the table allows it.
            ///
            /// # Errors
            /// [`Error::Transition`] when it does not.
            pub fn to(self, next: Self) -> Result<Self, Error> {
                if self.successors().contains(&next) {
                    Ok(next)
                } else {
                    Err(Error::Transition {
                        what: stringify!($name),
                        from: self.name(),
                        to: next.name(),
                    })
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

states! {
    /// Where a goal stands.
    GoalStatus {
        /// Durable and acknowledged, nothing decided yet.
        Received = "received" => [Planning, Paused, Cancelled, Expired, Failed],
        /// A plan is being looked for and checked.
        Planning = "planning" => [AwaitingApproval, Running, Paused, Failed, Refused, Cancelled, Expired],
        /// A person has to decide before anything runs.
        AwaitingApproval = "awaiting_approval" => [Running, Paused, Failed, Refused, Cancelled, Expired],
        /// Tasks are being carried out.
        Running = "running" => [Paused, Completed, Failed, Refused, Cancelled, Expired],
        /// Held back by a person.
        Paused = "paused" => [Received, Planning, AwaitingApproval, Running, Failed, Refused, Cancelled, Expired],
        /// Done, and every post-condition was seen to hold.
        Completed = "completed" => [],
        /// Not done; the reason says why.
        Failed = "failed" => [],
        /// It must not be done.
        Refused = "refused" => [],
        /// Stopped by a person; nothing of it runs any more.
        Cancelled = "cancelled" => [],
        /// Its time was over; nothing of it runs any more.
        Expired = "expired" => [],
    }
}

states! {
    /// Where a task stands.
    TaskStatus {
        /// Waits for the tasks that it depends on.
        Pending = "pending" => [AwaitingApproval, Ready, Cancelled, Skipped, Refused],
        /// Waits for a person's decision.
        AwaitingApproval = "awaiting_approval" => [Pending, Refused, Cancelled, Skipped],
        /// May run as soon as an agent is free.
        Ready = "ready" => [Running, Failed, Cancelled, Skipped],
        /// Given to an agent, or about to be.
        Running = "running" => [Ready, Completed, Failed, Refused, Cancelled],
        /// Done.
        Completed = "completed" => [],
        /// Tried, and not done.
        Failed = "failed" => [],
        /// It must not be done.
        Refused = "refused" => [],
        /// Stopped, or never begun because the goal was.
        Cancelled = "cancelled" => [],
        /// Not begun because something before it failed.
        Skipped = "skipped" => [],
    }
}

states! {
    /// Where an agent stands (requirement Q-20).
    AgentStatus {
        /// Expected, not heard of yet.
        Starting = "starting" => [Running, Failed, Stopped],
        /// Registered and heard of.
        Running = "running" => [Paused, Stopping, Failed],
        /// Heard of, and takes no tasks.
        Paused = "paused" => [Running, Stopping, Failed],
        /// Going down in order.
        Stopping = "stopping" => [Stopped, Failed, Running],
        /// Went down in order; may come back.
        Stopped = "stopped" => [Starting, Running],
        /// Not heard of for too long; may come back.
        Failed = "failed" => [Starting, Running],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_read_back() {
        for status in GoalStatus::ALL {
            assert_eq!(GoalStatus::parse(status.name()).unwrap(), *status);
        }
        for status in TaskStatus::ALL {
            assert_eq!(TaskStatus::parse(status.name()).unwrap(), *status);
        }
        assert!(GoalStatus::parse("done").is_err());
    }

    #[test]
    fn exactly_the_named_states_are_terminal() {
        let ends: Vec<_> = GoalStatus::ALL
            .iter()
            .filter(|s| s.is_terminal())
            .map(|s| s.name())
            .collect();
        assert_eq!(
            ends,
            ["completed", "failed", "refused", "cancelled", "expired"]
        );
        let ends: Vec<_> = TaskStatus::ALL
            .iter()
            .filter(|s| s.is_terminal())
            .map(|s| s.name())
            .collect();
        assert_eq!(
            ends,
            ["completed", "failed", "refused", "cancelled", "skipped"]
        );
    }

    fn reachable(from: GoalStatus) -> BTreeSet<GoalStatus> {
        let mut seen = BTreeSet::from([from]);
        let mut open = vec![from];
        while let Some(state) = open.pop() {
            for next in state.successors() {
                if seen.insert(*next) {
                    open.push(*next);
                }
            }
        }
        seen
    }

    #[test]
    fn every_living_goal_can_be_cancelled_at_once_and_can_end_well() {
        for state in GoalStatus::ALL.iter().filter(|state| !state.is_terminal()) {
            assert!(state.to(GoalStatus::Cancelled).is_ok(), "{state}");
            assert!(state.to(GoalStatus::Expired).is_ok(), "{state}");
            assert!(
                reachable(*state).contains(&GoalStatus::Completed),
                "{state}"
            );
        }
    }

    #[test]
    fn nothing_completes_without_having_run() {
        for state in GoalStatus::ALL {
            assert_eq!(
                state.to(GoalStatus::Completed).is_ok(),
                *state == GoalStatus::Running
            );
        }
        for state in TaskStatus::ALL {
            assert_eq!(
                state.to(TaskStatus::Completed).is_ok(),
                *state == TaskStatus::Running
            );
        }
    }

    proptest! {
        #[test]
        fn a_walk_ends_in_a_terminal_state_and_stays_there(choices in prop::collection::vec(0usize..8, 0..60)) {
            let mut state = GoalStatus::Received;
            for choice in choices {
                let next = GoalStatus::ALL[choice % GoalStatus::ALL.len()];
                match state.to(next) {
                    Ok(moved) => {
                        prop_assert!(!state.is_terminal());
                        state = moved;
                    }
                    Err(error) => prop_assert!(error.to_string().contains(state.name())),
                }
            }
        }
    }
}
