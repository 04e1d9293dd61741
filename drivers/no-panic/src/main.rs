//! All drivers behind pointers to the C library's read and write, so that nothing is known at compile time. Never run.
#![no_std]
#![no_main]

use core::ffi::{c_int, c_void};
use core::hint::black_box;
use embedded_hal::pwm::SetDutyCycle;
use embedded_io::{ErrorKind, ErrorType, Read, ReadReady, Write};
use tendon_drivers::dynamixel::{self, DynamixelBus, Follow};
use tendon_drivers::feetech::{self, FeetechBus};
use tendon_drivers::pwm::{Pulse, PwmJoint, PwmJoints};
use tendon_drivers::{Calibration, JointBus, JointCommand, Timing};

#[link(name = "c")]
unsafe extern "C" {
    fn read(fd: c_int, buffer: *mut c_void, count: usize) -> isize;
    fn write(fd: c_int, buffer: *const c_void, count: usize) -> isize;
    /// Nobody defines it: what can panic does not link.
    fn a_panic_is_reachable() -> !;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: there is no such function; the linker refuses.
    unsafe { a_panic_is_reachable() }
}

struct Port;

impl ErrorType for Port {
    type Error = ErrorKind;
}

impl Read for Port {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, ErrorKind> {
        // SAFETY: pointer and length are of one slice.
        let count = unsafe { read(0, out.as_mut_ptr().cast(), out.len()) };
        usize::try_from(count).map_err(|_| ErrorKind::Other)
    }
}

impl ReadReady for Port {
    fn read_ready(&mut self) -> Result<bool, ErrorKind> {
        Ok(black_box(true))
    }
}

impl Write for Port {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        // SAFETY: pointer and length are of one slice.
        let count = unsafe { write(1, bytes.as_ptr().cast(), bytes.len()) };
        usize::try_from(count).map_err(|_| ErrorKind::Other)
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

impl embedded_hal::pwm::ErrorType for Port {
    type Error = core::convert::Infallible;
}

impl SetDutyCycle for Port {
    fn max_duty_cycle(&self) -> u16 {
        black_box(1000)
    }

    fn set_duty_cycle(&mut self, duty: u16) -> Result<(), Self::Error> {
        black_box(duty);
        Ok(())
    }
}

fn exercise(bus: &mut dyn JointBus, clock: &dyn Fn() -> u64) {
    let command = JointCommand { position: black_box(0.1), kp: black_box(1.0), ..JointCommand::default() };
    let commands = [command; 40];
    let _ = bus.read(black_box(5), clock);
    let _ = bus.torque(black_box(true), clock);
    let _ = bus.write(commands.get(..black_box(3)).unwrap_or(&[]));
    black_box((bus.counters(), bus.wire_us(), bus.has_feedback(), bus.when_silent(), bus.states().len()));
}

/// Never called; linked all the same.
#[unsafe(no_mangle)]
extern "C" fn main() -> c_int {
    let clock = || black_box(1u64);
    let Ok(calibration) = Calibration::new(black_box(0.1), black_box(1), [black_box(-1.0), black_box(1.0)]) else {
        return 1;
    };
    let timing = Timing::new(black_box(1_000_000));
    let id = || black_box(1u8);
    let joints = [(); 3].map(|()| dynamixel::Joint { id: id(), calibration, follow: Follow::Position });
    let found = DynamixelBus::scan(Port, timing, 1..=id(), &clock, |found| {
        black_box(found);
    });
    black_box(found.is_ok());
    if let Ok(mut bus) = DynamixelBus::open(Port, timing, &joints, black_box(100_000), &clock) {
        exercise(&mut bus, &clock);
        black_box((bus.health(black_box(0), &clock).is_ok(), bus.firmware(black_box(1), &clock).is_ok()));
    }
    let Some(model) = feetech::MODELS.first() else { return 1 };
    let joints = [(); 3].map(|()| feetech::Joint { id: id(), calibration, model });
    let found = FeetechBus::scan(Port, timing, 1..=id(), &clock, |found| {
        black_box(found);
    });
    black_box(found.is_ok());
    if let Ok(mut bus) = FeetechBus::open(Port, timing, &joints, &clock) {
        exercise(&mut bus, &clock);
        black_box((bus.health(black_box(0), &clock).is_ok(), bus.firmware(black_box(1), &clock).is_ok()));
    }
    let joints = [(); 2].map(|()| PwmJoint { channel: Port, calibration, pulse: Pulse::default() });
    if let Ok(mut bus) = PwmJoints::new(joints) {
        exercise(&mut bus, &clock);
    }
    0
}
