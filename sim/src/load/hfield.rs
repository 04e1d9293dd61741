//! Height fields of MJCF files. rapier's reader stands them upright and exchanges their axes; here they are checked and
//! laid down as MuJoCo has them.

use std::collections::HashMap;
use std::path::Path;

use rapier3d_mjcf::mjcf_rs::Model;
use rapier3d_mjcf::mjcf_rs::assets::Hfield;
use rapier3d_mjcf::mjcf_rs::body::GeomType;

use super::check::Checked;
use super::error::{LoadError, Place};
use super::mjcf::SMALLEST_M;
use super::softness::Attributes;
use crate::terrain::{MAX_POINTS, Terrain};

/// The fields that geoms name, by name; without those from files, which `check` lists as left out.
pub(super) fn read(
    path: &Path,
    model: &Model,
    attributes: &Attributes,
    checked: &Checked,
) -> Result<HashMap<String, Terrain>, LoadError> {
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
            if asset.file.is_none() && !fields.contains_key(name) {
                let place = checked.place("hfield", name).or(places.get(nth));
                fields.insert(name.clone(), lay(path, name, asset, place)?);
            }
        }
    }
    Ok(fields)
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
