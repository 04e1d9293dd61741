//! The image writer: sections, manifest, golden vectors, checksum; checked by the runtime at the end.

use crate::emit::Emitted;
use crate::error::CompileError;
use crate::import::Port;
use crate::random::Random;
use bytemuck::Zeroable;
use serde::{Deserialize, Serialize};
use tendon_runtime::cost::instructions;
use tendon_runtime::spec::{CompiledContract, ContractSpec};
use tendon_runtime::{AlignedBytes, Image, Network};
use tendon_wire::CRC32C;
use tendon_wire::image::{
    ALIGN, CRC_FROM, FORMAT_VERSION, Header, Layout, LayoutError, MAGIC, MAX_IMAGE, Section, Span,
};

/// Most bytes of golden vectors.
const MAX_GOLDEN: usize = 64 << 10;

/// What the manifest section says, for people and host tools; the controller does not read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Program and version that wrote the image.
    pub compiler: String,
    /// Program and version that wrote the ONNX file.
    pub producer: String,
    /// ONNX operator set.
    pub opset: i64,
    /// The graph's inputs; those that are no state make up the network's input, in this order.
    pub inputs: Vec<Port>,
    /// Names of the graph's outputs; likewise.
    pub outputs: Vec<String>,
    /// Inputs that are state, each with the output that it becomes.
    pub states: Vec<(String, String)>,
    /// ONNX node behind each operator.
    pub operators: Vec<String>,
    /// The contract; `None`: a bare network.
    pub contract: Option<ContractSpec>,
}

/// Why there is no manifest.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are no image.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The section does not parse.
    #[error("manifest of the image: {0}: compile the policy again")]
    Json(String),
}

impl Manifest {
    /// Reads the manifest of an image; `bytes` are 16-byte aligned.
    ///
    /// # Errors
    /// When the bytes are no image or the section is no manifest.
    pub fn of_image(bytes: &[u8]) -> Result<Self, ManifestError> {
        let layout = Layout::parse(bytes)?;
        serde_json::from_slice(layout.section(Section::Manifest))
            .map_err(|error| ManifestError::Json(error.to_string()))
    }
}

/// What stands in an image beside the network and its contract.
pub(crate) struct Seal {
    pub(crate) rollback_counter: u32,
    pub(crate) golden_vectors: u32,
    pub(crate) seed: u64,
}

/// Writes an image and checks it with the runtime.
pub(crate) fn write(
    mut network: Emitted,
    contract: Option<&CompiledContract>,
    manifest: &Manifest,
    abstention: &[u8],
    seal: &Seal,
) -> Result<AlignedBytes, CompileError> {
    network.plan.history_len = contract.map_or(0, |contract| contract.view().header.history_len);
    let golden = golden_vectors(&network, seal)?;
    let priced = Network::new(&network.operators, &network.weights, &network.plan)
        .map_err(|error| CompileError::Image(error.to_string()))?;
    network.plan.instructions = instructions(&priced).min(u32::MAX.into()) as u32;
    let vector = (network.plan.n_inputs + network.plan.n_outputs) as usize;
    network.plan.golden_count = (golden.len() / vector.max(1)) as u32;
    let contract_bytes = contract.map_or(Vec::new(), CompiledContract::bytes);
    let manifest_bytes =
        serde_json::to_vec(manifest).map_err(|error| CompileError::Image(error.to_string()))?;
    let sections: [(Section, &[u8]); 7] = [
        (Section::Contract, &contract_bytes),
        (Section::Operators, bytemuck::cast_slice(&network.operators)),
        (Section::Weights, bytemuck::cast_slice(&network.weights)),
        (Section::Plan, bytemuck::bytes_of(&network.plan)),
        (Section::Golden, bytemuck::cast_slice(&golden)),
        (Section::Manifest, &manifest_bytes),
        (Section::Abstention, abstention),
    ];
    let mut header = Header::zeroed();
    header.magic = MAGIC;
    header.format_version = FORMAT_VERSION;
    header.rollback_counter = seal.rollback_counter;
    header.schema_hash = contract.map_or(0, CompiledContract::schema_hash);
    let robot = manifest.contract.as_ref().map_or("", |contract| &contract.robot);
    for (place, byte) in header.robot_id.iter_mut().zip(robot.bytes()) {
        *place = byte;
    }
    let mut bytes = vec![0; size_of::<Header>()];
    for (section, content) in sections {
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        if bytes.len() + content.len() > MAX_IMAGE {
            return Err(CompileError::TooLarge {
                what: "the image (bytes)",
                value: bytes.len() + content.len(),
                limit: MAX_IMAGE,
            });
        }
        let span = Span { offset: bytes.len() as u32, len: content.len() as u32 };
        header.sections[section as usize] = if content.is_empty() { Span::default() } else { span };
        bytes.extend_from_slice(content);
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
    header.total_len = bytes.len() as u32;
    bytes[..size_of::<Header>()].copy_from_slice(bytemuck::bytes_of(&header));
    let crc = CRC32C.checksum(&bytes[CRC_FROM..]);
    bytes[size_of_val(&MAGIC)..CRC_FROM].copy_from_slice(&crc.to_le_bytes());
    let image = AlignedBytes::new(&bytes);
    check(&image)?;
    Ok(image)
}

/// The runtime's own checks and self-test, as the controller will do them.
fn check(bytes: &[u8]) -> Result<(), CompileError> {
    let image = Image::parse(bytes).map_err(|error| CompileError::Image(error.to_string()))?;
    let policy = image.policy(bytes).ok_or_else(|| CompileError::Image("no view".into()))?;
    let mut arena = vec![f32::NAN; policy.network.plan().arena_len as usize];
    policy
        .self_test(&mut arena)
        .map_err(|vector| CompileError::Image(format!("golden vector {vector} differs on a second run")))
}

/// Inputs with the runtime's own outputs: what the controller must reproduce bit for bit. First zeros,
/// then seeded inputs of growing size. Vectors with a non-finite output are left out: the bits of a
/// NaN are the hardware's choice. The state goes on from vector to vector, so the first such output ends them.
fn golden_vectors(network: &Emitted, seal: &Seal) -> Result<Vec<f32>, CompileError> {
    let plan = &network.plan;
    let checked = Network::new(&network.operators, &network.weights, plan)
        .map_err(|error| CompileError::Image(error.to_string()))?;
    let vector = (plan.n_inputs as usize + plan.n_outputs as usize) * size_of::<f32>();
    let count = (seal.golden_vectors as usize).min(MAX_GOLDEN / vector);
    let mut arena = vec![f32::NAN; plan.arena_len as usize];
    checked.reset(&mut arena);
    let mut random = Random::new(seal.seed);
    let mut golden = Vec::new();
    for index in 0..count {
        let size = index as f32;
        let input: Vec<f32> = (0..plan.n_inputs).map(|_| size * random.symmetric()).collect();
        let output =
            checked.run(&input, &mut arena).ok_or_else(|| CompileError::Image("no output".into()))?;
        if output.iter().all(|value| value.is_finite()) {
            golden.extend_from_slice(&input);
            golden.extend_from_slice(output);
        } else if plan.state_len > 0 {
            break;
        }
    }
    Ok(golden)
}
