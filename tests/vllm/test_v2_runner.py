"""vLLM's real V2 model runner, guarded; without a GPU its Triton kernels and ours are interpreted.

Run as a program this file starts one engine, steers some of its requests and prints the tokens of
all of them as JSON. The tests start it with both runners and compare: what the V1 runner's adapter
makes of a request, with all tokens on the host, V2's has to make of it too.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(2400)]
PROMPTS = (
    "The author was born in",
    "Her first book is about the life of a man who went to the city and found that the city and",
    "What is the name of the award? The name of the",
    "In the year 1960 the writer",
    "My father was a",
)
NOT_STEERED = 3


def run(model, state, runner, **options):
    """What one engine answers; `options` are those of `vllm.LLM`."""
    environment = os.environ | {
        "LETHEGATE_STATE_DIR": str(state),
        "VLLM_USE_V2_MODEL_RUNNER": str(int(runner == "v2")),
        # In this process, so that the interpreter is set up where the runner is.
        "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(runner == "v1")),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    if runner == "v2" and not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, __file__, str(model), str(state), runner, json.dumps(options)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-4000:]

    return json.loads(next(line for line in done.stdout.splitlines() if line[:1] == "{"))


@pytest.fixture(scope="module")
def expected(tiny_model, tmp_path_factory):
    """The V1 runner's answers."""
    found = run(tiny_model, tmp_path_factory.mktemp("v1"), "v1", max_num_batched_tokens=32)

    assert found["plain"] != found["steered"]
    assert found["plain"][NOT_STEERED] == found["steered"][NOT_STEERED]
    assert found["plain"] == found["again"]
    assert not found["said"]
    assert all(found["counters"][:3])

    return found


@pytest.mark.parametrize(
    ("options", "preempted"),
    [
        ({"max_num_batched_tokens": 32}, False),  # prompts in chunks
        ({"max_model_len": 64, "block_size": 32, "num_gpu_blocks_override": 4}, True),
    ],
)
def test_v2_answers_as_v1_does(tiny_model, tmp_path, expected, options, preempted):
    """Chunked prompts, slots used again, preempted and resumed requests: token for token."""
    found = run(tiny_model, tmp_path, "v2", **options)

    assert (found.pop("preemptions") > 0) is preempted
    if preempted:
        # Chunks of prompts and steps that are done twice are counted.
        del found["counters"]
    assert found == {name: expected[name] for name in found}


def test_v2_answers_the_same_with_drafts(tiny_model, tmp_path, expected):
    """Speculative decoding changes no token of a greedy answer, guarded or not."""
    drafts = {
        "method": "ngram",
        "num_speculative_tokens": 3,
        "prompt_lookup_max": 3,
        "prompt_lookup_min": 1,
    }
    found = run(tiny_model, tmp_path, "v2", speculative_config=drafts)

    assert found["counters"][2] > expected["counters"][2]  # rows for drafts are rows
    for name in ("plain", "steered", "again", "said"):
        assert found[name] == expected[name]


def interpret():
    """Have vLLM take Triton's interpreter for a CPU backend; TRITON_INTERPRET is set."""
    import numpy as np
    import triton.language as tl
    from triton.backends import backends
    from triton.runtime import interpreter

    driver = SimpleNamespace(is_active=lambda: True)
    backends["cpu"] = SimpleNamespace(driver=driver)

    def take_any_mask(name, at):
        """The interpreter makes int32 of a mask that a scalar was spread over, and refuses it."""
        original = getattr(interpreter.InterpreterBuilder, name)

        def wrapped(self, *args):
            mask = interpreter.TensorHandle(np.asarray(args[at].data).astype(np.bool_), tl.int1)
            return original(self, *args[:at], mask, *args[at + 1 :])

        setattr(interpreter.InterpreterBuilder, name, wrapped)

    take_any_mask("create_masked_load", 1)
    take_any_mask("create_masked_store", 2)


def write_policy(model, root, answers):
    """Forbid all longer words of the plain answers but those of the one that is not steered."""
    from detectors.targets import Phrase
    from guard.automaton import build_tables
    from guard.loading import WorkerPart
    from guard.patterns import index_phrases
    from guard.snapshot import write_snapshot
    from guard.units import Units
    from guard.vocabulary import Vocabulary
    from tracing.successors import compile_successors

    words = {w.strip(".,?!\"'") for answer in answers for w in answer.split()[1:]}
    phrases = sorted(w for w in words if len(w) > 2 and w.isalpha())
    vocabulary = Vocabulary.load(model)
    patterns, ids = index_phrases([Phrase(p) for p in phrases])
    tables = build_tables(patterns, vocabulary)
    successors = compile_successors([], 2, vocabulary.size)
    arrays = WorkerPart(tables, Units.build([ids], []), successors).arrays()
    meta = {"vocabulary": vocabulary.fingerprint}
    return phrases, write_snapshot(root / "snapshots", meta=meta, arrays=arrays, documents={})


def count_preemptions(engine):
    scheduler = engine.llm_engine.engine_core.engine_core.scheduler
    original, calls = scheduler._preempt_request, []

    def counted(*args, **more):
        calls.append(1)
        return original(*args, **more)

    scheduler._preempt_request = counted
    return calls


def main(model, state, runner, options):
    from vllm import LLM, SamplingParams

    from guard.ledger import Counter, LedgerReader
    from guard.params import GuardParams

    usual = {
        "max_model_len": 128,
        "max_num_batched_tokens": 48,
        "enforce_eager": True,
        "dtype": "float32",
        "max_num_seqs": 3,
        "enable_prefix_caching": False,
        "logits_processors": [f"guard.vllm_plugin.{runner}:GuardLogitsProcessor"],
    }
    # What the machine needs beside.
    machine = json.loads(os.environ.get("TEST_VLLM_OPTIONS", "{}"))
    engine = LLM(model, **usual | json.loads(options) | machine)
    preemptions = count_preemptions(engine) if runner == "v2" else []
    greedy = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)

    def answer(params):
        outputs = engine.generate(list(PROMPTS), params, use_tqdm=False)
        return [output.outputs[0] for output in outputs]

    plain = answer(greedy)
    phrases, digest = write_policy(model, Path(state), [one.text for one in plain])
    params = [greedy.clone() for _ in PROMPTS]
    for number, one in enumerate(params):
        if number != NOT_STEERED:
            one.extra_args = GuardParams(digest, number + 1, (0,)).to_xargs()
    steered = answer(params)
    again = answer(greedy)
    reader = LedgerReader(Path(state) / "facts")
    found = {
        "plain": [list(one.token_ids) for one in plain],
        "steered": [list(one.token_ids) for one in steered],
        "again": [list(one.token_ids) for one in again],
        "said": [
            p
            for number, one in enumerate(steered)
            for p in phrases
            if number != NOT_STEERED and p.casefold() in one.text.casefold().split()
        ],
        "counters": [reader.total(counter) for counter in Counter],
    }
    if runner == "v2":
        found["preemptions"] = len(preemptions)
    print(json.dumps(found))


if __name__ == "__main__":
    if os.environ.get("TRITON_INTERPRET") == "1":
        interpret()
    main(*sys.argv[1:])
