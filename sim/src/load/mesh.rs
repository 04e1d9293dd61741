//! Meshes of MJCF files, as pictures and as what rapier's reader will make colliders of.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rapier3d::geometry::{MeshConverter, TriMeshFlags};
use rapier3d::math::Vector;
use rapier3d_meshloader::load_from_path;
use rapier3d_mjcf::mjcf_rs::Model;
use rapier3d_mjcf::mjcf_rs::assets::Mesh as MeshAsset;
use rapier3d_mjcf::mjcf_rs::body::{Geom, GeomType};

use super::check::Checked;
use super::error::{LoadError, Place, Unsupported};
use super::softness::Attributes;
use crate::scene::{Mesh, Shape};

/// Largest mesh file. Menagerie's largest has 5 MB.
const MAX_BYTES: u64 = 64 << 20;

/// One mesh of `<asset>`.
pub(super) struct LoadedMesh {
    pub(super) shape: Shape,
    /// Whether the reader makes a collider of it.
    pub(super) is_solid: bool,
}

/// The meshes that geoms name, by name; what is not read of them goes to `unsupported`. `folder` is where the robot
/// file lies, if it is a file.
pub(super) fn read(
    path: &Path,
    folder: Option<&Path>,
    model: &Model,
    attributes: &Attributes,
    checked: &mut Checked,
) -> Result<HashMap<String, LoadedMesh>, LoadError> {
    let geoms = model.bodies.iter().flat_map(|entry| &entry.body.geoms);
    let touched: HashSet<_> =
        geoms.filter(|geom| collides(geom)).filter_map(|geom| geom.mesh.as_ref()).collect();
    let mut meshes = HashMap::new();
    for (id, entry) in model.bodies.iter().enumerate() {
        let places = attributes.body(id, &entry.body).map(|a| &a.geom_places[..]).unwrap_or_default();
        for (nth, geom) in entry.body.geoms.iter().enumerate() {
            let fault = |value: &str, problem: &str| {
                let field = format!("<geom {}> mesh", geom.name.as_deref().unwrap_or("without a name"));
                LoadError::new(path, field, value, problem, "name a <mesh> of <asset>").at(places.get(nth))
            };
            if geom.type_ != GeomType::Mesh {
                continue;
            }
            let Some(name) = &geom.mesh else { return Err(fault("", "is missing")) };
            let asset = model.assets.mesh(name).ok_or_else(|| fault(name, "is no mesh of <asset>"))?;
            if meshes.contains_key(name) {
                continue;
            }
            let place = checked.place("mesh", name).or(places.get(nth)).cloned();
            let asset = Asset { path, folder, model, name, asset, place };
            match asset.load(touched.contains(name))? {
                Found::Mesh(mesh) => {
                    meshes.insert(name.clone(), mesh);
                }
                Found::LeftOut(effect) => {
                    let (file, line) = asset.place.map_or((path.to_path_buf(), 0), |p| (p.file, p.line));
                    let element = format!("<mesh {name}>");
                    checked.unsupported.push(Unsupported { file, line, element, effect });
                }
            }
        }
    }
    Ok(meshes)
}

/// Whether anything can touch the geom.
pub(super) fn collides(geom: &Geom) -> bool {
    geom.contype != 0 || geom.conaffinity != 0
}

enum Found {
    Mesh(LoadedMesh),
    LeftOut(&'static str),
}

struct Asset<'a> {
    path: &'a Path,
    folder: Option<&'a Path>,
    model: &'a Model,
    name: &'a str,
    asset: &'a MeshAsset,
    place: Option<Place>,
}

