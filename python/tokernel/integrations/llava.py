# SPDX-License-Identifier: Apache-2.0
"""Prune the visual tokens of a live LLaVA-shaped model of transformers, before its decoder and inside it.

Known are models whose ``model`` has a vision tower, a projector and a decoder made of layers (LLaVA 1.5, LLaVA-NeXT,
VipLLaVA): a paper chooses which tokens of every image go on. The rest is done here, so that ``generate`` works as
before: embeddings, padding, positions, masks, labels, and caches whose layers differ in length. A patched model runs
one forward pass at a time: threads need copies of it.
"""

from __future__ import annotations

import inspect
from abc import ABC
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from tokernel.integrations._llava_kept import cache_length, cache_of, remembered
from tokernel.integrations._llava_run import Image, Run
from tokernel.integrations._patch import Original, Patch, unpatch

__all__ = ["Image", "Llava", "LlavaPatch", "Positions", "Run"]

Positions = Literal["renumber", "original"]
_IGNORED_LABEL = -100


class Llava:
    """The parts of a LLaVA-shaped model.

    Attributes:
        model: the whole model, with its head.
        base: the part that joins images and text.
        tower, projector, decoder: its parts.
        layers: the decoder's layers.
    """

    def __init__(self, model: nn.Module) -> None:
        if hasattr(model, "_orig_mod"):
            raise ValueError(
                "patch_llava: model expected a module; got a compiled one: patch the module it was made from"
            )
        base: Any = getattr(model, "model", None)
        names = ("vision_tower", "multi_modal_projector", "language_model", "get_image_features")
        missing = [name for name in names if not hasattr(base, name)]
        if missing or not hasattr(model, "lm_head"):
            raise ValueError(
                "patch_llava: model expected a LLaVA of transformers with its head, such as "
                f"LlavaForConditionalGeneration; got {type(model).__name__} without {', '.join(missing) or 'lm_head'}"
            )
        self.model: Any = model
        self.base = base
        self.tower = base.vision_tower
        self.projector = base.multi_modal_projector
        self.decoder = base.language_model
        self.layers: Sequence[Any] = getattr(self.decoder, "layers", ())
        if not len(self.layers):
            raise ValueError(f"patch_llava: decoder expected layers; got {type(self.decoder).__name__} without")

    def layer(self, index: int) -> int:
        """The decoder layer ``index``, counted from the end where negative."""
        if not -len(self.layers) <= index < len(self.layers):
            raise ValueError(f"patch_llava: layer expected one of {len(self.layers)} decoder layers; got {index}")
        return index % len(self.layers)


