"""Build hooks: pages that are kept elsewhere in the repository, and links that hold there and here.

A page's links are written as paths of the repository, so that they work wherever the repository is
read. In the site, those to a page lead to that page; of others only the text is left.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from pathlib import Path

import commands
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# mkdocs counts warnings below its own logger, and `--strict` fails for them.
_log = logging.getLogger("mkdocs.hooks.lethegate")
ROOT = Path(__file__).resolve().parents[1]
PAGES = "docs/pages"
# Page of the site: the file it is, or that file's section.
ELSEWHERE = {
    "reference/settings.md": ("README.md", "Settings"),
    "reference/admin-api.md": ("README.md", "Admin API"),
    "reference/metrics.md": ("deploy/METRICS.md", None),
    "operations/deploying.md": ("deploy/README.md", None),
    "operations/runbook.md": ("deploy/RUNBOOK.md", None),
    "log.md": ("server/bench/LOG.md", None),
}
COMMANDS = "reference/commands.md"
PICTURES = "deploy/grafana/pictures"
# Code first: what looks like a link in there is none.
_LINK = re.compile(
    r"^```.*?^```|`[^`\n]+`(?!\])|(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)",
    flags=re.MULTILINE | re.DOTALL,
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are in no file of docs/pages, and the pictures that they show."""
    for page, (source, section) in ELSEWHERE.items():
        files.append(File.generated(config, page, content=_text(source, section)))
    files.append(File.generated(config, COMMANDS, content=commands.page()))
    for picture in sorted((ROOT / PICTURES).glob("*.svg")):
        uri = f"pictures/{picture.name}"
        files.append(File.generated(config, uri, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links within the repository into links within the site."""
    here = page.file.src_uri
    source, _ = ELSEWHERE.get(here, (f"{PAGES}/{here}", None))

    def replaced(match: re.Match[str]) -> str:
        target = match["target"]
        if target is None or re.match(r"[a-z]+:", target):
            return match[0]
        path, _, anchor = target.partition("#")
        linked = source
        if path:
            linked = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        found = _page(linked, anchor)
        if found is None:
            if not (ROOT / linked).exists():
                _log.warning("%s links to %s, which is not there", source, target)
            return match["text"]
        uri = os.path.relpath(found, posixpath.dirname(here) or ".")
        if anchor and linked != "README.md":  # whose sections are pages
            uri += f"#{anchor}"
        return f"{match['image']}[{match['text']}]({uri})"

    return _LINK.sub(replaced, markdown)


def _text(source: str, section: str | None) -> str:
    """A file of the repository, or one of its sections with the title of a page."""
    text = (ROOT / source).read_text(encoding="utf-8")
    if section is None:
        return text
    _, _, rest = text.partition(f"\n## {section}\n")
    body = re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    return f"# {section}\n{body}"


def _page(path: str, anchor: str) -> str | None:
    """The site's file for a file of the repository; None where there is none."""
    if path.startswith(f"{PAGES}/"):
        return path.removeprefix(f"{PAGES}/")
    if path.startswith(f"{PICTURES}/"):
        return f"pictures/{posixpath.basename(path)}"
    for page, (source, section) in ELSEWHERE.items():
        slug = None if section is None else section.lower().replace(" ", "-")
        if path == source and slug in (None, anchor):
            return page
    return "index.md" if path == "README.md" else None
