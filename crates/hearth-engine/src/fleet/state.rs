//! What may become of a sandbox, and when: pure, so that every order of events can be tried.
//!
//! ```text
//!             Created            Capture / Pause / Resume
//! creating ───────────> running <───────────────────────> capturing, pausing ──> paused <──> resuming
//!     │                 │     ^ │ Stop
//!     │ CreateFailed    │     │ └─────> stopping ── Stopped ──> stopped ── Start ─┐
//!     v    MachineEnded │     │                                    ^              │
//!  removed              v     └─────────── Started ── starting ────┘ StartFailed  │
//!                     failed ── Start ───────────────────> ^ <────────────────────┘
//!
//! adopting ── FoundRunning, FoundPaused, FoundStopped, Lost ──> running, paused, stopped, failed
//! Remove, from anywhere ──> removing ── RemoveDone ──> removed
//! ```
//!
//! One that an earlier process has left begins with adopting.
//!
//! One piece of work goes on at a time, and removal wins over all of it.

use std::fmt;

/// Where a sandbox stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Its machine is being made.
    Creating,
    /// An earlier process has left it, and it is being taken over.
    Adopting,
    /// It takes requests.
    Running,
    /// Its state is being captured, for a fork or a snapshot; it runs on afterwards.
    Capturing,
    /// It is being written to disk.
    Pausing,
    /// It is on disk, and no machine runs.
    Paused,
    /// Its machine is being made from what is on disk.
    Resuming,
    /// Its guest ends, in order.
    Stopping,
    /// It has no machine; what its guest has written to its disk is kept.
    Stopped,
    /// It boots on its disk.
    Starting,
    /// Its machine has ended by itself. It is kept, for its console to be read, until it is removed, or started again on its disk.
    Failed,
    /// It is being removed.
    Removing,
    /// Nothing of it is left.
    Removed,
}

/// What happens to a sandbox: what is asked of it, and what comes of the work on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Input {
    /// Its machine takes requests.
    Created,
    /// It could not be made, and nothing of it is left.
    CreateFailed,
    /// It was taken over, and takes requests.
    FoundRunning,
    /// It was taken over, and is on disk.
    FoundPaused,
    /// It was taken over, and is stopped.
    FoundStopped,
    /// It was taken over, and its machine is gone.
    Lost,
    /// A fork or a snapshot is asked for.
    Capture,
    /// The capture is over, well or not.
    Captured,
    /// A pause is asked for.
    Pause,
    /// It is on disk.
    Paused,
    /// The pause came to nothing, and it runs.
    PauseFailed,
    /// It is to run again.
    Resume,
    /// It runs again.
    Resumed,
    /// It could not run again, and is on disk as before.
    ResumeFailed,
    /// It is to end in order, and to be kept.
    Stop,
    /// It has no machine any more.
    Stopped,
    /// The stop came to nothing, and it runs.
    StopFailed,
    /// It is to boot again.
    Start,
    /// It has booted, and takes requests.
    Started,
    /// It could not boot, and is stopped.
    StartFailed,
    /// Its machine has ended by itself.
    MachineEnded,
    /// It is to go.
    Remove,
    /// It is gone.
    RemoveDone,
}

/// The work that begins with a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    /// Capture its state.
    Capture,
    /// Write it to disk and end its machine.
    Pause,
    /// Make its machine from what is on disk.
    Resume,
    /// End its guest in order.
    Stop,
    /// Boot it on its disk.
    Start,
    /// Give up the work that goes on, and leave nothing of it.
    Remove,
}

/// What is asked of a sandbox does not fit its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is {state}")]
pub struct Refused {
    /// Its state, which is as it was.
    pub state: State,
    /// What was asked.
    pub input: Input,
}

/// The life of one sandbox.
#[derive(Debug)]
pub struct Lifecycle {
    state: State,
}

impl Lifecycle {
    /// Begins with [`State::Creating`].
    pub fn begin() -> Self {
        Self { state: State::Creating }
    }

