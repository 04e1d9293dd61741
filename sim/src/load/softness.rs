//! Contact and joint attributes of MJCF files that mjcf-rs leaves out: `solref`, `solimp`, `solmix`, `<pair>` and the
//! options of the solver, with default classes and includes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rapier3d_mjcf::mjcf_rs::body::Body;
use roxmltree::{Document, Node};

use super::check::{Checked, Lines};
use super::error::Place;
use crate::dynamics::{Cone, Softness, Touch};

/// What the files say, in the order in which mjcf-rs numbers bodies.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    pub(super) bodies: Vec<BodyAttributes>,
    pub(super) cone: Cone,
    pub(super) impratio: f64,
    pub(super) explicit_damping: bool,
    pub(super) pairs: Vec<PairAttributes>,
}

/// A `<pair>` of `<contact>`.
#[derive(Debug)]
pub(super) struct PairAttributes {
    pub(super) geoms: [String; 2],
    pub(super) touch: Touch,
    pub(super) place: Place,
}

#[derive(Debug, Default)]
pub(super) struct BodyAttributes {
    pub(super) name: Option<String>,
    /// Where the body and its joints, free ones too, stand.
    pub(super) place: Option<Place>,
    pub(super) joint_places: Vec<Place>,
    pub(super) geom_places: Vec<Place>,
    /// Softness and mixing weight.
    pub(super) geoms: Vec<(Softness, f64)>,
    /// Softness of limit and dry friction; without free joints.
    pub(super) joints: Vec<[Softness; 2]>,
}

impl Attributes {
    /// What is said of body `id`, if the bodies were counted as mjcf-rs counts them.
    pub(super) fn body(&self, id: usize, body: &Body) -> Option<&BodyAttributes> {
        self.bodies.get(id).filter(|a| a.name == body.name && a.geoms.len() == body.geoms.len())
    }

    /// Reads the main file at `path` and what it includes.
    pub(super) fn read(path: &Path, checked: &Checked) -> Self {
        let mut reader = Reader { checked, classes: HashMap::new() };
        let mut this = Self {
            cone: Cone::Pyramidal,
            impratio: 1.0,
            bodies: vec![BodyAttributes::default()],
            ..Self::default()
        };
        reader.document(path, &checked.text, &mut |reader, node, _, _| reader.settings(node, &mut this));
        reader.document(path, &checked.text, &mut |reader, node, path, lines| match node.tag_name().name() {
            "worldbody" => reader.body(node, (path, lines), 0, None, &mut this.bodies),
            "contact" => this.pairs.extend(reader.pairs(node, path, lines)),
            _ => {}
        });
        this
    }
}

/// Attributes of a default class: those of geoms, joints and pairs, over those of the class around it.
type Class = HashMap<&'static str, HashMap<String, String>>;

/// The class of everything outside a named one.
const MAIN: &str = "";

struct Reader<'a> {
    checked: &'a Checked,
    classes: HashMap<String, Class>,
}

impl<'a> Reader<'a> {
    /// Visits the elements below the root of a file and of those it includes.
    fn document(
        &mut self,
        path: &Path,
        text: &str,
        visit: &mut dyn FnMut(&mut Self, Node<'_, '_>, &Path, &Lines),
    ) {
        // The text was parsed before: an error cannot happen here.
        let Ok(document) = Document::parse(text) else { return };
        let lines = Lines::new(text);
        for node in document.root_element().children().filter(Node::is_element) {
            match self.included(node, path) {
                Some((file, text)) => self.document(&file, text, visit),
                None => visit(self, node, path, &lines),
            }
        }
    }

    /// The file that an `<include>` names.
    fn included(&self, node: Node<'_, '_>, from: &Path) -> Option<(PathBuf, &'a str)> {
        let file = node.attribute("file").filter(|_| node.has_tag_name("include"))?;
        let target = from.parent().unwrap_or(Path::new(".")).join(file).canonicalize().ok()?;
        let text = self.checked.included.get(&target)?;
        Some((target, text))
    }

