//! The runtime on AArch64, emulated: the tests of its kernels, and images made here whose golden vectors run there.

use crate::{firmware, packages, root, run, target, tendon};
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Where Debian's cross compiler has the C library.
const SYSROOT: &str = "/usr/aarch64-linux-gnu";

pub(crate) fn campaign(rest: &[&str]) -> Result<(), String> {
    let json = match rest {
        [] => None,
        ["--json", file] => Some(std::env::current_dir().unwrap_or_default().join(file)),
        _ => return Err(format!("campaign aarch64 [--json FILE], not `{}`", rest.join(" "))),
    };
    packages::aarch64(TARGET)?;
    let images = images()?;
    let mut test = firmware::cargo_for(TARGET, "test", "std,test");
    test.args(["-p", "tendon-runtime", "--lib", "--test", "it"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(target().join("aarch64"))
        .args(["--", "--nocapture", "kernels", "math", "functions", "elsewhere"])
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc")
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", format!("qemu-aarch64 -L {SYSROOT}"))
        .env("TENDON_IMAGES", &images)
        .current_dir(root());
    run(&mut test)?;
    let Some(json) = json else { return Ok(()) };
    let count = std::fs::read_dir(&images).map_or(0, Iterator::count);
    let row = |metric: &str, value: usize| {
        format!(
            r#"  {{"case": "aarch64", "metric": "{metric}", "unit": "images", "tendon": {value}, "peers": {{}}, "goal": {}}}"#,
            if value == 0 { "0" } else { "null" }
        )
    };
    let rows = [row("compared bit for bit with x86-64", count), row("golden vectors that differ", 0)];
    std::fs::write(&json, format!("[\n{}\n]\n", rows.join(",\n")))
        .map_err(|error| format!("{}: {error}", json.display()))
}

/// Images of the round-trip nets, and of the Go1's with 8-bit weights where it is there.
fn images() -> Result<PathBuf, String> {
    let folder = target().join("aarch64-images");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let nets = root().join("models/roundtrip");
    let entries = std::fs::read_dir(&nets).map_err(|error| format!("{}: {error}", nets.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "onnx"));
    files.sort();
    for file in files {
        compile(&file, &folder.join(file.with_extension("tnd").file_name().unwrap_or_default()), &[])?;
    }
    let real = root().join("../shared/real");
    let (go1, trace) = (real.join("go1_joystick.onnx"), real.join("go1_trace_forward.csv"));
    if !go1.is_file() {
        println!("{} is not there: without the Go1's network", go1.display());
        return Ok(folder);
    }
    compile(&go1, &folder.join("go1.tnd"), &[])?;
    let trace = trace.display().to_string();
    compile(&go1, &folder.join("go1-8w16a.tnd"), &["--quantize", "8w16a", "--calibrate", &trace])?;
    Ok(folder)
}

fn compile(onnx: &Path, image: &Path, options: &[&str]) -> Result<(), String> {
    let mut command: Command = tendon(&["compile", "--bare", "--output"]);
    run(command.arg(image).args(options).arg(onnx))
}
