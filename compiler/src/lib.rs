//! ONNX to a sealed policy image: import, lowering, memory plan, image, parity, inspection.
//!
//! ```text
//! bytes -> import::Model -> Program (lower, fuse) -> Memory (plan) -> operators (emit) -> image
//! ```
//! [`compile`] does all of it; [`parity`] compares any two ways to run the same policy;
//! [`inspect`] prints what is in an image. No input makes this library panic.
#![forbid(unsafe_code)]

mod abstain;
mod budget;
mod contract_source;
mod emit;
mod error;
mod fuse;
mod image;
mod import;
pub mod inspect;
mod lower;
mod metadata;
pub mod parity;
mod plan;
mod program;
mod quantize;
mod random;
pub mod range;
mod reference;
pub mod sample;
pub mod trace;

pub use abstain::{Abstain, AbstentionReport};
pub use contract_source::{ContractChoice, MAX_CONTRACT, contract_of};
pub use error::{CompileError, ContractSourceError, ImportError};
pub use image::{Manifest, ManifestError};
pub use import::{Kind, MAX_FILE, MAX_NODES, Model, Port};
pub use lower::supported_operators;
pub use quantize::{LayerError, Quantization};

use tendon_runtime::AlignedBytes;
use tendon_runtime::spec::ContractSpec;

/// What an image gets beside the network.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Which contract.
    pub contract: ContractChoice<'a>,
    /// The controller refuses an image with a smaller counter than it has stored.
    pub rollback_counter: u32,
    /// Golden vectors to put in; fewer when they would need more than 64 KiB.
    pub golden_vectors: u32,
    /// Seed of the golden inputs.
    pub seed: u64,
    /// Inputs that are state, each with the output that it becomes. `None`: pairs named as exporters name them
    /// ([`Model::state_pairs`]).
    pub states: Option<&'a [(String, String)]>,
    /// Recorded observations `[n_inputs]`, in order: dense layers get 8-bit weights and 16-bit activations
    /// (8w16a) with the ranges seen there.
    pub quantize: Option<&'a [Vec<f32>]>,
    /// Recorded runs: the controller abstains from observations unlike theirs.
    pub abstain: Option<Abstain<'a>>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            contract: ContractChoice::default(),
            rollback_counter: 0,
            golden_vectors: 4,
            seed: 1,
            states: None,
            quantize: None,
            abstain: None,
        }
    }
}

/// A finished image.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The bytes of `policy.tnd`.
    pub image: AlignedBytes,
    /// The contract inside; `None`: a bare network.
    pub contract: Option<ContractSpec>,
    /// The network's outputs, one after the other; those that become state are not among them.
    pub outputs: Vec<Port>,
    /// How far the quantized network is from the `f32` one.
    pub quantization: Option<Quantization>,
    /// How the abstention threshold was found.
    pub abstention: Option<AbstentionReport>,
    /// Elements of the arena that no plan could do without, and that this one needs.
    pub arena: ArenaUse,
}

/// How well the arena is packed, `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaUse {
    /// Most that lives at one time.
    pub lower_bound: usize,
    /// What the plan takes.
    pub planned: usize,
}

/// Compiles ONNX bytes to an image that has passed the runtime's checks and self-test.
///
/// # Errors
/// The first thing that does not hold; the caller adds the file's name. Never panics.
pub fn compile(onnx: &[u8], options: &Options<'_>) -> Result<Compiled, CompileError> {
    let model = Model::from_bytes(onnx)?;
    let contract = contract_of(&model, options.contract)?;
    let pairs = options.states.map_or_else(|| model.state_pairs(), <[_]>::to_vec);
    let (program, outputs) = lower::lower(&model, &pairs)?;
    let program = fuse::fuse(program);
    let (program, quantization) = match options.quantize {
        Some(rows) => {
            let (program, report) = quantize::quantize(&program, rows)?;
            (program, Some(report))
        }
        None => (program, None),
    };
    let memory = plan::plan(&program);
    let network = emit::emit(&program, &memory)?;
    let compiled_contract = match &contract {
        Some(spec) => {
            let compiled = spec.compile().map_err(|error| {
                CompileError::Contract(ContractSourceError::Spec { origin: "contract".into(), error })
            })?;
            contract_source::check_counts(
                spec,
                &compiled.view(),
                &model,
                network.plan.n_inputs as usize,
                network.plan.n_outputs as usize,
            )?;
            Some(compiled)
        }
        None => None,
    };
    let manifest = Manifest {
        compiler: format!("tendon {}", env!("CARGO_PKG_VERSION")),
        producer: model.producer.clone(),
        opset: model.opset,
        inputs: model.inputs.clone(),
        outputs: model.outputs.clone(),
        states: pairs,
        operators: network.names.clone(),
        contract: contract.clone(),
    };
    let seal = image::Seal {
        rollback_counter: options.rollback_counter,
        golden_vectors: options.golden_vectors,
        seed: options.seed,
    };
    let n_inputs = network.plan.n_inputs as usize;
    let abstention = options.abstain.map(|abstain| abstain::calibrate(&abstain, n_inputs, contract.as_ref()));
    let (section, abstention) = abstention.transpose()?.unzip();
    let section = section.unwrap_or_default();
    let image = image::write(network, compiled_contract.as_ref(), &manifest, &section, &seal)?;
    let arena = ArenaUse { lower_bound: memory.lower_bound, planned: memory.arena_len };
    Ok(Compiled { image, contract, quantization, abstention, outputs, arena })
}
