//! What RTIC wants to know of a device, from the numbers of four interrupts.

/// Makes the module `device`: interrupts by their use, and a device without peripherals, which the boards take
/// by themselves.
macro_rules! device {
    ($($(#[$doc:meta])* $name:ident = $number:expr),+ ; priority_bits = $bits:expr) => {
        /// The interrupts of the board by their use, and what else RTIC needs.
        #[allow(non_camel_case_types, missing_docs)]
        pub mod device {
            #[allow(unused_imports, reason = "numbers may be the board's constants")]
            use super::*;
            pub use Interrupt as interrupt;

            /// Bits of priority that the NVIC has.
            pub const NVIC_PRIO_BITS: u8 = $bits;

            /// Interrupt numbers by their use.
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            #[repr(u16)]
            pub enum Interrupt {
                $($(#[$doc])* $name = $number),+
            }

            // SAFETY: the numbers are those of the board's NVIC.
            unsafe impl cortex_m::interrupt::InterruptNumber for Interrupt {
                fn number(self) -> u16 {
                    self as u16
                }
            }

            /// Peripherals, as RTIC takes them: none but the core's.
            #[derive(Debug)]
            pub struct Peripherals;

            impl Peripherals {
                /// RTIC calls it; nothing is handed out here.
                ///
                /// # Safety
                /// None needed.
                #[must_use]
                pub unsafe fn steal() -> Self {
                    Self
                }
            }
        }
    };
}
pub(crate) use device;

/// Makes the vectors of so many interrupts, for boards whose peripheral crate has none.
macro_rules! vectors {
    ($count:expr) => {
        mod vectors {
            use super::device::Interrupt;
            #[allow(unused_imports, reason = "the count may be a constant of the board")]
            use super::*;

            unsafe extern "C" {
                fn LINK_RX();
                fn LINK_TX();
                fn CONTROL_TIMER();
                fn CLOCK_WRAP();
                fn DefaultHandler();
            }

            #[unsafe(link_section = ".vector_table.interrupts")]
            #[unsafe(no_mangle)]
            static __INTERRUPTS: [unsafe extern "C" fn(); $count] = {
                let mut vectors: [unsafe extern "C" fn(); $count] = [DefaultHandler; $count];
                vectors[Interrupt::LINK_RX as usize] = LINK_RX;
                vectors[Interrupt::LINK_TX as usize] = LINK_TX;
                vectors[Interrupt::CONTROL_TIMER as usize] = CONTROL_TIMER;
                vectors[Interrupt::CLOCK_WRAP as usize] = CLOCK_WRAP;
                vectors
            };
        }
    };
}
pub(crate) use vectors;
