use crate::numbers::any_f32;
use crate::world::{Loaded, PERIOD_US, Parts, spec, state};
use fastrand::Rng;
use tendon_runtime::spec::{ContractSpec, LimitShares, MonitorAction, MonitorSpec, ProfileSpec};
use tendon_runtime::{Applied, Cause, Controller, RawState, Refusal, State};
use tendon_wire::image::monitor;

const HASH: u64 = 42;

/// A controller with its image and a robot that goes where it is told.
struct Bench {
    loaded: Loaded,
    controller: Controller,
    now_us: u64,
    state: RawState,
}

impl Bench {
    fn new() -> Self {
        Self::with(&Parts::of(&spec(), 1))
    }

    fn with(parts: &Parts) -> Self {
        let mut controller = Controller::default();
        assert_eq!(controller.state(), State::Boot);
        controller.begin_self_test();
        assert_eq!(controller.state(), State::SelfTest);
        controller.image_changed(false, None);
        assert_eq!(controller.state(), State::Idle);
        Self { loaded: Loaded::new(parts), controller, now_us: 1_000_000, state: state() }
    }

    /// A tick one period later, without proof of life.
    fn tick_without_host(&mut self, fresh: Option<&RawState>) -> Applied {
        self.now_us += PERIOD_US;
        let (policy, mut memory) = self.loaded.split();
        let applied = self.controller.tick(&policy, fresh, self.now_us, &mut memory);
        for (index, command) in applied.commands.iter().take(applied.n_joints).enumerate() {
            if command.kp > 0.0 {
                self.state.joint_position[index] = command.position;
            }
        }
        applied
    }

    fn tick(&mut self, fresh: Option<&RawState>) -> Applied {
        self.controller.host_alive(self.now_us);
        self.tick_without_host(fresh)
    }

    /// Healthy ticks for `us`; the last one's result.
    fn healthy(&mut self, us: u64) -> Applied {
        let mut applied = None;
        for _ in 0..us.div_ceil(PERIOD_US).max(1) {
            let state = self.state.clone();
            applied = Some(self.tick(Some(&state)));
        }
        applied.unwrap()
    }

    fn arm(&mut self) -> Result<(), (Refusal, u32)> {
        let (policy, _) = self.loaded.split();
        self.controller.arm(policy.contract.as_ref(), HASH, HASH, self.now_us)
    }

    fn run(&mut self) -> Result<(), (Refusal, u32)> {
        let (policy, _) = self.loaded.split();
        self.controller.run(policy.contract.as_ref(), self.now_us)
    }

    fn ready() -> Self {
        let mut bench = Self::new();
        bench.healthy(240_000);
        bench.arm().unwrap();
        bench
    }

    fn running() -> Self {
        Self::ready().into_running()
    }

    fn into_running(mut self) -> Self {
        self.healthy(240_000);
        self.run().unwrap();
        self
    }

    fn faulted() -> Self {
        let mut bench = Self::running();
        let mut bad = bench.state.clone();
        bad.joint_position[0] = f32::NAN;
        bench.tick(Some(&bad));
        while bench.controller.state() == State::Damping {
            bench.healthy(PERIOD_US);
        }
        assert_eq!(bench.controller.state(), State::Fault);
        bench
    }
}

fn is_torque_free(applied: &Applied) -> bool {
    applied.commands.iter().all(|c| (c.kp, c.kd, c.torque, c.torque_limit) == (0.0, 0.0, 0.0, 0.0))
}

fn is_damping(applied: &Applied) -> bool {
    applied.commands.iter().take(3).all(|c| c.kp == 0.0 && c.kd == 1.0 && c.torque_limit > 0.0)
}

#[test]
fn gives_no_torque_before_it_is_armed() {
    let mut bench = Bench::new();
    assert!(is_torque_free(&bench.healthy(1_000_000)));
    let mut boot = Controller::default();
    let (policy, mut memory) = bench.loaded.split();
    assert!(is_torque_free(&boot.tick(&policy, Some(&state()), 0, &mut memory)));
}

