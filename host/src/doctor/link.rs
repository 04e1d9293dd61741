//! A controller behind the link: versions, image, counters, and what its network last saw of the robot.

use super::{Finding, examine_pose};
use crate::link::{LinkError, Session, Transport};
use tendon_runtime::spec::{ContractSpec, Signal};
use tendon_runtime::{Cause, State};
use tendon_wire::message::{Identity, PROTOCOL_VERSION, Slots, Telemetry};

/// Largest angle between gravity as observed and as it should be, rad.
const TILT: f32 = 0.35;

/// Opens a session and looks at what the controller says. `policy`: contract, schema hash and CRC of the image that
/// is to run there. Gives no command.
pub fn examine_controller<T: Transport>(
    transport: T,
    policy: Option<(&ContractSpec, u64, u32)>,
    at_default: bool,
) -> Vec<Finding> {
    let (mut session, identity) = match Session::open(transport) {
        Ok(opened) => opened,
        Err(error @ LinkError::Version { .. }) => {
            return vec![Finding::fail(
                "versions",
                error.to_string(),
                "flash the firmware that belongs to this program, or use the program of that firmware",
            )];
        }
        Err(error) => {
            return vec![Finding::fail(
                "controller answers",
                error.to_string(),
                "check power and port; give --bus where servos and no controller hang on this port",
            )];
        }
    };
    let mut findings = versions(&identity);
    findings.extend(image(&identity, policy));
    match session.slots() {
        Ok(slots) => findings.extend(slots_and_keys(&slots, policy)),
        Err(error) => {
            findings.push(Finding::fail("slots and keys", error.to_string(), "reset the controller"))
        }
    }
    match session.observe() {
        Ok(telemetry) => {
            findings.extend(health(&telemetry));
            findings.extend(seen(&identity, &telemetry, policy, at_default));
        }
        Err(error) => findings.push(Finding::fail("telemetry", error.to_string(), "reset the controller")),
    }
    findings
}

fn versions(identity: &Identity) -> Vec<Finding> {
    let own = env!("CARGO_PKG_VERSION");
    let firmware = format!("{} with firmware {}", identity.board, identity.firmware);
    let protocol = format!("protocol {}, table {:#018x}", identity.protocol, identity.table_hash);
    vec![
        if identity.firmware == own {
            Finding::ok("board and firmware", firmware)
        } else {
            Finding::warn(
                "board and firmware",
                firmware,
                format!("this program is {own}: flash its firmware"),
            )
        },
        if identity.protocol == PROTOCOL_VERSION {
            Finding::ok("versions", protocol)
        } else {
            Finding::fail("versions", protocol, format!("this program speaks protocol {PROTOCOL_VERSION}"))
        },
    ]
}

fn image(identity: &Identity, policy: Option<(&ContractSpec, u64, u32)>) -> Vec<Finding> {
    let here = if identity.image_crc32c == 0 {
        "no image".to_owned()
    } else {
        format!(
            "robot {:?}, schema {:#018x}, CRC {:#010x}",
            identity.robot.as_str(),
            identity.schema_hash,
            identity.image_crc32c
        )
    };
    let Some((contract, schema_hash, crc)) = policy else {
        return vec![Finding::skip("image", here, "give --policy to compare it with yours")];
    };
    let check = "image";
    vec![if identity.image_crc32c == 0 {
        Finding::warn(check, here, "send the image before arming")
    } else if identity.robot.as_str() != contract.robot {
        Finding::fail(
            check,
            here,
            format!("the policy is for robot {:?}: wrong robot, or wrong controller", contract.robot),
        )
    } else if identity.schema_hash != schema_hash {
        Finding::fail(check, here, format!("the policy's schema is {schema_hash:#018x}: send its image"))
    } else if identity.image_crc32c != crc {
        Finding::warn(
            check,
            here,
            format!("same contract, other weights (yours {crc:#010x}): send your image"),
        )
    } else {
        Finding::ok(check, here)
    }]
}

