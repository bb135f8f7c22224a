"""Small hand-written networks of many styles, for the table of architectures."""

import torch
from torch import nn
from torch.nn import functional as F


class Fn(nn.Module):
    """A module from a function of (self, x), so that a style fits in a few lines."""

    def __init__(self, function, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def mlp(n=8, hidden=16):
    return nn.Sequential(nn.Linear(n, hidden), nn.ReLU(), nn.Linear(hidden, n))


def conv(i, o, k=3, s=1, groups=1):
    return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o))


class Basic(nn.Module):
    """He et al. (2015), with projection, option A or identity shortcut."""

    def __init__(self, i, o, s=1, option="B"):
        super().__init__()
        self.a, self.b, self.s, self.option = conv(i, o, 3, s), conv(o, o), s, option
        self.short = conv(i, o, 1, s) if option == "B" and (s != 1 or i != o) else None
        self.pad = o - i

    def forward(self, x):
        y = self.b(F.relu(self.a(x)))
        if self.short is not None:
            x = self.short(x)
        elif self.pad:
            x = F.pad(x[:, :, :: self.s, :: self.s], (0, 0, 0, 0, self.pad // 2, self.pad - self.pad // 2))
        return F.relu(y + x)


class PreAct(nn.Module):
    """He et al. (2016): the projection shares the first activation."""

    def __init__(self, i, o, s=1):
        super().__init__()
        self.n1, self.n2 = nn.BatchNorm2d(i), nn.BatchNorm2d(o)
        self.c1, self.c2 = nn.Conv2d(i, o, 3, s, 1, bias=False), nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.short = nn.Conv2d(i, o, 1, s, bias=False) if s != 1 or i != o else None

    def forward(self, x):
        a = F.relu(self.n1(x))
        skip = x if self.short is None else self.short(a)
        return skip + self.c2(F.relu(self.n2(self.c1(a))))


class NFBlock(nn.Module):
    """Brock et al. (2021): x + alpha·F(x/beta)."""

    def __init__(self, n, alpha=0.2, beta=1.1):
        super().__init__()
        self.c1, self.c2, self.alpha, self.beta = nn.Conv2d(n, n, 3, 1, 1), nn.Conv2d(n, n, 3, 1, 1), alpha, beta
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x):
        y = self.c2(F.gelu(self.c1(F.gelu(x / self.beta))))
        return x + y * self.gain * self.alpha


class SEBasic(nn.Module):
    """Hu et al. (2018): the gate multiplies the branch before the sum."""

    def __init__(self, n):
        super().__init__()
        self.a, self.b = conv(n, n), conv(n, n)
        self.f1, self.f2 = nn.Linear(n, n // 2), nn.Linear(n // 2, n)

    def forward(self, x):
        y = self.b(F.relu(self.a(x)))
        g = torch.sigmoid(self.f2(F.relu(self.f1(y.mean((2, 3))))))
        return F.relu(x + y * g[:, :, None, None])


class DenseLayer(nn.Module):
    def __init__(self, i, growth=4):
        super().__init__()
        self.n, self.c = nn.BatchNorm2d(i), nn.Conv2d(i, growth, 3, 1, 1)

    def forward(self, x):
        return torch.cat([x, self.c(F.relu(self.n(x)))], 1)


class UNet(nn.Module):
    """Ronneberger et al. (2015): long skips by concatenation; `add` makes it LinkNet-like."""

    def __init__(self, add=False):
        super().__init__()
        self.e1, self.e2, self.mid = conv(3, 8), conv(8, 16, 3, 2), conv(16, 16)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.d1, self.head, self.add = conv(8 if add else 16, 8), nn.Conv2d(8, 2, 1), add

    def forward(self, x):
        a = F.relu(self.e1(x))
        u = self.up(F.relu(self.mid(F.relu(self.e2(a)))))
        return self.head(F.relu(self.d1(a + u if self.add else torch.cat([a, u], 1))))


class Mixer(nn.Module):
    def __init__(self, tokens=6, n=8):
        super().__init__()
        self.n1, self.n2, self.tok, self.ch = nn.LayerNorm(n), nn.LayerNorm(n), mlp(tokens), mlp(n)

    def forward(self, x):
        x = x + self.tok(self.n1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.ch(self.n2(x))


class RevBlock(nn.Module):
    """Gomez et al. (2017): y1 = x1 + F(x2), y2 = x2 + G(y1)."""

    def __init__(self, n=8):
        super().__init__()
        self.f, self.g = mlp(n // 2), mlp(n // 2)

    def forward(self, x):
        x1, x2 = x.chunk(2, -1)
        y1 = x1 + self.f(x2)
        return torch.cat([y1, x2 + self.g(y1)], -1)


class Highway(nn.Module):
    """Srivastava et al. (2015): t·H(x) + (1 - t)·x."""

    def __init__(self, n=8):
        super().__init__()
        self.h, self.t = nn.Linear(n, n), nn.Linear(n, n)

    def forward(self, x):
        t = torch.sigmoid(self.t(x))
        return t * torch.tanh(self.h(x)) + (1 - t) * x


class TanhGelu(nn.Module):
    """GELU written out: its cubic x + 0.044715·x³ is no residual block."""

    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3)))


class GRN(nn.Module):
    """Woo et al. (2023): gamma·(x·n(x)) + beta + x, a gate and no residual block."""

    def __init__(self, n):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.zeros(n)), nn.Parameter(torch.zeros(n))

    def forward(self, x):
        g = x.norm(dim=1, keepdim=True)
        return self.gamma * (x * (g / (g.mean(-1, keepdim=True) + 1e-6))) + self.beta + x


