//! Flash and clocks of the Raspberry Pi Pico 2: rp235x-hal, and the flash functions of the boot ROM.
#![allow(unsafe_code, reason = "flash is seen at a fixed address; functions of the boot ROM")]

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write,
};
use rp235x_hal::block::ImageDef;
use rp235x_hal::clocks::init_clocks_and_plls;
use rp235x_hal::{Watchdog, pac, rom_data};
use tendon_boot::Layout;

/// Says to the boot ROM that this is a program for the Arm cores, secure.
#[unsafe(link_section = ".start_block")]
#[used]
static IMAGE_DEF: ImageDef = ImageDef::secure_exe();

/// Crystal of the board.
const CRYSTAL_HZ: u32 = 12_000_000;
const LEN: usize = 4 << 20;
/// The least that is programmed at once; a part of it is filled up with ones, which program nothing.
const PAGE: usize = 256;
/// The least that is erased at once, and the larger block with its command that the ROM uses where it can.
const SECTOR: usize = 4096;
const BLOCK: (u32, u8) = (64 << 10, 0xd8);

/// Where things lie.
pub const LAYOUT: Layout = Layout::PICO2;
/// Whether writing stalls the core: it does, as the program lies in the same chip.
pub const STALLS: bool = true;

/// The flash behind QSPI.
#[derive(Debug)]
pub struct Qspi(());

impl Qspi {
    /// Sets the clocks, then takes the flash. The firmware relies on `clk_sys` and `clk_peri` of 150 MHz.
    pub fn take() -> Self {
        // SAFETY: called once, at boot, before anything else has them.
        let mut p = unsafe { pac::Peripherals::steal() };
        let mut watchdog = Watchdog::new(p.WATCHDOG);
        let clocks = init_clocks_and_plls(
            CRYSTAL_HZ,
            p.XOSC,
            p.CLOCKS,
            p.PLL_SYS,
            p.PLL_USB,
            &mut p.RESETS,
            &mut watchdog,
        );
        if clocks.is_err() {
            cortex_m::peripheral::SCB::sys_reset();
        }
        Self(())
    }
}

/// What is done to the flash while it cannot be read.
enum Operation<'a> {
    Erase { from: u32, len: usize },
    Program { at: u32, page: &'a [u8; PAGE] },
}

/// One operation of the boot ROM (RP2350 datasheet, 5.4.8: "low-level flash API"). `cargo xtask stack` takes the stack
/// of ROM functions, which are called from nowhere else, as an assumption.
#[inline(never)]
#[unsafe(no_mangle)]
fn tendon_rom_flash(operation: &Operation<'_>) {
    /// Code that brings the fast way of reading back, where the boot ROM left it (`BOOTRAM`, 5.4.8.9).
    const SETUP: *const u32 = 0x400e_0000 as *const u32;
    const SETUP_WORDS: usize = 64;
    let mut setup = [0u32; SETUP_WORDS];
    for (index, word) in setup.iter_mut().enumerate() {
        // SAFETY: boot RAM holds so many words of it.
        *word = unsafe { SETUP.add(index).read_volatile() };
    }
    cortex_m::interrupt::free(|_| {
        // SAFETY: interrupts are off and core 1 sleeps, so nothing reads flash while a function of the ROM has it; each
        // leaves it readable, slowly, so that this code goes on. The arguments were checked by the callers.
        unsafe {
            rom_data::connect_internal_flash();
            rom_data::flash_exit_xip();
            match *operation {
                Operation::Erase { from, len } => rom_data::flash_range_erase(from, len, BLOCK.0, BLOCK.1),
                Operation::Program { at, page } => rom_data::flash_range_program(at, page.as_ptr(), PAGE),
            }
            rom_data::flash_flush_cache();
            cortex_m::asm::dsb();
            cortex_m::asm::isb();
            let setup: extern "C" fn() = core::mem::transmute(setup.as_ptr().cast::<u8>().add(1));
            setup();
        }
    });
}

impl ErrorType for Qspi {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for Qspi {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        check_read(self, offset, bytes.len())?;
        let start = (LAYOUT.mapped_at + offset) as *const u8;
        // SAFETY: inside the flash (checked), which no variable of this program lies in.
        unsafe { core::ptr::copy_nonoverlapping(start, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn capacity(&self) -> usize {
        LEN
    }
}

impl NorFlash for Qspi {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = SECTOR;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        check_erase(self, from, to)?;
        tendon_rom_flash(&Operation::Erase { from, len: (to - from) as usize });
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        check_write(self, offset, bytes.len())?;
        let (mut at, mut rest) = (offset as usize, bytes);
        while !rest.is_empty() {
            let start = at % PAGE;
            let (now, later) = rest.split_at(rest.len().min(PAGE - start));
            let mut page = [0xff; PAGE];
            page[start..start + now.len()].copy_from_slice(now);
            tendon_rom_flash(&Operation::Program { at: (at - start) as u32, page: &page });
            (at, rest) = (at + now.len(), later);
        }
        Ok(())
    }
}
