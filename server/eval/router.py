"""A prompt router as GUARD describes it, on our encoder's embeddings: the rival of the classifier.

GUARD (arXiv 2505.13312) routes with a small MLP trained on forget prompts against retain prompts.
Layers and training follow the published re-implementation: two hidden layers of 256, dropout 0.1,
class-weighted cross-entropy, AdamW at 1e-3 with cosine decay, 50 epochs of batches of 32, a tenth
held out and the best epoch on it kept, forget above 0.5. GUARD embeds prompts with the served
model; here both routers see the same sentence embeddings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

HIDDEN = 256
EPOCHS = 50
BATCH = 32

Embeddings = npt.NDArray[np.float32]


class Router:
    """An MLP over embeddings [n, d], trained in `__init__`; deterministic for a seed."""

    def __init__(self, forget: Embeddings, retain: Embeddings, seed: int) -> None:
        import torch

        inputs = torch.from_numpy(np.concatenate([forget, retain]))
        labels = torch.tensor([1] * len(forget) + [0] * len(retain))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._network = _network(forget.shape[1])
            order = torch.randperm(len(inputs))
            held, used = order[: max(1, len(order) // 10)], order[max(1, len(order) // 10) :]
            self._train(inputs[used], labels[used], inputs[held], labels[held])
        self._network.eval()

    def forgets(self, embeddings: Embeddings) -> npt.NDArray[np.bool_]:
        """Whether each prompt is routed to the forget side; [n]."""
        import torch

        with torch.inference_mode():
            scores = self._network(torch.from_numpy(embeddings)).softmax(dim=1)[:, 1]
        found: npt.NDArray[np.bool_] = scores.numpy() > 0.5
        return found

    def _train(
        self, inputs: torch.Tensor, labels: torch.Tensor, held: torch.Tensor, held_labels: Any
    ) -> None:
        import torch
        from torch.nn.functional import cross_entropy

        weights = len(labels) / (2 * torch.bincount(labels, minlength=2).float())
        optimiser = torch.optim.AdamW(self._network.parameters(), lr=1e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
        best, kept = -1.0, self._network.state_dict()
        for _ in range(EPOCHS):
            self._network.train()
            order = torch.randperm(len(inputs))
            for first in range(0, len(order), BATCH):
                rows = order[first : first + BATCH]
                loss = cross_entropy(self._network(inputs[rows]), labels[rows], weights)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            schedule.step()
            accuracy = self._accuracy(held, held_labels)
            if accuracy > best:
                best = accuracy
                kept = {name: value.clone() for name, value in self._network.state_dict().items()}
        self._network.load_state_dict(kept)

    def _accuracy(self, inputs: torch.Tensor, labels: torch.Tensor) -> float:
        import torch

        self._network.eval()
        with torch.inference_mode():
            return float((self._network(inputs).argmax(dim=1) == labels).float().mean())


def _network(width: int) -> torch.nn.Sequential:
    from torch import nn

    return nn.Sequential(
        *(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Dropout(0.1)),
        *(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Dropout(0.1)),
        nn.Linear(HIDDEN, 2),
    )
