//! What an inference costs at most, in closed form over the operator table: control flow does not depend on
//! data, so sizes say it all.
//!
//! Instructions are those of the firmware on a Cortex-M4F (`thumbv7em-none-eabihf`, the kernels' assembly
//! included). The coefficients were fitted to counts of QEMU (`-icount shift=0`) and rounded up; docs/bounds.md says how,
//! and `cargo xtask bench cost` prints count and bound side by side. Cycles per instruction and wait states of a
//! processor are a [`Profile`]'s.

use crate::{Contract, Network};
use tendon_wire::image::{Operator, View, Window, binary, opcode, unary};

/// A processor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// Name.
    pub name: &'static str,
    /// Cycles per instruction of the kernels, times 100, rounded up.
    pub centicycles: u32,
    /// Cycles that each 4 bytes of weights wait for the flash.
    pub flash_wait: u32,
    /// Clock, MHz.
    pub mhz: u32,
}

impl Profile {
    /// QEMU with `-icount shift=0`: one instruction is one nanosecond.
    pub const QEMU: Self = Self { name: "qemu", centicycles: 100, flash_wait: 0, mhz: 1000 };
    /// Cortex-M4F at 168 MHz (STM32F405): `f32` multiply and add take one cycle each, loads of several words one
    /// cycle more than words (Arm DDI 0439, table of instruction timings): 1.6 cycles per instruction over the
    /// dense kernel, 2 with what surrounds it.
    pub const M4F: Self = Self { name: "m4f", centicycles: 200, flash_wait: 1, mhz: 168 };
    /// Cortex-M7 at 480 MHz (STM32H743): at most 1.33 by the model of `bounds/src/cycles.rs` over the networks of `bench mcu`.
    pub const M7: Self = Self { name: "m7", centicycles: 140, flash_wait: 1, mhz: 480 };
    /// Cortex-M33 with FPU at 150 MHz (RP2350): timings as the M4F's.
    pub const M33: Self = Self { name: "m33", centicycles: 200, flash_wait: 1, mhz: 150 };
    /// Cortex-M3 at 72 MHz: every `f32` operation is a call of some 40 to 100 instructions; an estimate that nothing
    /// here has measured.
    pub const M3: Self = Self { name: "m3", centicycles: 4000, flash_wait: 1, mhz: 72 };
    /// All of them.
    pub const ALL: [Self; 5] = [Self::QEMU, Self::M4F, Self::M7, Self::M33, Self::M3];

    /// Time of an inference at most, us, rounded up.
    #[must_use]
    pub fn inference_us(&self, network: &Network<'_>) -> u32 {
        (self.inference_ns(network) / 1000).saturating_add(1).min(u32::MAX.into()) as u32
    }

    /// Time of an inference at most, ns.
    #[must_use]
    pub fn inference_ns(&self, network: &Network<'_>) -> u64 {
        let fetched = (network.weights().len() as u64).saturating_mul(self.flash_wait.into());
        self.ns(instructions(network)).saturating_add(self.cycles_ns(fetched))
    }

    /// Time of so many instructions at most, ns.
    #[must_use]
    pub fn ns(&self, instructions: u64) -> u64 {
        self.cycles_ns(instructions.saturating_mul(self.centicycles.into()).div_ceil(100))
    }

    fn cycles_ns(&self, cycles: u64) -> u64 {
        cycles.saturating_mul(1000).div_ceil(self.mhz.max(1).into())
    }
}

// What the firmware's tasks take beside the inference, in instructions. docs/timing.md says how each was found:
// the handlers of interrupts are bounded from the linked firmware, the others were measured under
// `-icount shift=0` and doubled.

/// Entry and exit of an interrupt.
pub const ENTRY: u64 = 60;
/// `CLOCK_WRAP`.
pub const CLOCK_WRAP: u64 = 60;
/// `LINK_RX`, per byte.
pub const LINK_RX: u64 = 200;
/// `LINK_TX`, per byte.
pub const LINK_TX: u64 = 300;
/// Interrupts off while `idle` looks whether it may sleep.
pub const SLEEP: u64 = 30;

