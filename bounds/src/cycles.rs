//! Cycles that executed instructions take: a trace of Thumb-2 instructions through a model of the core's pipeline.
//!
//! **Cortex-M4F**: the tables of Arm's Technical Reference Manual (DDI 0439, 3.3.1 and 7.2.3), from memory without wait
//! states. Where the manual gives a range: a taken branch refills for [`REFILL`] cycles (1 to 3), divisions of
//! integers take 12 (2 to 12). A result of floating-point arithmetic that the next instruction uses costs one more.
//!
//! **Cortex-M7**: Arm publishes no table. The model is an estimate: in order, two instructions a cycle where the second
//! needs nothing of the first, at most one of them a load or store, one floating-point, one multiplication or DSP
//! instruction; loads of several words move 64 bits a cycle and go alone; results after the [`latency`] of their
//! kind; branches predicted; code and data without wait states (TCM). That instructions pair about like this was
//! measured on an STM32H730 (<https://www.quinapalus.com/cm7cycles.html>); the latencies are assumptions.
//!
//! Neither was compared with a processor. Interrupts, flash and caches are not in them.

use crate::thumb::{self, Next};

/// Cycles that a taken branch of the M4 refills the pipeline (DDI 0439: 1 to 3).
const REFILL: u64 = 2;
/// Unsigned and signed division of integers at most (DDI 0439: 2 to 12).
const INTEGER_DIVISION: u64 = 12;

/// What the timing of an instruction depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Integer arithmetic, moves, comparisons.
    Integer,
    /// A multiplication or DSP instruction with one cycle of issue.
    Multiply,
    /// `MLA`, `MLS`.
    MultiplyAdd,
    /// `SDIV`, `UDIV`.
    Divide,
    /// Loads one word.
    Load,
    /// Stores one word.
    Store,
    /// `LDM`, `VLDM`, `POP`, `LDRD` and their like: words.
    LoadMany(u8),
    /// `STM`, `VSTM`, `PUSH`, `STRD`: words.
    StoreMany(u8),
    /// A branch, call, return through a register, or table jump.
    Branch,
    /// `VADD`, `VSUB`, `VMUL`, `VCVT`.
    Float,
    /// `VMLA`, `VFMA` and their like.
    FloatMultiplyAdd,
    /// `VDIV`, `VSQRT`.
    FloatDivide,
    /// `VMOV`, `VABS`, `VNEG`, `VCMP`, `VMRS` and one word to or from a core register.
    FloatMove,
    /// Two words between core and floating-point registers.
    FloatMoveTwo,
}

/// One instruction as the models see it. Registers 0 to 15 are the core's, 16 to 47 `s0` to `s31`, 48 the flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Kind.
    pub kind: Kind,
    /// Bytes.
    pub size: u32,
    /// One bit per register read; too many rather than too few.
    pub reads: u64,
    /// One bit per register written.
    pub writes: u64,
}

const FLAGS: u64 = 1 << 48;

fn core(register: u16) -> u64 {
    1 << (register & 15)
}

fn bits(word: u16, at: u32, width: u32) -> u16 {
    word >> at & ((1u32 << width) - 1) as u16
}

/// Single-precision register `vd:d`, or two of them for a double.
fn float(vd: u16, d: u16, double: bool) -> u64 {
    if double {
        3 << (16 + 2 * u32::from(vd & 15))
    } else {
        1 << (16 + u32::from(vd & 15) * 2 + u32::from(d & 1))
    }
}

/// Decodes the instruction at `address`; `second` is read only for wide ones.
#[must_use]
pub fn operation(address: u32, first: u16, second: u16) -> Operation {
    let decoded = thumb::decode(address, first, second);
    let mut writes = u64::from(decoded.writes);
    if let Some((register, _)) = decoded.sets {
        writes |= core(register.into());
    }
    let mut op = Operation { kind: Kind::Integer, size: decoded.size, reads: 0, writes };
    if thumb::is_wide(first) {
        wide(&mut op, first, second)
    } else {
        narrow(&mut op, first)
    }
    match decoded.next {
        Next::Following | Next::If(_) | Next::Unknown | Next::Trap => {}
        Next::Return if matches!(op.kind, Kind::LoadMany(_)) => {}
        _ => op.kind = Kind::Branch,
    }
    op
}

