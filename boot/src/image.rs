//! Whether an image may run here: checksum, signature, robot or board, rollback counter.

use crate::keys;
use crate::layout::Region;
use ed25519_dalek::{Signature as Ed25519, VerifyingKey};
use embedded_storage::nor_flash::ReadNorFlash;
use sha2::{Digest, Sha512};
use tendon_runtime::Refusal;
use tendon_runtime::store::{Part, Refused};
use tendon_wire::CRC32C;
use tendon_wire::flash::{
    CODE_OFFSET, ED25519PH, FIRMWARE_CONTEXT, FIRMWARE_MAGIC, FIRMWARE_VERSION, KeySet, POLICY_CONTEXT,
    Signature, key_id, signature_span,
};
use tendon_wire::image::{CRC_FROM, FORMAT_VERSION, Header, MAGIC, MAX_IMAGE};
use tendon_wire::mutation::{Check, removed};

/// Bytes read at once.
const BLOCK: usize = 256;

/// What was found in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) crc32c: u32,
    pub(crate) rollback_counter: u32,
}

/// Who may sign, and for whom.
pub(crate) struct Rules<'a> {
    /// `None`: development, unsigned images are taken.
    pub(crate) keys: Option<&'a KeySet>,
    pub(crate) board: &'a [u8; 32],
    /// Smallest rollback counter.
    pub(crate) floor: u32,
    /// Address at which the slot is seen in memory.
    pub(crate) address: u32,
}

/// Checks the image in a slot.
pub(crate) fn check<F: ReadNorFlash>(
    flash: &mut F,
    part: Part,
    slot: Region,
    rules: &Rules<'_>,
) -> Result<Checked, Refused> {
    let header = header(flash, part, slot)?;
    let span = signature_span(&header).map_err(|span| (Refusal::Image, span.offset))?;
    let covered = span.map_or(0, |span| span.offset);
    let (crc32c, hash) = read_through(flash, slot, header.total_len, covered, rules.keys.is_some())?;
    if crc32c != header.crc32c && !removed(Check::ImageCrc) {
        return Err((Refusal::Image, 0));
    }
    if let Some(keys) = rules.keys
        && !removed(Check::Signature)
    {
        let span = span.ok_or((Refusal::Signature, 0))?;
        let mut signature = bytemuck::Zeroable::zeroed();
        read_padded(flash, slot, span.offset, bytemuck::bytes_of_mut(&mut signature))?;
        is_signed_by(keys, hash, context(part), &signature)?;
    }
    let is_ours = match (part, rules.keys) {
        (Part::Firmware, _) => header.robot_id == *rules.board && is_placed(&header, rules.address),
        (Part::Policy, Some(keys)) => keys.robot_id == [0; 32] || header.robot_id == keys.robot_id,
        (Part::Policy, None) => true,
    };
    if !is_ours && !removed(Check::RobotId) {
        return Err((Refusal::Robot, 0));
    }
    if header.rollback_counter < rules.floor && !removed(Check::Rollback) {
        return Err((Refusal::Rollback, rules.floor));
    }
    Ok(Checked { crc32c: header.crc32c, rollback_counter: header.rollback_counter })
}

/// A firmware runs where it was linked to, and its program lies where it says.
fn is_placed(header: &Header, address: u32) -> bool {
    let [code, ..] = header.sections;
    header.schema_hash == u64::from(address) + u64::from(CODE_OFFSET)
        && code.offset == CODE_OFFSET
        && code.len >= 8
        && code.offset.checked_add(code.len).is_some_and(|end| end <= header.total_len)
}

/// The header of a slot, if it begins an image of this part.
pub(crate) fn header<F: ReadNorFlash>(flash: &mut F, part: Part, slot: Region) -> Result<Header, Refused> {
    let mut header: Header = bytemuck::Zeroable::zeroed();
    if (slot.len as usize) < size_of::<Header>() {
        return Err((Refusal::TooLarge, slot.len));
    }
    read_padded(flash, slot, 0, bytemuck::bytes_of_mut(&mut header))?;
    let (magic, version) = match part {
        Part::Policy => (MAGIC, FORMAT_VERSION),
        Part::Firmware => (FIRMWARE_MAGIC, FIRMWARE_VERSION),
    };
    let total = header.total_len as usize;
    let holds = header.magic == magic
        && header.format_version == version
        && header.flags == 0
        && header.reserved == 0
        && (size_of::<Header>()..=MAX_IMAGE.min(slot.len as usize)).contains(&total);
    if holds { Ok(header) } else { Err((Refusal::Image, 0)) }
}

