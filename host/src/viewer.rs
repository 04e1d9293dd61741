//! Rerun recordings of runs of a task, for the feature `viewer`: what a run looked like, what the policy saw and what
//! it did, on the timelines `tick` (control periods done) and `sim_time` (s).
//!
//! Entities: `world/shape_<n>` (a transform per tick over a shape drawn once), `world/camera` (the view of the task: a
//! pinhole that moves, with `rgb`, `depth` and `segmentation` below it ten times a second), `world/eye` the same for
//! the camera that the policy observes, `joint_position`, `observation`, `action`, `reward`.

use crate::hil::TaskRun;
use rerun::datatypes::ChannelDatatype;
use rerun::{
    AsComponents, Boxes3D, Capsules3D, Cylinders3D, DepthImage, Ellipsoids3D, FillMode, Image, Mesh3D,
    Pinhole, Quaternion, RecordingStream, RecordingStreamBuilder, RecordingStreamError, Scalars,
    SegmentationImage, SeriesLines, Transform3D, ViewCoordinates,
};
use std::error::Error;
use std::path::Path;
use tendon_sim::tasks::TaskEnvironment;
use tendon_sim::{Camera, Placed, Scene, Shape, render};

/// Half of the extents of the slab whose upper face stands for an infinite plane, m.
const SLAB: [f32; 3] = [5.0, 5.0, 0.005];
/// Width and height of the task's view.
const PICTURE: [usize; 2] = [160, 120];
/// Pictures per second of simulated time.
const PICTURES_PER_S: f64 = 10.0;

/// Why there is no recording, or half of one.
#[derive(Debug, thiserror::Error)]
#[error("recording {file}: {source}; choose a folder that can be written to and has space")]
pub struct ViewerError {
    file: String,
    source: Box<dyn Error + Send + Sync>,
}

/// What the policy saw and did, by step.
#[derive(Clone, Debug, Default)]
pub struct Curves {
    /// Position of each joint, rad (m).
    pub joint_positions: Vec<Vec<f32>>,
    /// Observation that the step acted on, `[n_obs]`.
    pub observations: Vec<Vec<f32>>,
    /// Raw action.
    pub actions: Vec<Vec<f32>>,
    /// Reward.
    pub rewards: Vec<f32>,
}

impl From<&TaskRun> for Curves {
    fn from(run: &TaskRun) -> Self {
        Self {
            joint_positions: run.joint_positions.clone(),
            observations: run.observations.clone(),
            actions: run.actions.clone(),
            rewards: run.rewards.clone(),
        }
    }
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
    /// Starts a recording of a run of `environment`, which was just reset; an older one at this place is replaced.
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
            Ok(stream) => {
                let mut this = Self { file, stream, period_s, shapes: 0, failed: None };
                this.scene(0, environment);
                Ok(this)
            }
            Err(error) => Err(ViewerError { file, source: error.into() }),
        }
    }

    /// Appends where all shapes are after `tick` steps, and ten times a second what the cameras see. A failure is
    /// kept for [`Viewer::finish`].
    pub fn scene(&mut self, tick: u64, environment: &TaskEnvironment) {
        if self.failed.is_none() {
            self.failed = self.log_scene(tick, environment).err();
        }
    }

    fn log_scene(&mut self, tick: u64, environment: &TaskEnvironment) -> Result<(), RecordingStreamError> {
        self.set_tick(tick);
        let scene = environment.scene();
        let every = ((1.0 / PICTURES_PER_S / self.period_s).round() as u64).max(1);
        if tick.is_multiple_of(every) {
            log_picture(&self.stream, "world/camera", &scene, &environment.camera(PICTURE))?;
            if let Some(eye) = environment.observed_camera() {
                log_picture(&self.stream, "world/eye", &scene, &eye)?;
            }
        }
        for (index, placed) in scene.shapes.iter().enumerate() {
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

    /// Appends joint positions, observations, raw actions and rewards of the run, and writes everything out.
    /// State, observation and action of a tick stand at its start, its reward and the scene it led to at its end.
    ///
    /// # Errors
    /// The first failure since [`Viewer::create`].
    pub fn finish(mut self, curves: &Curves) -> Result<(), ViewerError> {
        let logged = self.failed.take().map_or_else(|| self.log_curves(curves), Err);
        let flushed = self.stream.flush_blocking();
        let written = logged.map_err(Into::into).and_then(|()| flushed.map_err(Into::into));
        written.map_err(|source| ViewerError { file: self.file, source })
    }

    fn log_curves(&self, curves: &Curves) -> Result<(), RecordingStreamError> {
        let scalars = |values: &[f32]| Scalars::new(values.iter().map(|&value| f64::from(value)));
        let sequences = [
            ("joint_position", &curves.joint_positions),
            ("observation", &curves.observations),
            ("action", &curves.actions),
        ];
        for (entity, values) in sequences {
            for (tick, values) in (0..).zip(values) {
                self.set_tick(tick);
                self.stream.log(entity, &scalars(values))?;
            }
        }
        for (tick, &reward) in (1..).zip(&curves.rewards) {
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

/// Renders what a camera sees: its pose and pinhole, colour, depth in m, and which shape a pixel shows.
fn log_picture(
    stream: &RecordingStream,
    entity: &str,
    scene: &Scene,
    camera: &Camera,
) -> Result<(), RecordingStreamError> {
    let size = [camera.width as u32, camera.height as u32];
    let aspect = camera.width as f32 / camera.height as f32;
    let pinhole = Pinhole::from_fov_and_aspect_ratio(camera.field_of_view, aspect)
        .with_resolution([camera.width as f32, camera.height as f32])
        .with_camera_xyz(rerun::components::ViewCoordinates::RDF);
    stream.log(entity, &Transform3D::from_translation_mat3x3(camera.position, camera.axes()))?;
    stream.log(entity, &pinhole)?;
    let image = render(scene, camera);
    let depth: Vec<u8> = image.depth.iter().flat_map(|depth| depth.to_le_bytes()).collect();
    let shapes: Vec<u8> = image.segmentation.iter().flat_map(|shape| shape.to_le_bytes()).collect();
    stream.log(format!("{entity}/rgb"), &Image::from_rgb24(image.rgb, size))?;
    let depth = DepthImage::from_data_type_and_bytes(depth, size, ChannelDatatype::F32).with_meter(1.0);
    stream.log(format!("{entity}/depth"), &depth)?;
    let format = rerun::datatypes::ImageFormat::segmentation(size, ChannelDatatype::U16);
    stream.log(format!("{entity}/segmentation"), &SegmentationImage::new(shapes, format))
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
