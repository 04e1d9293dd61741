"""Makes the nets of this folder: policies as PyTorch and Stable-Baselines3 export them, with their vectors.

    python3 -m venv target/peers/torch
    target/peers/torch/bin/pip install torch==2.15.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 \
        stable-baselines3==2.9.2 gymnasium==1.4.0 numpy==2.4.6
    target/peers/torch/bin/python models/roundtrip/make.py            # everything
    target/peers/torch/bin/python models/roundtrip/make.py flow_mlp   # some of it

(On Linux, PyTorch from PyPI brings 4 GB of CUDA libraries and does not start without them. Nothing here uses them.)

Weights are random with fixed seeds: what is tested is the way from PyTorch to the controller, not the behaviour.
`NAME.EXPORTER.onnx` is the graph as the exporter wrote it, without documentation strings and node metadata
(traces of the file that exported it). `NAME.json` holds rows of inputs with the outputs that PyTorch computed in
eager mode in float32 (`out`) and in float64 (`out64`). README.md in this folder says what is in the files.
Nets of the benchmark are larger and go to target/peers/torch-nets, which is not committed.
"""

import copy
import json
import logging
import os
import sys
import warnings
import zlib
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
warnings.simplefilter("ignore")

import numpy
import onnx
import onnxruntime
import torch

sys.dont_write_bytecode = True  # no __pycache__ beside the models
from nets import NETS, FlowLoop

# Stable-Baselines3 converts observations to float32 here, which would keep the float64 reference from float64.
PREPROCESS = "stable_baselines3.common.policies.preprocess_obs"

torch.set_num_threads(1)
# The fused inference kernel of nn.TransformerEncoderLayer has no ONNX form.
torch.backends.mha.set_fastpath_enabled(False)
logging.getLogger("torch.onnx").setLevel(logging.ERROR)


@torch.no_grad()
def enliven(module):
    """Makes fresh weights more like trained ones: matrices of variance 1 / n_in (PyTorch's are a third of that, and
    Stable-Baselines3's last layer is 100 times smaller), and no biases and norms that are all zero or all one."""
    for name, parameter in module.named_parameters():
        if "action_net" in name or ("log_std" in name and parameter.dim() == 1):
            parameter.add_(0.2 * torch.randn_like(parameter))
        elif parameter.dim() > 1 and "weight" in name and "codebook" not in name:
            parameter.mul_(3**0.5)
        elif parameter.dim() == 1 and (parameter == parameter[0]).all():
            parameter.add_(0.2 * torch.randn_like(parameter))


def evaluate(net, dtype):
    """Outputs per row in eager mode. A recurrent net carries its state, in `dtype`, from row to row."""
    module = copy.deepcopy(net.eager or net.module).to(dtype)
    state = {name: torch.zeros(net.inputs[name], dtype=dtype) for name, _ in net.state}
    given, computed = [], []
    for row in net.rows:
        values = {k: torch.from_numpy(v).to(dtype) for k, v in row.items()} | state
        values = {name: values[name] for name in net.inputs}
        with torch.no_grad(), mock.patch(PREPROCESS, lambda obs, *_, **__: obs):
            outputs = module(*values.values())
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        state = {name: outputs[net.outputs.index(out)] for name, out in net.state}
        given.append([v.numpy() for v in values.values()])
        computed.append([v.numpy() for v in outputs])
    return given, computed


