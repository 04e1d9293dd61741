//! Commands that come twice, late, or from a recording of an earlier session.

use super::world::{Node, cart_pole};
use super::{Campaign, Run};
use fastrand::Rng;
use tendon_runtime::State;
use tendon_sim::Environment;
use tendon_wire::message::{Arm, Hello, Message, Observe, Pace, RawState, Run as RunCommand, Stop};
use tendon_wire::mutation::Check;

pub(super) const REPLAY: Campaign = Campaign {
    name: "replay",
    gates: &[19],
    guards: &[Check::FrameSequence, Check::Session, Check::StateSequence],
    run: replay,
};

/// Ticks of a staged start after which something is wrong.
const START_TICKS: u32 = 400;
/// Frames of one earlier session that are kept.
const KEPT: usize = 200;

/// A host that counts its frames, with somebody on the line who has kept them.
struct Line<'n, 'm> {
    node: &'n mut Node<'m>,
    rng: Rng,
    sequence: u16,
    session: u32,
    schema_hash: u64,
    state: RawState,
    period_us: u64,
    /// Frames of this session.
    sent: Vec<Vec<u8>>,
    /// Frames of an earlier one, from its `Hello` on.
    earlier: Vec<Vec<u8>>,
    replayed: u64,
    acted: u64,
    example: Option<String>,
}

impl Line<'_, '_> {
    /// Sends a message and lets the other one act; the controller's answer.
    fn send(&mut self, message: impl Into<Message>) -> Option<Message> {
        let message = message.into();
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = super::world::framed(&message, self.sequence);
        let answer = self.node.bytes(&bytes).pop();
        self.sent.push(bytes);
        for _ in 0..self.rng.usize(0..3) {
            let at = if self.rng.bool() { self.sent.len() - 1 } else { self.rng.usize(..self.sent.len()) };
            // Another Hello is another session: `record` plays those.
            if at > 0 {
                self.replay(at);
            }
        }
        if self.state.sequence > 0 && self.rng.u8(..8) == 0 {
            self.overtaken();
        }
        answer
    }

    /// A raw state of this session in a new frame, as a proxy sends that was overtaken or tries again.
    fn overtaken(&mut self) {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.rng.u32(1..=self.state.sequence);
        let message = Message::from(RawState { sequence, ..self.state.clone() });
        self.sent.push(super::world::framed(&message, self.sequence));
        self.replay(self.sent.len() - 1);
    }

    /// A frame of this session again: nothing may happen.
    fn replay(&mut self, at: usize) {
        let before = self.node.telemetry();
        let answers = self.node.bytes(&self.sent[at]);
        let after = self.node.telemetry();
        self.replayed += 1;
        if !answers.is_empty() || (before.state, before.ticks) != (after.state, after.ticks) {
            self.acted += 1;
            let text = || format!("frame {at} of {} again: {answers:?}", self.sent.len());
            self.example.get_or_insert_with(text);
        }
    }

    /// The whole recording of an earlier session, while no torque is on: no torque may come on.
    fn record(&mut self) {
        for bytes in std::mem::take(&mut self.earlier) {
            self.node.bytes(&bytes);
            self.replayed += 1;
            let state = self.node.telemetry().state;
            if [State::Ready, State::Running].map(|state| state as u8).contains(&state) {
                self.acted += 1;
                self.example.get_or_insert_with(|| "a recorded session armed the controller".into());
                // Back to where no torque is on, for what is still to be tried.
                self.hello();
                self.send(Stop {});
                self.ticks(200);
                return;
            }
        }
    }

    fn hello(&mut self) {
        self.sent.clear();
        if let Some(Message::Identity(identity)) = self.send(Hello {}) {
            self.session = identity.session;
        }
    }

    fn tick(&mut self) -> Option<State> {
        self.state.sequence += 1;
        self.state.time_us += self.period_us;
        match self.send(self.state.clone()) {
            Some(Message::Action(action)) => State::from_code(action.state),
            _ => None,
        }
    }

    fn ticks(&mut self, n: u32) {
        for _ in 0..n {
            self.tick();
        }
    }

    /// Ticks and repeats a command until it is taken.
    fn insist(&mut self, command: impl Fn(&Self) -> Message) -> bool {
        (0..START_TICKS).any(|_| {
            self.tick();
            let command = command(self);
            matches!(self.send(command), Some(Message::Reply(reply)) if reply.code == 0)
        })
    }

    /// A whole session: armed, run, stopped. Whether the host got through.
    fn session(&mut self) -> bool {
        self.hello();
        self.state.sequence = 0;
        self.send(Pace { lockstep: true });
        let armed = self.insist(|line| Arm { schema_hash: line.schema_hash, session: line.session }.into());
        let ran = self.insist(|line| RunCommand { session: line.session }.into());
        let n = self.rng.u32(1..20);
        self.ticks(n);
        self.send(Observe {});
        let stopped = matches!(self.send(Stop {}), Some(Message::Reply(reply)) if reply.code == 0);
        for _ in 0..START_TICKS {
            if self.tick() != Some(State::Damping) {
                break;
            }
        }
        self.earlier = self.sent.iter().take(KEPT).cloned().collect();
        armed && ran && stopped
    }
}

fn replay(run: &mut Run) -> Result<(), String> {
    let (image, schema_hash, mut environment) = cart_pole(3)?;
    let mut observation = vec![0.0; environment.observation_len()];
    environment.reset(run.seed, &mut observation);
    let period_us = (environment.contract().control_period_s * 1e6).round() as u64;
    let total = run.amount(1_000_000, 30_000);
    let seed = run.seed;
    Node::with(&image, |node| {
        let mut line = Line {
            node,
            rng: Rng::with_seed(seed),
            sequence: 0,
            session: 0,
            schema_hash,
            state: environment.raw_state().clone(),
            period_us,
            sent: Vec::new(),
            earlier: Vec::new(),
            replayed: 0,
            acted: 0,
            example: None,
        };
        let (mut sessions, mut through) = (0, 0);
        while line.replayed < total {
            through += u64::from(line.session());
            sessions += 1;
            line.record();
            run.progress(line.replayed, total);
        }
        run.count("frames replayed, duplicated or late", "frames", line.replayed as f64);
        run.none("of them acted", "frames", line.acted, line.example.take());
        run.exactly("sessions in which the host got through", "sessions", through, sessions);
        Ok(())
    })
}
