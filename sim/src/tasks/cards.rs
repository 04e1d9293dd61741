//! docs/tasks.md: a card per task, and the tables that task files are written from.

use std::fmt::Write;

use super::quantity::{Needs, QUANTITIES};
use super::{TASKS, TaskDefinition, TaskError, TaskInfo, Term};

/// The text of docs/tasks.md.
///
/// # Errors
/// A built-in task does not hold.
pub fn cards() -> Result<String, TaskError> {
    let mut text = String::from(HEAD);
    for task in TASKS {
        card(&mut text, task, &*task.definition()?);
    }
    put(&mut text, format_args!("{RANDOMISED_HEAD}```toml\n{RANDOMISED_CAMERA}```\n\n"));
    text.push_str(QUANTITIES_HEAD);
    for quantity in QUANTITIES {
        let needs = match quantity.needs {
            Needs::Nothing => "",
            Needs::Feet => "`feet`",
            Needs::VelocityCommand => "a command `lin_vel_x`, `lin_vel_y` or `ang_vel_yaw`",
            Needs::Site => "`site`",
            Needs::SiteAndPoint => "`site`, two or three commands",
            Needs::People => "`people`",
            Needs::TwoSites => "`site`, `to`",
            Needs::OneBody => "one of `bodies`",
            Needs::Bodies => "`bodies`",
            Needs::BodyAndPoint => "one of `bodies`, two or three commands",
            Needs::SiteAndBody => "`site`, one of `bodies`",
            Needs::OneJoint => "one of `joints`",
            Needs::SiteAndBodies => "`site`, `bodies`",
            Needs::Partner => "`partner`",
            Needs::Camera => "`camera`",
            Needs::Points => "`measured_points_x`, `measured_points_y`",
        };
        let doc = quantity.doc.replace('|', "\\|");
        put(&mut text, format_args!("| `{}` | {} | {doc} | {needs} |\n", quantity.name, quantity.unit));
    }
    Ok(text)
}

const HEAD: &str = "# Tasks\n\n\
Written by `cargo run --release -p tendon-sim --example cards -- docs`; a test compares. Pictures by the software renderer, after half a second of small random actions.\n\n\
A task is one TOML file: robot, observation and reward terms, commands, termination, randomisation. The built-in ones are in `models/tasks`; copy one, edit it, and run\n\
`tendon sim --task my.toml [--robot my.xml] --agent zero|random|policy`. `sim/src/tasks/spec.rs` documents every key. A misspelt key or name is refused with its line and the nearest name.\n\
Observations go through the runtime's builder, actions through its mapper and envelope, as on the robot.\n\n";

const RANDOMISED_HEAD: &str = "## Randomised cameras\n\n\
Eight episodes of `planar-sweep` with this table, as its camera sees them. Ranges are drawn evenly at the start of an episode and recorded with it; off by default. Light and colours show in every picture of the episode, place and angle in the policy's camera alone.\n\n\
![randomised](tasks/randomised.png)\n\n";

/// A table of a task file, the one behind docs/tasks/randomised.png.
pub const RANDOMISED_CAMERA: &str = "\
[randomisation.camera]
light_direction = [-0.8, 0.8]   # added to the direction towards the sun along x and y, as a slope
light_brightness = [0.7, 1.2]   # factor
ambient_light = [-0.15, 0.15]   # added to the share of light in the shade
object_color = [-0.15, 0.15]    # added to each channel of each shape
ground_color = [-0.1, 0.1]      # the same of planes and terrain
texture_share = 0.3             # of shapes with checkers, stripes or grains
camera_position = [-0.15, 0.15] # m, added along each axis
camera_target = [-0.05, 0.05]   # m
field_of_view = [-0.03, 0.03]   # rad
";

const QUANTITIES_HEAD: &str = "## Quantities\n\n\
What `rewards`, `sensors`, `terminations`, `metrics` and `success` are written from. Over the driven joints where `joints` is left out. `target` and `sigma` are keys.\n\n\
| quantity | unit | value | needs |\n|---|---|---|---|\n";

