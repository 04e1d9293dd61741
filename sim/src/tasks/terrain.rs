//! Terrain of a task: one tile per episode, drawn by kind and difficulty, in legged_gym's terms (Rudin et al. 2022).
//!
//! legged_gym lays all tiles out on one map; here every robot has a world of its own, so that each episode has its
//! tile alone, made anew from the episode's seed.

use serde::Deserialize;

use super::TaskError;
use super::plan::Resolver;
use super::randomise::Draw;
use crate::seed::Rng;
use crate::terrain::{MAX_POINTS, Terrain};

/// Purpose of the random stream that draws terrain.
const TERRAIN_STREAM: u64 = 15;
/// Rectangles of a `discrete` tile (legged_gym's 20 on 8 m by 8 m) and their sides, m.
const OBSTACLES_PER_M2: f32 = 20.0 / 64.0;
const OBSTACLE_SIDE: [f32; 2] = [0.5, 2.0];
/// Distance of the points between which noise is interpolated, m (legged_gym's `downsampled_scale`).
const NOISE_SPACING: f32 = 0.2;

/// Ground of one episode: a square tile with a flat platform in its middle, where the robot starts, and a flat border.
/// What is `[at level 0, at level 1]` grows with the level in between.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TerrainSpec {
    /// Side of the tile, m. A base that leaves it is out of bounds: the episode is cut.
    pub terrain_length: f32,
    /// Flat ground around the tile, m.
    pub border_size: f32,
    /// Side of the platform, m.
    pub platform_size: f32,
    /// Distance of the points of the height field, m. Risers of stairs and obstacles lean by it.
    pub horizontal_scale: f32,
    /// Friction coefficient; the smaller of ground and robot counts.
    pub static_friction: f32,
    /// How often each kind is drawn.
    pub terrain_proportions: TerrainProportions,
    /// Rise over run of `slope` and `rough_slope`, either way.
    pub slope: [f32; 2],
    /// Largest height of the noise of `rough` and `rough_slope`, m.
    pub roughness: [f32; 2],
    /// Height of a stair, m.
    pub step_height: [f32; 2],
    /// Depth of a stair, m.
    pub step_width: f32,
    /// Height of the obstacles of `discrete`, m.
    pub obstacle_height: [f32; 2],
    /// The robot starts within this distance of the middle, along x and y, m.
    pub start: f32,
}

impl Default for TerrainSpec {
    fn default() -> Self {
        Self {
            terrain_length: 8.0,
            border_size: 1.0,
            platform_size: 2.0,
            horizontal_scale: 0.1,
            static_friction: 1.0,
            terrain_proportions: TerrainProportions::default(),
            slope: [0.0, 0.4],
            roughness: [0.01, 0.05],
            step_height: [0.05, 0.23],
            step_width: 0.31,
            obstacle_height: [0.05, 0.25],
            start: 0.5,
        }
    }
}

/// How often each kind of terrain is drawn, relative to the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TerrainProportions {
    /// Level ground.
    pub flat: f32,
    /// A pyramid or a pit with even sides.
    pub slope: f32,
    /// The same under noise.
    pub rough_slope: f32,
    /// Noise alone.
    pub rough: f32,
    /// A pit with stairs: up from the middle.
    pub stairs_up: f32,
    /// A pyramid with stairs: down from the middle.
    pub stairs_down: f32,
    /// Rectangular blocks on level ground.
    pub discrete: f32,
}

