"""Policy snapshots on disk."""

import contextlib
import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard import snapshot
from guard.checksums import are_sound_elsewhere
from guard.errors import SnapshotCorrupt, SnapshotMissing, SnapshotOutdated
from guard.snapshot import discard_drafts, load_snapshot, write_snapshot

ARRAYS = {"group.one": np.arange(5, dtype=np.int32), "group.two": np.ones((2, 3), np.float32)}


def write(root, **changes):
    content = {"meta": {"a": 1}, "arrays": ARRAYS, "documents": {"texts": ["x"]}} | changes
    return write_snapshot(root, **content)


def test_round_trip(tmp_path):
    """What is written is what is loaded."""
    found = load_snapshot(tmp_path, write(tmp_path))

    assert {"a": 1} == found.meta
    assert ["x"] == found.document("texts")
    assert {"one", "two"} == set(found.arrays("group"))
    np.testing.assert_array_equal(ARRAYS["group.one"], found.array("group.one"))


def test_same_content_same_digest(tmp_path):
    """The digest depends on the content alone, and leaves nothing else behind."""
    first = write(tmp_path)

    assert first == write(tmp_path)
    assert first != write(tmp_path, meta={"a": 2})
    assert 2 == len(list(tmp_path.iterdir()))


def test_only_the_owner_can_read(tmp_path):
    """Forget text lies in these files: no access for group or others."""
    directory = tmp_path / write(tmp_path)

    assert not directory.stat().st_mode & 0o077
    assert not any(p.stat().st_mode & 0o077 for p in directory.iterdir())


@pytest.mark.parametrize("name", ["group.one.npy", "texts.json", "manifest.json"])
def test_a_flipped_bit_is_refused(tmp_path, name):
    """Damage in any file is found on load."""
    digest = write(tmp_path)
    path = tmp_path / digest / name
    raw = bytearray(path.read_bytes())
    raw[-2] ^= 1
    path.write_bytes(raw)

    with pytest.raises(SnapshotCorrupt):
        load_snapshot(tmp_path, digest)


@given(
    st.binary(max_size=40)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=2),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["sha256", "a", "../x", "\0"]), inner, max_size=2)
        ),
        max_leaves=5,
    )
)
def test_a_manifest_by_another_hand_is_refused(tmp_path_factory, part):
    """Its name tells of damage, not of who wrote it; nothing but the declared errors."""
    versions = {"format": snapshot.FORMAT, "compiler": snapshot.COMPILER_VERSION}
    contents = (
        [part]
        if isinstance(part, bytes)
        else [
            json.dumps(content).encode()
            for content in (part, versions, {**versions, "meta": {}, "files": part})
        ]
    )
    root = tmp_path_factory.mktemp("crafted")
    for raw in contents:
        digest = hashlib.sha256(raw).hexdigest()
        (root / digest).mkdir(exist_ok=True)
        (root / digest / "manifest.json").write_bytes(raw)
        with contextlib.suppress(SnapshotCorrupt, SnapshotOutdated):
            assert {} == load_snapshot(root, digest).meta
            assert b'"files": {}' in raw


@pytest.mark.parametrize("elsewhere", [True, False])
def test_beside_steps_damage_is_found_too(tmp_path, monkeypatch, elsewhere):
    """Whether another process has time to look at the files or not, and nothing is left of it."""
    if not elsewhere:
        monkeypatch.setattr("guard.checksums._PATIENCE_SECONDS", 0.0)
    sound = write(tmp_path)
    damaged = write(tmp_path, meta={"a": 2})
    (tmp_path / damaged / "texts.json").write_text("[]")
    pauses = []

    assert {"a": 1} == load_snapshot(tmp_path, sound, lambda: pauses.append(1)).meta
    with pytest.raises(SnapshotCorrupt, match=r"texts\.json"):
        load_snapshot(tmp_path, damaged, lambda: pauses.append(1))
    assert pauses


def test_another_process_says_what_is_sound(tmp_path, monkeypatch):
    """It never says so of damaged files, nor when it cannot be started."""
    directory = tmp_path / write(tmp_path)
    monkeypatch.setattr("guard.checksums._PATIENCE_SECONDS", 60.0)

    assert are_sound_elsewhere(directory)
    with monkeypatch.context() as patch:
        patch.setattr("sys.executable", str(tmp_path / "nothing"))

        assert not are_sound_elsewhere(directory)
    (directory / "texts.json").unlink()

    assert not are_sound_elsewhere(directory)
    assert not are_sound_elsewhere(tmp_path / "nothing")


def test_missing_files_are_refused(tmp_path):
    """Neither a missing directory nor a missing file goes unseen."""
    digest = write(tmp_path)
    (tmp_path / digest / "texts.json").unlink()

    with pytest.raises(SnapshotCorrupt):
        load_snapshot(tmp_path, digest)
    with pytest.raises(SnapshotMissing):
        load_snapshot(tmp_path, "0" * 64)


@pytest.mark.parametrize("version", ["FORMAT", "COMPILER_VERSION"])
@pytest.mark.parametrize("step", [-1, 1])
def test_another_version_is_refused(tmp_path, monkeypatch, version, step):
    """An earlier or a later version's says so; it is compiled anew, and never read in part."""
    with monkeypatch.context() as patch:
        patch.setattr(f"guard.snapshot.{version}", getattr(snapshot, version) + step)
        digest = write(tmp_path)

    with pytest.raises(SnapshotOutdated, match="another version of Lethegate"):
        load_snapshot(tmp_path, digest)


def test_a_snapshot_that_names_no_version_is_refused(tmp_path):
    """As those of versions before this was written down."""
    content = json.dumps({"format": snapshot.FORMAT, "meta": {}, "files": {}}).encode()
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / digest).mkdir()
    (tmp_path / digest / "manifest.json").write_bytes(content)

    with pytest.raises(SnapshotOutdated, match="compiler an earlier one"):
        load_snapshot(tmp_path, digest)


def test_a_damaged_directory_is_written_anew(tmp_path):
    """Writing content whose directory is damaged repairs it."""
    digest = write(tmp_path)
    (tmp_path / digest / "texts.json").write_text("[]")

    assert digest == write(tmp_path)
    assert ["x"] == load_snapshot(tmp_path, digest).document("texts")


def test_drafts_of_a_killed_writer_are_discarded(tmp_path):
    """A draft is never a snapshot, and is cleaned up."""
    draft = tmp_path / ".abc.draft"
    draft.mkdir()
    discard_drafts(tmp_path)

    assert not draft.exists()