/// One pass over an image: its checksum, and where wanted the hash of its first `covered` bytes.
fn read_through<F: ReadNorFlash>(
    flash: &mut F,
    slot: Region,
    total: u32,
    covered: u32,
    is_hashed: bool,
) -> Result<(u32, Sha512), Refused> {
    let (mut crc, mut hash) = (CRC32C.digest(), Sha512::new());
    let (total, covered) = (total as usize, covered as usize);
    let mut block = [0; BLOCK];
    let mut at = 0;
    while at < total {
        let offset = at as u32;
        let end = total.min(at.saturating_add(BLOCK));
        let bytes = block.get_mut(..end - at).unwrap_or(&mut []);
        read_padded(flash, slot, offset, bytes)?;
        let from = CRC_FROM.saturating_sub(at);
        crc.update(bytes.get(from..).unwrap_or(&[]));
        if is_hashed && at < covered {
            hash.update(bytes.get(from..(covered - at).min(bytes.len())).unwrap_or(&[]));
        }
        at = end;
    }
    Ok((crc.finalize(), hash))
}

/// Reads bytes of a slot whose number may not be a multiple of what the flash reads at once.
pub(crate) fn read_padded<F: ReadNorFlash>(
    flash: &mut F,
    slot: Region,
    offset: u32,
    bytes: &mut [u8],
) -> Result<(), Refused> {
    let failed = |_| (Refusal::Flash, offset);
    let at = slot.start.saturating_add(offset);
    let whole = bytes.len() / F::READ_SIZE * F::READ_SIZE;
    let (front, rest) = bytes.split_at_mut(whole);
    if !front.is_empty() {
        flash.read(at, front).map_err(failed)?;
    }
    if !rest.is_empty() {
        let mut word = [0; 32];
        let word = word.get_mut(..F::READ_SIZE).ok_or((Refusal::Flash, offset))?;
        flash.read(at.saturating_add(whole as u32), word).map_err(failed)?;
        for (to, from) in rest.iter_mut().zip(word) {
            *to = *from;
        }
    }
    Ok(())
}

/// Checksum of the first `len` bytes of a slot.
pub(crate) fn checksum<F: ReadNorFlash>(flash: &mut F, slot: Region, len: u32) -> Result<u32, Refused> {
    let mut crc = CRC32C.digest();
    let mut block = [0; BLOCK];
    for at in (0..len).step_by(BLOCK) {
        let bytes = block.get_mut(..(len - at).min(BLOCK as u32) as usize).unwrap_or(&mut []);
        read_padded(flash, slot, at, bytes)?;
        crc.update(bytes);
    }
    Ok(crc.finalize())
}

fn context(part: Part) -> &'static [u8] {
    match part {
        Part::Policy => POLICY_CONTEXT,
        Part::Firmware => FIRMWARE_CONTEXT,
    }
}

/// The one place where a signature is believed.
pub(crate) fn is_signed_by(
    keys: &KeySet,
    hash: Sha512,
    context: &[u8],
    signature: &Signature,
) -> Result<(), Refused> {
    if signature.scheme != ED25519PH || signature.reserved != 0 {
        return Err((Refusal::Signature, 2));
    }
    let key = keys::present(keys).find(|key| key_id(key) == signature.key_id);
    let key = key.filter(|key| keys::is_usable(key)).ok_or((Refusal::Signature, 1))?;
    let wrong = (Refusal::Signature, 2);
    let key = VerifyingKey::from_bytes(key).map_err(|_| wrong)?;
    let signature = Ed25519::from_bytes(&signature.signature);
    key.verify_prehashed_strict(hash, Some(context), &signature).map_err(|_| wrong)
}

/// Part and context of an image, by its first bytes.
#[cfg(feature = "sign")]
pub(crate) fn kind(image: &[u8]) -> Option<(Part, &'static [u8])> {
    let part = match image.get(..4)? {
        bytes if bytes == MAGIC => Part::Policy,
        bytes if bytes == FIRMWARE_MAGIC => Part::Firmware,
        _ => return None,
    };
    Some((part, context(part)))
}
