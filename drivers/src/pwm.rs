//! Hobby servos: a pulse every 20 ms, its width the angle. **They report nothing**: what a [`PwmJoints`] gives as
//! states is what it commanded, and a blocked or missing servo looks like a good one. Not for policies that
//! observe joints they have to trust.

use crate::{BusError, Calibration, Clock, Counters, JointBus, JointCommand, JointState, MAX_JOINTS};
use core::f32::consts::FRAC_PI_2;
use embedded_hal::pwm::SetDutyCycle;

/// Pulse widths of a servo.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pulse {
    /// Period of the PWM, us.
    pub period_us: u32,
    /// Narrowest pulse, us.
    pub low_us: f32,
    /// Widest pulse, us.
    pub high_us: f32,
    /// Angle from the narrowest to the widest, rad.
    pub travel: f32,
}

impl Default for Pulse {
    /// 50 Hz, 500 to 2500 us over 180 degrees: the common analogue servo. The data sheet of yours decides.
    fn default() -> Self {
        Self { period_us: 20_000, low_us: 500.0, high_us: 2500.0, travel: 2.0 * FRAC_PI_2 }
    }
}

impl Pulse {
    /// Width for a servo angle, us; the middle pulse is angle 0. Clipped to the pulses.
    #[must_use]
    pub fn width_us(&self, angle: f32) -> f32 {
        let middle = (self.low_us + self.high_us) / 2.0;
        let width = middle + angle / self.travel * (self.high_us - self.low_us);
        if width.is_finite() { tendon_runtime::math::clip(width, self.low_us, self.high_us) } else { middle }
    }

    /// Duty of `most` for a pulse.
    fn duty(&self, width_us: f32, most: u16) -> u16 {
        (width_us / self.period_us as f32 * f32::from(most)) as u16
    }
}

/// One joint.
#[derive(Debug)]
pub struct PwmJoint<P> {
    /// Channel that the servo hangs on.
    pub channel: P,
    /// Mounting; the servo's angle counts from its middle pulse.
    pub calibration: Calibration,
    /// Pulses.
    pub pulse: Pulse,
}

/// Hobby servos, joints in the robot's order.
///
/// A command with a position gain is a pulse; one without (damping, torque, velocity) is no pulse, after which
/// most servos give way. Torque limits mean nothing to them.
#[derive(Debug)]
pub struct PwmJoints<P: SetDutyCycle, const N: usize> {
    joints: [PwmJoint<P>; N],
    states: [JointState; N],
    on: bool,
    errors: u32,
}

impl<P: SetDutyCycle, const N: usize> PwmJoints<P, N> {
    /// Takes the channels; no pulses yet.
    ///
    /// # Errors
    /// Too many joints, or a channel that cannot be set.
    pub fn new(joints: [PwmJoint<P>; N]) -> Result<Self, BusError> {
        if !(1..=MAX_JOINTS).contains(&N) {
            return Err(BusError::Joints);
        }
        let mut this = Self { joints, states: [JointState::default(); N], on: false, errors: 0 };
        if this.silence() { Ok(this) } else { Err(BROKEN) }
    }

    /// No pulse on any channel. True: every channel took it.
    fn silence(&mut self) -> bool {
        // All of them, also behind one that fails.
        let mut all = true;
        for joint in &mut self.joints {
            all &= joint.channel.set_duty_cycle_fully_off().is_ok();
        }
        all
    }
}

const BROKEN: BusError = BusError::Port(embedded_io::ErrorKind::Other);

impl<P: SetDutyCycle, const N: usize> JointBus for PwmJoints<P, N> {
    fn states(&self) -> &[JointState] {
        &self.states
    }

    fn has_feedback(&self) -> bool {
        false
    }

    /// Nothing is measured: the states stay what was commanded, with the time of the call.
    fn read(&mut self, _: u64, clock: Clock<'_>) -> Result<bool, BusError> {
        let now_us = clock();
        self.states.iter_mut().for_each(|state| state.at_us = Some(now_us));
        Ok(true)
    }

