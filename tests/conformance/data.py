"""Writes the official ONNX backend node tests as files: FOLDER/CASE/{model.onnx, test_data_set_0/*.pb}.

Wheels of onnx up to 1.22.0 bring these folders (onnx/backend/test/data/node, 1765 cases in 1.22.0).
Since 1.23.0 they bring only the code that makes the cases (1884 in 1.23.2). This script runs that code,
seeded, and writes the layout that the older wheels had, so that one reader serves both.

    python3 -m venv target/peers/onnx && target/peers/onnx/bin/pip install onnx==1.23.2
    target/peers/onnx/bin/python tests/conformance/data.py target/peers/onnx-node-1.23.2
"""

import os
import pathlib
import shutil
import sys
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy
import onnx
from onnx import TensorProto, numpy_helper


def as_bytes(value, value_info):
    """A value of a test case as the message that its declared type calls for."""
    kind = value_info.type.WhichOneof("value")
    if isinstance(value, TensorProto):
        return value.SerializeToString()
    make = {
        "tensor_type": numpy_helper.from_array,
        "sequence_type": numpy_helper.from_list,
        "optional_type": numpy_helper.from_optional,
        "map_type": numpy_helper.from_dict,
    }[kind]
    return make(value, value_info.name).SerializeToString()


def main(folder):
    warnings.simplefilter("ignore")
    numpy.random.seed(0)
    from onnx.backend.test.loader import load_model_tests

    cases = load_model_tests(kind="node")
    for case in cases:
        if case.model is None:  # a file of the wheel (up to 1.22.0): nothing to make
            shutil.copytree(case.model_dir, folder / case.name, dirs_exist_ok=True)
            continue
        (folder / case.name).mkdir(parents=True, exist_ok=True)
        (folder / case.name / "model.onnx").write_bytes(case.model.SerializeToString())
        for number, (inputs, outputs) in enumerate(case.data_sets):
            data = folder / case.name / f"test_data_set_{number}"
            data.mkdir(exist_ok=True)
            for name, values, declared in (
                ("input", inputs, case.model.graph.input),
                ("output", outputs, case.model.graph.output),
            ):
                for index, (value, value_info) in enumerate(zip(values, declared)):
                    (data / f"{name}_{index}.pb").write_bytes(as_bytes(value, value_info))
    print(f"{len(cases)} cases of onnx {onnx.__version__} in {folder}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]))
