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
use tendon_boot::Boot;
use tendon_boot::service::{Call, MAGIC, VERSION, serve};
use tendon_runtime::store::Part;
use tendon_wire::flash::CODE_OFFSET;

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

/// Decides what boots; the address of its vector table, or 0.
#[inline(never)]
#[allow(unsafe_code, reason = "named, so that its stack can be bounded")]
#[unsafe(no_mangle)]
fn tendon_boot_start() -> u32 {
    let mut vectors = 0;
    STAGE.with(|stage| {
        let boot = Boot::start(Flash::take(), LAYOUT, env!("TENDON_BOARD")).with_stalls(STALLS);
        if let Some(slot) = boot.running(Part::Firmware) {
            vectors = LAYOUT.address(Part::Firmware, slot) + CODE_OFFSET;
        }
        *stage = Some(boot);
    });
    vectors
}

#[cortex_m_rt::entry]
fn main() -> ! {
    let vectors = tendon_boot_start();
    if vectors == 0 {
        // Nothing that may run. Outputs are as the reset left them.
        loop {
            cortex_m::asm::wfi();
        }
    }
    start(vectors)
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