/// A control tick without its inference: fallback, observation, mapping, envelope, frame, black box.
#[must_use]
pub fn tick(contract: &Contract<'_>) -> u64 {
    let joints = contract.joints.len() as u64;
    let observed = u64::from(contract.header.n_observation).saturating_add(contract.values.len() as u64);
    joints.saturating_mul(9000).saturating_add(observed.saturating_mul(150)).saturating_add(50_000)
}

/// The fallback at a deadline: a frame made and queued.
#[must_use]
pub fn deadline(contract: &Contract<'_>) -> u64 {
    (contract.joints.len() as u64).saturating_mul(3500).saturating_add(12_000)
}

/// What keeps the tick waiting: a message of the host at work on the control loop.
#[must_use]
pub fn messages(contract: &Contract<'_>) -> u64 {
    u64::from(contract.header.n_observation).saturating_mul(100).saturating_add(80_000)
}

/// Instructions of one inference at most.
#[must_use]
pub fn instructions(network: &Network<'_>) -> u64 {
    let plan = network.plan();
    let start = 120u64.saturating_add(6 * u64::from(plan.n_inputs));
    network.operators().iter().fold(start, |sum, op| sum.saturating_add(of_operator(network, op)))
}

/// Instructions per element of a function of one number, call and loop included.
fn of_function(kind: u8) -> u64 {
    match kind {
        unary::NONE => 0,
        unary::RELU | unary::ABS | unary::NOT | unary::SIGN | unary::RECIPROCAL => 12,
        unary::EXP => 50,
        unary::CLIP | unary::LEAKY_RELU | unary::SOFTSIGN | unary::THRESHOLDED_RELU | unary::SHRINK => 20,
        unary::TRUNC | unary::ROUND | unary::BIT_NOT | unary::IS_NAN | unary::IS_INF => 20,
        unary::FLOOR | unary::CEIL => 28,
        unary::WRAP => 40,
        unary::LOG | unary::SQRT => 64,
        unary::SIN | unary::COS | unary::TAN | unary::ATAN => 64,
        _ => 170,
    }
}

fn of_pair(kind: u8) -> u64 {
    match kind {
        binary::POW | binary::POW_OF => 190,
        binary::MOD | binary::FMOD => 70,
        binary::SHIFT_LEFT | binary::SHIFT_RIGHT => 44,
        _ => 14,
    }
}

/// A function of `n` elements: four at a time where `kernels/arm.rs` has it, each by itself for what is left.
fn of_elements(kind: u8, n: u64) -> u64 {
    let (four, one) = match kind {
        unary::TANH => (100, 45),
        unary::SIGMOID => (74, 60),
        unary::SWISH => (78, 62),
        unary::ELU => (102, 80),
        _ => (4 * of_function(kind), of_function(kind)),
    };
    (n / 4).saturating_mul(four).saturating_add(n % 4 * one)
}

/// A dense layer on one row: the instructions of `gemm` in `kernels/arm.rs`, counted there.
fn of_dense(n_in: u64, n_out: u64, relu: bool) -> u64 {
    let bit = |place: u32, instructions: u64| (n_in >> place & 1) * instructions;
    let rest = if n_in.is_multiple_of(32) { 0 } else { 8 };
    let rest = rest + bit(4, 134) + bit(3, 67) + bit(2, 34) + bit(1, 18) + bit(0, 10);
    let block = (n_in / 32).saturating_mul(270).saturating_add(rest + if relu { 19 } else { 9 });
    // The call; the last rows have one of their own.
    let calls = if n_out.is_multiple_of(4) { 45 } else { 45 + 75 };
    n_out.div_ceil(4).saturating_mul(block).saturating_add(calls)
}

