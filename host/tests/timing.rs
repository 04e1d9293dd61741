//! Late and hanging ticks on the firmware in QEMU, with instructions counted, and on threads of this computer.

mod common;

use common::*;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tendon::link::{ControllerKind, DeadlineThread, HostFlash, Line, LinkError, Session};
use tendon_boot::{Boot, Layout};
use tendon_compiler::sample::{Hidden, mlp, with_metadata};
use tendon_compiler::{ContractChoice, Manifest, Options, compile};
use tendon_runtime::cost;
use tendon_runtime::deadline::{LATCH_MISSES, Outlet};
use tendon_runtime::node::{self, BoardInfo, Clock, Control, Loader};
use tendon_runtime::response::BoardTiming;
use tendon_runtime::spec::{ContractSpec, METADATA_KEY};
use tendon_runtime::store::{Store, places};
use tendon_runtime::timing::ResetCause;
use tendon_runtime::{AlignedBytes, Cause, Image, Memory, RawState, Refusal, State};
use tendon_sim::Environment;
use tendon_wire::frame::{Decoder, MAX_FRAME};
use tendon_wire::message::{Action, Arm, Bytes, Hello, ImageBegin, ImageChunk, ImageCommit, Message, Run};

const PERIOD_US: u32 = 2000;
const DEADLINE_US: u32 = 1750;

/// The cart-pole with another period, quick to arm, and a network of these hidden layers.
fn policy(period_us: u32, hidden: &[usize]) -> (AlignedBytes, u64, RawState) {
    let mut environment = tendon_sim::tasks::find("cart-pole").unwrap().make().unwrap();
    let mut observation = vec![0.0; environment.observation_len()];
    environment.reset(1, &mut observation);
    let state = environment.raw_state().clone();
    let (image, schema) = image_of(environment.contract().clone(), period_us, hidden);
    (image, schema, state)
}

/// The Go1's contract, twelve joints, and a robot that stands.
fn go1(period_us: u32) -> (AlignedBytes, u64, RawState) {
    let text = include_str!("../../models/contracts/go1_joystick.toml");
    let contract = ContractChoice::Toml { file: "go1_joystick.toml", text };
    let image = compile(&mlp(&[48, 8, 12], Hidden::Tanh, 1), &Options { contract, ..Options::default() });
    let spec = Manifest::of_image(&image.unwrap().image).unwrap().contract.unwrap();
    let state = RawState {
        base_orientation: [1.0, 0.0, 0.0, 0.0],
        joint_position: spec.joints.iter().map(|joint| joint.default_position).collect(),
        joint_velocity: spec.joints.iter().map(|_| 0.0).collect(),
        command: spec.commands.iter().map(|_| 0.0).collect(),
        ..RawState::default()
    };
    let (image, schema) = image_of(spec, period_us, &[32]);
    (image, schema, state)
}

fn image_of(mut spec: ContractSpec, period_us: u32, hidden: &[usize]) -> (AlignedBytes, u64) {
    spec.control_period_s = f64::from(period_us) * 1e-6;
    let fallback = &mut spec.fallback;
    (fallback.dwell_s, fallback.hold_s, fallback.damp_s) = (0.01, 0.0, 0.012);
    (fallback.state_timeout_s, fallback.heartbeat_timeout_s) = (1.0, 2.0);
    let compiled = spec.compile().unwrap();
    let n_obs = compiled.view().header.n_observation as usize;
    let sizes: Vec<usize> = [n_obs].iter().chain(hidden).chain(&[spec.actions.len()]).copied().collect();
    let onnx = with_metadata(mlp(&sizes, Hidden::Tanh, 3), METADATA_KEY, &spec.to_json());
    (compile(&onnx, &Options::default()).unwrap().image, compiled.schema_hash())
}

/// The firmware for tests by its timer, on a clock that counts its instructions.
fn line() -> Option<Session<Line>> {
    if !tendon::link::qemu_is_there() || tendon::link::firmware_path(ControllerKind::QemuInject).is_none() {
        println!("SKIPPED: QEMU or the firmware for tests is missing; run `cargo xtask test`");
        return None;
    }
    Some(Session::open(Line::launch(None).unwrap()).unwrap().0)
}

/// A controller by its timer, fed with raw states.
struct Bench {
    session: Session<Line>,
    schema: u64,
    state: RawState,
    /// Every action since `clear`.
    actions: Vec<Action>,
}

