//! Height fields of MJCF files. rapier's reader stands them upright and exchanges their axes; here they are checked and
//! laid down as MuJoCo has them.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use rapier3d_mjcf::mjcf_rs::Model;
use rapier3d_mjcf::mjcf_rs::assets::{Hfield, Mesh};
use rapier3d_mjcf::mjcf_rs::body::GeomType;

use super::check::Checked;
use super::error::{LoadError, Place};
use super::mesh::Source;
use super::mjcf::SMALLEST_M;
use super::softness::Attributes;
use crate::terrain::{MAX_POINTS, Terrain};

/// The fields that geoms name, by name. Those from files become inline ones of the model. `folder` is where the robot
/// file lies, if it is a file.
pub(super) fn read(
    path: &Path,
    folder: Option<&Path>,
    model: &mut Model,
    attributes: &Attributes,
    checked: &Checked,
) -> Result<HashMap<String, Terrain>, LoadError> {
    fetch(path, folder, model, checked)?;
    let model = &*model;
    let mut fields = HashMap::new();
    for (id, entry) in model.bodies.iter().enumerate() {
        let places = attributes.body(id, &entry.body).map(|a| &a.geom_places[..]).unwrap_or_default();
        for (nth, geom) in entry.body.geoms.iter().enumerate() {
            if geom.type_ != GeomType::Hfield {
                continue;
            }
            let fault = |value: &str, problem: &str, next_step| {
                let field = format!("<geom {}> hfield", geom.name.as_deref().unwrap_or("without a name"));
                LoadError::new(path, field, value, problem, next_step).at(places.get(nth))
            };
            let next_step = "name an <hfield> of <asset>";
            let Some(name) = &geom.hfield else { return Err(fault("", "is missing", next_step)) };
            let asset = model.assets.hfield(name);
            let asset = asset.ok_or_else(|| fault(name, "is no height field of <asset>", next_step))?;
            if moves(model, id) {
                return Err(fault(name, "a height field cannot move", "attach it to <worldbody>"));
            }
            if !fields.contains_key(name) {
                let place = checked.place("hfield", name).or(places.get(nth));
                fields.insert(name.clone(), lay(path, name, asset, place)?);
            }
        }
    }
    Ok(fields)
}

/// Reads the files of height fields that geoms name.
fn fetch(path: &Path, folder: Option<&Path>, model: &mut Model, checked: &Checked) -> Result<(), LoadError> {
    let geoms = model.bodies.iter().flat_map(|entry| &entry.body.geoms);
    let used: HashSet<String> = geoms.filter_map(|geom| geom.hfield.clone()).collect();
    for index in 0..model.assets.hfields.len() {
        let asset = &model.assets.hfields[index];
        let (Some(name), Some(written)) = (&asset.name, &asset.file) else { continue };
        if !used.contains(name) {
            continue;
        }
        let field = format!("<hfield {name}> file");
        let source = Source { path, folder, field, place: checked.place("hfield", name).cloned() };
        // It lies where meshes lie.
        let mesh = Mesh { file: Some(written.clone()), ..Mesh::default() };
        let resolve = |folder: &Path| model.resolve_mesh_file(&mesh, folder).unwrap_or_default();
        let file = source.file(written, resolve)?;
        let shown = file.display().to_string();
        let bytes = std::fs::read(&file)
            .map_err(|e| source.fault(&shown, format!("cannot be read: {e}"), "check its permissions"))?;
        let is_png = file.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
        let grid = if is_png { picture(&bytes) } else { numbers(&bytes) };
        let Grid { columns, elevation } = grid.map_err(|problem| {
            let next_step = "give a PNG, or nrow and ncol as 32-bit integers and as many 32-bit floats";
            source.fault(&shown, problem, next_step)
        })?;
        let asset = &mut model.assets.hfields[index];
        (asset.nrow, asset.ncol) = ((elevation.len() / columns) as u32, columns as u32);
        (asset.elevation, asset.file) = (Some(elevation), None);
    }
    Ok(())
}

/// Elevations row by row, the first row at +y.
struct Grid {
    columns: usize,
    elevation: Vec<f64>,
}

