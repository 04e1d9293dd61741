//! Deepest stack of a function and of everything it calls, by following every path through its
//! instructions.
//!
//! Along a path the stack pointer is known as a distance from where it was at entry. Two paths that meet must
//! agree on it, it must be back at a return, and every jump must have known targets; what breaks one of these
//! is a [`Violation`], and then there is no bound.

use crate::elf::{Elf, Section, half, word};
use crate::thumb::{self, Instruction, LR, Next, PC, SP, Value};
use std::collections::BTreeMap;
use std::fmt;

/// Calls inside calls that are followed; recursion is found long before.
const MAX_CALLS: usize = 200;
/// Entries of one jump table.
const MAX_TABLE: u32 = 4096;

/// How functions are called that call what lies in the ROM of a chip, at addresses that they look up. What is there
/// belongs to no file.
const ROM_CALLER: &str = "tendon_rom_";
/// Stack that a ROM function is taken to need, bytes: an assumption (docs/boards.md), not derived.
pub const ROM_STACK: u32 = 1024;

/// Instructions and functions of a program.
#[derive(Debug, Default)]
pub struct Code<'a> {
    sections: Vec<Section<'a>>,
    functions: BTreeMap<u32, Function>,
    /// Mapping symbols: from here on data (true) or instructions.
    data_from: BTreeMap<u32, bool>,
}

/// A function of the symbol table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Names, readable; several where one body serves several symbols.
    pub names: Vec<String>,
    /// Address behind it.
    pub end: u32,
}

impl Function {
    /// One of its names.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().map_or("?", String::as_str)
    }
}

impl<'a> Code<'a> {
    /// Code of an ELF file.
    #[must_use]
    pub fn new(elf: &Elf<'a>) -> Self {
        Self::of(&[elf])
    }

    /// Code of programs that lie in memory together and call each other by address.
    #[must_use]
    pub fn of(elves: &[&Elf<'a>]) -> Self {
        let sections = elves.iter().flat_map(|elf| elf.sections.iter().cloned()).collect();
        let mut code = Self { sections, ..Self::default() };
        // Sized symbols name the body; those without size are aliases and labels of assembly.
        let symbols = elves.iter().flat_map(|elf| &elf.symbols);
        let mut symbols: Vec<_> = symbols.filter(|s| !s.is_undefined).collect();
        symbols.sort_by_key(|symbol| (symbol.value & !1, std::cmp::Reverse(symbol.size)));
        for symbol in symbols {
            let address = symbol.value & !1;
            match symbol.name.get(..2) {
                Some("$d") => _ = code.data_from.insert(symbol.value, true),
                Some("$t" | "$a") => _ = code.data_from.insert(symbol.value, false),
                _ if symbol.is_function && code.section_at(address).is_some() => {
                    let end = address.saturating_add(symbol.size);
                    let function =
                        code.functions.entry(address).or_insert(Function { names: Vec::new(), end });
                    function.names.push(readable(symbol.name));
                }
                _ => (),
            }
        }
        let starts: Vec<u32> = code.functions.keys().copied().collect();
        for (index, start) in starts.iter().enumerate() {
            let after = starts.get(index + 1).copied();
            let section_end = code.section_at(*start).map(|s| s.address.saturating_add(s.bytes.len() as u32));
            if let Some(function) = code.functions.get_mut(start)
                && function.end == *start
            {
                function.end = after.or(section_end).unwrap_or(*start);
            }
        }
        code
    }

    /// The function that begins at an address.
    #[must_use]
    pub fn function(&self, address: u32) -> Option<&Function> {
        self.functions.get(&address)
    }

    /// Address of a function by name.
    #[must_use]
    pub fn address_of(&self, name: &str) -> Option<u32> {
        self.functions.iter().find(|(_, f)| f.names.iter().any(|n| n == name)).map(|(address, _)| *address)
    }

    fn section_at(&self, address: u32) -> Option<&Section<'a>> {
        self.sections.iter().find(|section| {
            section.executable
                && address.checked_sub(section.address).is_some_and(|at| (at as usize) < section.bytes.len())
        })
    }