#[test]
fn arms_after_a_healthy_dwell_and_says_what_is_missing() {
    let mut bench = Bench::new();
    assert_eq!(bench.arm(), Err((Refusal::Dwell, 200_000)));
    bench.healthy(PERIOD_US);
    assert_eq!(bench.arm(), Err((Refusal::Dwell, 200_000)), "the dwell starts with the first healthy state");
    bench.healthy(180_000);
    assert_eq!(bench.arm(), Err((Refusal::Dwell, 20_000)));
    bench.healthy(PERIOD_US);
    assert_eq!(bench.arm(), Ok(()));
    assert_eq!(bench.controller.state(), State::Ready);
}

#[test]
fn one_refused_state_starts_the_dwell_again() {
    let mut bench = Bench::new();
    bench.healthy(400_000);
    let mut bad = state();
    bad.command[0] = f32::INFINITY;
    bench.tick(Some(&bad));
    assert_eq!(bench.controller.rejected_states(), 1);
    assert_eq!(bench.arm().unwrap_err().0, Refusal::Dwell);
}

#[test]
fn refuses_to_arm_without_contract_with_another_schema_or_twice() {
    let mut bench = Bench::new();
    bench.healthy(400_000);
    let now = bench.now_us;
    assert_eq!(bench.controller.arm(None, HASH, HASH, now), Err((Refusal::NoContract, 0)));
    let (policy, _) = bench.loaded.split();
    let contract = policy.contract.as_ref();
    assert_eq!(bench.controller.arm(contract, HASH, HASH + 1, now), Err((Refusal::Schema, HASH as u32)));
    assert_eq!(bench.controller.arm(contract, HASH, HASH, now), Ok(()));
    let again = bench.controller.arm(contract, HASH, HASH, now);
    assert_eq!(again, Err((Refusal::State, State::Ready as u32)));
}

#[test]
fn ready_moves_all_joints_to_the_default_pose_in_one_smooth_motion_within_its_limits() {
    let mut limited = spec();
    limited.fallback.ready_velocity = 1.0;
    for joint in &mut limited.joints {
        (joint.acceleration_limit, joint.jerk_limit) = (2.0, Some(10.0));
    }
    let mut bench = Bench::with(&Parts::of(&limited, 1));
    bench.state.joint_position[2] = 1.1; // policy's joint 0, default 0.1
    bench.state.joint_position[0] = -0.5; // policy's joint 1, default -0.2
    bench.healthy(400_000);
    bench.arm().unwrap();
    let dt = PERIOD_US as f32 * 1e-6;
    let mut path = vec![[1.1, -0.5]; 4];
    while path[path.len() - 1] != [0.1, -0.2] {
        assert!(path.len() < 500, "{:?}", path.last());
        assert_eq!(bench.run().unwrap_err().0, Refusal::Dwell, "not before the way has ended");
        let applied = bench.healthy(PERIOD_US);
        assert_eq!(applied.limited, 0, "the envelope has nothing to correct");
        assert_eq!((applied.commands[2].kp, applied.commands[2].kd), (20.0, 0.5));
        path.push([applied.commands[2].position, applied.commands[0].position]);
    }
    let seconds = (path.len() - 4) as f32 * dt;
    // 60 / T^3 <= 10 rad/s3 asks for 1.82 s, the other limits for 1.88 s and 1.70 s.
    assert!((1.8..2.0).contains(&seconds), "{seconds} s");
    path.extend([[0.1, -0.2]; 3]);
    for joint in 0..2 {
        let difference = |row: Vec<f32>| row.windows(2).map(|w| (w[1] - w[0]) / dt).collect::<Vec<_>>();
        let most = |row: &[f32]| row.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let velocity = difference(path.iter().map(|q| q[joint]).collect());
        let acceleration = difference(velocity.clone());
        let jerk = difference(acceleration.clone());
        assert!(most(&velocity) <= 1.001, "{}", most(&velocity));
        assert!(most(&acceleration) <= 2.01, "{}", most(&acceleration));
        assert!(most(&jerk) <= 10.5, "{}", most(&jerk));
    }
    let shares: Vec<[f32; 2]> = path.iter().map(|q| [(1.1 - q[0]) / 1.0, (q[1] + 0.5) / 0.3]).collect();
    assert!(shares.iter().all(|s| (s[0] - s[1]).abs() < 1e-5), "joints arrive together");
    bench.healthy(PERIOD_US);
    assert_eq!(bench.run(), Ok(()));
}

