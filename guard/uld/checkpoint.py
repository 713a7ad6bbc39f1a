"""A training's state on disk: what is learned so far and the optimiser's moments (safetensors)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from guard.errors import TrainingError

Parameters = dict[str, nn.Parameter]


def save_checkpoint(
    path: Path, parameters: Parameters, optimizer: torch.optim.Optimizer, run: str, step: int
) -> None:
    """Write it beside and rename it. `run` tells one training from another."""
    tensors = {}
    for name, parameter in parameters.items():
        tensors[f"weight.{name}"] = parameter.detach().contiguous()
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}.{name}"] = value.contiguous()
    draft = path.with_suffix(".draft")
    save_file(tensors, draft, metadata={"run": run, "step": str(step)})
    draft.replace(path)


def load_checkpoint(
    path: Path, parameters: Parameters, optimizer: torch.optim.Optimizer, run: str
) -> int:
    """Put a saved state back; gives the number of steps done, 0 where there is no checkpoint.

    Raises:
        TrainingError: it is damaged, or of a training with other data, settings or base model.
    """
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("run") != run:
                raise TrainingError(
                    "the checkpoint is of a training with other lessons, settings or model: "
                    "repeat those, or give another folder"
                )
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(file.get_tensor(f"weight.{name}"))
                    optimizer.state[parameter] = {
                        key: file.get_tensor(f"{key}.{name}").to(parameter.device)
                        if key != "step"
                        else file.get_tensor(f"{key}.{name}")
                        for key in ("step", "exp_avg", "exp_avg_sq")
                    }
            return int(metadata["step"])
    except (SafetensorError, KeyError, ValueError, OSError):
        raise TrainingError(f"{path.name} cannot be read: remove it to start anew") from None
