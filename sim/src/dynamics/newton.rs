//! Accelerations under soft constraints: Newton's method with an exact line search, as MuJoCo's default solver.
//!
//! The cost is convex and, but for round friction cones, piecewise quadratic: a step that changes no row's state is
//! the last. It starts from the accelerations of the step before.

use super::constraint::{Block, Rows};
use super::factor;
use super::tree::Tree;

/// Steps at most.
const MAX_STEPS: usize = 50;
/// Done when no degree of freedom is pushed away from the solution by more than this, m/s^2 or rad/s^2, alone.
const TOLERANCE: f64 = 1e-4;
/// A line search ends where the slope has fallen to this share, or after so many trials.
const FLAT: f64 = 0.1;
const MAX_TRIALS: usize = 12;

/// The last solution and memory to work in.
#[derive(Clone, Default)]
pub(super) struct Newton {
    pub(super) acceleration: Vec<f64>,
    product: Vec<f64>,
    gradient: Vec<f64>,
    direction: Vec<f64>,
    along: Vec<f64>,
    hessian: Vec<f64>,
    inverse: Vec<f64>,
    /// How the residuals change along the direction: of single rows, then three or six per contact.
    changes: Vec<f64>,
}

impl Newton {
    pub(super) fn new(tree: &Tree) -> Self {
        let zeros = vec![0.0; tree.n];
        Self {
            acceleration: zeros.clone(),
            product: zeros.clone(),
            gradient: zeros.clone(),
            direction: zeros.clone(),
            along: zeros.clone(),
            inverse: zeros,
            ..Self::default()
        }
    }

    /// Starts the next solution from rest.
    pub(super) fn forget(&mut self) {
        self.acceleration.fill(0.0);
    }

    /// Solves for the acceleration under the forces `force`, `M a = force + J' f`.
    pub(super) fn solve(&mut self, tree: &Tree, matrix: &[f64], force: &[f64], rows: &mut Rows) {
        factor::multiply(tree, matrix, &self.acceleration, &mut self.product);
        rows.set_residuals(&self.acceleration);
        for _ in 0..MAX_STEPS {
            for ((gradient, product), force) in self.gradient.iter_mut().zip(&self.product).zip(force) {
                *gradient = product - force;
            }
            rows.pull(&mut self.gradient);
            let mut far = 0.0f64;
            for (k, gradient) in self.gradient.iter().enumerate() {
                far = far.max(gradient.abs() / matrix[tree.row(k).start]);
            }
            // NaN ends it as well: the world is then cut as diverged.
            if far.is_nan() || far <= TOLERANCE {
                break;
            }
            self.set_direction(tree, matrix, rows);
            factor::multiply(tree, matrix, &self.direction, &mut self.along);
            rows.set_changes(&self.direction, &mut self.changes);
            let share = self.search(rows);
            for k in 0..tree.n {
                self.acceleration[k] += share * self.direction[k];
                self.product[k] += share * self.along[k];
            }
            rows.advance(share, &self.changes);
        }
    }

    /// The acceleration `(M + added)^-1 M a`: damping that acts on the velocity at the end of the step.
    pub(super) fn damped(&mut self, tree: &Tree, matrix: &mut [f64], added: &[f64]) -> &[f64] {
        if added.iter().all(|added| *added == 0.0) {
            return &self.acceleration;
        }
        for (k, added) in added.iter().enumerate() {
            matrix[tree.row(k).start] += added;
        }
        factor::factorise(tree, matrix, &mut self.inverse);
        factor::solve(tree, matrix, &self.inverse, &mut self.product);
        &self.product
    }

    /// `direction = -H^-1 gradient` with `H = M + J' S J`.
    fn set_direction(&mut self, tree: &Tree, matrix: &[f64], rows: &Rows) {
        let Self { gradient, direction, hessian, inverse, .. } = self;
        for (direction, gradient) in direction.iter_mut().zip(gradient.iter()) {
            *direction = -gradient;
        }
        if rows.is_coupled {
            factor::spread(tree, matrix, hessian);
            rows.add_slopes_dense(tree.n, hessian);
            factor::factorise_dense(tree.n, hessian, inverse);
            factor::solve_dense(tree.n, hessian, inverse, direction);
        } else {
            hessian.clear();
            hessian.extend_from_slice(matrix);
            rows.add_slopes_on_chains(tree, hessian);
            factor::factorise(tree, hessian, inverse);
            factor::solve(tree, hessian, inverse, direction);
        }
    }