#[test]
fn refuses_to_run_outside_ready_before_the_dwell_and_away_from_the_pose() {
    let mut bench = Bench::new();
    assert_eq!(bench.run(), Err((Refusal::State, State::Idle as u32)));
    bench.healthy(400_000);
    bench.arm().unwrap();
    assert_eq!(bench.run(), Err((Refusal::Dwell, 200_000)));
    bench.healthy(200_000);
    // A joint that someone holds: policy's joint 1 is the robot's joint 0.
    let mut held = bench.state.clone();
    held.joint_position[0] += 0.21;
    bench.tick(Some(&held));
    assert_eq!(bench.run(), Err((Refusal::Pose, 1)));
    held.joint_position[0] -= 0.02;
    bench.tick(Some(&held));
    assert_eq!(bench.run(), Ok(()));
    assert_eq!(bench.run(), Err((Refusal::State, State::Running as u32)));
}

#[test]
fn a_passive_joint_may_be_anywhere_at_the_start() {
    let mut passive = spec();
    passive.joints[2].kp = 0.0;
    let mut bench = Bench::with(&Parts::of(&passive, 1));
    bench.state.joint_position[1] = 1.4;
    bench.healthy(400_000);
    bench.arm().unwrap();
    bench.healthy(240_000);
    assert_eq!(bench.run(), Ok(()));
}

#[test]
fn running_lets_the_policy_act() {
    let mut bench = Bench::running();
    let applied = bench.healthy(PERIOD_US);
    assert_eq!((applied.state, applied.cause), (State::Running, Cause::None));
    assert_eq!(applied.proposed.len(), 2);
    for (index, raw) in [(2, applied.proposed[0]), (0, applied.proposed[1])] {
        let c = applied.commands[index];
        let setpoint = raw.clamp(-2.0, 2.0) * 0.25 + 0.1;
        let unlimited = applied.limited >> index & 1 == 0;
        assert!(!unlimited || (c.position - setpoint).abs() < 1e-6, "{c:?}");
        assert_eq!((c.kp, c.kd), (15.0, 0.4));
    }
    assert!(applied.proposed.iter().any(|v| *v != 0.0));
}

#[test]
fn between_raw_states_the_last_setpoint_stands() {
    let mut bench = Bench::running();
    let before = bench.healthy(200_000);
    let between = bench.tick(None);
    assert_eq!(between.state, State::Running);
    assert!(between.proposed.is_empty());
    for (a, b) in before.commands.iter().zip(&between.commands) {
        assert!((a.position - b.position).abs() < 1e-6);
    }
}

#[test]
fn stop_damps_at_once_and_ends_in_idle() {
    for mut bench in [Bench::ready(), Bench::running()] {
        bench.healthy(PERIOD_US);
        bench.controller.stop(bench.now_us).unwrap();
        let applied = bench.healthy(PERIOD_US);
        assert_eq!((applied.state, applied.cause), (State::Damping, Cause::Stop));
        assert!(is_damping(&applied), "{:?}", applied.commands);
        assert_eq!(bench.healthy(360_000).state, State::Damping);
        let applied = bench.healthy(PERIOD_US);
        assert_eq!((applied.state, applied.cause), (State::Idle, Cause::Stop));
        assert!(is_torque_free(&applied));
        assert_eq!(bench.controller.stop(bench.now_us), Err((Refusal::State, State::Idle as u32)));
    }
}