    fn is_data(&self, address: u32) -> bool {
        self.data_from.range(..=address).next_back().is_some_and(|(_, data)| *data)
    }

    fn half(&self, address: u32) -> Option<u16> {
        let section = self.section_at(address)?;
        half(section.bytes, (address - section.address) as usize)
    }

    /// A word of the read-only image.
    fn literal(&self, address: u32) -> Option<u32> {
        let section = self.section_at(address)?;
        word(section.bytes, (address - section.address) as usize)
    }

    fn instruction(&self, address: u32) -> Option<Instruction> {
        if self.is_data(address) {
            return None;
        }
        let first = self.half(address)?;
        let second = if thumb::is_wide(first) { self.half(address.wrapping_add(2))? } else { 0 };
        Some(thumb::decode(address, first, second))
    }

    /// Entries of a table of `b.w`: as far as such instructions follow each other. Compilers write one where
    /// targets are too far for `tbh`.
    fn branches(&self, table: u32) -> Vec<u32> {
        (0..MAX_TABLE)
            .map(|index| table.wrapping_add(4 * index))
            .take_while(|entry| {
                let instruction = self.instruction(*entry);
                instruction.is_some_and(|i| i.size == 4 && matches!(i.next, Next::Jump(_)))
            })
            .collect()
    }

    /// Targets of `tbb` or `tbh`, whose table lies behind it. The table ends where code begins again: at the
    /// next mapping symbol, at the latest at its nearest target.
    fn table(&self, start: u32, entry: u32) -> Option<Vec<u32>> {
        let next = self.data_from.range(start.checked_add(1)?..).find(|(_, data)| !**data);
        let mut end = next.map_or(u32::MAX, |(address, _)| *address);
        let mut targets = Vec::new();
        for index in 0..MAX_TABLE {
            let at = start.checked_add(index * entry)?;
            if at.checked_add(entry)? > end {
                return Some(targets);
            }
            let section = self.section_at(at)?;
            let offset = (at - section.address) as usize;
            let value = match entry {
                1 => u32::from(*section.bytes.get(offset)?),
                _ => u32::from(half(section.bytes, offset)?),
            };
            // An odd number of bytes is padded; nothing jumps to the table itself.
            if value == 0 && entry == 1 {
                continue;
            }
            let target = start.checked_add(2 * value)?;
            end = end.min(target);
            targets.push(target);
        }
        None
    }
}

/// Readable form of a mangled name, without its hash; v0 names stay as they are.
fn readable(name: &str) -> String {
    let Some(mut rest) = name.strip_prefix("_ZN") else { return name.to_owned() };
    let mut parts: Vec<&str> = Vec::new();
    loop {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let Some((length, tail)) = rest.split_at_checked(digits) else { break };
        let Ok(length) = length.parse::<usize>() else { break };
        let Some((part, tail)) = tail.split_at_checked(length) else { return name.to_owned() };
        parts.push(part);
        rest = tail;
    }
    if parts.len() > 1 && parts.last().is_some_and(|part| part.len() == 17 && part.starts_with('h')) {
        parts.pop();
    }
    if parts.is_empty() { name.to_owned() } else { parts.join("::") }
}

