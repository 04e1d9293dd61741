use crate::world::{Parts, spec, state};
use std::cell::Cell;
use tendon_boot::sim::Flash;
use tendon_boot::{Boot, Layout};
use tendon_runtime::node::{
    BoardInfo, CONFIRM_AFTER_US, Clock, Control, LOCKSTEP_SILENCE_US, Loader, handle, receive, write,
};
use tendon_runtime::spec::ContractSpec;
use tendon_runtime::store::{Store, places};
use tendon_runtime::{Cause, Memory, RawState, Refusal, State};
use tendon_wire::frame::{Decoder, MAX_FRAME};
use tendon_wire::message::{
    Action, Arm, Bytes, Confirm, DEVELOPMENT, Floats, Heartbeat, Hello, Identity, ImageAbort, ImageBegin,
    ImageChunk, ImageCommit, Infer, Inferred, Message, NO_SLOT, Observe, PROTOCOL_VERSION, Pace, QuerySlots,
    Reply, Restart, Revert, Run, Slots, Stop, TABLE_HASH, Telemetry, UpdateBegin,
};

const SLOT: usize = 8192;
const PERIOD_US: u64 = 20_000;
const BOARD: BoardInfo = BoardInfo { name: "bench", firmware: "1.2.3" };

pub(crate) struct FakeClock(pub(crate) Cell<u64>);

impl Clock for FakeClock {
    fn now_us(&self) -> u64 {
        self.0.get()
    }
    fn counts(&self) -> u32 {
        0
    }
}

/// A controller's end of the link. Its memory is leaked, as a controller's is static.
pub(crate) struct Node {
    pub(crate) control: Control<'static>,
    loader: Loader<'static, Boot<Flash>>,
    pub(crate) clock: FakeClock,
    state: RawState,
    session: u32,
}

pub(crate) fn slot() -> &'static mut [u8] {
    bytemuck::cast_slice_mut(vec![0u128; SLOT / 16].leak())
}

pub(crate) fn floats(n: usize) -> &'static mut [f32] {
    vec![0.0; n].leak()
}

impl Node {
    fn new() -> Self {
        let capacity = Layout::policies(SLOT as u32, 4096).capacity();
        Self::booted(Flash::new(capacity))
    }

    /// A controller that finds this in its flash.
    fn booted(flash: Flash) -> Self {
        let memory = Memory { arena: floats(256), history: floats(64), observation: floats(64) };
        let mut store = Boot::start(flash, Layout::policies(SLOT as u32, 4096), BOARD.name);
        let [active, inactive] = places(&store.slots(), [slot(), slot()]);
        let mut control = Control::new(active, memory);
        let mut loader = Loader::new(inactive, floats(256), store, &control);
        loader.boot(&mut control).unwrap();
        Self { control, loader, clock: FakeClock(Cell::new(1_000_000)), state: state(), session: 0 }
    }

    pub(crate) fn with(parts: &Parts) -> Self {
        let mut node = Self::new();
        node.update(&parts.image()).unwrap();
        node
    }

    fn reset(self) -> Self {
        Self::booted(self.loader.into_store().into_flash())
    }