/// Holds for `hold_us`, damps for `damp_us`, then is at fault.
fn assert_hold_damp_fault(bench: &mut Bench, before: &Applied, first: &Applied, cause: Cause) {
    assert_eq!((first.state, first.cause), (State::Damping, cause));
    let mut applied = first.clone();
    for passed in (0..100_000).step_by(PERIOD_US as usize) {
        assert_eq!(applied.state, State::Damping);
        assert!(applied.commands[2].kp > 0.0, "held at {passed} us");
        assert_eq!(applied.commands[2].position, before.commands[2].position, "held at {passed} us");
        applied = bench.tick_without_host(None);
    }
    for passed in (100_000..400_000).step_by(PERIOD_US as usize) {
        assert_eq!(applied.state, State::Damping, "{passed} us");
        assert!(is_damping(&applied), "{passed} us: {:?}", &applied.commands[..3]);
        applied = bench.tick_without_host(None);
    }
    assert_eq!((applied.state, applied.cause), (State::Fault, cause));
    assert!(is_torque_free(&applied));
}

#[test]
fn a_stale_state_holds_then_damps_then_faults() {
    let mut bench = Bench::running();
    let mut before = bench.healthy(200_000);
    let mut applied = before.clone();
    for _ in 0..5 {
        before = applied;
        applied = bench.tick(None);
        assert_eq!(applied.state, State::Running, "younger than 100 ms");
    }
    before.commands = applied.commands;
    let first = bench.tick(None);
    assert_hold_damp_fault(&mut bench, &before, &first, Cause::StaleState);
}

#[test]
fn a_silent_host_holds_then_damps_then_faults() {
    let mut bench = Bench::running();
    let mut before = bench.healthy(200_000);
    let first = loop {
        let state = bench.state.clone();
        let applied = bench.tick_without_host(Some(&state));
        if applied.state != State::Running {
            break applied;
        }
        before = applied;
    };
    // Alive one period before the last healthy tick; then 250 ms of silence, in periods.
    assert_hold_damp_fault(&mut bench, &before, &first, Cause::HostSilent);
}

#[test]
fn an_invalid_state_damps_without_holding() {
    let fields: [fn(&mut RawState) -> &mut f32; 4] = [
        |s| &mut s.joint_position[1],
        |s| &mut s.joint_velocity[1],
        |s| &mut s.base_orientation[0],
        |s| &mut s.command[0],
    ];
    for field in fields {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut bench = Bench::running();
            bench.healthy(PERIOD_US);
            let mut state = bench.state.clone();
            *field(&mut state) = bad;
            let applied = bench.tick(Some(&state));
            assert_eq!((applied.state, applied.cause), (State::Damping, Cause::InvalidState));
            assert!(is_damping(&applied));
            assert!(applied.proposed.is_empty());
        }
    }
}

#[test]
fn falls_back_when_the_network_returns_nan() {
    let mut parts = Parts::of(&spec(), 1);
    let bias = parts.operators.last().unwrap().bias as usize;
    parts.weights[bias] = f32::NAN;
    let mut bench = Bench::with(&parts);
    bench.healthy(400_000);
    bench.arm().unwrap();
    let mut bench = bench.into_running();
    let applied = bench.healthy(PERIOD_US);
    assert_eq!((applied.state, applied.cause), (State::Damping, Cause::InvalidAction));
    assert!(is_damping(&applied) && applied.proposed.is_empty());
    assert_eq!(bench.controller.fallbacks(), 1);
}

#[test]
fn falls_back_when_the_memory_is_too_short() {
    let mut bench = Bench::running();
    let (policy, mut memory) = bench.loaded.split();
    memory.arena = &mut [];
    bench.controller.host_alive(bench.now_us);
    let applied = bench.controller.tick(&policy, Some(&bench.state), bench.now_us + PERIOD_US, &mut memory);
    assert_eq!((applied.state, applied.cause), (State::Damping, Cause::Internal));
}

