//! Every campaign in its short form. `cargo xtask campaign NAME` runs the long one.

use std::process::Command;
use tendon_tests::campaign::{Options, find};

macro_rules! held {
    ($($test:ident $name:literal)*) => { $(
        #[test]
        fn $test() {
            let mut command = Command::new(env!("CARGO_BIN_EXE_campaign"));
            let output = command.args([$name, "--short"]).output().unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            println!("{}{}", text(&output.stdout), text(&output.stderr));
            assert!(output.status.success(), "{}: {}", $name, output.status);
        }
    )* };
}

held! {
    flips_are_held "flips"
    decoder_is_held "decoder"
    resync_is_held "resync"
    replay_is_held "replay"
    silence_is_held "silence"
    recorder_is_held "recorder"
    envelope_is_held "envelope"
    faults_are_held "faults"
    abstention_is_held "abstention"
    power_is_held "power"
    admission_is_held "admission"
    images_are_held "images"
    parsers_are_held "parsers"
    robots_is_held "robots"
    kill_is_held "kill"
    overrun_is_held "overrun"
    hang_is_held "hang"
    garbage_is_held "garbage"
    trainer_is_held "trainer"
    skip_is_held "skip"
}

#[test]
fn a_name_or_option_that_is_not_there_is_an_error_that_says_so() {
    assert!(find("flip").is_err_and(|problem| problem.contains("flips, decoder")));
    let parse = |words: &[&str]| Options::parse(words.iter().map(|word| (*word).to_owned()));
    assert!(parse(&["flips", "--shrt"]).is_err_and(|problem| problem.contains("--shrt")));
    assert!(parse(&["flips", "--seed", "x"]).is_err_and(|problem| problem.contains('x')));
    assert!(parse(&["flips", "--json"]).is_err_and(|problem| problem.contains("file")));
    let options = parse(&["flips", "--short", "--seed", "3"]).unwrap();
    assert_eq!((options.short, options.seed, options.mutate), (true, 3, false));
}
