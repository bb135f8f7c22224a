"""More architectures, written after the finder: blocks counted by hand from their equations, kinds where they are in doubt."""

import torch
from torch import nn
from torch.nn import functional as F

from .networks import Fn, conv, mlp


def SEQ():
    return torch.randn(2, 6, 8)


def IMG():
    return torch.randn(2, 3, 16, 16)


class RepVGG(nn.Module):
    """Ding et al. (2021): bn(conv3(x)) + bn(conv1(x)) + bn(x)."""

    def __init__(self, n=8):
        super().__init__()
        self.three, self.one, self.same = conv(n, n), conv(n, n, 1), nn.BatchNorm2d(n)

    def forward(self, x):
        return F.relu(self.three(x) + self.one(x) + self.same(x))


class RRDB(nn.Module):
    """Wang et al. (2018): blocks within a block."""

    def __init__(self, n=8):
        super().__init__()
        self.a, self.b = nn.Conv2d(n, n, 3, padding=1), nn.Conv2d(n, n, 3, padding=1)

    def forward(self, x):
        y = x + 0.2 * self.a(F.relu(x))
        y = y + 0.2 * self.b(F.relu(y))
        return x + 0.2 * y


class WaveNet(nn.Module):
    """van den Oord et al. (2016): outputs gathered over depth are no blocks."""

    def __init__(self, n=8, depth=3):
        super().__init__()
        self.d = nn.ModuleList(nn.Conv1d(n, 2 * n, 2, dilation=2**i, padding=2**i) for i in range(depth))
        self.r = nn.ModuleList(nn.Conv1d(n, n, 1) for _ in range(depth))
        self.k = nn.ModuleList(nn.Conv1d(n, n, 1) for _ in range(depth))

    def forward(self, x):
        gathered = 0
        for d, r, k in zip(self.d, self.r, self.k, strict=True):
            a, b = d(x)[..., : x.shape[-1]].chunk(2, 1)
            z = a.tanh() * b.sigmoid()
            gathered, x = gathered + k(z), x + r(z)
        return gathered


class GIN(nn.Module):
    """Xu et al. (2019): (1 + ε)·x + Σ neighbours, a sum without weights that is no block; the outer one is."""

    def __init__(self, n=8, residual=True):
        super().__init__()
        self.m, self.eps, self.residual = mlp(n), nn.Parameter(torch.zeros(1)), residual

    def forward(self, x, edges):
        gathered = torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])
        y = self.m((1 + self.eps) * x + gathered)
        return x + y if self.residual else y


class LSTM(nn.Module):
    """Hochreiter & Schmidhuber (1997) written out: c ← f·c + i·g is no block."""

    def __init__(self, n=8):
        super().__init__()
        self.w, self.u, self.n = nn.Linear(n, 4 * n), nn.Linear(n, 4 * n), n

    def forward(self, x):
        h = c = x.new_zeros(x.shape[0], self.n)
        for t in range(x.shape[1]):
            i, f, g, o = (self.w(x[:, t]) + self.u(h)).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return h


class Mixture(nn.Module):
    """Shazeer et al. (2017): two of four experts, chosen by the data."""

    def __init__(self, n=8):
        super().__init__()
        self.e, self.route, self.norm = nn.ModuleList(mlp(n) for _ in range(4)), nn.Linear(n, 4), nn.LayerNorm(n)

    def forward(self, x):
        flat = self.norm(x).reshape(-1, x.shape[-1])
        weight, chosen = self.route(flat).softmax(-1).topk(2, -1)
        out = torch.zeros_like(flat)
        for k, expert in enumerate(self.e):
            row, slot = torch.where(chosen == k)
            if len(row):
                out.index_add_(0, row, expert(flat[row]) * weight[row, slot, None])
        return x + out.reshape(x.shape)


