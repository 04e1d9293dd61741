//! Policies as PyTorch's and Stable-Baselines3's exporters write them (`models/roundtrip`): compiled, run by the
//! runtime, against the vectors that PyTorch computed. Recurrent state goes on from row to row inside the image.

mod common;

use serde_json::Value;
use std::path::{Path, PathBuf};
use tendon_compiler::parity::{ImageRunner, Report, TOLERANCE, compare_recorded};
use tendon_compiler::{ContractChoice, Options, compile};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/roundtrip")
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().into_iter().flatten().filter_map(Value::as_f64).map(|number| number as f32).collect()
}

/// Numbers of one row, by tensor, without those that are state; the tensors one after the other.
fn row(values: &Value, ports: &Value, state: &[String]) -> Vec<f32> {
    let names = ports.as_array().into_iter().flatten().filter_map(|port| port["name"].as_str());
    let by_name = |(index, name): (usize, &str)| match values {
        Value::Array(all) => floats(&all[index]),
        all => floats(&all[name]),
    };
    names.enumerate().filter(|(_, name)| !state.iter().any(|state| state == name)).flat_map(by_name).collect()
}

/// The vectors of a net and how its state is paired.
struct Net {
    files: Vec<String>,
    states: Vec<(String, String)>,
    inputs: Vec<Vec<f32>>,
    outputs: Vec<Vec<f32>>,
    /// The same in `f64`.
    exact: Vec<Vec<f32>>,
}

impl Net {
    fn read(path: &Path) -> Self {
        let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let states: Vec<(String, String)> = json["state"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|pair| (text(&pair[0]), text(&pair[1])))
            .collect();
        let (before, after): (Vec<String>, Vec<String>) = states.iter().cloned().unzip();
        let rows = |key: &str, ports: &str, state: &[String]| {
            let rows = json["rows"].as_array().into_iter().flatten();
            rows.map(|values| row(&values[key], &json[ports], state)).collect()
        };
        Self {
            files: json["models"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|model| text(&model["file"]))
                .collect(),
            inputs: rows("in", "inputs", &before),
            outputs: rows("out", "outputs", &after),
            exact: rows("out64", "outputs", &after),
            states,
        }
    }
}

fn run(net: &Net, file: &str, reference: &[Vec<f32>]) -> Result<Report, String> {
    let onnx = std::fs::read(folder().join(file)).map_err(|error| error.to_string())?;
    let options = Options { contract: ContractChoice::Bare, states: Some(&net.states), ..Options::default() };
    let compiled = compile(&onnx, &options).map_err(|error| error.to_string())?;
    let mut image = ImageRunner::new(&compiled.image).map_err(|error| error.to_string())?;
    let labels: Vec<String> = compiled
        .outputs
        .iter()
        .flat_map(|port| (0..port.len()).map(|index| format!("{}[{index}]", port.name)))
        .collect();
    compare_recorded(&net.inputs, reference, &labels, TOLERANCE, |input| image.run(input))
        .map_err(|error| error.to_string())
}

#[test]
fn exported_policies_compute_what_pytorch_computed() {
    let mut failed = Vec::new();
    let mut files = 0;
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(folder()).unwrap().flatten().map(|entry| entry.path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    names.sort();
    for path in names {
        let net = Net::read(&path);
        assert!(!net.inputs.is_empty() && !net.files.is_empty(), "{} has no rows", path.display());
        for file in &net.files {
            files += 1;
            for (what, reference) in [("torch", &net.outputs), ("f64", &net.exact)] {
                match run(&net, file, reference) {
                    Ok(report) if report.passed() => println!("{file} against {what}: {report}"),
                    Ok(report) => failed.push(format!("{file} against {what}: {report}")),
                    Err(error) => failed.push(format!("{file}: {error}")),
                }
            }
        }
    }
    assert!(
        failed.is_empty(),
        "{} comparisons of {files} files do not pass:\n{}",
        failed.len(),
        failed.join("\n")
    );
    assert_eq!(files, 33, "files of models/roundtrip");
}
