//! `doctor`: what a robot has to show before any torque.

use super::run::contract_of;
use super::{Controller, print_table, read_image, write_file};
use crate::doctor::{
    Finding, Moved, ask_person, examine_bus, examine_controller, examine_ports, is_healthy,
    measure_calibration,
};
use crate::link::{Serial, launch};
use crate::robot::{BusKind, CalibrationFile, JointCalibration, MonotonicClock, robot_order};
use anyhow::{Context, Result};
use clap::Args;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tendon_drivers::{BusError, JointBus};
use tendon_runtime::Image;
use tendon_runtime::spec::ContractSpec;

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Serial port of a controller, or of servos (then with --bus or --calibration); without it ports are listed
    #[arg(long)]
    port: Option<String>,
    /// Controller to launch instead
    #[arg(long, value_enum, conflicts_with_all = ["port", "bus"])]
    controller: Option<Controller>,
    /// Servos on the port, of this protocol
    #[arg(long, value_enum)]
    bus: Option<BusKind>,
    /// Image that is to run
    #[arg(long)]
    policy: Option<PathBuf>,
    /// Mounting of the servos (TOML)
    #[arg(long)]
    calibration: Option<PathBuf>,
    /// Bits per second of the servos, where no calibration says it
    #[arg(long, default_value_t = 1_000_000)]
    baud: u32,
    /// The adapter gives back what it sends, where no calibration says it
    #[arg(long)]
    echo: bool,
    /// Ids of the servos in the robot's order, for --write-calibration
    #[arg(long, value_delimiter = ',')]
    ids: Vec<u8>,
    /// The robot stands in its default pose: a distance from it is drift of the calibration
    #[arg(long)]
    at_default: bool,
    /// Move one joint after the other by hand, to see order and signs
    #[arg(long, requires = "policy")]
    interactive: bool,
    /// Measure the mounting of a robot that stands in its default pose, and write it here
    #[arg(long, requires = "policy", requires = "port")]
    write_calibration: Option<PathBuf>,
    /// Findings as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Contract, schema hash and CRC of an image.
type Policy = (ContractSpec, u64, u32);

impl Doctor {
    pub(super) fn run(self) -> Result<ExitCode> {
        let policy = self.policy.as_deref().map(read_policy).transpose()?;
        let file = self.calibration.as_deref().map(CalibrationFile::read).transpose()?;
        if let Some(path) = &self.write_calibration {
            let port = self.port.as_deref().context("--port is missing")?;
            let (contract, ..) = policy.as_ref().context("--policy is missing")?;
            return self.calibrate(port, contract, file.as_ref(), path);
        }
        let mut findings = examine_ports(Path::new("/dev"), Path::new("/sys"), self.port.as_deref());
        if let Some(controller) = self.controller {
            let launched = launch(controller.kind())?;
            findings.extend(self.controller(launched.port(), policy.as_ref()));
        } else if let Some(port) = self.port.as_deref().filter(|_| is_healthy(&findings)) {
            match (self.bus.or(file.as_ref().map(|file| file.bus)), file) {
                (None, _) => findings.extend(self.controller(port, policy.as_ref())),
                (Some(_), Some(file)) => findings.extend(self.servos(port, &file, policy.as_ref())?),
                (Some(kind), None) => findings.push(self.without_calibration(port, kind)),
            }
        }
        self.conclude(&findings)
    }

    fn controller(&self, port: &str, policy: Option<&Policy>) -> Vec<Finding> {
        match Serial::open(port) {
            Ok(serial) => {
                let policy = policy.map(|(contract, hash, crc)| (contract, *hash, *crc));
                examine_controller(serial, policy, self.at_default)
            }
            Err(error) => {
                vec![Finding::fail("port opens", error.to_string(), "see the line of this port above")]
            }
        }
    }

    fn servos(&self, port: &str, file: &CalibrationFile, policy: Option<&Policy>) -> Result<Vec<Finding>> {
        let contract = policy.map(|(contract, ..)| contract);
        let (mut findings, bus) = examine_bus(port, file, contract, self.at_default);
        if let (true, Some(mut bus)) = (self.interactive, bus) {
            let names: Vec<&str> = file.joints.iter().map(|joint| joint.name.as_str()).collect();
            findings.extend(by_hand(&names, &mut *bus)?.0);
        }
        Ok(findings)
    }

    fn without_calibration(&self, port: &str, kind: BusKind) -> Finding {
        let template = self.template(kind, None);
        let next = format!(
            "put the robot into its default pose, then `tendon doctor --port {port} --bus {} --baud {} --policy FILE --write-calibration FILE`",
            if kind == BusKind::Dynamixel { "dynamixel" } else { "feetech" },
            template.baud
        );
        Finding::fail("calibration", "none given: no servo gets torque without", next)
    }

