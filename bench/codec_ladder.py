# SPDX-License-Identifier: Apache-2.0
"""A ladder of bit rates: residual codebooks fitted to the frames of spoken prompts, judged on prompts never seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tokernel import ops
from torch import Tensor

from bench.codec_audio import HOP, RATE, snr, to_frames, to_sound

EVERY_TENTH = 10  # prompt judges, the others are fitted to
ITERATIONS = 10
BANDS = 4


@dataclass(frozen=True)
class Rung:
    """One stack of codebooks, read to one depth.

    Attributes:
        stack: what kind of stack.
        layers: how many layers are read.
        kbps: kilobits of packed ids a second of sound.
        snr: signal-to-noise ratio of the sound, in dB.
        usage: share of the codes that the judging prompts use, mean over codebooks.
    """

    stack: str
    layers: int
    kbps: float
    snr: float
    usage: float


def fit_books(rows: Tensor, books: int, codes: int, advance: Callable[[], None], seed: int = 0) -> Tensor:
    """Fit one codebook after the other to what the ones before left over, by k-means.

    Args:
        rows: (G, N, D), one stack for each of the G groups.
        books, codes: Q and K of every stack.
        advance: called after every codebook.
        seed: of the rows that k-means starts from.

    Returns:
        codes (G, Q, K, D).
    """
    generator = torch.Generator().manual_seed(seed)
    fitted, left = [], rows.contiguous()
    for _ in range(books):
        found = ops.kmeans(left, codes, ITERATIONS, generator=generator)
        left = left - ops.lookup(found.centroids, found.labels)
        fitted.append(found.centroids)
        advance()
    return torch.stack(fitted, 1)


@dataclass(frozen=True)
class Speech:
    """Sounds, and their frames one after the other."""

    sounds: list[Tensor]
    frames: Tensor

    def rebuilt(self, frames: Tensor) -> list[Tensor]:
        """Cut frames of all sounds into sounds again."""
        lengths = [len(to_frames(sound)) for sound in self.sounds]
        pieces = frames.split(lengths)
        return [to_sound(piece, len(sound)) for piece, sound in zip(pieces, self.sounds, strict=True)]


def split_speech(sounds: Sequence[Tensor]) -> tuple[Speech, Speech]:
    """Part the prompts into those to fit to and those that judge."""
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for at, sound in enumerate(sounds):
        parts[at % EVERY_TENTH == 0].append(sound)
    fitted, judging = (Speech(part, torch.cat([to_frames(sound) for sound in part])) for part in parts)
    return fitted, judging


def grouped(frames: Tensor, groups: int) -> Tensor:
    """Cut frames (N, 160) into groups of neighbouring coefficients, (groups, N, 160 / groups)."""
    return frames.unflatten(1, (groups, HOP // groups)).transpose(0, 1)


def climb(stack: str, groups: int, books: Tensor, judging: Speech, depths: Sequence[int]) -> list[Rung]:
    """Encode, pack, unpack and decode the prompts that judge, at every depth: one :class:`Rung` each."""
    codes = books.shape[2]
    bits = (codes - 1).bit_length()
    seconds = sum(len(sound) for sound in judging.sounds) / RATE
    ids = ops.rvq_encode(grouped(judging.frames, groups), books).index
    rungs = []
    for depth in depths:
        flat = ids[..., :depth].transpose(0, 1).flatten(1).contiguous()
        packed = ops.pack_bits(flat.reshape(1, -1), bits)
        again = ops.unpack_bits(packed, bits, flat.numel()).reshape(len(flat), groups, depth).transpose(0, 1)
        frames = ops.rvq_decode(again.contiguous(), books[:, :depth]).transpose(0, 1).flatten(1)
        stats = ops.codebook_stats(flat.T.contiguous(), codes, per_book=True)
        usage = float(torch.as_tensor(stats.usage).double().mean())
        kbps = 8 * packed.numel() / seconds / 1000
        rungs.append(Rung(stack, depth, kbps, snr(judging.rebuilt(frames), judging.sounds), usage))
    return rungs
