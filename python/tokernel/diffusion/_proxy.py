# SPDX-License-Identifier: Apache-2.0
"""The parts of :mod:`tokernel.diffusion.qihoo_t2x`: proxy tokens, what is done with them, and the block."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokernel import ops
from tokernel.diffusion._kv_pool import merge_heads, split_heads
from tokernel.diffusion._windows import Extents, WindowOrder, check_window, window_order

__all__ = ["MultiHead", "ProxyMode", "ProxyTokenBlock", "ProxyWeights", "norm", "proxy_attention", "proxy_tokens"]

ProxyMode = Literal["mean", "first", "random"]
_NORM_EPS = 1e-6


def norm(x: Tensor) -> Tensor:
    """LayerNorm without parameters, eps 1e-6: the only one there is in this network."""
    return functional.layer_norm(x, x.shape[-1:], eps=_NORM_EPS)


def _proxies_per_axis(p: Extents, proxy_p: Extents | None) -> Extents:
    f, h, w = check_window("proxy_tokens", p, p if proxy_p is None else proxy_p)
    return f, h, w


def _proxy_of(p: Extents, per_axis: Extents, device: torch.device) -> Tensor:
    """The proxy of each token of a window, (n): coordinates modulo the number of proxies along each axis."""
    f, h, w = (torch.arange(edge, device=device) % s for edge, s in zip(p, per_axis, strict=True))
    return ((f[:, None, None] * per_axis[1] + h[:, None]) * per_axis[2] + w).flatten()


def proxy_tokens(
    windows: Tensor,
    p: Extents,
    proxy_p: Extents | None = None,
    mode: ProxyMode = "mean",
    generator: torch.Generator | None = None,
    *,
    batch: int = 1,
) -> Tensor:
    """Stand for every window by one token, or by s of them.

    With ``proxy_p`` a window has ``s = (pf / qf) (ph / qh) (pw / qw)`` proxies: proxy (a, b, c) stands for the tokens
    whose coordinates are congruent to (a, b, c) modulo the number of proxies along each axis, a dilated sub-grid.

    Args:
        windows: (B * nW, n, C) float32, float16 or bfloat16, as :func:`window_partition` returns them.
        p: (pf, ph, pw), the window.
        proxy_p: (qf, qh, qw), divisors of p; None is p, one proxy a window.
        mode: "mean" of its tokens, summed in float32 (the published one); the "first" of them; or one of them at
            "random" (first arXiv version), drawn anew for every sample, window and proxy.
        generator: of the random draw, on the CPU.
        batch: B.

    Returns:
        (B, nW * s, C), differentiable in windows.

    Raises:
        ValueError: shapes do not fit, proxy_p does not divide p, or an unknown mode.

    >>> windows = torch.arange(8.0).view(1, 8, 1)
    >>> proxy_tokens(windows, (1, 2, 4)).flatten(), proxy_tokens(windows, (1, 2, 4), (1, 2, 2)).flatten()
    (tensor([3.5000]), tensor([3., 4.]))
    """
    per_axis = _proxies_per_axis(p, proxy_p)
    n, s = p[0] * p[1] * p[2], per_axis[0] * per_axis[1] * per_axis[2]
    if windows.dim() != 3 or windows.shape[1] != n or batch < 1 or windows.shape[0] % batch:
        raise ValueError(f"proxy_tokens: windows expected shape ({batch} * nW, {n}, C); got {tuple(windows.shape)}")
    if mode not in get_args(ProxyMode):
        raise ValueError(f"proxy_tokens: mode expected one of {', '.join(get_args(ProxyMode))}; got {mode!r}")
    count = windows.shape[0] // batch
    x = windows.reshape(batch, count * n, windows.shape[2])
    first = torch.arange(count, device=x.device)[:, None]
    proxy = _proxy_of(p, per_axis, x.device)
    if mode == "mean":
        ids = (first * s + proxy).flatten()
        mean: Tensor = ops.segment_reduce(x, ids=ids, segments=count * s, mode="mean")
        return mean
    # Row i of members: the tokens that proxy i stands for, ascending.
    members = proxy.argsort(stable=True).view(s, n // s)
    shape = (batch, count, s, 1)
    if mode == "first":
        pick = torch.zeros(shape, dtype=torch.int64, device=x.device)
    else:
        pick = torch.randint(n // s, shape, generator=generator).to(x.device)
    token = members.expand(batch, count, -1, -1).gather(3, pick).squeeze(3)
    return ops.gather_rows(x, (first * n + token).flatten(1))


class MultiHead(nn.Module):
    """Attention with linears around it: ``out(attention(q(x), k(context), v(context)))``, scale 1 / sqrt(C / heads).

    Args:
        dim: C.
        heads: a divisor of C.
        bias: of the linears of queries, keys and values; that of the answer always has one.
    """

    def __init__(self, dim: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"MultiHead: heads expected a divisor of {dim}; got {heads}")
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        policy: ops.Dense | ops.Segments | None = None,
        key_bias: Tensor | None = None,
    ) -> Tensor:
        """Attend from x (B, N, C) to context (B, M, C), or to x itself."""
        context = x if context is None else context
        q, k, v = (split_heads(t, self.heads) for t in (self.q(x), self.k(context), self.v(context)))
        y: Tensor = self.out(merge_heads(ops.attention(q, k, v, policy or ops.Dense(), key_bias=key_bias)))
        return y


class ProxyWeights(NamedTuple):
    """What :func:`proxy_attention` computes with.

    Attributes:
        proxies: attention among the proxies.
        inject: attention from every token to the proxies.
        out: linear after it, zero at initialisation.
    """

    proxies: MultiHead
    inject: MultiHead
    out: nn.Linear


def proxy_attention(
    x: Tensor,
    p: Extents,
    weights: ProxyWeights,
    *,
    batch: int = 1,
    proxy_p: Extents | None = None,
    mode: ProxyMode = "mean",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mix all windows through their proxies (the paper's global information interaction, GIIM).

    ``P = P + proxies(LN(P))``, then ``x + out(inject(LN(x), LN(P)))``: N tokens query nW * s proxies, so that the cost
    grows with N * nW and not with N^2.

    Args:
        x: (B * nW, n, C) windows.
        p: (pf, ph, pw), the window.
        weights: see :class:`ProxyWeights`.
        batch: B.
        proxy_p, mode, generator: as for :func:`proxy_tokens`.

    Returns:
        (B * nW, n, C).

    >>> weights = ProxyWeights(MultiHead(8, 2), MultiHead(8, 2), torch.nn.Linear(8, 8))
    >>> proxy_attention(torch.randn(6, 4, 8), (1, 2, 2), weights, batch=2).shape
    torch.Size([6, 4, 8])
    """
    proxies = proxy_tokens(x, p, proxy_p, mode, generator, batch=batch)
    proxies = proxies + weights.proxies(norm(proxies))
    tokens = norm(x).reshape(batch, -1, x.shape[2])
    y: Tensor = weights.out(weights.inject(tokens, norm(proxies)))
    return x + y.reshape(x.shape)


