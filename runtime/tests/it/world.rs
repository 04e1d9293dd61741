//! The world of these tests: a contract, states, a policy image in memory, random numbers.

use crate::numbers::within;
use fastrand::Rng;
use tendon_runtime::spec::{ActionSpec, CompiledContract, ContractSpec, FallbackSpec, InputSpec, JointSpec};
use tendon_runtime::spec::{Mode, MonitorAction, MonitorsSpec, Signal, TermSpec};
use tendon_runtime::{AlignedBytes, Image, Memory, Policy, RawState};
use tendon_wire::CRC32C;
use tendon_wire::image::{
    ALIGN, AbstentionHeader, CRC_FROM, FORMAT_VERSION, GEMM_ROWS, Header, MAGIC, Operator, Plan, Section,
    Span, binary, opcode, unary,
};

/// Places of the joints in the robot's raw state: policy joint `i` is robot joint `ROBOT_INDEX[i]`.
pub(crate) const ROBOT_INDEX: [usize; 3] = [2, 0, 1];
pub(crate) const PERIOD_US: u64 = 20_000;

/// Three joints: two that the policy moves, one that it does not. Every kind of input once.
pub(crate) fn spec() -> ContractSpec {
    let joint = |index: usize, default_position| JointSpec {
        name: format!("joint_{index}"),
        robot_index: Some(ROBOT_INDEX[index] as u32),
        default_position,
        position_limits: [-1.5, 2.0],
        velocity_limit: 8.0,
        acceleration_limit: 400.0,
        jerk_limit: None,
        braking_deceleration: None,
        torque_limit: 6.0,
        position_rate_limit: 20.0,
        torque_rate_limit: 1000.0,
        kp: 20.0,
        kd: 0.5,
        damping_kd: Some(1.0),
    };
    let action = |index: usize| ActionSpec {
        joint: format!("joint_{index}"),
        mode: Mode::Position,
        scale: 0.25,
        offset: 0.1,
        clip: Some([-2.0, 2.0]),
        kp: 15.0,
        kd: 0.4,
    };
    let input =
        |name: &str| InputSpec { name: name.into(), unit: "m/s".into(), range: [-1.0, 1.0], default: 0.0 };
    ContractSpec {
        version: 1,
        robot: "arm".into(),
        control_period_s: PERIOD_US as f64 * 1e-6,
        quaternion_order: Default::default(),
        commands: vec![input("forward"), input("turn")],
        preferences: vec![input("speed")],
        sensors: vec!["left".into(), "right".into()],
        joints: vec![joint(0, 0.1), joint(1, -0.2), joint(2, 0.3)],
        observations: vec![
            TermSpec::plain("joint_position", Signal::JointPositionRelative),
            TermSpec { history: 3, ..TermSpec::plain("joint_velocity", Signal::JointVelocity) },
            TermSpec::plain("gravity", Signal::ProjectedGravity),
            TermSpec::plain("last_action", Signal::LastAction),
            TermSpec::plain("command", Signal::Command),
        ],
        actions: vec![action(0), action(1)],
        fallback: FallbackSpec {
            state_timeout_s: 0.1,
            heartbeat_timeout_s: 0.25,
            hold_s: 0.1,
            damp_s: 0.3,
            dwell_s: 0.2,
            ready_tolerance: 0.2,
            ready_velocity: 0.5,
        },
        power_budget: None,
        profiles: Vec::new(),
        default_profile: None,
        monitors: counting(),
        error_budget: None,
    }
}

/// Monitors that take no torque away: the robots of most tests have no physics.
pub(crate) fn counting() -> MonitorsSpec {
    let mut monitors = MonitorsSpec::default();
    for monitor in [&mut monitors.off, &mut monitors.stuck, &mut monitors.jump, &mut monitors.age] {
        monitor.action = MonitorAction::Count;
    }
    monitors
}

/// Upright, at the default pose of [`spec`], at rest.
pub(crate) fn state() -> RawState {
    let mut state = RawState { base_orientation: [1.0, 0.0, 0.0, 0.0], ..RawState::default() };
    state.joint_position.resize(3, 0.0).unwrap();
    for (joint, index) in spec().joints.iter().zip(ROBOT_INDEX) {
        state.joint_position[index] = joint.default_position;
    }
    state.joint_velocity.resize(3, 0.0).unwrap();
    state.command.resize(2, 0.0).unwrap();
    state.preference.resize(1, 0.0).unwrap();
    state.sensors.resize(2, 0.0).unwrap();
    state
}

