"""The assistant: the target model's first layers, final norm and head, and the folder it lies in.

The folder is one that transformers loads (`config.json`, `model.safetensors`), with a card beside.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from guard.errors import ModelUnreadable, TrainingError


def num_layers(folder: Path) -> int:
    """How many layers the model in a folder has."""
    return int(_config(folder).get_text_config().num_hidden_layers)


def load_first_layers(folder: Path, layers: int, *, device: str = "cpu") -> nn.Module:
    """The first `layers` layers of a model with its norm and head, float32, in evaluation mode.

    By configuration: any decoder that transformers builds from `num_hidden_layers` can be taken.

    Raises:
        ModelUnreadable: transformers cannot load it.
        TrainingError: its layers are not found where its configuration says.
    """
    config = _config(folder)
    text = config.get_text_config()
    whole = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        # Lists with an entry per layer (`layer_types` and the like).
        if isinstance(value, list) and len(value) == whole:
            setattr(text, name, value[:layers])
    text.num_hidden_layers = layers
    model = load_model(folder, device=device, config=config)
    if len(layers_of(model)) != layers:
        raise TrainingError("the model does not build its layers from num_hidden_layers")
    return model


def load_model(
    folder: Path,
    *,
    device: str = "cpu",
    config: Any = None,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """A causal language model in evaluation mode, frozen; float32 unless told otherwise.

    Raises:
        ModelUnreadable: transformers cannot load it.
    """
    from transformers import AutoModelForCausalLM

    try:
        with _quiet():
            model: nn.Module = AutoModelForCausalLM.from_pretrained(
                folder, config=config, dtype=dtype, local_files_only=True
            )
    except (OSError, ValueError) as error:
        raise ModelUnreadable(f"cannot load the model in {folder}: {error}") from None
    return model.to(device).eval().requires_grad_(False)


def layers_of(model: Any) -> nn.ModuleList:
    """A decoder's layers.

    Raises:
        TrainingError: the decoder keeps them elsewhere.
    """
    found = getattr(model.get_decoder(), "layers", None)
    if not isinstance(found, nn.ModuleList):
        raise TrainingError("this architecture is not supported: its decoder has no `layers`")
    return found


def norm_of(model: Any) -> nn.Module | None:
    """A decoder's final norm, where it has one of that name."""
    found = getattr(model.get_decoder(), "norm", None)
    return found if isinstance(found, nn.Module) else None


def load_tokenizer(folder: Path) -> Any:
    """A model's tokenizer.

    Raises:
        ModelUnreadable: transformers cannot load it.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelUnreadable(f"cannot load the tokenizer in {folder}: {error}") from None


def save_assistant(model: Any, folder: Path) -> None:
    """Write config and weights (bfloat16, as they are served)."""
    with _quiet():
        kept = model.dtype
        model.to(torch.bfloat16).save_pretrained(folder)
        model.to(kept)


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelUnreadable(f"cannot read the config in {folder}: {error}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars, and its report on the layers that were left out on purpose."""
    from transformers.utils import logging as hub

    level, bars = hub.get_verbosity(), hub.is_progress_bar_enabled()
    hub.set_verbosity(logging.ERROR)
    hub.disable_progress_bar()
    try:
        yield
    finally:
        hub.set_verbosity(level)
        if bars:
            hub.enable_progress_bar()