    /// Begins with [`State::Adopting`].
    pub fn adopt() -> Self {
        Self { state: State::Adopting }
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes a step, and returns the work that begins with it.
    ///
    /// # Errors
    /// [`Refused`], and then nothing has changed.
    pub fn take(&mut self, input: Input) -> Result<Option<Work>, Refused> {
        let (next, work) = self.next(input)?;
        self.state = next;
        Ok(work)
    }

    /// Whether [`Self::take`] would take this now.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn allows(&self, input: Input) -> Result<(), Refused> {
        self.next(input).map(drop)
    }

    fn next(&self, input: Input) -> Result<(State, Option<Work>), Refused> {
        step(self.state, input).ok_or(Refused { state: self.state, input })
    }
}

fn step(state: State, input: Input) -> Option<(State, Option<Work>)> {
    use State as S;
    Some(match (state, input) {
        (S::Creating, Input::Created) => (S::Running, None),
        (S::Creating, Input::CreateFailed) => (S::Removed, None),
        (S::Adopting, Input::FoundRunning) => (S::Running, None),
        (S::Adopting, Input::FoundPaused) => (S::Paused, None),
        (S::Adopting, Input::FoundStopped) => (S::Stopped, None),
        (S::Adopting, Input::Lost) => (S::Failed, None),
        (S::Running, Input::Capture) => (S::Capturing, Some(Work::Capture)),
        (S::Capturing, Input::Captured) => (S::Running, None),
        (S::Running, Input::Pause) => (S::Pausing, Some(Work::Pause)),
        (S::Pausing, Input::Paused) => (S::Paused, None),
        (S::Pausing, Input::PauseFailed) => (S::Running, None),
        (S::Paused, Input::Resume) => (S::Resuming, Some(Work::Resume)),
        (S::Resuming, Input::Resumed) => (S::Running, None),
        (S::Resuming, Input::ResumeFailed) => (S::Paused, None),
        (S::Running, Input::Stop) => (S::Stopping, Some(Work::Stop)),
        (S::Stopping, Input::Stopped) => (S::Stopped, None),
        (S::Stopping, Input::StopFailed) => (S::Running, None),
        (S::Stopped | S::Failed, Input::Start) => (S::Starting, Some(Work::Start)),
        (S::Starting, Input::Started) => (S::Running, None),
        (S::Starting, Input::StartFailed) => (S::Stopped, None),
        (S::Running, Input::MachineEnded) => (S::Failed, None),
        (S::Removing, Input::RemoveDone) => (S::Removed, None),
        // Whoever asks again waits with the first.
        (S::Removing, Input::Remove) => (S::Removing, None),
        (S::Removed, _) => return None,
        (_, Input::Remove) => (S::Removing, Some(Work::Remove)),
        _ => return None,
    })
}

impl State {
    /// Every state.
    pub const ALL: [Self; 13] = [
        Self::Creating,
        Self::Adopting,
        Self::Running,
        Self::Capturing,
        Self::Pausing,
        Self::Paused,
        Self::Resuming,
        Self::Stopping,
        Self::Stopped,
        Self::Starting,
        Self::Failed,
        Self::Removing,
        Self::Removed,
    ];

