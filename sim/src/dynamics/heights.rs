//! Contacts with a height field: balls against the triangles near them, other shapes by balls and points on them.

use rapier3d::geometry::{HeightField, Triangle, TypedShape};
use rapier3d::parry::glamx::DVec3;
use rapier3d::parry::query::PointQuery;

/// Points of contact that one ball has at most: the ground, and a riser or two beside it.
pub(super) const PER_BALL: usize = 3;
/// Cosine between the normals of two contacts of one ball that count as two.
const DISTINCT: f64 = 0.9;
/// Cosine between the way to a triangle and its normal from which on the triangle's face is touched, not its edge.
const FACE: f64 = 0.999;

/// A point of contact in the field's frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touch {
    /// In the middle between the surfaces.
    pub(super) point: DVec3,
    /// Out of the ground.
    pub(super) normal: DVec3,
    pub(super) depth: f64,
}

/// Calls `ball` with centre and radius of the balls and points (radius 0) that stand for a shape, in its frame;
/// `false` where there are none for it.
pub(super) fn samples(shape: &TypedShape<'_>, mut ball: impl FnMut(DVec3, f64)) -> bool {
    match shape {
        TypedShape::Ball(shape) => ball(DVec3::ZERO, f64::from(shape.radius)),
        TypedShape::Capsule(shape) => {
            let (a, b) = (shape.segment.a.as_dvec3(), shape.segment.b.as_dvec3());
            let radius = f64::from(shape.radius);
            // Two radii apart an edge between two balls sinks in by an eighth of the radius.
            let parts = ((b - a).length() / (2.0 * radius)).ceil().clamp(1.0, 16.0);
            for place in 0..=parts as usize {
                ball(a.lerp(b, place as f64 / parts), radius);
            }
        }
        TypedShape::Cuboid(shape) => {
            // Corners, middles of edges and of faces.
            let half = shape.half_extents.as_dvec3();
            let steps = || [-1.0, 0.0, 1.0].into_iter();
            let all = steps().flat_map(|x| steps().flat_map(move |y| steps().map(move |z| [x, y, z])));
            for at in all.filter(|at| *at != [0.0; 3]) {
                ball(half * DVec3::from(at), 0.0);
            }
        }
        _ => return false,
    }
    true
}

/// Where a ball touches the field. The nearest point of the surface counts, and beside it the faces of other triangles
/// that lean another way: edges between triangles of one slope give nothing.
pub(super) fn touches(field: &HeightField, center: DVec3, radius: f64) -> [Option<Touch>; PER_BALL] {
    let mut found = [None; PER_BALL];
    let bounds = field.root_aabb();
    let outside = |p: f64, half: f32| p.abs() > f64::from(half) + radius;
    if center.y - radius > f64::from(bounds.maxs.y)
        || outside(center.x, bounds.maxs.x)
        || outside(center.z, bounds.maxs.z)
    {
        return found;
    }
    let cell = [f64::from(field.cell_width()), f64::from(field.cell_height())];
    // A ball whose middle is under the surface looks as far as the next cells for the way out.
    let reach = [radius.max(0.5 * cell[0]), radius.max(0.5 * cell[1])];
    let range = |p: f64, half: f32, cell: f64, reach: f64, count: usize| {
        let at = |p: f64| ((p + f64::from(half)) / cell).clamp(0.0, (count - 1) as f64) as usize;
        at(p - reach)..at(p + reach) + 1
    };
    let columns = range(center.x, bounds.maxs.x, cell[0], reach[0], field.ncols());
    let rows = range(center.z, bounds.maxs.z, cell[1], reach[1], field.nrows());
    let home = field.closest_cell_at_point(center.as_vec3());
    // Distance, way from the surface to the centre, and the triangle's normal.
    let mut near: Option<(f64, DVec3, DVec3)> = None;
    let mut is_under = false;
    let each = |visit: &mut dyn FnMut(&Triangle, bool)| {
        for row in rows.clone() {
            for column in columns.clone() {
                let (left, right) = field.triangles_at(row, column);
                for triangle in [left, right].into_iter().flatten() {
                    visit(&triangle, (row, column) == home);
                }
            }
        }
    };
    each(&mut |triangle, is_home| {
        let (way, normal) = nearest(triangle, center);
        if is_home && is_over(triangle, center) {
            is_under = normal.dot(center - triangle.a.as_dvec3()) < 0.0;
        }
        let distance = way.length();
        if near.is_none_or(|(least, ..)| distance < least) {
            near = Some((distance, way, normal));
        }
    });
    let Some((distance, way, normal)) = near else { return found };
    if is_under {
        // The way out leads through the nearest point of the surface.
        let out = if distance > 1e-9 { -way / distance } else { normal };
        let depth = radius + distance;
        found[0] = Some(Touch { point: center + out * (0.5 * (distance - radius)), normal: out, depth });
        return found;
    }
    if distance >= radius {
        return found;
    }
    let touch = |distance: f64, way: DVec3, normal: DVec3| {
        let normal = if distance > 1e-9 { way / distance } else { normal };
        let depth = radius - distance;
        Touch { point: center - normal * (0.5 * (radius + distance)), normal, depth }
    };
    found[0] = Some(touch(distance, way, normal));
    let mut count = 1;
    each(&mut |triangle, _| {
        let (way, normal) = nearest(triangle, center);
        let distance = way.length();
        let is_face = distance > 1e-9 && way.dot(normal) > FACE * distance;
        if distance < radius && is_face && count < PER_BALL {
            let other = touch(distance, way, normal);
            if found[..count].iter().flatten().all(|t| t.normal.dot(other.normal) < DISTINCT) {
                found[count] = Some(other);
                count += 1;
            }
        }
    });
    found
}

