//! Where things lie in a controller's flash.

use embedded_storage::nor_flash::NorFlash;
use tendon_runtime::store::Part;

/// A run of flash, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub start: u32,
    /// Bytes.
    pub len: u32,
}

impl Region {
    /// Byte behind it.
    #[must_use]
    pub const fn end(self) -> u32 {
        self.start.saturating_add(self.len)
    }
}

/// The regions of a flash, each a multiple of its erase size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Two places for policy images.
    pub policy: [Region; 2],
    /// Two places for firmware images; of length 0 where firmware cannot be updated.
    pub firmware: [Region; 2],
    /// Commit records; at least three erase units.
    pub log: Region,
    /// Keys; at least three erase units. May be the same region as `log` where flash is scarce.
    pub keys: Region,
    /// Address at which the flash is seen in memory.
    pub mapped_at: u32,
}

/// What does not hold of a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutProblem {
    /// A region does not begin and end with an erase unit, or ends outside the flash.
    Bounds(Region),
    /// Records need three erase units.
    Short(Region),
    /// Two regions share bytes.
    Overlap(Region, Region),
}

impl Layout {
    /// The slots of a part.
    #[must_use]
    pub const fn slots(&self, part: Part) -> [Region; 2] {
        match part {
            Part::Policy => self.policy,
            Part::Firmware => self.firmware,
        }
    }

    /// A slot; of a number that is none, an empty one.
    #[must_use]
    pub fn slot(&self, part: Part, slot: u8) -> Region {
        self.slots(part).get(usize::from(slot)).copied().unwrap_or(Region { start: 0, len: 0 })
    }

    /// Address at which a slot is seen in memory.
    #[must_use]
    pub fn address(&self, part: Part, slot: u8) -> u32 {
        self.mapped_at.saturating_add(self.slot(part, slot).start)
    }

    /// Checks the layout against a flash.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check<F: NorFlash>(&self, flash: &F) -> Result<(), LayoutProblem> {
        let [policy_0, policy_1] = self.policy;
        let [firmware_0, firmware_1] = self.firmware;
        let regions = [policy_0, policy_1, firmware_0, firmware_1, self.log, self.keys];
        let unit = F::ERASE_SIZE as u32;
        for (index, region) in regions.iter().enumerate() {
            let fits = u64::from(region.start) + u64::from(region.len) <= flash.capacity() as u64;
            if !fits || !region.start.is_multiple_of(unit) || !region.len.is_multiple_of(unit) {
                return Err(LayoutProblem::Bounds(*region));
            }
            for other in regions.iter().take(index) {
                let is_shared = *other == self.log && *region == self.keys && other == region;
                if region.start < other.end() && other.start < region.end() && !is_shared {
                    return Err(LayoutProblem::Overlap(*other, *region));
                }
            }
        }
        for region in [self.log, self.keys] {
            if region.len / unit < 3 {
                return Err(LayoutProblem::Short(region));
            }
        }
        Ok(())
    }

    /// PSRAM of QEMU's `mps2-an386` and `mps2-an500`, backed by a file.
    pub const QEMU: Self = Self {
        policy: [Region { start: 0, len: 4 << 20 }, Region { start: 4 << 20, len: 4 << 20 }],
        firmware: [Region { start: 8 << 20, len: 1 << 20 }, Region { start: 9 << 20, len: 1 << 20 }],
        log: Region { start: 10 << 20, len: 16 << 10 },
        keys: Region { start: (10 << 20) + (16 << 10), len: 16 << 10 },
        mapped_at: 0x2100_0000,
    };

    /// STM32H743ZI, erase unit 128 KiB. Bank 1: boot stage, records and keys, firmware; bank 2: policies.
    pub const NUCLEO_H743ZI: Self = {
        const fn sectors(first: u32, count: u32) -> Region {
            Region { start: first << 17, len: count << 17 }
        }
        Self {
            policy: [sectors(8, 4), sectors(12, 4)],
            firmware: [sectors(4, 2), sectors(6, 2)],
            log: sectors(1, 3),
            keys: sectors(1, 3),
            mapped_at: 0x0800_0000,
        }
    };

    /// Raspberry Pi Pico 2, 4 MiB behind QSPI, erase unit 4 KiB; the boot stage has the first 256 KiB.
    pub const PICO2: Self = Self {
        firmware: [Region { start: 0x4_0000, len: 0x4_0000 }, Region { start: 0x8_0000, len: 0x4_0000 }],
        policy: [Region { start: 0xc_0000, len: 0x19_c000 }, Region { start: 0x25_c000, len: 0x19_c000 }],
        log: Region { start: 0x3f_8000, len: 0x4000 },
        keys: Region { start: 0x3f_c000, len: 0x4000 },
        mapped_at: 0x1000_0000,
    };

    /// For a controller in a process: two policy slots of at least `slot_len` bytes, no firmware.
    #[must_use]
    pub const fn policies(slot_len: u32, erase_size: u32) -> Self {
        let len = slot_len.next_multiple_of(erase_size);
        let log = 2 * len;
        let none = Region { start: log, len: 0 };
        Self {
            policy: [Region { start: 0, len }, Region { start: len, len }],
            firmware: [none; 2],
            log: Region { start: log, len: 4 * erase_size },
            keys: Region { start: log + 4 * erase_size, len: 4 * erase_size },
            mapped_at: 0,
        }
    }

    /// Bytes of flash that the layout takes.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        let [a, b] = self.policy;
        let [c, d] = self.firmware;
        [a, b, c, d, self.log, self.keys].iter().map(|region| region.end()).max().unwrap_or(0)
    }
}
