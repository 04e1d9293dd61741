"""The nets: modules as robot learning writes them, and the table `NETS`. make.py exports them."""

import dataclasses
import math
import pathlib

import gymnasium
import numpy
import stable_baselines3
import torch
from torch import nn
from torch._higher_order_ops.scan import scan
from torch.nn import functional as F

HERE = pathlib.Path(__file__).resolve().parent
BENCH = HERE.parents[1] / "target/peers/torch-nets"
OBS, ACTIONS = 12, 4


@dataclasses.dataclass
class Net:
    """A module with what export and test need to know of it."""

    module: nn.Module
    inputs: dict  # name -> shape
    outputs: list  # names
    rows: list  # per row: {name: array}; of a recurrent net without its state, in the order of the ticks
    state: list = dataclasses.field(default_factory=list)  # [[input, output], ...], zero at the start
    # exporter -> opset; None is the exporter's default.
    exporters: dict = dataclasses.field(default_factory=lambda: {"torchscript": 17, "dynamo": None})
    dynamic_batch: bool = False
    eager: nn.Module = None  # computes the vectors where the exported module cannot
    folder: pathlib.Path = HERE


# ---------------------------------------------------------------- inputs


def normal(name, *shape):
    """Draws of the standard normal distribution, with three decimals so that the JSON stays short."""
    return lambda random: {name: numpy.round(random.standard_normal(shape), 3).astype(numpy.float32)}


def preference(name, n):
    """Weights of n attributes: positive, with sum 1 up to rounding."""
    return lambda random: {name: numpy.round(random.dirichlet(numpy.ones(n)), 3).astype(numpy.float32)[None]}


def depth(name, size):
    """A depth image: floor, wall and three balls, in tenths of the range."""

    def draw(random):
        y, x = numpy.mgrid[0:size, 0:size] / (size - 1)
        image = numpy.minimum(1.0, 0.25 / numpy.maximum(y - 0.35, 0.05)) * random.uniform(0.5, 1.0)
        for cx, cy, radius, distance in random.uniform([0, 0, 0.05, 0.1], [1, 1, 0.3, 0.9], (3, 4)):
            inside = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
            image = numpy.where(inside, numpy.minimum(image, distance), image)
        return {name: numpy.round(image, 1).astype(numpy.float32)[None, None]}

    return draw


def rows(count, seed, *draws):
    random = numpy.random.default_rng(seed)
    return [{k: v for draw in draws for k, v in draw(random).items()} for _ in range(count)]


# ---------------------------------------------------------------- modules


def mlp(sizes, activation, last=None):
    layers = []
    for n_in, n_out in zip(sizes, sizes[1:]):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1], *([last()] if last else []))


class Normalizer(nn.Module):
    """Observation normalisation with running statistics, as rsl_rl has it (`EmpiricalNormalization`)."""

    def __init__(self, n):
        super().__init__()
        self.register_buffer("_mean", 0.3 * torch.randn(1, n))
        self.register_buffer("_std", 0.5 + torch.rand(1, n))

    def forward(self, x):
        return (x - self._mean) / (self._std + 1e-2)


class Recurrent(nn.Module):
    """A recurrent policy with explicit state, in the form of rsl_rl's and Isaac Lab's exporter: normaliser, memory
    over a sequence of one, actor."""

    def __init__(self, rnn, actor, normalizer):
        super().__init__()
        self.rnn, self.actor, self.normalizer = rnn, actor, normalizer

    def forward(self, obs, h_in, c_in=None):
        x = self.normalizer(obs).unsqueeze(0)
        if c_in is None:
            x, h = self.rnn(x, h_in)
            return self.actor(x.squeeze(0)), h
        x, (h, c) = self.rnn(x, (h_in, c_in))
        return self.actor(x.squeeze(0)), h, c


