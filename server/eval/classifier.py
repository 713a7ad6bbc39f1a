"""`lethegate eval classifier`: what the prompt classifier finds, beside GUARD's router."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.progress import Progress

from detectors.embedding_cache import EmbeddingCache
from detectors.encoder import load_encoder
from server.eval.data import DataFolder
from server.eval.rwku import RwkuData, Setting, Split, evaluate_rwku
from server.eval.tofu import TofuData, evaluate_tofu

METHOD = (
    "Policies are compiled and asked as in the server, without a server. TOFU: the 400 forget10 "
    "questions as 20 targets without aliases; benign are the shipped prompts and 100 retain90 "
    "questions; paraphrases are of authors 190-199 (ULD's 15 per question, and TOFU's one: "
    "'perturbed'); pieces: over three user turns; chain: the name in the first turn, 'this author' "
    "in the second. RWKU: subjects in file order, first half development, second half test; "
    "'intro' registers name and one passage, 'probes' also levels 1 and 2; asked are level 3 and "
    "the neighbours. recall and false_positive: strong evidence (whole target forbidden); steered: "
    "any evidence. similarity: strong evidence without a name. attack_prompt: strong evidence of "
    "the right target; attack_prevented: the true answer holds a phrase that is active for this "
    "request; attack_watched: it holds a registered name, which ends any answer (watch_answers); "
    "attack_caught: one of the three, which is what the server does; unwatched: with watch_answers "
    "off. neighbor_answers_changed: the true answer holds an active phrase or a registered name; "
    "unnamed: of neighbours whose question and answer name no registered subject; sentences: the "
    "cloze sentence filled with its answer. sleek: Sleek's questions by fixed rules, direct (the "
    "question, step by step), indirect (the subject has to be found by another fact, unnamed), "
    "implied (a text that settles it) and indirect_steps (over two turns), of TOFU's paraphrases "
    "and RWKU's level-2 probes; the true answer is the fact without the name; attack_output: "
    "prevented or watched ('probes' registers the hops, too); holdout_sleek: the same about "
    "authors left alone. Intervals: Wilson, 95 %, rows taken as independent. Data: TOFU (Maini et "
    "al. 2024, MIT), paraphrases of ULD (MIT), RWKU (Jin et al. 2024, CC BY 4.0)."
)
# Steps of the progress bar: TOFU's four, three of each RWKU setting.
_STEPS = 4 + 3 * len(Setting)


@dataclass(frozen=True, slots=True)
class ClassifierPlan:
    """What to evaluate.

    `cache` keeps embeddings between runs; None encodes everything again.
    """

    data: Path
    encoder: str
    device: str | None
    alpha: float
    split: Split
    cache: Path | None


def eval_classifier(plan: ClassifierPlan, progress: Progress) -> dict[str, Any]:
    """Read the data, judge everything; gives the report's flat figures.

    Raises:
        InputMissing: the data are not there.
        EncoderUnavailable: the encoder cannot be loaded.
    """
    folder = DataFolder(plan.data)
    tofu, rwku = TofuData.read(folder), RwkuData.read(folder, plan.split)
    task = progress.add_task("judging", total=_STEPS)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="lethegate-eval-")))
        loaded = load_encoder(plan.encoder, device=plan.device)
        encoder = EmbeddingCache(loaded, plan.cache or scratch / "embeddings.db")
        stack.callback(encoder.close)
        snapshots = scratch / "snapshots"
        snapshots.mkdir()

        def advance() -> None:
            progress.advance(task)

        figures: dict[str, Any] = dict(evaluate_tofu(tofu, encoder, plan.alpha, snapshots, advance))
        for setting in Setting:
            figures |= evaluate_rwku(rwku, setting, encoder, plan.alpha, snapshots, advance)
    return {
        **figures,
        "alpha": plan.alpha,
        "rwku_split": str(plan.split),
        "rwku_subjects": len(rwku.introductions),
        "encoder": loaded.id,
        "method": METHOD,
    }
