//! Thumb-2 of ARMv7-M (DDI 0403E, chapter A5) and ARMv8-M (DDI 0553, chapter C2) as the stack analysis sees it:
//! which core registers an instruction writes, what it does to the stack pointer, and where it goes on.
//!
//! Values are not computed beyond what compilers need to move the stack pointer. An encoding that is not in
//! this file is [`Next::Unknown`], and the analysis refuses it.

/// Number of the stack pointer.
pub const SP: u8 = 13;
/// Number of the link register.
pub const LR: u8 = 14;
/// Number of the program counter.
pub const PC: u8 = 15;

/// What one instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Bytes: 2 or 4.
    pub size: u32,
    /// Core registers that get a value unknown here, one bit each.
    pub writes: u16,
    /// A register whose value can be said.
    pub sets: Option<(u8, Value)>,
    /// Loads the link register from the stack: it is the return address again.
    pub restores_lr: bool,
    /// Where it goes on.
    pub next: Next,
}

/// A value in terms of registers before the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A constant.
    Constant(u32),
    /// The word at this address, a literal pool.
    Literal(u32),
    /// Another register and a constant.
    Sum(u8, i32),
    /// First register plus (or minus) the second shifted left.
    Registers {
        /// First operand.
        first: u8,
        /// Second operand.
        second: u8,
        /// Left shift of the second.
        shift: u8,
        /// `first - second`.
        subtract: bool,
    },
    /// Its own lower half, this upper half (`movt`).
    Upper(u16),
    /// The register with so many low bits cleared.
    Aligned(u8, u8),
}

/// Where execution goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Behind the instruction.
    Following,
    /// There.
    Jump(u32),
    /// There, or behind the instruction.
    Branch(u32),
    /// There and back.
    Call(u32),
    /// To the address in a register.
    JumpRegister(u8),
    /// To the address in a register and back.
    CallRegister(u8),
    /// To the caller: the return address came off the stack.
    Return,
    /// To the address in memory.
    JumpMemory,
    /// Through the table of offsets behind the instruction, of so many bytes per entry.
    Table {
        /// Register with the table's address: 15 where it lies behind the instruction.
        base: u8,
        /// Bytes per entry: 1 or 2.
        entry: u32,
    },
    /// Behind the instruction; the next so many are conditional.
    If(u8),
    /// Nowhere: a fault is raised.
    Trap,
    /// Changes which stack is in use.
    StackSwitch,
    /// Raises the SVCall exception.
    SupervisorCall,
    /// Not decoded.
    Unknown,
}

const fn plain(size: u32, writes: u16) -> Instruction {
    Instruction { size, writes, sets: None, restores_lr: false, next: Next::Following }
}

const fn goes(size: u32, next: Next) -> Instruction {
    Instruction { next, ..plain(size, 0) }
}

const fn sets(size: u32, register: u8, value: Value) -> Instruction {
    // The program counter is no register to be followed.
    if register == PC {
        return goes(size, Next::JumpMemory);
    }
    Instruction { sets: Some((register, value)), ..plain(size, 0) }
}

fn bit(word: u16, at: u32) -> bool {
    word >> at & 1 != 0
}

fn field(word: u16, at: u32, width: u32) -> u16 {
    word >> at & ((1u32 << width) - 1) as u16
}

/// Register number at bit `at`.
fn register(word: u16, at: u32) -> u8 {
    field(word, at, 4) as u8
}

fn mask(register: u8) -> u16 {
    1 << register
}

fn signed(value: u32, bits: u32) -> i32 {
    ((value << (32 - bits)) as i32) >> (32 - bits)
}

fn there(address: u32, offset: i32) -> u32 {
    address.wrapping_add(4).wrapping_add_signed(offset)
}

/// Whether an instruction that begins with `first` has a second half.
#[must_use]
pub fn is_wide(first: u16) -> bool {
    first >= 0xe800
}

