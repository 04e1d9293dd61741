//! Checks robot XML before any third-party loader sees it.
//!
//! The loaders recurse over elements and read every file an `<include>` names. Depth, size, number of files, their
//! place and the finiteness of numbers are therefore settled here, on the text.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use roxmltree::{Document, Node};

use tendon_wire::mutation::{Check, removed};

use super::error::{LoadError, Place, Unsupported};
use super::mesh::is_read;

/// Largest file, and largest sum over a file and what it includes. Menagerie's largest MJCF has 0.3 MB.
pub(super) const MAX_BYTES: u64 = 16 << 20;
/// Deepest nesting of elements. Real robots stay below 60; the XML parser recurses, so it must be bounded.
const MAX_DEPTH: usize = 128;
/// Most files one robot may consist of.
const MAX_FILES: usize = 64;
/// Largest magnitude of a number: beyond it f32 dynamics mean nothing.
const MAX_NUMBER: f64 = 1e9;
/// Attributes whose value is text, in which `nan` or `inf` may well be a name.
const TEXT_ATTRIBUTES: &[&str] = &[
    "name",
    "class",
    "childclass",
    "file",
    "joint",
    "joint1",
    "joint2",
    "body",
    "body1",
    "body2",
    "site",
    "geom",
    "geom1",
    "geom2",
    "mesh",
    "material",
    "texture",
    "hfield",
    "tendon",
    "objname",
    "refname",
    "model",
    "prefix",
    "target",
    "link",
    "filename",
    "actuator",
    "plugin",
    "meshdir",
    "texturedir",
    "assetdir",
    "key",
    "data",
];

/// One robot's text as checked: the main file's content and what the loader cannot represent in any of its files.
pub(super) struct Checked {
    pub(super) text: String,
    /// Text of the files it includes, by absolute path.
    pub(super) included: HashMap<PathBuf, String>,
    pub(super) unsupported: Vec<Unsupported>,
    /// Where elements with a name stand, by tag and name; actuators by the joint that they drive.
    named: HashMap<(String, String), Place>,
}

impl Checked {
    /// Where the element `<tag name="name">` stands.
    pub(super) fn place(&self, tag: &str, name: &str) -> Option<&Place> {
        self.named.get(&(tag.to_owned(), name.to_owned()))
    }
}

/// Where the lines of a text end: its own search for every element would take the square of the text's length.
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub(super) fn new(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect())
    }

    /// Line that an element begins on, from 1.
    pub(super) fn of(&self, node: Node<'_, '_>) -> u32 {
        let start = node.range().start;
        // A checked text has at most 16 MiB.
        self.0.partition_point(|end| *end < start) as u32 + 1
    }
}

/// Reads `path` and everything it includes, refusing what could hurt the loader.
pub(super) fn check_file(path: &Path, root_tag: &str) -> Result<Checked, LoadError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder
        .canonicalize()
        .map_err(|e| LoadError::new(path, "folder", folder.display(), e.to_string(), "check the path"))?;
    let mut walk = Walk { folder: Some(folder), ..Walk::default() };
    let text = walk.read(path)?;
    walk.stack.extend(path.canonicalize().ok());
    walk.document(path, &text, root_tag)?;
    Ok(walk.checked(text))
}

/// Checks a robot given as text, called `name` in errors. It may not include files.
pub(super) fn check_text(name: &str, text: &str, root_tag: &str) -> Result<Checked, LoadError> {
    let path = Path::new(name);
    let mut walk = Walk::default();
    walk.count(path, text.len() as u64)?;
    walk.document(path, text, root_tag)?;
    Ok(walk.checked(text.to_owned()))
}

#[derive(Default)]
struct Walk {
    /// Includes must lie inside; none are allowed for text without a folder.
    folder: Option<PathBuf>,
    stack: Vec<PathBuf>,
    bytes: u64,
    files: usize,
    included: HashMap<PathBuf, String>,
    unsupported: Vec<Unsupported>,
    named: HashMap<(String, String), Place>,
}

impl Walk {
    fn checked(self, text: String) -> Checked {
        Checked { text, included: self.included, unsupported: self.unsupported, named: self.named }
    }

    fn count(&mut self, path: &Path, bytes: u64) -> Result<(), LoadError> {
        self.bytes += bytes;
        self.files += 1;
        if self.bytes > MAX_BYTES {
            return Err(LoadError::new(
                path,
                "file size",
                self.bytes,
                format!("more than {MAX_BYTES} bytes with its includes"),
                "remove inline mesh data",
            ));
        }
        if self.files > MAX_FILES {
            return Err(LoadError::new(
                path,
                "<include>",
                self.files,
                format!("more than {MAX_FILES} files"),
                "merge the includes into fewer files",
            ));
        }
        Ok(())
    }

