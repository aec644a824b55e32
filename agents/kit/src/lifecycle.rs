//! The states of an agent and the only ways from one to the next.
//!
//! Invariants: what the table does not have cannot happen; `stopped` and `failed` are final; a
//! paused agent runs again only when it is told to; tasks are taken only while running.

use std::fmt;

/// Where an agent is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Not yet known to the orchestrator.
    Starting,
    /// Takes tasks.
    Running,
    /// Keeps what it has and takes no new tasks.
    Paused,
    /// Ends what it has and takes no new tasks.
    Stopping,
    /// Ended as asked.
    Stopped,
    /// Ended by a fault.
    Failed,
}

impl State {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    /// Whether new tasks are taken.
    #[must_use]
    pub fn takes_tasks(self) -> bool {
        self == Self::Running
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What happens to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The orchestrator has taken the registration.
    Registered,
    /// The orchestrator asks for a pause.
    Pause,
    /// The orchestrator ends the pause.
    Resume,
    /// The process is asked to end.
    Stop,
    /// No task is left.
    Drained,
    /// It cannot go on.
    Fail,
}

/// Every transition that there is.
pub const TRANSITIONS: &[(State, Event, State)] = &[
    (State::Starting, Event::Registered, State::Running),
    (State::Starting, Event::Pause, State::Paused),
    (State::Starting, Event::Stop, State::Stopping),
    (State::Starting, Event::Fail, State::Failed),
    // A registration is repeated whenever the orchestrator has restarted.
    (State::Running, Event::Registered, State::Running),
    (State::Running, Event::Resume, State::Running),
    (State::Running, Event::Pause, State::Paused),
    (State::Running, Event::Stop, State::Stopping),
    (State::Running, Event::Fail, State::Failed),
    (State::Paused, Event::Registered, State::Paused),
    (State::Paused, Event::Pause, State::Paused),
    (State::Paused, Event::Resume, State::Running),
    (State::Paused, Event::Stop, State::Stopping),
    (State::Paused, Event::Fail, State::Failed),
    (State::Stopping, Event::Registered, State::Stopping),
    (State::Stopping, Event::Stop, State::Stopping),
    (State::Stopping, Event::Drained, State::Stopped),
    (State::Stopping, Event::Fail, State::Failed),
];

/// An event that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an agent that is {state} cannot take the event {event:?}")]
pub struct Illegal {
    /// Where the agent is.
    pub state: State,
    /// What should have happened.
    pub event: Event,
}

impl State {
    /// Where `event` leads from here.
    ///
    /// # Errors
    /// [`Illegal`] when the table has no such transition.
    pub fn after(self, event: Event) -> Result<Self, Illegal> {
        TRANSITIONS
            .iter()
            .find(|(from, on, _)| *from == self && *on == event)
            .map(|(.., to)| *to)
            .ok_or(Illegal { state: self, event })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const STATES: [State; 6] = [
        State::Starting,
        State::Running,
        State::Paused,
        State::Stopping,
        State::Stopped,
        State::Failed,
    ];
    const EVENTS: [Event; 6] = [
        Event::Registered,
        Event::Pause,
        Event::Resume,
        Event::Stop,
        Event::Drained,
        Event::Fail,
    ];

    #[test]
    fn the_table_is_a_function_and_final_states_are_final() {
        let keys: HashSet<_> = TRANSITIONS
            .iter()
            .map(|(from, on, _)| (*from, *on))
            .collect();
        assert_eq!(keys.len(), TRANSITIONS.len());
        for event in EVENTS {
            for state in [State::Stopped, State::Failed] {
                assert_eq!(state.after(event), Err(Illegal { state, event }));
            }
        }
    }

    #[test]
    fn every_state_is_reached_and_every_living_one_can_be_ended() {
        for state in STATES {
            let reached = TRANSITIONS.iter().any(|(.., to)| *to == state);
            assert!(reached || state == State::Starting, "{state}");
            if !matches!(state, State::Stopped | State::Failed) {
                assert_eq!(state.after(Event::Stop), Ok(State::Stopping));
                assert_eq!(state.after(Event::Fail), Ok(State::Failed));
            }
        }
    }

    proptest! {
        #[test]
        fn no_history_breaks_the_rules(events in prop::collection::vec(prop::sample::select(&EVENTS[..]), 0..40)) {
            let mut state = State::Starting;
            for event in events {
                let Ok(next) = state.after(event) else { continue };
                if next.takes_tasks() && !state.takes_tasks() {
                    let allowed = matches!(
                        (state, event),
                        (State::Starting, Event::Registered) | (State::Paused, Event::Resume)
                    );
                    prop_assert!(allowed, "{state} {event:?}");
                }
                if state == State::Stopping {
                    prop_assert!(!next.takes_tasks() && next != State::Paused);
                }
                prop_assert!(next != State::Stopped || state == State::Stopping);
                state = next;
            }
        }
    }
}
