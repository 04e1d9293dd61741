//! `docs/conformance.md` and the JSON beside it.

use crate::case::{Bound, Result, Verdict};
use crate::scope::{RULES, known};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

fn count(results: &[&Result], f: impl Fn(&Verdict) -> bool) -> usize {
    results.iter().filter(|result| f(&result.verdict)).count()
}

fn passed(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Passed(_))
}

fn out(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::OutOfScope(_))
}

/// One line.
pub(crate) fn totals(results: &[Result]) -> String {
    let all: Vec<&Result> = results.iter().collect();
    let of = |bound| count(&all, |verdict| matches!(verdict, Verdict::Passed(own) if *own == bound));
    format!(
        "{} cases: {} out of scope, {} in scope, of them {} passed (inputs bound as constants: none in {}, shapes in {}, \
         weights in {}, all but one in {}, all in {}), {} failed, {} crashed",
        all.len(),
        count(&all, out),
        all.len() - count(&all, out),
        count(&all, passed),
        of(Bound::Nothing),
        of(Bound::Shapes),
        of(Bound::Weights),
        of(Bound::AllButOne),
        of(Bound::Everything),
        count(&all, |verdict| matches!(verdict, Verdict::Failed(_))),
        count(&all, |verdict| matches!(verdict, Verdict::Crashed(_))),
    )
}

/// The verdict of every case, as `emx.py` writes them.
pub(crate) fn json(results: &[Result]) -> String {
    let verdicts: BTreeMap<&str, String> =
        results.iter().map(|result| (&*result.name, result.verdict.to_string())).collect();
    serde_json::to_string_pretty(&verdicts).unwrap_or_default() + "\n"
}

pub(crate) fn report(results: &[Result], folder: &Path, emx: &Path) -> String {
    let emx_verdicts: Option<BTreeMap<String, String>> =
        std::fs::read(emx).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let all: Vec<&Result> = results.iter().collect();
    let in_scope = all.len() - count(&all, out);
    let version = folder
        .file_name()
        .map_or(String::new(), |name| name.to_string_lossy().replace("onnx-node-", "onnx "));
    let emx_name = emx
        .file_stem()
        .map_or(String::new(), |name| name.to_string_lossy().replace("emx-", "emx-onnx-cgen "));
    let mut text = String::new();
    let w = &mut text;
    let _ = write!(
        w,
        "# Conformance\n\nThe node tests of {version} through `tendon {}`: compiled, run by the runtime on the host, every output compared \
         by shape, type and value (relative 1e-3, absolute 1e-7, as onnx's own runner does; bfloat16 2^-6).\n\
         Written by `cargo xtask campaign conformance`; the same run is a test of `cargo xtask test` when the cases can be made (network to PyPI).\n\n",
        env!("CARGO_PKG_VERSION"),
    );
    // Of how many cases there is a verdict, and of how many it is good.
    let emx_of = |selected: &[&Result]| {
        let verdicts = emx_verdicts.as_ref()?;
        let judged: Vec<_> = selected.iter().filter_map(|result| verdicts.get(&result.name)).collect();
        Some((judged.iter().filter(|verdict| **verdict == "passed").count(), judged.len()))
    };
    let share =
        |part: usize, whole: usize| format!("{part} ({:.1} %)", 100.0 * part as f64 / whole.max(1) as f64);
    let scoped: Vec<&Result> = all.iter().copied().filter(|result| !out(&result.verdict)).collect();
    let own = count(&all, passed);
    let shown = |set: &[&Result]| match emx_of(set) {
        None => "not measured".into(),
        Some((part, judged)) if judged == set.len() => share(part, judged),
        Some((part, judged)) => format!("{} of the {judged} measured", share(part, judged)),
    };
    let _ = write!(
        w,
        "| cases | number | tendon passes | {emx_name} passes |\n|---|---|---|---|\n| all | {} | {} | {} |\n| in scope | {in_scope} | {} | {} |\n\n",
        all.len(),
        share(own, all.len()),
        shown(&all),
        share(own, in_scope),
        shown(&scoped),
    );
    let of = |bound| count(&all, |verdict| matches!(verdict, Verdict::Passed(own) if *own == bound));
    let _ = write!(
        w,
        "No case of onnx has initializers. Those that a policy always has constant are bound as an exporter writes them, as few as the compiler \
         needs:\n\n| bound as constants | cases that pass |\n|---|---|\n| nothing | {} |\n| shapes, axes, sizes | {} |\n| these, weights and scales | {} |\n\
         | all inputs but one | {} |\n| all inputs (the outputs are constant) | {} |\n\n",
        of(Bound::Nothing),
        of(Bound::Shapes),
        of(Bound::Weights),
        of(Bound::AllButOne),
        of(Bound::Everything),
    );
    let _ = write!(w, "## Out of scope\n\n| rule | why | cases |\n|---|---|---|\n");
    for (rule, why) in RULES {
        let number = count(&all, |verdict| matches!(verdict, Verdict::OutOfScope(own) if *own == rule));
        let _ = writeln!(w, "| {rule} | {why} | {number} |");
    }
    let _ = write!(w, "\n## Failed\n\n");
    let mut failed = 0;
    for result in all.iter().filter(|result| !result.verdict.is_fine()) {
        failed += 1;
        let reason = known(&result.name).map_or(String::new(), |reason| format!(" ({reason})"));
        let _ = writeln!(w, "- `{}`: {}{reason}", result.name, result.verdict);
    }
    if failed == 0 {
        let _ = writeln!(w, "None.");
    }
    let _ = write!(
        w,
        "\n## By operator\n\nThe operator that a case is about; cases `_expanded` are the body of the operator as a graph of others.\n\n\
         | operator | cases | passed | out of scope | failed | {emx_name} passes |\n|---|---|---|---|---|---|\n"
    );
    let mut by: BTreeMap<&str, Vec<&Result>> = BTreeMap::new();
    for result in &all {
        by.entry(&result.target).or_default().push(result);
    }
    for (operator, set) in by {
        let mut rules: BTreeMap<&str, usize> = BTreeMap::new();
        for result in &set {
            if let Verdict::OutOfScope(rule) = result.verdict {
                *rules.entry(rule).or_default() += 1;
            }
        }
        let rules: Vec<String> = rules.into_iter().map(|(rule, number)| format!("{number} {rule}")).collect();
        let _ = writeln!(
            w,
            "| {operator} | {} | {} | {} | {} | {} |",
            set.len(),
            count(&set, passed),
            rules.join(", "),
            count(&set, |verdict| !verdict.is_fine()),
            match emx_of(&set) {
                Some((part, judged)) if judged == set.len() => part.to_string(),
                Some((part, judged)) if judged > 0 => format!("{part} of {judged}"),
                _ => "-".into(),
            },
        );
    }
    text
}