impl TerrainProportions {
    fn kinds(&self) -> [(&'static str, f32); 7] {
        [
            ("flat", self.flat),
            ("slope", self.slope),
            ("rough_slope", self.rough_slope),
            ("rough", self.rough),
            ("stairs_up", self.stairs_up),
            ("stairs_down", self.stairs_down),
            ("discrete", self.discrete),
        ]
    }
}

/// Refuses what is no terrain.
pub(super) fn check(resolver: &Resolver<'_>, spec: &TerrainSpec) -> Result<(), TaskError> {
    let lengths = [
        ("terrain_length", spec.terrain_length, 0.5, 200.0),
        ("border_size", spec.border_size, 0.0, 200.0),
        ("platform_size", spec.platform_size, 0.0, spec.terrain_length),
        ("horizontal_scale", spec.horizontal_scale, 0.005, 1.0),
        ("static_friction", spec.static_friction, 0.0, 10.0),
        ("step_width", spec.step_width, spec.horizontal_scale, 10.0),
        ("start", spec.start, 0.0, 0.5 * spec.terrain_length),
    ];
    let field = |name: &str| format!("terrain.{name}");
    for (name, value, least, most) in lengths {
        if !(least..=most).contains(&value) {
            return Err(resolver.fault(&field(name), format!("is {value}: give {least} to {most}")));
        }
    }
    for (name, range) in [
        ("slope", spec.slope),
        ("roughness", spec.roughness),
        ("step_height", spec.step_height),
        ("obstacle_height", spec.obstacle_height),
    ] {
        if !range.iter().all(|v| (0.0..=2.0).contains(v)) {
            let [easy, hard] = range;
            return Err(
                resolver.fault(&field(name), format!("is [{easy}, {hard}]: give two values of 0 to 2"))
            );
        }
    }
    let kinds = spec.terrain_proportions.kinds();
    if !kinds.iter().all(|(_, share)| (0.0..=1e6).contains(share))
        || kinds.iter().all(|(_, share)| *share == 0.0)
    {
        let names: Vec<&str> = kinds.iter().map(|(name, _)| *name).collect();
        let problem =
            format!("has no share above 0, or one above 1e6: give one to some of {}", names.join(", "));
        return Err(resolver.fault(&field("terrain_proportions"), problem));
    }
    let points = spec.points();
    if points * points > MAX_POINTS {
        return Err(resolver.fault(
            &field("horizontal_scale"),
            format!(
                "makes {points} x {points} points, at most {MAX_POINTS}: raise it or shorten terrain_length"
            ),
        ));
    }
    if !resolver.robot.has_free_base() {
        return Err(resolver.fault("terrain", "needs a robot with a free base: remove [terrain]"));
    }
    Ok(())
}

impl TerrainSpec {
    /// Names of the kinds that are drawn.
    pub(super) fn names(&self) -> Vec<&'static str> {
        self.terrain_proportions
            .kinds()
            .iter()
            .filter(|(_, share)| *share > 0.0)
            .map(|(name, _)| *name)
            .collect()
    }

    /// Points of the field along each side.
    fn points(&self) -> usize {
        (self.side() / self.horizontal_scale).round() as usize + 1
    }

    fn side(&self) -> f32 {
        self.terrain_length + 2.0 * self.border_size
    }

    /// Draws the ground of an episode, and appends to `draws` its kind with the height or slope that it has.
    pub(super) fn draw(&self, seed: u64, level: f32, draws: &mut Vec<Draw>) -> Option<Terrain> {
        let mut rng = Rng::new(seed, TERRAIN_STREAM);
        let kinds = self.terrain_proportions.kinds();
        let mut place = rng.uniform(0.0, kinds.iter().map(|(_, share)| share).sum());
        let kind = kinds.iter().filter(|(_, share)| *share > 0.0).find(|(_, share)| {
            place -= share;
            place < 0.0
        });
        let kind = kind.or(kinds.iter().rfind(|(_, share)| *share > 0.0)).map_or("flat", |(name, _)| *name);
        let at_level = |[easy, hard]: [f32; 2]| easy + (hard - easy) * level;
        let way = if rng.uniform(-1.0, 1.0) < 0.0 { -1.0 } else { 1.0 };
        let mut grid = Grid::new(self);
        let value = match kind {
            "slope" | "rough_slope" => {
                let slope = way * at_level(self.slope);
                grid.fill(|ring| slope * ring);
                slope
            }
            "stairs_up" | "stairs_down" => {
                let height = at_level(self.step_height) * if kind == "stairs_up" { 1.0 } else { -1.0 };
                grid.fill(|ring| height * (ring / self.step_width).ceil());
                height
            }
            "discrete" => {
                let height = at_level(self.obstacle_height);
                grid.blocks(&mut rng, height);
                height
            }
            "rough" => at_level(self.roughness),
            _ => 0.0,
        };
        if matches!(kind, "rough" | "rough_slope") {
            grid.noise(&mut rng, at_level(self.roughness));
        }
        draws.push(Draw { name: kind, index: 0, value });
        let side = grid.scale * (grid.points - 1) as f32;
        Terrain::new(&grid.heights, grid.points, [side, side])
    }
}