/// Makes the CRC right again, as far as there is a header.
pub(crate) fn seal(image: &mut AlignedBytes) {
    let bytes = image.as_mut_slice();
    let total = u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize;
    let end = total.clamp(CRC_FROM, bytes.len());
    let crc = CRC32C.checksum(&bytes[CRC_FROM..end]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Parts of a policy image, before they are bytes.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) contract: Option<CompiledContract>,
    pub(crate) operators: Vec<Operator>,
    pub(crate) weights: Vec<f32>,
    pub(crate) plan: Plan,
    pub(crate) golden: Vec<f32>,
    /// Bytes of the section; empty: none.
    pub(crate) abstention: Vec<u8>,
}

impl Parts {
    /// A small network that uses every operator, with the contract of `spec`; golden vectors included.
    pub(crate) fn of(spec: &ContractSpec, seed: u64) -> Self {
        let contract = spec.compile().unwrap();
        let header = *contract.view().header;
        let mut parts = Self::bare(header.n_observation, u32::from(header.n_actions), seed);
        parts.plan.history_len = header.history_len;
        parts.contract = Some(contract);
        parts
    }

    /// The same network without a contract.
    pub(crate) fn bare(n_in: u32, n_out: u32, seed: u64) -> Self {
        const HIDDEN: u32 = 5;
        let mut rng = Rng::with_seed(seed);
        let mut weights = Vec::new();
        let mut random = |n: u32| {
            let start = weights.len() as u32;
            weights.extend((0..n).map(|_| within(&mut rng, -0.5, 0.5)));
            start
        };
        let rows = |n: u32| n.next_multiple_of(GEMM_ROWS as u32);
        let (a, b, y) = (n_in, n_in + HIDDEN, n_in + 2 * HIDDEN);
        let blank: Operator = bytemuck::Zeroable::zeroed();
        let gemm = |kind, input, n_in, output, n_out, weights, bias| Operator {
            opcode: opcode::GEMM,
            kind,
            input,
            n_in,
            output,
            n_out,
            weights,
            bias,
            alpha: 1.0,
            dims: [1, n_in, n_out, 0, 0],
            ..blank
        };
        let inner = |opcode, kind, input, output| Operator {
            opcode,
            kind,
            input,
            output,
            n_in: HIDDEN,
            n_out: HIDDEN,
            alpha: 0.7,
            dims: [HIDDEN, 1, 0, 0, 0],
            ..blank
        };
        let (w0, b0, w1, b1) = (
            random(rows(HIDDEN) * n_in),
            random(rows(HIDDEN)),
            random(rows(HIDDEN) * n_in),
            random(rows(HIDDEN)),
        );
        let (scale, shift) = (random(HIDDEN), random(HIDDEN));
        let (w2, b2) = (random(rows(n_out) * HIDDEN), random(rows(n_out)));
        let operators = vec![
            gemm(unary::TANH, 0, n_in, a, HIDDEN, w0, b0),
            gemm(unary::SWISH, 0, n_in, b, HIDDEN, w1, b1),
            Operator { input_b: b, ..inner(opcode::BINARY, binary::ADD, a, a) },
            inner(opcode::UNARY, unary::ELU, a, a),
            Operator { weights: scale, bias: shift, ..inner(opcode::AFFINE, 0, a, b) },
            Operator { alpha: -1.0, beta: 1.0, ..inner(opcode::UNARY, unary::CLIP, b, b) },
            inner(opcode::UNARY, 0, b, a),
            gemm(unary::NONE, a, HIDDEN, y, n_out, w2, b2),
        ];
        let plan = Plan {
            n_inputs: n_in,
            n_outputs: n_out,
            input: 0,
            output: y,
            arena_len: y + n_out,
            history_len: 0,
            macs: 2 * HIDDEN * n_in + HIDDEN * n_out,
            golden_count: 0,
            state_len: 0,
            instructions: 0,
            reserved: [0; 2],
        };
        let mut parts =
            Self { contract: None, operators, weights, plan, golden: Vec::new(), abstention: Vec::new() };
        parts.compute_golden(3);
        parts
    }

