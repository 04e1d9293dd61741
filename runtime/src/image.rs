//! Policy images: bytes parsed once into a type that cannot be wrong.

use crate::{Abstention, Contract, ContractError, Network, NetworkError};
use tendon_wire::image::{Header, Layout, LayoutError, Plan, Section, section_bytes};
use tendon_wire::{FNV1A_START, fnv1a};

/// Proof that an image was checked from end to end, detached from its bytes so that a controller can
/// own both. The bytes must not change afterwards; [`Image::policy`] gives the view.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    header: Header,
}

/// An image's content, in place.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    /// What the network observes and moves; `None`: a bare network, which no controller arms.
    pub contract: Option<Contract<'a>>,
    /// The operators.
    pub network: Network<'a>,
    /// Golden vectors: input then output, `plan.golden_count` times.
    pub golden: &'a [f32],
    /// Which observations the network was trained for; `None`: it never abstains.
    pub abstention: Option<Abstention<'a>>,
}

/// Why bytes are no policy image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ImageError {
    /// The bytes do not hold together.
    Layout(LayoutError),
    /// A section has not the length of its records.
    Section(&'static str),
    /// The contract does not hold.
    Contract(ContractError),
    /// The operator table does not hold.
    Network(NetworkError),
    /// Contract and network differ in this count.
    Mismatch(&'static str),
}

impl core::fmt::Display for ImageError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Layout(error) => write!(f, "policy image: {error}"),
            Self::Section(name) => {
                write!(
                    f,
                    "policy image: section {name} has not the length of its records: compile the policy again"
                )
            }
            Self::Contract(error) => write!(f, "policy image: {error}"),
            Self::Network(error) => write!(f, "policy image: {error}"),
            Self::Mismatch(field) => {
                write!(f, "policy image: contract and network differ in {field}: compile the policy again")
            }
        }
    }
}

impl core::error::Error for ImageError {}

impl Image {
    /// Checks layout, contract, operators and golden vectors. `bytes`: 16-byte aligned; may be longer
    /// than the image.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let layout = Layout::parse(bytes).map_err(ImageError::Layout)?;
        let image = Self { header: *layout.header() };
        let policy = image
            .policy(bytes)
            .ok_or(ImageError::Section("contract, operators, weights, plan or abstention"))?;
        let plan = policy.network.plan();
        Network::new(policy.network.operators(), policy.network.weights(), plan)
            .map_err(ImageError::Network)?;
        if u64::from(plan.instructions) != crate::cost::instructions(&policy.network).min(u32::MAX.into()) {
            return Err(ImageError::Mismatch("instructions"));
        }
        let vector = u64::from(plan.n_inputs) + u64::from(plan.n_outputs);
        if policy.golden.len() as u64 != vector * u64::from(plan.golden_count) {
            return Err(ImageError::Section("golden"));
        }
        let contract_bytes = layout.section(Section::Contract);
        let hash = if contract_bytes.is_empty() { 0 } else { fnv1a(FNV1A_START, contract_bytes) };
        if hash != image.header.schema_hash {
            return Err(ImageError::Mismatch("schema_hash"));
        }
        if let Some(abstention) = policy.abstention {
            abstention.check(plan.n_inputs).map_err(ImageError::Section)?;
        }
        if let Some(contract) = policy.contract {
            contract.check().map_err(ImageError::Contract)?;
            if contract.header.n_observation != plan.n_inputs {
                return Err(ImageError::Mismatch("inputs"));
            }
            if u32::from(contract.header.n_actions) != plan.n_outputs {
                return Err(ImageError::Mismatch("outputs"));
            }
            if contract.header.history_len != plan.history_len {
                return Err(ImageError::Mismatch("history"));
            }
        }
        Ok(image)
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Robot id; empty when it is no UTF-8.
    #[must_use]
    pub fn robot_id(&self) -> &str {
        let id = self.header.robot_id.split(|&b| b == 0).next().unwrap_or(&[]);
        core::str::from_utf8(id).unwrap_or("")
    }

    /// The content, from the bytes that were parsed. `None` when other bytes are given.
    #[must_use]
    pub fn policy<'a>(&self, bytes: &'a [u8]) -> Option<Policy<'a>> {
        let section = |section| section_bytes(bytes, &self.header, section);
        let contract = match section(Section::Contract) {
            [] => None,
            bytes => Some(Contract::split(bytes)?),
        };
        let operators = bytemuck::try_cast_slice(section(Section::Operators)).ok()?;
        let weights = bytemuck::try_cast_slice(section(Section::Weights)).ok()?;
        let plan: &Plan = bytemuck::try_from_bytes(section(Section::Plan)).ok()?;
        let golden = bytemuck::try_cast_slice(section(Section::Golden)).ok()?;
        let abstention = match section(Section::Abstention) {
            [] => None,
            bytes => Some(Abstention::split(bytes)?),
        };
        let network = Network::assume_checked(operators, weights, plan);
        Some(Policy { contract, network, golden, abstention })
    }
}

impl Policy<'_> {
    /// Input `[n_inputs]` of a golden vector.
    #[must_use]
    pub fn golden_input(&self, vector: usize) -> Option<&[f32]> {
        let plan = self.network.plan();
        let (n_in, n_out) = (plan.n_inputs as usize, plan.n_outputs as usize);
        let start = vector.checked_mul(n_in.checked_add(n_out)?)?;
        self.golden.get(start..start.checked_add(n_in)?)
    }

    /// Runs every golden vector over `arena`, the state going on from one to the next, and compares bit for bit. Returns the first vector that
    /// differs.
    ///
    /// # Errors
    /// The number of the vector.
    pub fn self_test(&self, arena: &mut [f32]) -> Result<(), u32> {
        let plan = self.network.plan();
        let (n_in, n_out) = (plan.n_inputs as usize, plan.n_outputs as usize);
        let mut rest = self.golden;
        self.network.reset(arena);
        for vector in 0..plan.golden_count {
            let (input, after) = rest.split_at_checked(n_in).ok_or(vector)?;
            let (expected, after) = after.split_at_checked(n_out).ok_or(vector)?;
            rest = after;
            let output = self.network.run(input, arena).ok_or(vector)?;
            let same = output.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
            if !same {
                return Err(vector);
            }
        }
        Ok(())
    }
}