/// Decodes the instruction at `address`; `second` is read only for the wide ones.
#[must_use]
pub fn decode(address: u32, first: u16, second: u16) -> Instruction {
    if is_wide(first) { wide(address, first, second) } else { narrow(address, first) }
}

fn narrow(address: u32, word: u16) -> Instruction {
    const SIZE: u32 = 2;
    let low = word & 7;
    let middle = field(word, 8, 3) as u8;
    let imm8 = word & 0xff;
    match word >> 11 {
        // Shifts, additions and subtractions of low registers.
        0b00000..=0b00011 => plain(SIZE, 1 << low),
        0b00100 => sets(SIZE, middle, Value::Constant(imm8.into())),
        0b00101 => plain(SIZE, 0),
        0b00110 => sets(SIZE, middle, Value::Sum(middle, imm8.into())),
        0b00111 => sets(SIZE, middle, Value::Sum(middle, -i32::from(imm8))),
        0b01000 if !bit(word, 10) => {
            // TST, CMP, CMN.
            let compares = matches!(field(word, 6, 4), 8 | 10 | 11);
            plain(SIZE, if compares { 0 } else { 1 << low })
        }
        0b01000 => {
            let rd = (low | field(word, 7, 1) << 3) as u8;
            let rm = register(word, 3);
            match field(word, 8, 2) {
                0 if rd == PC => goes(SIZE, Next::JumpMemory),
                0 => sets(SIZE, rd, Value::Registers { first: rd, second: rm, shift: 0, subtract: false }),
                1 => plain(SIZE, 0),
                2 if rd == PC => goes(SIZE, Next::JumpRegister(rm)),
                2 => sets(SIZE, rd, Value::Sum(rm, 0)),
                _ if bit(word, 7) => goes(SIZE, Next::CallRegister(rm)),
                _ => goes(SIZE, Next::JumpRegister(rm)),
            }
        }
        0b01001 => {
            sets(SIZE, middle, Value::Literal((there(address, 0) & !3).wrapping_add(u32::from(imm8) * 4)))
        }
        // Loads and stores with a register offset: the first three are stores.
        0b01010 | 0b01011 => plain(SIZE, if field(word, 9, 3) < 3 { 0 } else { 1 << low }),
        // STR, LDR, STRB, LDRB, STRH, LDRH with an immediate.
        0b01100 | 0b01110 | 0b10000 => plain(SIZE, 0),
        0b01101 | 0b01111 | 0b10001 => plain(SIZE, 1 << low),
        // STR, LDR relative to the stack pointer.
        0b10010 => plain(SIZE, 0),
        0b10011 => plain(SIZE, 1 << middle),
        0b10100 => {
            sets(SIZE, middle, Value::Constant((there(address, 0) & !3).wrapping_add(u32::from(imm8) * 4)))
        }
        0b10101 => sets(SIZE, middle, Value::Sum(SP, i32::from(imm8) * 4)),
        0b10110 | 0b10111 => miscellaneous(address, word),
        0b11000 => plain(SIZE, 1 << middle),
        0b11001 => plain(SIZE, 1 << middle | imm8),
        0b11010 | 0b11011 => match field(word, 8, 4) {
            14 => goes(SIZE, Next::Trap),
            15 => goes(SIZE, Next::SupervisorCall),
            _ => goes(SIZE, Next::Branch(there(address, signed(u32::from(imm8) << 1, 9)))),
        },
        0b11100 => goes(SIZE, Next::Jump(there(address, signed(u32::from(word & 0x7ff) << 1, 12)))),
        _ => goes(SIZE, Next::Unknown),
    }
}

