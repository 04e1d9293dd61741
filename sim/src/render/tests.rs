use super::*;
use crate::scene::{Mesh, Placed, Shape};
use std::sync::Arc;

fn camera(size: usize) -> Camera {
    Camera {
        position: [0.0, 0.0, 1.0],
        target: [5.0, 0.0, 1.0],
        up: Camera::UP,
        field_of_view: 0.7,
        width: size,
        height: size,
    }
}

fn placed(shape: Shape, position: [f32; 3]) -> Placed {
    Placed { shape, position, rotation: [1.0, 0.0, 0.0, 0.0], color: [1.0, 0.0, 0.0] }
}

fn scene(shapes: Vec<Placed>) -> Scene {
    Scene { shapes, ..Scene::default() }
}

/// A tetrahedron whose face lies at x = -0.5, as wide as a box.
fn wedge() -> Shape {
    let vertices = vec![[-0.5, -1.0, -1.0], [-0.5, 1.0, -1.0], [-0.5, 0.0, 1.5], [0.5, 0.0, 0.0]];
    let triangles = vec![[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]];
    Shape::Mesh(Arc::new(Mesh::new(vertices, triangles).unwrap()))
}

fn all_shapes() -> Vec<(Shape, f32)> {
    vec![
        (Shape::Sphere { radius: 0.5 }, 4.5),
        (Shape::Box { half_extents: [0.3, 0.5, 0.5] }, 4.7),
        (Shape::Cylinder { radius: 0.4, half_length: 0.5 }, 4.6),
        (Shape::Capsule { radius: 0.4, half_length: 0.5 }, 4.6),
        (Shape::Ellipsoid { radii: [0.25, 0.5, 0.4] }, 4.75),
        (wedge(), 4.5),
    ]
}

#[test]
fn depth_in_the_middle_is_the_distance_to_the_surface() {
    for (shape, front) in all_shapes() {
        let image = render(&scene(vec![placed(shape.clone(), [5.0, 0.0, 1.0])]), &camera(33));
        let middle = 16 * 33 + 16;
        assert!((image.depth[middle] - front).abs() < 1e-3, "{shape:?}: {}", image.depth[middle]);
        assert_eq!(image.segmentation[middle], 1, "{shape:?}");
        assert_eq!(image.depth[0], f32::INFINITY, "{shape:?} must not fill the corner");
        assert_eq!(image.segmentation[0], 0, "{shape:?} must not fill the corner");
    }
}

/// The rectangle that a shape is looked for in must never cut it: away from the middle, near the eye, turned.
#[test]
fn nothing_of_a_shape_is_cut_away_by_its_bounds() {
    let mut rng = crate::Rng::new(5, 0);
    for round in 0..60 {
        let (shape, _) = all_shapes().swap_remove(round % 6);
        let position = [rng.uniform(0.3, 6.0), rng.uniform(-2.0, 2.0), rng.uniform(-1.0, 3.0)];
        let turned: [f32; 4] = std::array::from_fn(|_| rng.uniform(-1.0, 1.0));
        let length = turned.iter().map(|v| v * v).sum::<f32>().sqrt();
        let one = Placed { rotation: turned.map(|v| v / length), ..placed(shape, position) };
        let scene = scene(vec![one]);
        let camera = camera(48);
        let image = render(&scene, &camera);
        let view = View::new(&camera);
        let primitive = Primitive::new(&scene.shapes[0], view.eye, Vector::Z);
        for at in 0..48 * 48 {
            let ray = view.through(at % 48, at / 48).normalize();
            let is_hit = primitive.see(ray, FAR).is_some();
            assert_eq!(
                image.segmentation[at] == 1,
                is_hit,
                "round {round}, pixel {at}: {:?}",
                scene.shapes[0]
            );
        }
    }
}