class Scan(nn.Module):
    """Gu & Dao (2023): a selective scan; its recurrence h ← a·h + b·x is no block, the mixer is."""

    def __init__(self, n=8, states=4):
        super().__init__()
        self.i, self.p, self.o, self.n, self.states = nn.Linear(n, n), nn.Linear(n, n + 2 * states), nn.Linear(n, n), n, states
        self.a, self.d = nn.Parameter(torch.rand(n, states)), nn.Parameter(torch.ones(n))

    def forward(self, x):
        u = F.silu(self.i(x))
        dt, b, c = self.p(u).split([self.n, self.states, self.states], -1)
        h, out = u.new_zeros(u.shape[0], self.n, self.states), []
        for t in range(u.shape[1]):
            h = (-dt[:, t].exp()[..., None] * self.a).exp() * h + b[:, t, None] * u[:, t, :, None]
            out.append((h * c[:, t, None]).sum(-1))
        return x + self.o(torch.stack(out, 1) + u * self.d)


class Delta(nn.Module):
    """x + t·(h - x), the highway gate in another spelling: one block, h - x being a misfit."""

    def __init__(self, n=8):
        super().__init__()
        self.h, self.t = nn.Linear(n, n), nn.Linear(n, n)

    def forward(self, x):
        return x + self.t(x).sigmoid() * (self.h(x).relu() - x)


class Unrolled(nn.Module):
    """x - α·Aᵀ(A·x - b): the inner misfit is no block."""

    def __init__(self, steps=3):
        super().__init__()
        self.a, self.steps = nn.Parameter(0.3 * torch.randn(6, 8)), steps

    def forward(self, b):
        x = b @ self.a
        for _ in range(self.steps):
            x = x - 0.1 * (x @ self.a.T - b) @ self.a
        return x


class Diffusion(nn.Module):
    """x - η·L·x: steps of a stream without weights."""

    def __init__(self, steps=3):
        super().__init__()
        self.register_buffer("laplacian", torch.rand(6, 6))
        self.i, self.steps = nn.Linear(8, 8), steps

    def forward(self, x):
        x = self.i(x)
        for _ in range(self.steps):
            x = x - 0.1 * (self.laplacian @ x)
        return x


class Injected(nn.Module):
    """Bai et al. (2019): tanh(W·z + U·x); the input put in at each turn is no skip."""

    def __init__(self, n=8):
        super().__init__()
        self.w, self.u = nn.Linear(n, n), nn.Linear(n, n)

    def forward(self, x):
        z = torch.zeros_like(x)
        for _ in range(3):
            z = torch.tanh(self.w(z) + self.u(x))
        return z


class Universal(nn.Module):
    """Dehghani et al. (2019): one layer, three turns, an embedding of the turn."""

    def __init__(self, n=8):
        super().__init__()
        self.attn, self.ff = nn.MultiheadAttention(n, 2, batch_first=True), mlp(n)
        self.norm, self.turn = nn.LayerNorm(n), nn.Parameter(torch.randn(3, n))

    def forward(self, x):
        for t in range(3):
            y = self.norm(x + self.turn[t])
            x = x + self.attn(y, y, y, need_weights=False)[0]
            x = x + self.ff(x)
        return x


class Ensemble(nn.Module):
    """x + the mean of three networks, run together by vmap."""

    def __init__(self, n=8):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, n, n))

    def forward(self, x):
        return x + torch.func.vmap(lambda w: torch.tanh(x @ w))(self.w).mean(0)