    /// How far to go along the direction: where the cost's derivative vanishes.
    fn search(&self, rows: &Rows) -> f64 {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let first = dot(&self.gradient, &self.direction);
        let curvature = dot(&self.along, &self.direction);
        let pull = rows.power(0.0, &self.changes)[0];
        let slope = |share: f64| {
            let [power, slope] = rows.power(share, &self.changes);
            [first + pull - power + share * curvature, curvature + slope]
        };
        let (mut low, mut high, mut share) = (0.0, f64::INFINITY, 1.0);
        for _ in 0..MAX_TRIALS {
            let [derivative, second] = slope(share);
            if derivative.abs() <= FLAT * first.abs() {
                break;
            }
            if derivative < 0.0 {
                low = share
            } else {
                high = share
            }
            share -= derivative / second;
            if !(share > low && share < high) {
                share = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * low };
            }
        }
        share
    }
}

impl Rows {
    fn set_residuals(&mut self, acceleration: &[f64]) {
        for row in &mut self.singles {
            row.x = row.sign * acceleration[row.dof] - row.target;
        }
        self.sliding.set_residuals(acceleration);
        self.turning.set_residuals(acceleration);
    }

    /// Sets the forces, subtracts them from the gradient and keeps their slopes.
    fn pull(&mut self, gradient: &mut [f64]) {
        for row in &self.singles {
            gradient[row.dof] -= row.sign * row.answer(row.x)[0];
        }
        self.sliding.pull(gradient);
        self.turning.pull(gradient);
    }

    fn set_changes(&self, direction: &[f64], changes: &mut Vec<f64>) {
        changes.clear();
        changes.extend(self.singles.iter().map(|row| row.sign * direction[row.dof]));
        self.sliding.add_changes(direction, changes);
        self.turning.add_changes(direction, changes);
    }

    /// Changes of single rows, of sliding and of turning contacts.
    fn parts<'a>(&self, changes: &'a [f64]) -> (&'a [f64], &'a [f64], &'a [f64]) {
        let (singles, points) = changes.split_at(self.singles.len());
        let (sliding, turning) = points.split_at(3 * self.sliding.points.len());
        (singles, sliding, turning)
    }

    fn advance(&mut self, share: f64, changes: &[f64]) {
        let (singles, sliding, turning) = self.parts(changes);
        for (row, change) in self.singles.iter_mut().zip(singles) {
            row.x += share * change;
        }
        self.sliding.advance(share, sliding);
        self.turning.advance(share, turning);
    }

    /// The rows' forces times the change of their residuals at a share of the way, and how that falls.
    fn power(&self, share: f64, changes: &[f64]) -> [f64; 2] {
        let (singles, sliding, turning) = self.parts(changes);
        let mut sum = [0.0; 2];
        for (row, change) in self.singles.iter().zip(singles) {
            let [force, slope] = row.answer(row.x + share * change);
            sum[0] += force * change;
            sum[1] += slope * change * change;
        }
        self.sliding.add_power(share, sliding, &mut sum);
        self.turning.add_power(share, turning, &mut sum);
        sum
    }

    fn add_singles(&self, hessian: &mut [f64], diagonal: impl Fn(usize) -> usize) {
        for row in &self.singles {
            hessian[diagonal(row.dof)] += row.answer(row.x)[1];
        }
    }

    /// Adds `J' S J` to a sparse matrix.
    fn add_slopes_on_chains(&self, tree: &Tree, hessian: &mut [f64]) {
        self.add_singles(hessian, |dof| tree.row(dof).start);
        self.sliding.add_slopes_on_chains(tree, hessian);
        self.turning.add_slopes_on_chains(tree, hessian);
    }

    /// Adds `J' S J` to dense rows of length `n`.
    fn add_slopes_dense(&self, n: usize, hessian: &mut [f64]) {
        self.add_singles(hessian, |dof| dof * n + dof);
        self.sliding.add_slopes_dense(n, hessian);
        self.turning.add_slopes_dense(n, hessian);
    }
}