    /// The name in listings and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Adopting => "adopting",
            Self::Running => "running",
            Self::Capturing => "capturing",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Resuming => "resuming",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Failed => "failed",
            Self::Removing => "removing",
            Self::Removed => "removed",
        }
    }

    /// Whether work goes on that will end by itself.
    pub fn is_passing(self) -> bool {
        use State::{Adopting, Capturing, Creating, Pausing, Removing, Resuming, Starting, Stopping};
        matches!(self, Creating | Adopting | Capturing | Pausing | Resuming | Stopping | Starting | Removing)
    }

    /// Whether it has a machine, and so takes memory of the host's.
    pub fn has_machine(self) -> bool {
        !matches!(self, Self::Paused | Self::Stopped | Self::Failed | Self::Removed)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INPUTS: [Input; 23] = [
        Input::Created,
        Input::CreateFailed,
        Input::FoundRunning,
        Input::FoundPaused,
        Input::FoundStopped,
        Input::Lost,
        Input::Capture,
        Input::Captured,
        Input::Pause,
        Input::Paused,
        Input::PauseFailed,
        Input::Resume,
        Input::Resumed,
        Input::ResumeFailed,
        Input::Stop,
        Input::Stopped,
        Input::StopFailed,
        Input::Start,
        Input::Started,
        Input::StartFailed,
        Input::MachineEnded,
        Input::Remove,
        Input::RemoveDone,
    ];

    fn inputs() -> impl Strategy<Value = Vec<Input>> {
        prop::collection::vec(prop::sample::select(&INPUTS[..]), 0..40)
    }

    fn lives() -> impl Strategy<Value = Lifecycle> {
        any::<bool>().prop_map(|is_new| if is_new { Lifecycle::begin() } else { Lifecycle::adopt() })
    }

    proptest! {
        #[test]
        fn one_piece_of_work_goes_on_at_a_time(mut life in lives(), inputs in inputs()) {
            for input in inputs {
                let before = life.state();
                let allowed = life.allows(input);
                prop_assert_eq!(life.state(), before);
                let taken = life.take(input);
                prop_assert_eq!(allowed, taken.map(drop));
                match taken {
                    Ok(Some(Work::Remove)) => prop_assert_eq!(life.state(), State::Removing),
                    Ok(Some(_)) => prop_assert!(!before.is_passing() && life.state().is_passing()),
                    Ok(None) => {}
                    Err(refused) => prop_assert_eq!((refused.state, life.state()), (before, before)),
                }
            }
        }

        #[test]
        fn whatever_happened_a_sandbox_can_be_removed_and_stays_so(mut life in lives(), inputs in inputs(), later in inputs()) {
            for input in inputs {
                let _ = life.take(input);
            }
            if life.state() != State::Removed {
                let work = life.take(Input::Remove);
                prop_assert!(matches!(work, Ok(Some(Work::Remove) | None)));
                prop_assert_eq!(life.state(), State::Removing);
                prop_assert_eq!(life.take(Input::RemoveDone), Ok(None));
            }
            for input in later {
                prop_assert!(life.take(input).is_err());
                prop_assert_eq!(life.state(), State::Removed);
            }
        }

        #[test]
        fn a_stopped_one_stays_so_until_it_is_started_or_removed_and_a_start_ends_in_running_or_stopped(
            mut life in lives(), before in inputs(), later in inputs(),
        ) {
            for input in before {
                let _ = life.take(input);
            }
            for input in later {
                let was = life.state();
                let is = life.take(input).map_or(was, |_| life.state());
                let may_be: &[State] = match was {
                    State::Stopped => &[State::Stopped, State::Starting, State::Removing],
                    State::Stopping => &[State::Stopping, State::Stopped, State::Running, State::Removing],
                    State::Starting => &[State::Starting, State::Running, State::Stopped, State::Removing],
                    _ => continue,
                };
                prop_assert!(may_be.contains(&is), "{} then {}", was, is);
            }
        }

        #[test]
        fn removal_begins_once(mut life in lives(), inputs in inputs()) {
            let begun = inputs.into_iter().filter(|input| life.take(*input) == Ok(Some(Work::Remove))).count();
            prop_assert!(begun <= 1);
        }
    }

    #[test]
    fn every_state_can_be_reached_and_every_work_ends_in_a_state_at_rest() {
        let mut reached = std::collections::HashSet::from([State::Creating, State::Adopting]);
        loop {
            let next: Vec<State> = reached
                .iter()
                .flat_map(|state| INPUTS.iter().filter_map(|input| Some(step(*state, *input)?.0)))
                .collect();
            let before = reached.len();
            reached.extend(next);
            if reached.len() == before {
                break;
            }
        }
        assert_eq!(reached.len(), State::ALL.len());
        for state in State::ALL.into_iter().filter(|state| state.is_passing()) {
            let ends = INPUTS.iter().filter_map(|input| step(state, *input)).filter(|(next, _)| !next.is_passing());
            assert!(ends.count() > 0, "{state} never ends");
        }
    }
}
