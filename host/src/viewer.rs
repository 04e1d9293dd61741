//! Rerun recordings of closed-loop runs, for the feature `viewer`: what a run looked like and what the policy
//! did, on the timelines `tick` and `sim_time`.
//!
//! Entities: `world/shape_<n>` (a transform per tick over a shape drawn once), `joint_position`, `action`,
//! `reward`.

use crate::hil::TaskRun;
use rerun::{
    AsComponents, Boxes3D, Capsules3D, Cylinders3D, Ellipsoids3D, FillMode, Mesh3D, Quaternion,
    RecordingStream, RecordingStreamBuilder, RecordingStreamError, Scalars, SeriesLines, Transform3D,
    ViewCoordinates,
};
use std::error::Error;
use std::path::Path;
use tendon_sim::tasks::TaskEnvironment;
use tendon_sim::{Placed, Shape};

/// Half of the extents of the slab whose upper face stands for an infinite plane, m.
const SLAB: [f32; 3] = [5.0, 5.0, 0.005];

/// Why there is no recording, or half of one.
#[derive(Debug, thiserror::Error)]
#[error("recording {file}: {source}; choose a folder that can be written to and has space")]
pub struct ViewerError {
    file: String,
    source: Box<dyn Error + Send + Sync>,
}

/// Writes a `.rrd` file while a task runs.
pub struct Viewer {
    file: String,
    stream: RecordingStream,
    period_s: f64,
    shapes: usize,
    failed: Option<RecordingStreamError>,
}

impl Viewer {
    /// Starts a recording of a run of `environment`; an older one at this place is replaced.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path, environment: &TaskEnvironment) -> Result<Self, ViewerError> {
        let file = path.display().to_string();
        let contract = environment.contract();
        // `enabled`: RERUN=off in the surroundings must not turn a flag into silence.
        let started = RecordingStreamBuilder::new("tendon").enabled(true).save(path).and_then(|stream| {
            let joints = contract.joints.iter().map(|joint| joint.name.as_str());
            let actions = contract.actions.iter().map(|action| action.joint.as_str());
            stream.log_static("world", &ViewCoordinates::RIGHT_HAND_Z_UP())?;
            stream.log_static("joint_position", &SeriesLines::new().with_names(joints))?;
            stream.log_static("action", &SeriesLines::new().with_names(actions))?;
            Ok(stream)
        });
        let period_s = contract.control_period_s;
        match started {
            Ok(stream) => Ok(Self { file, stream, period_s, shapes: 0, failed: None }),
            Err(error) => Err(ViewerError { file, source: error.into() }),
        }
    }

    /// Appends the poses of all shapes after the step of `tick`. A failure is kept for [`Viewer::finish`].
    pub fn scene(&mut self, tick: u64, environment: &TaskEnvironment) {
        if self.failed.is_none() {
            self.failed = self.log_scene(tick + 1, environment).err();
        }
    }

    fn log_scene(&mut self, tick: u64, environment: &TaskEnvironment) -> Result<(), RecordingStreamError> {
        self.set_tick(tick);
        for (index, placed) in environment.scene().shapes.iter().enumerate() {
            let entity = format!("world/shape_{index}");
            if index >= self.shapes {
                log_shape(&self.stream, &entity, placed)?;
                self.shapes = index + 1;
            }
            let pose = Transform3D::from_translation(placed.position)
                .with_quaternion(Quaternion::from_wxyz(placed.rotation));
            self.stream.log(entity, &pose)?;
        }
        Ok(())
    }

    /// Appends joint positions (rad or m), raw actions and rewards of the run, and writes everything out.
    /// State and action of a tick stand at its start, its reward and the scene it led to at its end.
    ///
    /// # Errors
    /// The first failure since [`Viewer::create`].
    pub fn finish(mut self, run: &TaskRun) -> Result<(), ViewerError> {
        let logged = self.failed.take().map_or_else(|| self.log_run(run), Err);
        let flushed = self.stream.flush_blocking();
        let written = logged.map_err(Into::into).and_then(|()| flushed.map_err(Into::into));
        written.map_err(|source| ViewerError { file: self.file, source })
    }

    fn log_run(&self, run: &TaskRun) -> Result<(), RecordingStreamError> {
        let scalars = |values: &[f32]| Scalars::new(values.iter().map(|&value| f64::from(value)));
        for (tick, (joint_position, action)) in (0..).zip(run.joint_positions.iter().zip(&run.actions)) {
            self.set_tick(tick);
            self.stream.log("joint_position", &scalars(joint_position))?;
            self.stream.log("action", &scalars(action))?;
        }
        for (tick, &reward) in (1..).zip(&run.rewards) {
            self.set_tick(tick);
            self.stream.log("reward", &scalars(&[reward]))?;
        }
        Ok(())
    }

    fn set_tick(&self, tick: u64) {
        self.stream.set_time_sequence("tick", tick.cast_signed());
        self.stream.set_duration_secs("sim_time", tick as f64 * self.period_s);
    }
}

/// Draws the primitive in its own frame, once for all ticks.
fn log_shape(stream: &RecordingStream, entity: &str, placed: &Placed) -> Result<(), RecordingStreamError> {
    let color = [placed.color.map(|channel| (channel.clamp(0.0, 1.0) * 255.0 + 0.5) as u8)];
    let solid = FillMode::Solid;
    let shape: Box<dyn AsComponents> = match &placed.shape {
        Shape::Plane => Box::new(
            Boxes3D::from_centers_and_half_sizes([[0.0, 0.0, -SLAB[2]]], [SLAB])
                .with_colors(color)
                .with_fill_mode(solid),
        ),
        Shape::Sphere { radius } => {
            Box::new(Ellipsoids3D::from_radii([*radius]).with_colors(color).with_fill_mode(solid))
        }
        Shape::Box { half_extents } => {
            Box::new(Boxes3D::from_half_sizes([*half_extents]).with_colors(color).with_fill_mode(solid))
        }
        Shape::Ellipsoid { radii } => {
            Box::new(Ellipsoids3D::from_half_sizes([*radii]).with_colors(color).with_fill_mode(solid))
        }
        Shape::Mesh(mesh) => Box::new(
            Mesh3D::new(mesh.vertices())
                .with_triangle_indices(mesh.indices().iter().copied())
                .with_vertex_colors(vec![color[0]; mesh.vertices().count()]),
        ),
        // Rerun's capsules begin at the origin, ours have it in the middle.
        Shape::Capsule { radius, half_length } => Box::new(
            Capsules3D::from_lengths_and_radii([2.0 * half_length], [*radius])
                .with_translations([[0.0, 0.0, -half_length]])
                .with_colors(color)
                .with_fill_mode(solid),
        ),
        Shape::Cylinder { radius, half_length } => Box::new(
            Cylinders3D::from_lengths_and_radii([2.0 * half_length], [*radius])
                .with_colors(color)
                .with_fill_mode(solid),
        ),
    };
    stream.log_static(entity, &*shape)
}
