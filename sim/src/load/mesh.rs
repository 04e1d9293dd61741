//! Meshes of robot files, as pictures and as what colliders are made of.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rapier3d::geometry::{MeshConverter, MeshConverterError, SharedShape, TriMeshFlags};
use rapier3d::math::Vector;
use rapier3d_meshloader::{LoadedShape, load_from_path};
use rapier3d_mjcf::mjcf_rs::Model;
use rapier3d_mjcf::mjcf_rs::assets::Mesh as MeshAsset;
use rapier3d_mjcf::mjcf_rs::body::{Geom, GeomType};

use super::check::Checked;
use super::error::{LoadError, Place, Unsupported};
use super::softness::Attributes;
use crate::scene::{Mesh, Shape};

/// Largest file that a robot file names. Menagerie's largest mesh has 5 MB.
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
            let source = Source { path, folder, field: format!("<mesh {name}> file"), place };
            let asset = Asset { model, asset, source };
            match asset.load(touched.contains(name))? {
                Found::Mesh(mesh) => {
                    meshes.insert(name.clone(), mesh);
                }
                Found::LeftOut(effect) => {
                    let place = asset.source.place;
                    let (file, line) = place.map_or((path.to_path_buf(), 0), |p| (p.file, p.line));
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

/// An element that names a file, for errors and for where the file may lie.
pub(super) struct Source<'a> {
    /// The robot file.
    pub(super) path: &'a Path,
    /// Where it lies, if it is a file.
    pub(super) folder: Option<&'a Path>,
    pub(super) field: String,
    pub(super) place: Option<Place>,
}

impl Source<'_> {
    pub(super) fn fault(&self, value: &str, problem: String, next_step: &'static str) -> LoadError {
        LoadError::new(self.path, self.field.clone(), value, problem, next_step).at(self.place.as_ref())
    }

    /// The file `asked` that is `written` in the element, checked: it is there, beside the robot file or below, and
    /// not too large.
    pub(super) fn file(
        &self,
        written: &str,
        asked: impl FnOnce(&Path) -> PathBuf,
    ) -> Result<PathBuf, LoadError> {
        let Some(folder) = self.folder else {
            let problem = "text without a folder cannot read other files".into();
            return Err(self.fault(written, problem, "load the robot from a file"));
        };
        let asked = asked(folder);
        let missing = |e: std::io::Error| {
            let problem = format!("is missing: {}: {e}", asked.display());
            self.fault(
                written,
                problem,
                "put the file there, correct its name or folder, or remove what uses it",
            )
        };
        let file = asked.canonicalize().map_err(missing)?;
        if !file.starts_with(folder.canonicalize().map_err(missing)?) {
            let problem = format!("lies outside {}", folder.display());
            return Err(self.fault(written, problem, "put it into a folder beside the robot file"));
        }
        let meta = file.metadata().map_err(missing)?;
        if !meta.is_file() || meta.len() > MAX_BYTES {
            let problem = format!("is no file, or has {} bytes, more than {MAX_BYTES}", meta.len());
            return Err(self.fault(written, problem, "give a smaller one"));
        }
        Ok(file)
    }

    /// The triangles of an STL or OBJ file.
    pub(super) fn triangles(&self, file: &Path, scale: Vector) -> Result<Shape, LoadError> {
        let (mut vertices, mut triangles) = (Vec::new(), Vec::new());
        let converter = MeshConverter::TriMeshWithFlags(TriMeshFlags::empty());
        for part in self.parts(file, &converter, scale)?.into_iter().flatten() {
            let Some(part) = part.shape.as_trimesh() else { continue };
            let first = vertices.len() as u32;
            vertices.extend(part.vertices().iter().map(|&v| <[f32; 3]>::from(v)));
            triangles.extend(part.indices().iter().map(|triangle| triangle.map(|v| v + first)));
        }
        self.shape(&file.display().to_string(), vertices, triangles)
    }

    /// What touches others: the file's first part, converted.
    pub(super) fn solid(
        &self,
        file: &Path,
        converter: &MeshConverter,
        scale: Vector,
    ) -> Result<SharedShape, LoadError> {
        match self.parts(file, converter, scale)?.into_iter().next() {
            Some(Ok(solid)) if solid.shape.mass_properties(1.0).mass() > 0.0 => Ok(solid.shape),
            _ => Err(self.fault(
                &file.display().to_string(),
                "has no volume, so that nothing can touch it".into(),
                "give it a volume, or let it be seen only (MJCF: contype=\"0\" conaffinity=\"0\")",
            )),
        }
    }

    fn parts(
        &self,
        file: &Path,
        converter: &MeshConverter,
        scale: Vector,
    ) -> Result<Vec<Result<LoadedShape, MeshConverterError>>, LoadError> {
        load_from_path(file, converter, scale).map_err(|e| {
            let shown = file.display().to_string();
            self.fault(&shown, format!("cannot be read: {e}"), "export it anew as STL or OBJ")
        })
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
}

/// Whether the file's name says a kind that is read.
pub(super) fn is_read(file: &str) -> bool {
    let ending = Path::new(file).extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    matches!(ending.as_deref(), Some("stl" | "obj"))
}

struct Asset<'a> {
    model: &'a Model,
    asset: &'a MeshAsset,
    source: Source<'a>,
}

impl Asset<'_> {
    fn load(&self, is_touched: bool) -> Result<Found, LoadError> {
        let Some(file) = &self.asset.file else { return self.inline() };
        if !is_read(file) {
            return Ok(Found::LeftOut("only STL and OBJ are read: neither collision nor picture"));
        }
        let resolve = |folder: &Path| {
            self.model.resolve_mesh_file(self.asset, folder).unwrap_or_else(|| folder.join(file))
        };
        let file = self.source.file(file, resolve)?;
        let scale = Vector::from(self.asset.scale.map(|s| s as f32));
        let shape = self.source.triangles(&file, scale)?;
        if is_touched {
            // What the reader does later, so that its silence about a mesh without a hull becomes an error.
            let converter = match self.model.compiler.convex_hull {
                true => MeshConverter::ConvexHull,
                false => MeshConverter::TriMesh,
            };
            self.source.solid(&file, &converter, scale)?;
        }
        Ok(Found::Mesh(LoadedMesh { shape, is_solid: is_touched }))
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
        Ok(Found::Mesh(LoadedMesh { shape: self.source.shape("", vertices, triangles)?, is_solid: false }))
    }
}