/// Why there is no bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Functions that call each other in a circle.
    Recursion(Vec<String>),
    /// A call or jump to an address in a register.
    Indirect(u8),
    /// A jump to an address in memory, or a table that cannot be read.
    IndirectJump,
    /// A jump or call to where no function begins.
    NoFunction(u32),
    /// Execution runs into data or out of the program.
    NoCode,
    /// An encoding that this tool does not know.
    UnknownInstruction(u16, u16),
    /// The stack pointer gets a value that cannot be followed.
    UnknownStackPointer,
    /// Paths meet with these two depths.
    Unequal(i64, i64),
    /// The stack pointer is above where it was at entry, or not back there at a return.
    Unbalanced(i64),
    /// Writes a stack pointer or CONTROL.
    StackSwitch,
    /// `svc`: an exception that the task table does not know.
    SupervisorCall,
    /// Calls nested deeper than this tool follows.
    TooDeep,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recursion(names) => write!(f, "recursion: {}", names.join(" > ")),
            Self::Indirect(register) => write!(
                f,
                "call or jump through r{register}: a function pointer or `dyn`; its targets are not known, use an enum"
            ),
            Self::IndirectJump => f.write_str("jump to an address in memory that cannot be read here"),
            Self::NoFunction(target) => write!(f, "goes to {target:#x}, where no function begins"),
            Self::NoCode => f.write_str("runs into data or out of the program"),
            Self::UnknownInstruction(first, second) => {
                write!(
                    f,
                    "instruction {first:#06x} {second:#06x} is not decoded; add it to bounds/src/thumb.rs"
                )
            }
            Self::UnknownStackPointer => {
                f.write_str("the stack pointer gets a value that cannot be followed")
            }
            Self::Unequal(one, other) => {
                write!(f, "paths meet with {one} and {other} bytes of stack")
            }
            Self::Unbalanced(below) => {
                write!(f, "the stack pointer is {below} bytes below its value at entry and should not be")
            }
            Self::StackSwitch => f.write_str("writes a stack pointer or CONTROL"),
            Self::SupervisorCall => f.write_str("raises SVCall, which has no row in the task table"),
            Self::TooDeep => write!(f, "more than {MAX_CALLS} calls inside each other"),
        }
    }
}

/// A [`Problem`] and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Function.
    pub function: String,
    /// Address of the instruction.
    pub address: u32,
    /// What is wrong there.
    pub problem: Problem,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} in `{}`: {}", self.address, self.function, self.problem)
    }
}

/// Stack of a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Deepest of its own, bytes.
    pub own: u32,
    /// Deepest with everything it calls, bytes.
    pub worst: u32,
    /// Callee on the deepest path and the bytes below entry at its call.
    pub deepest: Option<(u32, u32)>,
    /// Instructions, each counted once, those of callees once per call: what runs at most when no loop repeats.
    pub instructions: u32,
    /// Whether it can come back.
    pub returns: bool,
}

/// One step of a deepest path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Function.
    pub function: String,
    /// Its bytes on that path.
    pub bytes: u32,
}

/// What a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Unknown,
    Constant(u32),
    /// So many bytes below the stack pointer at entry.
    Below(i64),
    /// The caller's address.
    ReturnAddress,
    /// A constant plus four times something: an entry of a table of `b.w`.
    Entry(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    registers: [Held; 16],
    /// Conditional instructions to come.
    conditional: u8,
}

impl State {
    fn at_entry() -> Self {
        let mut registers = [Held::Unknown; 16];
        registers[usize::from(SP)] = Held::Below(0);
        registers[usize::from(LR)] = Held::ReturnAddress;
        Self { registers, conditional: 0 }
    }

    fn get(&self, register: u8) -> Held {
        self.registers.get(usize::from(register)).copied().unwrap_or(Held::Unknown)
    }

    fn set(&mut self, register: u8, held: Held) {
        if let Some(place) = self.registers.get_mut(usize::from(register)) {
            *place = held;
        }
    }

    fn below(&self) -> Option<i64> {
        match self.get(SP) {
            Held::Below(below) => Some(below),
            _ => None,
        }
    }

    /// What holds on both paths.
    fn meet(&self, other: &Self) -> Self {
        let mut both = *self;
        for (place, there) in both.registers.iter_mut().zip(other.registers) {
            if *place != there {
                *place = Held::Unknown;
            }
        }
        both
    }