fn narrow(op: &mut Operation, word: u16) {
    let (low, middle, high) = (word & 7, bits(word, 3, 3), bits(word, 6, 3));
    let eight = bits(word, 8, 3);
    let list = (word & 0xff).count_ones() as u8;
    op.reads = match word >> 11 {
        0b00000..=0b00010 => core(middle),
        0b00011 => core(middle) | if bits(word, 10, 1) == 0 { core(high) } else { 0 },
        0b00100 => 0,
        0b00101..=0b00111 => core(eight),
        0b01000 if bits(word, 10, 1) == 0 => core(low) | core(middle),
        0b01000 => core(low | bits(word, 7, 1) << 3) | core(bits(word, 3, 4)),
        0b01010 | 0b01011 => core(middle) | core(high) | core(low),
        0b01100..=0b10001 => core(middle) | core(low),
        0b10010 | 0b10011 => core(13) | core(eight),
        0b10101 => core(13),
        0b10110 | 0b10111 => core(low) | core(middle) | core(13) | u64::from(word & 0xff),
        0b11000 | 0b11001 => core(eight) | u64::from(word & 0xff),
        0b11010 | 0b11011 => FLAGS,
        _ => 0,
    };
    op.kind = match word >> 11 {
        0b01000 if bits(word, 6, 5) == 0b01101 => Kind::Multiply,
        0b01001 | 0b01101 | 0b01111 | 0b10001 | 0b10011 => Kind::Load,
        0b01010 | 0b01011 => {
            if bits(word, 9, 3) < 3 {
                Kind::Store
            } else {
                Kind::Load
            }
        }
        0b01100 | 0b01110 | 0b10000 | 0b10010 => Kind::Store,
        0b10110 if bits(word, 9, 2) == 0b10 => Kind::StoreMany(list + bits(word, 8, 1) as u8),
        0b10111 if bits(word, 9, 2) == 0b10 => Kind::LoadMany(list + bits(word, 8, 1) as u8),
        0b11000 => Kind::StoreMany(list),
        0b11001 => Kind::LoadMany(list),
        _ => Kind::Integer,
    };
    // Nearly all of the others set the flags.
    if matches!(word >> 11, 0..=0b01000) && bits(word, 8, 8) & 0b1111_1110 != 0b0100_0110 {
        op.writes |= FLAGS;
    }
}

fn wide(op: &mut Operation, first: u16, second: u16) {
    let (rn, rd, rm, rt) = (core(first), core(bits(second, 8, 4)), core(second), core(bits(second, 12, 4)));
    let class = bits(first, 4, 7);
    let load = bits(first, 4, 1) != 0;
    match bits(first, 11, 2) {
        0b01 if class & 0x64 == 0 => {
            let words = second.count_ones() as u8;
            op.reads = rn | if load { 0 } else { u64::from(second) };
            op.kind = if load { Kind::LoadMany(words) } else { Kind::StoreMany(words) };
        }
        0b01 if class & 0x64 == 4 => {
            op.reads = rn | if load { 0 } else { rt | rd };
            op.kind = if load { Kind::LoadMany(2) } else { Kind::StoreMany(2) };
        }
        0b01 if class & 0x60 == 0x20 => {
            op.reads = rn | rm;
            if load {
                op.writes |= FLAGS
            }
        }
        0b01 | 0b11 if class & 0x40 != 0 => coprocessor(op, first, second),
        0b10 if bits(second, 15, 1) != 0 => op.reads = FLAGS,
        0b10 => {
            op.reads = rn;
            if bits(first, 9, 1) == 0 && load {
                op.writes |= FLAGS
            }
        }
        0b11 if matches!(class & 0x77, 0 | 2 | 4) => {
            (op.reads, op.kind) = (rn | rt | rm, Kind::Store);
        }
        0b11 if matches!(class & 0x67, 1 | 3 | 5) => (op.reads, op.kind) = (rn | rm, Kind::Load),
        0b11 if class & 0x70 == 0x20 => {
            // Shifts and extensions are plain, parallel and saturating additions go with the DSP instructions.
            op.reads = rn | rm;
            if class & 8 != 0 {
                op.kind = Kind::Multiply
            }
        }
        0b11 if class & 0x78 == 0x30 => {
            op.reads = rn | rm | rt;
            let accumulates = rt != core(15);
            op.kind = if class == 0x30 && accumulates { Kind::MultiplyAdd } else { Kind::Multiply };
        }
        0b11 if class & 0x78 == 0x38 => {
            op.reads = rn | rm | rt | rd;
            op.kind = if class & 5 == 1 { Kind::Divide } else { Kind::Multiply };
        }
        _ => {}
    }
    op.reads &= !(core(15) | core(13)) | core(13);
}

