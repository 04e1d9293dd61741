//! Counts the instructions of inferences on QEMU's mps2-an386: networks and inputs come with QEMU's loader, figures
//! go to the UART. The runtime is the firmware's, built alike; nothing else is.
//!
//! Words at 0x2100_0000 (PSRAM), offsets in bytes from there: [`MAGIC`], number of jobs, then per job the twelve words
//! of [`Job`]. One line per job: least and most counts of an input, counts of all inputs (hexadecimal; one count
//! is 40 instructions under `-icount shift=0`), and FNV-1a over the outputs.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "registers and the loaded jobs lie at fixed addresses")]

use core::ptr::{read_volatile, write_volatile};
use tendon_runtime::Network;
use tendon_wire::image::{Operator, Plan};

const PSRAM: usize = 0x2100_0000;
const PSRAM_LEN: usize = 16 << 20;
const MAGIC: u32 = u32::from_le_bytes(*b"TCNT");
const UART: usize = 0x4000_4000;
const TIMER: usize = 0x4000_1000;
/// As the firmware's.
const ARENA: usize = 32 << 10;

/// A network and its inputs.
#[derive(Clone, Copy)]
#[repr(C)]
struct Job {
    plan: u32,
    operators: u32,
    n_operators: u32,
    weights: u32,
    n_weights: u32,
    /// `[inputs, n_inputs]`
    inputs: u32,
    n: u32,
    /// Inferences per input, one after the other.
    repeats: u32,
    /// Delays each by three instructions more than the one before would: the timer then counts at other phases.
    pad: u32,
    reserved: [u32; 3],
}

/// What cortex-m-rt's vector table wants; no interrupt is enabled.
#[unsafe(link_section = ".vector_table.interrupts")]
#[unsafe(no_mangle)]
static __INTERRUPTS: [u32; 32] = [0; 32];

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit()
}

#[cortex_m_rt::entry]
fn main() -> ! {
    write(UART + 16, 16);
    write(UART + 8, 1);
    write(TIMER + 8, u32::MAX);
    write(TIMER + 4, u32::MAX);
    write(TIMER, 1);
    // SAFETY: `main` runs once, and nothing else names the arena.
    static mut MEMORY: [f32; ARENA] = [0.0; ARENA];
    let arena = unsafe { &mut *&raw mut MEMORY };
    let [magic, count] = *part::<u32>(0, 2).first_chunk::<2>().unwrap_or(&[0, 0]);
    let jobs = if magic == MAGIC { part::<Job>(8, count) } else { &[] };
    for job in jobs {
        run(job, arena);
    }
    exit()
}

fn run(job: &Job, arena: &mut [f32]) {
    let operators = part::<Operator>(job.operators, job.n_operators);
    let weights = part::<f32>(job.weights, job.n_weights);
    let Some(plan) = part::<Plan>(job.plan, 1).first() else { return };
    let network = match Network::new(operators, weights, plan) {
        Ok(network) if plan.arena_len as usize <= arena.len() => network,
        _ => return text(b"refused\n"),
    };
    let inputs = part::<f32>(job.inputs, job.n.saturating_mul(plan.n_inputs));
    let (mut least, mut most, mut sum, mut hash) = (u32::MAX, 0, 0u32, 0xcbf2_9ce4_8422_2325_u64);
    network.reset(arena);
    for input in inputs.chunks_exact(plan.n_inputs.max(1) as usize) {
        let mut counts = 0u32;
        for _ in 0..job.repeats {
            let start = now();
            measured(&network, input, arena);
            counts = counts.wrapping_add(now().wrapping_sub(start));
            measured_end();
            delay(job.pad);
        }
        (least, most, sum) = (least.min(counts), most.max(counts), sum.wrapping_add(counts));
        let from = plan.output as usize;
        for value in arena.get(from..from + plan.n_outputs as usize).unwrap_or(&[]) {
            let bits = if value.is_nan() { 0x7fc0_0000 } else { value.to_bits() };
            hash = (hash ^ u64::from(bits)).wrapping_mul(0x100_0000_01b3);
        }
    }
    for figure in [least, most, sum, (hash >> 32) as u32, hash as u32] {
        word(figure);
        text(b" ");
    }
    text(b"\n");
}

/// What is counted. Tools that read a trace look for this name and the next.
#[unsafe(no_mangle)]
#[inline(never)]
fn measured(network: &Network<'_>, input: &[f32], arena: &mut [f32]) {
    core::hint::black_box(network.run(input, arena).is_some());
}

#[unsafe(no_mangle)]
#[inline(never)]
fn measured_end() {
    core::hint::black_box(());
}

/// Three instructions `pad + 1` times.
fn delay(pad: u32) {
    // SAFETY: counts a register down.
    unsafe {
        core::arch::asm!("2:", "nop", "subs {0}, {0}, #1", "bpl 2b", inout(reg) pad as i32 => _, options(nomem, nostack));
    }
}

/// `count` records at an offset; none where they do not fit.
fn part<T>(offset: u32, count: u32) -> &'static [T] {
    let (start, count) = (offset as usize, count as usize);
    let end = count.checked_mul(size_of::<T>()).and_then(|len| len.checked_add(start));
    if end.is_none_or(|end| end > PSRAM_LEN) || !start.is_multiple_of(align_of::<T>()) {
        return &[];
    }
    // SAFETY: inside PSRAM, aligned, loaded before the start and never written; any bits are a value of these types.
    unsafe { core::slice::from_raw_parts((PSRAM + start) as *const T, count) }
}

fn now() -> u32 {
    // SAFETY: a register of the board.
    !unsafe { read_volatile((TIMER + 4) as *const u32) }
}

fn write(address: usize, value: u32) {
    // SAFETY: only called with registers of the board.
    unsafe { write_volatile(address as *mut u32, value) }
}

fn text(bytes: &[u8]) {
    bytes.iter().for_each(|&byte| write(UART, byte.into()));
}

fn word(word: u32) {
    for nibble in (0..8).rev() {
        let digit = (word >> (4 * nibble) & 15) as u8;
        text(&[if digit < 10 { b'0' + digit } else { b'a' - 10 + digit }]);
    }
}

/// Semihosting: SYS_EXIT, ADP_Stopped_ApplicationExit.
fn exit() -> ! {
    loop {
        // SAFETY: ends the emulation; the registers are those of the call.
        unsafe { core::arch::asm!("bkpt 0xab", in("r0") 0x18, in("r1") 0x20026) }
    }
}
