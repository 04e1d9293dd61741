//! The host's side: signatures that [`crate::Boot`] believes.

use crate::{image, keys};
pub use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha512};
use std::vec::Vec;
use tendon_runtime::store::Part;
use tendon_wire::flash::{ED25519PH, KEYS_CONTEXT, KeySet, Signature, key_id, seal, signature_span};
use tendon_wire::image::{ALIGN, CRC_FROM, Header, Section, Span};

/// Why an image cannot be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignError {
    /// It begins like neither a policy nor a firmware.
    Unknown,
    /// Its length or its signature section does not hold.
    Damaged,
}

impl core::fmt::Display for SignError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "neither a policy image (.tnd) nor a firmware image: there is nothing to sign",
            Self::Damaged => "the image is damaged or truncated: make it again",
        })
    }
}

impl core::error::Error for SignError {}

/// What kind of image this is.
#[must_use]
pub fn part_of(image: &[u8]) -> Option<Part> {
    image::kind(image).map(|(part, _)| part)
}

/// The image with a signature of `key`, in place of the one it may have.
///
/// # Errors
/// When it is no image.
pub fn sign(image: &[u8], key: &SigningKey) -> Result<Vec<u8>, SignError> {
    let (_, context) = image::kind(image).ok_or(SignError::Unknown)?;
    let head = image.get(..size_of::<Header>()).ok_or(SignError::Damaged)?;
    let mut header: Header = bytemuck::pod_read_unaligned(head);
    let end = match signature_span(&header).map_err(|_| SignError::Damaged)? {
        Some(span) => span.offset as usize,
        None => header.total_len as usize,
    };
    let mut signed = image.get(..end).ok_or(SignError::Damaged)?.to_vec();
    signed.resize(end.next_multiple_of(ALIGN), 0);
    let (offset, len) = (signed.len(), size_of::<Signature>());
    let total = u32::try_from(offset + len).map_err(|_| SignError::Damaged)?;
    header.sections[Section::Signature as usize] = Span { offset: offset as u32, len: len as u32 };
    header.total_len = total;
    signed
        .get_mut(..size_of::<Header>())
        .ok_or(SignError::Damaged)?
        .copy_from_slice(bytemuck::bytes_of(&header));
    let hash = Sha512::new_with_prefix(signed.get(CRC_FROM..).unwrap_or(&[]));
    signed.extend_from_slice(bytemuck::bytes_of(&signature(hash, context, key)));
    seal(&mut signed);
    Ok(signed)
}

/// The image with another rollback counter, without a signature.
///
/// # Errors
/// When it is no image.
pub fn with_rollback_counter(image: &[u8], counter: u32) -> Result<Vec<u8>, SignError> {
    image::kind(image).ok_or(SignError::Unknown)?;
    let head = image.get(..size_of::<Header>()).ok_or(SignError::Damaged)?;
    let mut header: Header = bytemuck::pod_read_unaligned(head);
    if let Some(span) = signature_span(&header).map_err(|_| SignError::Damaged)? {
        header.total_len = span.offset;
        header.sections[Section::Signature as usize] = Span::default();
    }
    header.rollback_counter = counter;
    let mut changed = image.get(..header.total_len as usize).ok_or(SignError::Damaged)?.to_vec();
    changed
        .get_mut(..size_of::<Header>())
        .ok_or(SignError::Damaged)?
        .copy_from_slice(bytemuck::bytes_of(&header));
    seal(&mut changed);
    Ok(changed)
}

/// The statement of `key` that hands a controller over to the keys of `set`.
#[must_use]
pub fn hand_over(set: &KeySet, key: &SigningKey) -> Signature {
    signature(keys::statement(set), KEYS_CONTEXT, key)
}

fn signature(hash: Sha512, context: &[u8], key: &SigningKey) -> Signature {
    // The only error is a context of more than 255 bytes.
    let signature = key.sign_prehashed(hash, Some(context)).map_or([0; 64], |signature| signature.to_bytes());
    Signature { key_id: key_id(key.verifying_key().as_bytes()), scheme: ED25519PH, reserved: 0, signature }
}