fn coprocessor(op: &mut Operation, first: u16, second: u16) {
    let double = bits(second, 8, 1) != 0;
    let (vd, d) = (bits(second, 12, 4), bits(first, 6, 1));
    let sd = float(vd, d, double);
    let sm = float(second, bits(second, 5, 1), double);
    let sn = float(first, bits(second, 7, 1), double);
    let load = bits(first, 4, 1) != 0;
    let (rt, rn) = (core(vd), core(first));
    match first >> 8 {
        0xec if first & 0xffe0 == 0xec40 => {
            let pair = if double { sm } else { sm | sm << 1 };
            op.kind = Kind::FloatMoveTwo;
            if load { op.reads = pair } else { (op.reads, op.writes) = (rt | rn, pair) }
        }
        0xec | 0xed => {
            let indexed_one = bits(first, 8, 1) != 0 && bits(first, 5, 1) == 0;
            let words = if indexed_one { 1 + u8::from(double) } else { (second & 0xff).min(32) as u8 };
            let start = sd.trailing_zeros();
            let registers = (0..u32::from(words)).fold(0, |all, i| all | 1u64 << (start + i).min(47));
            op.reads = rn | if load { 0 } else { registers };
            op.writes |= if load { registers } else { 0 };
            op.kind = match (load, indexed_one && !double) {
                (true, true) => Kind::Load,
                (false, true) => Kind::Store,
                (true, false) => Kind::LoadMany(words),
                (false, false) => Kind::StoreMany(words),
            };
        }
        0xee if bits(second, 4, 1) != 0 => {
            op.kind = Kind::FloatMove;
            if bits(first, 5, 3) == 7 {
                // VMRS and VMSR.
                (op.reads, op.writes) = if load { (FLAGS, op.writes | FLAGS) } else { (rt, 0) };
            } else if load {
                op.reads = sn;
            } else {
                (op.reads, op.writes) = (rt, sn);
            }
        }
        _ => {
            op.writes = sd;
            op.reads = sn | sm;
            op.kind = match (bits(first, 4, 4) & 0b1011, first >> 8) {
                (0b0000 | 0b0001 | 0b1001 | 0b1010, 0xee) => {
                    op.reads |= sd;
                    Kind::FloatMultiplyAdd
                }
                (0b1000, 0xee) => Kind::FloatDivide,
                (0b1011, 0xee) => {
                    op.reads = sm;
                    match (first & 15, bits(second, 6, 2)) {
                        (0, 0 | 2) => {
                            op.reads = 0; // immediate
                            Kind::FloatMove
                        }
                        (1, 3) => Kind::FloatDivide, // VSQRT
                        (0 | 1, _) => Kind::FloatMove,
                        (4 | 5, _) => {
                            (op.reads, op.writes) = (sd | sm, FLAGS);
                            Kind::FloatMove
                        }
                        _ => Kind::Float,
                    }
                }
                _ => Kind::Float,
            };
        }
    }
}

/// Cycles of a Cortex-M4F.
#[derive(Clone, Debug, Default)]
pub struct CortexM4 {
    cycles: u64,
    /// Registers that floating-point arithmetic of the instruction before wrote.
    fresh: u64,
    /// The instruction before was a single load or store: the next overlaps with it.
    access: bool,
}

