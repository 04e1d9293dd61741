//! The deepest stack seen: the free stack is painted at boot and searched for what was overwritten.
#![allow(unsafe_code, reason = "reads and paints memory below the stack pointer")]

use core::ptr::{read_volatile, write_volatile};

const PAINT: u32 = 0x5aa5_c33c;
/// Left unpainted under the stack pointer at boot.
const MARGIN: usize = 512;

unsafe extern "C" {
    /// Top of the stack, from cortex-m-rt's linker script.
    static _stack_start: u32;
    /// Lowest address kept free for it, from `stack.x`.
    static _stack_end: u32;
}

fn top() -> usize {
    (&raw const _stack_start).addr()
}

fn bottom() -> usize {
    (&raw const _stack_end).addr()
}

/// Paints the free part of the stack. Called once, at boot, with interrupts off.
pub fn paint() {
    let mut address = bottom();
    let end = cortex_m::register::msp::read() as usize - MARGIN;
    while address < end {
        // SAFETY: between the stack's end and the stack pointer nothing lives: statics end below (checked by
        // the linker), and no interrupt runs yet.
        unsafe { write_volatile(address as *mut u32, PAINT) };
        address += 4;
    }
}

/// Bytes of stack used at the deepest.
pub fn deepest() -> u32 {
    let mut address = bottom();
    // SAFETY: reads RAM inside the stack.
    while address < top() && unsafe { read_volatile(address as *const u32) } == PAINT {
        address += 4;
    }
    (top() - address) as u32
}
