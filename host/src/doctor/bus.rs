//! The servos of a bus, with torque off: who is there, how well they are heard, where they stand.

use super::{Finding, examine_pose};
use crate::robot::{
    BusKind, BusPort, CalibrationFile, JointCalibration, MonotonicClock, OpenError, open_bus, robot_order,
    timing,
};
use std::f32::consts::TAU;
use tendon_drivers::dynamixel::{DynamixelBus, Found, Model};
use tendon_drivers::feetech::{self, FeetechBus};
use tendon_drivers::{BusError, JointBus, JointState};
use tendon_runtime::spec::{ContractSpec, Signal};

/// Readings taken.
const READS: u32 = 50;
/// Time for one reading, us.
const READ_US: u64 = 20_000;
/// Share of readings with a joint missing at which a bus is no good.
const MISSING: f64 = 0.1;
/// Speed of a joint at rest, rad/s.
const REST: f32 = 0.2;
/// Ids tried.
const IDS: std::ops::RangeInclusive<u8> = 1..=252;

/// Looks at the servos behind `port`. **Takes their torque away.** Returns the open bus for whoever goes on with it.
pub fn examine_bus(
    port: &str,
    file: &CalibrationFile,
    contract: Option<&ContractSpec>,
    at_default: bool,
) -> (Vec<Finding>, Option<Box<dyn JointBus + Send>>) {
    let mut findings = Vec::new();
    match scan(port, file) {
        Ok(found) => findings.extend(servos(&found, file)),
        Err(error) => {
            findings.push(Finding::fail("port opens", error.to_string(), "see the line of this port above"));
            return (findings, None);
        }
    }
    let names: Vec<&str> = file.joints.iter().map(|joint| joint.name.as_str()).collect();
    if let Some(contract) = contract {
        findings.extend(agreement(file, &names, contract));
    }
    let mut bus = match open_bus(port, file, MonotonicClock) {
        Ok(bus) => bus,
        Err(error) => {
            findings.push(Finding::fail(
                "servos answer",
                error.to_string(),
                "compare ids with the calibration",
            ));
            return (findings, None);
        }
    };
    findings.push(Finding::ok("torque", format!("off; when a program is killed: {}", bus.when_silent())));
    match readings(&mut *bus) {
        Ok((complete, states)) => {
            findings.push(complete);
            findings.extend(faults(&names, &states));
            if let Some(contract) = contract.filter(|contract| contract.joints.len() == states.len()) {
                findings.extend(pose(contract, &states, at_default));
                findings.push(rate(&*bus, contract));
            }
        }
        Err(error) => {
            findings.push(Finding::fail("readings", error.to_string(), "check the adapter and its cable"));
            return (findings, None);
        }
    }
    (findings, Some(bus))
}

fn scan(port: &str, file: &CalibrationFile) -> Result<Vec<Found>, OpenError> {
    let line = BusPort::open(port, file.baud)?;
    let clock = MonotonicClock;
    let now = || clock.now_us();
    let mut found = Vec::new();
    let each = |servo| found.push(servo);
    match file.bus {
        BusKind::Dynamixel => DynamixelBus::scan(line, timing(file), IDS, &now, each).map(drop),
        BusKind::Feetech => FeetechBus::scan(line, timing(file), IDS, &now, each).map(drop),
    }
    .map_err(|source| OpenError::Bus { port: port.into(), source })?;
    Ok(found)
}

fn model_name(kind: BusKind, number: u16) -> Option<&'static str> {
    match kind {
        BusKind::Dynamixel => Model::find(number).map(|model| model.name),
        BusKind::Feetech => feetech::MODELS.iter().find(|model| model.number == number).map(|_| "sts3215"),
    }
}

