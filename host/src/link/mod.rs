//! The host's end of the link: one [`Session`] for a controller behind a serial port (a board, QEMU, the
//! stand-in process) and for one in this process.

mod deadline;
mod error;
mod firmware;
mod flash;
mod in_process;
mod launch;
mod line;
mod serial;
mod session;
pub mod stand_in;
mod update;

pub use deadline::DeadlineThread;
pub use error::LinkError;
pub use firmware::{FirmwareError, Package, image_of_elf};
pub use flash::{HostFlash, install};
pub use in_process::{InProcess, with_in_process};
#[cfg(feature = "mutate")]
pub use launch::removed_check_device;
pub use launch::{
    Address, ControllerKind, Launched, boot_stage_path, firmware_path, launch, launch_from, launch_program,
    launch_stand_in, qemu_is_there,
};
pub use line::Line;
pub use serial::Serial;
pub use session::{Session, Transport, commands_of, joint_commands};