    fn slots(&mut self) -> Slots {
        match self.send(QuerySlots {}) {
            Some(Message::Slots(slots)) => slots,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn send(&mut self, message: impl Into<Message>) -> Option<Message> {
        handle(&message.into(), &mut self.loader, &mut self.control, &BOARD, &self.clock)
    }

    /// Sends a command; its refusal with the detail, if any.
    pub(crate) fn command(&mut self, message: impl Into<Message>) -> Result<(), (Refusal, u32)> {
        let message = message.into();
        match self.send(message.clone()) {
            Some(Message::Reply(Reply { to, code, detail })) => {
                assert_eq!(to, message.kind());
                Refusal::from_code(code).map_or(Ok(()), |refusal| Err((refusal, detail)))
            }
            other => panic!("{message:?} was answered with {other:?}"),
        }
    }

    fn chunks(&mut self, image: &[u8]) -> Result<(), (Refusal, u32)> {
        for (index, data) in image.chunks(100).enumerate() {
            let data = Bytes::from_slice(data).unwrap();
            self.command(ImageChunk { offset: index as u32 * 100, data })?;
        }
        Ok(())
    }

    pub(crate) fn update(&mut self, image: &[u8]) -> Result<(), (Refusal, u32)> {
        self.command(ImageBegin { total_len: image.len() as u32 })?;
        self.chunks(image)?;
        self.command(ImageCommit {})
    }

    pub(crate) fn identity(&mut self) -> Identity {
        match self.send(Hello {}) {
            Some(Message::Identity(identity)) => identity,
            other => panic!("{other:?}"),
        }
    }

    /// What a `Hello` does not change.
    fn apart_from_session(&mut self) -> Identity {
        Identity { session: 0, ..self.identity() }
    }

    pub(crate) fn telemetry(&mut self) -> Telemetry {
        match self.send(Observe {}) {
            Some(Message::Telemetry(telemetry)) => telemetry,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn raw_state(&mut self) -> RawState {
        self.state.sequence += 1;
        self.state.time_us += PERIOD_US;
        self.state.clone()
    }

    /// One period of the hardware timer with a raw state before it.
    pub(crate) fn period(&mut self) -> Action {
        self.clock.0.set(self.clock.0.get() + PERIOD_US);
        let state = self.raw_state();
        assert_eq!(self.send(state), None);
        self.timer().unwrap()
    }

    fn timer(&mut self) -> Option<Action> {
        let action = self.control.timer(self.clock.0.get());
        self.follow(action.as_ref());
        action
    }

    fn lockstep(&mut self) -> Action {
        let state = self.raw_state();
        let Some(Message::Action(action)) = self.send(state) else { panic!("no action") };
        self.follow(Some(&action));
        action
    }

    /// The robot goes where it is told.
    pub(crate) fn follow(&mut self, action: Option<&Action>) {
        let Some(action) = action else { return };
        for ((q, position), kp) in self.state.joint_position.iter_mut().zip(&action.position).zip(&action.kp)
        {
            if *kp > 0.0 {
                *q = *position;
            }
        }
    }

    pub(crate) fn run(&mut self) -> Result<(), (Refusal, u32)> {
        self.command(Run { session: self.session })
    }

    pub(crate) fn arm(&mut self) -> Result<(), (Refusal, u32)> {
        let Identity { schema_hash, session, .. } = self.identity();
        self.session = session;
        self.command(Arm { schema_hash, session })
    }

    pub(crate) fn running(parts: &Parts) -> Self {
        let mut node = Self::with(parts);
        (0..12).for_each(|_| drop(node.period()));
        node.arm().unwrap();
        (0..12).for_each(|_| drop(node.period()));
        node.run().unwrap();
        assert_eq!(node.control.state(), State::Running);
        node
    }
}

pub(crate) fn parts() -> Parts {
    Parts::of(&spec(), 1)
}

fn other_contract() -> ContractSpec {
    let mut spec = spec();
    spec.joints[0].torque_limit = 7.0;
    spec
}

#[test]
fn says_who_it_is() {
    let mut node = Node::new();
    let identity = node.identity();
    assert_eq!((identity.protocol, identity.table_hash), (PROTOCOL_VERSION, TABLE_HASH));
    assert_eq!((identity.board.as_str(), identity.firmware.as_str()), ("bench", "1.2.3"));
    assert_eq!((identity.robot.as_str(), identity.schema_hash, identity.image_crc32c), ("", 0, 0));
    assert_eq!((identity.slot_len, identity.state), (SLOT as u32, State::Idle as u8));
    let image = parts().image();
    node.update(&image).unwrap();
    let identity = node.identity();
    assert_eq!((identity.robot.as_str(), identity.schema_hash), ("arm", parts().schema_hash()));
    assert_eq!(identity.image_crc32c.to_le_bytes(), image[4..8]);
    assert_eq!(node.control.period_us(), Some(20_000));
}

#[test]
fn refuses_an_image_larger_than_the_slot() {
    let mut node = Node::new();
    let refused = node.command(ImageBegin { total_len: SLOT as u32 + 1 });
    assert_eq!(refused, Err((Refusal::TooLarge, SLOT as u32)));
    assert_eq!(node.command(ImageBegin { total_len: SLOT as u32 }), Ok(()));
}

#[test]
fn refuses_chunks_out_of_order_and_names_the_next_one() {
    let mut node = Node::new();
    let chunk = |offset| ImageChunk { offset, data: Bytes::from_slice(&[0; 12]).unwrap() };
    assert_eq!(node.command(chunk(0)), Err((Refusal::Order, 0)), "before begin");
    node.command(ImageBegin { total_len: 29 }).unwrap();
    node.command(chunk(0)).unwrap();
    for offset in [0, 5, 13, 24, u32::MAX] {
        assert_eq!(node.command(chunk(offset)), Err((Refusal::Order, 12)), "{offset}");
    }
    node.command(chunk(12)).unwrap();
    assert_eq!(node.command(chunk(24)), Err((Refusal::Order, 24)), "past the announced end");
    assert_eq!(node.command(ImageCommit {}), Err((Refusal::Order, 24)), "before the end");
    node.command(ImageAbort {}).unwrap();
    assert_eq!(node.command(chunk(24)), Err((Refusal::Order, 0)), "after abort");
    assert_eq!(node.command(ImageCommit {}), Err((Refusal::Order, 0)), "after abort");
}

#[test]
fn a_truncated_corrupt_or_false_image_leaves_the_active_one_alone() {
    let mut node = Node::with(&parts());
    let before = node.apart_from_session();
    let image = Parts::of(&spec(), 2).image();
    assert_eq!(node.update(&image[..image.len() - 4]), Err((Refusal::Image, 0)));
    let mut flipped = image.clone();
    flipped.as_mut_slice()[300] ^= 4;
    assert_eq!(node.update(&flipped), Err((Refusal::Image, 0)));
    let mut wrong = Parts::of(&spec(), 2);
    *wrong.golden.last_mut().unwrap() += 1e-6;
    assert_eq!(node.update(&wrong.image()), Err((Refusal::SelfTest, 2)));
    let mut large = Parts::bare(6, 3, 2);
    large.plan.arena_len = 257;
    assert_eq!(node.update(&large.image()), Err((Refusal::Memory, large.plan.arena_len)));
    let wide = Parts::bare(65, 3, 2);
    assert_eq!(node.update(&wide.image()), Err((Refusal::Memory, 65)));
    assert_eq!(node.apart_from_session(), before);
    assert_eq!(node.update(&image), Ok(()), "and the slot takes the next one");
}

#[test]
fn a_bare_network_infers_but_is_never_armed() {
    let parts = Parts::bare(6, 3, 2);
    let mut node = Node::with(&parts);
    for _ in 0..20 {
        node.clock.0.set(node.clock.0.get() + PERIOD_US);
        let state = node.raw_state();
        node.send(state);
        assert_eq!(node.timer(), None, "nothing to control");
    }
    assert_eq!(node.arm(), Err((Refusal::NoContract, 0)));
    let input = Floats::from_slice(&parts.golden[..6]).unwrap();
    let Some(Message::Inferred(Inferred { output, .. })) = node.send(Infer { reset: 0, input }) else {
        panic!()
    };
    assert_eq!(output, parts.golden[6..9]);
    let input = Floats::from_slice(&[0.0; 5]).unwrap();
    assert_eq!(node.command(Infer { reset: 0, input }), Err((Refusal::Input, 6)));
}

#[test]
fn without_an_image_it_neither_arms_nor_infers() {
    let mut node = Node::new();
    assert_eq!(node.arm(), Err((Refusal::NoContract, 0)));
    assert_eq!(node.command(Infer { reset: 0, input: Floats::new() }), Err((Refusal::NoContract, 0)));
    let session = node.identity().session;
    assert_eq!(node.command(Run { session }), Err((Refusal::State, State::Idle as u32)));
    assert_eq!(node.command(Stop {}), Err((Refusal::State, State::Idle as u32)));
}

#[test]
fn refuses_inference_and_pace_while_running() {
    let mut node = Node::running(&parts());
    let refused = Err((Refusal::State, State::Running as u32));
    assert_eq!(node.command(Infer { reset: 0, input: Floats::new() }), refused);
    assert_eq!(node.command(Pace { lockstep: true }), refused);
    node.command(Stop {}).unwrap();
    assert_eq!(node.command(Pace { lockstep: true }), Err((Refusal::State, State::Damping as u32)));
}

#[test]
fn arms_only_for_the_schema_that_the_host_knows() {
    let mut node = Node::with(&parts());
    (0..12).for_each(|_| drop(node.period()));
    let own = parts().schema_hash();
    let session = node.identity().session;
    assert_eq!(node.command(Arm { schema_hash: own ^ 1, session }), Err((Refusal::Schema, own as u32)));
    assert_eq!(node.command(Arm { schema_hash: own, session }), Ok(()));
}

#[test]
fn exchanges_images_of_one_schema_between_two_ticks_of_running() {
    let mut node = Node::running(&parts());
    let before = node.period();
    let old = node.identity().image_crc32c;
    node.update(&Parts::of(&spec(), 2).image()).unwrap();
    assert_ne!(node.identity().image_crc32c, old);
    let after = node.period();
    assert_eq!((after.state, after.cause), (State::Running as u8, 0));
    assert_ne!(after.proposed, before.proposed, "another network");
    node.update(&parts().image()).unwrap();
    assert_eq!(node.identity().image_crc32c, old, "and back");
    assert_eq!(node.period().state, State::Running as u8);
}

#[test]
fn refuses_another_schema_until_it_is_quiet() {
    let mut node = Node::running(&parts());
    let image = Parts::of(&other_contract(), 2).image();
    let old = node.apart_from_session();
    assert_eq!(node.update(&image), Err((Refusal::State, State::Running as u32)));
    assert_eq!(node.apart_from_session(), old);
    assert_eq!(node.period().state, State::Running as u8);
    node.command(Stop {}).unwrap();
    while node.control.state() != State::Idle {
        node.period();
    }
    assert_eq!(node.command(ImageCommit {}), Ok(()), "the verified bytes are still there");
    assert_ne!(node.identity().schema_hash, old.schema_hash);
    assert_eq!(node.arm().unwrap_err().0, Refusal::Dwell, "health starts anew");
}

#[test]
fn ignores_a_raw_state_that_it_has_seen() {
    let mut node = Node::with(&parts());
    node.command(Pace { lockstep: true }).unwrap();
    let mut state = node.raw_state();
    state.sequence = u32::MAX;
    assert!(node.send(state.clone()).is_some());
    assert_eq!(node.send(state.clone()), None, "duplicate");
    state.sequence = u32::MAX - 1;
    assert_eq!(node.send(state.clone()), None, "older");
    state.sequence = 0;
    assert!(node.send(state.clone()).is_some(), "the number wraps");
    assert_eq!(node.telemetry().rejected_states, 2);
    assert_eq!(node.telemetry().ticks, 2);
    node.command(Pace { lockstep: true }).unwrap();
    assert!(node.send(state).is_some(), "a new pace starts a new count");
}

#[test]
fn in_lockstep_a_raw_state_is_a_tick_and_the_timer_is_none() {
    let mut node = Node::with(&parts());
    node.command(Pace { lockstep: true }).unwrap();
    let action = node.lockstep();
    assert_eq!((action.sequence, action.time_us), (node.state.sequence, node.state.time_us));
    assert_eq!(node.timer(), None);
    (0..12).for_each(|_| drop(node.lockstep()));
    node.arm().unwrap();
    (0..12).for_each(|_| drop(node.lockstep()));
    node.command(Run { session: node.session }).unwrap();
    assert_eq!(node.lockstep().state, State::Running as u8);
    assert_eq!(node.telemetry().ticks, 26);
}

#[test]
fn in_lockstep_a_silent_host_loses_torque() {
    let mut node = Node::with(&parts());
    node.command(Pace { lockstep: true }).unwrap();
    (0..12).for_each(|_| drop(node.lockstep()));
    node.arm().unwrap();
    node.clock.0.set(node.clock.0.get() + LOCKSTEP_SILENCE_US);
    node.timer();
    assert_eq!(node.control.state(), State::Ready);
    node.clock.0.set(node.clock.0.get() + 1);
    node.timer();
    assert_eq!(node.control.state(), State::Fault);
    assert_eq!(node.telemetry().cause, Cause::HostSilent as u8);
}

#[test]
fn by_the_timer_a_raw_state_waits_for_its_tick() {
    let mut node = Node::with(&parts());
    let action = node.period();
    assert_eq!((action.sequence, action.time_us), (1, node.clock.0.get()));
    assert_eq!(action.position.len(), 3);
    node.command(Pace { lockstep: true }).unwrap();
    node.command(Pace { lockstep: false }).unwrap();
    let state = node.raw_state();
    assert_eq!(node.send(state), None);
}

/// Controller messages that a line in echo mode brings back.
fn echoes() -> [Message; 5] {
    [
        Identity::default().into(),
        Reply::default().into(),
        Action::default().into(),
        Inferred::default().into(),
        Telemetry::default().into(),
    ]
}

#[test]
fn its_own_messages_are_neither_answered_nor_a_sign_of_life() {
    let mut node = Node::running(&parts());
    for echo in echoes() {
        assert_eq!(node.send(echo), None);
    }
    let mut last = node.period();
    for _ in 0..13 {
        // Raw states stay fresh through another path; only the host is silent.
        node.clock.0.set(node.clock.0.get() + PERIOD_US);
        echoes().into_iter().for_each(|echo| assert_eq!(node.send(echo), None));
        let state = node.raw_state();
        node.control.raw_state(&state);
        last = node.timer().unwrap();
    }
    assert_eq!((last.state, last.cause), (State::Damping as u8, Cause::HostSilent as u8));
}

#[test]
fn a_heartbeat_is_a_sign_of_life() {
    let mut node = Node::running(&parts());
    for count in 0..40 {
        node.clock.0.set(node.clock.0.get() + PERIOD_US);
        assert_eq!(node.send(Heartbeat { count }), None);
        let state = node.raw_state();
        node.control.raw_state(&state);
        assert_eq!(node.timer().unwrap().state, State::Running as u8);
    }
}

#[test]
fn answers_a_frame_with_its_number_and_counts_the_ones_it_refuses() {
    let mut node = Node::new();
    let mut decoder = Decoder::new();
    let mut out = [0; MAX_FRAME];
    let mut buffer = [0; MAX_FRAME];
    let good = write(&Hello {}, 77, &mut buffer).unwrap().to_vec();
    let mut corrupt = good.clone();
    corrupt[5] ^= 1;
    let unknown = {
        let frame = tendon_wire::frame::Frame { kind: 0x7e, sequence: 0, payload: &[] };
        tendon_wire::frame::encode(&frame, &mut buffer).unwrap().to_vec()
    };
    let mut answers = Vec::new();
    for byte in [corrupt, good, unknown].concat() {
        let answer =
            receive(byte, &mut decoder, &mut node.loader, &mut node.control, &BOARD, &node.clock, &mut out);
        answers.extend(answer.map(<[u8]>::to_vec));
    }
    assert_eq!(answers.len(), 1);
    let mut host = Decoder::new();
    let mut frames = 0;
    for byte in &answers[0] {
        if let Some(frame) = host.push(*byte) {
            let frame = frame.unwrap();
            assert_eq!(frame.sequence, 77);
            assert!(matches!(Message::decode(frame.kind, frame.payload), Ok(Message::Identity(_))));
            frames += 1;
        }
    }
    assert_eq!(frames, 1);
    assert_eq!(node.telemetry().rejected_frames, 2);
}

/// The frames of messages with their numbers, one after the other, into a node; the answers' numbers.
fn frames(node: &mut Node, sent: &[(Message, u16)]) -> Vec<u16> {
    let (mut decoder, mut host) = (Decoder::new(), Decoder::new());
    let (mut out, mut buffer) = ([0; MAX_FRAME], [0; MAX_FRAME]);
    let mut answered = Vec::new();
    for (message, sequence) in sent {
        for byte in write(message, *sequence, &mut buffer).unwrap() {
            let answer = receive(
                *byte,
                &mut decoder,
                &mut node.loader,
                &mut node.control,
                &BOARD,
                &node.clock,
                &mut out,
            );
            for byte in answer.unwrap_or(&[]) {
                answered.extend(host.push(*byte).map(|frame| frame.unwrap().sequence));
            }
        }
    }
    answered
}

#[test]
fn a_frame_seen_before_or_late_is_dropped_and_counted_and_hello_begins_again() {
    let mut node = Node::new();
    let observe = |sequence| (Message::from(Observe {}), sequence);
    let hello = |sequence| (Message::from(Hello {}), sequence);
    let sent = [hello(65_534), observe(65_535), observe(65_535), observe(1), observe(0), observe(65_534)];
    assert_eq!(frames(&mut node, &sent), [65_534, 65_535, 1]);
    assert_eq!(node.telemetry().repeated_frames, 3);
    assert_eq!(frames(&mut node, &[observe(1), hello(1), observe(2)]), [1, 2]);
    assert_eq!(node.telemetry().repeated_frames, 4);
}

#[test]
fn a_recorded_arm_or_run_does_nothing_in_a_later_session() {
    let mut node = Node::with(&parts());
    (0..12).for_each(|_| drop(node.period()));
    let Identity { schema_hash, session, .. } = node.identity();
    let recorded = Arm { schema_hash, session };
    let now = node.identity().session;
    assert_ne!(now, session);
    assert_eq!(node.command(recorded), Err((Refusal::Session, 0)));
    assert_eq!(node.command(Arm { schema_hash, session: 0 }), Err((Refusal::Session, 0)));
    node.arm().unwrap();
    (0..12).for_each(|_| drop(node.period()));
    assert_eq!(node.command(Run { session }), Err((Refusal::Session, 0)));
    assert_eq!(node.command(Run { session: node.session }), Ok(()));
}

#[test]
fn telemetry_counts_what_happened() {
    let mut node = Node::running(&parts());
    let ticks = node.telemetry().ticks;
    assert_eq!(ticks, 24);
    let mut bad = node.raw_state();
    bad.command[0] = f32::NAN;
    node.send(bad);
    node.timer();
    node.control.counters().dropped = 5;
    let telemetry = node.telemetry();
    assert_eq!((telemetry.state, telemetry.cause), (State::Damping as u8, Cause::InvalidState as u8));
    assert_eq!((telemetry.ticks, telemetry.misses), (25, 0));
    assert_eq!((telemetry.fallbacks, telemetry.rejected_states, telemetry.dropped), (1, 1, 5));
    assert_eq!(telemetry.observation.len(), parts().plan.n_inputs as usize);
}

#[test]
fn actions_come_in_the_robots_joint_order() {
    let mut asymmetric = spec();
    asymmetric.joints[0].kp = 11.0;
    let mut node = Node::with(&Parts::of(&asymmetric, 1));
    (0..12).for_each(|_| drop(node.period()));
    node.arm().unwrap();
    assert_eq!(node.period().kp, [20.0, 20.0, 11.0], "policy's joint 0 is the robot's joint 2");
}

#[test]
fn codes_survive_the_way_back() {
    for code in 0..=255 {
        assert!(Refusal::from_code(code).is_none_or(|refusal| refusal as u8 == code));
        assert!(State::from_code(code).is_none_or(|state| state as u8 == code));
        assert!(Cause::from_code(code).is_none_or(|cause| cause as u8 == code));
    }
}

fn crc_of(parts: &Parts) -> u32 {
    u32::from_le_bytes(parts.image()[4..8].try_into().unwrap())
}

#[test]
fn boots_the_policy_that_was_confirmed_and_forgets_the_one_on_trial() {
    let mut node = Node::with(&parts());
    assert_eq!(node.identity().flags & DEVELOPMENT, DEVELOPMENT, "no keys, and says so");
    node = node.reset();
    assert_eq!((node.identity().image_crc32c, node.slots().policy_slot), (0, NO_SLOT));
    node.update(&parts().image()).unwrap();
    node.command(Confirm { part: 0 }).unwrap();
    assert_eq!(node.command(Confirm { part: 0 }), Err((Refusal::Trial, 0)), "nothing is on trial");
    node = node.reset();
    assert_eq!(node.identity().image_crc32c, crc_of(&parts()));
    node.update(&Parts::of(&spec(), 2).image()).unwrap();
    assert_eq!(node.identity().image_crc32c, crc_of(&Parts::of(&spec(), 2)));
    node = node.reset();
    assert_eq!(node.identity().image_crc32c, crc_of(&parts()));
}

#[test]
fn gives_a_trial_up_between_two_ticks_and_takes_no_third_policy_meanwhile() {
    let mut node = Node::running(&parts());
    node.command(Confirm { part: 0 }).unwrap();
    node.update(&Parts::of(&spec(), 2).image()).unwrap();
    assert_eq!(node.update(&Parts::of(&spec(), 3).image()), Err((Refusal::Trial, 0)));
    node.command(Revert { part: 0 }).unwrap();
    assert_eq!(node.identity().image_crc32c, crc_of(&parts()));
    assert_eq!(node.period().state, State::Running as u8);
    assert_eq!(node.command(Revert { part: 0 }), Err((Refusal::Trial, 0)));
    // Another schema waits until it is quiet, both ways.
    let mut node = Node::with(&Parts::of(&other_contract(), 1));
    node.command(Confirm { part: 0 }).unwrap();
    node.update(&parts().image()).unwrap();
    (0..12).for_each(|_| drop(node.period()));
    node.arm().unwrap();
    assert_eq!(node.command(Revert { part: 0 }), Err((Refusal::State, State::Ready as u32)));
    assert_eq!(node.identity().image_crc32c, crc_of(&parts()), "and stays on trial");
    assert_eq!(node.slots().policy_trial, 1);
}

#[test]
fn a_policy_without_one_before_it_leaves_none_when_it_is_given_up() {
    let mut node = Node::with(&parts());
    node.command(Revert { part: 0 }).unwrap();
    assert_eq!((node.identity().image_crc32c, node.control.state()), (0, State::Idle));
    node.update(&parts().image()).unwrap();
}

#[test]
fn a_policy_is_confirmed_by_running_long_enough_and_not_in_lockstep() {
    let mut node = Node::running(&parts());
    let periods = CONFIRM_AFTER_US / PERIOD_US;
    for _ in 0..periods - 20 {
        node.period();
    }
    assert_eq!(node.slots().policy_trial, 1, "not yet");
    // A break starts the count anew.
    node.command(Stop {}).unwrap();
    while node.control.state() != State::Idle {
        node.period();
    }
    while node.arm().is_err() {
        node.period();
    }
    while node.command(Run { session: node.session }).is_err() {
        node.period();
    }
    (0..periods - 20).for_each(|_| drop(node.period()));
    assert_eq!(node.slots().policy_trial, 1, "in two pieces");
    (0..40).for_each(|_| drop(node.period()));
    assert_eq!(node.slots().policy_trial, 0);
    node = node.reset();
    assert_eq!(node.identity().image_crc32c, crc_of(&parts()));

    let mut node = Node::with(&parts());
    node.command(Pace { lockstep: true }).unwrap();
    while node.arm().is_err() {
        node.lockstep();
    }
    while node.command(Run { session: node.session }).is_err() {
        node.lockstep();
    }
    for _ in 0..2 * periods {
        node.clock.0.set(node.clock.0.get() + PERIOD_US);
        node.lockstep();
    }
    assert_eq!((node.control.state(), node.slots().policy_trial), (State::Running, 1));
}

#[test]
fn restarts_only_when_it_is_quiet_and_knows_no_third_part() {
    let mut node = Node::running(&parts());
    assert_eq!(node.command(Restart {}), Err((Refusal::State, State::Running as u32)));
    assert!(!node.loader.wants_restart());
    let mut node = Node::new();
    node.command(Restart {}).unwrap();
    assert!(node.loader.wants_restart());
    let begin = UpdateBegin { part: 2, total_len: 1000, offset: 0, crc32c: 0 };
    assert_eq!(node.command(begin), Err((Refusal::Input, 2)));
    assert_eq!(node.command(Confirm { part: 7 }), Err((Refusal::Input, 7)));
    let firmware = UpdateBegin { part: 1, total_len: 1000, offset: 0, crc32c: 0 };
    assert_eq!(node.command(firmware), Err((Refusal::TooLarge, 0)), "this controller has no firmware slots");
}
