//! Accelerations under soft constraints: Newton's method with an exact line search, as MuJoCo's default solver.
//!
//! The cost is convex and, but for round friction cones, piecewise quadratic: a step that changes no row's state is
//! the last. It starts from the accelerations of the step before.

use super::constraint::Rows;
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
    /// How the residuals change along the direction: of single rows, then three per contact.
    changes: Vec<f64>,
    slopes: Vec<[[f64; 3]; 3]>,
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
            rows.pull(&mut self.gradient, &mut self.slopes);
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
        let Self { gradient, direction, hessian, inverse, slopes, .. } = self;
        for (direction, gradient) in direction.iter_mut().zip(gradient.iter()) {
            *direction = -gradient;
        }
        if rows.is_coupled {
            factor::spread(tree, matrix, hessian);
            rows.add_slopes_dense(tree.n, slopes, hessian);
            factor::factorise_dense(tree.n, hessian, inverse);
            factor::solve_dense(tree.n, hessian, inverse, direction);
        } else {
            hessian.clear();
            hessian.extend_from_slice(matrix);
            rows.add_slopes_on_chains(tree, slopes, hessian);
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
        for index in 0..self.points.len() {
            let product = self.times(index, acceleration);
            let point = &mut self.points[index];
            point.x = std::array::from_fn(|k| product[k] - point.target[k]);
        }
    }

    /// The rows of a contact times a vector.
    fn times(&self, index: usize, vector: &[f64]) -> [f64; 3] {
        let point = &self.points[index];
        let mut sum = [0.0; 3];
        let [normal, first, second] = self.rows_of(index);
        for (column, &k) in self.support[point.start..point.end].iter().enumerate() {
            let value = vector[usize::from(k)];
            sum[0] += normal[column] * value;
            sum[1] += first[column] * value;
            sum[2] += second[column] * value;
        }
        sum
    }

    fn rows_of(&self, index: usize) -> [&[f64]; 3] {
        let Self { points, jacobian, .. } = self;
        let (start, length) = (points[index].start, points[index].end - points[index].start);
        let rows = &jacobian[3 * start..3 * start + 3 * length];
        [&rows[..length], &rows[length..2 * length], &rows[2 * length..]]
    }

    /// Sets the forces, subtracts them from the gradient and keeps their slopes.
    fn pull(&mut self, gradient: &mut [f64], slopes: &mut Vec<[[f64; 3]; 3]>) {
        for row in &self.singles {
            gradient[row.dof] -= row.sign * row.answer(row.x)[0];
        }
        slopes.clear();
        for index in 0..self.points.len() {
            let answer = self.points[index].law.answer(self.points[index].x);
            self.points[index].force = answer.force;
            slopes.push(answer.slope);
            let point = &self.points[index];
            let [normal, first, second] = self.rows_of(index);
            let [n, a, b] = answer.force;
            if n == 0.0 {
                continue;
            }
            for (column, &k) in self.support[point.start..point.end].iter().enumerate() {
                gradient[usize::from(k)] -= n * normal[column] + a * first[column] + b * second[column];
            }
        }
    }

    fn set_changes(&self, direction: &[f64], changes: &mut Vec<f64>) {
        changes.clear();
        changes.extend(self.singles.iter().map(|row| row.sign * direction[row.dof]));
        for index in 0..self.points.len() {
            changes.extend(self.times(index, direction));
        }
    }

    fn advance(&mut self, share: f64, changes: &[f64]) {
        let (singles, points) = changes.split_at(self.singles.len());
        for (row, change) in self.singles.iter_mut().zip(singles) {
            row.x += share * change;
        }
        for (point, change) in self.points.iter_mut().zip(points.chunks_exact(3)) {
            for (x, change) in point.x.iter_mut().zip(change) {
                *x += share * change;
            }
        }
    }

    /// The rows' forces times the change of their residuals at a share of the way, and how that falls.
    fn power(&self, share: f64, changes: &[f64]) -> [f64; 2] {
        let (singles, points) = changes.split_at(self.singles.len());
        let mut sum = [0.0; 2];
        for (row, change) in self.singles.iter().zip(singles) {
            let [force, slope] = row.answer(row.x + share * change);
            sum[0] += force * change;
            sum[1] += slope * change * change;
        }
        for (point, change) in self.points.iter().zip(points.chunks_exact(3)) {
            let answer = point.law.answer(std::array::from_fn(|k| point.x[k] + share * change[k]));
            for i in 0..3 {
                sum[0] += answer.force[i] * change[i];
                let bent: f64 = (0..3).map(|j| answer.slope[i][j] * change[j]).sum();
                sum[1] += change[i] * bent;
            }
        }
        sum
    }

    fn add_singles(&self, hessian: &mut [f64], diagonal: impl Fn(usize) -> usize) {
        for row in &self.singles {
            hessian[diagonal(row.dof)] += row.answer(row.x)[1];
        }
    }

    /// Adds `J' S J` to a sparse matrix.
    fn add_slopes_on_chains(&self, tree: &Tree, slopes: &[[[f64; 3]; 3]], hessian: &mut [f64]) {
        self.add_singles(hessian, |dof| tree.row(dof).start);
        for (index, (point, slope)) in self.points.iter().zip(slopes).enumerate() {
            if slope[0][0] == 0.0 {
                continue;
            }
            let [normal, first, second] = self.rows_of(index);
            for (column, &k) in self.support[point.start..point.end].iter().enumerate() {
                let [n, a, b] = weigh(slope, [normal[column], first[column], second[column]]);
                // A chain's rest is the chain of an ancestor.
                let row = &mut hessian[tree.row(usize::from(k))];
                let rest = normal[column..].iter().zip(&first[column..]).zip(&second[column..]);
                for (entry, ((x, y), z)) in row.iter_mut().zip(rest) {
                    *entry += n * x + a * y + b * z;
                }
            }
        }
    }

    /// Adds `J' S J` to dense rows of length `n`.
    fn add_slopes_dense(&self, n: usize, slopes: &[[[f64; 3]; 3]], hessian: &mut [f64]) {
        self.add_singles(hessian, |dof| dof * n + dof);
        for (index, (point, slope)) in self.points.iter().zip(slopes).enumerate() {
            if slope[0][0] == 0.0 {
                continue;
            }
            let [normal, first, second] = self.rows_of(index);
            let support = &self.support[point.start..point.end];
            for (column, &k) in support.iter().enumerate() {
                let [x, y, z] = weigh(slope, [normal[column], first[column], second[column]]);
                for (below, &i) in support.iter().enumerate().skip(column) {
                    hessian[usize::from(k) * n + usize::from(i)] +=
                        x * normal[below] + y * first[below] + z * second[below];
                }
            }
        }
    }
}

fn weigh(slope: &[[f64; 3]; 3], [n, a, b]: [f64; 3]) -> [f64; 3] {
    std::array::from_fn(|i| slope[i][0] * n + slope[i][1] * a + slope[i][2] * b)
}