    fn value(&self, value: Value, own: Held, code: &Code<'_>) -> Held {
        match value {
            Value::Constant(constant) => Held::Constant(constant),
            Value::Literal(at) => code.literal(at).map_or(Held::Unknown, Held::Constant),
            Value::Sum(register, offset) => match self.get(register) {
                Held::Constant(constant) => Held::Constant(constant.wrapping_add_signed(offset)),
                Held::Below(below) => Held::Below(below - i64::from(offset)),
                held if offset == 0 => held,
                _ => Held::Unknown,
            },
            Value::Registers { first, second, shift, subtract } => {
                let shifted = |constant: u32| constant.checked_shl(shift.into()).unwrap_or(0) as i32;
                match (self.get(first), self.get(second)) {
                    (Held::Below(below), Held::Constant(constant)) => {
                        let offset = i64::from(shifted(constant));
                        Held::Below(if subtract { below + offset } else { below - offset })
                    }
                    (Held::Constant(constant), Held::Below(below)) if shift == 0 && !subtract => {
                        Held::Below(below - i64::from(constant as i32))
                    }
                    (Held::Constant(table), _) if shift == 2 && !subtract => Held::Entry(table),
                    _ => Held::Unknown,
                }
            }
            Value::Upper(upper) => match own {
                Held::Constant(constant) => Held::Constant(constant & 0xffff | u32::from(upper) << 16),
                _ => Held::Unknown,
            },
            Value::Aligned(register, bits) => match self.get(register) {
                // Down by as much as alignment can take.
                Held::Below(below) => Held::Below(below + (1i64 << bits.min(31)) - 1),
                Held::Constant(constant) => Held::Constant(constant >> bits.min(31) << bits.min(31)),
                _ => Held::Unknown,
            },
        }
    }
}

/// The analysis, with everything it has found.
#[derive(Debug)]
pub struct Flow<'c, 'a> {
    code: &'c Code<'a>,
    known: BTreeMap<u32, Depth>,
    path: Vec<u32>,
    violations: BTreeMap<u32, Violation>,
}

/// One function while it is analysed.
struct Walk {
    entry: u32,
    end: u32,
    states: BTreeMap<u32, State>,
    open: Vec<u32>,
    /// Instructions behind each call.
    calls: BTreeMap<u32, u32>,
    depth: Depth,
}

impl<'c, 'a> Flow<'c, 'a> {
    /// Nothing analysed yet.
    #[must_use]
    pub fn new(code: &'c Code<'a>) -> Self {
        Self { code, known: BTreeMap::new(), path: Vec::new(), violations: BTreeMap::new() }
    }

