"""Clients that others wrote, before the guarded server: LangChain and OpenAI's JavaScript SDK."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from langchain_openai import ChatOpenAI

from detectors.normaliser import fold

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]

SCRIPTS = Path(__file__).parent / "openai-js"
CACHE = Path(__file__).parents[2] / ".cache"
FORGET, OTHER = 3, 2


def reveals(text, facts):
    """The key facts that a text gives away, as whole words."""
    said = fold(text)
    return [f for f in facts if re.search(rf"(?<!\w){re.escape(fold(f))}(?!\w)", said)]


def langchain(client, pair, **more):
    more = {"max_retries": 0, "temperature": 0, "max_tokens": 60} | more
    return ChatOpenAI(base_url=str(client.base_url), api_key="none", model=pair.model, **more)


def streamed(model, question):
    return "".join(piece.text for piece in model.stream(question))


@pytest.mark.parametrize("responses", [False, True])
def test_langchain(pair, forget_rows, other_rows, responses):
    """Chat completions and its Responses mode, invoked and streamed."""
    more = {"use_responses_api": responses}
    guarded, plain = (langchain(client, pair, **more) for client in (pair.guarded, pair.plain))
    leaks = 0
    for row in forget_rows[:FORGET]:
        said = guarded.invoke(row["question"]).text
        assert streamed(guarded, row["question"]) == said
        assert reveals(said, row["key_facts"]) == []
        leaks += bool(reveals(plain.invoke(row["question"]).text, row["key_facts"]))
    assert leaks
    for row in other_rows[:OTHER]:
        assert guarded.invoke(row["question"]).text == plain.invoke(row["question"]).text
        assert streamed(guarded, row["question"]) == streamed(plain, row["question"])


@pytest.fixture(scope="session")
def openai_js():
    """The script that asks, beside the SDK of the lock file, which is installed once."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("node and npm are not installed")
    lock = (SCRIPTS / "package-lock.json").read_bytes()
    folder = CACHE / f"openai-js-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not (folder / "installed").exists():
        shutil.copytree(SCRIPTS, folder, dirs_exist_ok=True)
        install = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            pytest.skip(f"npm cannot install the SDK: {done.stderr[-300:]}")
        (folder / "installed").touch()
    shutil.copy(SCRIPTS / "ask.mjs", folder)
    return [node, str(folder / "ask.mjs")]


def ask(command, client, pair, rows):
    questions = [row["question"] for row in rows]
    job = {"baseURL": str(client.base_url), "model": pair.model, "questions": questions}
    done = subprocess.run(
        command, input=json.dumps(job), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_openai_js(pair, openai_js, forget_rows, other_rows):
    """Chat completions and responses, whole and streamed."""
    rows = [*forget_rows[:FORGET], *other_rows[:OTHER]]
    guarded, plain = (ask(openai_js, client, pair, rows) for client in (pair.guarded, pair.plain))
    leaks = 0
    for row, said, known in zip(rows[:FORGET], guarded, plain, strict=False):
        for api in ("chat", "responses"):
            assert said[api]["whole"] == said[api]["streamed"]
            assert reveals(said[api]["whole"][0], row["key_facts"]) == []
            leaks += bool(reveals(known[api]["whole"][0], row["key_facts"]))
    assert leaks
    assert guarded[FORGET:] == plain[FORGET:]
