//! A robot on this computer's own serial port: calibration, bus, and the controller that runs here in real time.

mod calibration;
mod controller;
mod port;
mod priority;
mod simulated;

pub use calibration::{BusKind, CalibrationFile, CalibrationFileError, JointCalibration};
pub use controller::{Ended, Live, RunError, Settings, Summary, run};
pub use port::{BusPort, MonotonicClock, PortError};
pub use priority::{Granted, Priority, kernel, lock_memory, prefault_stack, real_time_priority};
pub(crate) use simulated::robot_order;
pub use simulated::{
    Simulated, SimulatedRobot, calibration_for, launch_simulated, serve_simulated, simulated_bus,
};

use tendon_drivers::dynamixel::{self, DynamixelBus, Follow};
use tendon_drivers::feetech::{self, FeetechBus};
use tendon_drivers::{BusError, Echo, JointBus, Timing};

/// Time after which a silent host has stopped the servos that can watch for it, us.
pub const BUS_WATCHDOG_US: u32 = 100_000;

/// Why a bus cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The calibration.
    #[error(transparent)]
    Calibration(#[from] CalibrationFileError),
    /// The servos.
    #[error("port {port}: {source}")]
    Bus {
        /// Path of the port.
        port: String,
        /// What went wrong.
        source: BusError,
    },
}

/// Opens the bus of a calibrated robot; torque is off, and goes off again when the bus is dropped.
///
/// # Errors
/// The port, a calibration that does not hold, or the first servo that does not answer.
pub fn open_bus(
    port: &str,
    calibration: &CalibrationFile,
    clock: MonotonicClock,
) -> Result<Box<dyn JointBus + Send>, OpenError> {
    let line = BusPort::open(port, calibration.baud)?;
    let timing = timing(calibration);
    let now = || clock.now_us();
    let bus = |source| OpenError::Bus { port: port.into(), source };
    Ok(match calibration.bus {
        BusKind::Dynamixel => {
            let joints = calibration
                .joints()?
                .into_iter()
                .map(|(id, calibration, _)| dynamixel::Joint { id, calibration, follow: Follow::Position })
                .collect::<Vec<_>>();
            Box::new(DynamixelBus::open(line, timing, &joints, BUS_WATCHDOG_US, &now).map_err(bus)?)
        }
        BusKind::Feetech => {
            let joints = calibration
                .joints()?
                .into_iter()
                .map(|(id, calibration, model)| {
                    let model = model.and_then(feetech::Model::named).unwrap_or(&feetech::MODELS[0]);
                    feetech::Joint { id, calibration, model }
                })
                .collect::<Vec<_>>();
            Box::new(FeetechBus::open(line, timing, &joints, &now).map_err(bus)?)
        }
    })
}

/// How the line of a calibrated robot is.
#[must_use]
pub fn timing(calibration: &CalibrationFile) -> Timing {
    let echo = if calibration.echo { Echo::Full } else { Echo::None };
    Timing { echo, silence_us: calibration.silence_us, ..Timing::new(calibration.baud) }
}
