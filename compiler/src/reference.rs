//! ONNX files on tract, the reference of every comparison.

use crate::error::CompileError;
use crate::import::{Kind, Model, Port, decode};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tract_onnx::model::Onnx;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::element_wise::{ElementWiseMiniOp, ElementWiseOp};
use tract_onnx::tract_hir::ops::element_wise::ElementWiseIntoHir;

/// An ONNX file on tract. Its inputs and outputs are the image's: those that are no state, one after the
/// other; the state goes on from run to run.
pub struct OnnxRunner {
    plan: Arc<TypedRunnableModel>,
    inputs: Vec<Port>,
    outputs: Vec<String>,
    states: Vec<(String, String)>,
    /// Values of the states, in the order of `states`.
    memory: RefCell<Vec<Tensor>>,
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
        let states = model.state_pairs();
        // The file may list initializers among the inputs; what remains comes from outside.
        let load = || -> TractResult<Arc<TypedRunnableModel>> {
            let mut typed = framework.model_for_proto_model(&proto)?;
            for (index, port) in model.inputs.iter().enumerate() {
                typed = typed.with_input_fact(index, f32::fact(&port.shape).into())?;
            }
            typed.into_optimized()?.into_runnable()
        };
        if let Some(port) = model.inputs.iter().find(|port| port.kind != Kind::F32) {
            return Err(fail(format!("input `{}` is {:?}, the reference takes F32", port.name, port.kind)));
        }
        let plan = guarded(load).map_err(fail)?;
        let (inputs, outputs) = (model.inputs, model.outputs);
        let mut this = Self { plan, inputs, outputs, states, memory: RefCell::default(), n_outputs: 0 };
        this.reset();
        this.n_outputs = this.run(&vec![0.0; this.n_inputs()]).map_err(fail)?.len();
        this.reset();
        Ok(this)
    }

    fn state_of(&self, input: &str) -> Option<usize> {
        self.states.iter().position(|(name, _)| name == input)
    }

    /// Forgets the state.
    pub fn reset(&self) {
        let shape = |input: &str| self.inputs.iter().find(|port| port.name == input).map(|port| &*port.shape);
        let zeros = self.states.iter().filter_map(|(input, _)| Tensor::zero::<f32>(shape(input)?).ok());
        *self.memory.borrow_mut() = zeros.collect();
    }

    /// Elements of the input.
    #[must_use]
    pub fn n_inputs(&self) -> usize {
        self.inputs.iter().filter(|port| self.state_of(&port.name).is_none()).map(Port::len).sum()
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
            let mut rest = input;
            let mut values = tvec!();
            for port in &self.inputs {
                values.push(match self.state_of(&port.name) {
                    Some(place) => self.memory.borrow()[place].clone().into(),
                    None => {
                        let parts = rest.split_at_checked(port.len());
                        let (own, after) = parts.ok_or_else(|| TractError::msg("the input is too short"))?;
                        rest = after;
                        Tensor::from_shape(&port.shape, own)?.into()
                    }
                });
            }
            if !rest.is_empty() {
                return Err(TractError::msg("the input is too long"));
            }
            let mut all = Vec::new();
            for (name, output) in self.outputs.iter().zip(self.plan.run(values)?) {
                match self.states.iter().position(|(_, next)| next == name) {
                    Some(place) => self.memory.borrow_mut()[place] = output.into_tensor(),
                    None => all.extend(output.to_plain_array_view::<f32>()?.iter().copied()),
                }
            }
            Ok(all)
        })
    }
}

impl std::fmt::Debug for OnnxRunner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OnnxRunner([{}] -> [{}])", self.n_inputs(), self.n_outputs)
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
