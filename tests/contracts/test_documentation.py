"""The documents lead where they say, name commands that exist, and build as a site."""

from __future__ import annotations

import functools
import itertools
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer.core
from typer.main import get_command

from server.cli import app
from server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "pages").rglob("*.md"))
DOCUMENTS = [
    ROOT / "README.md",
    *PAGES,
    *sorted((ROOT / "deploy").glob("*.md")),
    ROOT / "server" / "bench" / "LOG.md",
]
README_LINES = 320
COMMAND_LINE = get_command(app)
# `serve` hands what it does not know to vLLM.
PASSES_ON = {"serve"}


def name_of(path):
    return str(path.relative_to(ROOT))


def without_code(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def links(path):
    """Links of a document that are no URLs, as (path, anchor)."""
    text = re.sub(r"`[^`\n]+`(?!\])", "", without_code(path.read_text(encoding="utf-8")))
    targets = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)
    return [each.partition("#")[::2] for each in targets if not re.match(r"[a-z]+:", each)]


def anchors(path):
    """Anchors of a document's headings."""
    headings = re.findall(
        r"^#+ (.+)$", without_code(path.read_text(encoding="utf-8")), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document):
    """In the repository, with their anchors."""
    for path, anchor in links(document):
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{path} is not there"
        assert target.is_relative_to(ROOT)
        assert not anchor or anchor in anchors(target), f"{path} has no #{anchor}"


def test_the_readme_stays_short():
    """What is longer belongs on a page of the documentation."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


def commands(path):
    """The `lethegate` commands in a document's shell blocks and sentences, as words."""
    text = path.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for line in "".join(blocks).replace("\\\n", " ").splitlines():
        for each in re.split(r"[;|&]\s+", line.split("  #")[0]):
            if each.strip().startswith("lethegate "):
                yield shlex.split(each.split(" <")[0], comments=True)[1:]
    for each in re.findall(r"`lethegate ([^`]+)`", without_code(text)):
        # [--flag VALUE] may be left out; ADD|LIST is a choice.
        words = re.sub(r"[\[\]]", "", each.replace("\n", " ")).split()
        choices = [word.split("|") if re.match(r"[a-z|]+$", word) else [word] for word in words]
        yield from (list(chosen) for chosen in itertools.product(*choices))


def missing(words):
    """What of a command the command line does not have."""
    command = COMMAND_LINE
    words = list(words)
    while isinstance(command, typer.core.TyperGroup):
        # `lethegate targets` names a group, and every group has --help.
        if words in ([], ["--help"]):
            return []
        word = words.pop(0)
        if word not in command.commands:
            return [word]
        command = command.commands[word]
    if command.name in PASSES_ON:
        return []
    known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    return [word for word in words if re.match(r"--?[a-z]", word) and word not in known]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_exist(document):
    """With every flag that a document gives them."""
    assert [(each, missing(each)) for each in commands(document) if missing(each)] == []


def test_commands_are_found():
    """The two tests above look at something."""
    found = {each[0] for page in PAGES for each in commands(page)}

    assert {"targets", "corpus", "keys", "assistant", "encryption", "audit", "attack"} <= found
    assert ["targets", "rollback"] in list(commands(ROOT / "README.md"))
    assert missing(["targets", "ad", "x"]) == ["ad"]
    assert missing(["targets", "add", "x", "--wiat"]) == ["--wiat"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_code_is_sound_and_says_why_it_is_not_run(document, blocks_of):
    """Shell and Python parse; nothing else is code; what no test runs has a reason in its title."""
    blocks = blocks_of(document)
    fences = re.findall(r"^```(.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)

    assert len(fences) == len(blocks)
    assert all(block.reason != "" for block in blocks)
    for block in blocks:
        if block.language == "sh":
            command = ["bash", "-n", "-c", block.text]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, "")
        else:
            assert block.language == "python"
            compile(block.text, str(document), "exec")


class Page(HTMLParser):
    """A built page: what a browser fetches for it, and its text."""

    def __init__(self, path):
        super().__init__()
        self.fetched, self.text = [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.fetched += [given[name] for name in ("src", "data") if given.get(name)]
        if tag == "link":
            self.fetched.append(given.get("href", ""))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` builds it: a warning fails it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/mkdocs.yml"]
    done = subprocess.run(
        [*command, "-d", str(folder)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return functools.cache(lambda name: Page(folder / name)), folder


def test_pages_are_built_and_fetch_nothing_from_elsewhere(site):
    """Every page in the repository, and those made from other files."""
    page, folder = site
    made = {str(path.relative_to(folder)) for path in folder.rglob("*.html")}
    expected = {str(path.relative_to(ROOT / "docs" / "pages"))[:-3] + ".html" for path in PAGES}

    assert expected < made
    for name in made - {"404.html"}:
        assert page(name).fetched
        assert [each for each in page(name).fetched if re.match(r"[a-z]+:|//", each)] == []


def test_reference_is_complete(site):
    """Settings, commands, requests and metrics, from where they are kept."""
    page, _ = site
    settings, commands_page = page("reference/settings.html"), page("reference/commands.html")

    for name in Settings.model_fields:
        assert f"LETHEGATE_{name.upper()}" in settings.text
    assert "lethegate targets rollback" in commands_page.text
    assert "--on-conflict" in commands_page.text
    assert "/admin/v1/targets:import" in page("reference/admin-api.html").text
    assert "lethegate_requests_total" in page("reference/metrics.html").text
    assert "LethegateServedUnguarded" in page("operations/runbook.html").text
    assert any("overview.svg" in each for each in page("operations/deploying.html").fetched)
