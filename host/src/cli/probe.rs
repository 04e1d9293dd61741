//! `flash --probe`: a fresh board through its debug probe. Writes the boot stage and the first firmware slot; all
//! else goes over the link afterwards.

use super::flash::signed_package;
use super::read_file;
use anyhow::{Context, Result, ensure};
use probe_rs::flashing::DownloadOptions;
use probe_rs::{Session, SessionConfig};
use std::path::Path;
use tendon_boot::sign::SigningKey;
use tendon_bounds::Elf;
use tendon_wire::flash::CODE_OFFSET;
use tendon_wire::image::Header;

/// Largest ELF that is read, debug information included.
const MAX_ELF: u64 = 64 << 20;

pub(super) fn write(chip: &str, file: &Path, key: Option<&SigningKey>) -> Result<()> {
    let images = signed_package(file, key)?;
    let image = images.first().with_context(|| format!("{}: no image in it", file.display()))?;
    let header: Header = bytemuck::pod_read_unaligned(&image[..size_of::<Header>()]);
    let slot = header.schema_hash - u64::from(CODE_OFFSET);
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
    let boot_file = file.with_file_name(format!("{}-boot.elf", stem.strip_suffix("-b").unwrap_or(stem)));
    let boot = read_file(&boot_file, MAX_ELF)?;
    let boot = Elf::parse(&boot).with_context(|| boot_file.display().to_string())?;
    ensure!(!boot.segments.is_empty(), "{}: nothing in it is loaded; build it again", boot_file.display());

    let mut session = Session::auto_attach(chip, SessionConfig::default()).with_context(|| {
        format!("no debug probe with a {chip}: is it plugged in, powered, and not in use?")
    })?;
    let mut loader = session.target().flash_loader();
    for segment in &boot.segments {
        loader.add_data(segment.address.into(), segment.bytes)?;
    }
    loader.add_data(slot, image)?;
    loader.commit(&mut session, DownloadOptions::default()).context("writing flash through the probe")?;
    session.core(0)?.reset()?;
    println!("boot stage and firmware written; the board has been reset");
    Ok(())
}
