"""onnxruntime's side of `tendon bench host`.

In: two ONNX files (the network; one of a single product, whose time is that of the call), each behind its length; number
of inputs, the inputs as f32. Out: blocks behind their length: facts as JSON; all outputs as f32. Then per round
in: inferences that do not count, inferences that do; out: their times in ns as u64. All little endian."""

import gc
import json
import struct
import sys
from time import perf_counter_ns

import numpy as np
import onnxruntime as ort

stdin, stdout = sys.stdin.buffer, sys.stdout.buffer


def number():
    data = stdin.read(4)
    if len(data) < 4:
        sys.exit()
    return struct.unpack("<I", data)[0]


def send(data):
    stdout.write(struct.pack("<I", len(data)) + data)
    stdout.flush()


def session(model):
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def ways(session, rows):
    """Functions that run one input, by name; what they copy is part of an inference."""
    name, outputs = session.get_inputs()[0].name, [session.get_outputs()[0].name]
    run, buffer = session.run, np.ascontiguousarray(rows[0]).copy()
    result = session.run(outputs, {name: rows[0]})[0]
    binding = session.io_binding()
    binding.bind_input(name, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
    binding.bind_output(outputs[0], "cpu", 0, np.float32, result.shape, result.ctypes.data)
    run_bound = session.run_with_iobinding

    def bound(row):
        buffer[:] = row
        run_bound(binding)
        return result

    return {"session.run": lambda row: run(outputs, {name: row})[0], "run_with_iobinding": bound}


def times(run, rows, count):
    out = []
    for i in range(count):
        row = rows[i % len(rows)]
        before = perf_counter_ns()
        run(row)
        out.append(perf_counter_ns() - before)
    return out


gc.disable()
network, product = (session(stdin.read(number())) for _ in range(2))
shape = [1, network.get_inputs()[0].shape[-1]]
count = number()
data = np.frombuffer(stdin.read(4 * count * shape[1]), np.float32)
rows = [np.ascontiguousarray(row.reshape(shape)) for row in data.reshape(count, -1)]
found = ways(network, rows)
medians = {name: np.median(times(run, rows, 4000)[1000:]) for name, run in found.items()}
way = min(medians, key=medians.get)
one = [np.ones([1, 1], np.float32)]
call = np.median(times(ways(product, one)[way], one, 4000)[1000:]) / 1e3
send(json.dumps({"version": ort.__version__, "way": way, "call_us": call}).encode())
run = found[way]
send(np.concatenate([run(row).ravel().copy() for row in rows]).astype("<f4").tobytes())
while True:
    warm_up, counted = number(), number()
    send(np.array(times(run, rows, warm_up + counted)[warm_up:], "<u8").tobytes())