impl CortexM4 {
    /// One more executed instruction; `taken`: execution went on elsewhere than behind it.
    pub fn step(&mut self, op: &Operation, taken: bool) {
        let stall = u64::from(self.fresh & op.reads != 0);
        let refill = if taken { REFILL } else { 0 };
        let access = matches!(op.kind, Kind::Load | Kind::Store);
        let own = match op.kind {
            Kind::Integer | Kind::Multiply | Kind::Branch | Kind::Float | Kind::FloatMove => 1,
            Kind::MultiplyAdd | Kind::FloatMoveTwo => 2,
            Kind::Load | Kind::Store => {
                if self.access {
                    1
                } else {
                    2
                }
            }
            Kind::LoadMany(words) | Kind::StoreMany(words) => 1 + u64::from(words),
            Kind::FloatMultiplyAdd => 3,
            Kind::FloatDivide => 14,
            Kind::Divide => INTEGER_DIVISION,
        };
        self.cycles += own + stall + refill;
        let arithmetic = matches!(op.kind, Kind::Float | Kind::FloatMultiplyAdd | Kind::FloatDivide);
        self.fresh = if arithmetic { op.writes } else { 0 };
        self.access = access;
    }

    /// Cycles so far.
    #[must_use]
    pub fn cycles(&self) -> u64 {
        self.cycles
    }
}

/// Cycles until a result of this kind can be used on an M7; assumed.
fn latency(kind: Kind) -> u64 {
    match kind {
        Kind::Integer | Kind::Branch | Kind::Store | Kind::StoreMany(_) => 1,
        Kind::Multiply | Kind::MultiplyAdd | Kind::Load | Kind::FloatMove | Kind::FloatMoveTwo => 2,
        Kind::LoadMany(words) => u64::from(words).div_ceil(2) + 1,
        Kind::Float => 3,
        Kind::FloatMultiplyAdd => 5,
        Kind::Divide => INTEGER_DIVISION,
        Kind::FloatDivide => 14,
    }
}

/// Cycles of a Cortex-M7, estimated.
#[derive(Clone, Debug)]
pub struct CortexM7 {
    /// Cycle in which the next instruction may issue.
    now: u64,
    /// Kinds that issued in this cycle.
    issued: Vec<Kind>,
    /// When each register can be read.
    ready: [u64; 64],
    /// When the divider is free.
    divider: u64,
}

impl Default for CortexM7 {
    fn default() -> Self {
        Self { now: 0, issued: Vec::new(), ready: [0; 64], divider: 0 }
    }
}

impl CortexM7 {
    /// Unit of which a cycle has one; `None`: arithmetic, of which it has two.
    fn unit(kind: Kind) -> Option<u8> {
        match kind {
            Kind::Load | Kind::Store => Some(0),
            Kind::Float | Kind::FloatMultiplyAdd | Kind::FloatDivide => Some(1),
            Kind::Multiply | Kind::MultiplyAdd | Kind::Divide => Some(2),
            Kind::Branch => Some(3),
            Kind::FloatMove | Kind::FloatMoveTwo => Some(1),
            _ => None,
        }
    }

    /// One more executed instruction.
    pub fn step(&mut self, op: &Operation, _taken: bool) {
        let alone = matches!(op.kind, Kind::LoadMany(_) | Kind::StoreMany(_));
        let registers = |set: u64| (0..64).filter(move |register| set >> register & 1 != 0);
        let mut earliest = registers(op.reads).map(|register| self.ready[register]).max().unwrap_or(0);
        if op.kind == Kind::FloatDivide {
            earliest = earliest.max(self.divider);
        }
        let unit = Self::unit(op.kind);
        let full = self.issued.len() == 2
            || (alone && !self.issued.is_empty())
            || (unit.is_some() && self.issued.iter().any(|&kind| Self::unit(kind) == unit));
        if earliest > self.now || full {
            self.now = earliest.max(self.now + u64::from(full));
            self.issued.clear();
        }
        let at = self.now;
        registers(op.writes).for_each(|register| self.ready[register] = at + latency(op.kind));
        self.issued.push(op.kind);
        match op.kind {
            Kind::LoadMany(words) | Kind::StoreMany(words) => {
                self.now += u64::from(words).div_ceil(2).max(1);
                self.issued.clear();
            }
            Kind::FloatDivide => self.divider = at + latency(op.kind),
            _ => {}
        }
    }

    /// Cycles so far.
    #[must_use]
    pub fn cycles(&self) -> u64 {
        self.now + u64::from(!self.issued.is_empty())
    }
}
