# SPDX-License-Identifier: Apache-2.0
"""The state of one codebook, or of several that are learnt alike, and one step of learning."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import normalize

from tokernel import ops
from tokernel.codecs._checks import between, name_of, one_of, whole
from tokernel.codecs._draw import draw_rows
from tokernel.codecs.codebook import Averages, ema_step, finite_rows, kmeans_init, revive

MODES = ("ema", "grad", "frozen", "simvq")
METRICS = ("l2", "cosine", "dot")


@dataclass(frozen=True)
class BookOptions:
    """How a codebook is kept and learnt: the keyword arguments that all modules with a codebook take.

    Attributes:
        metric: "l2", "cosine" or "dot", of the search.
        unit: with metric "cosine", rows and codes are normalised, so that codes of norm 1 come out and losses compare
            directions. False searches by cosine but emits codes as they are stored (DAC, SNAC).
        norm_eps: smallest norm that a vector is divided by.
        mode: "ema": codes are moving averages of their rows. "grad": codes are a parameter. "frozen": codes stay.
            "simvq": frozen codes times a matrix that is learnt.
        decay: of the moving averages.
        eps: of the smoothing of their counts.
        threshold: a code whose average count is below it is dead and jumps onto a row of the batch; 0: never. Only in
            mode "ema".
        reset: the count of such a code afterwards; by default the threshold.
        kmeans_init: the first training batch places the codes, by k-means.
        kmeans_iters: its rounds.
        encodec_compat: do as EnCodec's training does: counts start at 0, dead codes do not move (their move is
            overwritten at once), k-means leaves sums = codes, and of a residual stack only the first layer's
            commitment reaches the input.
        distributed: where torch.distributed is initialised, learn from the rows of all processes.
        seed: of the draws of rows for k-means and for dead codes, and of the dropout of layers.
    """

    metric: str = "l2"
    unit: bool = True
    norm_eps: float = 1e-12
    mode: str = "ema"
    decay: float = 0.8
    eps: float = 1e-5
    threshold: float = 0.0
    reset: float | None = None
    kmeans_init: bool = False
    kmeans_iters: int = 10
    encodec_compat: bool = False
    distributed: bool = True
    seed: int = 0

    @property
    def on_sphere(self) -> bool:
        """Whether rows and codes are normalised."""
        return self.metric == "cosine" and self.unit


def book_options(owner: object, given: dict[str, Any]) -> BookOptions:
    """Check keyword arguments."""
    names = {field.name for field in fields(BookOptions)}
    for name in given:
        if name not in names:
            raise TypeError(f"{name_of(owner)}: there is no option {name!r}; codebooks have {', '.join(sorted(names))}")
    options = BookOptions(**given)
    one_of(owner, "metric", options.metric, METRICS)
    one_of(owner, "mode", options.mode, MODES)
    between(owner, "decay", options.decay, 0.0, 1.0)
    for name in ("eps", "norm_eps", "threshold"):
        between(owner, name, getattr(options, name), 0.0)
    whole(owner, "kmeans_iters", options.kmeans_iters, 0)
    whole(owner, "seed", options.seed, -(2**63))
    if options.threshold and options.mode != "ema":
        raise ValueError(f"{name_of(owner)}: threshold needs mode 'ema', which counts rows; got mode {options.mode!r}")
    if options.kmeans_init and (options.mode == "simvq" or options.metric == "dot"):
        raise ValueError(f"{name_of(owner)}: kmeans_init fits neither mode 'simvq' nor metric 'dot'")
    return options


class Book(nn.Module):
    """Codes [.., K, D] and what is needed to learn them.

    State: `codes` (buffer, or parameter in mode "grad"), `counts` and `sums` (mode "ema"), `transform.weight` (mode
    "simvq"), `steps` (how often it learnt) and `ready` (False until k-means has placed the codes).
    """

    counts: Tensor
    sums: Tensor
    steps: Tensor
    ready: Tensor
    transform: nn.Linear

    def __init__(self, owner: object, books: tuple[int, ...], size: int, dim: int, options: BookOptions) -> None:
        super().__init__()
        self.size = whole(owner, "codebook_size", size)
        self.options = options
        codes = torch.randn(*books, size, dim, dtype=torch.float32) * dim**-0.5
        if options.on_sphere:
            codes = normalize(codes, dim=-1)
        if options.mode == "grad":
            self.codes: Tensor = nn.Parameter(codes)
        else:
            self.register_buffer("codes", codes)
        if options.mode == "ema":
            start = torch.zeros if options.encodec_compat else torch.ones
            self.register_buffer("counts", start(*books, size, dtype=torch.float32))
            self.register_buffer("sums", codes.clone())
        if options.mode == "simvq":
            if books:
                raise ValueError(f"{name_of(owner)}: mode 'simvq' takes one codebook, got {books[0]}")
            self.transform = nn.Linear(dim, dim, bias=False, dtype=torch.float32)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("ready", torch.tensor(not options.kmeans_init))
        self.waits = options.kmeans_init  # `ready` as Python sees it: no synchronisation, no graph break

    def current(self) -> Tensor:
        """The codes as they are searched and emitted."""
        if self.options.mode == "simvq":
            codes: Tensor = self.transform(self.codes)
            return self.on_sphere(codes)
        # Buffers were normalised when they were written.
        return self.on_sphere(self.codes) if self.options.mode == "grad" else self.codes

    def on_sphere(self, rows: Tensor) -> Tensor:
        """Normalise, if this codebook lives on the sphere."""
        return normalize(rows, dim=-1, eps=self.options.norm_eps) if self.options.on_sphere else rows

    @torch.no_grad()
    def set_codes(self, codes: Tensor) -> None:
        """Put codes of the shape of `codes` in place, as if nothing had been counted since."""
        if codes.shape != self.codes.shape:
            raise ValueError(
                f"set_codes: codes must have the shape {tuple(self.codes.shape)}, got {tuple(codes.shape)}"
            )
        self.codes.copy_(codes if self.options.mode in ("grad", "simvq") else self.on_sphere(codes.float()))
        if self.options.mode == "ema":
            self.counts.fill_(0.0 if self.options.encodec_compat else 1.0)
            self.sums.copy_(self.codes)
        self.start()

    @torch.no_grad()
    def place(self, rows: Tensor, valid: Tensor | None, layer: int | None = None) -> bool:
        """Place the codes, or those of one layer, by k-means over a batch; False where there is no row."""
        o = self.options
        valid = finite_rows(rows, valid)
        if not self._any_row(rows, valid):
            return False
        seed = o.seed + (layer or 0)
        book = kmeans_init(rows, self.size, o.kmeans_iters, o.metric, None, valid, seed, self.processes())
        at = ... if layer is None else layer
        self.codes[at].copy_(self.on_sphere(book.codes))
        if o.mode == "ema":
            self.counts[at].copy_(book.counts)
            self.sums[at].copy_(book.codes if o.encodec_compat else book.sums)
        return True

    def start(self) -> None:
        """The codes are where they should start."""
        self.ready.fill_(True)
        self.waits = False

    def _any_row(self, rows: Tensor, valid: Tensor | None) -> bool:
        if not self.processes():
            # Rows are left out only where Python may look.
            return rows.shape[-2] > 0 and (valid is None or torch.compiler.is_compiling() or bool(valid.any()))
        number = torch.tensor(rows.shape[-2], device=rows.device) if valid is None else valid.sum()
        dist.all_reduce(number)
        return bool(number > 0)

    @torch.no_grad()
    def learn(self, rows: Tensor, index: Tensor, valid: Tensor) -> None:
        """One step of the moving averages and of dead codes, in mode "ema", for every book that got rows.

        Args:
            rows: ([Q,] N, D) what was quantized.
            index: ([Q,] N); -1 belongs to no code.
            valid: (N,) rows that dead codes may jump to.
        """
        o = self.options
        if o.mode != "ema":
            return
        counts, sums = ops.ema_update(rows, index, self.size)
        counts = counts.float()
        if self.processes():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        book = ema_step(Averages(self.codes, self.counts, self.sums), counts, sums, o.decay, o.eps, o.metric)
        if o.threshold and not o.encodec_compat:
            drawn, number = draw_rows(rows, valid, self.size, o.seed, self.steps, self.processes())
            book = revive(book, o.threshold, drawn, number, o.reset)
        active = counts.sum(-1) > 0
        for old, new in zip((self.codes, self.counts, self.sums), book, strict=True):
            old.copy_(torch.where(active.reshape(*active.shape, *(1,) * (new.dim() - active.dim())), new, old))
        self.steps.add_(1)

    def processes(self) -> bool:
        """Whether other processes bring rows as well."""
        return self.options.distributed and dist.is_available() and dist.is_initialized()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.waits = not bool(self.ready)