/// Heights of a tile with its border, row by row.
struct Grid<'a> {
    spec: &'a TerrainSpec,
    points: usize,
    scale: f32,
    heights: Vec<f32>,
}

impl<'a> Grid<'a> {
    fn new(spec: &'a TerrainSpec) -> Self {
        let points = spec.points();
        Self { spec, points, scale: spec.horizontal_scale, heights: vec![0.0; points * points] }
    }

    /// Place of the point `index` along x or y, m.
    fn at(&self, index: usize) -> f32 {
        (index as f32 - 0.5 * (self.points - 1) as f32) * self.scale
    }

    /// Heights by the distance from the platform, the larger of those along x and y; the border has that of the rim.
    fn fill(&mut self, height: impl Fn(f32) -> f32) {
        let rim = 0.5 * (self.spec.terrain_length - self.spec.platform_size);
        // A thousandth of a cell below: a riser that falls onto a point belongs to the lower side on both sides.
        let slack = 1e-3 * self.scale;
        let line: Vec<f32> =
            (0..self.points).map(|i| self.at(i).abs() - 0.5 * self.spec.platform_size).collect();
        for row in 0..self.points {
            for column in 0..self.points {
                let ring = (line[row].max(line[column]) - slack).clamp(0.0, rim);
                self.heights[row * self.points + column] = height(ring);
            }
        }
    }

    /// Adds even noise on a coarse grid, interpolated in between.
    fn noise(&mut self, rng: &mut Rng, largest: f32) {
        let coarse = (self.spec.side() / NOISE_SPACING).ceil() as usize + 2;
        let values: Vec<f32> = (0..coarse * coarse).map(|_| rng.uniform(-largest, largest)).collect();
        let per_cell = self.scale / NOISE_SPACING;
        for row in 0..self.points {
            for column in 0..self.points {
                let (x, y) = (column as f32 * per_cell, row as f32 * per_cell);
                let (j, i) = (x as usize, y as usize);
                let (u, v) = (x - j as f32, y - i as f32);
                let value = |i: usize, j: usize| values[i.min(coarse - 1) * coarse + j.min(coarse - 1)];
                let along = |i: usize| value(i, j) + u * (value(i, j + 1) - value(i, j));
                self.heights[row * self.points + column] += along(i) + v * (along(i + 1) - along(i));
            }
        }
    }

