//! What is in an image, as a table for people.

use crate::image::Manifest;
use std::fmt::Write as _;
use tendon_runtime::cost::Profile;
use tendon_runtime::spec::{ContractSpec, NO_CLIP, PerElement, TermSpec, UNLIMITED};
use tendon_runtime::{Image, ImageError, Network, Policy};
use tendon_wire::image::{Header, Operator, Plan, Section, binary, monitor, opcode, section_bytes, unary};

/// Names of the sections, in their order.
const SECTIONS: [(&str, Section); 8] = [
    ("contract", Section::Contract),
    ("operators", Section::Operators),
    ("weights", Section::Weights),
    ("plan", Section::Plan),
    ("golden vectors", Section::Golden),
    ("manifest", Section::Manifest),
    ("abstention", Section::Abstention),
    ("signature", Section::Signature),
];

/// The table. `stack_bytes`: worst stack of the control tick as the firmware measured it; the image
/// itself does not know it.
///
/// # Errors
/// When the runtime refuses the image.
pub fn inspect(bytes: &[u8], stack_bytes: Option<u32>) -> Result<String, ImageError> {
    let image = Image::parse(bytes)?;
    let policy = image.policy(bytes).ok_or(ImageError::Section("contract"))?;
    let manifest = Manifest::of_image(bytes).ok();
    let mut out = String::new();
    header(&mut out, &image, manifest.as_ref());
    match manifest.as_ref().and_then(|manifest| manifest.contract.as_ref()) {
        Some(spec) => contract(&mut out, spec, &policy),
        None if policy.contract.is_some() => line(&mut out, "contract", "without names (no manifest)"),
        None => line(&mut out, "contract", "none: a bare network, which no controller arms"),
    }
    operators(&mut out, &policy, manifest.as_ref());
    sizes(&mut out, image.header(), bytes, &policy, stack_bytes);
    Ok(out)
}

fn line(out: &mut String, key: &str, value: impl std::fmt::Display) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "{key:<18}{value}");
}

fn header(out: &mut String, image: &Image, manifest: Option<&Manifest>) {
    let header = image.header();
    line(out, "robot", if image.robot_id().is_empty() { "-" } else { image.robot_id() });
    line(out, "schema hash", format_args!("{:016x}", header.schema_hash));
    line(out, "format", format_args!("{}, CRC-32C {:08x}", header.format_version, header.crc32c));
    line(out, "rollback", header.rollback_counter);
    if let Some(manifest) = manifest {
        line(out, "compiled by", &manifest.compiler);
        line(
            out,
            "from",
            format_args!(
                "{} (opset {}), `{}` -> `{}`{}",
                if manifest.producer.is_empty() { "unknown producer" } else { &manifest.producer },
                manifest.opset,
                manifest.inputs.iter().map(|port| &*port.name).collect::<Vec<_>>().join("`, `"),
                manifest.outputs.join("`, `"),
                match manifest.states.len() {
                    0 => String::new(),
                    count => format!(", {count} of them state"),
                }
            ),
        );
    }
}

fn contract(out: &mut String, spec: &ContractSpec, policy: &Policy<'_>) {
    line(out, "control period", format_args!("{} s", spec.control_period_s));
    for (kind, inputs) in [("commands", &spec.commands), ("preferences", &spec.preferences)] {
        for input in inputs {
            let [low, high] = input.range;
            line(
                out,
                kind,
                format_args!("{} [{low}, {high}] default {} {}", input.name, input.default, input.unit),
            );
        }
    }
    let widths: Vec<u16> =
        policy.contract.map_or(Vec::new(), |contract| contract.terms.iter().map(|term| term.width).collect());
    let rows = spec.observations.iter().zip(widths).map(|(term, width)| {
        let signal = format!("{:?}", term.signal);
        [
            term.name.clone(),
            signal,
            width.to_string(),
            term.history.to_string(),
            elements(&term.scale),
            elements(&term.offset),
            clip(term),
        ]
    });
    table(out, ["observation", "signal", "width", "frames", "scale", "offset", "clip"], rows);
    let rows = spec.joints.iter().enumerate().map(|(index, joint)| {
        [
            joint.name.clone(),
            joint.robot_index.unwrap_or(index as u32).to_string(),
            joint.default_position.to_string(),
            format!("{}..{}", joint.position_limits[0], joint.position_limits[1]),
            joint.velocity_limit.to_string(),
            joint.torque_limit.to_string(),
            joint.kp.to_string(),
            joint.kd.to_string(),
            joint.damping_kd.unwrap_or(joint.kd).to_string(),
        ]
    });
    let names = ["joint", "robot", "default", "position", "velocity", "torque", "kp", "kd", "damp kd"];
    table(out, names, rows);
    safety(out, spec);
    let rows = spec.actions.iter().map(|action| {
        [
            action.joint.clone(),
            format!("{:?}", action.mode),
            action.scale.to_string(),
            action.offset.to_string(),
            action.clip.map_or("-".into(), |[low, high]| format!("{low}..{high}")),
            action.kp.to_string(),
            action.kd.to_string(),
        ]
    });
    table(out, ["action", "mode", "scale", "offset", "clip", "kp", "kd"], rows);
}