/// From the nearest point of a triangle to `center`, and the triangle's normal, up.
fn nearest(triangle: &Triangle, center: DVec3) -> (DVec3, DVec3) {
    // About the centre: an f32 then resolves what is near it.
    let [a, b, c] = [triangle.a, triangle.b, triangle.c].map(|p| (p.as_dvec3() - center).as_vec3());
    let moved = Triangle::new(a, b, c);
    let way = -moved.project_local_point(rapier3d::math::Vector::ZERO, false).point.as_dvec3();
    let normal = (b - a).as_dvec3().cross((c - a).as_dvec3()).normalize_or(DVec3::Y);
    (way, if normal.y < 0.0 { -normal } else { normal })
}

/// Whether `center` is over or under the triangle.
fn is_over(triangle: &Triangle, center: DVec3) -> bool {
    let [a, b, c] = [triangle.a, triangle.b, triangle.c].map(|p| p.as_dvec3() - center);
    let turn = |p: DVec3, q: DVec3| p.x * q.z - p.z * q.x;
    let turns = [turn(a, b), turn(b, c), turn(c, a)];
    turns.iter().all(|t| *t >= 0.0) || turns.iter().all(|t| *t <= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terrain::Terrain;

    /// A step 0.2 m high over one cell of 0.05 m, its foot at x = 0.
    fn step() -> Terrain {
        let line: Vec<f32> = (0..41).map(|i| if i <= 20 { 0.0 } else { 0.2 }).collect();
        Terrain::new(&line.repeat(41), 41, [2.0, 2.0]).unwrap()
    }

    fn on(ground: &Terrain, x: f64, height: f64, radius: f64) -> Vec<Touch> {
        let field = ground.shape().as_heightfield().unwrap();
        touches(field, DVec3::new(x, height, 0.013), radius).into_iter().flatten().collect()
    }

    #[test]
    fn a_ball_on_flat_triangles_touches_once_straight_up() {
        for x in [-0.9, -0.5, -0.4999, -0.33, 0.5] {
            let level = if x > 0.0 { 0.2 } else { 0.0 };
            let found = on(&step(), x, level + 0.018, 0.02);
            assert_eq!(found.len(), 1, "{x}: {found:?}");
            assert!(found[0].normal.y > 0.99999 && (found[0].depth - 0.002).abs() < 1e-6, "{x}: {found:?}");
        }
    }

    #[test]
    fn a_ball_in_the_corner_of_a_step_touches_floor_and_riser() {
        let found = on(&step(), -0.01, 0.019, 0.02);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().any(|t| t.normal.y > 0.99999));
        assert!(found.iter().any(|t| t.normal.x < -0.9 && t.normal.y > 0.0));
    }

    #[test]
    fn a_ball_that_sank_into_a_riser_is_pushed_out_of_its_face_and_not_up() {
        let found = on(&step(), 0.03, 0.08, 0.02);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].normal.x < -0.9, "{found:?}");
        assert!(found[0].depth > 0.02 && found[0].depth < 0.05, "{found:?}");
    }

    #[test]
    fn nothing_touches_from_above_or_beside() {
        assert!(on(&step(), -0.5, 0.021, 0.02).is_empty());
        assert!(on(&step(), 1.1, 0.0, 0.02).is_empty());
    }
}
