//! The program as a user meets it: bad input ends with exit status 1 and a message that names file, field and
//! next step; never a panic.

mod common;

use common::*;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tendon-cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tendon(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tendon")).args(arguments).output().unwrap()
}

/// Fails, without panic, and says each of `words`.
fn complains(output: &Output, words: &[&str]) {
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

fn mlp() -> Vec<u8> {
    tendon_compiler::sample::mlp(&[5, 16, 2], tendon_compiler::sample::Hidden::Tanh, 1)
}

#[test]
fn names_the_file_that_is_missing_or_no_onnx() {
    let folder = Folder::new("onnx");
    let output = folder.0.join("out.tnd");
    complains(&tendon(&[&"compile", &"/no/such.onnx", &"-o", &output]), &["/no/such.onnx"]);
    let text = folder.file("text.onnx", b"this is no protobuf at all, but a sentence");
    complains(&tendon(&[&"compile", &text, &"-o", &output]), &["text.onnx"]);
    let onnx = mlp();
    for length in [0, 1, 10, onnx.len() / 2, onnx.len() - 1] {
        let cut = folder.file("cut.onnx", &onnx[..length]);
        complains(&tendon(&[&"compile", &cut, &"-o", &output]), &["cut.onnx"]);
    }
    assert!(!output.exists(), "a failed compile leaves no image");
}

#[test]
fn names_the_nearest_key_of_a_contract_with_a_typo() {
    let folder = Folder::new("contract");
    let onnx = folder.file("net.onnx", &mlp());
    let text = include_str!("../../models/contracts/go1_joystick.toml").replacen(
        "control_period_s",
        "control_periods",
        1,
    );
    let contract = folder.file("contract.toml", text.as_bytes());
    let output = folder.0.join("out.tnd");
    complains(
        &tendon(&[&"compile", &onnx, &"--contract", &contract, &"-o", &output]),
        &["contract.toml", "control_periods", "control_period_s"],
    );
}

#[test]
fn refuses_damaged_images_with_the_field_that_does_not_hold() {
    let folder = Folder::new("image");
    let image = bare(1);
    let good = folder.file("good.tnd", &image);
    assert!(tendon(&[&"inspect", &good]).status.success());
    let mut flipped = image.to_vec();
    flipped[300] ^= 1;
    complains(&tendon(&[&"inspect", &folder.file("flipped.tnd", &flipped)]), &["flipped.tnd", "crc32c"]);
    complains(&tendon(&[&"inspect", &folder.file("cut.tnd", &image[..100])]), &["cut.tnd", "truncated"]);
    complains(&tendon(&[&"inspect", &folder.file("foreign.tnd", &[7; 400])]), &["foreign.tnd", "magic"]);
}

#[test]
fn a_bare_network_passes_parity_and_is_refused_by_hil() {
    let folder = Folder::new("bare");
    let onnx = folder.file("net.onnx", &mlp());
    let image = folder.0.join("net.tnd");
    let compiled = tendon(&[&"compile", &onnx, &"-o", &image]);
    assert!(compiled.status.success());
    assert!(String::from_utf8_lossy(&compiled.stdout).contains("bare network"));
    assert!(tendon(&[&"parity", &image, &"--onnx", &onnx]).status.success());
    complains(
        &tendon(&[&"hil", &image, &"--task", &"cart-pole", &"--controller", &"stand-in"]),
        &["no contract", "--contract"],
    );
}

#[test]
fn parity_fails_with_row_and_column_of_the_first_divergence() {
    let folder = Folder::new("parity");
    let onnx = folder.file("net.onnx", &mlp());
    let image = folder.0.join("net.tnd");
    assert!(tendon(&[&"compile", &onnx, &"-o", &image]).status.success());
    let mut trace = String::from("obs0,obs1,obs2,obs3,obs4,act0,act1\n");
    let mut runner = tendon_compiler::parity::OnnxRunner::new(&mlp()).unwrap();
    for row in 0..4 {
        let input = [0.1 * row as f32, 0.2, -0.3, 0.4, 0.5];
        let mut output = run(&mut runner, &input);
        if row == 2 {
            output[1] += 0.01;
        }
        let cells: Vec<String> = input.iter().chain(&output).map(|v| v.to_string()).collect();
        trace += &(cells.join(",") + "\n");
    }
    let file = folder.file("trace.csv", trace.as_bytes());
    complains(&tendon(&[&"parity", &image, &"--onnx", &onnx, &"--trace", &file]), &["row 2", "act1"]);
    let file = folder.file("names.csv", trace.replace("obs3", "obs33").as_bytes());
    complains(
        &tendon(&[&"parity", &image, &"--onnx", &onnx, &"--trace", &file]),
        &["names.csv", "obs33", "obs3"],
    );
    let other = folder.file(
        "other.onnx",
        &tendon_compiler::sample::mlp(&[6, 8, 2], tendon_compiler::sample::Hidden::Relu, 1),
    );
    complains(&tendon(&[&"parity", &image, &"--onnx", &other]), &["other.onnx", "another file"]);
}

fn run(runner: &mut tendon_compiler::parity::OnnxRunner, input: &[f32]) -> Vec<f32> {
    runner.run(input).unwrap()
}

#[test]
fn sim_names_unknown_tasks_and_broken_robots() {
    let folder = Folder::new("sim");
    complains(&tendon(&[&"sim", &"--task", &"cartpole"]), &["cartpole", "cart-pole", "hopper"]);
    let robot = folder.file("robot.xml", b"<mujoco><worldbody><body name=\"a\"><geom type=\"sphere\"");
    complains(&tendon(&[&"sim", &"--robot", &robot]), &["robot.xml"]);
    complains(&tendon(&[&"sim", &"--robot", &Path::new("/no/robot.xml")]), &["/no/robot.xml"]);
}

#[test]
fn a_port_that_is_not_there_is_an_error_with_advice() {
    let folder = Folder::new("port");
    let (image, _, _) = cart_pole(1);
    let image = folder.file("policy.tnd", &image);
    complains(
        &tendon(&[&"hil", &image, &"--task", &"cart-pole", &"--port", &"/dev/ttyNONE"]),
        &["/dev/ttyNONE", "ls /dev/tty"],
    );
}

#[test]
fn trains_continues_and_exports() {
    let folder = Folder::new("train");
    let run = folder.0.join("run");
    let config = folder.file(
        "config.toml",
        b"total_steps = 2048\nenvironments = 4\nrollout_steps = 128\ncheckpoint_interval = 1\nhidden = [8]\n",
    );
    let train = || tendon(&[&"train", &"--task", &"cart-pole-balance", &"--config", &config, &"--run", &run]);
    let output = train();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let first = std::fs::read(run.join("policy.onnx")).unwrap();
    assert!(train().status.success(), "a finished run is continued without error");
    let exported = folder.0.join("exported.onnx");
    let output = tendon(&[&"export", &run, &"-o", &exported]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read(&exported).unwrap(), first);
    let image = folder.0.join("policy.tnd");
    assert!(tendon(&[&"compile", &exported, &"-o", &image]).status.success());
    let hil = tendon(&[
        &"hil",
        &image,
        &"--task",
        &"cart-pole-balance",
        &"--controller",
        &"stand-in",
        &"--seconds",
        &"0.2",
    ]);
    assert!(hil.status.success(), "{}", String::from_utf8_lossy(&hil.stderr));
    let typo = folder.file("typo.toml", b"total_step = 2048\n");
    complains(
        &tendon(&[&"train", &"--task", &"hopper", &"--config", &typo, &"--run", &folder.0.join("b")]),
        &["typo.toml", "total_step", "total_steps"],
    );
    complains(&tendon(&[&"train", &"--task", &"hopper", &"--run", &run]), &["holds task cart-pole-balance"]);
}

#[test]
fn trainings_that_differ_in_their_seeds_alone_make_one_table_one_card_and_one_curve_and_others_are_refused() {
    let folder = Folder::new("seeds");
    let run = |name: &str, settings: &str, seed: &str| {
        let text = format!("environments = 4\nrollout_steps = 64\ntotal_steps = 512\n{settings}");
        let config = folder.file("settings.toml", text.as_bytes());
        let run = folder.0.join(name);
        let output = tendon(&[
            &"train",
            &"--task",
            &"cart-pole",
            &"--config",
            &config,
            &"--run",
            &run,
            &"--seed",
            &seed,
        ]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        run
    };
    let (one, two) = (run("one", "clip = 0.2", "1"), run("two", "clip = 0.2\nthreads = 1", "2"));
    let (again, other) = (run("again", "clip = 0.2", "1"), run("other", "clip = 0.3", "3"));
    let longer = run("longer", "clip = 0.2", "4");
    let curves = longer.join("curves.json");
    std::fs::write(&curves, "[]").unwrap();
    let says = |arguments: &[&dyn AsRef<std::ffi::OsStr>]| {
        let output = tendon(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let table = says(&[&"eval", &one, &two, &"--episodes", &"2"]);
    for word in ["2 trainings", "seed 1", "seed 2", "95% t-interval over 2 trainings", "cart_position_m"] {
        assert!(table.contains(word), "`{word}` is not in: {table}");
    }
    let card = folder.0.join("bundle/README.md");
    says(&[&"runs", &"card", &one, &two, &"--episodes", &"2", &"-o", &card, &"--note", &"It is **short**."]);
    let card = std::fs::read_to_string(card).unwrap();
    for word in [
        "# bundle",
        "tendon train --task cart-pole --learner ppo --seed 2 --config config.toml\n",
        "tendon runs card runs/cart-pole-ppo-1 runs/cart-pole-ppo-2 --episodes 2 --seed 1000",
        "| seed 1 | seed 2 | mean (95% t-interval over 2 trainings) |",
        "This is the training with seed 1",
        "It is **short**.",
        "## Robustness",
    ] {
        assert!(card.contains(word), "`{word}` is not in: {card}");
    }
    let plot = folder.0.join("compare.png");
    let table = says(&[&"runs", &"compare", &one, &two, &other, &"-o", &plot]);
    assert!(table.contains("other") && plot.is_file());

    let of = |runs: &[&PathBuf], words: &[&str]| {
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"runs", &"card"];
        arguments.extend(runs.iter().map(|run| run as &dyn AsRef<std::ffi::OsStr>));
        complains(&tendon(&arguments), words);
    };
    of(&[&one, &other], &["other: config.toml: clip: 0.3", "one has 0.2"]);
    of(&[&one, &again], &["again: seed: 1 as in", "one"]);
    of(&[&one, &longer], &["longer: curves.json: 0 iterations", "one has 2", "--resume"]);
    of(&[&one, &folder.0.join("none")], &["none/run.toml"]);
    std::fs::write(two.join("run.toml"), "task = \"hopper\"\nseed = 2\npreferences = false\n").unwrap();
    of(&[&one, &two], &["two: run.toml: task: hopper", "one has cart-pole"]);
}

#[test]
fn inspect_says_which_firmware_the_stack_is_of_or_why_it_has_no_bound() {
    let folder = Folder::new("stack");
    let image = folder.file("bare.tnd", &bare(1));
    let elf = folder.file("firmware.elf", b"\x7fELF, and nothing else");
    complains(&tendon(&[&"inspect", &image, &"--firmware", &elf]), &["firmware.elf", "no ELF file"]);
    let Some(built) = tendon::link::firmware_path(tendon::link::ControllerKind::Qemu) else {
        println!("SKIPPED: no firmware; run `cargo xtask test`");
        return;
    };
    let output = tendon(&[&"inspect", &image, &"--firmware", &built]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with("stack")).unwrap();
    assert!(line.contains("bytes at worst") && line.contains("qemu-an386"), "{line}");
}

#[test]
fn a_secret_key_is_made_for_its_owner_alone_and_refused_when_others_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("keys");
    let new = |name: &'static str| tendon(&[&"keys", &"new", &name, &"--dir", &folder.0]);
    let made = new("one");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let key = folder.0.join("one.key");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&key), 0o600);
    let secret = std::fs::read_to_string(&key).unwrap();
    let digits = secret.lines().nth(1).unwrap();
    assert!(!String::from_utf8_lossy(&made.stdout).contains(digits), "printed");
    complains(&new("one"), &["one.key", "never overwritten"]);
    complains(&new("../two"), &["no name for a key"]);
    std::os::unix::fs::symlink(folder.0.join("elsewhere"), folder.0.join("three.key")).unwrap();
    complains(&new("three"), &["three.key"]);
    assert!(!folder.0.join("elsewhere").exists(), "followed a link");

    let shown = tendon(&[&"keys", &"show", &"--dir", &folder.0]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("one.pub") && !shown.contains(digits), "{shown}");

    let image = folder.file("bare.tnd", &bare(1));
    let unsigned = std::fs::read(&image).unwrap();
    for open in [0o644, 0o640, 0o620, 0o604] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(open)).unwrap();
        complains(&tendon(&[&"sign", &image, &"--key", &key]), &["chmod 600", "one.key"]);
        complains(&tendon(&[&"flash", &"--policy", &image, &"--key", &key]), &["chmod 600"]);
    }
    assert_eq!(std::fs::read(&image).unwrap(), unsigned);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let signed = tendon(&[&"sign", &image, &"--key", &key]);
    assert!(signed.status.success(), "{}", String::from_utf8_lossy(&signed.stderr));
    assert_eq!(std::fs::read(&image).unwrap().len(), unsigned.len() + 80);
    // What every tool reads is the same with a signature.
    assert!(tendon(&[&"inspect", &image]).status.success());
    let again = tendon(&[&"sign", &image, &"--key", &key, &"--rollback-counter", &"3"]);
    assert!(again.status.success());
    assert_eq!(std::fs::read(&image).unwrap().len(), unsigned.len() + 80, "replaced, not added");
    complains(&tendon(&[&"sign", &key, &"--key", &key]), &["one.key", "no firmware"]);
    complains(&tendon(&[&"sign", &image, &"--key", &folder.0.join("one.pub")]), &["one.pub"]);
}