    /// Observations beyond +-`half` in any element in 3 of 5 ticks are unlike the recorded ones.
    pub(crate) fn abstaining(mut self, half: f32) -> Self {
        let n = self.plan.n_inputs as usize;
        let header = AbstentionHeader {
            n: n as u32,
            rank: 2,
            window: 5,
            needed: 3,
            threshold: 1.0,
            residual: 0.0,
            density_scale: 1e-3,
            range_scale: 1.0,
            false_alarm: 0.01,
            calibrated: 1000,
            fitted: 1000,
        };
        let mut values = vec![-half; n];
        values.extend(vec![half; n]);
        values.extend(vec![0.0; n]);
        values.extend(vec![1.0; n]);
        values.extend([1.0, 1.0]);
        values.extend((0..2 * n).map(|i| f32::from(u8::from(i % n == i / n))));
        self.abstention = bytemuck::bytes_of(&header).to_vec();
        self.abstention.extend_from_slice(bytemuck::cast_slice(&values));
        self
    }

    /// Writes golden vectors from what the network computes.
    pub(crate) fn compute_golden(&mut self, count: u32) {
        let mut rng = Rng::with_seed(1);
        let network = tendon_runtime::Network::new(&self.operators, &self.weights, &self.plan).unwrap();
        let instructions = tendon_runtime::cost::instructions(&network) as u32;
        let mut arena = vec![0.0; self.plan.arena_len as usize];
        let mut golden = Vec::new();
        for _ in 0..count {
            let input: Vec<f32> = (0..self.plan.n_inputs).map(|_| within(&mut rng, -2.0, 2.0)).collect();
            let output = network.run(&input, &mut arena).unwrap();
            golden.extend_from_slice(&input);
            golden.extend_from_slice(output);
        }
        self.golden = golden;
        self.plan.golden_count = count;
        self.plan.instructions = instructions;
    }

    pub(crate) fn schema_hash(&self) -> u64 {
        self.contract.as_ref().map_or(0, CompiledContract::schema_hash)
    }

    pub(crate) fn image(&self) -> AlignedBytes {
        let sections: [(Section, Vec<u8>); 6] = [
            (Section::Contract, self.contract.as_ref().map(CompiledContract::bytes).unwrap_or_default()),
            (Section::Operators, bytemuck::cast_slice(&self.operators).to_vec()),
            (Section::Weights, bytemuck::cast_slice(&self.weights).to_vec()),
            (Section::Plan, bytemuck::bytes_of(&self.plan).to_vec()),
            (Section::Golden, bytemuck::cast_slice(&self.golden).to_vec()),
            (Section::Abstention, self.abstention.clone()),
        ];
        let mut header: Header = bytemuck::Zeroable::zeroed();
        header.magic = MAGIC;
        header.format_version = FORMAT_VERSION;
        header.schema_hash = self.schema_hash();
        header.robot_id[..3].copy_from_slice(b"arm");
        let mut bytes = vec![0; size_of::<Header>()];
        for (section, content) in sections {
            bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
            header.sections[section as usize] =
                Span { offset: bytes.len() as u32, len: content.len() as u32 };
            bytes.extend(content);
        }
        header.total_len = bytes.len() as u32;
        bytes[..size_of::<Header>()].copy_from_slice(bytemuck::bytes_of(&header));
        let mut image = AlignedBytes::new(&bytes);
        seal(&mut image);
        image
    }
}

/// A parsed image with the memory that its ticks need.
pub(crate) struct Loaded {
    pub(crate) bytes: AlignedBytes,
    pub(crate) image: Image,
    arena: Vec<f32>,
    history: Vec<f32>,
    observation: Vec<f32>,
}

impl Loaded {
    pub(crate) fn new(parts: &Parts) -> Self {
        let bytes = parts.image();
        let image = Image::parse(&bytes).unwrap();
        let memory = |n: u32| vec![f32::NAN; n as usize];
        Self {
            bytes,
            image,
            arena: memory(parts.plan.arena_len),
            history: memory(parts.plan.history_len),
            observation: memory(parts.plan.n_inputs),
        }
    }

    /// The policy, and memory for it.
    pub(crate) fn split(&mut self) -> (Policy<'_>, Memory<'_>) {
        let policy = self.image.policy(&self.bytes).unwrap();
        let memory =
            Memory { arena: &mut self.arena, history: &mut self.history, observation: &mut self.observation };
        (policy, memory)
    }
}