    fn read(&mut self, path: &Path) -> Result<String, LoadError> {
        let io = |e: std::io::Error| {
            LoadError::new(path, "file", "", e.to_string(), "check the path and that it is UTF-8 text")
        };
        let meta = std::fs::metadata(path).map_err(io)?;
        if !meta.is_file() {
            return Err(LoadError::new(
                path,
                "file",
                "",
                "not a regular file",
                "give the path of an XML file",
            ));
        }
        // Before reading: a size that is wrong must not cost the memory.
        self.count(path, meta.len())?;
        std::fs::read_to_string(path).map_err(io)
    }

    fn document(&mut self, path: &Path, text: &str, root_tag: &str) -> Result<(), LoadError> {
        bound_depth(path, text)?;
        let document = Document::parse(text).map_err(|e| {
            LoadError::new(path, "XML", "", e.to_string(), "correct the XML there").at_line(e.pos().row)
        })?;
        let root = document.root_element();
        if root.tag_name().name() != root_tag {
            return Err(LoadError::new(
                path,
                "root element",
                root.tag_name().name(),
                format!("expected <{root_tag}>"),
                "give an MJCF (<mujoco>) or URDF (<robot>) file",
            ));
        }
        let lines = Lines::new(text);
        for node in root.descendants().filter(Node::is_element) {
            let line = lines.of(node);
            numbers_are_finite(path, node, line)?;
            let tag = node.tag_name().name();
            let mut note = |tag: &str, name: Option<&str>| {
                if let Some(name) = name {
                    let place = Place { file: path.to_path_buf(), line };
                    self.named.insert((tag.to_owned(), name.to_owned()), place);
                }
            };
            // There is one of it.
            note(tag, node.attribute("name").or((tag == "option").then_some("")));
            if node.parent_element().is_some_and(|parent| parent.has_tag_name("actuator")) {
                note("actuator", node.attribute("joint"));
            }
            if let Some(effect) = left_out(node, root_tag) {
                let element = describe(node);
                self.unsupported.push(Unsupported { file: path.to_path_buf(), line, element, effect });
            }
            let includes =
                node.has_tag_name("include") || (node.has_tag_name("model") && root_tag == "mujoco");
            if let Some(file) = node.attribute("file").filter(|_| includes) {
                self.include(path, file, root_tag)
                    .map_err(|e| if e.line.is_none() && e.file == path { e.at_line(line) } else { e })?;
            }
        }
        Ok(())
    }

    fn include(&mut self, from: &Path, file: &str, root_tag: &str) -> Result<(), LoadError> {
        let refuse = |problem: String| {
            LoadError::new(from, "<include> file", file, problem, "keep included files beside the main file")
        };
        let Some(folder) = &self.folder else {
            return Err(refuse("text without a folder cannot include files".into()));
        };
        let target = from.parent().unwrap_or(Path::new(".")).join(file);
        let target = target.canonicalize().map_err(|e| refuse(e.to_string()))?;
        if !target.starts_with(folder) {
            return Err(refuse(format!("lies outside {}", folder.display())));
        }
        if self.stack.contains(&target) {
            return Err(refuse("includes itself".into()));
        }
        let text = self.read(&target)?;
        self.stack.push(target.clone());
        self.document(&target, &text, root_tag)?;
        self.stack.pop();
        self.included.insert(target, text);
        Ok(())
    }
}

/// Refuses nesting that would exhaust the stack of a recursive parser, and document types (entity bombs).
fn bound_depth(path: &Path, text: &str) -> Result<(), LoadError> {
    let mut depth = 0usize;
    let mut rest = text;
    while let Some(open) = rest.find('<') {
        rest = &rest[open..];
        let skip_to = |end: &str| rest.find(end).map_or(rest.len(), |i| i + end.len());
        let length = if rest.starts_with("<!--") {
            skip_to("-->")
        } else if rest.starts_with("<![CDATA[") {
            skip_to("]]>")
        } else if rest.starts_with("<!") {
            return Err(LoadError::new(
                path,
                "<!DOCTYPE>",
                "",
                "document types and entities are not allowed",
                "remove it and write the entities out",
            ));
        } else if rest.starts_with("<?") {
            skip_to("?>")
        } else {
            let length = tag_length(rest);
            let tag = &rest[..length];
            if tag.starts_with("</") {
                depth = depth.saturating_sub(1);
            } else if !tag.ends_with("/>") {
                depth += 1;
            }
            length
        };
        if depth > MAX_DEPTH {
            return Err(LoadError::new(
                path,
                "XML",
                "",
                format!("elements nest deeper than {MAX_DEPTH}"),
                "flatten the body tree",
            ));
        }
        rest = &rest[length..];
    }
    Ok(())
}