/// A5.2.5.
fn miscellaneous(address: u32, word: u16) -> Instruction {
    const SIZE: u32 = 2;
    let low = word & 7;
    let registers = (word & 0xff).count_ones() as i32;
    match field(word, 8, 4) {
        0b0000 => {
            let offset = i32::from(word & 0x7f) * 4;
            sets(SIZE, SP, Value::Sum(SP, if bit(word, 7) { -offset } else { offset }))
        }
        // CBZ, CBNZ: forwards only.
        0b0001 | 0b0011 | 0b1001 | 0b1011 => {
            let offset = field(word, 9, 1) << 6 | field(word, 3, 5) << 1;
            goes(SIZE, Next::Branch(there(address, offset.into())))
        }
        // SXTH, SXTB, UXTH, UXTB; REV, REV16, REVSH.
        0b0010 => plain(SIZE, 1 << low),
        0b1010 if field(word, 6, 2) != 2 => plain(SIZE, 1 << low),
        0b0100 => push(SIZE, registers),
        0b0101 => push(SIZE, registers + 1),
        0b0110 if field(word, 5, 3) == 0b011 => plain(SIZE, 0), // CPS
        0b1100 => pop(SIZE, word & 0xff),
        0b1101 => pop(SIZE, word & 0xff | 1 << PC),
        0b1110 => goes(SIZE, Next::Trap), // BKPT
        0b1111 if word & 0xf != 0 => goes(SIZE, Next::If((4 - (word & 0xf).trailing_zeros()) as u8)),
        0b1111 => plain(SIZE, 0), // NOP, WFI and their like
        _ => goes(SIZE, Next::Unknown),
    }
}

fn push(size: u32, registers: i32) -> Instruction {
    sets(size, SP, Value::Sum(SP, -4 * registers))
}

fn pop(size: u32, list: u16) -> Instruction {
    let next = if bit(list, PC.into()) { Next::Return } else { Next::Following };
    Instruction {
        writes: list & !mask(PC) & !mask(LR),
        restores_lr: bit(list, LR.into()),
        next,
        ..sets(size, SP, Value::Sum(SP, 4 * list.count_ones() as i32))
    }
}

fn wide(address: u32, first: u16, second: u16) -> Instruction {
    const SIZE: u32 = 4;
    let class = field(first, 4, 7);
    match field(first, 11, 2) {
        0b01 if class & 0x64 == 0x00 => load_store_multiple(first, second),
        0b01 if class & 0x64 == 0x04 => load_store_double(first, second),
        0b01 if class & 0x60 == 0x20 => shifted_register(first, second),
        0b01 | 0b11 if class & 0x40 != 0 => coprocessor(first, second),
        0b10 if bit(second, 15) => branches(address, first, second),
        0b10 if bit(first, 9) => plain_immediate(address, first, second),
        0b10 => modified_immediate(first, second),
        0b11 if matches!(class & 0x77, 0x00 | 0x02 | 0x04) || matches!(class & 0x67, 1 | 3 | 5) => {
            load_store_single(address, first, second)
        }
        // Shifts, extensions, parallel additions, CLZ, REV and others: one result.
        0b11 if class & 0x70 == 0x20 && field(second, 12, 4) == 15 => one_result(second),
        // Multiplications with one result.
        0b11 if class & 0x78 == 0x30 => one_result(second),
        // Long multiplications and divisions; the latter have 15 where the low result would be.
        0b11 if class & 0x78 == 0x38 => {
            let low = register(second, 12);
            let low = if low == PC { 0 } else { mask(low) };
            let high = one_result(second);
            Instruction { writes: high.writes | low, ..high }
        }
        _ => goes(SIZE, Next::Unknown),
    }
}

/// An instruction whose only result is the register at bits 8 to 11.
fn one_result(second: u16) -> Instruction {
    match register(second, 8) {
        PC => goes(4, Next::Unknown),
        rd => plain(4, mask(rd)),
    }
}

/// A5.3.5: LDM, STM, and with them the wide PUSH and POP.
fn load_store_multiple(first: u16, second: u16) -> Instruction {
    let rn = register(first, 0);
    let (writeback, load) = (bit(first, 5), bit(first, 4));
    let base = if writeback { mask(rn) } else { 0 };
    let upwards = match field(first, 7, 2) {
        0b01 => true,
        0b10 => false,
        _ => return goes(4, Next::Unknown),
    };
    if bit(second, SP.into()) {
        return goes(4, Next::Unknown);
    }
    match (load, rn == SP && writeback) {
        (false, true) if !upwards => push(4, second.count_ones() as i32),
        (true, true) if upwards => pop(4, second),
        (_, true) => goes(4, Next::Unknown),
        (false, false) => plain(4, base),
        (true, false) if bit(second, PC.into()) => goes(4, Next::JumpMemory),
        (true, false) => plain(4, second | base),
    }
}

