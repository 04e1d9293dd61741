//! Where contracts come from, and what messages say when they do not hold.

mod common;

use tendon_compiler::sample::{Hidden, mlp, with_metadata};
use tendon_compiler::{CompileError, Compiled, ContractChoice, Manifest, Options, compile, inspect};

const TOML: &str = r#"
version = 1
robot = "two"
control_period_s = 0.02
commands = [{ name = "vx", range = [-1, 1] }]
observations = [
  { name = "position", signal = "joint_position" },
  { name = "velocity", signal = "joint_velocity", scale = 0.05 },
  { name = "command", signal = "command" },
]
[[joints]]
name = "hip"
default_position = 0.1
position_limits = [-1, 1]
velocity_limit = 10
torque_limit = 5
[[joints]]
name = "knee"
default_position = -0.1
position_limits = [-1, 1]
velocity_limit = 10
torque_limit = 5
[[actions]]
joint = "hip"
mode = "position"
scale = 0.5
[[actions]]
joint = "knee"
mode = "torque"
scale = 2
"#;

fn onnx() -> Vec<u8> {
    mlp(&[5, 8, 2], Hidden::Tanh, 1)
}

fn with(onnx: &[u8], text: &str) -> Result<Compiled, CompileError> {
    let contract = ContractChoice::Toml { file: "two.toml", text };
    compile(onnx, &Options { contract, rollback_counter: 9, ..Options::default() })
}

fn message(text: &str) -> String {
    with(&onnx(), text).unwrap_err().to_string()
}

#[test]
fn a_toml_contract_stands_in_header_manifest_and_table() {
    let compiled = with(&onnx(), TOML).unwrap();
    let image = tendon_runtime::Image::parse(&compiled.image).unwrap();
    assert_eq!(image.robot_id(), "two");
    assert_eq!(image.header().rollback_counter, 9);
    assert_ne!(image.header().schema_hash, 0);
    let manifest = Manifest::of_image(&compiled.image).unwrap();
    assert_eq!(manifest.contract, compiled.contract);
    assert!(inspect::inspect(&compiled.image, None).unwrap().contains("knee"));
}

#[test]
fn the_contract_in_the_metadata_is_taken_and_a_toml_overrides_it() {
    let json = with(&onnx(), TOML).unwrap().contract.unwrap().to_json();
    let with_json = with_metadata(onnx(), "tendon.contract", &json);
    let compiled = compile(&with_json, &Options::default()).unwrap();
    assert_eq!(compiled.contract.unwrap().to_json(), json);
    let other = TOML.replace("\"two\"", "\"other\"");
    assert_eq!(with(&with_json, &other).unwrap().contract.unwrap().robot, "other");
    let bare = Options { contract: ContractChoice::Bare, ..Options::default() };
    assert_eq!(compile(&with_json, &bare).unwrap().contract, None);
}

#[test]
fn without_any_metadata_a_file_compiles_as_a_bare_network() {
    let compiled = compile(&onnx(), &Options::default()).unwrap();
    assert_eq!(compiled.contract, None);
    let table = inspect::inspect(&compiled.image, None).unwrap();
    assert!(table.contains("which no controller arms"), "{table}");
}

#[test]
fn a_typo_is_shown_with_line_and_nearest_key() {
    let text = message(&TOML.replacen("velocity_limit", "velocity_limits", 1));
    assert!(
        text.starts_with("two.toml:15:1: unknown key `velocity_limits`: did you mean `velocity_limit`?"),
        "{text}"
    );
    assert!(message("robot = ").starts_with("two.toml:1:"));
    assert!(message(&"#".repeat(2 << 20)).contains("at most"));
}

#[test]
fn what_a_toml_lacks_is_listed_all_at_once() {
    let text = message(&TOML.replacen("torque_limit = 5", "", 1).replace("robot = \"two\"", ""));
    assert!(text.contains("robot") && text.contains("joints[0].torque_limit (`hip`)"), "{text}");
}

#[test]
fn values_that_do_not_hold_are_named() {
    let text = message(&TOML.replace("default_position = 0.1", "default_position = 7.0"));
    assert!(text.contains("two.toml") && text.contains("default_position"), "{text}");
    let text = message(&TOML.replace("joint = \"knee\"", "joint = \"kne\""));
    assert!(text.contains("`kne` is no joint"), "{text}");
}

#[test]
fn counts_that_differ_from_the_graph_are_shown_term_by_term() {
    let text = message(&TOML.replace("  { name = \"command\", signal = \"command\" },\n", ""));
    assert!(
        text.contains("`obs` has 5 elements") && text.contains("position 2 x 1 + velocity 2 x 1"),
        "{text}"
    );
    let text = with(&mlp(&[5, 8, 3], Hidden::Relu, 1), TOML).unwrap_err().to_string();
    assert!(text.contains("`actions` has 3 elements, the contract has 2 actions"), "{text}");
}

/// As mjlab writes it, numbers with three decimals.
fn mjlab() -> Vec<u8> {
    let keys = [
        ("joint_names", "hip,knee"),
        ("joint_stiffness", "20.000,30.000"),
        ("joint_damping", "[1.5, 2.5]"),
        ("default_joint_pos", "0.100,-0.200"),
        ("observation_names", "joint_pos,joint_vel,command"),
        ("action_scale", "0.250,0.500"),
    ];
    keys.into_iter().fold(onnx(), |onnx, (key, value)| with_metadata(onnx, key, value))
}

#[test]
fn csv_metadata_alone_says_what_is_missing_and_how_to_give_it() {
    let text = compile(&mjlab(), &Options::default()).unwrap_err().to_string();
    for part in [
        "joint_names, ",
        "robot",
        "control_period_s",
        "joints[1].velocity_limit (`knee`)",
        "use_metadata = true",
        "--contract",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_short_toml_completes_csv_metadata() {
    let toml = r#"
        use_metadata = true
        version = 1
        robot = "two"
        control_period_s = 0.02
        commands = [{ name = "vx", range = [-1, 1] }]
        [joint_defaults]
        position_limits = [-1, 1]
        velocity_limit = 10
        torque_limit = 5
    "#;
    let spec = with(&mjlab(), toml).unwrap().contract.unwrap();
    assert_eq!((spec.joints[1].kp, spec.joints[1].kd, spec.joints[1].default_position), (30.0, 2.5, -0.2));
    let action = &spec.actions[1];
    assert_eq!((action.scale, action.offset, action.kp, action.kd), (0.5, -0.2, 30.0, 2.5));
    assert_eq!(spec.observations.len(), 3);
}

#[test]
fn malformed_metadata_is_named_by_its_key() {
    for (key, value) in [
        ("joint_stiffness", "1,x"),
        ("joint_damping", "[1, "),
        ("default_joint_pos", "1,2,3"),
        ("tendon.contract", "{"),
    ] {
        let onnx = with_metadata(with_metadata(onnx(), "joint_names", "hip,knee"), key, value);
        let text = compile(&onnx, &Options::default()).unwrap_err().to_string();
        assert!(text.contains(&format!("`{key}`")), "{text}");
    }
}

#[test]
fn committed_contracts_hold() {
    for name in ["go1_joystick.toml", "g1_velocity.toml"] {
        let text = common::contract(name);
        let n = if name.starts_with("go1") { [48, 12] } else { [480, 29] };
        let contract = ContractChoice::Toml { file: name, text: &text };
        compile(&mlp(&n, Hidden::Relu, 1), &Options { contract, ..Options::default() }).unwrap();
    }
}