impl<const D: usize> Block<D> {
    fn set_residuals(&mut self, acceleration: &[f64]) {
        for index in 0..self.points.len() {
            let product = self.times(index, acceleration);
            let point = &mut self.points[index];
            point.x = std::array::from_fn(|k| product[k] - point.target[k]);
        }
    }

    /// The rows of a contact times a vector.
    fn times(&self, index: usize, vector: &[f64]) -> [f64; D] {
        let (support, rows) = self.rows_of(index);
        let mut sum = [0.0; D];
        for (column, &k) in support.iter().enumerate() {
            let value = vector[usize::from(k)];
            for (sum, row) in sum.iter_mut().zip(rows) {
                *sum += row[column] * value;
            }
        }
        sum
    }

    /// Degrees of freedom of a contact, and its rows over them.
    fn rows_of(&self, index: usize) -> (&[u16], [&[f64]; D]) {
        let Self { points, support, jacobian, .. } = self;
        let support = &support[points[index].start..points[index].end];
        let rows = &jacobian[D * points[index].start..][..D * support.len()];
        (support, std::array::from_fn(|k| &rows[k * support.len()..][..support.len()]))
    }

    fn pull(&mut self, gradient: &mut [f64]) {
        self.slopes.clear();
        for index in 0..self.points.len() {
            let answer = self.points[index].law.answer(self.points[index].x);
            self.points[index].force = answer.force;
            self.slopes.push(answer.slope);
            if answer.force[0] == 0.0 {
                continue;
            }
            let (support, rows) = self.rows_of(index);
            for (column, &k) in support.iter().enumerate() {
                gradient[usize::from(k)] -= sum(answer.force, rows.map(|row| row[column]));
            }
        }
    }

    fn add_changes(&self, direction: &[f64], changes: &mut Vec<f64>) {
        for index in 0..self.points.len() {
            changes.extend(self.times(index, direction));
        }
    }

    fn advance(&mut self, share: f64, changes: &[f64]) {
        for (point, change) in self.points.iter_mut().zip(changes.chunks_exact(D)) {
            for (x, change) in point.x.iter_mut().zip(change) {
                *x += share * change;
            }
        }
    }

    fn add_power(&self, share: f64, changes: &[f64], power: &mut [f64; 2]) {
        for (point, change) in self.points.iter().zip(changes.chunks_exact(D)) {
            let answer = point.law.answer(std::array::from_fn(|k| point.x[k] + share * change[k]));
            for i in 0..D {
                power[0] += answer.force[i] * change[i];
                let bent: f64 = (0..D).map(|j| answer.slope[i][j] * change[j]).sum();
                power[1] += change[i] * bent;
            }
        }
    }

    fn add_slopes_on_chains(&self, tree: &Tree, hessian: &mut [f64]) {
        for (index, slope) in self.slopes.iter().enumerate() {
            if slope[0][0] == 0.0 {
                continue;
            }
            let (support, rows) = self.rows_of(index);
            for (column, &k) in support.iter().enumerate() {
                let weights = weigh(slope, rows.map(|row| row[column]));
                // A chain's rest is the chain of an ancestor.
                let rest = rows.map(|row| &row[column..]);
                let entries = &mut hessian[tree.row(usize::from(k))];
                for (place, entry) in entries.iter_mut().enumerate().take(support.len() - column) {
                    *entry += sum(weights, rest.map(|row| row[place]));
                }
            }
        }
    }

    fn add_slopes_dense(&self, n: usize, hessian: &mut [f64]) {
        for (index, slope) in self.slopes.iter().enumerate() {
            if slope[0][0] == 0.0 {
                continue;
            }
            let (support, rows) = self.rows_of(index);
            for (column, &k) in support.iter().enumerate() {
                let weights = weigh(slope, rows.map(|row| row[column]));
                for (below, &i) in support.iter().enumerate().skip(column) {
                    hessian[usize::from(k) * n + usize::from(i)] += sum(weights, rows.map(|row| row[below]));
                }
            }
        }
    }
}

fn weigh<const D: usize>(slope: &[[f64; D]; D], entries: [f64; D]) -> [f64; D] {
    slope.map(|row| sum(row, entries))
}

/// Of products, in order.
fn sum<const D: usize>(a: [f64; D], b: [f64; D]) -> f64 {
    let mut sum = a[0] * b[0];
    for k in 1..D {
        sum += a[k] * b[k];
    }
    sum
}
