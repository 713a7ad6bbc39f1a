"""Reading the evaluation's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.bench.errors import InputMissing
from server.eval.data import DataFolder
from server.eval.rwku import RwkuData, Setting, Split, rwku_targets
from server.eval.tofu import RETAIN_EXAMPLES, TofuData, tofu_targets


def test_a_folder_without_data_is_one_clear_error(tmp_path: Path) -> None:
    """It names the folder and the option."""
    with pytest.raises(InputMissing, match="--data DIR"):
        DataFolder(tmp_path)


def test_missing_files_and_fields_are_named(small_data: Path) -> None:
    """A half-copied folder is found before anything is encoded."""
    folder = DataFolder(small_data)
    (small_data / "tofu" / "holdout10.jsonl").unlink()
    with pytest.raises(InputMissing, match="holdout10"):
        TofuData.read(folder)
    (small_data / "rwku" / "intro.jsonl").write_text("[1]\n")
    with pytest.raises(InputMissing, match="intro"):
        folder.introductions()
    (small_data / "rwku" / "forget_level3.jsonl").write_text('{"query": "x"}\n')
    with pytest.raises(InputMissing, match='"answer"'):
        folder.rwku("forget_level3")


def test_kinds_of_attack_have_one_name(small_data: Path) -> None:
    """Languages and spellings of a kind are one kind."""
    assert {q.kind for q in DataFolder(small_data).rwku("forget_level3")} == {"cross_lingual"}


def test_splits_do_not_overlap(small_data: Path) -> None:
    """Development and test have other subjects, attacks and neighbours."""
    halves = [RwkuData.read(DataFolder(small_data), split) for split in Split]
    subjects = [{name for name, _ in half.introductions} for half in halves]

    assert subjects[0].isdisjoint(subjects[1])
    for half, names in zip(halves, subjects, strict=True):
        assert {q.owner for q in (*half.probes, *half.attacks, *half.neighbors)} <= names


def test_intro_registers_no_questions(small_data: Path) -> None:
    """As RWKU defines the task; the probes are registered only where the setting says so."""
    half = RwkuData.read(DataFolder(small_data), Split.TEST)

    assert not any(target.examples for target in rwku_targets(half, Setting.INTRO))
    assert all(target.examples for target in rwku_targets(half, Setting.PROBES))


def test_the_real_files_have_the_stated_sizes(real_data: Path) -> None:
    """20 targets, 400 questions, 50 subjects a half, nine kinds of attack."""
    folder = DataFolder(real_data)
    tofu, rwku = TofuData.read(folder), RwkuData.read(folder, Split.TEST)
    targets = tofu_targets(tofu)

    assert (len(targets), sum(len(target.examples) for target in targets)) == (20, 400)
    assert sum(len(target.retain_examples) for target in targets) == RETAIN_EXAMPLES
    assert len(tofu.many_paraphrases) > 2_900
    assert len(rwku.introductions) == 50
    assert len({attack.kind for attack in rwku.attacks}) == 9
