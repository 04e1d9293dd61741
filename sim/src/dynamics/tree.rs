//! The kinematic forest of a loaded robot, read once from rapier's sets.

use std::ops::Range;

use rapier3d::dynamics::{MassProperties, MultibodyLink, RigidBody, RigidBodyHandle};
use rapier3d::math::Pose;
use rapier3d::parry::glamx::{DMat3, DPose3, DQuat, DVec3};

use crate::state::PhysicsState;

/// How a link moves relative to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Fixed,
    Hinge,
    Slide,
    Free,
}

impl Kind {
    pub(super) fn dofs(self) -> usize {
        match self {
            Self::Fixed => 0,
            Self::Hinge | Self::Slide => 1,
            Self::Free => 6,
        }
    }
}

/// A rigid body of the forest; parents come before their children.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) handle: RigidBodyHandle,
    pub(super) parent: Option<usize>,
    /// Root of its tree: links of one tree never touch each other.
    pub(super) root: usize,
    pub(super) kind: Kind,
    /// First degree of freedom.
    pub(super) dof: usize,
    /// Last degree of freedom that moves the link; `None` for what cannot move.
    pub(super) tip: Option<usize>,
    pub(super) parent_from_joint: DPose3,
    pub(super) joint_from_link: DPose3,
    pub(super) mass: f64,
    pub(super) com: DVec3,
    /// About the centre of mass, along the link's axes.
    pub(super) inertia: DMat3,
}

impl Link {
    /// Takes over what randomisation may have changed.
    pub(super) fn read_mass(&mut self, body: &RigidBody) {
        let properties: &MassProperties = &body.mass_properties().local_mprops;
        let is_dynamic = body.is_dynamic();
        self.mass = if is_dynamic { f64::from(properties.mass()) } else { 0.0 };
        self.com = properties.local_com.as_dvec3();
        let rotation = DMat3::from_quat(unit(properties.principal_inertia_local_frame.as_dquat()));
        let principal = if is_dynamic { properties.principal_inertia().as_dvec3() } else { DVec3::ZERO };
        self.inertia = rotation * DMat3::from_diagonal(principal) * rotation.transpose();
    }
}

/// Links and, for every degree of freedom, itself and those it hangs on.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    pub(super) links: Vec<Link>,
    /// Degrees of freedom.
    pub(super) n: usize,
    chains: Vec<u16>,
    starts: Vec<u32>,
}

impl Tree {
    /// `None`: something in it moves otherwise than by hinges, slides and free roots.
    pub(super) fn read(state: &PhysicsState) -> Option<Self> {
        if !state.impulse_joints.is_empty() {
            return None;
        }
        let mut tree = Self::default();
        let mut parents: Vec<Option<usize>> = Vec::new();
        for multibody in state.multibody_joints.multibodies() {
            if !multibody.couplings().is_empty() {
                return None;
            }
            let first = tree.links.len();
            for link in multibody.links() {
                let body = state.bodies.get(link.rigid_body_handle())?;
                let parent = link.parent_id().map(|id| first + id);
                let kind = match parent {
                    None if body.is_dynamic() => Kind::Free,
                    None => Kind::Fixed,
                    Some(_) => kind_of(link)?,
                };
                tree.push(link.rigid_body_handle(), body, parent, kind, Some(link), &mut parents)?;
            }
        }
        for (handle, body) in state.bodies.iter() {
            if body.is_dynamic() && state.multibody_joints.rigid_body_link(handle).is_none() {
                tree.push(handle, body, None, Kind::Free, None, &mut parents)?;
            }
        }
        tree.close(&parents);
        (tree.n > 0).then_some(tree)
    }

    fn push(
        &mut self,
        handle: RigidBodyHandle,
        body: &RigidBody,
        parent: Option<usize>,
        kind: Kind,
        link: Option<&MultibodyLink>,
        parents: &mut Vec<Option<usize>>,
    ) -> Option<()> {
        let index = self.links.len();
        let data = link.map(|link| &link.joint().data);
        let above = parent.and_then(|p| self.links[p].tip);
        let dof = self.n;
        for k in 0..kind.dofs() {
            parents.push(if k == 0 { above } else { Some(dof + k - 1) });
        }
        self.n = parents.len();
        if self.n > usize::from(u16::MAX) {
            return None;
        }
        let mut new = Link {
            handle,
            parent,
            root: parent.map_or(index, |p| self.links[p].root),
            kind,
            dof,
            tip: if kind.dofs() > 0 { Some(self.n - 1) } else { above },
            parent_from_joint: data.map_or(DPose3::IDENTITY, |d| wide(&d.local_frame1)),
            joint_from_link: data.map_or(DPose3::IDENTITY, |d| wide(&d.local_frame2).inverse()),
            mass: 0.0,
            com: DVec3::ZERO,
            inertia: DMat3::ZERO,
        };
        new.read_mass(body);
        self.links.push(new);
        Some(())
    }

    /// The degree of freedom and those it hangs on, from the tip to the root.
    pub(super) fn chain(&self, dof: usize) -> &[u16] {
        &self.chains[self.row(dof)]
    }

    /// Where the entries of a degree of freedom lie in a sparse matrix.
    pub(super) fn row(&self, dof: usize) -> Range<usize> {
        self.starts[dof] as usize..self.starts[dof + 1] as usize
    }

    /// Number of entries of a sparse matrix.
    pub(super) fn entries(&self) -> usize {
        self.chains.len()
    }

    /// Degrees of freedom that move a link, tips first.
    pub(super) fn moving(&self, link: usize) -> &[u16] {
        self.links[link].tip.map_or(&[], |tip| self.chain(tip))
    }

    fn close(&mut self, parents: &[Option<usize>]) {
        for dof in 0..self.n {
            self.starts.push(self.chains.len() as u32);
            let mut next = Some(dof);
            while let Some(k) = next {
                self.chains.push(k as u16);
                next = parents[k];
            }
        }
        self.starts.push(self.chains.len() as u32);
    }

    /// Degrees of freedom in a row, without links.
    #[cfg(test)]
    pub(super) fn line(n: usize) -> Self {
        let mut tree = Self { n, ..Self::default() };
        tree.close(&(0..n).map(|k| k.checked_sub(1)).collect::<Vec<_>>());
        tree
    }
}

fn kind_of(link: &MultibodyLink) -> Option<Kind> {
    // rapier's loaders turn every axis onto x.
    match link.joint().data.locked_axes.bits() {
        0b11_1111 => Some(Kind::Fixed),
        0b11_0111 => Some(Kind::Hinge),
        0b11_1110 => Some(Kind::Slide),
        _ => None,
    }
}

/// A pose of rapier's in `f64`.
pub(super) fn wide(pose: &Pose) -> DPose3 {
    DPose3::from_parts(pose.translation.as_dvec3(), unit(pose.rotation.as_dquat()))
}

fn unit(rotation: DQuat) -> DQuat {
    if rotation.length_squared() > 0.0 { rotation.normalize() } else { DQuat::IDENTITY }
}