#[test]
fn a_policy_is_flashed_confirmed_and_shown_over_a_stand_in_with_a_flash_file() {
    let folder = Folder::new("flash");
    let (one, two) = (folder.file("one.tnd", &bare(1)), folder.file("two.tnd", &bare(2)));
    let port = format!("stand-in:{}", folder.0.join("flash.img").display());
    let says = |output: Output, words: &[&str]| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        for word in words {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
    };
    let flash = |image: &PathBuf, more: &'static str| {
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> =
            vec![&"flash", &"--port", &port, &"--policy", image];
        if !more.is_empty() {
            arguments.push(&more);
        }
        tendon(&arguments)
    };
    let crc = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        format!("{:08x}", u32::from_le_bytes(bytes[4..8].try_into().unwrap()))
    };
    says(flash(&one, "--confirm"), &["development mode", "ran before: none", &crc(&one), "confirmed"]);
    says(flash(&two, ""), &[&crc(&two), &format!("ran before: policy {}", crc(&one)), "on trial"]);
    // The stand-in ended, so the trial did.
    says(flash(&two, "--confirm"), &[&format!("ran before: policy {}", crc(&one)), "confirmed"]);
    complains(&tendon(&[&"flash", &"--port", &port, &"--revert"]), &["nothing is on trial"]);
    complains(&tendon(&[&"flash", &"--policy", &one]), &["give --port"]);
    complains(
        &tendon(&[&"flash", &"--policy", &one, &"--port", &"/dev/no-such-port"]),
        &["no-such-port", "ls /dev/tty"],
    );
    complains(&tendon(&[&"flash", &"--firmware", &one, &"--port", &port]), &["is a policy", "--policy"]);
    complains(&tendon(&[&"flash", &"--port", &port]), &["--policy FILE"]);
}

