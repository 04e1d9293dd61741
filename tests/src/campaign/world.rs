//! What several campaigns need: a small policy with its contract, and a controller that takes bytes.

use tendon::link::{ControllerKind, InProcess, Launched, launch, launch_stand_in, with_in_process};
use tendon_compiler::sample::{Hidden, mlp, with_metadata};
use tendon_compiler::{Options, compile};
use tendon_runtime::AlignedBytes;
use tendon_runtime::spec::{ContractSpec, METADATA_KEY};
use tendon_sim::Environment;
use tendon_sim::tasks::{TaskEnvironment, find};
use tendon_wire::frame::{Decoder, Frame, MAX_FRAME, MAX_PAYLOAD, encode};
use tendon_wire::message::{Message, Telemetry};

/// A cart-pole policy of random weights with its contract, its schema hash, and the task.
pub(super) fn cart_pole(seed: u64) -> Result<(AlignedBytes, u64, TaskEnvironment), String> {
    cart_pole_with(seed, |_| ())
}

/// The same with a contract that is a little different.
pub(super) fn cart_pole_with(
    seed: u64,
    change: impl FnOnce(&mut ContractSpec),
) -> Result<(AlignedBytes, u64, TaskEnvironment), String> {
    let environment = find("cart-pole").and_then(|task| task.make()).map_err(|error| error.to_string())?;
    let mut spec = environment.contract().clone();
    change(&mut spec);
    let hash = spec.compile().map_err(|error| error.to_string())?.schema_hash();
    let network = mlp(&[environment.observation_len(), 32, 1], Hidden::Tanh, seed);
    let onnx = with_metadata(network, METADATA_KEY, &spec.to_json());
    let image = compile(&onnx, &Options::default()).map_err(|error| error.to_string())?.image;
    Ok((image, hash, environment))
}

/// Starts a controller; the stand-in is this program.
pub(super) fn start(kind: ControllerKind) -> Result<Launched, String> {
    let started = match kind {
        ControllerKind::StandIn => {
            launch_stand_in(&std::env::current_exe().map_err(|error| error.to_string())?, None)
        }
        kind => launch(kind),
    };
    started.map_err(|error| error.to_string())
}

/// The frame of a message, delimiter included.
pub(super) fn framed(message: &Message, sequence: u16) -> Vec<u8> {
    let (mut payload, mut out) = ([0; MAX_PAYLOAD], [0; MAX_FRAME]);
    let payload = message.encode(&mut payload).unwrap_or(&[]);
    let frame = Frame { kind: message.kind(), sequence, payload };
    encode(&frame, &mut out).map_or_else(|_| Vec::new(), <[u8]>::to_vec)
}

/// A controller in this process, by its bytes.
pub(super) struct Node<'m> {
    controller: InProcess<'m>,
    decoder: Decoder,
}

impl Node<'_> {
    /// Lends one whose active image is this to `f`.
    pub(super) fn with<R>(
        image: &AlignedBytes,
        f: impl FnOnce(&mut Node<'_>) -> Result<R, String>,
    ) -> Result<R, String> {
        with_in_process(image.len().next_multiple_of(4096), |mut controller| {
            let (mut session, _) =
                tendon::link::Session::open(&mut controller).map_err(|error| error.to_string())?;
            session.upload(image, |_| ()).map_err(|error| error.to_string())?;
            f(&mut Node { controller, decoder: Decoder::new() })
        })
    }

    /// Bytes in, messages out.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Vec<Message> {
        let mut messages = Vec::new();
        for byte in self.controller.bytes(bytes) {
            if let Some(Ok(frame)) = self.decoder.push(byte) {
                messages.extend(Message::decode(frame.kind, frame.payload));
            }
        }
        messages
    }

    /// Counters, without a message.
    pub(super) fn telemetry(&self) -> Telemetry {
        self.controller.telemetry()
    }
}
