//! MuJoCo and Gymnasium in a process of their own.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::Result;

/// Runs one function of `peers.py`.
pub(crate) fn ask(what: &str, request: &Value) -> Result<Value> {
    let python = std::env::var_os("TENDON_MUJOCO")
        .ok_or("without MuJoCo: `cargo xtask bench NAME` installs it and sets TENDON_MUJOCO")?;
    let mut child = Command::new(python)
        .args(["-c", include_str!("peers.py"), what])
        .env("MUJOCO_GL", std::env::var("MUJOCO_GL").unwrap_or_else(|_| "egl".into()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().ok_or("no pipe")?.write_all(request.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(format!("peers.py {what} ended with {}", output.status).into());
    }
    // Libraries may print before: the answer is the last line.
    let text = String::from_utf8(output.stdout)?;
    Ok(serde_json::from_str(text.lines().last().unwrap_or_default())?)
}

/// Folder of Gymnasium's own robot files.
pub(crate) fn gymnasium_files() -> Result<PathBuf> {
    Ok(ask("assets", &Value::Null)?.as_str().ok_or("no folder")?.into())
}

/// The Go1 beside the checkout; `None` where it is not there.
pub(crate) fn go1() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/real");
    let folder = std::env::var_os("TENDON_REAL").map_or_else(|| beside.into(), PathBuf::from);
    let file = folder.join("go1_scene_flat.xml");
    file.is_file().then_some(file)
}