impl Bench {
    fn new(session: Session<Line>) -> Self {
        Self::with(session, policy(PERIOD_US, &[32]))
    }

    fn with(session: Session<Line>, (image, schema, state): (AlignedBytes, u64, RawState)) -> Self {
        let mut bench = Self { session, schema, state, actions: Vec::new() };
        bench.session.upload(&image, |_| ()).unwrap();
        bench.session.pace(false).unwrap();
        bench.send();
        bench
    }

    fn send(&mut self) {
        self.state.time_us += u64::from(PERIOD_US);
        self.session.send_state(&self.state).unwrap();
    }

    /// Sends a state per action and collects the actions, until `done` says so of the last.
    fn until(&mut self, what: &str, mut done: impl FnMut(&Action) -> bool) {
        let end_us = self.session.transport().now_us() + 20_000_000;
        while self.session.transport().now_us() < end_us {
            match self.session.receive(Duration::from_millis(50)).unwrap() {
                Some(Message::Action(action)) => {
                    self.send();
                    self.actions.push(action);
                    if self.actions.last().is_some_and(&mut done) {
                        return;
                    }
                }
                Some(_) => {}
                None => self.send(),
            }
        }
        panic!("no {what} in time; last {:?}", self.actions.last());
    }

    fn misses(&mut self) -> u32 {
        self.session.observe().unwrap().misses
    }

    fn ticks(&mut self, count: usize) {
        let mut left = count;
        self.until("ticks", |_| {
            left -= 1;
            left == 0
        });
    }

    /// From Idle or Fault to Running.
    fn run(&mut self) {
        self.persist(|bench| bench.session.arm(bench.schema));
        self.persist(|bench| bench.session.run());
        self.until("Running", |action| action.state == State::Running as u8);
        self.actions.clear();
    }