class Attention(nn.Module):
    """Causal attention with rotary positions written out (q·cos + rotate(q)·sin is no residual block)."""

    def __init__(self, n=8, heads=2):
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(n, 3 * n), nn.Linear(n, n), heads

    def forward(self, x):
        B, T, n = x.shape
        q, k, v = (z.view(B, T, self.heads, -1).transpose(1, 2) for z in self.qkv(x).chunk(3, -1))
        angle = torch.arange(T, dtype=x.dtype)[:, None] * torch.ones(q.shape[-1])
        q, k = (z * angle.cos() + torch.cat([-z[..., 1::2], z[..., ::2]], -1) * angle.sin() for z in (q, k))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        scores = scores + torch.full((T, T), -1e4).triu(1)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, n))


class Layer(nn.Module):
    """A transformer layer in one of several published wirings."""

    def __init__(self, wiring="pre", n=8):
        super().__init__()
        self.n1, self.n2, self.attn, self.ff, self.wiring = nn.LayerNorm(n), nn.LayerNorm(n), Attention(n), mlp(n), wiring
        self.g1, self.g2 = nn.Parameter(torch.full((n,), 0.1)), nn.Parameter(torch.zeros(()))

    def forward(self, x):
        if self.wiring == "pre":
            x = x + self.attn(self.n1(x))
            return x + self.ff(self.n2(x))
        if self.wiring == "post":
            x = self.n1(x + self.attn(x))
            return self.n2(x + self.ff(x))
        if self.wiring == "deepnorm":  # Wang et al. (2022): LN(alpha·x + F(x))
            x = self.n1(x * 1.5 + self.attn(x))
            return self.n2(x * 1.5 + self.ff(x))
        if self.wiring == "parallel":  # Wang & Komatsuzaki (2021), GPT-J
            y = self.n1(x)
            return x + self.attn(y) + self.ff(y)
        if self.wiring == "layerscale":  # Touvron et al. (2021), CaiT
            x = x + self.g1 * self.attn(self.n1(x))
            return x + self.g1 * self.ff(self.n2(x))
        if self.wiring == "rezero":  # Bachlechner et al. (2020)
            x = x + self.g2 * self.attn(x)
            return x + self.g2 * self.ff(x)
        if self.wiring == "gated":  # Flamingo's x + tanh(g)·F(x)
            x = x + self.g2.tanh() * self.attn(self.n1(x))
            return x + self.g2.tanh() * self.ff(self.n2(x))
        raise ValueError(self.wiring)


