//! A legged robot from a file, walking under a policy image on any controller.

use crate::hil::{HilError, Loop, TickStats};
use crate::link::{Session, Transport};
use crate::recording::Recorder;
use std::sync::Arc;
use tendon_runtime::spec::ContractSpec;
use tendon_sim::{
    InterfaceError, LocomotionMetrics, LocomotionTask, PolicyInterface, Robot, RolloutError, run_locomotion,
};

/// Why a walk has no result.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// Contract and robot do not fit.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// The rollout.
    #[error(transparent)]
    Rollout(#[from] RolloutError<HilError>),
    /// The link, after the last step.
    #[error(transparent)]
    Finish(#[from] HilError),
    /// The command has another length than the contract's.
    #[error("command has {found} values, the contract takes {expected}: {names}")]
    Command {
        /// Values given.
        found: usize,
        /// Values the contract has.
        expected: usize,
        /// Their names.
        names: String,
    },
}

/// Walks with a constant `command` on a controller that already has the image: same figures and same hash
/// whichever controller it is.
///
/// # Errors
/// Contract and robot that do not fit, the link, or a controller that fell back.
pub fn walk<T: Transport>(
    session: &mut Session<T>,
    robot: &Arc<Robot>,
    contract: &ContractSpec,
    schema_hash: u64,
    task: &LocomotionTask,
    command: &[f32],
    mut recorder: Option<&mut Recorder>,
) -> Result<(LocomotionMetrics, TickStats), WalkError> {
    if command.len() != contract.commands.len() {
        return Err(WalkError::Command {
            found: command.len(),
            expected: contract.commands.len(),
            names: contract.commands.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", "),
        });
    }
    let mut interface = PolicyInterface::new(contract, robot, Some(&task.site))?;
    let preference: Vec<f32> = contract.preferences.iter().map(|p| p.default).collect();
    let period_us = (contract.control_period_s * 1e6).round() as u64;
    let mut session = Some(session);
    let mut control: Option<Loop<'_, T>> = None;
    let metrics = run_locomotion(robot, task, |world, commands| {
        interface.measure(world, command, &preference, &[]);
        if let Some(session) = session.take() {
            let state = interface.raw_state();
            control = Some(Loop::start(session, period_us, schema_hash, state, recorder.take())?);
        }
        let Some(control) = &mut control else { return Ok(()) };
        let (given, _) = control.tick(interface.raw_state())?;
        for (to, from) in commands.iter_mut().zip(given) {
            *to = from;
        }
        Ok(())
    })?;
    let stats = control.map(Loop::finish).transpose()?.unwrap_or_default();
    Ok((metrics, stats))
}
