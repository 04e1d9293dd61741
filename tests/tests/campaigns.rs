//! Every campaign in its short form. `cargo xtask campaign NAME` runs the long one.

use tendon_tests::campaign::{Options, find, main};

macro_rules! held {
    ($($test:ident $name:literal)*) => { $(
        #[test]
        fn $test() {
            let options = Options { names: vec![$name.into()], short: true, seed: 1, ..Options::default() };
            assert_eq!(main(&options), Ok(true), "{}", $name);
        }
    )* };
}

held! {
    flips_are_held "flips"
    decoder_is_held "decoder"
    resync_is_held "resync"
    replay_is_held "replay"
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
