//! Height fields and meshes of robot files: what is touched is what is seen, and what is missing is said.

use std::fs;
use std::path::PathBuf;

use tendon_sim::tasks::TaskDefinition;
use tendon_sim::{Camera, Engine, Environment, Robot, RobotOptions, World, render};

fn with_engine(engine: Engine) -> RobotOptions {
    RobotOptions { engine, ..RobotOptions::default() }
}

/// Depth of the middle of a picture from 5 m straight above a point.
fn height_seen(world: &World, x: f32, y: f32) -> f32 {
    let (position, target) = ([x, y, 5.0], [x, y, 0.0]);
    let camera = Camera { position, target, up: Camera::UP, field_of_view: 0.1, width: 9, height: 9 };
    5.0 - render(&world.scene(), &camera).depth[4 * 9 + 4]
}

/// Four plateaus. MuJoCo 4.0 says which is where: the first row lies at +y, the first column at -x, and numbers count
/// from their least to their largest.
fn plateaus(engine: Engine, [x, y]: [f32; 2]) -> World {
    let upper = format!("{}{}", "1 ".repeat(12), "3 ".repeat(12)).repeat(8);
    let lower = format!("{}{}", "2 ".repeat(12), "5 ".repeat(12)).repeat(8);
    let text = format!(
        r#"<mujoco><asset><hfield name="ground" nrow="16" ncol="24" size="1.2 0.8 0.4 0.1" elevation="{upper}{lower}"/></asset>
        <worldbody><geom type="hfield" hfield="ground" pos="0.3 -0.2 0.1"/>
        <body pos="{x} {y} 0.8"><freejoint/><geom type="sphere" size="0.05" density="1000"/></body></worldbody></mujoco>"#
    );
    let robot = Robot::from_mjcf("field.xml", &text, with_engine(engine)).unwrap_or_else(|e| panic!("{e}"));
    World::new(robot)
}

#[test]
fn a_ball_comes_to_rest_at_the_height_that_the_field_has_there() {
    for engine in [Engine::Auto, Engine::Rapier] {
        for (x, y, height) in [(-0.5, 0.3, 0.0), (1.0, 0.3, 0.2), (-0.5, -0.7, 0.1), (1.0, -0.7, 0.4)] {
            let mut world = plateaus(engine, [x, y]);
            // Beside the ball.
            let seen = height_seen(&world, x + 0.15, y);
            assert!((seen - 0.1 - height).abs() < 1e-3, "{x} {y}: seen at {seen}");
            world.step(&[], 2000);
            let ([bx, by, bz], _) = world.base_pose();
            assert!((bz - 0.15 - height).abs() < 4e-3, "{engine:?} {x} {y}: rests at {bz}");
            assert!((bx - x).hypot(by - y) < 0.02, "{engine:?} {x} {y}: rolled to {bx} {by}");
        }
    }
}