/// A5.3.6: LDRD, STRD, exclusive accesses, TBB and TBH.
fn load_store_double(first: u16, second: u16) -> Instruction {
    let rn = register(first, 0);
    let (indexed, upwards, writeback, load) = (bit(first, 8), bit(first, 7), bit(first, 5), bit(first, 4));
    let (rt, rt2) = (register(second, 12), register(second, 8));
    if indexed || writeback {
        let loaded = if load { mask(rt) | mask(rt2) } else { 0 };
        if load && (rt == PC || rt2 == PC) {
            return goes(4, Next::Unknown);
        }
        let offset = i32::from(second & 0xff) * 4;
        return with_base(loaded, writeback.then_some((rn, if upwards { offset } else { -offset })));
    }
    match (upwards, load, field(second, 4, 4)) {
        (false, false, _) => plain(4, mask(rt2)), // STREX: the flag
        (false, true, _) => plain(4, mask(rt)),
        (true, false, 4 | 5) => plain(4, mask(register(second, 0))),
        (true, true, 0) => goes(4, Next::Table { base: rn, entry: 1 }),
        (true, true, 1) => goes(4, Next::Table { base: rn, entry: 2 }),
        (true, true, 4 | 5) => plain(4, mask(rt)),
        // v8-M: STLB, STLH, STL; STLEX and its narrow forms, the flag; loads with acquire (DDI 0553, C2.4).
        (true, false, 8..=10) => plain(4, 0),
        (true, false, 12..=14) => plain(4, mask(register(second, 0))),
        (true, true, 8..=10 | 12..=14) => plain(4, mask(rt)),
        _ => goes(4, Next::Unknown),
    }
}

/// Writes of a load or store and, with writeback, of its base.
fn with_base(loaded: u16, base: Option<(u8, i32)>) -> Instruction {
    match base {
        Some((rn, offset)) => Instruction { writes: loaded, ..sets(4, rn, Value::Sum(rn, offset)) },
        None => plain(4, loaded),
    }
}

/// A5.3.11.
fn shifted_register(first: u16, second: u16) -> Instruction {
    let (rn, rd, rm) = (register(first, 0), register(second, 8), register(second, 0));
    let shift = (field(second, 12, 3) << 2 | field(second, 6, 2)) as u8;
    let left = field(second, 4, 2) == 0;
    let operation = field(first, 5, 4);
    if rd == PC {
        // TST, TEQ, CMN, CMP.
        let compares = bit(first, 4) && matches!(operation, 0 | 4 | 8 | 13);
        return if compares { plain(4, 0) } else { goes(4, Next::Unknown) };
    }
    match operation {
        2 if rn == PC && shift == 0 && left => sets(4, rd, Value::Sum(rm, 0)),
        8 | 13 if left => {
            let value = Value::Registers { first: rn, second: rm, shift, subtract: operation == 13 };
            sets(4, rd, value)
        }
        0..=4 | 6 | 8 | 10 | 11 | 13 | 14 => plain(4, mask(rd)),
        _ => goes(4, Next::Unknown),
    }
}

