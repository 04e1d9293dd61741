//! What can be wrong with a file, each with the place, the value and the next step. The caller adds
//! the name of the file.

use tendon_runtime::spec::SpecError;

/// Why bytes are no ONNX model that this compiler reads.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ImportError {
    /// Beyond a bound that no policy reaches.
    #[error(
        "{what} is {value}, the limit is {limit}: this is no robot policy, or it needs to be made smaller"
    )]
    TooLarge {
        /// What was measured.
        what: &'static str,
        /// Value found.
        value: usize,
        /// Bound.
        limit: usize,
    },
    /// Not a protobuf.
    #[error("it is no ONNX protobuf ({0}): export or copy the file again")]
    Protobuf(String),
    /// A mandatory field is absent.
    #[error("field `{field}` is absent: this is no whole ONNX model")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A field of the model is not read.
    #[error("field `{field}` {problem}")]
    Model {
        /// The field.
        field: &'static str,
        /// Value and next step.
        problem: String,
    },
    /// The input's type or shape does not fit.
    #[error("input `{name}` {problem}")]
    Input {
        /// Name of the input.
        name: String,
        /// Value and next step.
        problem: String,
    },
    /// A constant does not hold.
    #[error("tensor `{name}` {problem}")]
    Tensor {
        /// Name of the initializer, or `node.attribute`.
        name: String,
        /// Value and next step.
        problem: String,
    },
    /// Weights lie in another file.
    #[error(
        "tensor `{name}` keeps its data in another file (`{file}`): save the model as one file (onnx.save with save_as_external_data=False)"
    )]
    External {
        /// Name of the initializer.
        name: String,
        /// The other file.
        file: String,
    },
    /// Two things have one name.
    #[error("the name `{name}` is defined twice: export the file again")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A name that nothing defines.
    #[error("`{node}` reads `{name}`, which nothing defines: export the file again")]
    Undefined {
        /// The name.
        name: String,
        /// Who reads it.
        node: String,
    },
    /// The graph has a cycle.
    #[error("node `{node}` depends on its own output: export the file again")]
    Cycle {
        /// A node that waits for ever.
        node: String,
    },
}

/// Why a model does not become an image.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CompileError {
    /// The file itself.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// An operator without a lowering.
    #[error(
        "operator `{op}` (node `{node}`) is not supported: export without it, or add a lowering in compiler/src/lower; supported: {supported}"
    )]
    UnsupportedOperator {
        /// ONNX operator.
        op: String,
        /// Node.
        node: String,
        /// Every operator with a lowering.
        supported: String,
    },
    /// An operator in a form that has no lowering.
    #[error("operator `{op}` (node `{node}`): {problem}")]
    Node {
        /// ONNX operator.
        op: String,
        /// Node.
        node: String,
        /// Field, value and next step.
        problem: String,
    },
    /// A size beyond what a controller takes.
    #[error("{what} is {value}, the limit of an image is {limit}: make the network smaller")]
    TooLarge {
        /// What was measured.
        what: &'static str,
        /// Value found.
        value: usize,
        /// Bound.
        limit: usize,
    },
    /// The contract.
    #[error(transparent)]
    Contract(#[from] ContractSourceError),
    /// Contract and graph do not belong together.
    #[error("{0}")]
    Mismatch(String),
    /// The finished image was refused by the runtime's own checks.
    #[error(
        "the finished image does not pass the runtime's checks ({0}): this is a fault of the compiler, report it"
    )]
    Image(String),
}

/// Why there is no complete contract.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ContractSourceError {
    /// The TOML does not parse.
    #[error("{file}:{line}:{column}: {problem}")]
    Toml {
        /// Name of the TOML file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong, with the nearest key that exists.
        problem: String,
    },
    /// Larger than any contract.
    #[error("{file}: has {length} bytes, a contract has at most {limit}: is this the right file?")]
    TooLarge {
        /// Name of the file or metadata key.
        file: String,
        /// Bytes found.
        length: usize,
        /// Bound.
        limit: usize,
    },
    /// A metadata key does not parse.
    #[error("metadata key `{key}`: {problem}")]
    Metadata {
        /// ONNX metadata key.
        key: String,
        /// Value and next step.
        problem: String,
    },
    /// Some metadata is there, and more is needed.
    #[error(
        "the file's metadata ({found}) is no whole contract; missing: {missing}. Give them with `--contract FILE.toml` (examples in models/contracts; `use_metadata = true` there takes over what the file has), or compile a bare network with `--bare`"
    )]
    Incomplete {
        /// Keys found.
        found: String,
        /// What a contract needs beyond them.
        missing: String,
    },
    /// The contract does not hold.
    #[error("{origin}: {error}")]
    Spec {
        /// Where the contract came from.
        origin: String,
        /// Field, value, next step.
        error: SpecError,
    },
}
