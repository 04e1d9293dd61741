"""What emx-onnx-cgen makes of the official ONNX node tests, for its column in docs/conformance.md.

    python3 -m venv target/peers/emx && target/peers/emx/bin/pip install emx-onnx-cgen==1.4.0 onnx==1.23.2
    target/peers/emx/bin/python tests/conformance/emx.py target/peers/onnx-node-1.23.2 target/peers/emx-1.4.0.json

Every case goes through the backend that emx-onnx-cgen itself brings for these tests: ONNX to C with its test bench,
`$CC -O2` (gcc unless set; its C for bfloat16 and 4-bit integers needs gcc 14 or clang 19), one run with the inputs of
the case. Outputs are judged by onnx's own comparison (equal shape and type, rtol 1e-3, atol 1e-7). The JSON gives,
per case, `passed`, `refused: WHY` (no C was generated) or `failed: WHY` (C that does not compile, does not run, or
computes something else). A case has LIMIT_S seconds. A second start goes on where the first one stopped; `--again
TEXT` first forgets the verdicts with TEXT in them.
"""

import json
import multiprocessing
import os
import pathlib
import signal
import sys
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CC", "gcc")

import onnx
from onnx import numpy_helper

LIMIT_S = 120


def read_value(path, declared):
    """One input_N.pb or output_N.pb, as onnx's own test runner would hand it over."""
    message, convert = {
        "tensor_type": (onnx.TensorProto, numpy_helper.to_array),
        "sequence_type": (onnx.SequenceProto, numpy_helper.to_list),
        "optional_type": (onnx.OptionalProto, numpy_helper.to_optional),
        "map_type": (onnx.MapProto, numpy_helper.to_dict),
    }[declared.type.WhichOneof("value")]
    return convert(message.FromString(path.read_bytes()))


def verdict(case):
    """Runs in a process of its own: passed, refused or failed."""
    from emx_onnx_cgen import onnx_backend  # noqa: F401  (imported before the fork; here for readers)
    from emx_onnx_cgen.onnx_backend import backend
    from onnx.backend.test.runner import Runner

    model = onnx.load(case / "model.onnx")
    for data in sorted(case.glob("test_data_set_*")):
        inputs, expected = (
            [read_value(data / f"{name}_{i}.pb", value_info) for i, value_info in enumerate(declared)]
            for name, declared in (("input", model.graph.input), ("output", model.graph.output))
        )
        try:
            normalized = backend._normalize_runtime_inputs(model, tuple(inputs))
            hints = backend._infer_sequence_element_shapes(model, normalized)
            prepared = backend.EmxOnnxCgenBackend.prepare(model, sequence_element_shapes=hints)
        except RuntimeError as error:
            kind = "failed" if "C compilation failed" in str(error) else "refused"
            return f"{kind}: {brief(error)}"
        except Exception as error:
            return f"refused: {brief(error)}"
        try:
            outputs = prepared.run(inputs)
            Runner.assert_similar_outputs(expected, outputs, rtol=1e-3, atol=1e-7)
        except Exception as error:
            return f"failed: {brief(error)}"
    return "passed"


def brief(error):
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


def worker(case, pipe):
    os.setsid()  # so that a compiler left behind by a timeout can be ended with it
    warnings.simplefilter("ignore")
    try:
        pipe.send(verdict(case))
    except BaseException as error:
        pipe.send(f"failed: {brief(error)}")


def main(folder, result, again=None):
    import emx_onnx_cgen.onnx_backend.backend  # noqa: F401
    import onnx.backend.test.runner  # noqa: F401

    fork = multiprocessing.get_context("fork")
    verdicts = json.loads(result.read_text()) if result.exists() else {}
    verdicts = {case: v for case, v in verdicts.items() if again is None or again not in v}
    cases = sorted(path for path in folder.iterdir() if (path / "model.onnx").exists())
    for number, case in enumerate(cases):
        if case.name in verdicts:
            continue
        receiver, sender = fork.Pipe(duplex=False)
        process = fork.Process(target=worker, args=(case, sender))
        process.start()
        sender.close()
        try:
            verdicts[case.name] = receiver.recv() if receiver.poll(LIMIT_S) else f"failed: over {LIMIT_S} s"
        except EOFError:
            verdicts[case.name] = "failed: the generator ended without an answer"
        if process.is_alive():
            process.join(1)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        if number % 20 == 0 or number + 1 == len(cases):
            save(result, verdicts)
    save(result, verdicts)
    counts = {kind: sum(v.startswith(kind) for v in verdicts.values()) for kind in ("passed", "refused", "failed")}
    print(f"{counts} of {len(cases)}")


def save(path, verdicts):
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(dict(sorted(verdicts.items())), indent=0) + "\n")
    temporary.replace(path)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [folder, result]:
            main(pathlib.Path(folder), pathlib.Path(result))
        case [folder, result, "--again", text]:
            main(pathlib.Path(folder), pathlib.Path(result), text)
        case _:
            sys.exit(__doc__)