/// A5.3.18: coprocessor instructions, of which 10 and 11 are the floating-point unit.
fn coprocessor(first: u16, second: u16) -> Instruction {
    let rt = register(second, 12);
    if field(second, 9, 3) != 0b101 {
        return goes(4, Next::Unknown);
    }
    match first >> 8 {
        // Two core registers and a double.
        0xec if first & 0xffe0 == 0xec40 => {
            let rt2 = register(first, 0);
            plain(4, if bit(first, 4) { mask(rt) | mask(rt2) } else { 0 })
        }
        // VLDM, VSTM, VPUSH, VPOP, VLDR, VSTR. Without index and writeback only U = 1 is defined.
        0xec | 0xed => {
            let rn = register(first, 0);
            let (indexed, upwards, writeback) = (bit(first, 8), bit(first, 7), bit(first, 5));
            if !indexed && !upwards {
                return goes(4, Next::Unknown);
            }
            let offset = i32::from(second & 0xff) * 4;
            with_base(0, writeback.then_some((rn, if upwards { offset } else { -offset })))
        }
        // Between core and floating-point registers; VMRS into 15 sets flags.
        0xee if bit(second, 4) => plain(4, if bit(first, 4) && rt != PC { mask(rt) } else { 0 }),
        0xee | 0xfe if !bit(second, 4) => plain(4, 0),
        _ => goes(4, Next::Unknown),
    }
}

/// A5.3.4.
fn branches(address: u32, first: u16, second: u16) -> Instruction {
    let sign = u32::from(field(first, 10, 1));
    let (j1, j2) = (u32::from(field(second, 13, 1)), u32::from(field(second, 11, 1)));
    let low = u32::from(second & 0x7ff) << 1;
    let far = || {
        let (i1, i2) = (j1 ^ sign ^ 1, j2 ^ sign ^ 1);
        let offset = sign << 24 | i1 << 23 | i2 << 22 | u32::from(first & 0x3ff) << 12 | low;
        there(address, signed(offset, 25))
    };
    match (bit(second, 14), bit(second, 12)) {
        (false, true) => goes(4, Next::Jump(far())),
        (true, true) => goes(4, Next::Call(far())),
        // BLX to Arm state: not on this core.
        (true, false) if first & 0xfff0 != 0xf7f0 => goes(4, Next::Unknown),
        (false, false) if field(first, 7, 3) != 0b111 => {
            let offset = sign << 20 | j2 << 19 | j1 << 18 | u32::from(first & 0x3f) << 12 | low;
            goes(4, Next::Branch(there(address, signed(offset, 21))))
        }
        _ => match first {
            // MSR: main or process stack pointer (with the non-secure ones of v8-M), CONTROL.
            0xf380..=0xf38f => match second & 0x7f {
                8 | 9 | 20 => goes(4, Next::StackSwitch),
                _ => plain(4, 0),
            },
            // Hints; CLREX, DSB, DMB, ISB.
            0xf3af if second & 0xff00 == 0x8000 => plain(4, 0),
            0xf3bf => plain(4, 0),
            0xf3ef => one_result(second),
            0xf7f0..=0xf7ff if second & 0xf000 == 0xa000 => goes(4, Next::Trap),
            _ => goes(4, Next::Unknown),
        },
    }
}

/// A5.3.3: 12 and 16 bit immediates, bit fields, saturation.
fn plain_immediate(address: u32, first: u16, second: u16) -> Instruction {
    let (rn, rd) = (register(first, 0), register(second, 8));
    let imm12 = field(first, 10, 1) << 11 | field(second, 12, 3) << 8 | second & 0xff;
    let imm16 = u16::from(rn) << 12 | imm12;
    if rd == PC {
        return goes(4, Next::Unknown);
    }
    let pc = there(address, 0) & !3;
    match field(first, 4, 5) {
        0b00000 if rn == PC => sets(4, rd, Value::Constant(pc.wrapping_add(imm12.into()))),
        0b01010 if rn == PC => sets(4, rd, Value::Constant(pc.wrapping_sub(imm12.into()))),
        0b00000 => sets(4, rd, Value::Sum(rn, imm12.into())),
        0b01010 => sets(4, rd, Value::Sum(rn, -i32::from(imm12))),
        0b00100 => sets(4, rd, Value::Constant(imm16.into())),
        0b01100 => sets(4, rd, Value::Upper(imm16)),
        // BFC from bit 0.
        0b10110 if rn == PC && second & 0x70c0 == 0 => {
            sets(4, rd, Value::Aligned(rd, (second & 0x1f) as u8 + 1))
        }
        0b10000 | 0b10010 | 0b10100 | 0b10110 | 0b11000 | 0b11010 | 0b11100 => plain(4, mask(rd)),
        _ => goes(4, Next::Unknown),
    }
}

