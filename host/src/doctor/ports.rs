//! Serial ports there are, and whether this user may open them.

use super::Finding;
use rustix::fs::{Access, access};
use std::path::Path;

/// Names of serial ports that robots hang on.
const PREFIXES: [&str; 4] = ["ttyUSB", "ttyACM", "ttyAMA", "ttyTHS"];

/// Looks at the ports of `dev` (`/dev`), with what `sys` (`/sys`) says of their adapters. `wanted`: the port that is
/// to be used.
#[must_use]
pub fn examine_ports(dev: &Path, sys: &Path, wanted: Option<&str>) -> Vec<Finding> {
    let mut names: Vec<String> = std::fs::read_dir(dev)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    names.sort();
    let mut findings = Vec::new();
    if names.is_empty() && wanted.is_none() {
        findings.push(Finding::warn(
            "ports",
            format!("no serial port in {}", dev.display()),
            "plug the controller or adapter in; in a container or virtual machine pass the device through",
        ));
    }
    let mut paths: Vec<String> = names.iter().map(|name| dev.join(name).display().to_string()).collect();
    if let Some(port) = wanted
        && !paths.iter().any(|path| path == port)
    {
        paths.push(port.to_owned());
    }
    for path in paths {
        let is_wanted = wanted == Some(path.as_str());
        findings.push(permission(&path, is_wanted));
        if let Some(finding) = latency(sys, &path) {
            findings.push(finding);
        }
    }
    findings
}

fn permission(path: &str, is_wanted: bool) -> Finding {
    let check = format!("port {path}");
    // Only the port that is to be used can fail.
    let bad: fn(String, String, String) -> Finding = if is_wanted { Finding::fail } else { Finding::warn };
    match access(path, Access::READ_OK | Access::WRITE_OK) {
        Ok(()) => Finding::ok(check, "may be read and written"),
        Err(rustix::io::Errno::ACCESS) => bad(
            check,
            "no permission".to_owned(),
            "sudo usermod -aG dialout $USER, then log out and in again".to_owned(),
        ),
        Err(rustix::io::Errno::NOENT) => bad(
            check,
            "is not there".to_owned(),
            "check the cable and the name; `ls /dev/serial/by-id`".to_owned(),
        ),
        Err(error) => bad(check, error.to_string(), "check the name".to_owned()),
    }
}

/// FTDI adapters keep bytes back for 16 ms unless told otherwise.
fn latency(sys: &Path, path: &str) -> Option<Finding> {
    let name = Path::new(path).file_name()?.to_str()?;
    let file = sys.join("bus/usb-serial/devices").join(name).join("latency_timer");
    let text = std::fs::read_to_string(&file).ok()?;
    let check = format!("latency timer of {name}");
    match text.trim().parse::<u32>() {
        Ok(0..=1) => Some(Finding::ok(check, "1 ms")),
        _ => Some(Finding::warn(
            check,
            format!("{} ms: every answer waits so long", text.trim()),
            format!("echo 1 | sudo tee {}", file.display()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn ports_are_listed_and_a_missing_one_fails_only_when_it_is_wanted() {
        let folder = std::env::temp_dir().join(format!("tendon-ports-{}", std::process::id()));
        let adapter = folder.join("sys/bus/usb-serial/devices/ttyUSB0");
        std::fs::create_dir_all(&adapter).unwrap();
        std::fs::write(adapter.join("latency_timer"), "16\n").unwrap();
        let dev = folder.join("dev");
        std::fs::create_dir_all(&dev).unwrap();
        assert_eq!(examine_ports(&dev, &folder.join("sys"), None)[0].outcome, Outcome::Warn);
        for name in ["ttyUSB0", "ttyACM0", "null"] {
            std::fs::write(dev.join(name), "").unwrap();
        }
        let gone = dev.join("ttyUSB7").display().to_string();
        let found = examine_ports(&dev, &folder.join("sys"), Some(&gone));
        let seen: Vec<_> = found.iter().map(|f| (f.check.rsplit('/').next().unwrap(), f.outcome)).collect();
        assert_eq!(
            seen,
            [
                ("ttyACM0", Outcome::Ok),
                ("ttyUSB0", Outcome::Ok),
                ("latency timer of ttyUSB0", Outcome::Warn),
                ("ttyUSB7", Outcome::Fail)
            ]
        );
        std::fs::remove_dir_all(folder).unwrap();
    }
}