    /// Puts blocks of half of `largest` or all of it anywhere but on the platform.
    fn blocks(&mut self, rng: &mut Rng, largest: f32) {
        let half = 0.5 * self.spec.terrain_length;
        let count = (OBSTACLES_PER_M2 * self.spec.terrain_length.powi(2)) as usize;
        let platform = 0.5 * self.spec.platform_size;
        for _ in 0..count {
            let mut span = || {
                let (side, middle) =
                    (rng.uniform(OBSTACLE_SIDE[0], OBSTACLE_SIDE[1]), rng.uniform(-half, half));
                [middle - 0.5 * side, middle + 0.5 * side]
            };
            let (x, y) = (span(), span());
            let height = if rng.uniform(0.0, 1.0) < 0.5 { 0.5 * largest } else { largest };
            for row in 0..self.points {
                for column in 0..self.points {
                    let (px, py) = (self.at(column), self.at(row));
                    let is_free = px.abs().max(py.abs()) > platform;
                    if is_free && (x[0]..x[1]).contains(&px) && (y[0]..y[1]).contains(&py) {
                        self.heights[row * self.points + column] = height;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(kind: fn(&mut TerrainProportions) -> &mut f32) -> TerrainSpec {
        let mut spec = TerrainSpec { horizontal_scale: 0.05, ..TerrainSpec::default() };
        *kind(&mut spec.terrain_proportions) = 1.0;
        spec
    }

    fn drawn(spec: &TerrainSpec, seed: u64, level: f32) -> (Terrain, Draw) {
        let mut draws = Vec::new();
        let terrain = spec.draw(seed, level, &mut draws).unwrap();
        (terrain, draws.remove(0))
    }

    #[test]
    fn stairs_lead_up_or_down_by_the_height_of_the_level() {
        for (spec, sign) in [(only(|p| &mut p.stairs_up), 1.0), (only(|p| &mut p.stairs_down), -1.0)] {
            for (level, height) in [(0.0, 0.05), (0.5, 0.14), (1.0, 0.23)] {
                let (ground, draw) = drawn(&spec, 1, level);
                assert!((draw.value - sign * height).abs() < 1e-6, "{draw:?}");
                for (stair, at) in [(0.0, 0.9), (1.0, 1.2), (2.0, 1.5), (3.0, 1.8)] {
                    for (x, y) in [(at, 0.3), (-at, 0.3), (0.2, at), (0.2, -at), (at, -at)] {
                        let found = ground.height(x, y);
                        assert!((found - sign * stair * height).abs() < 1e-5, "({x}, {y}): {found}");
                    }
                }
            }
        }
    }

    #[test]
    fn slopes_have_the_slope_of_the_level_and_go_both_ways() {
        let spec = only(|p| &mut p.slope);
        let mut ways = [0; 2];
        for seed in 0..40 {
            let (ground, draw) = drawn(&spec, seed, 1.0);
            assert!((draw.value.abs() - 0.4).abs() < 1e-6);
            let rise = ground.height(3.0, 0.0) - ground.height(2.0, 0.0);
            assert!((rise - draw.value).abs() < 1e-3, "{rise} m over 1 m, {draw:?}");
            assert_eq!(ground.height(0.5, -0.5), 0.0, "the platform is level");
            ways[usize::from(draw.value > 0.0)] += 1;
        }
        assert!(ways.iter().all(|n| *n > 10), "{ways:?}");
    }

    #[test]
    fn noise_and_blocks_keep_within_their_heights() {
        let (rough, discrete) = (only(|p| &mut p.rough), only(|p| &mut p.discrete));
        for seed in 0..10 {
            let points = (0..400).map(|i| (0.2 * (i % 20) as f32 - 2.0, 0.2 * (i / 20) as f32 - 2.0));
            let of = |spec| {
                let (ground, _) = drawn(spec, seed, 1.0);
                points.clone().map(|(x, y)| ground.height(x, y)).collect::<Vec<_>>()
            };
            let heights = of(&rough);
            assert!(heights.iter().all(|h| h.abs() <= 0.05) && heights.iter().any(|h| h.abs() > 0.02));
            let heights = of(&discrete);
            assert!(heights.iter().all(|h| (0.0..=0.25).contains(h)));
            assert!(heights.contains(&0.0) && heights.iter().any(|h| *h > 0.12), "{heights:?}");
        }
    }

    #[test]
    fn kinds_are_drawn_as_often_as_their_shares_say() {
        let mut spec = only(|p| &mut p.slope);
        spec.horizontal_scale = 1.0;
        spec.terrain_proportions.stairs_down = 3.0;
        let stairs = (0..400).filter(|&seed| drawn(&spec, seed, 0.5).1.name == "stairs_down").count();
        // Of 400 draws with probability 0.75: 300, deviation 8.7.
        assert!((270..330).contains(&stairs), "{stairs}");
    }
}
