"""Files of arrays with checksums."""

import stat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracing.container import open_container, write_container
from tracing.errors import IndexCorrupt, IndexMissing

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