/// MuJoCo 4.0 lays its own format with the first row at -y, and a picture with the first row at +y.
#[test]
fn a_field_from_a_file_lies_as_mujoco_lays_it() {
    let folder = std::env::temp_dir().join(format!("tendon-sim-{}-fields", std::process::id()));
    fs::create_dir_all(folder.join("assets")).unwrap();
    // Plateaus of 24 x 16 points; the first row of the list lies at +y.
    let shades: Vec<u8> =
        (0..16 * 24).map(|i| [[1, 3], [2, 5]][usize::from(i >= 8 * 24)][usize::from(i % 24 >= 12)]).collect();
    let mut numbers = [16i32, 24].map(i32::to_le_bytes).concat();
    for row in shades.chunks_exact(24).rev() {
        numbers.extend(row.iter().flat_map(|&shade| f32::from(shade).to_le_bytes()));
    }
    fs::write(folder.join("assets/field.hf"), &numbers).unwrap();
    let picture = |color, samples: usize| {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, 24, 16);
        encoder.set_color(color);
        let data: Vec<u8> = shades.iter().flat_map(|&s| [40 * s, 255, 7][..samples].to_vec()).collect();
        encoder.write_header().unwrap().write_image_data(&data).unwrap();
        bytes
    };
    fs::write(folder.join("assets/grey.png"), picture(png::ColorType::Grayscale, 1)).unwrap();
    fs::write(folder.join("assets/red.PNG"), picture(png::ColorType::Rgb, 3)).unwrap();
    let path = folder.join("robot.xml");
    let load = |file: &str| {
        let text = format!(
            r#"<mujoco><compiler meshdir="assets"/><asset>
            <hfield name="ground" file="{file}" size="1.2 0.8 0.4 0.1"/></asset>
            <worldbody><geom type="hfield" hfield="ground"/><body pos="0.6 -0.4 0.8"><freejoint/>
            <geom type="sphere" size="0.05" density="1000"/></body></worldbody></mujoco>"#
        );
        fs::write(&path, text).unwrap();
        Robot::from_file(&path, RobotOptions::default())
    };
    for file in ["field.hf", "grey.png", "red.PNG"] {
        let robot = load(file).unwrap_or_else(|e| panic!("{e}"));
        assert!(robot.unsupported.is_empty(), "{:?}", robot.unsupported);
        let mut world = World::new(robot);
        for (x, y, height) in [(-0.8, 0.5, 0.0), (0.8, 0.5, 0.2), (-0.8, -0.5, 0.1), (0.8, -0.5, 0.4)] {
            let seen = height_seen(&world, x, y);
            assert!((seen - height).abs() < 1e-3, "{file} {x} {y}: seen at {seen}");
        }
        world.step(&[], 1000);
        let height = world.base_pose().0[2];
        assert!((height - 0.45).abs() < 4e-3, "{file}: rests at {height}");
    }
    fs::write(folder.join("assets/short.hf"), &numbers[..numbers.len() - 4]).unwrap();
    fs::write(folder.join("assets/empty.hf"), []).unwrap();
    fs::write(folder.join("assets/huge.hf"), [i32::MAX, i32::MAX].map(i32::to_le_bytes).concat()).unwrap();
    let nan = [numbers[..8].to_vec(), f32::NAN.to_le_bytes().repeat(16 * 24)].concat();
    fs::write(folder.join("assets/nan.hf"), nan).unwrap();
    fs::write(folder.join("assets/text.png"), "this is no picture").unwrap();
    for (file, problem) in [
        ("short.hf", "says 16 x 24 points"),
        ("empty.hf", "no nrow and ncol"),
        ("huge.hf", "says 2147483647 x 2147483647 points"),
        ("nan.hf", "holds NaN"),
        ("text.png", "is no PNG"),
        ("nowhere.hf", "is missing"),
    ] {
        let Err(error) = load(file) else { panic!("{file} was accepted") };
        let message = error.to_string();
        assert!(message.contains("robot.xml:2: <hfield ground> file"), "{message}");
        assert!(message.contains(problem), "{file}: {message}");
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_field_that_does_not_hold_is_refused_on_its_line() {
    let with = |asset: &str, geom: &str| {
        let text = format!(
            "<mujoco><asset>\n{asset}\n</asset><worldbody>\n{geom}\n<body><freejoint/><geom size=\"1\"/></body></worldbody></mujoco>"
        );
        Robot::from_mjcf("field.xml", &text, RobotOptions::default()).err()
    };
    let geom = "<geom type=\"hfield\" hfield=\"h\"/>";
    let asset = |rest: &str| format!("<hfield name=\"h\" {rest}/>");
    for (asset, geom, line, part) in [
        (asset("nrow=\"2\" ncol=\"2\" size=\"1 1 1 1\" elevation=\"1 2 3\""), geom, 2, "3 numbers"),
        (asset("nrow=\"1\" ncol=\"4\" size=\"1 1 1 1\" elevation=\"1 2 3 4\""), geom, 2, "nrow"),
        (asset("nrow=\"2\" ncol=\"2\" size=\"0 1 1 1\" elevation=\"1 2 3 4\""), geom, 2, "size"),
        (asset("nrow=\"99999\" ncol=\"99999\" size=\"1 1 1 1\""), geom, 2, "nrow"),
        (String::new(), geom, 4, "no height field"),
        (asset("nrow=\"2\" ncol=\"2\" size=\"1 1 1 1\""), "<geom type=\"hfield\"/>", 4, "is missing"),
        (
            asset("nrow=\"2\" ncol=\"2\" size=\"1 1 1 1\""),
            "<body><freejoint/><geom type=\"hfield\" hfield=\"h\"/></body>",
            4,
            "cannot move",
        ),
    ] {
        let error = with(&asset, geom).unwrap_or_else(|| panic!("{asset} {geom} was accepted"));
        assert_eq!(error.line, Some(line), "{error}");
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
}

/// A box of half sides 0.1, 0.2 and 0.3 m as triangles.
fn corners() -> ([[f32; 3]; 8], [[usize; 3]; 12]) {
    let corners = std::array::from_fn(|i| {
        let side = |axis: usize, half: f32| if i >> axis & 1 == 0 { -half } else { half };
        [side(0, 0.1), side(1, 0.2), side(2, 0.3)]
    });
    let faces = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]];
    let triangles = faces.map(|[a, b, c, d]| [[a, b, c], [a, c, d]]);
    (corners, triangles.concat().try_into().unwrap())
}