/// Length of the tag that `text` begins with; a `>` inside quotes does not end it.
fn tag_length(text: &str) -> usize {
    let mut quote = None;
    for (i, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return i + 1,
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(q), b) if q == b => quote = None,
            _ => {}
        }
    }
    text.len()
}

fn numbers_are_finite(path: &Path, node: Node<'_, '_>, line: u32) -> Result<(), LoadError> {
    if removed(Check::FiniteNumbers) {
        return Ok(());
    }
    for attribute in node.attributes().filter(|a| !TEXT_ATTRIBUTES.contains(&a.name())) {
        for token in attribute.value().split_ascii_whitespace() {
            if token.parse::<f64>().is_ok_and(|v| v.is_nan() || v.abs() > MAX_NUMBER) {
                return Err(LoadError::new(
                    path,
                    format!("<{}> {}", node.tag_name().name(), attribute.name()),
                    token,
                    format!("not a finite number below {MAX_NUMBER:e}"),
                    "write a finite value",
                )
                .at_line(line));
            }
        }
    }
    Ok(())
}

/// What rapier's engine leaves out and the reduced one does not.
pub(super) const REDUCED_ONLY: [&str; 2] = [NO_TURNING, NO_PAIR];
const NO_TURNING: &str = "no torsional or rolling friction on rapier's engine";
const NO_PAIR: &str = "on rapier's engine geoms touch by their own attributes";

/// Why the simulation leaves this element out, if it does.
fn left_out(node: Node<'_, '_>, root_tag: &str) -> Option<&'static str> {
    let has = |attribute| node.has_attribute(attribute);
    let parent = node.parent_element().map_or("", |p| p.tag_name().name());
    match (root_tag, node.tag_name().name()) {
        ("mujoco", "geom") => match node.attribute("type") {
            Some("sdf") => Some("signed distance fields are skipped"),
            Some("ellipsoid") => Some("approximated by a convex hull of 12 points"),
            _ if matches!(node.attribute("condim"), Some("4" | "6")) => Some(NO_TURNING),
            _ => None,
        },
        ("mujoco", "option") if !matches!(node.attribute("integrator"), None | Some("Euler")) => {
            Some("semi-implicit Euler at the file's time step")
        }
        ("mujoco", "pair") if parent == "contact" => Some(NO_PAIR),
        ("mujoco", "joint") if node.attribute("type") == Some("ball") => {
            Some("moves freely, without damping, and has no place among the robot's joints")
        }
        ("mujoco", "position" | "general") if has("inheritrange") => {
            Some("not read: the contract's position limits clamp targets")
        }
        ("mujoco", "mesh") if has("refpos") || has("refquat") => Some("refpos and refquat are not read"),
        ("mujoco", "composite" | "flexcomp" | "flex" | "skin" | "plugin" | "replicate") => Some("skipped"),
        ("mujoco", "fixed") if ["stiffness", "damping", "frictionloss", "range"].into_iter().any(has) => {
            Some("forces and limits of tendons are left out")
        }
        ("mujoco", "spatial") => Some("spatial tendons are skipped"),
        ("mujoco", "tendon") if parent == "equality" => Some("tendon equalities are skipped"),
        ("mujoco", "muscle" | "cylinder" | "adhesion" | "intvelocity") if parent == "actuator" => {
            Some("this actuator is not driven")
        }
        ("robot", "mesh") if !is_read(node.attribute("filename").unwrap_or_default()) => {
            Some("only STL and OBJ are read: neither collision nor picture")
        }
        ("robot", "mimic") => Some("mimic joints move freely"),
        ("robot", "safety_controller" | "transmission" | "gazebo") => Some("not read"),
        _ => None,
    }
}

fn describe(node: Node<'_, '_>) -> String {
    let tag = node.tag_name().name();
    match node.attribute("name").or_else(|| node.attribute("class")) {
        Some(name) => format!("<{tag} {name}>"),
        None => format!("<{tag}>"),
    }
}