@torch.no_grad()
def export(net, exporter, path):
    """Writes one file; returns its opset."""
    example = tuple(torch.from_numpy(v.copy()) for v in evaluate(net, torch.float32)[0][0])
    module = copy.deepcopy(net.module)  # Stable-Baselines3 leaves tensors of its last run in the module
    module = torch.jit.script(module) if isinstance(module, FlowLoop) else module
    names = {"input_names": list(net.inputs), "output_names": net.outputs, "opset_version": net.exporters[exporter]}
    if exporter == "torchscript":
        axes = {name: {0: "batch"} for name in (*net.inputs, *net.outputs)} if net.dynamic_batch else {}
        torch.onnx.export(module, example, path, dynamo=False, dynamic_axes=axes, **names)
    else:
        # Arguments of distributions are checked with an operator that has no ONNX form (aten::_is_all_true).
        torch.distributions.Distribution.set_default_validate_args(False)
        shapes = tuple({0: torch.export.Dim("batch")} for _ in example) if net.dynamic_batch else None
        if net.dynamic_batch:  # of one row, torch.export would make a constant
            example = tuple(torch.cat([v, v]) for v in example)
        torch.onnx.export(
            module, example, path, dynamo=True, external_data=False, verbose=False, dynamic_shapes=shapes, **names
        )
    model = onnx.load(path)
    strip(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return next(s.version for s in model.opset_import if s.domain in ("", "ai.onnx"))


def strip(model):
    """Removes what names the machine: documentation strings and metadata."""
    graphs = [model.graph]
    del model.metadata_props[:]
    for function in model.functions:
        graphs.append(function)
    while graphs:
        graph = graphs.pop()
        graph.doc_string = ""
        if hasattr(graph, "metadata_props"):
            del graph.metadata_props[:]
        infos = [getattr(graph, field, []) for field in ("input", "output", "value_info", "initializer")]
        for thing in [*graph.node, *(v for group in infos for v in group if not isinstance(v, str))]:
            thing.doc_string = ""
            del thing.metadata_props[:]
        for node in graph.node:
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def difference(path, given, computed):
    """Largest difference of onnxruntime from PyTorch in float32, with the state as PyTorch carries it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names, worst = [i.name for i in session.get_inputs()], 0.0
    for inputs, outputs in zip(given, computed):
        for ours, theirs in zip(session.run(None, dict(zip(names, inputs))), outputs):
            worst = max(worst, float(numpy.abs(ours.reshape(theirs.shape) - theirs).max()))
    return worst


def numbers(array, digits=None):
    """Numbers as text: of float32 the shortest that reads back as the same float32."""
    if digits is None:
        return [Verbatim(numpy.format_float_positional(v, unique=True, trim="-") if abs(v) >= 1e-4 or v == 0
                         else str(v)) for v in array.ravel()]  # fmt: skip
    return [Verbatim(f"{v:.{digits}g}") for v in array.ravel()]


class Verbatim(float):
    """A number that keeps the text it was made from."""

    def __new__(cls, text):
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __repr__(self):
        return self.text


def write_json(path, document):
    """One row per line."""
    rows = ",\n".join(row_text(row) for row in document.pop("rows"))
    head = "".join(f'"{key}": {json.dumps(value)},\n' for key, value in document.items())
    path.write_text(f'{{\n{head}"rows": [\n{rows}\n]\n}}\n')
    json.loads(path.read_text())


def row_text(row):
    parts = []
    for key, tensors in row.items():
        parts.append(f'"{key}": [' + ",".join("[" + ",".join(map(repr, t)) + "]" for t in tensors) + "]")
    return "{" + ", ".join(parts) + "}"


def make(name, seed):
    torch.manual_seed(seed)
    net = NETS[name]()
    for module in filter(None, (net.module, net.eager)):
        module.eval()
    enliven(net.eager or net.module)  # they share their weights
    net.folder.mkdir(parents=True, exist_ok=True)
    given, computed = evaluate(net, torch.float32)
    _, exact = evaluate(net, torch.float64)
    files = []
    for exporter in net.exporters:
        path = net.folder / f"{name}.{exporter}.onnx"
        try:
            opset = export(net, exporter, path)
        except Exception as error:
            path.unlink(missing_ok=True)
            print(f"{path.name}: not exported: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            continue
        worst = difference(path, given, computed)
        operators = sorted({node.op_type for node in all_nodes(onnx.load(path).graph)})
        print(f"{path.name}: opset {opset}, {path.stat().st_size} B, onnxruntime {worst:.1e} away; {' '.join(operators)}")
        files.append({"file": path.name, "exporter": exporter, "opset": opset})
    shape = lambda names, arrays: [{"name": n, "shape": list(a.shape)} for n, a in zip(names, arrays)]
    document = {
        "name": name,
        "models": files,
        "inputs": shape(net.inputs, given[0]),
        "outputs": shape(net.outputs, computed[0]),
        "state": net.state,
        "rows": [
            {"in": [numbers(v) for v in i], "out": [numbers(v) for v in o], "out64": [numbers(v, 9) for v in x]}
            for i, o, x in zip(given, computed, exact)
        ],
    }
    write_json(net.folder / f"{name}.json", document)


def all_nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g)


if __name__ == "__main__":
    unknown = set(sys.argv[1:]) - set(NETS)
    if unknown:
        sys.exit(f"no net is called {', '.join(sorted(unknown))}; there are {', '.join(NETS)}")
    for name in sys.argv[1:] or NETS:
        # The flow nets share weights and so one seed; of the others each has its own.
        make(name, zlib.crc32(name.split("_")[0].encode() if name.startswith("flow") else name.encode()))
