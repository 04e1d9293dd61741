//! Robots from files: MJCF through rapier3d-mjcf, URDF through rapier3d-urdf, both checked first.

mod check;
mod error;
mod finish;
mod hfield;
mod mesh;
mod mjcf;
mod softness;
mod urdf;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

pub use error::{LoadError, Unsupported};

use crate::robot::{Robot, RobotOptions};

/// Loads either format, told apart by the root element.
pub(crate) fn robot_from_file(path: &Path, options: RobotOptions) -> Result<Robot, LoadError> {
    let is_urdf = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("urdf"));
    let checked = check::check_file(path, if is_urdf { "robot" } else { "mujoco" })?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    border(path, || match is_urdf {
        true => urdf::load(path, Some(folder), checked, options),
        false => mjcf::load(path, Some(folder), checked, options),
    })
}

pub(crate) fn robot_from_mjcf(name: &str, text: &str, options: RobotOptions) -> Result<Robot, LoadError> {
    let path = Path::new(name);
    let checked = check::check_text(name, text, "mujoco")?;
    border(path, || mjcf::load(path, None, checked, options))
}

pub(crate) fn robot_from_urdf(name: &str, text: &str, options: RobotOptions) -> Result<Robot, LoadError> {
    let path = Path::new(name);
    let checked = check::check_text(name, text, "robot")?;
    border(path, || urdf::load(path, None, checked, options))
}

/// The one place where a panic becomes an error. The loaders and parry are third-party code with asserts on
/// geometry that our checks cannot foresee one by one; everything they touch is dropped with the panic.
fn border(path: &Path, load: impl FnOnce() -> Result<Robot, LoadError>) -> Result<Robot, LoadError> {
    catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("panic without a message");
        Err(LoadError::new(
            path,
            "model",
            "",
            format!("the physics engine refuses it: {message}"),
            "look for degenerate shapes, inertias or joints",
        ))
    })
}