fn servos(found: &[Found], file: &CalibrationFile) -> Vec<Finding> {
    let describe = |servo: &Found| {
        let name = model_name(file.bus, servo.model).map_or(format!("model {}", servo.model), Into::into);
        format!("{} {name} v{}", servo.id, servo.firmware)
    };
    let all = found.iter().map(describe).collect::<Vec<_>>().join(", ");
    let missing: Vec<String> = file
        .joints
        .iter()
        .filter(|joint| !found.iter().any(|servo| servo.id == joint.id))
        .map(|joint| format!("{} (id {})", joint.name, joint.id))
        .collect();
    let check = "servos on the bus";
    let mut findings = vec![if missing.is_empty() {
        Finding::ok(check, all)
    } else {
        Finding::fail(
            check,
            format!(
                "missing {}; heard {}",
                missing.join(", "),
                if all.is_empty() { "nobody" } else { all.as_str() }
            ),
            "power, cable behind the last one heard, id, baud rate; one id twice silences both",
        )
    }];
    let extra: Vec<String> = found
        .iter()
        .filter(|servo| !file.joints.iter().any(|joint| joint.id == servo.id))
        .map(|servo| servo.id.to_string())
        .collect();
    if !extra.is_empty() {
        let found = format!("id {} in no joint of the calibration", extra.join(", "));
        findings.push(Finding::warn("other servos", found, "they keep whatever torque they have"));
    }
    let unknown: Vec<String> = found
        .iter()
        .filter(|servo| model_name(file.bus, servo.model).is_none())
        .map(|servo| format!("id {} reports {}", servo.id, servo.model))
        .collect();
    if !unknown.is_empty() {
        findings.push(Finding::fail(
            "models",
            unknown.join(", "),
            "add the model to the table in drivers/src",
        ));
    }
    let mixed = found.iter().any(|a| found.iter().any(|b| a.model == b.model && a.firmware != b.firmware));
    findings.push(if mixed {
        Finding::warn("servo firmware", "servos of one model differ", "bring them to one version")
    } else {
        Finding::ok("servo firmware", "the same in servos of one model")
    });
    findings
}

/// Calibration against contract.
fn agreement(file: &CalibrationFile, names: &[&str], contract: &ContractSpec) -> Vec<Finding> {
    let order = robot_order(contract);
    let expected: Vec<&str> = order.iter().map(|joint| joint.name.as_str()).collect();
    if let Err(error) = file.check_robot(&contract.robot, &expected) {
        let next = "joints stand in the robot's order, with the contract's names";
        return vec![Finding::fail("joint order", error.to_string(), next)];
    }
    let mut findings = vec![Finding::ok("joint order", names.join(", "))];
    let narrow: Vec<&str> = file
        .joints
        .iter()
        .zip(&order)
        .filter(|(joint, spec)| {
            joint.range_rad[0] > spec.position_limits[0] || joint.range_rad[1] < spec.position_limits[1]
        })
        .map(|(joint, _)| joint.name.as_str())
        .collect();
    findings.push(if narrow.is_empty() {
        Finding::ok("range of the joints", "holds the contract's limits")
    } else {
        Finding::warn(
            "range of the joints",
            format!("narrower than the contract's limits: {}", narrow.join(", ")),
            "setpoints beyond are clipped, which the policy does not know; tighten the contract's limits",
        )
    });
    let observed: Vec<&str> = contract
        .observations
        .iter()
        .filter(|term| {
            matches!(
                term.signal,
                Signal::BaseLinearVelocity
                    | Signal::BaseAngularVelocity
                    | Signal::ProjectedGravity
                    | Signal::BaseOrientation
                    | Signal::Sensor
            )
        })
        .map(|term| term.name.as_str())
        .collect();
    findings.push(if observed.is_empty() {
        Finding::skip("direction of gravity", "the policy observes no IMU", "")
    } else {
        Finding::fail(
            "sensors",
            format!("the policy observes {}", observed.join(", ")),
            "no IMU or other sensor is read on this computer (CAVEATS.md); run it on a board with `tendon hil`",
        )
    });
    findings
}

fn readings(bus: &mut dyn JointBus) -> Result<(Finding, Vec<JointState>), BusError> {
    let clock = MonotonicClock;
    let now = || clock.now_us();
    let before = bus.counters();
    let mut incomplete = 0;
    for _ in 0..READS {
        incomplete += u32::from(!bus.read(clock.now_us() + READ_US, &now)?);
    }
    let after = bus.counters();
    let found = format!(
        "{READS} readings: {incomplete} with a joint missing, {} retries, {} damaged packets",
        after.retries - before.retries,
        after.corrupt - before.corrupt
    );
    let check = "readings";
    let next = "shorten or shield the cable, check the ground, lower the baud rate, power the servos well";
    let share = f64::from(incomplete) / f64::from(READS);
    let finding = if share > MISSING {
        Finding::fail(check, found, next)
    } else if after.retries > before.retries || incomplete > 0 {
        Finding::warn(check, found, next)
    } else {
        Finding::ok(check, found)
    };
    Ok((finding, bus.states().to_vec()))
}

