//! Resize: every axis by a table of places (nearest) or by a constant matrix (linear, cubic).

use super::{Computed, Context, Lowering, axis};
use crate::import::{Node, elements};

#[rustfmt::skip]
pub(super) const REGISTRY: &[(&str, Lowering)] = &[
    ("Resize",   resize),
    ("Upsample", upsample),
];

/// What happens along one axis.
struct Stretch {
    along: usize,
    size: usize,
    out: usize,
    scale: f64,
    /// Start and end of the region, of `tf_crop_and_resize`.
    region: [f64; 2],
}

/// Attributes that hold for all axes.
struct Mode<'n> {
    /// nearest, linear or cubic.
    kind: &'n str,
    coordinates: &'n str,
    rounding: &'n str,
    cubic: f64,
    antialias: bool,
    exclude_outside: bool,
    extrapolation: f32,
}

/// One output along an axis: where the taps start, and their weights; `None`: outside the region.
type Taps = Option<(i64, Vec<f64>)>;

impl Mode<'_> {
    /// Where output `y` lies in the input.
    fn source(&self, stretch: &Stretch, y: f64) -> Result<f64, String> {
        let (size, scale) = (stretch.size as f64, stretch.scale);
        let out = scale * size;
        let [start, end] = stretch.region;
        Ok(match self.coordinates {
            "half_pixel" => (y + 0.5) / scale - 0.5,
            "align_corners" if out == 1.0 => 0.0,
            "align_corners" => y * (size - 1.0) / (out - 1.0),
            "asymmetric" => y / scale,
            "pytorch_half_pixel" if out == 1.0 => -0.5,
            "pytorch_half_pixel" => (y + 0.5) / scale - 0.5,
            "half_pixel_symmetric" => {
                let adjustment = stretch.out as f64 / out;
                size / 2.0 * (1.0 - adjustment) + (y + 0.5) / scale - 0.5
            }
            "tf_half_pixel_for_nn" => (y + 0.5) / scale,
            "tf_crop_and_resize" if out == 1.0 => (end - start) * (size - 1.0) / 2.0 + start * (size - 1.0),
            "tf_crop_and_resize" => y * (end - start) * (size - 1.0) / (out - 1.0) + start * (size - 1.0),
            other => {
                return Err(format!(
                    "attribute `coordinate_transformation_mode` is `{other}`, which has no lowering"
                ));
            }
        })
    }

    /// Weights of the taps around a place that lies `ratio`, in (0, 1], behind a pixel.
    fn weights(&self, ratio: f64, scale: f64) -> Result<Vec<f64>, String> {
        let scale = if self.antialias { scale.min(1.0) } else { 1.0 };
        let normal = |weights: Vec<f64>| {
            let sum: f64 = weights.iter().sum();
            weights.into_iter().map(|weight| weight / sum).collect()
        };
        Ok(match self.kind {
            "nearest" => {
                let up = match self.rounding {
                    _ if ratio == 1.0 => true,
                    "round_prefer_floor" => ratio > 0.5,
                    "round_prefer_ceil" => ratio >= 0.5,
                    "floor" => false,
                    "ceil" => true,
                    other => {
                        return Err(format!("attribute `nearest_mode` is `{other}`, which has no lowering"));
                    }
                };
                if up { vec![0.0, 1.0] } else { vec![1.0, 0.0] }
            }
            "linear" => {
                let first = (-1.0 / scale).floor() as i64 + 1;
                let taps = first..first + 2 - 2 * first;
                normal(taps.map(|tap| (1.0 - ((tap as f64 - ratio) * scale).abs()).clamp(0.0, 1.0)).collect())
            }
            "cubic" => {
                let first = (-2.0 / scale).floor() as i64 + 1;
                let weights =
                    (first..2 - first).map(|tap| self.spline(scale * (tap as f64 - ratio))).collect();
                if self.antialias { normal(weights) } else { weights }
            }
            other => return Err(format!("attribute `mode` is `{other}`, expected nearest, linear or cubic")),
        })
    }

    /// Cubic convolution (Keys 1981, eq. 4, with the parameter a).
    fn spline(&self, x: f64) -> f64 {
        let (a, x) = (self.cubic, x.abs());
        match x {
            x if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            x if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
            _ => 0.0,
        }
    }

    /// The taps of output `y`.
    fn taps(&self, stretch: &Stretch, y: usize) -> Result<Taps, String> {
        let place = self.source(stretch, y as f64)?;
        if !place.is_finite() || place.abs() > 1e9 {
            return Err(format!("scale {} is out of range", stretch.scale));
        }
        if self.coordinates == "tf_crop_and_resize" && !(0.0..=stretch.size as f64 - 1.0).contains(&place) {
            return Ok(None);
        }
        let floor = place.floor();
        let ratio = if place == floor { 1.0 } else { place - floor };
        let weights = self.weights(ratio, stretch.scale)?;
        // As many taps to the left of the place as to the right; at a pixel the left one counts as left.
        let left = if place == floor { floor as i64 - 1 } else { floor as i64 };
        Ok(Some((left + 1 - weights.len() as i64 / 2, weights)))
    }

    /// The matrix `[out][size]` of an axis, and what is added.
    fn matrix(&self, stretch: &Stretch) -> Result<(Vec<f32>, Vec<f32>), String> {
        let count = elements(&[stretch.out, stretch.size])?;
        let mut matrix = Vec::with_capacity(count);
        let mut added = Vec::with_capacity(stretch.out);
        for y in 0..stretch.out {
            let mut row = vec![0.0; stretch.size];
            match self.taps(stretch, y)? {
                None => added.push(self.extrapolation),
                Some((first, weights)) => {
                    let mut sum = 1.0;
                    let inside = |tap: i64| (0..stretch.size as i64).contains(&tap);
                    let taps = || (first..).zip(&weights);
                    if self.exclude_outside {
                        sum = taps().filter(|(tap, _)| inside(*tap)).map(|(_, weight)| weight).sum();
                        sum = if sum == 0.0 { 1.0 } else { sum };
                    }
                    for (tap, weight) in taps().filter(|(tap, _)| !self.exclude_outside || inside(*tap)) {
                        row[tap.clamp(0, stretch.size as i64 - 1) as usize] += weight / sum;
                    }
                    added.push(0.0);
                }
            }
            matrix.extend(row.into_iter().map(|weight| weight as f32));
        }
        Ok((matrix, added))
    }

    /// The place of each output of an axis; `None`: it has no single one.
    fn places(&self, stretch: &Stretch) -> Result<Option<Vec<usize>>, String> {
        let mut places = Vec::new();
        for y in 0..stretch.out {
            let Some((first, weights)) = self.taps(stretch, y)? else { return Ok(None) };
            let tap = first + i64::from(weights.first() == Some(&0.0));
            places.push(tap.clamp(0, stretch.size as i64 - 1) as usize);
        }
        Ok(Some(places))
    }
}