    fn persist(&mut self, mut command: impl FnMut(&mut Self) -> Result<(), LinkError>) {
        for _ in 0..500 {
            self.ticks(2);
            match command(self) {
                Ok(()) => return,
                Err(LinkError::Refused { refusal: Some(Refusal::Dwell | Refusal::Pose), .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        panic!("never taken");
    }
}

fn is_damping(action: &Action) -> bool {
    action.state == State::Damping as u8 && action.kp.iter().chain(&action.torque).all(|v| *v == 0.0)
}

fn is_torque_free(action: &Action) -> bool {
    let values = [&action.kp, &action.kd, &action.torque, &action.torque_limit];
    values.into_iter().flatten().all(|v| *v == 0.0)
}

/// One action in each period, none left out and none twice.
fn assert_one_action_per_tick(actions: &[Action]) {
    for pair in actions.windows(2) {
        let gap = pair[1].time_us - pair[0].time_us;
        assert!(gap.abs_diff(PERIOD_US.into()) < 50, "{gap} us between two actions: {pair:#?}");
    }
}

#[test]
fn every_late_tick_is_replaced_by_the_fallback_in_the_same_tick_and_counted() {
    let Some(session) = line() else { return };
    let mut bench = Bench::new(session);
    let cycles = 26;
    for cycle in 0..cycles {
        bench.run();
        let before = bench.misses();
        // Late by less than a period, in four ticks one after the other.
        bench.session.inject(3, LATCH_MISSES, DEADLINE_US + 100).unwrap();
        bench.until("Fault", |action| action.state == State::Fault as u8);
        bench.ticks(3);
        let actions = std::mem::take(&mut bench.actions);
        assert_one_action_per_tick(&actions);
        let late: Vec<&Action> =
            actions.iter().filter(|action| action.tick_us.abs_diff(DEADLINE_US) < 40).collect();
        assert_eq!(late.len() as u32, LATCH_MISSES, "cycle {cycle}: {actions:#?}");
        assert!(late.iter().all(|action| action.cause == Cause::Overrun as u8));
        let (last, damped) = late.split_last().unwrap();
        assert!(damped.iter().all(|action| is_damping(action)), "cycle {cycle}: {late:#?}");
        assert!(last.state == State::Fault as u8 && is_torque_free(last), "latched: {last:?}");
        let first = actions.iter().position(|action| action.state != State::Running as u8).unwrap();
        assert!(
            actions[first..].iter().all(|action| is_damping(action) || is_torque_free(action)),
            "what the late tick made went out"
        );
        assert_eq!(bench.misses() - before, LATCH_MISSES, "cycle {cycle}");
    }
    assert!(cycles * LATCH_MISSES >= 100);
    let timing = bench.session.timing().unwrap();
    assert_eq!((timing.misses, timing.latches), (cycles * LATCH_MISSES, cycles));
    assert_eq!(timing.reset_cause, ResetCause::PowerOn as u8, "the watchdog had no reason");
}

#[test]
fn a_tick_that_hangs_ends_in_a_watchdog_reset_without_torque_and_the_black_box_says_what_was() {
    let Some(session) = line() else { return };
    let mut bench = Bench::new(session);
    for boots in 2..4 {
        bench.run();
        bench.ticks(40);
        bench.session.inject(5, 1, u32::MAX).unwrap();
        bench.actions.clear();
        // Fallbacks in the periods that follow, then no torque.
        bench.until("Fault", |action| action.state == State::Fault as u8);
        let actions = std::mem::take(&mut bench.actions);
        assert_one_action_per_tick(&actions[..actions.len() - 3]);
        let good = actions.iter().rposition(|action| action.state == State::Running as u8).unwrap();
        assert_eq!(actions.len() - 1 - good, LATCH_MISSES as usize, "one fallback per period");
        assert!(actions[good + 1..actions.len() - 1].iter().all(is_damping));
        assert!(is_torque_free(actions.last().unwrap()));

        // No answer comes until the reset; after it the controller knows nothing but why.
        assert!((0..20).any(|_| bench.session.identity().is_ok()), "no reset");
        let timing = bench.session.timing().unwrap();
        assert_eq!((timing.reset_cause, timing.boots), (ResetCause::Watchdog as u8, boots));
        assert_eq!(bench.session.observe().unwrap().state, State::Idle as u8, "no torque");

        // 256 KB hold every second tick of four seconds.
        let newest = bench.session.black_box(u32::MAX).unwrap();
        assert!(newest.count > 24, "{} records", newest.count);
        let last = bench.session.black_box(newest.count - 1).unwrap();
        assert_eq!((last.boot, last.state), (boots - 1, State::Running as u8));
        let action = actions[..=good].iter().rfind(|action| action.time_us == last.time_us).unwrap();
        let age_us = actions[good].time_us - last.time_us;
        assert!(
            age_us < u64::from(2 * PERIOD_US),
            "the last tick before the one that hung, or the one before it"
        );
        assert_eq!(last.position, action.position);
        assert_eq!(last.joint_position, bench.state.joint_position);
        for index in newest.count - 15..newest.count - 1 {
            let record = bench.session.black_box(index).unwrap();
            assert_eq!(record.tick + 2 * (newest.count - 1 - index), last.tick, "no record is missing");
        }
        // It is of use again.
        let (image, ..) = policy(PERIOD_US, &[32]);
        bench.session.upload(&image, |_| ()).unwrap();
        bench.session.pace(false).unwrap();
        bench.send();
    }
}

#[test]
fn a_release_firmware_takes_no_injection() {
    let Some(controller) = start(ControllerKind::Qemu) else { return };
    assert_eq!(refusal(open(&controller).inject(0, 1, 1)), Some(Refusal::Unsupported));
}

#[test]
fn its_histograms_count_every_tick() {
    let Some(session) = line() else { return };
    let mut bench = Bench::new(session);
    bench.run();
    bench.ticks(200);
    let before = bench.session.observe().unwrap().ticks;
    let timing = bench.session.timing().unwrap();
    let after = bench.session.observe().unwrap().ticks;
    println!("{}", tendon::monitor::times(&timing, 120));
    let [release, execution] =
        [&timing.release, &timing.execution].map(|counts| counts.0.iter().sum::<u32>());
    assert_eq!(release, execution);
    assert!((before..=after).contains(&release), "{release} counted, {before} to {after} ticks");
    assert_eq!((timing.misses, timing.early_feeds), (0, 0));
    assert!(timing.execution_max_ns > 0 && timing.execution_max_ns / 1000 < timing.response_us, "{timing:?}");
    assert_eq!((timing.period_us, timing.deadline_us), (PERIOD_US, DEADLINE_US));
}

/// The costs in the analysis that come from measurements: at most half of each is ever seen.
#[test]
fn what_the_analysis_assumes_is_twice_what_the_firmware_takes() {
    for world in [policy(PERIOD_US, &[32]), go1(PERIOD_US)] {
        let Some(session) = line() else { return };
        let parsed = Image::parse(&world.0).unwrap();
        let bytes = world.0.clone();
        let view = parsed.policy(&bytes).unwrap();
        let contract = view.contract.unwrap();
        let mut bench = Bench::with(session, world);
        bench.run();
        // Messages of every kind that is taken while running, between ticks.
        for _ in 0..20 {
            bench.ticks(2);
            bench.session.observe().unwrap();
            bench.session.black_box(0).unwrap();
            bench.session.timing().unwrap();
            bench.session.identity().unwrap();
        }
        let calm = bench.session.timing().unwrap();
        bench.session.inject(2, 1, DEADLINE_US + 20).unwrap();
        bench.until("Fault", |action| action.state == State::Fault as u8);
        let timing = bench.session.timing().unwrap();
        let inference = cost::instructions(&view.network);
        let rest = u64::from(calm.execution_max_ns).saturating_sub(inference);
        let rows = [
            ("tick without inference", rest, cost::tick(&contract)),
            ("fallback", timing.fallback_max_ns.into(), cost::deadline(&contract)),
            ("messages", timing.blocked_max_ns.into(), cost::messages(&contract)),
        ];
        for (what, seen, assumed) in rows {
            println!("{} joints, {what}: {seen} instructions seen, {assumed} assumed", contract.joints.len());
            assert!(seen > 0 && 2 * seen <= assumed, "{what}: {seen} seen, {assumed} assumed");
        }
    }
}

#[test]
fn utilisation_just_over_the_limit_is_refused_on_the_controller() {
    let Some(mut session) = line() else { return };
    let response = |period_us: u32| {
        let (image, ..) = policy(period_us, &[96, 96]);
        let view = Image::parse(&image).unwrap();
        let policy = view.policy(&image).unwrap();
        BoardTiming::QEMU.admit(&policy.contract.unwrap(), &policy)
    };
    // Bisection: the shortest period that the analysis admits.
    let (mut low, mut high) = (100, 5000);
    assert!(response(low).is_err() && response(high).is_ok());
    while high - low > 1 {
        let middle = (low + high) / 2;
        if response(middle).is_ok() {
            high = middle;
        } else {
            low = middle;
        }
    }
    println!("admitted from {high} us, response {} ns", response(high).unwrap());
    let (image, ..) = policy(low, &[96, 96]);
    let refused = session.upload(&image, |_| ());
    let reached = response(low).unwrap_err().1;
    match refused {
        Err(LinkError::Refused { refusal: Some(Refusal::Slow), detail, .. }) => {
            assert_eq!(u64::from(detail), reached / 1000 + 1);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(session.identity().unwrap().image_crc32c, 0, "nothing is active");
    let (image, ..) = policy(high, &[96, 96]);
    session.upload(&image, |_| ()).unwrap();
    let timing = session.timing().unwrap();
    assert_eq!(u64::from(timing.response_us), response(high).unwrap() / 1000 + 1);
}

#[test]
fn the_monitor_prints_a_line_per_second_where_there_is_no_terminal_and_the_black_box_as_a_table() {
    let Some(controller) = start(ControllerKind::StandIn) else { return };
    let tendon = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tendon"))
            .args(["monitor", "--port", controller.port()])
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let lines = tendon(&["--seconds", "1.5"]);
    assert!(lines.lines().count() >= 2 && lines.lines().all(|line| line.starts_with("Idle None")), "{lines}");
    let table = tendon(&["--black-box"]);
    assert!(table.starts_with("boot,tick,time_us"), "{table}");
    assert_eq!(table.lines().count(), 1, "nothing was recorded without torque: {table}");
}

/// Actions to a channel.
struct Channel(mpsc::Sender<Action>);

impl Outlet for Channel {
    fn send(&mut self, frame: &[u8]) {
        let mut decoder = Decoder::new();
        for byte in frame {
            if let Some(Ok(frame)) = decoder.push(*byte)
                && let Ok(Message::Action(action)) = Message::decode(frame.kind, frame.payload)
            {
                self.0.send(action).unwrap();
            }
        }
    }
}

/// A clock that a test moves; where it is told to, a look at it takes until something went out.
struct SlowClock {
    us: std::cell::Cell<u64>,
    looks: std::cell::Cell<u32>,
    waits_at: u32,
    sent: mpsc::Receiver<Action>,
    seen: std::cell::RefCell<Vec<Action>>,
}

impl Clock for SlowClock {
    fn now_us(&self) -> u64 {
        self.looks.set(self.looks.get() + 1);
        if self.looks.get() == self.waits_at {
            let action = self.sent.recv_timeout(Duration::from_secs(20));
            self.seen.borrow_mut().extend(action);
        }
        self.us.get()
    }

    fn counts(&self) -> u32 {
        0
    }
}

#[derive(Clone, Copy)]
struct Elapsed(Instant);

impl Clock for Elapsed {
    fn now_us(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }

    fn counts(&self) -> u32 {
        0
    }
}

#[test]
fn a_thread_sends_the_fallback_while_the_tick_is_still_at_work() {
    const PERIOD: u32 = 20_000;
    let (image, schema_hash, state) = policy(PERIOD, &[32]);
    let words = |n: usize| -> &'static mut [u8] { bytemuck::cast_slice_mut(vec![0u128; n / 16].leak()) };
    let floats = |n: usize| -> &'static mut [f32] { vec![0.0; n].leak() };
    let memory = Memory { arena: floats(4096), history: floats(64), observation: floats(64) };
    let layout = Layout::policies(1 << 17, 4096);
    let mut store = Boot::start(HostFlash::memory(layout.capacity()), layout, "bench");
    let [active, inactive] = places(&store.slots(), [words(1 << 17), words(1 << 17)]);
    let mut control = Control::new(active, memory);
    let mut loader = Loader::new(inactive, floats(4096), store, &control);
    loader.boot(&mut control).unwrap();
    let (sender, sent) = mpsc::channel();
    let mut deadline = DeadlineThread::start(Channel(sender), Elapsed(Instant::now())).unwrap();
    let mut clock = SlowClock {
        us: std::cell::Cell::new(1_000_000),
        looks: Default::default(),
        waits_at: 0,
        sent,
        seen: Default::default(),
    };
    let info = BoardInfo { name: "bench", firmware: "0" };
    let mut sequence = 0;
    let mut send = |message: Message, control: &mut Control<'static>, clock: &SlowClock| match node::handle(
        &message,
        &mut loader,
        control,
        &info,
        clock,
    ) {
        Some(Message::Identity(identity)) => identity.session,
        Some(Message::Reply(reply)) => reply.code.into(),
        None => 0,
        other => panic!("{other:?}"),
    };
    let mut tick = |send: &mut dyn FnMut(Message, &mut Control<'static>, &SlowClock) -> u32,
                    control: &mut Control<'static>,
                    clock: &mut SlowClock,
                    slow: bool| {
        sequence += 1;
        clock.us.set(clock.us.get() + u64::from(PERIOD));
        send(RawState { sequence, time_us: clock.us.get(), ..state.clone() }.into(), control, clock);
        // Begin of the tick is the first look at the clock, its end the second.
        clock.looks.set(0);
        clock.waits_at = if slow { 2 } else { 0 };
        if slow {
            deadline.released(Instant::now(), PERIOD);
        }
        node::release(control, &mut deadline, &*clock, 0, PERIOD, &mut [0; MAX_FRAME]);
        let rest: Vec<Action> = clock.sent.try_iter().collect();
        clock.seen.borrow_mut().extend(rest);
        clock.seen.take()
    };
    let session = send(Hello {}.into(), &mut control, &clock);
    send(ImageBegin { total_len: image.len() as u32 }.into(), &mut control, &clock);
    for (index, chunk) in image.chunks(1000).enumerate() {
        let data = Bytes::from_slice(chunk).unwrap();
        send(ImageChunk { offset: index as u32 * 1000, data }.into(), &mut control, &clock);
    }
    assert_eq!(send(ImageCommit {}.into(), &mut control, &clock), 0);
    (0..20).for_each(|_| drop(tick(&mut send, &mut control, &mut clock, false)));
    assert_eq!(send(Arm { schema_hash, session }.into(), &mut control, &clock), 0);
    (0..200).for_each(|_| drop(tick(&mut send, &mut control, &mut clock, false)));
    assert_eq!(send(Run { session }.into(), &mut control, &clock), 0);
    let in_time = tick(&mut send, &mut control, &mut clock, false);
    assert_eq!((in_time.len(), in_time[0].state), (1, State::Running as u8));
    let late = tick(&mut send, &mut control, &mut clock, true);
    assert_eq!(late.len(), 1, "one action, the fallback: {late:?}");
    assert!(is_damping(&late[0]) && late[0].cause == Cause::Overrun as u8, "{late:?}");
    assert_eq!(control.state(), State::Damping);
    assert_eq!(control.telemetry().misses, 1);
}