/// MuJoCo's own format: its first row lies at -y.
fn numbers(bytes: &[u8]) -> Result<Grid, String> {
    let ([rows, columns], data) = match bytes {
        [a, b, c, d, e, f, g, h, data @ ..] => {
            ([[*a, *b, *c, *d], [*e, *f, *g, *h]].map(|n| i64::from(i32::from_le_bytes(n))), data)
        }
        _ => return Err(format!("has {} bytes: no nrow and ncol", bytes.len())),
    };
    let count = rows.max(0).saturating_mul(columns.max(0));
    if count < 4 || columns < 2 || count as usize > MAX_POINTS || data.len() as i64 != 4 * count {
        return Err(format!("says {rows} x {columns} points and holds {} bytes of them", data.len()));
    }
    let heights: Vec<f64> =
        data.chunks_exact(4).map(|n| f64::from(f32::from_le_bytes(std::array::from_fn(|i| n[i])))).collect();
    if let Some(bad) = heights.iter().find(|height| !height.is_finite()) {
        return Err(format!("holds {bad}"));
    }
    let columns = columns as usize;
    let elevation = heights.chunks_exact(columns).rev().flatten().copied().collect();
    Ok(Grid { columns, elevation })
}

/// Shades of a picture, or its red, of 8 bits as MuJoCo counts them: its first row is its upper one.
fn picture(bytes: &[u8]) -> Result<Grid, String> {
    let mut decoder =
        png::Decoder::new_with_limits(std::io::Cursor::new(bytes), png::Limits { bytes: 64 << 20 });
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|e| format!("is no PNG: {e}"))?;
    let (columns, rows) = (reader.info().width as usize, reader.info().height as usize);
    if columns < 2 || rows < 2 || columns.saturating_mul(rows) > MAX_POINTS {
        return Err(format!("has {columns} x {rows} pixels: 2 x 2 to {MAX_POINTS} are read"));
    }
    let size = reader.output_buffer_size().ok_or("is too large")?;
    let mut pixels = vec![0; size];
    let frame = reader.next_frame(&mut pixels).map_err(|e| format!("is a damaged PNG: {e}"))?;
    let samples = frame.color_type.samples();
    let elevation =
        pixels.chunks_exact(samples).map(|pixel| f64::from(pixel[0])).take(columns * rows).collect();
    Ok(Grid { columns, elevation })
}

/// Whether a joint stands between body `id` and the world.
fn moves(model: &Model, mut id: usize) -> bool {
    while id != 0 {
        if !model.bodies[id].body.joints.is_empty() {
            return true;
        }
        id = model.bodies[id].parent.unwrap_or(0);
    }
    false
}

/// MuJoCo's: numbers become 0 to 1 between the least and the largest, times `size[2]`; the first row lies at +y.
fn lay(path: &Path, name: &str, asset: &Hfield, place: Option<&Place>) -> Result<Terrain, LoadError> {
    let fault = |attribute: &str, value: String, problem: String, next_step| {
        LoadError::new(path, format!("<hfield {name}> {attribute}"), value, problem, next_step).at(place)
    };
    let (rows, columns) = (asset.nrow as usize, asset.ncol as usize);
    let count = rows.saturating_mul(columns);
    if rows < 2 || columns < 2 || count > MAX_POINTS {
        let problem = format!("no grid of 2 x 2 to {MAX_POINTS} points");
        return Err(fault("nrow, ncol", format!("{rows}, {columns}"), problem, "give both at least 2"));
    }
    let flat = vec![0.0; count];
    let elevation = asset.elevation.as_deref().unwrap_or(&flat);
    if elevation.len() != count {
        let problem = format!("nrow x ncol are {count}");
        let found = format!("{} numbers", elevation.len());
        return Err(fault("elevation", found, problem, "give one number for each point"));
    }
    let [x, y, top, _] = asset.size;
    if x < SMALLEST_M || y < SMALLEST_M || top < 0.0 {
        let problem = "radii below 1e-6 m, or a negative height".to_owned();
        let next_step = "give radius_x radius_y elevation_z base_z in m";
        return Err(fault("size", format!("{:?}", asset.size), problem, next_step));
    }
    let least = elevation.iter().copied().fold(f64::INFINITY, f64::min);
    let span = elevation.iter().copied().fold(f64::NEG_INFINITY, f64::max) - least;
    let height = |e: &f64| if span > 0.0 { ((e - least) / span * top) as f32 } else { 0.0 };
    let heights: Vec<f32> = elevation.chunks_exact(columns).rev().flatten().map(height).collect();
    let size = [2.0 * x, 2.0 * y].map(|side| side as f32);
    Terrain::new(&heights, columns, size).ok_or_else(|| {
        let next_step = "give finite heights and sizes in m";
        fault("elevation", String::new(), "no height field".into(), next_step)
    })
}