class Window(nn.Module):
    """An LSTM over a history inside one inference; the state begins at zero each time."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, 16, batch_first=True)
        self.head = mlp([16, 16, ACTIONS], nn.ELU)

    def forward(self, history):
        x, _ = self.rnn(history)
        return self.head(x[:, -1])


class DepthEncoder(nn.Module):
    """1x64x64 -> 32; three convolutions with stride 2."""

    def __init__(self, channels=(4, 8, 4), latent=32):
        super().__init__()
        a, b, c = channels
        self.body = nn.Sequential(
            nn.Conv2d(1, a, 5, stride=2), nn.BatchNorm2d(a), nn.ReLU(),
            nn.Conv2d(a, b, 3, stride=2), nn.ReLU(),
            nn.Conv2d(b, c, 3, stride=2), nn.ReLU(),
            nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(c * 36, latent), nn.Tanh())
        nn.init.uniform_(self.body[1].running_mean, -0.2, 0.2)
        nn.init.uniform_(self.body[1].running_var, 0.5, 1.5)

    def forward(self, depth):
        return self.head(self.body(depth))


class DepthPolicy(nn.Module):
    """Two inputs: a depth image (with maximum and average pooling and a depthwise convolution) and proprioception."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ELU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8), nn.Conv2d(8, 8, 1), nn.LeakyReLU(0.1),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 16), nn.ELU(),
        )  # fmt: skip
        self.actor = mlp([16 + OBS, 32, ACTIONS], nn.ELU)

    def forward(self, depth, proprioception):
        return self.actor(torch.cat([self.encoder(depth), proprioception], dim=-1))


class HistoryEncoder(nn.Module):
    """The adaptation module of RMA (Kumar et al. 2021) in small: dense per tick, then convolutions along time."""

    def __init__(self):
        super().__init__()
        self.tick = nn.Sequential(nn.Linear(OBS, 16), nn.ELU())
        self.time = nn.Sequential(
            nn.Conv1d(16, 16, 5, stride=2), nn.ReLU(), nn.Conv1d(16, 16, 3, dilation=2), nn.ReLU(), nn.Flatten()
        )
        self.head = nn.Linear(16 * 4, 8)

    def forward(self, history):
        return self.head(self.time(self.tick(history).permute(0, 2, 1)))


class Gated(nn.Module):
    """A residual policy with RMS normalisation and gated linear units."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(OBS, 24), nn.Linear(24, ACTIONS)
        self.norm, self.wide, self.narrow = nn.RMSNorm(24, eps=1e-6), nn.Linear(24, 48), nn.Linear(24, 24)

    def forward(self, obs):
        x = self.embed(obs)
        value, gate = self.wide(self.norm(x)).chunk(2, dim=-1)
        return self.head(x + self.narrow(value * F.silu(gate)))


class Attention(nn.Module):
    """A pre-norm transformer block around `scaled_dot_product_attention`."""

    def __init__(self, d, heads, approximate):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.feed = nn.Sequential(nn.Linear(d, d // 2), nn.GELU(approximate=approximate), nn.Linear(d // 2, d))

    def forward(self, x):
        n, tokens, d = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, tokens, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, d)
        x = x + self.out(y)
        return x + self.feed(self.norm2(x))


class Transformer(nn.Module):
    """History of 8 tokens, d = 32, 2 heads, 2 blocks; one with the exact GELU, one with the tanh form."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(OBS, 32)
        self.position = nn.Parameter(0.1 * torch.randn(1, 8, 32))
        self.blocks = nn.Sequential(Attention(32, 2, "none"), Attention(32, 2, "tanh"))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, ACTIONS)

    def forward(self, history):
        x = self.blocks(self.embed(history) + self.position)
        return self.head(self.norm(x[:, -1]))


