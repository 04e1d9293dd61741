//! A simulated robot of bus servos that the test holds, and `tendon run` or `tendon doctor` against it.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tendon::robot::{
    BusKind, CalibrationFile, Priority, Simulated, SimulatedRobot, calibration_for, real_time_priority,
    simulated_bus,
};
use tendon_compiler::sample::{Hidden, mlp};
use tendon_compiler::{ContractChoice, Manifest, Options, compile};
use tendon_drivers::sim::Bus;
use tendon_runtime::spec::ContractSpec;
use tendon_runtime::{AlignedBytes, Image};

const CONTRACT: &str = include_str!("../../../models/contracts/servo_arm.toml");

/// A policy of random weights for the six-joint arm.
pub fn arm() -> (AlignedBytes, ContractSpec, u64) {
    // A pseudo-terminal's bytes pass a kernel thread of ordinary priority: on a busy machine they may take 0.1 s.
    // Below `heartbeat_timeout_s`: raw states are the loop's proof of life.
    let text = CONTRACT.replace("state_timeout_s = 0.1", "state_timeout_s = 0.2");
    let contract = ContractChoice::Toml { file: "models/contracts/servo_arm.toml", text: &text };
    let onnx = mlp(&[24, 32, 6], Hidden::Tanh, 5);
    let image = compile(&onnx, &Options { contract, ..Options::default() }).unwrap().image;
    let contract = Manifest::of_image(&image).unwrap().contract.unwrap();
    let hash = Image::parse(&image).unwrap().header().schema_hash;
    (image, contract, hash)
}

/// What a program said and whether it ended well.
#[derive(Debug)]
pub struct Output {
    pub good: bool,
    pub text: String,
}

pub struct Running(Child);

impl Running {
    pub fn signal(&self, name: &str) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    pub fn wait(self) -> Output {
        let out = self.0.wait_with_output().unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        Output { good: out.status.success(), text }
    }
}

/// What the test sees of the robot after every round.
#[derive(Clone, Debug, Default)]
struct Seen {
    torques: Vec<bool>,
    had_torque: bool,
    positions: Vec<f32>,
    speed: f32,
    most_torque: f32,
    stopped: bool,
}

/// One robot at a time, whatever runs the tests: they share few cores.
fn alone() -> File {
    let lock = File::create(std::env::temp_dir().join("tendon-servo-tests.lock")).unwrap();
    lock.lock().unwrap();
    lock
}

type Order = Box<dyn FnOnce(&mut Bus) + Send>;

pub struct Robot {
    port: String,
    folder: PathBuf,
    calibration: CalibrationFile,
    seen: Arc<Mutex<Seen>>,
    orders: Sender<Option<Order>>,
    served: Receiver<()>,
    _one: File,
}

impl Robot {
    pub fn start(kind: BusKind) -> Self {
        Self::start_with(kind, &Simulated::default())
    }

