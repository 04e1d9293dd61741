/// Name and promise of every campaign of `tests/`; `xtask` includes this file for `campaign --list`.
pub(crate) const NAMES: &[(&str, &str)] = &[
    ("flips", "no frame with one or two flipped bits, and no payload of the wrong length, is believed"),
    ("decoder", "random bytes are no message and never a panic"),
    ("resync", "after any corruption the second good frame decodes"),
    ("replay", "replayed, reordered and duplicated commands never act twice"),
    (
        "silence",
        "a host that is killed or stopped, or has no more states, ends Running within the timeout and one tick",
    ),
    ("recorder", "a recorder that is killed loses no tick that it said was written"),
    ("envelope", "no output of the envelope is not finite or outside a limit, whatever goes in"),
    (
        "faults",
        "with any sensor or motor broken, in closed loop, every limit holds; what is noticed, and when",
    ),
    ("abstention", "the controller abstains from observations unlike those it was calibrated on"),
    (
        "power",
        "after a power cut at any operation of the flash, torn at any byte, the old or the new image boots",
    ),
    ("admission", "no changed, truncated, older, foreign or unsigned image is taken, and rot does not boot"),
    ("images", "no mutant of an image makes the runtime panic, and an admitted one keeps every promise"),
    ("parsers", "no damaged contract or recording makes a parser panic, take long or take much memory"),
    ("robots", "no damaged robot or task file panics, and what is read moves and observes finitely"),
    ("kill", "QEMU killed at any instant of flashing boots what was confirmed"),
    ("overrun", "a late tick is replaced by the fallback in the same tick, and counted"),
    ("hang", "a tick that hangs ends in a reset by the watchdog, without torque"),
    ("garbage", "garbage at full rate makes no tick late and does not act"),
    (
        "trainer",
        "a trainer that is killed at any instant and resumed ends with the bits of one that never was",
    ),
    ("skip", "no single skipped instruction of the boot stage starts a firmware that it refuses"),
];