/// Rates, profiles and monitors.
fn safety(out: &mut String, spec: &ContractSpec) {
    let number = |value: f32| if value < UNLIMITED { value.to_string() } else { "-".into() };
    let rows = spec.joints.iter().map(|joint| {
        [
            joint.name.clone(),
            number(joint.position_rate_limit),
            number(joint.acceleration_limit),
            joint.jerk_limit.map_or("-".into(), number),
            joint.braking_deceleration.map_or_else(|| number(joint.acceleration_limit), number),
            number(joint.torque_rate_limit),
        ]
    });
    table(out, ["joint", "position rate", "acceleration", "jerk", "braking", "torque rate"], rows);
    line(out, "power budget", spec.power_budget.map_or("none".into(), |watts| format!("{watts} W")));
    let chosen = spec.default_profile.as_deref().or(spec.profiles.first().map(|profile| &*profile.name));
    line(out, "default profile", chosen.unwrap_or("full (the only one)"));
    let rows = spec.profiles.iter().map(|profile| {
        let of = |scale: Option<f32>, cap: Option<f32>| match (scale, cap) {
            (None, None) => "-".into(),
            (Some(scale), None) => format!("x {scale}"),
            (None, Some(cap)) => format!("{cap}"),
            (Some(scale), Some(cap)) => format!("x {scale}, {cap}"),
        };
        let (scale, cap) = (&profile.scale, &profile.cap);
        [
            profile.name.clone(),
            of(scale.velocity, cap.velocity),
            of(scale.acceleration, cap.acceleration),
            of(scale.jerk, cap.jerk),
            of(scale.torque, cap.torque),
            of(scale.torque_rate, cap.torque_rate),
            of(scale.power, cap.power),
        ]
    });
    table(out, ["profile", "velocity", "acceleration", "jerk", "torque", "torque rate", "power"], rows);
    let m = &spec.monitors;
    let actions = [m.age, m.off, m.stuck, m.noise, m.jump, m.response].map(|spec| (spec.action, spec.needed));
    let rows = monitor::NAMES.iter().zip(actions).map(|(name, (action, needed))| {
        [(*name).into(), format!("{action:?}"), format!("{needed} of 16 ticks")]
    });
    table(out, ["monitor", "action", "after"], rows);
}

fn elements(values: &PerElement) -> String {
    match values {
        PerElement::One(value) => value.to_string(),
        PerElement::Each(values) => match values.iter().min_by(|a, b| a.total_cmp(b)) {
            Some(low) => {
                let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                if *low == high { low.to_string() } else { format!("{low}..{high}") }
            }
            None => "-".into(),
        },
    }
}

fn clip(term: &TermSpec) -> String {
    match term.clip {
        Some([low, high]) if high < NO_CLIP => format!("{low}..{high}"),
        _ => "-".into(),
    }
}

fn operators(out: &mut String, policy: &Policy<'_>, manifest: Option<&Manifest>) {
    let rows = policy.network.operators().iter().enumerate().map(|(index, operator)| {
        let name = manifest.and_then(|manifest| manifest.operators.get(index)).cloned().unwrap_or_default();
        [
            index.to_string(),
            kind(operator).into(),
            format!("{} -> {}", operator.n_in, operator.n_out),
            activation_name(operator),
            format!("{} -> {}", operator.input, operator.output),
            name,
        ]
    });
    table(out, ["#", "operator", "shape", "activation", "arena", "node"], rows);
}

fn kind(operator: &Operator) -> &'static str {
    let name = match operator.opcode {
        opcode::BINARY => binary::NAMES.get(usize::from(operator.kind)),
        opcode => opcode::NAMES.get(usize::from(opcode).wrapping_sub(1)),
    };
    name.copied().unwrap_or("?")
}

