//! The boot stage: the first program after a reset. It verifies firmware and policy that are selected
//! (`tendon-boot`), starts the firmware from its slot, and stays in memory to serve it what may panic: signatures
//! and the log in flash. It never changes; everything else can be updated.
//!
//! A panic here is a reset: at boot it is tried again, in a service the controller falls silent and boots.
#![no_std]
#![no_main]

mod board;

use board::{Flash, LAYOUT, STALLS};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};
use tendon_boot::service::{Call, MAGIC, VERSION, serve};
use tendon_boot::{Boot, REFUSED, padded, vouch};
use tendon_runtime::store::Part;
use tendon_wire::flash::CODE_OFFSET;
use tendon_wire::message::NO_SLOT;

/// State between services, in this program's own part of RAM.
struct Stage {
    boot: UnsafeCell<Option<Boot<Flash>>>,
    is_taken: AtomicBool,
}

#[allow(unsafe_code, reason = "state of a program without threads")]
// SAFETY: only reached through `with`, which refuses a second use before the first has ended.
unsafe impl Sync for Stage {}

static STAGE: Stage = Stage { boot: UnsafeCell::new(None), is_taken: AtomicBool::new(false) };

impl Stage {
    #[allow(unsafe_code, reason = "state of a program without threads")]
    fn with(&self, f: impl FnOnce(&mut Option<Boot<Flash>>)) -> bool {
        if self.is_taken.load(Ordering::Acquire) {
            return false;
        }
        self.is_taken.store(true, Ordering::Release);
        // SAFETY: `is_taken` was false: nobody else has the reference. One core, and the caller's priority is the
        // lowest, so nothing comes between the load and the store.
        f(unsafe { &mut *self.boot.get() });
        self.is_taken.store(false, Ordering::Release);
        true
    }
}

/// No interrupt is enabled in this program, so its vector table ends with the exceptions: what lies behind it has a
/// fixed place.
#[allow(unsafe_code, reason = "names a section")]
#[unsafe(link_section = ".vector_table.interrupts")]
#[unsafe(no_mangle)]
#[cfg(not(feature = "pico2"))]
static __INTERRUPTS: [usize; 1] = [0];

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    cortex_m::peripheral::SCB::sys_reset()
}

/// Decides what boots: the slot of the firmware, or [`NO_SLOT`].
#[inline(never)]
#[allow(unsafe_code, reason = "named, so that its stack can be bounded")]
#[unsafe(no_mangle)]
fn tendon_boot_start() -> u8 {
    let mut slot = NO_SLOT;
    STAGE.with(|stage| {
        let boot = Boot::start(Flash::take(), LAYOUT, env!("TENDON_BOARD")).with_stalls(STALLS);
        slot = boot.running(Part::Firmware).unwrap_or(NO_SLOT);
        *stage = Some(boot);
    });
    slot
}

/// Decides a second time; the address of its vector table, or [`REFUSED`].
#[inline(never)]
#[allow(unsafe_code, reason = "named, so that its stack can be bounded")]
#[unsafe(no_mangle)]
fn tendon_boot_vouch(slot: u8) -> u32 {
    let mut vectors = REFUSED;
    STAGE.with(|stage| {
        if let Some(boot) = stage {
            let address = vouch(boot.flash().0, &LAYOUT, &padded(env!("TENDON_BOARD")), Part::Firmware, slot);
            if address != REFUSED {
                vectors = address + CODE_OFFSET;
            }
        }
    });
    vectors
}

#[cortex_m_rt::entry]
fn main() -> ! {
    #[cfg(feature = "mutate")]
    tendon_wire::mutation::remove_number(board::removed_check());
    // Two decisions that share no register, and what refuses once refuses: no single instruction left out starts what
    // may not run.
    let slot = tendon_boot_start();
    if slot != NO_SLOT {
        let vectors = tendon_boot_vouch(slot);
        if vectors != REFUSED {
            start(vectors)
        }
    }
    wait();
    cortex_m::peripheral::SCB::sys_reset()
}

/// Nothing that may run. Outputs are as the reset left them. Its end is never reached, but the one who compiles it is not told.
#[inline(never)]
#[allow(unsafe_code, reason = "two jumps, of which a glitch leaves one")]
fn wait() {
    // SAFETY: touches neither memory nor registers.
    unsafe { core::arch::asm!("2:", "wfi", "b 2b", "b 2b", options(nomem, nostack)) }
}

/// Hands the core to the firmware.
#[allow(unsafe_code, reason = "leaves this program")]
fn start(vectors: u32) -> ! {
    // SAFETY: the boot stage runs once, before interrupts; the table was verified with the image it begins.
    unsafe {
        (*cortex_m::peripheral::SCB::PTR).vtor.write(vectors);
        cortex_m::asm::bootload(vectors as *const u32)
    }
}

/// Serves one call of the application, on its stack.
#[allow(unsafe_code, reason = "called by a program that was linked apart")]
#[unsafe(no_mangle)]
extern "C" fn tendon_boot_serve(call: &mut Call) {
    let slice = |pointer: *const u8, len: usize| {
        if pointer.is_null() || len == 0 {
            return &[][..];
        }
        // SAFETY: the application lends this memory for the time of the call (`firmware/src/store.rs`).
        unsafe { core::slice::from_raw_parts(pointer, len) }
    };
    let data = slice(call.data, call.data_len);
    let answer = if call.answer.is_null() {
        &mut [][..]
    } else {
        // SAFETY: as above; it is no part of the data.
        unsafe { core::slice::from_raw_parts_mut(call.answer, call.answer_len) }
    };
    let was_free = STAGE.with(|stage| match stage {
        Some(boot) => serve(boot, call, data, answer),
        None => call.code = u32::MAX,
    });
    if !was_free {
        call.code = u32::MAX;
    }
}

#[allow(unsafe_code, reason = "a place that another program knows")]
mod entry {
    use super::{MAGIC, VERSION, tendon_boot_serve};

    // At `ENTRY_OFFSET` a jump, at `MARK_OFFSET` the mark.
    core::arch::global_asm!(
        ".section .tendon_entry, \"ax\", %progbits",
        ".global tendon_boot_entry",
        ".type tendon_boot_entry, %function",
        ".thumb_func",
        "tendon_boot_entry:",
        "b.w {serve}",
        ".size tendon_boot_entry, . - tendon_boot_entry",
        ".balign 16",
        ".word {magic}",
        ".word {version}",
        serve = sym tendon_boot_serve,
        magic = const MAGIC,
        version = const VERSION,
    );
}