class Encoder(nn.Module):
    """`nn.TransformerEncoder` (nn.MultiheadAttention inside) with a causal mask, then the mean over the tokens."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(OBS, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 16, dropout=0.1, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(16, ACTIONS)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(8))

    def forward(self, history):
        return self.head(self.encoder(self.embed(history), mask=self.mask, is_causal=True).mean(dim=1))


def time_embedding(t, half):
    """Sinusoidal embedding of a time in [0, 1], as in diffusion policies: t is computed in the graph."""
    frequencies = torch.exp(torch.arange(half, dtype=t.dtype) * (-math.log(1e4) / (half - 1)))
    angle = 1000.0 * t * frequencies
    return torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)


class Flow(nn.Module):
    """Flow matching: K = 4 Euler steps from noise to an action, each through the same observation-conditioned MLP."""

    steps = 4

    def __init__(self):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 16), nn.SiLU())
        self.velocity = mlp([OBS + ACTIONS + 16, 32, 32, ACTIONS], nn.SiLU)

    def step(self, x, obs, t):
        embedded = self.time(time_embedding(t, 8))
        return x + self.velocity(torch.cat([x, obs, embedded], dim=-1)) / self.steps

    def forward(self, obs, noise):
        x, t = noise, torch.zeros_like(noise[:, :1])
        for _ in range(self.steps):
            x = self.step(x, obs, t)
            t = t + 1.0 / self.steps
        return x.clamp(-3.0, 3.0)


class FlowLoop(nn.Module):
    """The same with its steps in a loop of the graph: `torch.jit.script` keeps it, and ONNX has `Loop` for it."""

    def __init__(self, flow):
        super().__init__()
        self.flow_step = torch.jit.trace(
            FlowStep(flow), (torch.zeros(1, ACTIONS), torch.zeros(1, OBS), torch.zeros(1, 1))
        )
        self.register_buffer("times", torch.arange(4).reshape(4, 1, 1) / 4)

    def forward(self, obs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        x = noise
        for k in range(self.times.shape[0]):
            x = self.flow_step(x, obs, self.times[k])
        return x.clamp(-3.0, 3.0)


class FlowStep(nn.Module):
    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, x, obs, t):
        return self.flow.step(x, obs, t)


class FlowScan(nn.Module):
    """The same as a higher-order scan, which the dynamo exporter writes as ONNX `Scan`."""

    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, obs, noise):
        times = torch.arange(4, dtype=obs.dtype).reshape(4, 1, 1) / 4

        def body(x, t):
            x = self.flow.step(x, obs, t)
            return x, x.clone()

        x, _ = scan(body, noise, times)
        return x.clamp(-3.0, 3.0)


class ResidualBlock(nn.Module):
    """Conv1d, GroupNorm, Mish, FiLM: the block of Diffusion Policy's 1-D U-Net."""

    def __init__(self, n_in, n_out, condition):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(n_in, n_out, 3, padding=1), nn.GroupNorm(4, n_out)
        self.conv2, self.norm2 = nn.Conv1d(n_out, n_out, 3, padding=1), nn.GroupNorm(4, n_out)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * n_out), nn.Unflatten(-1, (2 * n_out, 1)))
        self.skip = nn.Conv1d(n_in, n_out, 1)

    def forward(self, x, condition):
        y = F.mish(self.norm1(self.conv1(x)))
        scale, shift = self.film(condition).chunk(2, dim=1)
        y = F.mish(self.norm2(self.conv2(scale * y + shift)))
        return y + self.skip(x)


class Diffusion(nn.Module):
    """DDIM with K = 2 steps unrolled over a 1-D U-Net: a horizon of 8 actions from noise, conditioned on obs."""

    steps = 2

    def __init__(self):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(8, 16), nn.Mish(), nn.Linear(16, 8))
        self.down = ResidualBlock(ACTIONS, 8, OBS + 8)
        self.shrink, self.grow = nn.Conv1d(8, 16, 3, stride=2, padding=1), nn.ConvTranspose1d(16, 8, 4, 2, 1)
        self.up, self.out = ResidualBlock(16, 8, OBS + 8), nn.Conv1d(8, ACTIONS, 1)
        self.register_buffer("alpha", torch.cos(torch.linspace(1.2, 0.0, self.steps + 1)) ** 2)

    def noise_of(self, x, obs, t):
        condition = torch.cat([self.time(time_embedding(t, 4)), obs], dim=-1)
        wide = self.down(x, condition)
        deep = F.mish(self.shrink(wide))
        return self.out(self.up(torch.cat([self.grow(deep), wide], dim=1), condition))

    def forward(self, obs, noise):
        x = noise.transpose(1, 2)  # [1, horizon, actions] -> channels first
        for k in range(self.steps):
            t = torch.full_like(obs[:, :1], 1.0 - k / self.steps)
            predicted = self.noise_of(x, obs, t)
            now, after = self.alpha[k], self.alpha[k + 1]
            clean = ((x - (1 - now).sqrt() * predicted) / now.sqrt()).clamp(-1.0, 1.0)
            x = after.sqrt() * clean + (1 - after).sqrt() * predicted
        return x.transpose(1, 2)


