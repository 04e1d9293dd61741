//! ONNX files on tract, the reference of every comparison.

use crate::error::CompileError;
use crate::import::{Model, decode, elements};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tract_onnx::model::Onnx;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::element_wise::{ElementWiseMiniOp, ElementWiseOp};
use tract_onnx::tract_hir::ops::element_wise::ElementWiseIntoHir;

/// An ONNX file on tract.
pub struct OnnxRunner {
    plan: Arc<TypedRunnableModel>,
    shape: Vec<usize>,
    n_outputs: usize,
}

impl OnnxRunner {
    /// Loads and optimizes the model with batch 1. Sigmoid is computed in `f64` and rounded: tract's own
    /// is a fit that saturates at 14.5, whose error grows with `x` in `x * sigmoid(x)`. On the Go1
    /// policy, random inputs, that took tract 1.8e-5 away from an `f64` evaluation, the runtime 7e-6.
    ///
    /// # Errors
    /// What the own import refuses, then what tract refuses.
    pub fn new(onnx: &[u8]) -> Result<Self, CompileError> {
        let mut framework = tract_onnx::onnx();
        framework
            .op_register
            .insert("Sigmoid", |_, _| Ok((ElementWiseOp(Box::new(RoundedSigmoid), None).into_hir(), vec![])));
        Self::load(onnx, &framework)
    }

    /// The same with tract's own kernels throughout, as tract's users run it.
    ///
    /// # Errors
    /// As [`OnnxRunner::new`].
    pub fn stock(onnx: &[u8]) -> Result<Self, CompileError> {
        Self::load(onnx, &tract_onnx::onnx())
    }

    fn load(onnx: &[u8], framework: &Onnx) -> Result<Self, CompileError> {
        let model = Model::from_bytes(onnx)?;
        let proto = decode(onnx)?;
        let fail = |error: String| CompileError::Mismatch(format!("tract does not take the file: {error}"));
        let shape = model.input.shape;
        // The file may list initializers among the inputs; what remains is the observation.
        let load = || -> TractResult<Arc<TypedRunnableModel>> {
            framework
                .model_for_proto_model(&proto)?
                .with_input_fact(0, f32::fact(&shape).into())?
                .into_optimized()?
                .into_runnable()
        };
        let plan = guarded(load).map_err(fail)?;
        let mut this = Self { plan, shape, n_outputs: 0 };
        let zeros = vec![0.0; elements(&this.shape).unwrap_or(0)];
        this.n_outputs = this.run(&zeros).map_err(fail)?.len();
        Ok(this)
    }

    /// Elements of the input.
    #[must_use]
    pub fn n_inputs(&self) -> usize {
        self.shape.iter().product()
    }

    /// Elements of the output.
    #[must_use]
    pub fn n_outputs(&self) -> usize {
        self.n_outputs
    }

    /// One inference.
    ///
    /// # Errors
    /// When the input has not the model's length, or what tract reports.
    pub fn run(&self, input: &[f32]) -> Result<Vec<f32>, String> {
        guarded(|| {
            let input = Tensor::from_shape(&self.shape, input)?;
            let outputs = self.plan.run(tvec!(input.into()))?;
            let output = outputs.first().ok_or_else(|| TractError::msg("no output"))?;
            Ok(output.to_plain_array_view::<f32>()?.iter().copied().collect())
        })
    }
}

impl std::fmt::Debug for OnnxRunner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OnnxRunner({:?} -> [{}])", self.shape, self.n_outputs)
    }
}

/// `1 / (1 + exp(-x))` to the last bit.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RoundedSigmoid;

impl ElementWiseMiniOp for RoundedSigmoid {
    fn name(&self) -> String {
        "RoundedSigmoid".into()
    }

    fn eval_in_place(&self, tensor: &mut Tensor, _: Option<DatumType>) -> TractResult<()> {
        for x in tensor.to_plain_array_view_mut::<f32>()?.iter_mut() {
            *x = (1.0 / (1.0 + (-f64::from(*x)).exp())) as f32;
        }
        Ok(())
    }
}

/// Runs tract code. Its loader and optimizer assert on graphs that are well-formed ONNX and still
/// foreign to it, so this is the one border where a panic becomes an error.
fn guarded<T>(f: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|error| format!("{error:#}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(format!("tract panicked: {text}"))
        }
    }
}
