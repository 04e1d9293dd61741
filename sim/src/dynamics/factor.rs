//! Symmetric positive definite matrices of a forest and their factors `L^T D L` (Featherstone, Rigid Body Dynamics
//! Algorithms, 2008, section 6.3), sparse along the chains or dense.
//!
//! Sparse: row `k` holds the entries of a degree of freedom with itself and those it hangs on, in the order of
//! [`Tree::chain`]. The chain of an ancestor is the rest of the chain behind it, so elimination runs over contiguous
//! memory. Dense: row `k` holds the columns `0..=k`; for what couples branches.

use super::tree::Tree;

/// `out = matrix x`, sparse.
pub(super) fn multiply(tree: &Tree, matrix: &[f64], x: &[f64], out: &mut [f64]) {
    out.fill(0.0);
    for k in 0..tree.n {
        let row = &matrix[tree.row(k)];
        let mut sum = row[0] * x[k];
        for (&i, entry) in tree.chain(k).iter().zip(row).skip(1) {
            sum += entry * x[usize::from(i)];
            out[usize::from(i)] += entry * x[k];
        }
        out[k] += sum;
    }
}

/// Factorises in place; `inverse` gets `1 / D`.
pub(super) fn factorise(tree: &Tree, matrix: &mut [f64], inverse: &mut [f64]) {
    for k in (0..tree.n).rev() {
        let range = tree.row(k);
        let (above, row) = matrix[..range.end].split_at_mut(range.start);
        let scale = 1.0 / row[0];
        inverse[k] = scale;
        for (place, &i) in tree.chain(k).iter().enumerate().skip(1) {
            let rest = &mut row[place..];
            let factor = rest[0] * scale;
            for (to, from) in above[tree.row(usize::from(i))].iter_mut().zip(rest.iter()) {
                *to -= factor * from;
            }
            rest[0] = factor;
        }
    }
}

/// `x <- L^-T x`.
pub(super) fn half_solve(tree: &Tree, factors: &[f64], x: &mut [f64]) {
    for k in (0..tree.n).rev() {
        let value = x[k];
        for (&i, entry) in tree.chain(k).iter().zip(&factors[tree.row(k)]).skip(1) {
            x[usize::from(i)] -= entry * value;
        }
    }
}

/// `x <- matrix^-1 x` from the factors.
pub(super) fn solve(tree: &Tree, factors: &[f64], inverse: &[f64], x: &mut [f64]) {
    half_solve(tree, factors, x);
    for k in 0..tree.n {
        let mut value = x[k] * inverse[k];
        for (&i, entry) in tree.chain(k).iter().zip(&factors[tree.row(k)]).skip(1) {
            value -= entry * x[usize::from(i)];
        }
        x[k] = value;
    }
}

/// Writes a sparse matrix into `n` dense rows.
pub(super) fn spread(tree: &Tree, matrix: &[f64], dense: &mut Vec<f64>) {
    dense.clear();
    dense.resize(tree.n * tree.n, 0.0);
    for k in 0..tree.n {
        for (&i, entry) in tree.chain(k).iter().zip(&matrix[tree.row(k)]) {
            dense[k * tree.n + usize::from(i)] = *entry;
        }
    }
}

/// Factorises `n` dense rows in place; `inverse` gets `1 / D`.
pub(super) fn factorise_dense(n: usize, matrix: &mut [f64], inverse: &mut [f64]) {
    for k in (0..n).rev() {
        let (above, row) = matrix.split_at_mut(k * n);
        let scale = 1.0 / row[k];
        inverse[k] = scale;
        for i in 0..k {
            let factor = row[i] * scale;
            // Columns from `i` on have been eliminated with the entries of before.
            if factor != 0.0 {
                for (to, from) in above[i * n..=i * n + i].iter_mut().zip(row.iter()) {
                    *to -= factor * from;
                }
            }
        }
        for entry in &mut row[..k] {
            *entry *= scale;
        }
    }
}

/// `x <- matrix^-1 x` from the dense factors.
pub(super) fn solve_dense(n: usize, factors: &[f64], inverse: &[f64], x: &mut [f64]) {
    for k in (0..n).rev() {
        let value = x[k];
        for (to, entry) in x[..k].iter_mut().zip(&factors[k * n..]) {
            *to -= entry * value;
        }
    }
    for k in 0..n {
        let sum: f64 = x[..k].iter().zip(&factors[k * n..]).map(|(x, entry)| x * entry).sum();
        x[k] = x[k] * inverse[k] - sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries of `A` with `A = B B^T + I`, `B` from a fixed sequence.
    fn matrix(n: usize) -> Vec<f64> {
        let b: Vec<f64> = (0..n * n).map(|i| (i as f64 * 1.7).sin()).collect();
        let entry = |i: usize, j: usize| {
            (0..n).map(|k| b[i * n + k] * b[j * n + k]).sum::<f64>() + if i == j { 1.0 } else { 0.0 }
        };
        (0..n * n).map(|at| entry(at / n, at % n)).collect()
    }

    #[test]
    fn dense_factors_solve_the_system() {
        let n = 7;
        let a = matrix(n);
        let (mut factors, mut inverse) = (a.clone(), vec![0.0; n]);
        factorise_dense(n, &mut factors, &mut inverse);
        let x: Vec<f64> = (0..n).map(|i| 1.0 + i as f64).collect();
        let mut b: Vec<f64> = (0..n).map(|i| (0..n).map(|j| a[i * n + j] * x[j]).sum()).collect();
        solve_dense(n, &factors, &inverse, &mut b);
        assert!(b.iter().zip(&x).all(|(b, x)| (b - x).abs() < 1e-9), "{b:?}");
    }

    /// On one chain every pair of degrees of freedom is coupled: sparse and dense hold the same matrix.
    #[test]
    fn sparse_factors_agree_with_dense_ones() {
        let n = 6;
        let tree = Tree::line(n);
        let a = matrix(n);
        let mut sparse: Vec<f64> =
            (0..n).flat_map(|k| (0..=k).rev().map(move |i| (k, i))).map(|(k, i)| a[k * n + i]).collect();
        let mut dense = Vec::new();
        spread(&tree, &sparse, &mut dense);
        let x: Vec<f64> = (0..n).map(|i| (i as f64).cos()).collect();
        let mut b = vec![0.0; n];
        multiply(&tree, &sparse, &x, &mut b);
        let mut c = b.clone();
        let mut inverse = vec![0.0; n];
        factorise(&tree, &mut sparse, &mut inverse);
        solve(&tree, &sparse, &inverse, &mut b);
        factorise_dense(n, &mut dense, &mut inverse);
        solve_dense(n, &dense, &inverse, &mut c);
        for i in 0..n {
            assert!((b[i] - x[i]).abs() < 1e-9 && (c[i] - x[i]).abs() < 1e-9, "{b:?} {c:?}");
        }
    }
}