    pub fn start_with(kind: BusKind, how: &Simulated) -> Self {
        let one = alone();
        let (image, contract, _) = arm();
        let mut robot = SimulatedRobot::new(simulated_bus(&contract, kind, how)).unwrap();
        let port = robot.port().to_owned();
        let folder =
            std::env::temp_dir().join(format!("tendon-{}-{}", std::process::id(), port.replace('/', "-")));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("policy.tnd"), &image[..]).unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (orders, inbox) = channel::<Option<Order>>();
        let (done, served) = channel();
        let shared = seen.clone();
        std::thread::spawn(move || {
            // Servos do not wait for the host's processor; a user without the privilege needs a quiet machine.
            let _ = real_time_priority(Priority(Priority::default().0 - 1));
            let served = robot.serve(|bus| {
                while let Ok(order) = inbox.try_recv() {
                    let Some(order) = order else { return false };
                    order(bus);
                }
                look(bus, &mut shared.lock().unwrap());
                true
            });
            drop(robot);
            served.unwrap();
            let _ = done.send(());
        });
        let calibration =
            CalibrationFile { echo: how.echo, silence_us: 3_000, ..calibration_for(&contract, kind) };
        let robot = Self { port, folder, calibration, seen, orders, served, _one: one };
        robot.wait_for("the first round of the robot", |robot| !robot.torques().is_empty());
        robot
    }

    pub fn port(&self) -> &str {
        &self.port
    }

    pub fn calibration(&self) -> &CalibrationFile {
        &self.calibration
    }

    pub fn folder(&self) -> &PathBuf {
        &self.folder
    }

    pub fn image(&self) -> PathBuf {
        self.folder.join("policy.tnd")
    }

    fn command(&self, file: &CalibrationFile, arguments: &[&str]) -> Command {
        let path = self.folder.join("calibration.toml");
        std::fs::write(&path, file.to_toml()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tendon"));
        command.arg("run").arg(self.image()).args(["--port", &self.port]).arg("--calibration").arg(path);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Running {
        self.run_with(&self.calibration, arguments)
    }

    pub fn run_with(&self, file: &CalibrationFile, arguments: &[&str]) -> Running {
        let mut command = self.command(file, arguments);
        Running(command.args(["--realtime", "--allow-no-realtime"]).spawn().unwrap())
    }

    /// As `run`, without the capabilities for real time; `None` after saying why it cannot be tried.
    pub fn unprivileged(&self, arguments: &[&str]) -> Option<Output> {
        let run = self.command(&self.calibration, arguments);
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-sys_nice,-ipc_lock", "--inh-caps=-sys_nice,-ipc_lock", "--"]);
        command.arg(run.get_program()).args(run.get_args()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match command.spawn() {
            Ok(child) => Some(Running(child).wait()),
            Err(error) => {
                println!("SKIPPED: setpriv (util-linux): {error}");
                None
            }
        }
    }

    fn seen(&self) -> Seen {
        // Two rounds, so that what came before the call is seen.
        std::thread::sleep(Duration::from_millis(20));
        self.seen.lock().unwrap().clone()
    }

    pub fn torques(&self) -> Vec<bool> {
        self.seen().torques
    }

    pub fn any_torque(&self) -> bool {
        self.seen().torques.contains(&true)
    }

    pub fn had_torque(&self) -> bool {
        self.seen().had_torque
    }

    pub fn most_torque(&self) -> f32 {
        self.seen().most_torque
    }

    pub fn positions(&self) -> Vec<f32> {
        self.seen().positions
    }

    /// Of the fastest joint, rad/s.
    pub fn speed(&self) -> f32 {
        self.seen().speed
    }

    /// Every servo's watchdog ran out.
    pub fn stopped(&self) -> bool {
        self.seen().stopped
    }

    pub fn change(&self, order: impl FnOnce(&mut Bus) + Send + 'static) {
        self.orders.send(Some(Box::new(order))).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }

    /// The pseudo-terminal closes, as when the adapter is pulled out.
    pub fn hang_up(&self) {
        self.orders.send(None).unwrap();
        self.served.recv_timeout(Duration::from_secs(5)).unwrap();
    }

    pub fn wait_for(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition(self) {
            assert!(Instant::now() < deadline, "{what} never came");
        }
    }
}

impl Drop for Robot {
    fn drop(&mut self) {
        let _ = self.orders.send(None);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn look(bus: &Bus, seen: &mut Seen) {
    let protocol = bus.protocol();
    seen.torques = bus.servos.iter().map(|servo| servo.torque_on(protocol)).collect();
    seen.had_torque |= seen.torques.contains(&true);
    let joints: Vec<[f32; 3]> = (0..bus.servos.len()).map(|joint| bus.robot.joint(joint)).collect();
    seen.positions = joints.iter().map(|joint| joint[0]).collect();
    seen.speed = joints.iter().map(|joint| joint[1].abs()).fold(0.0, f32::max);
    seen.most_torque = joints.iter().map(|joint| joint[2].abs()).fold(seen.most_torque, f32::max);
    seen.stopped = bus.servos.iter().all(tendon_drivers::sim::Servo::is_stopped);
}