def _zeroed(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class ProxyTokenBlock(nn.Module):
    """One block of PT-DiT: proxies, windows, shifted windows, text, MLP (section 3.2 and 3.3 of the paper).

    Args:
        dim: C.
        heads: a divisor of C.
        window: (pf, ph, pw).
        proxy: as proxy_p of :func:`proxy_tokens`.
        mode: as mode of :func:`proxy_tokens`.
        bias: of the linears of queries, keys and values.
        shift: whether the block has shifted windows.

    >>> block = ProxyTokenBlock(dim=16, heads=2, window=(1, 2, 2))
    >>> block(torch.randn(8, 4, 16), (1, 4, 4), torch.randn(2, 6 * 16), torch.randn(2, 5, 16)).shape
    torch.Size([8, 4, 16])
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window: Extents,
        proxy: Extents | None = None,
        mode: ProxyMode = "mean",
        bias: bool = True,
        shift: bool = True,
    ) -> None:
        super().__init__()
        _proxies_per_axis(window, proxy)
        self.window, self.proxy, self.mode = window, proxy, mode
        self.proxies, self.inject = MultiHead(dim, heads, bias), MultiHead(dim, heads, bias)
        self.inject_out = _zeroed(nn.Linear(dim, dim))
        self.within = MultiHead(dim, heads, bias)
        self.table = nn.Parameter(torch.randn(6, dim) / dim**0.5)
        self.shift = shift
        if shift:
            self.shifted = MultiHead(dim, heads, bias)
            self.shifted_out = _zeroed(nn.Linear(dim, dim))
            self.shifted_table = nn.Parameter(torch.randn(3, dim) / dim**0.5)
        self.text = MultiHead(dim, heads, bias)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU("tanh"), nn.Linear(4 * dim, dim))

    def forward(
        self,
        windows: Tensor,
        grid: Extents,
        t6: Tensor,
        text: Tensor,
        text_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        order: WindowOrder | None = None,
    ) -> Tensor:
        """Run the block.

        Args:
            windows: (B * nW, n, C).
            grid: (f, h, w) behind the windows.
            t6: (B, 6 C) or (B, 6, C) modulation of the time step; samples may stand at different ones.
            text: (B, L, C).
            text_mask: (B, L), 0 or False on padding, which then has no weight at all.
            generator: of random proxies.
            order: of :func:`window_order`, for blocks in a row that share it; None finds it.

        Returns:
            (B * nW, n, C).

        Raises:
            ValueError: extents do not fit.
        """
        batch, dim = t6.shape[0], windows.shape[-1]
        count = torch.Size(check_window("ProxyTokenBlock", grid, self.window)).numel()
        if windows.shape[0] != batch * count:
            raise ValueError(f"ProxyTokenBlock: windows expected {batch} x {count} of them; got {windows.shape[0]}")
        weights = ProxyWeights(self.proxies, self.inject, self.inject_out)
        mixed = proxy_attention(
            windows, self.window, weights, batch=batch, proxy_p=self.proxy, mode=self.mode, generator=generator
        )
        # With the tokens of a sample in one row, a sample's modulation cannot meet another's windows.
        x = mixed.reshape(batch, -1, dim)
        order = order or window_order(grid, self.window, x.device)
        t6 = t6.reshape(batch, 6, dim)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (self.table + t6).unsqueeze(2).unbind(1)
        x = x + gate * self.within(norm(x) * (1 + scale) + shift, policy=ops.Segments(order.windows))
        if self.shift:
            shift, scale, gate = (self.shifted_table + t6[:, :3]).unsqueeze(2).unbind(1)
            y = ops.gather_rows(norm(x) * (1 + scale) + shift, order.order.expand(batch, -1))
            y = self.shifted(y, policy=ops.Segments(order.regions))
            x = x + self.shifted_out(gate * ops.gather_rows(y, order.back.expand(batch, -1)))
        bias = None
        if text_mask is not None:
            bias = torch.zeros(text_mask.shape, device=x.device).masked_fill(text_mask == 0, -torch.inf).unsqueeze(1)
        x = x + self.text(x, text, key_bias=bias)
        x = x + mlp_gate * self.mlp(norm(x) * (1 + mlp_scale) + mlp_shift)
        out: Tensor = x.reshape(windows.shape)
        return out