impl Context {
    fn resized(&mut self, x: Computed, stretches: &[Stretch], mode: &Mode<'_>) -> Result<Computed, String> {
        let mut x = x;
        if mode.kind == "nearest" {
            let mut places: Vec<Vec<usize>> = x.shape.iter().map(|&size| (0..size).collect()).collect();
            let mut all = true;
            for stretch in stretches {
                match mode.places(stretch)? {
                    Some(own) => places[stretch.along] = own,
                    None => all = false,
                }
            }
            if all {
                return self.picked(&x, &places);
            }
        }
        for stretch in stretches {
            let (matrix, added) = mode.matrix(stretch)?;
            x = self.along_axis(&x, stretch.along, matrix, added)?;
        }
        Ok(x)
    }

    /// `W x + b` along an axis; `W` `[out][size]`.
    pub(super) fn along_axis(
        &mut self,
        x: &Computed,
        along: usize,
        weights: Vec<f32>,
        bias: Vec<f32>,
    ) -> Result<Computed, String> {
        let mut order: Vec<usize> = (0..x.shape.len()).filter(|&place| place != along).collect();
        order.push(along);
        let moved = self.permuted(x, &order)?;
        let y = self.dense(&moved, weights, bias)?;
        let mut back: Vec<usize> = (0..x.shape.len() - 1).collect();
        back.insert(along, x.shape.len() - 1);
        self.permuted(&y, &back)
    }
}

/// Sizes by scales: rounded down, as ONNX has it.
fn scaled(size: usize, scale: f32) -> Result<usize, String> {
    let out = (f64::from(scale) * size as f64).floor();
    if !(1.0..=(1 << 20) as f64).contains(&out) {
        return Err(format!("scale {scale} makes {out} of {size} elements"));
    }
    Ok(out as usize)
}

