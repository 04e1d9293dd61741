//! Flash and clocks of the Nucleo-H743ZI: embassy-stm32, whose initialisation may panic, which is a reset here.

use embassy_stm32::Config;
use embassy_stm32::flash::{Blocking, Error, Flash};
use embassy_stm32::rcc::{
    AHBPrescaler, APBPrescaler, Hse, HseMode, Pll, PllDiv, PllMul, PllPreDiv, PllSource, Sysclk, VoltageScale,
};
use embassy_stm32::time::Hertz;
use embedded_storage::nor_flash::{ErrorType, NorFlash, ReadNorFlash};
use tendon_boot::Layout;

/// Where things lie.
pub const LAYOUT: Layout = Layout::NUCLEO_H743ZI;
/// Whether writing stalls the core: what reads a bank waits while it is written, and both policies lie in one.
pub const STALLS: bool = true;

/// The flash.
pub struct Sectors(Flash<'static, Blocking>);

impl Sectors {
    /// Sets the clocks, then takes the flash. The firmware relies on: core 400 MHz, APB1 100 MHz, its timers 200 MHz.
    pub fn take() -> Self {
        let mut config = Config::default();
        let rcc = &mut config.rcc;
        // The ST-LINK's clock output (UM2407, HSE).
        rcc.hse = Some(Hse { freq: Hertz(8_000_000), mode: HseMode::Bypass });
        rcc.pll1 = Some(Pll {
            source: PllSource::HSE,
            prediv: PllPreDiv::DIV1,
            mul: PllMul::MUL100,
            fracn: None,
            divp: Some(PllDiv::DIV2),
            divq: Some(PllDiv::DIV8),
            divr: None,
        });
        rcc.sys = Sysclk::PLL1_P;
        rcc.ahb_pre = AHBPrescaler::DIV2;
        rcc.apb1_pre = APBPrescaler::DIV2;
        rcc.apb2_pre = APBPrescaler::DIV2;
        rcc.apb3_pre = APBPrescaler::DIV2;
        rcc.apb4_pre = APBPrescaler::DIV2;
        rcc.voltage_scale = VoltageScale::Scale1;
        let peripherals = embassy_stm32::init(config);
        // Instructions alone: how often the data cache would hit has no bound.
        if let Some(mut core) = cortex_m::Peripherals::take() {
            core.SCB.enable_icache();
        }
        Self(Flash::new_blocking(peripherals.FLASH))
    }
}

impl ErrorType for Sectors {
    type Error = Error;
}

impl ReadNorFlash for Sectors {
    const READ_SIZE: usize = <Flash<'static, Blocking> as ReadNorFlash>::READ_SIZE;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Error> {
        self.0.blocking_read(offset, bytes)
    }

    fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl NorFlash for Sectors {
    const WRITE_SIZE: usize = <Flash<'static, Blocking> as NorFlash>::WRITE_SIZE;
    const ERASE_SIZE: usize = <Flash<'static, Blocking> as NorFlash>::ERASE_SIZE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Error> {
        self.0.blocking_erase(from, to)
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Error> {
        self.0.blocking_write(offset, bytes)
    }
}