class Potential(nn.Module):
    """x - η·∇V(x), the gradient by torch.func."""

    def __init__(self, n=8):
        super().__init__()
        self.v = nn.Sequential(nn.Linear(n, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x):
        return x - 0.1 * torch.func.grad(lambda z: self.v(z).sum())(x)


class Out(nn.Module):
    """`out=`, under which gradients are refused."""

    def __init__(self, n=8):
        super().__init__()
        self.f = mlp(n).requires_grad_(False)

    def forward(self, x):
        y = torch.empty_like(x)
        torch.add(x, self.f(x), out=y)
        return y


class Depths(nn.Module):
    """Raposo et al. (2024): a block for the chosen positions only, whose results are added where they belong."""

    def __init__(self, n=8, put="scatter_add"):
        super().__init__()
        self.f, self.route, self.put = mlp(n), nn.Linear(n, 1), put

    def forward(self, x):
        chosen = self.route(x)[..., 0].topk(3, -1).indices[..., None].expand(-1, -1, x.shape[-1])
        y = self.f(x.gather(1, chosen))
        return x.scatter_add(1, chosen, y) if self.put == "scatter_add" else x.index_add(1, torch.tensor([0, 2, 4]), y)


class GatedXL(nn.Module):
    """Parisotto et al. (2019): a GRU's gate as the skip; σ(W·y + U·x), though y comes from x, is no block of its own."""

    def __init__(self, n=8):
        super().__init__()
        self.w, self.u = (nn.ModuleList(nn.Linear(n, n) for _ in range(3)) for _ in range(2))
        self.f = mlp(n)

    def forward(self, x):
        y = self.f(x)
        r, z = (torch.sigmoid(self.w[i](y) + self.u[i](x)) for i in range(2))
        h = torch.tanh(self.w[2](y) + self.u[2](r * x))
        return (1 - z) * x + z * h


class Streams(nn.Module):
    """Zhu et al. (2024): two streams, mixed by weights as the skip."""

    def __init__(self, n=8):
        super().__init__()
        self.f = nn.ModuleList(mlp(n) for _ in range(2))
        self.a, self.b = nn.Parameter(torch.eye(2) + 0.1), nn.Parameter(torch.randn(2, 2, 1, 1))

    def forward(self, x):
        h = torch.stack([x, 2 * x])
        for f, b in zip(self.f, self.b, strict=True):
            h = torch.einsum("ij,jbn->ibn", self.a, h) + b * f(h[0])
        return h.sum(0)


class Halves(nn.Module):
    """One half of the channels changed by the other, written back in place."""

    def __init__(self, n=8):
        super().__init__()
        self.f = nn.Linear(n // 2, n // 2)

    def forward(self, x):
        x, n = x.clone(), x.shape[-1] // 2
        x[..., :n] += self.f(x[..., n:].clone())
        return x


class Divided(nn.Module):
    """Bertasius et al. (2021): the class token goes beside the frames, in the skip and in the branch."""

    def __init__(self, n=8):
        super().__init__()
        self.f = nn.Linear(n, n)

    def forward(self, x):
        first, rest = x[:, :1], x[:, 1:]
        y = self.f(torch.cat([first.mean(-1, keepdim=True).expand_as(first), rest.flip(1)], 1))
        return torch.cat([first, rest], 1) + torch.cat([y[:, :1], y[:, 1:]], 1)


class Written(nn.Module):
    """The skip times a vector that is learned, and the root mean square norm written out."""

    def __init__(self, n=8):
        super().__init__()
        self.f, self.s, self.g, self.b = mlp(n), *(nn.Parameter(torch.rand(n)) for _ in range(3))

    def forward(self, x):
        x = self.s * x + self.f(x)
        return self.b + self.g * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def pooled(s, x):
    """A skip that is projected and then pooled by hand, as in Hiera."""
    B, T, _ = x.shape
    skip = s.p(x).view(B, 2, T // 2, -1).max(1).values
    y = s.a(x).view(B, 2, T // 2, -1).max(1).values
    return skip + s.b(F.relu(y))


def EDGES():
    return torch.randint(0, 6, (2, 12))


VARIANTS = {
    "RepVGG": (lambda: nn.Sequential(conv(3, 8), RepVGG(), RepVGG()), (IMG,), ["scaled"] * 2),
    "RRDB": (lambda: nn.Sequential(conv(3, 8), RRDB()), (IMG,), ["identity"] * 3),
    "WaveNet": (WaveNet, (lambda: torch.randn(2, 8, 12),), ["identity"] * 3),
    "GIN": (
        lambda: Fn(lambda s, x, e: s.b(s.a(x, e), e), a=GIN(), b=GIN()),
        (lambda: torch.randn(6, 8), EDGES),
        ["identity"] * 2,
    ),
    "GIN, plain": (
        lambda: Fn(lambda s, x, e: s.b(s.a(x, e), e), a=GIN(residual=False), b=GIN(residual=False)),
        (lambda: torch.randn(6, 8), EDGES),
        [],
    ),
    "LSTM written out": (LSTM, (SEQ,), []),
    "mixture of experts": (lambda: nn.Sequential(Mixture(), Mixture()), (SEQ,), ["identity"] * 2),
    "selective scan": (lambda: nn.Sequential(Scan(), Scan()), (SEQ,), ["identity"] * 2),
    "x + t(h - x)": (lambda: nn.Sequential(Delta(), Delta()), (SEQ,), ["identity"] * 2),
    "unrolled": (Unrolled, (lambda: torch.randn(4, 6),), ["identity"] * 3),
    "diffusion": (Diffusion, (lambda: torch.randn(6, 8),), ["identity"] * 3),
    "input injection": (Injected, (SEQ,), []),
    "universal": (Universal, (SEQ,), ["identity"] * 6),
    "vmap": (Ensemble, (SEQ,), ["identity"]),
    "func.grad": (Potential, (SEQ,), ["identity"]),
    "vmap around all": (lambda: Fn(lambda s, x: torch.func.vmap(lambda v: v + s.f(v))(x), f=mlp()), (SEQ,), ["identity"]),
    "out=": (Out, (SEQ,), ["identity"]),
    "alpha": (lambda: Fn(lambda s, x: torch.add(x, s.f(x), alpha=-0.5), f=mlp()), (SEQ,), ["identity"]),
    "pooled by hand": (
        lambda: Fn(pooled, p=nn.Linear(8, 8), a=nn.Linear(8, 16), b=nn.Linear(16, 8)),
        (SEQ,),
        ["projection"],
    ),
    "complex": (
        lambda: Fn(lambda s, x: x + s.f(x), f=nn.Linear(8, 8, dtype=torch.complex64)),
        (lambda: torch.randn(4, 8, dtype=torch.complex64),),
        ["identity"],
    ),
    "bfloat16": (lambda: Fn(lambda s, x: x + s.f(x), f=mlp()).bfloat16(), (lambda: SEQ().bfloat16(),), ["identity"]),
    "mixture of depths": (lambda: nn.Sequential(Depths(), Depths(put="index_add")), (SEQ,), ["identity"] * 2),
    "GRU gates": (lambda: nn.Sequential(GatedXL(), GatedXL()), (SEQ,), ["scaled"] * 2),
    "hyper-connections": (Streams, (lambda: torch.randn(4, 8),), ["projection"] * 2),
    "halves in place": (Halves, (SEQ,), ["identity"]),
    "class token beside": (lambda: nn.Sequential(Divided(), Divided()), (SEQ,), ["identity"] * 2),
    "a vector's skip": (Written, (SEQ,), ["scaled"]),
    "projected by @": (
        lambda: Fn(lambda s, x: x @ s.w + s.f(x), f=mlp(), w=nn.Parameter(torch.randn(8, 8))),
        (SEQ,),
        ["projection"],
    ),
    "two linear maps": (lambda: Fn(lambda s, x: s.a(x) + s.b(x), a=mlp(), b=mlp()), (SEQ,), []),
    "no_grad": (lambda: Fn(torch.no_grad()(lambda s, x: x + s.f(x)), f=mlp()), (SEQ,), ["identity"]),
    "inference_mode": (lambda: Fn(torch.inference_mode()(lambda s, x: x + s.f(x)), f=mlp()), (SEQ,), ["identity"]),
}