#[test]
fn an_overrun_falls_back_in_the_next_tick_and_counts_only_with_torque_on() {
    let mut bench = Bench::running();
    bench.controller.overrun(bench.now_us, false);
    let applied = bench.healthy(PERIOD_US);
    assert_eq!((applied.state, applied.cause), (State::Damping, Cause::Overrun));
    bench.controller.overrun(bench.now_us, false);
    assert_eq!(bench.controller.fallbacks(), 1);
    bench.controller.overrun(bench.now_us, true);
    assert_eq!(
        (bench.controller.state(), bench.controller.cause()),
        (State::Fault, Cause::Overrun),
        "latched"
    );
    let mut idle = Bench::new();
    idle.controller.overrun(0, true);
    assert_eq!((idle.controller.state(), idle.controller.fallbacks()), (State::Idle, 0));
}

#[test]
fn a_fault_stays_latched_until_armed_after_a_healthy_dwell() {
    let mut bench = Bench::faulted();
    // Healthy all along the damping: that does not count.
    assert_eq!(bench.arm(), Err((Refusal::Dwell, 200_000)));
    assert_eq!(bench.run(), Err((Refusal::State, State::Fault as u32)));
    assert_eq!(bench.controller.stop(bench.now_us), Err((Refusal::State, State::Fault as u32)));
    let applied = bench.healthy(180_000);
    assert_eq!((applied.state, applied.cause), (State::Fault, Cause::InvalidState));
    assert!(is_torque_free(&applied));
    assert_eq!(bench.arm(), Err((Refusal::Dwell, 20_000)));
    bench.healthy(5_000_000);
    assert_eq!(bench.controller.state(), State::Fault, "health alone does not free it");
    bench.arm().unwrap();
    assert_eq!((bench.controller.state(), bench.controller.cause()), (State::Ready, Cause::None));
}

#[test]
fn a_lost_link_takes_torque_away_at_once() {
    for mut bench in [Bench::ready(), Bench::running()] {
        bench.controller.link_lost(bench.now_us);
        assert_eq!((bench.controller.state(), bench.controller.cause()), (State::Fault, Cause::HostSilent));
        assert!(is_torque_free(&bench.healthy(PERIOD_US)));
        assert_eq!(bench.arm().unwrap_err().0, Refusal::Dwell);
    }
    let mut idle = Bench::new();
    idle.controller.link_lost(idle.now_us);
    assert_eq!(idle.controller.state(), State::Idle);
}

#[test]
fn neither_a_new_pace_nor_another_image_frees_a_fault() {
    let changes: [fn(&mut Controller); 3] = [
        |controller| controller.image_changed(true, None),
        |controller| controller.image_changed(false, None),
        Controller::clock_changed,
    ];
    for (place, change) in changes.into_iter().enumerate() {
        let mut bench = Bench::faulted();
        bench.healthy(5_000_000);
        change(&mut bench.controller);
        assert_eq!((bench.controller.state(), bench.controller.cause()), (State::Fault, Cause::InvalidState));
        assert_eq!((bench.controller.fallbacks(), bench.controller.rejected_states()), (1, 1));
        if place == 2 {
            bench.now_us = PERIOD_US; // another clock, far behind
        }
        bench.healthy(400_000);
        assert_eq!(bench.controller.state(), State::Fault);
        bench.arm().unwrap();
        assert_eq!((bench.controller.state(), bench.controller.cause()), (State::Ready, Cause::None));
        assert_eq!(bench.controller.last_fault(), Cause::InvalidState, "it stays visible");
    }
    let mut bench = Bench::new();
    bench.healthy(400_000);
    bench.controller.clock_changed();
    assert_eq!(bench.controller.state(), State::Idle);
    assert_eq!(bench.arm().unwrap_err().0, Refusal::Dwell, "health starts anew");
}

pub(crate) fn profiles() -> ContractSpec {
    let share = |velocity, torque| LimitShares { velocity, torque, ..LimitShares::default() };
    let profile = |name: &str, scale, cap| ProfileSpec { name: name.into(), scale, cap };
    let mut contract = spec();
    contract.profiles = vec![
        profile("full", LimitShares::default(), LimitShares::default()),
        profile("near-people", share(Some(0.5), Some(0.5)), LimitShares::default()),
        profile("bench", share(Some(0.25), None), share(None, Some(1.0))),
        profile("quick", share(None, Some(0.1)), LimitShares::default()),
    ];
    contract.default_profile = Some("near-people".into());
    contract
}

