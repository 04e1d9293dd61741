//! What a person can do to a walking robot: pull the link, send a corrupt image, feed it NaN, freeze a sensor. Shows what
//! the controller makes of it.

use crate::faults::{Channel, Fault, Injector, Kind, Plant};
use crate::hil::{HilError, Loop};
use crate::link::{LinkError, Session, Transport, joint_commands};
use std::time::Duration;
use tendon_runtime::node::LOCKSTEP_SILENCE_US;
use tendon_runtime::spec::ContractSpec;
use tendon_runtime::{Cause, Refusal, State};

/// Silence of a pulled link, on this computer's clock: more than a controller in lockstep bears.
const PULLED: Duration = Duration::from_micros(LOCKSTEP_SILENCE_US + 500_000);

/// Something that is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The link is silent for longer than the controller bears.
    PullLink,
    /// An image with one flipped bit is sent while the policy runs.
    CorruptImage,
    /// One joint velocity of one state is NaN.
    NotANumber,
    /// One joint position gives its last value for ever.
    FreezeSensor,
}

impl Mishap {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::PullLink, Self::CorruptImage, Self::NotANumber, Self::FreezeSensor];

    /// The key that a person presses for it.
    #[must_use]
    pub fn key(self) -> char {
        match self {
            Self::PullLink => 'l',
            Self::CorruptImage => 'c',
            Self::NotANumber => 'n',
            Self::FreezeSensor => 's',
        }
    }

    /// What it is, and what must follow.
    #[must_use]
    pub fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::PullLink => ("link pulled", "no torque, Fault latched"),
            Self::CorruptImage => ("corrupt image sent", "refused, the policy runs on"),
            Self::NotANumber => ("NaN in a state", "the state is refused, damping, then Fault"),
            Self::FreezeSensor => ("a joint sensor frozen", "noticed by the monitor, damping, then Fault"),
        }
    }
}

/// One tick of a scene.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Since Running, s.
    pub time_s: f64,
    /// Of the controller.
    pub state: State,
    /// Why it fell back.
    pub cause: Cause,
    /// Angle between the base and upright, rad.
    pub tilt_rad: f32,
    /// Largest torque bound that any joint got, N m.
    pub torque_limit: f32,
}

/// What came of a mishap.
#[derive(Clone, Debug)]
pub struct Scene {
    /// What was done.
    pub mishap: Mishap,
    /// When, s since Running.
    pub at_s: f64,
    /// Every tick.
    pub moments: Vec<Moment>,
    /// The controller's answer to a corrupt image.
    pub refusal: Option<Refusal>,
}

impl Scene {
    /// The last moment.
    #[must_use]
    pub fn end(&self) -> Option<&Moment> {
        self.moments.last()
    }

    /// Whether what must follow followed.
    #[must_use]
    pub fn is_as_promised(&self) -> bool {
        let Some(end) = self.end() else { return false };
        match self.mishap {
            Mishap::CorruptImage => self.refusal.is_some() && end.state == State::Running,
            Mishap::PullLink => end.state == State::Fault && end.torque_limit == 0.0,
            Mishap::NotANumber => end.state == State::Fault && end.cause == Cause::InvalidState,
            Mishap::FreezeSensor => matches!(end.state, State::Damping | State::Fault),
        }
    }
}

/// Lets the robot walk, does something to it as soon as `choose` says what, and goes on for `after` ticks. `choose`
/// sees the number of each tick in Running; `image` is what already runs. `period` waits for real time where a person
/// looks on.
///
/// # Errors
/// The link, or a controller that does not start.
#[expect(clippy::too_many_arguments, reason = "one call, where all of them are at hand")]
pub fn play<T: Transport>(
    session: &mut Session<T>,
    plant: &mut dyn Plant,
    contract: &ContractSpec,
    schema_hash: u64,
    image: &[u8],
    after: u64,
    mut choose: impl FnMut(u64) -> Option<Mishap>,
    mut period: impl FnMut(),
) -> Result<Option<Scene>, HilError> {
    let period_us = (contract.control_period_s * 1e6).round() as u64;
    let mut control = Loop::start(session, period_us, schema_hash, &plant.state(), None)?;
    let mut moments = Vec::new();
    let (mut chosen, mut refusal, mut injector): (Option<(u64, Mishap)>, _, Option<Injector>) =
        (None, None, None);
    for tick in 0.. {
        if chosen.is_some_and(|(at, _)| tick > at + after) {
            break;
        }
        if chosen.is_none()
            && let Some(mishap) = choose(tick)
        {
            chosen = Some((tick, mishap));
            match mishap {
                Mishap::PullLink => std::thread::sleep(PULLED),
                Mishap::CorruptImage => refusal = send_corrupt(control.session(), image)?,
                Mishap::NotANumber => {}
                Mishap::FreezeSensor => {
                    let fault = Fault::new(Channel::JointPosition(1), Kind::Stuck, tick, 1);
                    injector = Some(Injector::new(fault));
                }
            }
        }
        let truth = plant.state();
        let mut state = truth.clone();
        if let Some(injector) = &mut injector {
            injector.sense(tick, &mut state);
        }
        if chosen == Some((tick, Mishap::NotANumber))
            && let Some(velocity) = state.joint_velocity.first_mut()
        {
            *velocity = f32::NAN;
        }
        let action = control.exchange(&state)?;
        let [w, x, y, z] = truth.base_orientation;
        let norm = (w * w + x * x + y * y + z * z).max(1e-12);
        moments.push(Moment {
            time_s: tick as f64 * contract.control_period_s,
            state: State::from_code(action.state).unwrap_or_default(),
            cause: Cause::from_code(action.cause).unwrap_or_default(),
            tilt_rad: (1.0 - 2.0 * (x * x + y * y) / norm).clamp(-1.0, 1.0).acos(),
            torque_limit: action.torque_limit.iter().copied().fold(0.0, f32::max),
        });
        if chosen.is_none() && action.state != State::Running as u8 {
            // It fell back by itself: there is nothing to show.
            control.finish()?;
            return Ok(None);
        }
        plant.apply(&action.proposed, &joint_commands(&action));
        period();
    }
    control.finish()?;
    Ok(chosen.map(|(at, mishap)| Scene {
        mishap,
        at_s: at as f64 * contract.control_period_s,
        moments,
        refusal,
    }))
}

/// Sends the image with a flipped bit in its middle; what the controller says to it.
fn send_corrupt<T: Transport>(session: &mut Session<T>, image: &[u8]) -> Result<Option<Refusal>, LinkError> {
    let mut corrupt = image.to_vec();
    let middle = corrupt.len() / 2;
    if let Some(byte) = corrupt.get_mut(middle) {
        *byte ^= 0x10;
    }
    match session.upload(&corrupt, |_| ()) {
        Ok(()) => Ok(None),
        Err(LinkError::Refused { refusal, .. }) => Ok(refusal),
        Err(error) => Err(error),
    }
}