fn faults(names: &[&str], states: &[JointState]) -> Vec<Finding> {
    let list = |bad: &dyn Fn(&JointState) -> Option<String>| -> Vec<String> {
        names
            .iter()
            .zip(states)
            .filter_map(|(name, state)| Some(format!("{name}: {}", bad(state)?)))
            .collect()
    };
    let complaints = list(&|state| (!state.faults.is_empty()).then(|| state.faults.to_string()));
    let silent = list(&|state| state.at_us.is_none().then(|| "never heard".into()));
    let moving = list(&|state| (state.velocity.abs() > REST).then(|| format!("{:.2} rad/s", state.velocity)));
    let mut findings = vec![if complaints.is_empty() {
        Finding::ok("servo errors", "none")
    } else {
        Finding::fail(
            "servo errors",
            complaints.join("; "),
            "let it cool, check load and supply, then cycle its power",
        )
    }];
    if !silent.is_empty() {
        findings.push(Finding::fail("every joint is heard", silent.join("; "), "see the servos on the bus"));
    }
    findings.push(if moving.is_empty() {
        Finding::ok("at rest", format!("no joint faster than {REST} rad/s"))
    } else {
        Finding::warn("at rest", moving.join("; "), "hold the robot still; without torque arms fall")
    });
    findings
}

fn pose(contract: &ContractSpec, states: &[JointState], at_default: bool) -> Vec<Finding> {
    let order = robot_order(contract);
    let names: Vec<&str> = order.iter().map(|joint| joint.name.as_str()).collect();
    let limits: Vec<[f32; 2]> = order.iter().map(|joint| joint.position_limits).collect();
    let defaults: Vec<f32> = order.iter().map(|joint| joint.default_position).collect();
    let positions: Vec<f32> = states.iter().map(|state| state.position).collect();
    examine_pose(&names, &limits, &defaults, &positions, contract.fallback.ready_tolerance, at_default)
}

fn rate(bus: &dyn JointBus, contract: &ContractSpec) -> Finding {
    let highest = 0.8e6 / f64::from(bus.wire_us().max(1));
    let policy = 1.0 / contract.control_period_s;
    let found = format!(
        "{} us on the wire a cycle, so at most {highest:.0} Hz; policy {policy:.0} Hz",
        bus.wire_us()
    );
    if highest >= policy {
        Finding::ok("rate of the bus", found)
    } else {
        Finding::fail("rate of the bus", found, "raise the baud rate of servos and calibration")
    }
}

/// Mounting of the servos of a robot that stands in its default pose, from where they stand now. `template`: bus, baud
/// rate and echo; of its joints only ids and signs count. Without joints the servos are taken in the order of their
/// ids, with sign 1.
///
/// # Errors
/// The bus, or other servos than joints, in words.
pub fn measure_calibration(
    port: &str,
    template: &CalibrationFile,
    contract: &ContractSpec,
) -> Result<CalibrationFile, String> {
    let order = robot_order(contract);
    let mut joints: Vec<(u8, i8, Option<String>)> =
        template.joints.iter().map(|joint| (joint.id, joint.sign, joint.model.clone())).collect();
    if joints.is_empty() {
        let model = (template.bus == BusKind::Feetech).then(|| "sts3215-7v4".to_owned());
        let found = scan(port, template).map_err(|error| error.to_string())?;
        joints = found.iter().map(|servo| (servo.id, 1, model.clone())).collect();
    }
    if joints.len() != order.len() {
        let ids: Vec<String> = joints.iter().map(|(id, ..)| id.to_string()).collect();
        return Err(format!(
            "{} servos (ids {}) for the {} joints of {}: give the ids in the robot's order with --ids",
            joints.len(),
            ids.join(", "),
            order.len(),
            contract.robot
        ));
    }
    // Zero 0 and sign 1: states are angles of the servos themselves.
    let bare = |(spec, (id, _, model)): (&&tendon_runtime::spec::JointSpec, &(u8, i8, Option<String>))| {
        JointCalibration {
            name: spec.name.clone(),
            id: *id,
            model: model.clone(),
            zero_offset_rad: 0.0,
            sign: 1,
            range_rad: [-TAU, TAU],
        }
    };
    let mut file = CalibrationFile {
        robot: contract.robot.clone(),
        joints: order.iter().zip(&joints).map(bare).collect(),
        ..template.clone()
    };
    let mut bus = open_bus(port, &file, MonotonicClock).map_err(|error| error.to_string())?;
    let (finding, states) = readings(&mut *bus).map_err(|error| error.to_string())?;
    if let Some(joint) = states.iter().position(|state| state.at_us.is_none()) {
        return Err(format!("joint {joint} was not heard ({})", finding.found));
    }
    for (((joint, spec), state), (_, sign, _)) in file.joints.iter_mut().zip(&order).zip(&states).zip(&joints)
    {
        joint.sign = *sign;
        joint.zero_offset_rad = state.position - f32::from(*sign) * spec.default_position;
        joint.range_rad = spec.position_limits.map(|limit| limit.clamp(-TAU, TAU));
    }
    Ok(file)
}
