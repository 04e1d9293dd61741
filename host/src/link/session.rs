//! Requests and answers, whatever carries them.

use super::LinkError;
use std::time::{Duration, Instant};
use tendon_runtime::node::kind_name;
use tendon_runtime::{JointCommand, RawState, Refusal};
use tendon_wire::message::{
    Action, Arm, BlackBoxRecord, Heartbeat, Hello, Identity, Infer, InferGolden, Inject, Message, Observe,
    Pace, ReadBlackBox, ReadTiming, Run, SetProfile, Stop, TABLE_HASH, Telemetry, Timing,
};

/// Time a controller has for an answer. Generous: QEMU shares the machine with builds.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// Time between two hellos to a controller that may still boot.
const HELLO: Duration = Duration::from_millis(300);

/// Carries messages.
pub trait Transport {
    /// Sends one message.
    ///
    /// # Errors
    /// When the port breaks.
    fn send(&mut self, sequence: u16, message: &Message) -> Result<(), LinkError>;
    /// The next good message, if one comes in time. Damaged frames are skipped.
    ///
    /// # Errors
    /// When the port breaks.
    fn receive(&mut self, timeout: Duration) -> Result<Option<(u16, Message)>, LinkError>;
    /// The clock of its timeouts.
    fn now(&self) -> Instant {
        Instant::now()
    }
}

impl<T: Transport + ?Sized> Transport for &mut T {
    fn send(&mut self, sequence: u16, message: &Message) -> Result<(), LinkError> {
        (**self).send(sequence, message)
    }

    fn receive(&mut self, timeout: Duration) -> Result<Option<(u16, Message)>, LinkError> {
        (**self).receive(timeout)
    }

    fn now(&self) -> Instant {
        (**self).now()
    }
}

/// A conversation with one controller.
#[derive(Debug)]
pub struct Session<T> {
    transport: T,
    sequence: u16,
    state_sequence: u32,
    /// Names this session in `Arm` and `Run`.
    nonce: u32,
}

impl<T: Transport> Session<T> {
    /// Says hello and checks that both sides have the same message table.
    ///
    /// # Errors
    /// No answer, or another version.
    pub fn open(transport: T) -> Result<(Self, Identity), LinkError> {
        let (session, identity) = Self::open_any(transport)?;
        if identity.table_hash != TABLE_HASH {
            return Err(LinkError::Version {
                board: identity.board.to_string(),
                firmware: identity.firmware.to_string(),
                found: identity.table_hash,
                expected: TABLE_HASH,
            });
        }
        Ok((session, identity))
    }

    /// Says hello to a controller of any version: its update messages are frozen ([`Session::update`]), the others may
    /// mean something else there.
    ///
    /// # Errors
    /// No answer.
    pub fn open_any(transport: T) -> Result<(Self, Identity), LinkError> {
        let mut session = Self { transport, sequence: 0, state_sequence: 0, nonce: 0 };
        let identity = session.first_hello()?;
        Ok((session, identity))
    }

    /// Says hello until the controller has booted.
    pub(super) fn first_hello(&mut self) -> Result<Identity, LinkError> {
        let deadline = self.transport.now() + ANSWER;
        loop {
            match self.request(&Hello {}.into(), HELLO) {
                Ok(Message::Identity(identity)) => {
                    self.nonce = identity.session;
                    return Ok(identity);
                }
                Err(LinkError::Timeout { .. }) if self.transport.now() < deadline => {}
                Err(error) => return Err(error),
                Ok(_) => return Err(unexpected("Hello")),
            }
        }
    }

    /// The transport underneath.
    pub fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    /// Who is there now.
    ///
    /// # Errors
    /// No answer.
    pub fn identity(&mut self) -> Result<Identity, LinkError> {
        match self.request(&Hello {}.into(), ANSWER)? {
            Message::Identity(identity) => {
                self.nonce = identity.session;
                Ok(identity)
            }
            _ => Err(unexpected("Hello")),
        }
    }

    /// Chooses lockstep or the hardware timer, and starts counting raw states anew.
    ///
    /// # Errors
    /// Refused outside Idle and Fault.
    pub fn pace(&mut self, lockstep: bool) -> Result<(), LinkError> {
        self.state_sequence = 0;
        self.command(&Pace { lockstep }.into(), ANSWER)
    }

    /// Idle or Fault -> Ready.
    ///
    /// # Errors
    /// The refusal.
    pub fn arm(&mut self, schema_hash: u64) -> Result<(), LinkError> {
        self.command(&Arm { schema_hash, session: self.nonce }.into(), ANSWER)
    }

    /// Ready -> Running.
    ///
    /// # Errors
    /// The refusal.
    pub fn run(&mut self) -> Result<(), LinkError> {
        self.command(&Run { session: self.nonce }.into(), ANSWER)
    }

    /// Ready or Running -> Damping.
    ///
    /// # Errors
    /// The refusal.
    pub fn stop(&mut self) -> Result<(), LinkError> {
        self.command(&Stop {}.into(), ANSWER)
    }

