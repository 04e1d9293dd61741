//! Images, keys and a controller's flash for the tests of this folder.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

use embedded_storage::nor_flash::ReadNorFlash;
use tendon_boot::sign::SigningKey;
use tendon_boot::sim::Flash;
use tendon_boot::{Boot, Layout, Region};
use tendon_runtime::store::{Part, Refused, Store};
use tendon_wire::flash::{CODE_OFFSET, FIRMWARE_MAGIC, FIRMWARE_VERSION, KeySet, seal};
use tendon_wire::image::{FORMAT_VERSION, Header, MAGIC, Span};

pub const ERASE: usize = 1024;
pub type SimFlash = Flash<4, ERASE>;
pub const BOARD: &str = "bench";

const fn region(start: u32, len: u32) -> Region {
    Region { start: start * ERASE as u32, len: len * ERASE as u32 }
}

pub const LAYOUT: Layout = Layout {
    policy: [region(0, 4), region(4, 4)],
    firmware: [region(8, 4), region(12, 4)],
    log: region(16, 3),
    keys: region(19, 3),
    mapped_at: 0x1000_0000,
};

pub fn new_flash() -> SimFlash {
    Flash::new(LAYOUT.capacity())
}

pub fn booted(flash: SimFlash) -> Boot<SimFlash> {
    Boot::start(flash, LAYOUT, BOARD)
}

pub fn reboot(boot: Boot<SimFlash>) -> Boot<SimFlash> {
    booted(boot.into_flash())
}

fn image(magic: [u8; 4], version: u16, id: &[u8], counter: u32, seed: u64, len: usize) -> Vec<u8> {
    let mut header: Header = bytemuck::Zeroable::zeroed();
    (header.magic, header.format_version, header.rollback_counter) = (magic, version, counter);
    header.total_len = len as u32;
    header.robot_id[..id.len()].copy_from_slice(id);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut image = bytemuck::bytes_of(&header).to_vec();
    image.resize_with(len, || random.u8(..));
    image
}

/// Not a policy that could run: what the boot stage sees of one.
pub fn policy(seed: u64, counter: u32) -> Vec<u8> {
    let mut image = image(MAGIC, FORMAT_VERSION, b"arm", counter, seed, 2 * ERASE + 512);
    seal(&mut image);
    image
}

pub fn small_policy(seed: u64) -> Vec<u8> {
    let mut image = image(MAGIC, FORMAT_VERSION, b"arm", 3, seed, 160);
    seal(&mut image);
    image
}

/// The same of a firmware, for a slot.
pub fn firmware(seed: u64, slot: u8, counter: u32) -> Vec<u8> {
    let len = 2 * ERASE + 512;
    let mut image = image(FIRMWARE_MAGIC, FIRMWARE_VERSION, BOARD.as_bytes(), counter, seed, len);
    let address = u64::from(LAYOUT.address(Part::Firmware, slot) + CODE_OFFSET);
    image[24..32].copy_from_slice(&address.to_le_bytes());
    let code = Span { offset: CODE_OFFSET, len: len as u32 - CODE_OFFSET };
    image[64..72].copy_from_slice(bytemuck::bytes_of(&code));
    seal(&mut image);
    image
}

pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub fn key_set(generation: u32, keys: [&SigningKey; 2], robot: &str) -> KeySet {
    let mut robot_id = [0; 32];
    robot_id[..robot.len()].copy_from_slice(robot.as_bytes());
    let keys = keys.map(|key| *key.verifying_key().as_bytes());
    KeySet { generation, reserved: 0, keys, robot_id }
}

/// Writes an image from `from` on, as chunks of the link.
pub fn write(boot: &mut Boot<SimFlash>, part: Part, image: &[u8], from: usize) -> Result<(), Refused> {
    for (index, chunk) in image[from..].chunks(512).enumerate() {
        boot.write(part, (from + 512 * index) as u32, chunk)?;
    }
    Ok(())
}

/// A whole update, up to the commit.
pub fn update(boot: &mut Boot<SimFlash>, part: Part, image: &[u8]) -> Result<(), Refused> {
    let total = image.len() as u32;
    boot.begin(part, total, 0, 0)?;
    write(boot, part, image, 0)?;
    boot.verify(part, total)?;
    boot.commit(part)
}

/// A controller that boots `image`.
pub fn with_confirmed(part: Part, image: &[u8]) -> Boot<SimFlash> {
    let mut boot = booted(new_flash());
    update(&mut boot, part, image).unwrap();
    if part == Part::Firmware {
        boot = reboot(boot);
    }
    boot.confirm(part).unwrap();
    boot
}

/// The bytes that run.
pub fn running_image(boot: &mut Boot<SimFlash>, part: Part) -> Vec<u8> {
    let slot = LAYOUT.slot(part, boot.running(part).expect("nothing runs"));
    let mut bytes = vec![0; slot.len as usize];
    boot.flash().0.read(slot.start, &mut bytes).unwrap();
    bytes.truncate(u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize);
    bytes
}