/// A place that is not a number lies outside no footprint: that casts every ray.
#[test]
fn nothing_of_a_shadow_is_cut_away_by_its_footprint() {
    let mut rng = crate::Rng::new(6, 0);
    let mut shaded = 0;
    for round in 0..3000 {
        let (shape, _) = all_shapes().swap_remove(round % 6);
        let turned: [f32; 4] = std::array::from_fn(|_| rng.uniform(-1.0, 1.0));
        let length = turned.iter().map(|v| v * v).sum::<f32>().sqrt();
        let one = Placed { rotation: turned.map(|v| v / length), ..placed(shape, [0.0, 0.0, 2.0]) };
        let sun =
            Vector::new(rng.uniform(-1.0, 1.0), rng.uniform(-1.0, 1.0), rng.uniform(0.1, 1.0)).normalize();
        let primitive = Primitive::new(&one, Vector::ZERO, sun);
        // Near the middle of the shadow.
        let point = Vector::new(rng.uniform(-1.5, 1.5), rng.uniform(-1.5, 1.5), 2.0) - sun * 2.0;
        // What a shape shades lies in its footprint.
        let is_inside = primitive.footprint().is_some_and(|f| f.holds(ray::along_sun(point, sun)));
        let every = primitive.shades(point, sun, FAR);
        assert!(is_inside || !every, "round {round}: {one:?}");
        shaded += u32::from(every);
    }
    assert!(shaded > 300, "only {shaded} points lie in shadow");
}

#[test]
fn nearer_shapes_hide_those_behind() {
    let near = placed(Shape::Sphere { radius: 0.2 }, [3.0, 0.0, 1.0]);
    let far = placed(Shape::Sphere { radius: 1.0 }, [6.0, 0.0, 1.0]);
    let image = render(&scene(vec![far, near]), &camera(33));
    assert_eq!(image.segmentation[16 * 33 + 16], 2);
    assert!(image.segmentation.contains(&1), "the larger ball shows around the nearer one");
}

#[test]
fn floor_is_seen_below_the_horizon_only() {
    let image = render(&scene(vec![placed(Shape::Plane, [0.0; 3])]), &camera(9));
    assert!(image.depth[..9].iter().all(|d| d.is_infinite()));
    assert!(image.depth[72..].iter().all(|d| d.is_finite()));
}

#[test]
fn a_ball_throws_its_shadow_away_from_the_sun() {
    let looks = Looks { sun: [0.0, 0.0, 1.0], ..Looks::default() };
    let shapes = vec![placed(Shape::Plane, [0.0; 3]), placed(Shape::Sphere { radius: 0.5 }, [4.0, 0.0, 1.0])];
    let mut scene = Scene { shapes, looks };
    let below = Camera { position: [3.0, 0.0, 3.0], target: [4.0, 1.2, 0.0], ..camera(64) };
    let brightness = |scene: &Scene| {
        let image = render(scene, &below);
        let floor = image.segmentation.iter().zip(image.rgb.chunks(3)).filter(|(s, _)| **s == 1);
        floor.map(|(_, rgb)| rgb[0]).min().unwrap()
    };
    let dark = brightness(&scene);
    scene.shapes.pop();
    assert!(dark < brightness(&scene), "no darker floor below the ball");
}

#[test]
fn threads_and_repetition_change_no_byte() {
    let shapes = all_shapes().into_iter().zip(0u8..);
    let mut shapes: Vec<_> =
        shapes.map(|((shape, _), i)| placed(shape, [5.0, f32::from(i) - 2.5, 1.0])).collect();
    shapes.push(placed(Shape::Plane, [0.0; 3]));
    let scene = scene(shapes);
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| render(&scene, &camera(200)))
    };
    assert_eq!(on(1), on(3));
}

#[test]
fn looks_differ_by_seed_and_repeat_by_seed() {
    let shapes = vec![placed(Shape::Plane, [0.0; 3]), placed(Shape::Sphere { radius: 0.5 }, [4.0, 0.0, 1.0])];
    let picture = |seed| {
        let (mut scene, mut camera) = (scene(shapes.clone()), camera(40));
        let randomisation = Randomisation {
            light_direction: Some([-0.8, 0.8]),
            object_color: Some([-0.2, 0.2]),
            texture_share: 0.7,
            camera_position: Some([-0.05, 0.05]),
            ..Randomisation::default()
        };
        let drawn = randomisation.draw([true, false], seed, |_, _, _| {});
        drawn.paint(&mut scene);
        drawn.aim(&mut camera);
        render(&scene, &camera)
    };
    assert_eq!(picture(1), picture(1));
    assert_ne!(picture(1).rgb, picture(2).rgb);
}
