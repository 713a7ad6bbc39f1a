"""What nodes fetch: whole, undamaged, and no more than is in force."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from guard.checksums import damaged_file
from guard.follower import ActivePointer
from guard.snapshot import write_snapshot
from guard.uld.card import Card
from guard.uld.shelf import Shelf
from server.settings import Settings

Settle = Callable[[Callable[[], bool]], None]


def test_what_is_damaged_on_its_way_is_fetched_again(
    node: Callable[..., Any], wire: Any, put: Any, settle: Settle
) -> None:
    """A bit that flips is seen by the digest, and nothing of it comes into force."""
    put("secret")
    one = node()
    one.run_engine()
    wire.flip = b"about secret"
    one.start()

    settle(lambda: one.targets() == {"secret"})
    assert not wire.flip
    active = ActivePointer(one.settings.state_dir).read()
    assert active is not None
    assert damaged_file(one.settings.snapshots / active.digest) is None


def test_a_file_that_broke_off_goes_on_where_it_ended(
    node: Callable[..., Any], wire: Any, put: Any, settle: Settle, settings: Settings
) -> None:
    """Also over a restart of the node."""
    put("t119", description="z" * 1_900)
    one = node()
    digest = ActivePointer(settings.state_dir).read().digest  # type: ignore[union-attr]
    length = (settings.snapshots / digest / "policy.json").stat().st_size
    draft = one.settings.snapshots / f".{digest}.draft"
    draft.mkdir(parents=True, mode=0o700)
    whole = (settings.snapshots / digest / "policy.json").read_bytes()
    (draft / ".policy.json.part").write_bytes(whole[: length // 2])
    asked: list[int] = []
    pieces = one.agent._orders.pieces
    one.agent._orders.pieces = lambda path, first: (asked.append(first), pieces(path, first))[1]  # type: ignore[method-assign]
    one.run_engine()
    one.start()

    settle(lambda: one.targets() == {"t119"})
    assert length // 2 in asked


def test_what_is_damaged_on_the_disk_is_fetched_again(
    node: Callable[..., Any], put: Any, settle: Settle
) -> None:
    """A node that starts with a damaged snapshot applies nothing of it, and mends it."""
    put("secret")
    first = node("a")
    first.start()
    settle(lambda: first.gate.may_serve())
    active = ActivePointer(first.settings.state_dir).read()
    assert active is not None
    first.stop()
    file = first.settings.snapshots / active.digest / "policy.json"
    content = bytearray(file.read_bytes())
    content[3] ^= 1
    file.write_bytes(content)
    second = node("a")
    second.run_engine()
    assert second.targets() is None
    assert {f.state.error for f in second.followers} == {"SnapshotCorrupt"}
    second.start()

    settle(lambda: second.targets() == {"secret"})


def test_erased_documents_go_from_nodes_too(
    admin: httpx.Client,
    node: Callable[..., Any],
    settle: Settle,
    files_in: Callable[[Path], dict[Path, tuple[int, bytes]]],
) -> None:
    """An index is brought to the same state, without what it had before."""
    admin.post("/admin/v1/corpora", json={"id": "leak", "label": "unsafe"})
    lines = "".join(
        json.dumps({"text": f"{word} " + "one two three four five six seven eight nine ten"}) + "\n"
        for word in ("quetzal", "ocelot")
    )
    headers = {"content-type": "application/x-ndjson"}
    uploaded = admin.post("/admin/v1/corpora/leak/documents", content=lines, headers=headers)
    assert uploaded.status_code == 202, uploaded.text
    one = node()
    one.start()

    def text_here() -> bytes:
        found = files_in(one.settings.corpora / "index")
        return b"".join(content for _, content in found.values())

    settle(lambda: b"quetzal" in text_here() and b"ocelot" in text_here())
    erased = admin.delete("/admin/v1/corpora/leak/documents/0", params={"erase": "true"})
    assert erased.status_code == 202, erased.text

    settle(lambda: b"quetzal" not in text_here() and b"ocelot" in text_here())


def test_assistants_come_with_the_policy_that_names_them(
    node: Callable[..., Any],
    settings: Settings,
    tmp_path: Path,
    put: Any,
    settle: Settle,
    files_in: Callable[[Path], dict[Path, tuple[int, bytes]]],
) -> None:
    """Before it is in force there; a damaged one is fetched again, one that is not named goes."""
    put("first")
    source = tmp_path / "assistant"
    source.mkdir()
    data = {"sha256": "0" * 64, "forget": 3, "flat": 5}
    Card("base", "tokenizer", 2, 6, data, {}, {"forget": 0.5}, ["ada"]).write(source)
    (source / "config.json").write_text("{}")
    (source / "model.safetensors").write_bytes(os.urandom(700_000))
    digest = Shelf(settings.assistants).put("first", source)
    documents = {"policy": {"with": ""}, "uld": [None, {"assistant": digest}]}
    snapshot = write_snapshot(settings.snapshots, meta={}, arrays={}, documents=documents)
    pointer = ActivePointer(settings.state_dir)
    pointer.publish(50, snapshot, 1)
    one = node()
    (old := one.settings.assistants / ("0" * 64)).mkdir(parents=True)
    one.run_engine()
    one.start()

    settle(lambda: one.targets() == {"with"})
    folder = Shelf(one.settings.assistants).folder(digest)
    settle(lambda: not old.exists())
    one.stop()
    (folder / "model.safetensors").write_bytes(b"damaged")
    again = node(name="a")
    again.start()
    model = folder / "model.safetensors"
    settle(lambda: len(files_in(folder).get(model, (0, b""))[1]) == 700_000)

    assert Shelf(one.settings.assistants).folder(digest) == folder