    fn template(&self, bus: BusKind, file: Option<&CalibrationFile>) -> CalibrationFile {
        let mut template = file.cloned().unwrap_or(CalibrationFile {
            robot: String::new(),
            bus,
            baud: self.baud,
            echo: self.echo,
            silence_us: 2_000,
            joints: Vec::new(),
        });
        if !self.ids.is_empty() {
            let known = |id: u8| template.joints.iter().find(|joint| joint.id == id).cloned();
            let fresh = |id: u8| JointCalibration {
                name: format!("servo {id}"),
                id,
                model: (template.bus == BusKind::Feetech).then(|| "sts3215-7v4".into()),
                zero_offset_rad: 0.0,
                sign: 1,
                range_rad: [-1.0, 1.0],
            };
            template.joints = self.ids.iter().map(|&id| known(id).unwrap_or_else(|| fresh(id))).collect();
        }
        template
    }

    /// Measures, lets a person correct order and signs, writes.
    fn calibrate(
        &self,
        port: &str,
        contract: &ContractSpec,
        file: Option<&CalibrationFile>,
        path: &Path,
    ) -> Result<ExitCode> {
        let kind = self.bus.or(file.map(|file| file.bus)).context("give --bus dynamixel or --bus feetech")?;
        let measure = |template: &CalibrationFile| {
            measure_calibration(port, template, contract).map_err(anyhow::Error::msg)
        };
        println!("torque goes off; the robot has to stand in its default pose");
        let mut measured = measure(&self.template(kind, file))?;
        let mut findings = Vec::new();
        if self.interactive {
            let names: Vec<&str> =
                robot_order(contract).into_iter().map(|joint| joint.name.as_str()).collect();
            let mut bus = crate::robot::open_bus(port, &measured, MonotonicClock)?;
            let (seen, motions) = by_hand(&names, &mut *bus)?;
            drop(bus);
            correct(&mut measured, &motions);
            print!("Put the robot back into its default pose and press Enter: ");
            std::io::stdout().flush()?;
            std::io::stdin().read_line(&mut String::new())?;
            measured = measure(&measured)?;
            findings = seen.into_iter().filter(|finding| finding.next.contains("Try again")).collect();
        } else {
            println!(
                "signs are 1 unless --calibration says otherwise; --interactive finds them and the order"
            );
        }
        measured.joints()?;
        write_file(path, measured.to_toml().as_bytes())?;
        println!("{}: {} joints", path.display(), measured.joints.len());
        self.conclude(&findings)
    }

    fn conclude(&self, findings: &[Finding]) -> Result<ExitCode> {
        if !findings.is_empty() {
            let mut rows = vec![["", "check", "found", "next step"].map(String::from).to_vec()];
            rows.extend(findings.iter().map(|finding| {
                let outcome = format!("{:?}", finding.outcome).to_uppercase();
                vec![outcome, finding.check.clone(), finding.found.clone(), finding.next.clone()]
            }));
            print_table(&rows);
        }
        if let Some(path) = &self.json {
            write_file(path, &serde_json::to_vec_pretty(findings)?)?;
        }
        Ok(if is_healthy(findings) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Exchanges ids and turns signs as the motions say.
fn correct(file: &mut CalibrationFile, motions: &[Moved]) {
    let before = file.joints.clone();
    for moved in motions {
        if let (Some(joint), Some(really)) = (file.joints.get_mut(moved.asked), before.get(moved.index)) {
            (joint.id, joint.model) = (really.id, really.model.clone());
            joint.sign = if moved.by > 0.0 { really.sign } else { -really.sign };
        }
    }
}

fn by_hand(names: &[&str], bus: &mut dyn JointBus) -> Result<(Vec<Finding>, Vec<Moved>)> {
    let clock = MonotonicClock;
    let read = || -> Result<Vec<f32>, HandError> {
        // Twice: after a long pause the first may be far from the last.
        for _ in 0..3 {
            bus.read(clock.now_us() + 20_000, &|| clock.now_us())?;
        }
        Ok(bus.states().iter().map(|state| state.position).collect())
    };
    Ok(ask_person(names, read, &mut std::io::stdin().lock(), &mut std::io::stdout())?)
}

/// While a person moves joints.
#[derive(Debug, thiserror::Error)]
enum HandError {
    #[error("terminal: {0}")]
    Terminal(#[from] std::io::Error),
    #[error("bus: {0}")]
    Bus(#[from] BusError),
}

fn read_policy(path: &Path) -> Result<Policy> {
    let image = read_image(path)?;
    let (contract, hash) = contract_of(&image)?;
    Ok((contract, hash, Image::parse(&image)?.header().crc32c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_s_motions_exchange_ids_and_turn_signs() {
        let joint = |id: u8, sign| JointCalibration {
            name: format!("j{id}"),
            id,
            model: None,
            zero_offset_rad: 0.0,
            sign,
            range_rad: [-1.0, 1.0],
        };
        let mut file = CalibrationFile {
            robot: "r".into(),
            bus: BusKind::Dynamixel,
            baud: 1_000_000,
            echo: false,
            silence_us: 1_000,
            joints: vec![joint(1, 1), joint(2, 1), joint(3, -1)],
        };
        let moved = |asked, index, by| Moved { asked, index, by };
        correct(&mut file, &[moved(0, 1, 0.3), moved(1, 0, -0.3), moved(2, 2, -0.3)]);
        let seen: Vec<_> = file.joints.iter().map(|j| (j.name.as_str(), j.id, j.sign)).collect();
        assert_eq!(seen, [("j1", 2, 1), ("j2", 1, -1), ("j3", 3, 1)]);
    }
}