fn card(text: &mut String, info: &TaskInfo, definition: &TaskDefinition) {
    let (spec, contract) = (definition.spec(), definition.contract());
    put(
        text,
        format_args!("## {}\n\n![{}](tasks/{}.png)\n\n{}\n\n", info.name, info.name, info.name, spec.doc),
    );
    put(text, format_args!("- Success: {}.\n", spec.success.doc));
    put(
        text,
        format_args!(
            "- Files: `{}`, `{}`. Control period {} s, physics step {} s, episodes of {} s.\n",
            info.file,
            info.robot_file,
            spec.control_period_s,
            definition.robot().timestep_s,
            spec.time_limit_s
        ),
    );
    let observations: Vec<String> = contract.observations.iter().map(|o| o.name.clone()).collect();
    let compiled = contract.compile().map_or(0, |c| c.view().header.n_observation);
    put(text, format_args!("- Observation `[{compiled}]`: {}.\n", observations.join(", ")));
    let actions: Vec<String> = contract
        .actions
        .iter()
        .map(|a| format!("{} ({:?}, scale {})", a.joint, a.mode, a.scale).to_lowercase())
        .collect();
    let shown = if actions.len() > 4 {
        format!("{}, ... {}", actions[0], actions[actions.len() - 1])
    } else {
        actions.join(", ")
    };
    put(text, format_args!("- Action `[{}]`: {shown}.\n", actions.len()));
    if !contract.commands.is_empty() {
        let commands: Vec<String> = contract
            .commands
            .iter()
            .map(|c| format!("{} {} to {} {}", c.name, c.range[0], c.range[1], c.unit))
            .collect();
        put(text, format_args!("- Commands: {}.\n", commands.join(", ")));
    }
    let ends: Vec<&str> = spec.terminations.iter().map(|t| t.name.as_deref().unwrap_or(&t.term)).collect();
    let ends = if ends.is_empty() { "nothing".to_owned() } else { ends.join(", ") };
    put(text, format_args!("- Ended by rule: {ends}.\n"));
    let metrics: Vec<&str> = definition.plan.metrics.iter().map(|m| m.of.name.as_str()).collect();
    put(text, format_args!("- Metrics: {}.\n", metrics.join(", ")));
    let random = spec.randomisation.names();
    if !random.is_empty() {
        put(text, format_args!("- Randomised: {}.\n", random.join(", ")));
    }
    if let Some(terrain) = &spec.terrain {
        put(
            text,
            format_args!(
                "- Terrain: {}; tiles of {} m, points {} m apart.\n",
                terrain.names().join(", "),
                terrain.terrain_length,
                terrain.horizontal_scale
            ),
        );
    }
    if let Some(camera) = &spec.camera {
        let [width, height] = camera.size;
        let channel = format!("{:?}", camera.channel).to_lowercase();
        put(text, format_args!("- Camera: {width} x {height} pixels, {channel}.\n"));
    }
    if let Some(curriculum) = &spec.curriculum {
        let names = |terms: &[Term], none: &'static str| match terms {
            [] => none.to_owned(),
            terms => terms.iter().map(|t| t.term.as_str()).collect::<Vec<_>>().join(" and "),
        };
        put(
            text,
            format_args!(
                "- Curriculum: the level moves by {} per episode, up on {}, down on {}.\n",
                curriculum.step,
                names(&curriculum.promote, "success"),
                names(&curriculum.demote, "no success")
            ),
        );
    }
    if !definition.plan.privileged.is_empty() {
        let mut names: Vec<&str> = spec.privileged.iter().map(|t| t.term.as_str()).collect();
        names.dedup();
        let count = definition.plan.privileged.len();
        put(text, format_args!("- Privileged beside the state `[{count}]`: {}.\n", names.join(", ")));
    }
    let per = if spec.rewards_per_second { "per second" } else { "per step" };
    put(text, format_args!("\n| reward term | weight {per} | quantity |\n|---|---|---|\n"));
    for term in &spec.rewards {
        let name = term.name.as_deref().unwrap_or(&term.term);
        let weight = term.weight.unwrap_or_default();
        put(text, format_args!("| {name} | {weight} | `{}` |\n", term.term));
    }
    text.push('\n');
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(arguments);
}