#[test]
fn a_profile_is_only_tightened_while_torque_is_on() {
    let mut bench = Bench::with(&Parts::of(&profiles(), 1));
    let set = |bench: &mut Bench, index| {
        let (policy, _) = bench.loaded.split();
        bench.controller.set_profile(policy.contract.as_ref(), index)
    };
    let (policy, _) = bench.loaded.split();
    bench.controller.image_changed(false, policy.contract.as_ref());
    assert_eq!((bench.controller.profile().index(), bench.controller.profile().name()), (1, "near-people"));
    assert_eq!(set(&mut bench, 4), Err((Refusal::Profile, 4)));
    assert_eq!(set(&mut bench, 0), Ok(()), "loosened while Idle");
    assert_eq!(set(&mut bench, 1), Ok(()));
    bench.healthy(400_000);
    bench.arm().unwrap();
    assert_eq!(bench.healthy(PERIOD_US).commands[0].torque_limit, 3.0);
    assert_eq!(set(&mut bench, 0), Err((Refusal::Looser, 1)));
    assert_eq!(set(&mut bench, 3), Err((Refusal::Looser, 1)), "less torque, but more speed");
    assert_eq!(set(&mut bench, 2), Ok(()));
    assert_eq!(bench.healthy(PERIOD_US).commands[0].torque_limit, 1.0, "its cap");
    assert_eq!(set(&mut bench, 1), Err((Refusal::Looser, 2)));
    bench.controller.link_lost(bench.now_us);
    assert_eq!(bench.controller.profile().name(), "bench", "a fault loosens nothing");
    assert_eq!(set(&mut bench, 0), Ok(()), "by explicit command, without torque");
    bench.controller.clock_changed();
    assert_eq!(bench.controller.profile().name(), "full");
}

#[test]
fn abstains_once_enough_observations_are_unlike_the_recorded_ones() {
    let mut bench = Bench::with(&Parts::of(&spec(), 1).abstaining(5.0));
    bench.healthy(240_000);
    bench.arm().unwrap();
    let mut bench = bench.into_running();
    bench.healthy(200_000);
    assert!(bench.controller.abstention() > 0.0 && bench.controller.abstention() < 1.0);
    // A command beyond anything recorded, for two ticks: nothing happens; for a third: damping.
    bench.state.command[1] = 7.0;
    for tick in 0..2 {
        let applied = bench.healthy(PERIOD_US);
        let alarms = bench.controller.monitors().alarms() >> monitor::ABSTENTION & 1;
        assert_eq!((applied.state, alarms), (State::Running, 0), "tick {tick}");
    }
    let applied = bench.healthy(PERIOD_US);
    assert_eq!((applied.state, applied.cause), (State::Damping, Cause::Abstention));
    assert!(is_damping(&applied) && applied.proposed.is_empty());
    assert_eq!(bench.controller.monitors().count(monitor::ABSTENTION), 1);
    assert!((bench.controller.abstention() - 1.4).abs() < 1e-3, "{}", bench.controller.abstention());
}

#[test]
fn abstention_only_counts_where_the_contract_says_so() {
    let mut counting = spec();
    counting.monitors.abstention = MonitorAction::Count;
    let mut bench = Bench::with(&Parts::of(&counting, 1).abstaining(5.0));
    bench.healthy(240_000);
    bench.arm().unwrap();
    let mut bench = bench.into_running();
    bench.state.command[1] = 7.0;
    assert_eq!(bench.healthy(200_000).state, State::Running);
    assert_eq!(bench.controller.monitors().count(monitor::ABSTENTION), 8, "from the third of ten ticks on");
}