fn stl() -> String {
    let (corners, triangles) = corners();
    let line = |v: usize| {
        let [x, y, z] = corners[v];
        format!("vertex {x} {y} {z}\n")
    };
    let facet = |t: &[usize; 3]| {
        format!("facet normal 0 0 0\nouter loop\n{}endloop\nendfacet\n", t.map(line).concat())
    };
    format!("solid box\n{}endsolid box\n", triangles.iter().map(facet).collect::<String>())
}

fn obj() -> String {
    let (corners, triangles) = corners();
    let vertices: String = corners.iter().map(|[x, y, z]| format!("v {x} {y} {z}\n")).collect();
    let faces: String =
        triangles.iter().map(|[a, b, c]| format!("f {} {} {}\n", a + 1, b + 1, c + 1)).collect();
    format!("{vertices}{faces}")
}

/// A folder with a robot whose body is the mesh `file`, at half its size, and a visual copy beside it.
fn robot_with(name: &str, file: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tendon-sim-{}-{name}", std::process::id()));
    fs::create_dir_all(folder.join("assets")).unwrap();
    fs::write(folder.join("assets/box.stl"), stl()).unwrap();
    fs::write(folder.join("assets/box.obj"), obj()).unwrap();
    let text = format!(
        r#"<mujoco><compiler meshdir="assets"/><asset>
        <mesh name="box" file="{file}" scale="0.5 0.5 0.5"/></asset>
        <worldbody><geom type="plane" size="9 9 1"/>
        <body pos="0 0 0.3"><freejoint/><geom type="mesh" mesh="box" rgba="0.9 0.1 0.1 1"/>
          <geom type="mesh" mesh="box" pos="1 0 0" contype="0" conaffinity="0" mass="0" rgba="0.1 0.1 0.9 1"/>
        </body></worldbody></mujoco>"#
    );
    fs::write(folder.join("robot.xml"), text).unwrap();
    folder.join("robot.xml")
}