class LlavaPatch(Patch, ABC):
    """A LLaVA whose visual tokens get fewer; a paper overrides :meth:`choose` or :meth:`choose_inside`, or both.

    Attributes:
        llava: the parts of the model.
        positions: "renumber": the tokens that are left count 0, 1, 2...; "original": they keep their places' numbers.
        inside: the decoder layers after which :meth:`choose_inside` is asked.
        recorded: outputs of the modules named to :meth:`record`, while images or the decoder are computed.
        run: the last forward pass: its images, and which tokens it left.
    """

    def __init__(self, model: nn.Module, positions: Positions = "renumber", inside: Sequence[int] = ()) -> None:
        super().__init__(model)
        if positions not in ("renumber", "original"):
            raise ValueError(f"patch_llava: positions expected 'renumber' or 'original'; got {positions!r}")
        self.llava = Llava(model)
        self.positions = positions
        self.inside = sorted({self.llava.layer(index) for index in inside})
        self.recorded: dict[str, Tensor] = {}
        self.run: Run | None = None
        self._choices: Any = WeakTensorKeyDictionary()
        self._given: Any = None
        self._encoded: Any = None
        self._in_decoder = False

    def install(self) -> None:
        """Put the patch on the model; an earlier patch of the model is undone first."""
        unpatch(self.model)
        llava = self.llava
        if self.inside:
            _check_full_attention(llava.decoder.config)
            for index in range(self.inside[0], len(llava.layers)):
                self.replace(llava.layers[index], "forward", _run_layer, self, index)
        self._replace_declared(llava.model, "forward", _run_model)
        self._replace_declared(llava.base, "get_image_features", _run_images)
        self.replace(llava.base, "forward", _run_base, self)
        self.replace(llava.decoder, "forward", _run_decoder, self)
        self.watch()
        self.attach()

    def _replace_declared(self, module: nn.Module, name: str, function: Any) -> None:
        """Replace a method whose parameters ``generate`` and trainers read."""
        parameters = inspect.signature(getattr(module, name)).parameters.values()
        self.replace(module, name, function, self)
        plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
        vars(module)[name].__signature__ = inspect.Signature(plain)

    def record(self, module: nn.Module, key: str) -> None:
        """Let the output of a module be ``recorded[key]``; for :meth:`watch`."""
        self.replace(module, "forward", _run_recorded, self, key)

    def watch(self) -> None:
        """Say which modules to record."""

    def choose(self, features: Tensor) -> Tensor | None:
        """Choose which visual tokens the decoder gets.

        Args:
            features: (I, N, C) projected features of the images of one call that have N tokens; while the tower's
                outputs are still in :attr:`recorded`.

        Returns:
            (I, K) int64 of the tokens to keep, ascending; None for all.
        """
        return None

    def choose_each(self, features: list[Tensor]) -> list[Tensor | None]:
        """Choose for images of any size: :meth:`choose` for those of equal size together. Each gives (K) or None."""
        chosen: list[Tensor | None] = [None] * len(features)
        for size in sorted({len(image) for image in features}):
            places = [i for i, image in enumerate(features) if len(image) == size]
            index = self.choose(torch.stack([features[i] for i in places]))
            if index is not None:
                for place, row in zip(places, index, strict=True):
                    chosen[place] = row
        return chosen

    def choose_inside(self, layer: int, hidden: Tensor, run: Run) -> Tensor | None:
        """Choose which tokens leave decoder layer `layer`; asked only where the pass has images.

        Args:
            layer: one of :attr:`inside`.
            hidden: (B, Q, C) what the layer put out.
            run: says which tokens are visual, of which image, and live.

        Returns:
            (B, Q) bool, False where a token is dropped; None to keep all.
        """
        return None

    @property
    def kept(self) -> Tensor | None:
        """For each logit of the last forward pass, the place of its token in the sequence given: (B, L') int64, -1
        where a place only fills up a shorter row; None when no token was dropped."""
        left = self.run.left if self.run is not None else None
        return None if left is None else left.filled(left.index, -1)

    def __getstate__(self) -> dict[str, Any]:
        # What the last forward pass left is no part of a copy, and tensors with a gradient cannot be copied.
        return self.__dict__ | {
            "recorded": {},
            "run": None,
            "_choices": None,
            "_given": None,
            "_encoded": None,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _choices=WeakTensorKeyDictionary())


def _check_full_attention(config: Any) -> None:
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["full_attention" if getattr(config, "sliding_window", None) is None else "sliding_attention"]
    others = sorted(set(kinds) - {"full_attention"})
    if others:
        raise ValueError(f"patch_llava: decoder expected full attention to prune inside; got {', '.join(others)}")