    /// What stands against a bound, by address; empty: the depths are bounds.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.violations.values().cloned().collect()
    }

    /// The deepest path from a function that was analysed.
    #[must_use]
    pub fn deepest_path(&self, mut entry: u32) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(depth) = self.known.get(&entry)
            && frames.len() <= MAX_CALLS
        {
            let function = self.name(entry);
            match depth.deepest {
                Some((callee, bytes)) => {
                    frames.push(Frame { function, bytes });
                    entry = callee;
                }
                None => {
                    frames.push(Frame { function, bytes: depth.own });
                    break;
                }
            }
        }
        frames
    }

    fn name(&self, entry: u32) -> String {
        self.code.function(entry).map_or_else(|| format!("{entry:#x}"), |f| f.name().to_owned())
    }

    fn violation(&mut self, entry: u32, address: u32, problem: Problem) {
        let function = self.name(entry);
        self.violations.entry(address).or_insert(Violation { function, address, problem });
    }

    /// Analyses the function at `entry` and what it calls.
    pub fn depth(&mut self, entry: u32) -> Depth {
        if let Some(depth) = self.known.get(&entry) {
            return *depth;
        }
        let end = self.code.function(entry).map_or(entry, |function| function.end);
        let mut walk = Walk {
            entry,
            end,
            states: BTreeMap::new(),
            open: Vec::new(),
            calls: BTreeMap::new(),
            depth: Depth::default(),
        };
        walk.states.insert(entry, State::at_entry());
        walk.open.push(entry);
        self.path.push(entry);
        while let Some(address) = walk.open.pop() {
            if let Some(state) = walk.states.get(&address).copied() {
                self.step(&mut walk, address, state);
            }
        }
        self.path.pop();
        let own = u32::try_from(walk.states.len()).unwrap_or(u32::MAX);
        walk.depth.instructions = walk.calls.values().fold(own, |sum, callee| sum.saturating_add(*callee));
        self.known.insert(entry, walk.depth);
        walk.depth
    }

    fn step(&mut self, walk: &mut Walk, address: u32, before: State) {
        let Some(instruction) = self.code.instruction(address) else {
            return self.violation(walk.entry, address, Problem::NoCode);
        };
        let following = address.wrapping_add(instruction.size);
        let is_conditional = before.conditional > 0;
        let mut skipped = before;
        skipped.conditional = before.conditional.saturating_sub(1);
        let mut after = self.effect(&instruction, &before);
        after.conditional = skipped.conditional;
        let Some(below) = after.below() else {
            return self.violation(walk.entry, address, Problem::UnknownStackPointer);
        };
        if below < 0 {
            return self.violation(walk.entry, address, Problem::Unbalanced(below));
        }
        let bytes = u32::try_from(below).unwrap_or(u32::MAX);
        if bytes > walk.depth.own {
            walk.depth.own = bytes;
            if bytes > walk.depth.worst {
                walk.depth = Depth { worst: bytes, deepest: None, ..walk.depth };
            }
        }
        // Where execution arrives when the condition does not hold.
        let leaves = !matches!(
            instruction.next,
            Next::Following | Next::Branch(_) | Next::Call(_) | Next::CallRegister(_) | Next::If(_)
        );
        if is_conditional && leaves {
            self.arrive(walk, address, following, skipped);
        }
        if is_conditional && !leaves {
            if skipped.below() != Some(below) {
                return self.violation(walk.entry, address, Problem::UnknownStackPointer);
            }
            after = after.meet(&skipped);
        }
        match instruction.next {
            Next::Following => self.arrive(walk, address, following, after),
            Next::Jump(target) => self.arrive(walk, address, target, after),
            Next::Branch(target) => {
                self.arrive(walk, address, target, after);
                self.arrive(walk, address, following, after);
            }
            Next::Call(target) => {
                let returns = self.call(walk, address, target, below);
                if returns || is_conditional {
                    // AAPCS32: r4 to r11 come back as they were.
                    for register in [0, 1, 2, 3, 12, LR] {
                        after.set(register, Held::Unknown);
                    }
                    self.arrive(walk, address, following, after);
                }
            }
            Next::JumpRegister(register) => match before.get(register) {
                Held::ReturnAddress => self.leave(walk, address, below),
                Held::Constant(target) => self.arrive(walk, address, target & !1, after),
                Held::Entry(table) => match self.code.branches(table).as_slice() {
                    [] => self.violation(walk.entry, address, Problem::Indirect(register)),
                    entries => entries.iter().for_each(|entry| self.arrive(walk, address, *entry, after)),
                },
                _ => self.violation(walk.entry, address, Problem::Indirect(register)),
            },
            Next::CallRegister(register) => match before.get(register) {
                Held::Constant(target) => {
                    if self.call(walk, address, target & !1, below) || is_conditional {
                        for register in [0, 1, 2, 3, 12, LR] {
                            after.set(register, Held::Unknown);
                        }
                        self.arrive(walk, address, following, after);
                    }
                }
                _ if self.calls_rom(walk.entry) => {
                    let here = u32::try_from(below).unwrap_or(u32::MAX);
                    walk.depth.worst = walk.depth.worst.max(here.saturating_add(ROM_STACK));
                    for register in [0, 1, 2, 3, 12, LR] {
                        after.set(register, Held::Unknown);
                    }
                    self.arrive(walk, address, following, after);
                }
                _ => self.violation(walk.entry, address, Problem::Indirect(register)),
            },
            Next::Return => self.leave(walk, address, below),
            Next::JumpMemory => self.violation(walk.entry, address, Problem::IndirectJump),
            Next::Table { base, entry } => {
                let targets = if base == PC { self.code.table(following, entry) } else { None };
                match targets {
                    Some(targets) if !targets.is_empty() => {
                        for target in targets {
                            self.arrive(walk, address, target, after);
                        }
                    }
                    _ => self.violation(walk.entry, address, Problem::IndirectJump),
                }
            }
            Next::If(count) => {
                after.conditional = count;
                self.arrive(walk, address, following, after);
            }
            Next::Trap => (),
            Next::StackSwitch => self.violation(walk.entry, address, Problem::StackSwitch),
            Next::SupervisorCall => self.violation(walk.entry, address, Problem::SupervisorCall),
            Next::Unknown => {
                let halves = [address, address.wrapping_add(2)].map(|at| self.code.half(at).unwrap_or(0));
                self.violation(walk.entry, address, Problem::UnknownInstruction(halves[0], halves[1]));
            }
        }
    }

    /// Registers after the instruction.
    fn effect(&self, instruction: &Instruction, before: &State) -> State {
        let mut after = *before;
        for register in 0..16 {
            if instruction.writes >> register & 1 != 0 {
                after.set(register, Held::Unknown);
            }
        }
        if instruction.restores_lr {
            after.set(LR, Held::ReturnAddress);
        }
        if let Some((register, value)) = instruction.sets {
            after.set(register, before.value(value, before.get(register), self.code));
        }
        after
    }

    /// Execution gets to `target`: inside the function, or as the last thing it does.
    fn arrive(&mut self, walk: &mut Walk, from: u32, target: u32, state: State) {
        let is_inside = target == walk.entry
            || (walk.entry..walk.end).contains(&target) && self.code.function(target).is_none();
        if !is_inside {
            let below = state.below().unwrap_or(0);
            let returns = self.call(walk, from, target, below);
            if returns {
                self.leave(walk, from, below);
            }
            return;
        }
        let Some(known) = walk.states.get(&target) else {
            walk.states.insert(target, state);
            walk.open.push(target);
            return;
        };
        if let (Some(one), Some(other)) = (known.below(), state.below())
            && one != other
        {
            return self.violation(walk.entry, target, Problem::Unequal(one, other));
        }
        let both = known.meet(&state);
        if both != *known {
            walk.states.insert(target, both);
            walk.open.push(target);
        }
    }

    /// The function comes back.
    fn leave(&mut self, walk: &mut Walk, address: u32, below: i64) {
        walk.depth.returns = true;
        if below != 0 {
            self.violation(walk.entry, address, Problem::Unbalanced(below));
        }
    }

    /// Counts a call; whether it can come back.
    /// Whether a function may call what is in the ROM of the chip and in no file: its name says so.
    fn calls_rom(&self, entry: u32) -> bool {
        let names = self.code.function(entry).map_or(&[][..], |function| &function.names);
        names.iter().any(|name| name.starts_with(ROM_CALLER))
    }

    fn call(&mut self, walk: &mut Walk, address: u32, target: u32, below: i64) -> bool {
        if self.code.function(target).is_none() {
            self.violation(walk.entry, address, Problem::NoFunction(target));
            return false;
        }
        if let Some(start) = self.path.iter().position(|entry| *entry == target) {
            let circle = self.path.get(start..).unwrap_or(&[]).iter().chain([&target]);
            let names = circle.map(|entry| self.name(*entry)).collect();
            self.violation(walk.entry, address, Problem::Recursion(names));
            return true;
        }
        if self.path.len() >= MAX_CALLS {
            self.violation(walk.entry, address, Problem::TooDeep);
            return true;
        }
        let callee = self.depth(target);
        // Several targets of one jump: one of them runs.
        let behind = walk.calls.entry(address).or_default();
        *behind = (*behind).max(callee.instructions);
        let here = u32::try_from(below).unwrap_or(u32::MAX);
        let worst = here.saturating_add(callee.worst);
        if worst > walk.depth.worst {
            walk.depth.worst = worst;
            walk.depth.deepest = Some((target, here));
        }
        callee.returns
    }
}