fn resize(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let rank = x.shape.len();
    let axes = match node.ints("axes")? {
        Some(axes) => axes.iter().map(|&along| axis(along, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).collect(),
    };
    // At opset 10 the scales are the second input.
    let old = context.opset < 11;
    let filled = |context: &mut Context, index: usize| -> Result<Option<Vec<f32>>, String> {
        let values = context.known(node, index)?.map(|(values, _)| values.to_vec());
        Ok(values.filter(|values| !values.is_empty()))
    };
    let region = if old { None } else { filled(context, 1)? };
    let scales = filled(context, if old { 1 } else { 2 })?;
    let sizes = if old { None } else { context.integers(node, 3)?.filter(|sizes| !sizes.is_empty()) };
    let given = scales.as_ref().map(Vec::len).or(sizes.as_ref().map(Vec::len));
    if given != Some(axes.len()) || region.as_ref().is_some_and(|region| region.len() != 2 * axes.len()) {
        return Err(format!("needs one constant scale or size for each of {} axes", axes.len()));
    }
    let policy = node.text("keep_aspect_ratio_policy", "stretch")?;
    let mut stretches = Vec::new();
    for (place, &along) in axes.iter().enumerate() {
        let size = x.shape[along];
        let (scale, out) = match (&scales, &sizes) {
            (Some(scales), _) => (f64::from(scales[place]), scaled(size, scales[place])?),
            (None, Some(sizes)) => {
                let out = usize::try_from(sizes[place]).ok().filter(|out| (1..=1 << 20).contains(out));
                let out = out.ok_or_else(|| format!("size {} is out of range", sizes[place]))?;
                (out as f64 / size as f64, out)
            }
            _ => return Err("has neither scales nor sizes".into()),
        };
        let bounds = region.as_ref().map_or([0.0, 1.0], |r| [r[place].into(), r[place + axes.len()].into()]);
        stretches.push(Stretch { along, size, out, scale, region: bounds });
    }
    if sizes.is_some() && policy != "stretch" {
        let all = stretches.iter().map(|stretch| stretch.scale);
        let scale = match policy {
            "not_larger" => all.fold(f64::INFINITY, f64::min),
            "not_smaller" => all.fold(0.0, f64::max),
            other => return Err(format!("attribute `keep_aspect_ratio_policy` is `{other}`")),
        };
        for stretch in &mut stretches {
            stretch.scale = scale;
            stretch.out = ((scale * stretch.size as f64 + 0.5) as usize).max(1);
        }
    }
    let mode = Mode {
        kind: node.text("mode", "nearest")?,
        coordinates: node
            .text("coordinate_transformation_mode", if old { "asymmetric" } else { "half_pixel" })?,
        rounding: node.text("nearest_mode", if old { "floor" } else { "round_prefer_floor" })?,
        cubic: node.float("cubic_coeff_a", -0.75)?.into(),
        antialias: node.int("antialias", 0)? != 0,
        exclude_outside: node.int("exclude_outside", 0)? != 0,
        extrapolation: node.float("extrapolation_value", 0.0)?,
    };
    let whole = mode.coordinates == "tf_crop_and_resize";
    stretches.retain(|stretch| {
        let same = stretch.out == stretch.size && (stretch.scale - 1.0).abs() < 1e-9;
        !(same && (!whole || stretch.region == [0.0, 1.0]))
    });
    let kind = x.kind;
    let y = context.resized(x, &stretches, &mode)?;
    context.finish(node, Computed { kind, ..y })
}

fn upsample(context: &mut Context, node: &Node) -> Result<(), String> {
    let x = context.value(node, 0)?;
    let scales = match context.known(node, 1)? {
        Some((scales, _)) => scales.to_vec(),
        None => node.floats("scales")?.ok_or("has no scales")?,
    };
    if scales.len() != x.shape.len() {
        return Err(format!("{} scales do not fit shape {:?}", scales.len(), x.shape));
    }
    let mut stretches = Vec::new();
    for (along, (&size, &scale)) in x.shape.iter().zip(&scales).enumerate() {
        let out = scaled(size, scale)?;
        if out != size {
            stretches.push(Stretch { along, size, out, scale: scale.into(), region: [0.0, 1.0] });
        }
    }
    let mode = Mode {
        kind: node.text("mode", "nearest")?,
        coordinates: "asymmetric",
        rounding: "floor",
        cubic: -0.75,
        antialias: false,
        exclude_outside: false,
        extrapolation: 0.0,
    };
    let y = context.resized(x, &stretches, &mode)?;
    context.finish(node, y)
}