def _named(original: Original, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names."""
    if not args:
        return kwargs
    method: Any = original.value if original.on_instance else getattr(type(original.module), original.name)
    bound = inspect.signature(method).bind_partial(*(args if original.on_instance else (None, *args)))
    return {name: value for name, value in bound.arguments.items() if name != "self"} | kwargs


def _wants_tuple(patch: LlavaPatch, call: dict[str, Any]) -> bool:
    given = call.get("return_dict")
    return not (patch.llava.model.config.return_dict if given is None else given)


def _run_recorded(patch: LlavaPatch, key: str, original: Original, *args: Any, **kwargs: Any) -> Any:
    output = original(*args, **kwargs)
    patch.recorded[key] = output
    return output


def _run_images(patch: LlavaPatch, original: Original, *args: Any, **kwargs: Any) -> Any:
    """``get_image_features``: choose while the tower's outputs are at hand; beams and later calls look it up."""
    wants_tuple = _wants_tuple(patch, kwargs)
    output = original(*args, **kwargs | {"return_dict": True})
    features = output.pooler_output
    with torch.no_grad():
        chosen = patch.choose_each([image.detach() for image in features])
    patch.recorded.clear()
    for image, index in zip(features, chosen, strict=True):
        _check_choice(index, len(image))
        patch._choices[image] = torch.arange(len(image), device=image.device) if index is None else index
    if patch._given is not None:
        patch._encoded = output
    return output.to_tuple() if wants_tuple else output


def _check_choice(index: Tensor | None, size: int) -> None:
    if index is not None and len(index) and not bool((index.diff() > 0).all() & (index[0] >= 0) & (index[-1] < size)):
        raise ValueError(f"patch_llava: choice expected ascending places in [0, {size}); got {index.tolist()}")


def _run_base(patch: LlavaPatch, original: Original, *args: Any, **kwargs: Any) -> Any:
    """The model without its head: note what it is given, for the decoder's call."""
    call = _without_repeated(_named(original, args, kwargs))
    patch._given, patch._encoded = call, (call.get("mm_encoder_outputs") or {}).get("image")
    try:
        return original(**call)
    finally:
        patch._given = patch._encoded = None
        patch.recorded.clear()


def _without_repeated(call: dict[str, Any]) -> dict[str, Any]:
    """Leave out tokens that the cache has seen: ``generate`` counts what is new by the length of the cache."""
    cache, positions = cache_of(call), call.get("position_ids")
    past = remembered(cache)
    if past is None or positions is None or positions.shape[-1] < 2:
        return call
    expected = past.following + (cache_length(cache) - len(past.columns))
    repeated = positions.shape[-1] - (positions[:, -1] - expected + 1)
    count = int(repeated[0])
    if not 0 < count < positions.shape[-1] or bool((repeated != count).any()):
        return call
    names = ("input_ids", "inputs_embeds", "position_ids")
    return call | {name: call[name][:, count:] for name in names if call.get(name) is not None}


def _find_images(patch: LlavaPatch, call: dict[str, Any], features: Any) -> Run:
    visual = _placeholders(patch.llava.base, call)
    owner = torch.full(visual.shape, -1, device=visual.device)
    places, start = visual.nonzero(), 0
    images: list[Image] = []
    for image in features:
        place = places[start : start + len(image)]
        start += len(image)
        kept = patch._choices.get(image)
        if kept is None:
            raise ValueError(
                "patch_llava: image features expected as get_image_features of the patched model returned them; got "
                "others (a prefill in chunks and copies of features are not supported)"
            )
        if not len(place):
            continue
        row = int(place[0, 0])
        if row != int(place[-1, 0]):
            raise ValueError(
                f"patch_llava: image {len(images)} expected its {len(image)} tokens in one row; got two rows"
            )
        owner[row, place[:, 1]] = len(images)
        images.append(Image(row, place[:, 1], kept.to(place.device)))
    return Run(images, owner)


def _placeholders(base: Any, call: dict[str, Any]) -> Tensor:
    """(B, L) bool, where a token stands for a visual one."""
    token, ids = base.config.image_token_id, call.get("input_ids")
    found: Tensor
    if ids is not None:
        found = ids == token
        return found
    embeds: Tensor = call["inputs_embeds"]
    found = (embeds == base.get_input_embeddings()(torch.tensor(token, device=embeds.device))).all(-1)
    return found


def _run_decoder(patch: LlavaPatch, original: Original, *args: Any, **kwargs: Any) -> Any:
    call = _named(original, args, kwargs)
    images = patch._given is not None and patch._encoded is not None
    run = _find_images(patch, patch._given, patch._encoded.pooler_output) if images else Run()
    patch.run = run
    call = run.enter(call, patch.positions == "renumber")
    patch._in_decoder = True
    try:
        output = original(**call)
    finally:
        patch._in_decoder = False
    run.finish(output)
    return output


def _run_layer(patch: LlavaPatch, index: int, original: Original, *args: Any, **kwargs: Any) -> Any:
    run = patch.run
    if run is None or not patch._in_decoder:  # A layer called by itself.
        return original(*args, **kwargs)
    call = dict(_named(original, args, kwargs))
    call = run.arguments(call, patch.llava.decoder.config._attn_implementation)
    hidden = original(call.pop("hidden_states"), **call)
    if index not in patch.inside:
        return hidden
    keep = None
    if run.owner is not None:
        with torch.no_grad():
            keep = patch.choose_inside(index, hidden.detach(), run)
    return run.leave(index, hidden, keep)


def _run_model(patch: LlavaPatch, original: Original, *args: Any, **kwargs: Any) -> Any:
    """The model with its head: labels are told for the tokens given, logits exist for those that are left."""
    call = dict(_named(original, args, kwargs))
    labels = call.pop("labels", None)
    to_keep = call.get("logits_to_keep", 0)
    wants_tuple = _wants_tuple(patch, call)
    output = original(**call | ({} if labels is None else {"return_dict": True}))
    left = patch.run.left if patch.run is not None else None
    if left is not None and isinstance(to_keep, Tensor):
        raise ValueError("patch_llava: logits_to_keep expected a number of last tokens; got places of pruned tokens")
    if labels is None:
        return output
    if left is not None:
        if to_keep or "shift_labels" in call:
            raise ValueError("patch_llava: labels expected without logits_to_keep and shift_labels; got them as well")
        labels = left.filled(left.pick(labels), _IGNORED_LABEL)
    declared = inspect.signature(type(original.module).forward).parameters
    rest = {name: value for name, value in call.items() if name not in declared and name != "return_dict"}
    model = patch.llava.model
    words = model.config.text_config.vocab_size
    loss = model.loss_function(logits=output.logits, labels=labels, vocab_size=words, **rest)
    output = type(output)(**dict(output) | {"loss": loss})
    return output.to_tuple() if wants_tuple else output