impl Asset<'_> {
    fn load(&self, is_touched: bool) -> Result<Found, LoadError> {
        let Some(file) = &self.asset.file else { return self.inline() };
        let ending = Path::new(file).extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        if !matches!(ending.as_deref(), Some("stl" | "obj")) {
            return Ok(Found::LeftOut("only STL and OBJ are read: neither collision nor picture"));
        }
        let file = self.file(file)?;
        let shown = || file.display().to_string();
        let [x, y, z] = self.asset.scale.map(|s| s as f32);
        let load = |converter: &MeshConverter| {
            load_from_path(&file, converter, Vector::new(x, y, z)).map_err(|e| {
                self.fault(&shown(), format!("cannot be read: {e}"), "export it anew as STL or OBJ")
            })
        };
        let (mut vertices, mut triangles) = (Vec::new(), Vec::new());
        for part in load(&MeshConverter::TriMeshWithFlags(TriMeshFlags::empty()))?.into_iter().flatten() {
            let Some(part) = part.shape.as_trimesh() else { continue };
            let first = vertices.len() as u32;
            vertices.extend(part.vertices().iter().map(|&v| <[f32; 3]>::from(v)));
            triangles.extend(part.indices().iter().map(|triangle| triangle.map(|v| v + first)));
        }
        let shape = self.shape(&shown(), vertices, triangles)?;
        if !is_touched {
            return Ok(Found::Mesh(LoadedMesh { shape, is_solid: false }));
        }
        // What the reader does later, so that its silence about a mesh without a hull becomes an error.
        let converter = match self.model.compiler.convex_hull {
            true => MeshConverter::ConvexHull,
            false => MeshConverter::TriMesh,
        };
        match load(&converter)?.into_iter().next() {
            Some(Ok(solid)) if solid.shape.mass_properties(1.0).mass() > 0.0 => {
                Ok(Found::Mesh(LoadedMesh { shape, is_solid: true }))
            }
            _ => Err(self.fault(
                &shown(),
                "has no volume, so that nothing can touch it".into(),
                "give it a volume, or its geoms contype=\"0\" conaffinity=\"0\"",
            )),
        }
    }

    /// Vertices that stand in the robot file: a picture only.
    fn inline(&self) -> Result<Found, LoadError> {
        let numbers = self.asset.inline_vertices.as_deref().unwrap_or_default();
        let Some(faces) = &self.asset.inline_faces else {
            return Ok(Found::LeftOut("vertices without faces are not read: neither collision nor picture"));
        };
        let scale = self.asset.scale;
        let vertices = numbers
            .chunks_exact(3)
            .map(|v| std::array::from_fn(|axis| (v[axis] * scale[axis]) as f32))
            .collect();
        let triangles = faces.chunks_exact(3).map(|v| [v[0], v[1], v[2]]).collect();
        Ok(Found::Mesh(LoadedMesh { shape: self.shape("", vertices, triangles)?, is_solid: false }))
    }

    fn shape(
        &self,
        shown: &str,
        vertices: Vec<[f32; 3]>,
        triangles: Vec<[u32; 3]>,
    ) -> Result<Shape, LoadError> {
        let problem = "has no triangles, or a vertex that is not there or not finite";
        let mesh = Mesh::new(vertices, triangles);
        let mesh = mesh.ok_or_else(|| self.fault(shown, problem.into(), "export it anew"))?;
        Ok(Shape::Mesh(Arc::new(mesh)))
    }

    /// The file, checked: it is there, beside the robot file or below, and not too large.
    fn file(&self, written: &str) -> Result<PathBuf, LoadError> {
        let Some(folder) = self.folder else {
            let problem = "text without a folder cannot read meshes".into();
            return Err(self.fault(written, problem, "load the robot from a file"));
        };
        let asked = self.model.resolve_mesh_file(self.asset, folder).unwrap_or_else(|| folder.join(written));
        let missing = |e: std::io::Error| {
            let problem = format!("is missing: {}: {e}", asked.display());
            self.fault(written, problem, "put the mesh there, correct file or meshdir, or remove its geoms")
        };
        let file = asked.canonicalize().map_err(missing)?;
        if !file.starts_with(folder.canonicalize().map_err(missing)?) {
            let problem = format!("lies outside {}", folder.display());
            return Err(self.fault(written, problem, "put meshes into a folder beside the robot file"));
        }
        let meta = file.metadata().map_err(missing)?;
        if !meta.is_file() || meta.len() > MAX_BYTES {
            let problem = format!("is no file, or has {} bytes, more than {MAX_BYTES}", meta.len());
            return Err(self.fault(written, problem, "give a mesh with fewer triangles"));
        }
        Ok(file)
    }

    fn fault(&self, value: &str, problem: String, next_step: &'static str) -> LoadError {
        let field = format!("<mesh {}> file", self.name);
        LoadError::new(self.path, field, value, problem, next_step).at(self.place.as_ref())
    }
}
