"""Policies that several tests of the guard compile, and what they compare with."""

import pytest

from guard.snapshot import load_snapshot
from tests.guard.invented_policy import compile_into


def _spoken(is_transparent, prompt, output):
    """The prompt from its last special token on, and all of the output, without special ones."""
    barriers = [i for i, token in enumerate(prompt) if is_transparent(token)]
    begun = prompt[barriers[-1] + 1 :] if barriers else prompt
    return [token for token in [*begun, *output] if not is_transparent(token)]


def _also(vocabulary, tokens):
    """The tokens, and all others that one of them begins with or equals in bytes."""
    begun = [vocabulary.raw(token) for token in tokens]
    return tokens | {
        token
        for token in range(vocabulary.size)
        if vocabulary.raw(token) and any(raw.startswith(vocabulary.raw(token)) for raw in begun)
    }


@pytest.fixture(scope="session")
def plain_veto():
    """Tokens with which a registered n-gram could end, or a whole shorter document, by bytes."""

    def vetoed(documents, n, vocabulary, prompt, output):
        text, found = _spoken(vocabulary.is_transparent, prompt, output), set()
        for document in documents:
            size = min(n, len(document))
            for start in range(len(document) - size + 1 if size > 1 else 0):
                *run, token = document[start : start + size]
                if len(text) >= len(run) and text[len(text) - len(run) :] == run:
                    found.add(token)
        return _also(vocabulary, found)

    return vetoed


@pytest.fixture
def compiled(tmp_path):
    """What compiling targets gives, and the snapshot that it wrote."""

    def compile_targets(*targets):
        policy = compile_into(tmp_path, targets)
        return policy, load_snapshot(tmp_path, policy.digest)

    return compile_targets
