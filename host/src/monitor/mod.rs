//! What a controller tells of itself: a table of its state, counters, times and joints, and the black box.

mod blackbox;
mod fields;
mod table;

pub use blackbox::{csv, fetch, page};
pub use fields::fields;
pub use table::{line, table, times};

use crate::link::{LinkError, Session, Transport};
use tendon_runtime::spec::ContractSpec;
use tendon_wire::message::{BlackBoxRecord, Identity, Telemetry, Timing};

/// One look at a controller.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Who it is.
    pub identity: Identity,
    /// Counters.
    pub telemetry: Telemetry,
    /// Histograms.
    pub timing: Timing,
    /// The last tick.
    pub last: BlackBoxRecord,
}

impl Snapshot {
    /// Asks for everything but the identity, which would begin a session anew. The control loop waits for none of
    /// it longer than the response-time analysis allows.
    ///
    /// # Errors
    /// No answer.
    pub fn take<T: Transport>(session: &mut Session<T>, identity: &Identity) -> Result<Self, LinkError> {
        Ok(Self {
            identity: identity.clone(),
            telemetry: session.observe()?,
            timing: session.timing()?,
            last: session.black_box(u32::MAX)?,
        })
    }
}

/// What an image says of a joint.
#[derive(Clone, Debug, Default)]
pub struct JointLabel {
    /// Name.
    pub name: String,
    /// rad or m.
    pub position_limits: [f64; 2],
    /// rad/s or m/s.
    pub velocity_limit: f64,
    /// N m or N.
    pub torque_limit: f64,
}

/// Labels in the robot's order.
#[must_use]
pub fn joint_labels(contract: &ContractSpec) -> Vec<JointLabel> {
    let mut labels = vec![JointLabel::default(); contract.joints.len()];
    for (index, joint) in contract.joints.iter().enumerate() {
        if let Some(label) = labels.get_mut(joint.robot_index.map_or(index, |at| at as usize)) {
            *label = JointLabel {
                name: joint.name.clone(),
                position_limits: joint.position_limits.map(Into::into),
                velocity_limit: joint.velocity_limit.into(),
                torque_limit: joint.torque_limit.into(),
            };
        }
    }
    labels
}