fn slots_and_keys(slots: &Slots, policy: Option<(&ContractSpec, u64, u32)>) -> Vec<Finding> {
    let hex = |key: &[u8; 8]| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut findings = vec![if slots.generation == 0 {
        Finding::warn(
            "keys",
            "none: unsigned images are taken",
            "before this robot leaves the bench: `tendon keys new`, then `tendon keys provision`",
        )
    } else {
        let second = if slots.key_b == [0; 8] { "no second".into() } else { hex(&slots.key_b) };
        Finding::ok("keys", format!("generation {}: {}.., {second}", slots.generation, hex(&slots.key_a)))
    }];
    if let Some((contract, ..)) = policy
        && !slots.robot.is_empty()
        && slots.robot.as_str() != contract.robot
    {
        findings.push(Finding::fail(
            "robot of the controller",
            format!("{:?}, the policy is for {:?}", slots.robot.as_str(), contract.robot),
            "wrong controller or wrong policy: it will refuse the image",
        ));
    }
    let slot = |slot: u8| if slot == 255 { "none".to_owned() } else { slot.to_string() };
    let found = format!(
        "policy in slot {} (rollback counter {} or more), firmware in slot {} ({} or more)",
        slot(slots.policy_slot),
        slots.policy_floor,
        slot(slots.firmware_slot),
        slots.firmware_floor
    );
    findings.push(if slots.policy_trial != 0 || slots.firmware_trial != 0 {
        Finding::warn(
            "slots",
            format!("{found}; on trial"),
            "confirm it with `tendon flash --confirm`, or `--revert`",
        )
    } else {
        Finding::ok("slots", found)
    });
    findings
}

fn health(telemetry: &Telemetry) -> Vec<Finding> {
    let state = State::from_code(telemetry.state);
    let cause = Cause::from_code(telemetry.cause).unwrap_or_default();
    let now = state.map_or("unknown".to_owned(), |state| format!("{state:?}, cause {cause:?}"));
    let state = match state {
        Some(State::Idle) => Finding::ok("state", now),
        Some(State::Fault) => Finding::warn(
            "state",
            now,
            "a fault is latched: find its cause; arming needs a healthy dwell and an explicit command",
        ),
        _ => Finding::fail("state", now, "torque may be on: stop the robot first"),
    };
    let t = telemetry;
    let counts = [
        ("misses", t.misses),
        ("rejected states", t.rejected_states),
        ("rejected frames", t.rejected_frames),
        ("dropped", t.dropped),
    ];
    let bad: Vec<String> =
        counts.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{n} {name}")).collect();
    vec![
        state,
        if bad.is_empty() {
            Finding::ok("counters", format!("{} ticks, nothing lost", t.ticks))
        } else {
            Finding::warn(
                "counters",
                bad.join(", "),
                "since boot; if they grow: cable, baud rate, a slow host (rejected, dropped), a network too large (misses)",
            )
        },
    ]
}

/// The last observation, back in units: positions and gravity as the network saw them.
fn seen(
    identity: &Identity,
    telemetry: &Telemetry,
    policy: Option<(&ContractSpec, u64, u32)>,
    at_default: bool,
) -> Vec<Finding> {
    let check = "what the network last saw";
    let Some((contract, hash, _)) = policy else {
        return vec![Finding::skip(check, "no contract", "give --policy")];
    };
    if identity.schema_hash != hash || telemetry.ticks == 0 || telemetry.observation.iter().all(|&v| v == 0.0)
    {
        return vec![Finding::skip(
            check,
            "nothing yet: this board measures no joints itself, raw states come from the host",
            "run `tendon hil` once, or give --bus where the servos hang on this computer",
        )];
    }
    let mut findings = Vec::new();
    let terms = observed(contract, &telemetry.observation);
    let signal =
        |wanted: &[Signal]| terms.iter().find(|(signal, _)| wanted.iter().any(|w| *w as u8 == *signal));
    if let Some((signal, values)) = signal(&[Signal::JointPosition, Signal::JointPositionRelative]) {
        let names: Vec<&str> = contract.joints.iter().map(|joint| joint.name.as_str()).collect();
        let limits: Vec<[f32; 2]> = contract.joints.iter().map(|joint| joint.position_limits).collect();
        let defaults: Vec<f32> = contract.joints.iter().map(|joint| joint.default_position).collect();
        let relative = *signal == Signal::JointPositionRelative as u8;
        if values.len() == names.len() {
            let positions: Vec<f32> =
                values.iter().zip(&defaults).map(|(v, d)| if relative { v + d } else { *v }).collect();
            let tolerance = contract.fallback.ready_tolerance;
            findings.extend(examine_pose(&names, &limits, &defaults, &positions, tolerance, at_default));
        }
    }
    if let Some((_, values)) = signal(&[Signal::ProjectedGravity])
        && let &[x, y, z] = values.as_slice()
    {
        findings.push(gravity([x, y, z]));
    }
    if findings.is_empty() {
        findings.push(Finding::skip(check, "no term with joint positions or gravity", ""));
    }
    findings
}