    fn settings(&mut self, node: Node<'_, '_>, attributes: &mut Attributes) {
        match node.tag_name().name() {
            "option" => {
                if node.attribute("cone") == Some("elliptic") {
                    attributes.cone = Cone::Elliptic;
                }
                let impratio = node.attribute("impratio").and_then(|v| v.trim().parse().ok());
                attributes.impratio = impratio.filter(|v| *v > 0.0).unwrap_or(attributes.impratio);
                let flags = node.children().filter(|n| n.has_tag_name("flag"));
                attributes.explicit_damping |=
                    flags.into_iter().any(|f| f.attribute("eulerdamp") == Some("disable"));
            }
            "default" => self.class(node, None),
            _ => {}
        }
    }

    fn class(&mut self, node: Node<'_, '_>, above: Option<&str>) {
        // The outermost class may have a name of its own; it is the main one all the same.
        let name = if above.is_none() { MAIN } else { node.attribute("class").unwrap_or(MAIN) };
        let mut class = match self.classes.get(name) {
            Some(class) => class.clone(),
            None => above.and_then(|above| self.classes.get(above)).cloned().unwrap_or_default(),
        };
        let children = || node.children().filter(Node::is_element);
        for child in children() {
            let kind = match child.tag_name().name() {
                "geom" => "geom",
                "joint" => "joint",
                "pair" => "pair",
                _ => continue,
            };
            let values = class.entry(kind).or_default();
            values.extend(child.attributes().map(|a| (a.name().to_owned(), a.value().to_owned())));
        }
        self.classes.insert(name.to_owned(), class.clone());
        if above.is_none()
            && let Some(own) = node.attribute("class")
        {
            self.classes.insert(own.to_owned(), class);
        }
        for child in children().filter(|n| n.has_tag_name("default")) {
            self.class(child, Some(name));
        }
    }

    /// What a pair does not say is MuJoCo's default, not its geoms'.
    fn pairs(&self, node: Node<'_, '_>, path: &Path, lines: &Lines) -> Vec<PairAttributes> {
        let pair = |child: Node<'_, '_>| {
            let get = |name| self.value(child, "pair", None, name);
            let number = |name| get(name).and_then(|v| v.trim().parse::<f64>().ok());
            let mut touch = Touch { softness: softness(get("solref"), get("solimp")), ..Touch::default() };
            fill(&mut touch.friction, get("friction"));
            touch.friction = touch.friction.map(|mu| mu.max(0.0));
            touch.margin = number("margin").map_or(0.0, |margin| margin.max(0.0));
            // What is no dimension is refused later, with its line.
            touch.condim = get("condim").map_or(3, |v| v.trim().parse().unwrap_or(0));
            if touch.condim == 1 {
                touch.friction = [0.0; 5];
            }
            let geoms = ["geom1", "geom2"].map(|name| child.attribute(name).unwrap_or_default().to_owned());
            PairAttributes { geoms, touch, place: Place { file: path.to_path_buf(), line: lines.of(child) } }
        };
        node.children().filter(|n| n.has_tag_name("pair")).map(pair).collect()
    }

