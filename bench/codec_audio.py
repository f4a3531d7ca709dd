# SPDX-License-Identifier: Apache-2.0
"""Spoken prompts as frames of a lapped transform, and back: what the residual stacks of the audio check quantize.

The transform (MDCT, sine window) is orthogonal: the noise of the quantizer is the noise of the sound.
"""

from __future__ import annotations

import math
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.real_models import MissingError

HOP = 160  # samples: 50 frames a second at 8 kHz
RATE = 8000
PACKAGE = "asterisk-core-sounds-en-wav"
WHERE = Path("/usr/share/asterisk/sounds/en_US_f_Allison")


def read_prompts(folder: Path) -> list[Tensor]:
    """Every prompt of at least a second, sorted by name: samples in [-1, 1]."""
    paths = sorted(folder.rglob("*.wav"))
    if not paths:
        raise MissingError(f"no .wav below {folder}: apt-get download {PACKAGE}, dpkg -x it, and name the folder")
    sounds = []
    for path in paths:
        with wave.open(str(path)) as file:
            if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
                raise MissingError(f"{path.name} is not the file of {PACKAGE}: it is not 8 kHz, mono, 16 bits")
            samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        if len(samples) >= RATE:
            sounds.append(torch.from_numpy(samples.astype(np.float32) / 32768))
    return sounds


def _basis() -> Tensor:
    n, k = torch.arange(2 * HOP, dtype=torch.float64), torch.arange(HOP, dtype=torch.float64)
    window = torch.sin(math.pi / (2 * HOP) * (n + 0.5))
    waves = torch.cos(math.pi / HOP * (n[:, None] + 0.5 + HOP / 2) * (k + 0.5))
    return (math.sqrt(2 / HOP) * window[:, None] * waves).float()


def to_frames(sound: Tensor) -> Tensor:
    """Samples (n,) -> (frames, 160), one frame every 160 samples and one more."""
    frames = -(-len(sound) // HOP)
    padded = torch.nn.functional.pad(sound, (HOP, (frames + 1) * HOP - len(sound)))
    return padded.unfold(0, 2 * HOP, HOP) @ _basis()


def to_sound(frames: Tensor, samples: int) -> Tensor:
    """The inverse of :func:`to_frames`."""
    pieces = frames @ _basis().T
    out = torch.zeros((len(frames) + 1) * HOP)
    for half in (0, 1):
        out[half * HOP : (half + len(frames)) * HOP] += pieces[:, half * HOP : (half + 1) * HOP].reshape(-1)
    return out[HOP : HOP + samples]


def snr(ours: Sequence[Tensor], given: Sequence[Tensor]) -> float:
    """Signal-to-noise ratio in dB over all sounds at once."""
    signal = sum(float(x.square().sum()) for x in given)
    noise = sum(float((y - x).square().sum()) for x, y in zip(given, ours, strict=True))
    return 10 * math.log10(signal / noise)