    /// Chooses a profile of the contract.
    ///
    /// # Errors
    /// The refusal: no such profile, or a looser one while torque is on.
    pub fn set_profile(&mut self, profile: u8) -> Result<(), LinkError> {
        self.command(&SetProfile { profile }.into(), ANSWER)
    }

    /// Counters and the last observation.
    ///
    /// # Errors
    /// No answer.
    pub fn observe(&mut self) -> Result<Telemetry, LinkError> {
        match self.request(&Observe {}.into(), ANSWER)? {
            Message::Telemetry(telemetry) => Ok(telemetry),
            _ => Err(unexpected("Observe")),
        }
    }

    /// Histograms and counters of the ticks.
    ///
    /// # Errors
    /// No answer.
    pub fn timing(&mut self) -> Result<Timing, LinkError> {
        match self.request(&ReadTiming {}.into(), ANSWER)? {
            Message::Timing(timing) => Ok(timing),
            _ => Err(unexpected("ReadTiming")),
        }
    }

    /// Record `index` of the black box, 0 the oldest; with an index beyond the last, the last tick.
    ///
    /// # Errors
    /// No answer.
    pub fn black_box(&mut self, index: u32) -> Result<BlackBoxRecord, LinkError> {
        match self.request(&ReadBlackBox { index }.into(), ANSWER)? {
            Message::BlackBoxRecord(record) => Ok(record),
            _ => Err(unexpected("ReadBlackBox")),
        }
    }

    /// Makes `ticks` ticks `delay_us` longer, after `after` others; `u32::MAX` us: for ever.
    ///
    /// # Errors
    /// Refused by firmware without feature `inject`.
    pub fn inject(&mut self, after: u32, ticks: u32, delay_us: u32) -> Result<(), LinkError> {
        self.command(&Inject { after, ticks, delay_us }.into(), ANSWER)
    }

    /// One inference of the active network, and the board's timer counts for it.
    ///
    /// # Errors
    /// The refusal, or an input longer than a message holds.
    pub fn infer(&mut self, input: &[f32]) -> Result<(Vec<f32>, u32), LinkError> {
        let input =
            input.iter().copied().collect::<heapless::Vec<f32, { tendon_wire::message::MAX_OBSERVATION }>>();
        match self.request(&Infer { reset: 0, input }.into(), ANSWER)? {
            Message::Inferred(inferred) => Ok((inferred.output.to_vec(), inferred.counts)),
            _ => Err(unexpected("Infer")),
        }
    }

    /// One inference on the input of a golden vector after a reset of the recurrent state, for inputs longer
    /// than a message, and the board's timer counts for it.
    ///
    /// # Errors
    /// The refusal: there is no such vector.
    pub fn infer_golden(&mut self, vector: u16) -> Result<(Vec<f32>, u32), LinkError> {
        match self.request(&InferGolden { vector }.into(), ANSWER)? {
            Message::Inferred(inferred) => Ok((inferred.output.to_vec(), inferred.counts)),
            _ => Err(unexpected("InferGolden")),
        }
    }

    /// Sends a raw state without waiting (the controller's timer answers). Numbers it.
    ///
    /// # Errors
    /// When the port breaks.
    pub fn send_state(&mut self, state: &RawState) -> Result<(), LinkError> {
        let message = self.number(state);
        self.sequence = self.sequence.wrapping_add(1);
        self.transport.send(self.sequence, &message)
    }

    /// Says that this side lives, where it has no state to send.
    ///
    /// # Errors
    /// When the port breaks.
    pub fn heartbeat(&mut self) -> Result<(), LinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        self.transport.send(self.sequence, &Heartbeat { count: self.sequence.into() }.into())
    }

    /// One tick in lockstep: raw state out, action in.
    ///
    /// # Errors
    /// No answer.
    pub fn tick(&mut self, state: &RawState) -> Result<Action, LinkError> {
        let message = self.number(state);
        match self.request(&message, ANSWER)? {
            Message::Action(action) => Ok(action),
            _ => Err(unexpected("RawState")),
        }
    }

    /// The next message the controller sends of itself.
    ///
    /// # Errors
    /// When the port breaks.
    pub fn receive(&mut self, timeout: Duration) -> Result<Option<Message>, LinkError> {
        Ok(self.transport.receive(timeout)?.map(|(_, message)| message))
    }

    fn number(&mut self, state: &RawState) -> Message {
        self.state_sequence = self.state_sequence.wrapping_add(1);
        RawState { sequence: self.state_sequence, ..state.clone() }.into()
    }

    pub(super) fn command(&mut self, message: &Message, timeout: Duration) -> Result<(), LinkError> {
        self.request(message, timeout).map(|_| ())
    }

    /// Sends and waits for the answer with the same number; a refusal is an error.
    pub(super) fn request(&mut self, message: &Message, timeout: Duration) -> Result<Message, LinkError> {
        let waiting_for = kind_name(message.kind());
        self.sequence = self.sequence.wrapping_add(1);
        self.transport.send(self.sequence, message)?;
        let deadline = self.transport.now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(self.transport.now());
            match self.transport.receive(left)? {
                Some((sequence, answer)) if sequence == self.sequence && is_answer(message, &answer) => {
                    return match answer {
                        Message::Reply(reply) if reply.code != 0 => Err(LinkError::Refused {
                            message: waiting_for,
                            refusal: Refusal::from_code(reply.code),
                            code: reply.code,
                            detail: reply.detail,
                        }),
                        answer => Ok(answer),
                    };
                }
                Some(_) => {} // An action of the timer, or an answer that came too late.
                None if left.is_zero() => return Err(LinkError::Timeout { waiting_for, timeout }),
                None => {}
            }
        }
    }
}

