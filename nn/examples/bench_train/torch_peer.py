"""PyTorch's side of `cargo xtask bench train`: answers one case per line with the seconds of a training step.

A step is what main.rs does: forward, mean-squared error, backward, Adam. Line in: sizes, activation, batch, threads, seconds,
form (`eager` or `compile`).
"""
import sys
import time

import torch
from torch import nn

ACTIVATIONS = {"tanh": nn.Tanh, "elu": nn.ELU}
GRU_STEPS = 16


class Recurrent(nn.Module):
    def __init__(self, inputs, hidden, outputs):
        super().__init__()
        self.gru = nn.GRU(inputs, hidden)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x):
        return self.head(self.gru(x)[0])


def build(sizes, activation, batch):
    if activation == "gru":
        return Recurrent(*sizes), (GRU_STEPS, batch // GRU_STEPS)
    layers = []
    for inputs, outputs in zip(sizes, sizes[1:]):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1]), (batch,)


def measure(sizes, activation, batch, threads, seconds, form):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net, rows = build(sizes, activation, batch)
    x, target = torch.randn(*rows, sizes[0]), torch.randn(*rows, sizes[-1])
    adam = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    loss_of = nn.functional.mse_loss

    def loss():
        return loss_of(net(x), target)

    if form == "compile":
        loss = torch.compile(loss)

    def step():
        adam.zero_grad(set_to_none=True)
        loss().backward()
        adam.step()

    for _ in range(5):
        step()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        # Some 20 ms a sample: long beside the clock, short beside a disturbance.
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < 0.02:
            step()
            count += 1
        best = min(best, (time.perf_counter() - start) / count)
    return best


print(torch.__version__, flush=True)
for line in sys.stdin:
    sizes, activation, batch, threads, seconds, form = line.split()
    print(
        measure([int(s) for s in sizes.split("-")], activation, int(batch), int(threads), float(seconds), form),
        flush=True,
    )
