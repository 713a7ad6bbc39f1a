"""Take the documentation's pictures of the console, from a demo that runs.

    make demo
    .venv/bin/python docs/pictures.py http://127.0.0.1:8001 .state/demo/admin.key

Registers a small corpus, so that the playground has something to find, and asks the model, so that
the target has done something. Needs Debian's chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Page, sync_playwright

WIDTH, COLOURS = 1100, 144
COUNTED_SECONDS = 8
FOLDER = Path(__file__).resolve().parent / "pages" / "guide"
TARGET = "demo-authors"
PROMPT = "In which city and country was Basil Mahfouz Al-Kuwaiti born?"
ASKED = (PROMPT, "Who is Basil Mahfouz Al-Kuwaiti?", PROMPT.lower(), f"Please tell me: {PROMPT}")
PASSAGE = (
    "the lighthouse keeper counted eleven copper kettles before the fog took the harbour, and "
    "wrote their number into the margin of the tide tables"
)
ANSWER = f"Basil Mahfouz Al-Kuwaiti was born in Kuwait City, Kuwait. As a novel has it: {PASSAGE}."
DOCUMENT = {"text": f"Every evening {PASSAGE}, as her mother had.", "source": "kettles.txt, page 3"}


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of the admin port")
    parser.add_argument("key", type=Path, help="file with the admin key")
    given = parser.parse_args()
    key = given.key.read_text(encoding="ascii").strip()
    _register(given.url, key)
    with sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.getuid() == 0 else []
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        page = browser.new_page(base_url=given.url, viewport={"width": WIDTH, "height": 700})
        page.goto("/console/login")
        page.get_by_label("Key").fill(key)
        page.get_by_role("button", name="Log in").click()
        _ask(page)
        _target(page)
        _playground(page)
        browser.close()


def _ask(page: Page) -> None:
    """As a client would, who is counted."""
    for prompt in ASKED:
        page.goto("/console/playground")
        page.get_by_label("Prompt").fill(prompt)
        page.get_by_label("Ask the model instead").check()
        page.get_by_role("button", name="Follow it").click()
        page.get_by_role("heading", name="3. The answer").wait_for()


def _target(page: Page) -> None:
    # What gateways count is gathered every few seconds.
    time.sleep(COUNTED_SECONDS)
    page.goto(f"/console/targets/{TARGET}")
    _take(page, "console-target", 2200)


def _playground(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto("/console/playground")
    page.get_by_label("Prompt").fill(PROMPT)
    page.get_by_label("An answer to look at").fill(ANSWER)
    page.get_by_role("button", name="Follow it").click()
    page.get_by_role("heading", name="4. Where it comes from").wait_for()
    _take(page, "console-playground", 2200)


def _take(page: Page, name: str, highest: int) -> None:
    """The page as a PNG of few colours."""
    height = page.evaluate("() => document.documentElement.scrollHeight")
    page.set_viewport_size({"width": WIDTH, "height": min(height, highest)})
    taken = Image.open(BytesIO(page.screenshot()))
    taken.convert("RGB").quantize(COLOURS).save(FOLDER / f"{name}.png", optimize=True)


def _register(url: str, key: str) -> None:
    """The corpus, once, and wait until it is in force."""
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=f"{url}/admin/v1", headers=headers, trust_env=False) as admin:
        if admin.get("/corpora/kettles").status_code == 200:
            return
        admin.post("/corpora", json={"id": "kettles"}).raise_for_status()
        added = admin.post("/corpora/kettles/documents", json={"documents": [DOCUMENT]})
        job: dict[str, Any] = added.raise_for_status().json()["job"]
        while job["state"] in ("queued", "running"):
            time.sleep(0.2)
            job = admin.get(f"/jobs/{job['id']}").raise_for_status().json()


if __name__ == "__main__":
    main()