/// Gravity in the IMU frame of a robot that stands upright.
fn gravity([x, y, z]: [f32; 3]) -> Finding {
    let check = "direction of gravity";
    let found = format!("[{x:.2}, {y:.2}, {z:.2}] in the IMU frame");
    let length = (x * x + y * y + z * z).sqrt();
    let cosine = -z / length;
    if !(0.8..=1.2).contains(&length) {
        Finding::fail(
            check,
            found,
            "it is no unit vector: scale of the term, or the quaternion's order (w x y z)",
        )
    } else if cosine < -TILT.cos() {
        Finding::fail(check, found, "upside down: the IMU's axes, or world_from_imu given as imu_from_world")
    } else if cosine < TILT.cos() {
        Finding::warn(
            check,
            found,
            "not upright: stand the robot in its default pose, or check the IMU's axes",
        )
    } else {
        Finding::ok(check, found)
    }
}

/// The newest frame of each term, signal and values, with scale and offset taken out again.
fn observed(contract: &ContractSpec, observation: &[f32]) -> Vec<(u8, Vec<f32>)> {
    let Ok(compiled) = contract.compile() else { return Vec::new() };
    let view = compiled.view();
    let mut rest = observation;
    let mut out = Vec::new();
    for term in view.terms {
        let (width, frames) = (usize::from(term.width), usize::from(term.history));
        let Some((all, left)) = rest.split_at_checked(width * frames) else { break };
        rest = left;
        let newest = if term.newest_first == 1 { 0 } else { frames - 1 };
        let frame = all.iter().skip(width * newest).take(width);
        let constants = view.values.get(term.values as usize..).unwrap_or(&[]);
        let (scale, offset) = (constants.iter(), constants.iter().skip(width));
        let values = frame.zip(scale).zip(offset).map(|((value, scale), offset)| (value - offset) / scale);
        out.push((term.signal, values.collect()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;
    use tendon_sim::tasks::find;

    #[test]
    fn gravity_is_upright_tilted_upside_down_or_no_direction() {
        let outcome = |g| gravity(g).outcome;
        assert_eq!(outcome([0.0, 0.1, -0.99]), Outcome::Ok);
        assert_eq!(outcome([0.7, 0.0, -0.7]), Outcome::Warn);
        assert_eq!(outcome([0.0, 0.0, 1.0]), Outcome::Fail);
        assert_eq!(outcome([0.0, 0.0, 0.0]), Outcome::Fail);
        assert_eq!(outcome([f32::NAN, 0.0, -1.0]), Outcome::Fail);
    }

    #[test]
    fn an_observation_comes_back_in_its_units() {
        let environment = find("reacher").unwrap().make().unwrap();
        let contract = environment.contract();
        let observation: Vec<f32> = (0..12).map(|v| v as f32).collect();
        let terms = observed(contract, &observation);
        // joint_sin, joint_cos, joint_velocity with scale 0.2.
        assert_eq!(terms[0].1, [0.0, 1.0]);
        assert_eq!(terms[2].0, Signal::JointVelocity as u8);
        assert!((terms[2].1[1] - 25.0).abs() < 1e-4);
        assert!(observed(contract, &observation[..3]).len() < terms.len());
    }
}