class Film(nn.Module):
    """An attribute-conditioned policy: the preference scales and shifts the hidden units."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(OBS, 24), nn.Linear(24, 24), nn.Linear(24, ACTIONS)
        self.film = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 96))

    def forward(self, obs, preference):
        scale1, shift1, scale2, shift2 = self.film(preference).split(24, dim=-1)
        x = torch.tanh(self.first(obs) * (1 + scale1) + shift1)
        x = torch.tanh(self.second(x) * (1 + scale2) + shift2)
        return self.last(x)


class Conditioned(nn.Module):
    """An attribute-conditioned policy by concatenation."""

    def __init__(self):
        super().__init__()
        self.actor = mlp([OBS + 3, 24, 24, ACTIONS], nn.ELU, nn.Tanh)

    def forward(self, obs, preference):
        return self.actor(torch.cat([obs, preference], dim=-1))


class VectorQuantised(nn.Module):
    """A skill policy: the latent of the observation is replaced by the nearest row of a codebook."""

    def __init__(self):
        super().__init__()
        self.encoder = mlp([OBS, 24, 8], nn.ReLU)
        self.codebook = nn.Embedding(16, 8)
        self.actor = mlp([OBS + 8, 24, ACTIONS], nn.ReLU)

    def forward(self, obs):
        z = self.encoder(obs)
        table = self.codebook.weight
        distance = (z * z).sum(1, keepdim=True) - 2 * z @ table.t() + (table * table).sum(1)
        code = self.codebook(distance.argmin(dim=1))
        return self.actor(torch.cat([obs, code], dim=-1))


# ---------------------------------------------------------------- Stable-Baselines3, as its documentation exports


class OnnxableSB3Policy(nn.Module):
    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def forward(self, observation):
        return self.policy(observation, deterministic=True)


class Spaces(gymnasium.Env):
    """No task: only the spaces from which Stable-Baselines3 makes its networks."""

    observation_space = gymnasium.spaces.Box(-numpy.inf, numpy.inf, (OBS,), numpy.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTIONS,), numpy.float32)


def sb3_ppo():
    model = stable_baselines3.PPO("MlpPolicy", Spaces(), policy_kwargs={"net_arch": [24, 24]}, device="cpu", seed=0)
    return Net(
        OnnxableSB3Policy(model.policy),
        {"input": (1, OBS)},
        ["actions", "values", "log_prob"],
        rows(8, 1, normal("input", 1, OBS)),
    )


def sb3_sac():
    model = stable_baselines3.SAC(
        "MlpPolicy", Spaces(), policy_kwargs={"net_arch": [32, 32]}, buffer_size=1, device="cpu", seed=0
    )
    return Net(OnnxableSB3Policy(model.policy.actor), {"input": (1, OBS)}, ["actions"], rows(8, 2, normal("input", 1, OBS)))


# ---------------------------------------------------------------- the nets


def policy(module, count=8, seed=3, **more):
    return Net(module, {"obs": (1, OBS)}, ["actions"], rows(count, seed, normal("obs", 1, OBS)), **more)


def recurrent(kind, n_obs, hidden, layers, actor, seed, ticks=20, normalizer=None, **more):
    state = {"h_in": (layers, 1, hidden)} | ({"c_in": (layers, 1, hidden)} if kind is nn.LSTM else {})
    return Net(
        Recurrent(kind(n_obs, hidden, layers), actor, normalizer or nn.Identity()),
        {"obs": (1, n_obs)} | state,
        ["actions"] + [name.replace("in", "out") for name in state],
        rows(ticks, seed, normal("obs", 1, n_obs)),
        state=[[name, name.replace("in", "out")] for name in state],
        **more,
    )


def denoiser(module, seed, noise=(1, ACTIONS), count=6, **more):
    draws = rows(count, seed, normal("obs", 1, OBS), normal("noise", *noise))
    return Net(module, {"obs": (1, OBS), "noise": noise}, ["actions"], draws, **more)


def conditioned(module, seed, **more):
    draws = rows(8, seed, normal("obs", 1, OBS), preference("preference", 3))
    return Net(module, {"obs": (1, OBS), "preference": (1, 3)}, ["actions"], draws, **more)


def history(module, tokens, n, seed, count=4, **more):
    draws = rows(count, seed, normal("history", 1, tokens, n))
    return Net(module, {"history": (1, tokens, n)}, ["actions"], draws, **more)


def flow(variant):
    module = Flow()
    if variant == "mlp":
        return denoiser(module, 8)
    loop, exporter = (FlowLoop(module), "torchscript") if variant == "loop" else (FlowScan(module), "dynamo")
    return denoiser(loop, 8, exporters={exporter: 17 if exporter == "torchscript" else None}, eager=module)


def depth_net(module, seed, count=2, **more):
    return Net(module, {"depth": (1, 1, 64, 64)}, ["latent"], rows(count, seed, depth("depth", 64)), **more)


def bench(net):
    return dataclasses.replace(net, folder=BENCH, exporters={"torchscript": 17})


NETS = {
    # Isaac Lab and rsl_rl exported at opset 11 for years, so those files are around.
    "mlp_tanh": lambda: policy(mlp([OBS, 24, 24, ACTIONS], nn.Tanh), exporters={"torchscript": 11}),
    "mlp_elu": lambda: policy(
        nn.Sequential(Normalizer(OBS), mlp([OBS, 24, 24, ACTIONS], nn.ELU)), exporters={"dynamo": None}
    ),
    "mlp_silu": lambda: policy(mlp([OBS, 24, 24, ACTIONS], nn.SiLU, nn.Tanh), dynamic_batch=True),
    "sb3_ppo": sb3_ppo,
    "sb3_sac": sb3_sac,
    "lstm_policy": lambda: recurrent(
        nn.LSTM, OBS, 12, 1, mlp([12, 16, ACTIONS], nn.ELU), 4, normalizer=Normalizer(OBS),
        exporters={"torchscript": 11, "dynamo": None},
    ),
    "gru_policy": lambda: recurrent(nn.GRU, OBS, 12, 2, mlp([12, 16, ACTIONS], nn.ELU), 5),
    "rnn_policy": lambda: recurrent(nn.RNN, OBS, 10, 1, nn.Linear(10, ACTIONS), 14),
    "lstm_window": lambda: history(Window(), 10, 8, 6),
    "cnn_depth": lambda: depth_net(DepthEncoder(), 7, exporters={"dynamo": None}),
    "cnn_proprioception": lambda: Net(
        DepthPolicy(), {"depth": (1, 1, 32, 32), "proprioception": (1, OBS)}, ["actions"],
        rows(2, 9, depth("depth", 32), normal("proprioception", 1, OBS)),
        exporters={"torchscript": 17},
    ),
    "conv_history": lambda: history(HistoryEncoder(), 20, OBS, 16, exporters={"torchscript": 17}),
    # From opset 23 on the dynamo exporter writes RMSNormalization and Attention as operators.
    "mlp_rms": lambda: policy(Gated(), seed=17, exporters={"dynamo": 23}),
    "transformer": lambda: history(Transformer(), 8, OBS, 10),
    "transformer_encoder": lambda: history(
        Encoder(), 8, OBS, 11, exporters={"torchscript": 17, "dynamo": 23}
    ),
    "flow_mlp": lambda: flow("mlp"),
    "flow_loop": lambda: flow("loop"),
    "flow_scan": lambda: flow("scan"),
    "diffusion_unet": lambda: denoiser(Diffusion(), 12, (1, 8, ACTIONS), count=4),
    "mlp_film": lambda: conditioned(Film(), 13, exporters={"torchscript": 17}),
    "mlp_conditioned": lambda: conditioned(Conditioned(), 13, exporters={"dynamo": None}),
    "vector_quantised": lambda: policy(VectorQuantised(), seed=15, exporters={"torchscript": 17}),
    # Of the benchmark. Unitree RL Gym: 47 observations, LSTM 64, one hidden layer of 32, 12 actions, ELU.
    "lstm_47_64_32_12": lambda: bench(recurrent(nn.LSTM, 47, 64, 1, mlp([64, 32, 12], nn.ELU), 20)),
    "gru_48_64_12": lambda: bench(recurrent(nn.GRU, 48, 64, 1, nn.Linear(64, 12), 21)),
    "conv_64x64_32": lambda: bench(depth_net(BenchEncoder(), 22)),
    "conv_64x64_32_nature": lambda: bench(depth_net(NatureEncoder(), 23)),
}  # fmt: skip


class BenchEncoder(nn.Module):
    """1x64x64 -> 32: kernels 5, 3, 3 with stride 2 and 16, 32, 32 channels (30x30, 14x14, 6x6); ReLU; a dense layer."""

    def __init__(self, layers=((16, 5, 2), (32, 3, 2), (32, 3, 2)), side=6):
        super().__init__()
        body, n_in = [], 1
        for n_out, kernel, stride in layers:
            body += [nn.Conv2d(n_in, n_out, kernel, stride), nn.ReLU()]
            n_in = n_out
        self.net = nn.Sequential(*body, nn.Flatten(), nn.Linear(n_in * side * side, 32))

    def forward(self, depth):
        return self.net(depth)


def NatureEncoder():
    """The three layers of the DQN paper (Mnih et al. 2015): 32 of 8/4, 64 of 4/2, 64 of 3/1."""
    return BenchEncoder(((32, 8, 4), (64, 4, 2), (64, 3, 1)), 4)