    fn body(
        &mut self,
        node: Node<'_, '_>,
        (path, lines): (&Path, &Lines),
        id: usize,
        around: Option<&str>,
        bodies: &mut Vec<BodyAttributes>,
    ) {
        let place = |node| Place { file: path.to_path_buf(), line: lines.of(node) };
        for child in node.children().filter(Node::is_element) {
            match child.tag_name().name() {
                "geom" => {
                    bodies[id].geom_places.push(place(child));
                    let get = |name| self.value(child, "geom", around, name);
                    let softness = softness(get("solref"), get("solimp"));
                    let mix = get("solmix").and_then(|v| v.trim().parse().ok()).unwrap_or(1.0);
                    bodies[id].geoms.push((softness, mix));
                }
                "freejoint" => bodies[id].joint_places.push(place(child)),
                "joint" => {
                    bodies[id].joint_places.push(place(child));
                    if self.value(child, "joint", around, "type") == Some("free") {
                        continue;
                    }
                    let get = |name| self.value(child, "joint", around, name);
                    let limit = softness(get("solreflimit"), get("solimplimit"));
                    let dry = softness(get("solreffriction"), get("solimpfriction"));
                    bodies[id].joints.push([limit, dry]);
                }
                "body" => {
                    let name = child.attribute("name").map(str::to_owned);
                    bodies.push(BodyAttributes {
                        name,
                        place: Some(place(child)),
                        ..BodyAttributes::default()
                    });
                    let last = bodies.len() - 1;
                    self.body(child, (path, lines), last, child.attribute("childclass").or(around), bodies);
                }
                "frame" => {
                    self.body(child, (path, lines), id, child.attribute("childclass").or(around), bodies)
                }
                "include" => {
                    if let Some((file, text)) = self.included(child, path)
                        && let Ok(document) = Document::parse(text)
                    {
                        let lines = Lines::new(text);
                        self.body(document.root_element(), (&file, &lines), id, around, bodies);
                    }
                }
                _ => {}
            }
        }
    }

    /// Of the element, its class, the class of the bodies around it, or the main class.
    fn value<'v>(
        &'v self,
        node: Node<'v, '_>,
        kind: &str,
        around: Option<&str>,
        name: &str,
    ) -> Option<&'v str> {
        let class = node.attribute("class").or(around).unwrap_or(MAIN);
        let class = self.classes.get(class).or_else(|| self.classes.get(MAIN));
        node.attribute(name).or_else(|| Some(class?.get(kind)?.get(name)?.as_str()))
    }
}

/// Numbers that are missing keep MuJoCo's defaults.
fn softness(reference: Option<&str>, impedance: Option<&str>) -> Softness {
    let mut softness = Softness::default();
    fill(&mut softness.reference, reference);
    fill(&mut softness.impedance, impedance);
    softness
}

fn fill(to: &mut [f64], text: Option<&str>) {
    let numbers = text.unwrap_or_default().split_ascii_whitespace().map_while(|v| v.parse().ok());
    for (to, number) in to.iter_mut().zip(numbers) {
        *to = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::check::check_text;

    #[test]
    fn reads_classes_as_mujoco_does() {
        let text = r#"<mujoco><option cone="elliptic" impratio="10"/>
          <default><geom solimp="0.8"/><joint solreflimit="0.01 1"/>
            <default class="soft"><geom solref="0.05 1"/></default></default>
          <worldbody><geom type="plane" size="1 1 1"/>
            <body name="a" childclass="soft"><freejoint/><geom size="1"/><geom size="1" solref="-100 -5"/>
              <body name="b"><joint solimpfriction="0.99 0.999"/><geom size="1" solmix="3"/></body></body>
          </worldbody></mujoco>"#;
        let checked = check_text("t.xml", text, "mujoco").unwrap();
        let found = Attributes::read(Path::new("t.xml"), &checked);
        assert_eq!((found.cone, found.impratio), (Cone::Elliptic, 10.0));
        let [world, a, b] = &found.bodies[..] else { panic!("{found:?}") };
        assert_eq!(
            world.geoms[0].0,
            Softness { impedance: [0.8, 0.95, 0.001, 0.5, 2.0], ..Softness::default() }
        );
        assert_eq!(a.geoms[0].0.reference, [0.05, 1.0]);
        assert_eq!((a.geoms[1].0.reference, a.geoms[1].0.impedance[0]), ([-100.0, -5.0], 0.8));
        assert_eq!((b.geoms[0].1, b.joints[0][0].reference), (3.0, [0.01, 1.0]));
        assert_eq!(b.joints[0][1].impedance[..2], [0.99, 0.999]);
        assert!(a.joints.is_empty(), "a free joint has no limits");
    }
}