/// Whether the controller answers `message` with this. The actions of its timer count their own frames, so
/// the number alone may be a coincidence.
fn is_answer(message: &Message, answer: &Message) -> bool {
    match (message, answer) {
        (_, Message::Reply(reply)) => reply.to == message.kind(),
        (Message::Hello(_), Message::Identity(_))
        | (Message::RawState(_), Message::Action(_))
        | (Message::Infer(_) | Message::InferGolden(_), Message::Inferred(_))
        | (Message::Observe(_), Message::Telemetry(_))
        | (Message::ReadTiming(_), Message::Timing(_))
        | (Message::ReadBlackBox(_), Message::BlackBoxRecord(_))
        | (Message::QuerySlots(_), Message::Slots(_)) => true,
        _ => false,
    }
}

pub(super) fn unexpected(message: &'static str) -> LinkError {
    LinkError::Encode {
        message,
        reason: "the answer is of another kind; build both sides from one version".into(),
    }
}

/// The commands in an action, one per joint in the robot's order.
#[must_use]
pub fn joint_commands(action: &Action) -> Vec<JointCommand> {
    commands_of(action).collect()
}

/// As [`joint_commands`], without memory of its own.
pub fn commands_of(action: &Action) -> impl Iterator<Item = JointCommand> + '_ {
    let at = |values: &[f32], index: usize| values.get(index).copied().unwrap_or(0.0);
    (0..action.position.len()).map(move |index| JointCommand {
        position: at(&action.position, index),
        velocity: at(&action.velocity, index),
        torque: at(&action.torque, index),
        kp: at(&action.kp, index),
        kd: at(&action.kd, index),
        torque_limit: at(&action.torque_limit, index),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use tendon_wire::message::Reply;

    /// Plays back what a controller sends, whatever it is asked.
    struct Script(VecDeque<(u16, Message)>);

    impl Transport for Script {
        fn send(&mut self, _: u16, _: &Message) -> Result<(), LinkError> {
            Ok(())
        }

        fn receive(&mut self, _: Duration) -> Result<Option<(u16, Message)>, LinkError> {
            Ok(self.0.pop_front())
        }
    }

    #[test]
    fn takes_no_action_of_the_timer_for_an_answer_whatever_its_number() {
        let script = [
            (1, Message::from(Action::default())),
            (0, Message::from(Telemetry { ticks: 1, ..Telemetry::default() })),
            (1, Message::from(Reply { to: 0x20, code: 1, detail: 0 })),
            (1, Message::from(Telemetry { ticks: 2, ..Telemetry::default() })),
        ];
        let mut session =
            Session { transport: Script(script.into()), sequence: 0, state_sequence: 0, nonce: 0 };
        assert_eq!(session.observe().unwrap().ticks, 2);
    }

    #[test]
    fn a_controller_with_another_message_table_can_be_updated_and_nothing_else() {
        let identity = Identity { table_hash: TABLE_HASH ^ 1, ..Identity::default() };
        let script = |more: Vec<(u16, Message)>| {
            Script([(1, identity.clone().into())].into_iter().chain(more).collect())
        };
        assert!(matches!(Session::open(script(Vec::new())), Err(LinkError::Version { .. })));
        let done = |to: u8| Reply { to, code: 0, detail: 0 };
        let answers = vec![(2, done(0x14).into()), (3, done(0x11).into()), (4, done(0x12).into())];
        let (mut session, found) = Session::open_any(script(answers)).unwrap();
        assert_eq!(found.table_hash, identity.table_hash);
        session.upload(&[1, 2, 3], |_| ()).unwrap();
    }

    #[test]
    fn a_refusal_of_an_earlier_request_is_not_this_ones() {
        let late = Reply { to: 0x21, code: Refusal::Dwell as u8, detail: 5 };
        let script =
            [(0, late.clone().into()), (1, Reply { to: 0x21, code: 0, detail: 0 }.into()), (2, late.into())];
        let mut session =
            Session { transport: Script(script.into()), sequence: 0, state_sequence: 0, nonce: 0 };
        session.run().unwrap();
        assert!(matches!(
            session.run(),
            Err(LinkError::Refused { refusal: Some(Refusal::Dwell), detail: 5, .. })
        ));
    }
}