/// A5.3.1.
fn modified_immediate(first: u16, second: u16) -> Instruction {
    let (rn, rd) = (register(first, 0), register(second, 8));
    let constant = expand(field(first, 10, 1) << 11 | field(second, 12, 3) << 8 | second & 0xff);
    let operation = field(first, 5, 4);
    if rd == PC {
        let compares = bit(first, 4) && matches!(operation, 0 | 4 | 8 | 13);
        return if compares { plain(4, 0) } else { goes(4, Next::Unknown) };
    }
    let aligned = |cleared: u32| match cleared.trailing_ones() {
        bits @ 1..32 if cleared.count_ones() == bits => sets(4, rd, Value::Aligned(rn, bits as u8)),
        _ => plain(4, mask(rd)),
    };
    match operation {
        0 => aligned(!constant),
        1 => aligned(constant),
        2 if rn == PC => sets(4, rd, Value::Constant(constant)),
        3 if rn == PC => sets(4, rd, Value::Constant(!constant)),
        8 => sets(4, rd, Value::Sum(rn, constant as i32)),
        13 => sets(4, rd, Value::Sum(rn, (constant as i32).wrapping_neg())),
        2..=4 | 10 | 11 | 14 => plain(4, mask(rd)),
        _ => goes(4, Next::Unknown),
    }
}

/// ThumbExpandImm (A5.3.2).
fn expand(imm12: u16) -> u32 {
    let byte = u32::from(imm12 & 0xff);
    match imm12 >> 8 {
        0 => byte,
        1 => byte << 16 | byte,
        2 => byte << 24 | byte << 8,
        3 => byte * 0x0101_0101,
        _ => (byte | 0x80).rotate_right(u32::from(imm12 >> 7)),
    }
}

/// A5.3.7 to A5.3.10.
fn load_store_single(address: u32, first: u16, second: u16) -> Instruction {
    let (rn, rt) = (register(first, 0), register(second, 12));
    let load = bit(first, 4);
    let is_word = field(first, 5, 2) == 2;
    let imm12 = i32::from(second & 0xfff);
    if load && rn == PC {
        let at = (there(address, 0) & !3).wrapping_add_signed(if bit(first, 7) { imm12 } else { -imm12 });
        return match rt {
            // PLD, PLI.
            PC if !is_word => plain(4, 0),
            _ if is_word => sets(4, rt, Value::Literal(at)),
            _ => plain(4, mask(rt)),
        };
    }
    // Writeback has its own encoding: 8 bits, and 1PUW above them.
    let base = (!bit(first, 7) && bit(second, 11) && bit(second, 8)).then(|| {
        let offset = i32::from(second & 0xff);
        (rn, if bit(second, 9) { offset } else { -offset })
    });
    if !bit(first, 7) && !bit(second, 11) && second & 0x7c0 != 0 {
        return goes(4, Next::Unknown);
    }
    let from_stack = base.is_some_and(|(rn, offset)| rn == SP && offset > 0) && !bit(second, 10);
    match (load, rt) {
        (false, _) => with_base(0, base),
        (true, PC) if !is_word && base.is_none() => plain(4, 0),
        // Off the stack, as POP {pc} and POP {lr} do, however far it moves.
        (true, PC) if is_word && from_stack => Instruction { next: Next::Return, ..with_base(0, base) },
        (true, PC) if is_word => goes(4, Next::JumpMemory),
        (true, PC) => goes(4, Next::Unknown),
        (true, LR) if is_word && from_stack => Instruction { restores_lr: true, ..with_base(0, base) },
        (true, _) => with_base(mask(rt), base),
    }
}