#[test]
fn keys_are_provisioned_and_rotated_over_the_port_and_unsigned_policies_are_refused_with_advice() {
    let folder = Folder::new("provision");
    let port = format!("stand-in:{}", folder.0.join("flash.img").display());
    let says = |arguments: &[&dyn AsRef<std::ffi::OsStr>], words: &[&str]| {
        let output = tendon(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        for word in words {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
    };
    for name in ["a", "b", "c"] {
        says(&[&"keys", &"new", &name, &"--dir", &folder.0], &["secret"]);
    }
    let file = |name: &str| folder.0.join(name);
    let image = folder.file("bare.tnd", &bare(1));
    says(
        &[&"keys", &"show", &"--dir", &folder.0, &"--port", &port],
        &["a.pub", "no keys", "development mode"],
    );
    says(
        &[&"flash", &"--port", &port, &"--policy", &image, &"--key", &file("a.key"), &"--confirm"],
        &["confirmed"],
    );
    let wrong = [&file("b.pub"), &file("c.pub")];
    complains(
        &tendon(&[&"keys", &"provision", &"--port", &port, &"--key", wrong[0], &"--key", wrong[1]]),
        &["not signed with one of the new keys"],
    );
    says(
        &[&"keys", &"provision", &"--port", &port, &"--key", &file("a.pub"), &"--key", &file("b.pub")],
        &["generation 1", "robot any"],
    );
    complains(&tendon(&[&"flash", &"--port", &port, &"--policy", &image]), &["not signed", "--key FILE"]);
    complains(
        &tendon(&[&"flash", &"--port", &port, &"--policy", &image, &"--key", &file("c.key")]),
        &["does not know"],
    );
    let rotate = |by: &str| {
        let (by, new) = (file(by), [file("a.pub"), file("c.pub")]);
        tendon(&[&"keys", &"rotate", &"--port", &port, &"--key", &by, &"--new", &new[0], &"--new", &new[1]])
    };
    complains(&rotate("c.key"), &["none of the controller's"]);
    assert!(rotate("b.key").status.success());
    says(&[&"keys", &"show", &"--dir", &folder.0, &"--port", &port], &["generation 2"]);
    says(
        &[&"flash", &"--port", &port, &"--policy", &image, &"--key", &file("c.key"), &"--confirm"],
        &["confirmed"],
    );
}

#[test]
fn a_reader_that_leaves_early_is_no_bug_to_report() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/trained/hopper/policy.tnd");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tendon"));
    let output = command.arg("inspect").arg(image).stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