#[test]
fn a_monitor_falls_back_with_its_own_cause_and_its_alarm_starts_the_dwell_again() {
    let mut watched = spec();
    watched.monitors.jump = MonitorSpec { action: MonitorAction::FallBack, needed: 1 };
    let mut bench = Bench::with(&Parts::of(&watched, 1));
    bench.healthy(240_000);
    bench.arm().unwrap();
    bench.healthy(PERIOD_US);
    bench.state.joint_position[1] += 1.0;
    let applied = bench.healthy(PERIOD_US);
    assert_eq!((applied.state, applied.cause), (State::Damping, Cause::SensorJump));
    assert!(is_damping(&applied), "at once: a sensor that jumps carries no setpoint");
    bench.healthy(2_000_000);
    assert_eq!((bench.controller.state(), bench.controller.last_fault()), (State::Fault, Cause::SensorJump));
    bench.state.joint_position[1] -= 1.0;
    bench.healthy(PERIOD_US);
    assert_eq!(bench.arm().unwrap_err().0, Refusal::Dwell);
    bench.healthy(240_000);
    assert_eq!(bench.arm(), Ok(()));
}

fn random_state(rng: &mut Rng, healthy: &RawState) -> RawState {
    let mut state = healthy.clone();
    if rng.u8(0..40) == 0 {
        let index = rng.usize(0..3);
        state.joint_position[index] = any_f32(rng);
        state.joint_velocity[index] = any_f32(rng);
    }
    if rng.u16(0..200) == 0 {
        state.joint_position.clear();
    }
    state
}

fn walk(contract: &ContractSpec, seed: u64, steps: usize) -> [u32; 7] {
    let mut rng = Rng::with_seed(seed);
    let mut bench = Bench::with(&Parts::of(contract, seed));
    let mut visits = [0; 7];
    // Set when `run` is taken, cleared when Running is left: Running is impossible without.
    let mut may_run = false;
    for _ in 0..steps {
        let before = bench.controller.state();
        match rng.u16(0..1000) {
            0..40 => {
                let taken = bench.arm().is_ok();
                assert!(!taken || matches!(before, State::Idle | State::Fault));
            }
            40..80 => {
                let taken = bench.run().is_ok();
                assert!(!taken || before == State::Ready);
                may_run |= taken;
            }
            80..83 => drop(bench.controller.stop(bench.now_us)),
            83..86 => bench.controller.overrun(bench.now_us, false),
            86 => bench.controller.link_lost(bench.now_us),
            87 => bench.controller.image_changed(rng.bool(), None),
            88 => bench.now_us += rng.u64(0..1_000_000),
            89 => bench.now_us = bench.now_us.saturating_sub(rng.u64(0..1_000_000)),
            90..93 => drop(bench.healthy(500_000)),
            _ => {}
        }
        let fresh = random_state(&mut rng, &bench.state);
        let fresh = (rng.u8(0..20) != 0).then_some(&fresh);
        let applied = if rng.u8(0..30) == 0 { bench.tick_without_host(fresh) } else { bench.tick(fresh) };
        for value in bench.state.joint_position.iter_mut().filter(|v| v.abs() > 3.0) {
            *value = 0.0;
        }
        let state = bench.controller.state();
        assert_eq!(applied.state, state);
        visits[state as usize] += 1;
        assert!(state != State::Running || may_run, "Running without Run");
        may_run &= matches!(state, State::Running);
        if !matches!(state, State::Ready | State::Running | State::Damping) {
            assert!(is_torque_free(&applied), "{state:?}: {:?}", applied.commands);
        }
        if matches!(state, State::Damping | State::Fault) {
            assert_ne!(applied.cause, Cause::None);
        }
        assert!(applied.proposed.is_empty() || state == State::Running);
        for c in &applied.commands {
            let members = [c.position, c.velocity, c.torque, c.kp, c.kd, c.torque_limit];
            assert!(members.iter().all(|v| v.is_finite()), "{c:?}");
            assert!((0.0..=6.0).contains(&c.torque_limit));
        }
    }
    visits
}

#[test]
fn holds_its_invariants_on_a_random_walk_of_messages_and_times() {
    let steps = if cfg!(debug_assertions) { 20_000 } else { 200_000 };
    let visits = walk(&spec(), 5, steps);
    for state in [State::Idle, State::Ready, State::Running, State::Damping, State::Fault] {
        assert!(visits[state as usize] > 500, "{state:?} was hardly visited: {visits:?}");
    }
}
