//! The runtime's bound of an inference against what QEMU counts: the short form of `cargo xtask campaign cost`.

use tendon::cost::{Family, Row, Size, campaign};
use tendon::count::count_elf;
use tendon::link::qemu_is_there;

#[test]
fn executed_instructions_stay_below_the_bound_and_do_not_depend_on_the_input() {
    if !qemu_is_there() || count_elf().is_err() {
        println!("SKIPPED: QEMU or tendon-count is missing; `cargo xtask test` brings both");
        return;
    }
    let rows = campaign(&Size::SHORT).unwrap_or_else(|error| panic!("{error:#}"));
    let faults: Vec<String> = rows.iter().filter_map(Row::fault).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(rows.iter().filter(|row| row.family == Family::Dense).count() > 50);
    assert!(rows.len() > 250, "{} networks", rows.len());
}

#[test]
fn a_bound_below_the_count_a_loose_one_and_a_dependence_on_the_input_are_faults() {
    let good = Row {
        name: "net".into(),
        family: Family::Dense,
        counted: 1000.0,
        bound: 1100,
        spread: 0.0,
        coarse_spread: 40,
        inputs: 8,
    };
    assert_eq!(good.fault(), None);
    for (bad, word) in [
        (Row { bound: 999, ..good.clone() }, "bound 999"),
        (Row { bound: 1301, ..good.clone() }, "1.301 times"),
        (Row { spread: 1.0, ..good.clone() }, "depends on the input"),
        (Row { coarse_spread: 80, ..good.clone() }, "depends on the input"),
    ] {
        assert!(bad.fault().is_some_and(|fault| fault.contains(word)), "{word}");
    }
    assert_eq!(Row { bound: 5000, family: Family::Mixed, ..good }.fault(), None);
}