class Inplace(nn.Module):
    """Every spelling of a sum, one block each."""

    def __init__(self, n=8):
        super().__init__()
        self.f = nn.ModuleList(mlp(n) for _ in range(11))
        self.s = nn.Parameter(torch.ones(n))

    def forward(self, x):
        f = iter(self.f)
        y = next(f)(x)
        y += x  # 1: in place, the branch is overwritten
        x = y
        y = next(f)(x)
        x = x.clone().add_(y)  # 2
        x = torch.add(x, next(f)(x), alpha=0.5)  # 3
        x = x - next(f)(x)  # 4
        x = torch.lerp(x, next(f)(x), 0.3)  # 5
        x = torch.addcmul(x, next(f)(x), self.s)  # 6
        x = torch.stack([x, next(f)(x)]).sum(0)  # 7
        x = sum([x, next(f)(x)])  # 8
        g = next(f)
        x = torch.addmm(x, g[1](g[0](x)), g[2].weight.T)  # 9: the sum is fused with the last product
        x = torch.addcdiv(x, next(f)(x), self.s + 1)  # 10
        z = next(f)(x)
        z[:, :] += x  # 11: through a view
        return z


class LSTMStack(nn.Module):
    """Wu et al. (2016), GNMT: residual connections between LSTM layers."""

    def __init__(self, layers=3, n=8):
        super().__init__()
        self.layers = nn.ModuleList(nn.LSTM(n, n, batch_first=True) for _ in range(layers))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)[0]
        return x


class RNN(nn.Module):
    """An Elman network written out: W·x_t + U·h is no residual block."""

    def __init__(self, n=8):
        super().__init__()
        self.w, self.u, self.n = nn.Linear(n, n), nn.Linear(n, n), n

    def forward(self, x):
        h = x.new_zeros(x.shape[0], self.n)
        for t in range(x.shape[1]):
            h = torch.tanh(self.w(x[:, t]) + self.u(h))
        return h


class LoRA(nn.Module):
    """Hu et al. (2022): W·x + B·A·x is one linear map, no residual block."""

    def __init__(self, n=16, r=2):
        super().__init__()
        self.w, self.a, self.b = nn.Linear(n, n), nn.Linear(n, r, bias=False), nn.Linear(r, n, bias=False)

    def forward(self, x):
        return self.w(x) + self.b(self.a(x))


class DETRLayer(nn.Module):
    """Carion et al. (2020): positions are added to queries and keys in every layer; those sums are no blocks."""

    def __init__(self, n=8):
        super().__init__()
        self.attn, self.ff = nn.MultiheadAttention(n, 2, batch_first=True), mlp(n)
        self.n1, self.n2 = nn.LayerNorm(n), nn.LayerNorm(n)

    def forward(self, x, pos):
        q = x + pos
        x = self.n1(x + self.attn(q, q, x, need_weights=False)[0])
        return self.n2(x + self.ff(x))


class Res2Block(nn.Module):
    """Gao et al. (2019): sums of splits within a block feed the next convolution; the block is one."""

    def __init__(self, n=16, parts=4):
        super().__init__()
        self.i, self.o, self.parts = conv(n, n, 1), conv(n, n, 1), parts
        self.convs = nn.ModuleList(conv(n // parts, n // parts) for _ in range(parts - 1))

    def forward(self, x):
        parts = F.relu(self.i(x)).chunk(self.parts, 1)
        out, y = [], None
        for c, p in zip(self.convs, parts[:-1], strict=True):
            y = F.relu(c(p if y is None else y + p))
            out.append(y)
        return F.relu(x + self.o(torch.cat([*out, parts[-1]], 1)))


class DropPath(nn.Module):
    """Stochastic depth as most vision code writes it."""

    def __init__(self, p=0.5):
        super().__init__()
        self.p = p

    def forward(self, x):
        if not self.training:
            return x
        keep = (torch.rand(x.shape[0], *[1] * (x.ndim - 1)) > self.p).to(x)
        return x * keep / (1 - self.p)


class Double(torch.autograd.Function):
    """An operation that torch functions do not show the inside of."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w.T, x.flatten(0, -2).T @ g.flatten(0, -2)
