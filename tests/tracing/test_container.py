"""Files of arrays with checksums."""

import json
import stat
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracing.container import open_container, write_container
from tracing.errors import IndexCorrupt, IndexMissing
from tracing.manifest import read_manifest

ARRAYS = {"a": np.arange(100, dtype=np.int32), "none": np.empty(0, np.uint8), "b": np.ones(3)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A file and its bytes."""
    path = tmp_path_factory.mktemp("container") / "file"
    write_container(path, {"key": 1}, ARRAYS)
    return path, path.read_bytes()


def test_arrays_come_back(written):
    """Content, types and the owner-only mode are as written."""
    container = open_container(written[0])
    container.verify()

    assert {"key": 1} == dict(container.meta)
    assert list(ARRAYS) == list(container.arrays)
    assert all(np.array_equal(ARRAYS[name], found) for name, found in container.arrays.items())
    assert 0o600 == stat.S_IMODE(written[0].stat().st_mode)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused(written, tmp_path_factory, place, bit):
    """Wherever a bit of content or header flips, the file is refused."""
    content = bytearray(written[1])
    at = int(place * len(content))
    content[at] ^= 1 << bit
    path = tmp_path_factory.mktemp("flipped") / "file"
    path.write_bytes(content)

    try:
        container = open_container(path)
        container.verify()
        refused = False
    except IndexCorrupt:
        refused = True
    padding = not refused and all(
        np.array_equal(ARRAYS[name], found) for name, found in container.arrays.items()
    )

    # What stands between two arrays has no meaning.
    assert refused or padding


@pytest.mark.parametrize("length", [0, 10, 200, -1])
def test_a_cut_file_is_refused(written, tmp_path, length):
    """A file that ends too early is refused when it is opened."""
    path = tmp_path / "file"
    path.write_bytes(written[1][:length])

    with pytest.raises(IndexCorrupt):
        open_container(path)


def test_a_missing_file_has_its_own_error(tmp_path):
    """No file is told from a damaged one."""
    with pytest.raises(IndexMissing):
        open_container(tmp_path / "file")


HEADERS = st.recursive(
    st.none() | st.integers(-(2**70), 2**70) | st.text(max_size=3) | st.sampled_from(["<i4", "O"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["meta", "arrays", "dtype", "count", "crc32", "a"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(HEADERS | st.binary(max_size=60), st.binary(max_size=80))
def test_a_header_by_another_hand_opens_or_is_refused(tmp_path_factory, header, behind):
    """A checksum tells of damage, not of who wrote it: an index may come from elsewhere."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    head = len(raw).to_bytes(8, "little") + zlib.crc32(raw).to_bytes(8, "little")
    path = tmp_path_factory.mktemp("crafted") / "file"
    path.write_bytes(b"LETHEIX1" + head + raw + behind)

    try:
        container = open_container(path)
        container.verify()
    except IndexCorrupt:
        return
    assert all(isinstance(array, np.ndarray) for array in container.arrays.values())


@given(HEADERS | st.binary(max_size=60), st.booleans())
def test_a_manifest_by_another_hand_is_read_or_refused(tmp_path_factory, content, formed):
    """What is read has every field in its type."""
    whole = {"format": 1, "view": "v", "depth": 3, "generation": 1, "next_id": 0, "segments": []}
    if isinstance(content, bytes):
        raw = content
    else:
        fields = {**whole, "withdrawn": content} if formed else content
        raw = json.dumps(fields).encode()
    directory = tmp_path_factory.mktemp("manifest")
    (directory / "MANIFEST").write_bytes(b"%08x\n" % zlib.crc32(raw) + raw)

    try:
        found = read_manifest(directory)
    except IndexCorrupt:
        return
    assert all(isinstance(number, int) for number in found.withdrawn)