fn activation_name(operator: &Operator) -> String {
    let (alpha, beta) = (operator.alpha, operator.beta);
    match (operator.opcode, operator.kind) {
        (opcode::GEMM | opcode::UNARY | opcode::CONV, unary::ELU) => format!("Elu({alpha})"),
        (opcode::UNARY, unary::CLIP) => format!("Clip({alpha}, {beta})"),
        (opcode::GEMM | opcode::UNARY | opcode::CONV, kind) => {
            unary::NAMES.get(usize::from(kind)).copied().unwrap_or("?").into()
        }
        _ => "-".into(),
    }
}

fn sizes(out: &mut String, header: &Header, bytes: &[u8], policy: &Policy<'_>, stack_bytes: Option<u32>) {
    let plan: &Plan = policy.network.plan();
    let operators = policy.network.operators();
    line(out, "network", format_args!("[{}] -> [{}]", plan.n_inputs, plan.n_outputs));
    let elementwise: u64 = operators.iter().map(|operator| u64::from(operator.n_out)).sum();
    line(
        out,
        "operations",
        format_args!(
            "{} multiply-accumulates, {elementwise} elementwise, {} operators",
            plan.macs,
            operators.len()
        ),
    );
    line(out, "instructions", format_args!("{} per inference at most (Cortex-M4F)", plan.instructions));
    line(out, TIMES, times(&policy.network, None));
    line(out, "flash", format_args!("{} bytes", header.total_len));
    line(out, "  header", format_args!("{} bytes", size_of::<Header>()));
    for (name, section) in SECTIONS {
        let length = section_bytes(bytes, header, section).len();
        if length > 0 {
            line(out, &format!("  {name}"), format_args!("{length} bytes"));
        }
    }
    let contract = policy.contract.is_some();
    let (arena, history) = (plan.arena_len * 4, plan.history_len * 4);
    let observation = if contract { plan.n_inputs * 4 } else { 0 };
    line(out, "RAM", format_args!("{} bytes", arena + history + observation));
    line(out, "  arena", format_args!("{arena} bytes, {} of them state", plan.state_len * 4));
    line(out, "  history", format_args!("{history} bytes"));
    line(out, "  observation", format_args!("{observation} bytes"));
    match stack_bytes {
        Some(bytes) => line(out, "stack", format_args!("{bytes} bytes (measured by the firmware)")),
        None => line(out, "stack", "not measured: run the image on a target"),
    }
    line(out, "golden vectors", plan.golden_count);
    match policy.abstention {
        None => line(out, "abstention", "never: compile with --abstain RUN"),
        Some(abstention) => {
            let h = abstention.header;
            let kept = if h.residual > 0.0 { "of its principal directions" } else { "whole covariance" };
            line(
                out,
                "abstention",
                format_args!(
                    "from scores above {:.3} in {} of {} ticks; false-alarm rate {} per tick, calibrated on {} windows",
                    h.threshold, h.needed, h.window, h.false_alarm, h.calibrated
                ),
            );
            line(
                out,
                "  statistics",
                format_args!("{} observations of {} elements, {} {kept}", h.fitted, h.n, h.rank),
            );
        }
    }
}

/// Name of the line with [`times`].
pub const TIMES: &str = "  estimated time";

/// Estimated time of an inference for each processor; `flash_wait`: cycles that each word of weights waits for the
/// flash, instead of the profile's.
#[must_use]
pub fn times(network: &Network<'_>, flash_wait: Option<u32>) -> String {
    let of = |profile: &Profile| {
        let profile = Profile { flash_wait: flash_wait.unwrap_or(profile.flash_wait), ..*profile };
        let Profile { name, mhz, flash_wait, .. } = profile;
        format!("{name} {} us ({mhz} MHz, {flash_wait} wait states)", profile.inference_us(network))
    };
    Profile::ALL[1..].iter().map(of).collect::<Vec<_>>().join(", ")
}

/// Columns as wide as their widest cell.
fn table<const N: usize>(out: &mut String, names: [&str; N], rows: impl Iterator<Item = [String; N]>) {
    let mut all = vec![names.map(String::from)];
    all.extend(rows);
    let widths: [usize; N] =
        std::array::from_fn(|column| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    out.push('\n');
    for row in &all {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    out.push('\n');
}
