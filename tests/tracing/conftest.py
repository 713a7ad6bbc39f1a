"""A small encoder, indexes of it, and the plain definition of what they must find."""

import numpy as np
import pytest

from tracing.document import Document
from tracing.index import Index


class Letters:
    """Every character is a symbol."""

    name = "letters"

    def symbols(self, text):
        """Code points."""
        return np.array([ord(char) for char in text], np.uint32)


class Oracle:
    """Matches by comparing strings; `texts` by document number."""

    def __init__(self, texts):
        self.texts = texts

    def count(self, span):
        """Occurrences of a string, overlapping ones too."""
        return len(self.places(span))

    def places(self, span):
        """Document and first character of every occurrence."""
        return [
            (number, start)
            for number, text in self.texts.items()
            for start in range(len(text) - len(span) + 1)
            if text.startswith(span, start)
        ]

    def lengths(self, output, minimum):
        """Longest match that ends at each place."""
        found = []
        for end in range(1, len(output) + 1):
            sizes = (n for n in range(end, 0, -1) if self.count(output[end - n : end]))
            size = next(sizes, 0)
            found.append(size if size >= minimum else 0)
        return found

    def spans(self, output, minimum):
        """(start, end, count) of all maximal matches."""
        lengths = [*self.lengths(output, minimum), 0]
        return [
            (end + 1 - size, end + 1, self.count(output[end + 1 - size : end + 1]))
            for end, size in enumerate(lengths[:-1])
            if size and lengths[end + 1] <= size
        ]


@pytest.fixture(scope="session")
def letters():
    """The encoder."""
    return Letters()


@pytest.fixture(scope="session")
def oracle():
    """The plain definition."""
    return Oracle


@pytest.fixture
def open_index(tmp_path_factory, letters):
    """Make an index of letters with these texts, one segment per list."""
    opened = []

    def open_it(*segments, **options):
        index = Index(tmp_path_factory.mktemp("index") / "x", letters, **{"depth": 3, **options})
        opened.append(index)
        for texts in segments:
            index.add(Document(text) for text in texts)
        return index

    yield open_it
    for index in opened:
        index.close()
