"""The search of `detectors.similarity` on the device of the encoder, in one copy of the rows there.

The rows stay in fp32: thresholds are calibrated in it, and a bf16 cosine is off by up to 0.004. A
million rows of 384 numbers take 1.5 GB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from detectors.similarity import NAMED_FLOOR, Embeddings, Hits, Query, joined

# Cosines held at once: 64 MB of them; fewer and larger products than on a CPU.
_PRODUCT_CELLS = 1 << 24
_FEWEST_ROWS = 1024


class DeviceRows:
    """A search with torch on one device. Thread-safe. Same hits as `HostRows`, but for rounding."""

    def __init__(
        self,
        rows: Embeddings,
        bounds: npt.NDArray[np.float32],
        lower: npt.NDArray[np.float32],
        targets: npt.NDArray[np.int32],
        items: npt.NDArray[np.int32],
        *,
        device: str,
    ) -> None:
        """Copy rows [n, d] and, per row, bounds, target and item (-1 for none) to the device."""
        self._device = torch.device(device)
        self._rows = self._copied(rows)
        self._bounds = self._copied(bounds)
        self._lower = self._copied(lower)
        self._targets = self._copied(targets)
        self._has_item = self._copied(items) >= 0

    @torch.inference_mode()
    def find(self, queries: Sequence[Query]) -> list[Hits]:
        """The hits of each conversation."""
        asked = [number for number, query in enumerate(queries) if len(query.windows)]
        found = [Hits.none() for _ in queries]
        if not asked or not len(self._rows):
            return found
        windows = self._copied(np.concatenate([queries[number].windows for number in asked]))
        sizes = [len(queries[number].windows) for number in asked]
        named = {
            place: self._copied(np.array(sorted(queries[number].named), np.int32))
            for place, number in enumerate(asked)
            if queries[number].named
        }
        described = [place for place, number in enumerate(asked) if queries[number].described]
        parts: list[list[Hits]] = [[] for _ in asked]
        size = max(_FEWEST_ROWS, _PRODUCT_CELLS // len(windows))
        for first in range(0, len(self._rows), size):
            block = slice(first, first + size)
            best = self._best(windows, sizes, block)
            for place, hits in self._hits(best, named, described, block):
                parts[place].append(hits)
        for place, number in enumerate(asked):
            found[number] = joined(parts[place])
        return found

    def _best(self, windows: torch.Tensor, sizes: list[int], block: slice) -> torch.Tensor:
        """Greatest cosine of each conversation to each row of the block; [conversations, rows]."""
        product = windows @ self._rows[block].T
        if len(sizes) == len(windows):
            return product
        return torch.stack([part.amax(0) for part in torch.split(product, sizes)])

    def _hits(
        self,
        best: torch.Tensor,
        named: dict[int, torch.Tensor],
        described: list[int],
        block: slice,
    ) -> list[tuple[int, Hits]]:
        reached = best >= self._bounds[block]
        if described:
            reached[described] = best[described] >= self._lower[block]
        for place, targets in named.items():
            own = torch.isin(self._targets[block], targets) & self._has_item[block]
            reached[place] |= own & (best[place] >= NAMED_FLOOR)
        places, rows = reached.nonzero(as_tuple=True)
        cosines = best[places, rows].cpu().numpy()
        on_host = places.cpu().numpy()
        all_rows = rows.cpu().numpy() + block.start
        edges = np.flatnonzero(np.diff(on_host)) + 1
        groups = zip(np.split(all_rows, edges), np.split(cosines, edges), strict=True)
        starts = [0, *edges.tolist()]
        if not len(on_host):
            return []
        return [
            (int(on_host[start]), Hits.of(group, values))
            for start, (group, values) in zip(starts, groups, strict=True)
        ]

    def _copied(self, array: npt.NDArray[np.generic]) -> torch.Tensor:
        # A copy of its own: torch cannot hold memory that is mapped read-only.
        return torch.from_numpy(np.array(array)).to(self._device)