#[test]
fn meshes_of_both_formats_are_seen_and_touched() {
    for (name, file) in [("stl", "box.stl"), ("obj", "box.obj")] {
        let path = robot_with(name, file);
        let robot = Robot::from_file(&path, RobotOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        assert!(robot.unsupported.is_empty(), "{:?}", robot.unsupported);
        let mut world = World::new(robot);
        world.step(&[], 1000);
        let ([x, y, z], _) = world.base_pose();
        assert!((z - 0.15).abs() < 3e-3, "{file}: the box of 0.15 m stands at {z}");
        // The solid and its copy, which nothing holds up but their body.
        for offset in [0.0, 1.0] {
            let seen = height_seen(&world, x + offset, y);
            assert!((seen - z - 0.15).abs() < 5e-3, "{file}: its top is seen at {seen}");
            assert!(height_seen(&world, x + offset + 0.06, y).abs() < 5e-3, "{file}: wider than it is");
        }
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}

#[test]
fn a_mesh_that_cannot_be_read_is_named_with_file_element_and_line() {
    let path = robot_with("missing", "nowhere.stl");
    let assets = path.with_file_name("assets");
    fs::write(assets.join("junk.stl"), "solid x\nfacet nonsense").unwrap();
    fs::write(assets.join("flat.obj"), "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n").unwrap();
    fs::write(path.with_file_name("secret.stl"), stl()).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    for (file, problem) in [
        ("nowhere.stl", "is missing"),
        ("junk.stl", "file"),
        ("flat.obj", "no volume"),
        ("../../../etc/passwd.stl", "is missing"),
    ] {
        fs::write(&path, text.replace("nowhere.stl", file)).unwrap();
        let Err(error) = Robot::from_file(&path, RobotOptions::default()) else {
            panic!("{file} was accepted")
        };
        let message = error.to_string();
        assert!(message.contains("robot.xml:2: <mesh box> file"), "{message}");
        assert!(message.contains(problem) && message.contains(file.rsplit('/').next().unwrap()), "{message}");
    }
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn meshes_lie_beside_the_robot_and_text_has_none() {
    let path = robot_with("outside", "box.stl");
    let inner = path.with_file_name("inner");
    fs::create_dir_all(&inner).unwrap();
    let text = fs::read_to_string(&path).unwrap().replace("meshdir=\"assets\"", "meshdir=\"../assets\"");
    fs::write(inner.join("robot.xml"), &text).unwrap();
    let Err(error) = Robot::from_file(inner.join("robot.xml"), RobotOptions::default()) else {
        panic!("a mesh outside the folder was read");
    };
    assert!(error.problem.contains("lies outside"), "{error}");
    let Err(error) = Robot::from_mjcf("text.xml", &text, RobotOptions::default()) else {
        panic!("text read a mesh");
    };
    assert!(error.problem.contains("without a folder"), "{error}");
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

/// A URDF whose only link is the mesh `file` at half its size, seen there and a metre beside it.
fn urdf_with(name: &str, file: &str) -> PathBuf {
    let path = robot_with(name, "box.stl").with_file_name("robot.urdf");
    let mesh = format!(r#"<geometry><mesh filename="{file}" scale="0.5 0.5 0.5"/></geometry>"#);
    let text = format!(
        r#"<robot name="box"><material name="blue"><color rgba="0.1 0.1 0.9 1"/></material>
        <link name="box"><inertial><mass value="1"/>
          <inertia ixx="0.01" ixy="0" ixz="0" iyy="0.01" iyz="0" izz="0.01"/></inertial>
          <collision>{mesh}</collision><visual>{mesh}<material name="blue"/></visual>
          <visual><origin xyz="1 0 0" rpy="1.5707963 0 0"/>{mesh}<material name="red"><color rgba="0.9 0.1 0.1 1"/></material></visual>
        </link></robot>"#
    );
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn meshes_of_urdf_files_are_seen_and_touched() {
    let options = RobotOptions { floor_friction: Some(0.8), ..RobotOptions::default() };
    for (name, file) in [
        ("urdf-stl", "assets/box.stl"),
        ("urdf-obj", "assets/box.obj"),
        ("urdf-ros", "package://box/assets/box.stl"),
    ] {
        let path = urdf_with(name, file);
        let robot = Robot::from_file(&path, options).unwrap_or_else(|e| panic!("{e}"));
        assert!(robot.unsupported.is_empty(), "{:?}", robot.unsupported);
        let mut world = World::new(robot);
        world.set_base_pose([0.0, 0.0, 0.3], [1.0, 0.0, 0.0, 0.0]);
        world.step(&[], 1000);
        let ([x, y, z], _) = world.base_pose();
        assert!((z - 0.15).abs() < 3e-3, "{file}: the box of 0.15 m stands at {z}");
        let top = height_seen(&world, x, y);
        assert!((top - z - 0.15).abs() < 5e-3, "{file}: its top is seen at {top}");
        // Lying on its side: as high as it was wide.
        let side = height_seen(&world, x + 1.0, y);
        assert!((side - z - 0.1).abs() < 5e-3, "{file}: its side is seen at {side}");
        let colors: Vec<_> = world.scene().shapes.iter().map(|placed| placed.color).collect();
        assert!(colors.contains(&[0.1, 0.1, 0.9]) && colors.contains(&[0.9, 0.1, 0.1]), "{colors:?}");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
    // As ROS packages are laid out: robot files in one folder, meshes in another beside it.
    let path = urdf_with("urdf-package", "package://box/assets/box.stl");
    let folder = path.parent().unwrap();
    fs::create_dir(folder.join("urdf")).unwrap();
    for (written, inner) in [("package://box/assets", "urdf/robot.urdf"), ("../assets", "urdf/relative.urdf")]
    {
        let text = fs::read_to_string(&path).unwrap().replace("package://box/assets", written);
        fs::write(folder.join(inner), text).unwrap();
        let Err(error) = Robot::from_file(folder.join(inner), options) else { panic!("outside its folder") };
        assert!(error.to_string().contains("<collision> mesh"), "{error}");
    }
    fs::write(folder.join("package.xml"), "<package/>").unwrap();
    for inner in ["urdf/robot.urdf", "urdf/relative.urdf"] {
        let robot = Robot::from_file(folder.join(inner), options).unwrap_or_else(|e| panic!("{e}"));
        assert!(robot.unsupported.is_empty(), "{:?}", robot.unsupported);
    }
    fs::remove_dir_all(folder).unwrap();
    for (name, file, problem) in [
        ("urdf-missing", "assets/nowhere.stl", "is missing"),
        ("urdf-outside", "../../../etc/passwd.stl", "is missing"),
        ("urdf-inner", "/etc/passwd.obj", "is missing"),
    ] {
        let path = urdf_with(name, file);
        let Err(error) = Robot::from_file(&path, options) else { panic!("{file} was accepted") };
        let message = error.to_string();
        assert!(message.contains("robot.urdf:2: <link box> <collision> mesh"), "{message}");
        assert!(message.contains(problem), "{message}");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
    let path = urdf_with("urdf-dae", "assets/box.dae");
    let robot = Robot::from_file(&path, options).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(robot.unsupported.len(), 3, "{:?}", robot.unsupported);
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

/// A user's robot without a `[view]` fills the picture and does not leave it, whatever its size.
#[test]
fn the_default_camera_frames_the_robot_whatever_its_size() {
    for scale in [0.02, 0.3, 8.0] {
        let [body, thigh, radius, height] = [0.5, 0.4, 0.05, 1.0].map(|length| length * scale);
        let text = format!(
            r#"<mujoco model="biped"><worldbody><geom type="plane" size="9 9 1"/>
            <body pos="0 0 {height}"><freejoint/><geom type="box" size="{body} {radius} {radius}" density="300"/>
              <body pos="{body} 0 0"><joint name="hip" axis="0 1 0"/>
              <geom type="capsule" fromto="0 0 0 0 0 -{thigh}" size="{radius}" density="300"/></body></body></worldbody>
            <actuator><position joint="hip" kp="1"/></actuator></mujoco>"#
        );
        let robot =
            Robot::from_mjcf("biped.xml", &text, RobotOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        let task = TaskDefinition::of_robot(robot).unwrap_or_else(|e| panic!("{e}"));
        let mut environment = task.make().unwrap();
        environment.reset(1, &mut vec![0.0; environment.observation_len()]);
        let camera = environment.camera([120, 90]);
        let image = render(&environment.scene(), &camera);
        // Everything but the sky and the floor, which is the first shape.
        let robot: Vec<usize> = (0..120 * 90).filter(|&at| image.segmentation[at] > 1).collect();
        let rows = || robot.iter().map(|at| at / 120);
        let columns = || robot.iter().map(|at| at % 120);
        assert!(rows().min() > Some(0) && rows().max() < Some(89), "scale {scale}: cut off");
        assert!(columns().min() > Some(0) && columns().max() < Some(119), "scale {scale}: cut off");
        let wide = columns().max().unwrap() - columns().min().unwrap();
        assert!(wide > 40, "scale {scale}: only {wide} of 120 pixels wide");
    }
}