fn of_operator(network: &Network<'_>, op: &Operator) -> u64 {
    let [d0, d1, d2, d3, _] = op.dims.map(u64::from);
    let (n_in, n_out) = (u64::from(op.n_in), u64::from(op.n_out));
    let all = |factors: &[u64]| factors.iter().fold(1u64, |product, &f| product.saturating_mul(f));
    let function = of_elements(op.kind, n_out).saturating_add(60);
    // A copy of the first operand where the result does not lie in its place.
    let copied = all(&[n_out, 5]).saturating_add(60);
    let body = match op.opcode {
        opcode::GEMM => {
            let activation = if op.kind > unary::RELU { function } else { 0 };
            all(&[d0, of_dense(d1, d2, op.kind == unary::RELU)]).saturating_add(activation)
        }
        opcode::UNARY => function.saturating_add(copied),
        opcode::AFFINE => all(&[n_out, 24]).saturating_add(copied),
        opcode::BINARY => {
            let groups = n_out.checked_div(d1).unwrap_or(0);
            all(&[n_out, of_pair(op.kind)]).saturating_add(copied).saturating_add(all(&[groups, 16]))
        }
        opcode::SELECT => all(&[n_out, 16]),
        opcode::MOVE => match network.record::<View>(op.weights) {
            Some(view) => {
                let [outer @ .., last] = view.dims.map(u64::from);
                all(&[all(&outer), all(&[last, 14]).saturating_add(120)])
            }
            None => 0,
        },
        opcode::FILL => all(&[n_out, 5]),
        opcode::GATHER => all(&[n_out, 14]),
        opcode::TAKE | opcode::SCATTER => {
            let places = all(&[d0, d3]);
            all(&[n_out.max(all(&[places, d2])), 30])
                .saturating_add(all(&[places, 80]))
                .saturating_add(copied)
                .saturating_add(160)
        }
        opcode::REDUCE | opcode::ARG => {
            all(&[n_in, 18]).saturating_add(all(&[n_out, 60])).saturating_add(160)
        }
        opcode::TOP => all(&[n_out, all(&[d1, 38]).saturating_add(60)]),
        opcode::CUMULATE => all(&[n_out, 26]).saturating_add(all(&[d0, d2, 60])).saturating_add(copied),
        opcode::SOFTMAX => all(&[n_out, 100]).saturating_add(all(&[d0, d2, 220])).saturating_add(copied),
        opcode::MATMUL => all(&[d0, d1, d2, d3, 22])
            .saturating_add(all(&[n_out, 40]))
            .saturating_add(all(&[d0, d1, d2, 30]))
            .saturating_add(all(&[d0, 230])),
        opcode::CONV => match network.record::<Window>(op.input_b) {
            Some(w) => {
                let groups = u64::from(w.groups.max(1));
                let (c_in, c_out) = (u64::from(w.channels) / groups, u64::from(w.channels_out) / groups);
                let rows = all(&[c_in, w.kernel_h.into()]);
                let patch = all(&[rows, w.kernel_w.into()]);
                let gathered =
                    all(&[patch, 14]).saturating_add(all(&[rows, 70])).saturating_add(all(&[c_in, 30]));
                let pixel =
                    of_dense(patch, c_out, false).saturating_add(gathered).saturating_add(all(&[c_out, 14]));
                let pixels = all(&[d0, groups, w.height_out.into(), w.width_out.into()]);
                all(&[pixels, pixel.saturating_add(175)]).saturating_add(function).saturating_add(500)
            }
            None => 0,
        },
        opcode::POOL => match network.record::<Window>(op.input_b) {
            Some(w) => {
                let kernel = all(&[w.kernel_h.into(), all(&[w.kernel_w.into(), 22]).saturating_add(70)]);
                all(&[n_out, kernel.saturating_add(140)]).saturating_add(300)
            }
            None => 0,
        },
        opcode::QUANTIZE => all(&[n_in, 16]).saturating_add(160),
        opcode::GEMM_8W16A => {
            // Per block: 23 for four inputs, and the end of each row.
            let inner = all(&[d0.div_ceil(8), 50]);
            all(&[d1.div_ceil(4), inner.saturating_add(70)]).saturating_add(160)
        }
        opcode::LSTM => (n_in / 4).saturating_mul(395).saturating_add(n_in % 4 * 330).saturating_add(copied),
        _ => 0,
    };
    body.saturating_add(110)
}