    fn write(&mut self, commands: &[JointCommand]) -> Result<(), BusError> {
        let commands = commands.iter().copied().chain(core::iter::repeat(JointCommand::default()));
        let mut good = true;
        for ((joint, state), command) in self.joints.iter_mut().zip(&mut self.states).zip(commands) {
            let angle = joint.calibration.servo(command.position).filter(|_| self.on && command.kp > 0.0);
            let set = match angle {
                Some(angle) => {
                    state.position = joint.calibration.joint(angle);
                    let most = joint.channel.max_duty_cycle();
                    joint.channel.set_duty_cycle(joint.pulse.duty(joint.pulse.width_us(angle), most))
                }
                None => joint.channel.set_duty_cycle_fully_off(),
            };
            good &= set.is_ok();
        }
        if good {
            return Ok(());
        }
        self.errors = self.errors.wrapping_add(1);
        Err(BROKEN)
    }

    fn torque(&mut self, on: bool, _: Clock<'_>) -> Result<(), BusError> {
        self.on = on;
        if on || self.silence() { Ok(()) } else { Err(BROKEN) }
    }

    fn counters(&self) -> Counters {
        Counters { refusals: self.errors, ..Counters::default() }
    }

    fn wire_us(&self) -> u32 {
        0
    }

    fn when_silent(&self) -> &'static str {
        "the timer goes on sending the last pulse until it is reset"
    }
}

impl<P: SetDutyCycle, const N: usize> Drop for PwmJoints<P, N> {
    fn drop(&mut self) {
        self.silence();
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::convert::Infallible;
    use std::cell::Cell;
    use std::rc::Rc;

    #[derive(Clone)]
    struct Channel(Rc<Cell<u16>>);

    impl embedded_hal::pwm::ErrorType for Channel {
        type Error = Infallible;
    }

    impl SetDutyCycle for Channel {
        fn max_duty_cycle(&self) -> u16 {
            20_000
        }

        fn set_duty_cycle(&mut self, duty: u16) -> Result<(), Infallible> {
            self.0.set(duty);
            Ok(())
        }
    }

    fn servo(zero: f32, sign: i8, range: [f32; 2]) -> (PwmJoints<Channel, 1>, Rc<Cell<u16>>) {
        let duty = Rc::new(Cell::new(7));
        let calibration = Calibration::new(zero, sign, range).unwrap();
        let joint = PwmJoint { channel: Channel(duty.clone()), calibration, pulse: Pulse::default() };
        (PwmJoints::new([joint]).unwrap(), duty)
    }

    fn at(position: f32) -> [JointCommand; 1] {
        [JointCommand { position, kp: 1.0, ..JointCommand::default() }]
    }

    // One count of this channel is one microsecond.
    #[test]
    fn an_angle_is_a_pulse_of_500_to_2500_us() {
        let (mut servo, duty) = servo(0.0, 1, [-2.0, 2.0]);
        servo.torque(true, &|| 0).unwrap();
        for (angle, pulse) in [(0.0, 1500), (FRAC_PI_2, 2500), (-FRAC_PI_2, 500), (9.0, 2500)] {
            servo.write(&at(angle)).unwrap();
            assert_eq!(duty.get(), pulse, "{angle} rad");
        }
    }

    #[test]
    fn zero_sign_and_range_are_applied() {
        let (mut servo, duty) = servo(FRAC_PI_2 / 2.0, -1, [-0.1, FRAC_PI_2]);
        servo.torque(true, &|| 0).unwrap();
        servo.write(&at(0.0)).unwrap();
        assert_eq!(duty.get(), 2000);
        servo.write(&at(FRAC_PI_2 / 2.0)).unwrap();
        assert_eq!(duty.get(), 1500);
        servo.write(&at(-1.0)).unwrap();
        assert_eq!(duty.get(), 2063, "clipped to -0.1 rad");
        assert!((servo.states()[0].position + 0.1).abs() < 1e-6, "what was commanded, after the clip");
    }

    #[test]
    fn there_is_no_pulse_without_torque_without_gain_or_for_nan_and_none_after_the_end() {
        let (mut servo, duty) = servo(0.0, 1, [-2.0, 2.0]);
        assert_eq!(duty.get(), 0);
        servo.write(&at(0.5)).unwrap();
        assert_eq!(duty.get(), 0, "torque was never switched on");
        servo.torque(true, &|| 0).unwrap();
        servo.write(&at(f32::NAN)).unwrap();
        assert_eq!(duty.get(), 0);
        servo.write(&[JointCommand { kd: 1.0, ..JointCommand::default() }]).unwrap();
        assert_eq!(duty.get(), 0, "damping is no pulse");
        servo.write(&at(0.5)).unwrap();
        assert!(duty.get() > 0);
        drop(servo);
        assert_eq!(duty.get(), 0);
    }
}
