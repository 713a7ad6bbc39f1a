"""The console in a real Chromium: scripts, keyboard, colour schemes, and what a screen reader gets.

Needs Debian's chromium; without one the tests are skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from server.database import Database
from server.statistics.counts import TargetCounts
from server.statistics.store import StatisticsStore
from server.statistics.tally import Tallied

CHROMIUM = shutil.which("chromium")
HOSTILE = (
    "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"
)
SECRET = "the lighthouse keeper counted eleven copper kettles before the fog took the harbour"
ADA = {
    "id": "ada",
    "description": HOSTILE,
    "aliases": ["Ada Novak"],
    "examples": [{"prompt": "Where was Ada born?", "answer": f"In Port Sorrel {HOSTILE}."}],
    "phrases": ["Grey Lanterns", HOSTILE],
}
PAGES = (
    "/console/",
    "/console/targets",
    "/console/new-target",
    "/console/targets/ada",
    "/console/targets/ada/edit",
    "/console/targets/ada/versions?from=1",
    "/console/targets/ada/delete",
    "/console/targets/ada/statistics",
    "/console/playground",
    "/console/generations",
    "/console/nodes",
    "/console/nodes/a/fence",
    "/console/jobs",
    "/console/corpora",
    "/console/keys",
    "/console/audit",
)
# What is wrong with a page for those who hear it or use no mouse, and text that cannot be read.
FAULTS = """() => {
  const faults = [];
  const seen = (element) => element.checkVisibility();
  const all = (selector) => [...document.querySelectorAll(selector)].filter(seen);
  const name = (element) => {
    const by = element.getAttribute("aria-labelledby");
    const named = (by || "").split(" ").map((id) => document.getElementById(id));
    if (by && named.includes(null)) faults.push(`${element.id}: named by nothing`);
    const label = [...(element.labels || [])].map((l) => l.textContent).join(" ");
    return (by ? named.map((e) => e?.textContent).join(" ") : label || element.textContent).trim();
  };
  if (!document.documentElement.lang) faults.push("no language");
  if (all("main").length !== 1) faults.push("not one main");
  if (all("h1").length !== 1) faults.push("not one h1");
  let level = 0;
  for (const heading of all("h1, h2, h3, h4")) {
    const own = Number(heading.tagName[1]);
    if (own > level + 1) faults.push(`heading skipped before ${heading.textContent}`);
    if (!heading.textContent.trim()) faults.push("an empty heading");
    level = own;
  }
  for (const field of all("input:not([type=hidden]), select, textarea")) {
    if (!name(field)) faults.push(`no label: ${field.name}`);
  }
  for (const control of all("a, button")) {
    if (!name(control)) faults.push(`no name: ${control.outerHTML}`);
  }
  for (const table of all("table")) {
    if (!table.caption) faults.push("a table without a caption");
    if (table.querySelectorAll("thead th:not([scope=col])").length) faults.push("th without scope");
  }
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  if (new Set(ids).size !== ids.length) faults.push("an id twice");
  for (const e of document.querySelectorAll("[aria-describedby]")) {
    const note = document.getElementById(e.getAttribute("aria-describedby"));
    if (!note) faults.push(`described by nothing: ${e.id}`);
  }
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const l = [r, g, b].map((v) => v / 255).map((v) =>
      v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2];
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !seen(element)) continue;
    const one = luminance(parse(getComputedStyle(element).color));
    const other = luminance(ground(element));
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5) faults.push(`${contrast}: ${walker.currentNode.textContent}`);
  }
  return faults;
}"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    options = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield opened
        opened.close()


@pytest.fixture
def endpoint_url(gateway: Any) -> str | None:
    """The gateway's."""
    url: str = gateway.url
    return url


@pytest.fixture
def context(browser: Browser, admin: httpx.Client) -> Iterator[Callable[..., BrowserContext]]:
    """Opens browser profiles; at the end nothing may have gone wrong in any."""
    opened: list[BrowserContext] = []
    told: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # That the server answered with an error is told, too.
        if message.type in ("error", "warning") and "server responded" not in message.text:
            told.append(message.text)

    def make(**options: Any) -> BrowserContext:
        made = browser.new_context(base_url=str(admin.base_url), **options)
        made.set_default_timeout(60_000)
        made.on("console", note)
        made.on("weberror", lambda error: told.append(str(error.error)))
        made.on("dialog", lambda dialog: told.append(dialog.message))
        opened.append(made)
        return made

    yield make
    for each in opened:
        each.close()
    assert told == []


def _log_in(context: BrowserContext, key: str = "admin-key") -> Page:
    page = context.new_page()
    page.goto("/console/")
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", level=1, name="Overview").wait_for()
    return page


def test_by_keyboard_alone(context: Any, in_force: Any) -> None:
    """Log in, register, wait for the job, strike a phrase, delete: the page moves on by itself."""
    in_force()
    page = context().new_page()
    press, type_ = page.keyboard.press, page.keyboard.type

    def tab_to(name: str) -> None:
        for _ in range(60):
            press("Tab")
            focused = page.evaluate(
                "() => { const e = document.activeElement;"
                " return (e.labels?.[0] ?? e).textContent.trim(); }"
            )
            if focused == name:
                style = "() => getComputedStyle(document.activeElement).outlineStyle"
                assert page.evaluate(style) != "none"
                return
        pytest.fail(f"{name} cannot be reached")

    page.goto("/console/")
    type_("admin-key")
    press("Enter")
    page.wait_for_url("**/console/")
    press("Tab")
    press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "main"
    page.goto("/console/targets")
    press("/")
    assert page.evaluate("() => document.activeElement.id") == "search"
    tab_to("New target")
    press("Enter")
    page.wait_for_url("**/new-target")
    tab_to("Id")
    type_("ada")
    tab_to("One more example")
    press("Enter")
    type_("Where was Ada born?")
    press("Tab")
    type_("In Port Sorrel.")
    tab_to("Register")
    press("Enter")
    page.wait_for_url("**/targets/ada?job=*")
    page.get_by_role("status").get_by_text("done").wait_for()
    page.locator(".state.active").wait_for()
    row = page.get_by_role("row", name="Port Sorrel").first
    assert row.is_visible()

    page.get_by_label("Show phrases with").press_sequentially("zzz")
    assert not row.is_visible()
    page.get_by_label("Show phrases with").fill("")
    page.get_by_role("checkbox", name="Port Sorrel").first.press("Space")
    page.get_by_label("Forbid for the whole target").press_sequentially("Grey Lanterns")
    tab_to("Strike what is ticked, forbid what is written")
    press("Enter")
    page.get_by_role("heading", name="Struck").wait_for()
    page.get_by_role("link", name="Delete…").press("Enter")
    page.get_by_role("button", name="Delete ada").press("Enter")
    page.wait_for_url("**/console/jobs/*")
    page.get_by_role("status").get_by_text("done").wait_for()


def test_pages_are_sound(
    context: Any,
    in_force: Any,
    admin: httpx.Client,
    settle: Any,
    gateway: Any,
    database: Database,
) -> None:
    """For screen readers and eyes, in light and dark; what is hostile stays text."""
    in_force(ADA)
    counts = TargetCounts(matched=8, refused=2, steered=6, alias=8)
    StatisticsStore(database).take("a-gateway", Tallied(targets={"ada": counts}))
    admin.patch("/admin/v1/targets/ada", json={"phrases": [HOSTILE, "Blue Hour"]})
    admin.post("/admin/v1/corpora", json={"id": "book", "description": HOSTILE})
    document = {"text": f"Once, {SECRET} {HOSTILE}.", "source": HOSTILE}
    added = admin.post("/admin/v1/corpora/book/documents", json={"documents": [document]})
    settle(lambda: admin.get(f"/admin/v1/jobs/{added.json()['job']['id']}").json()["progress"] == 1)
    admin.post("/admin/v1/keys", json={"name": HOSTILE})
    report = {"instance": "1" * 32, "version": HOSTILE[:64], "lead": 1}
    as_node = {"authorization": "Bearer node-key"}
    assert admin.put("/node/v1/nodes/a", json=report, headers=as_node).status_code == 200
    page = _log_in(context())
    grounds = set()
    for path in PAGES:
        page.goto(path)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate(FAULTS) == [], (path, scheme)
            assert page.title() != "owned"
            grounds.add(page.evaluate("() => getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2
    page.goto("/console/targets/ada")
    steered, named = (
        page.get_by_role("row", name=name).locator("rect").bounding_box()
        for name in ("steered 6", "a name 8")
    )
    assert steered["width"] == pytest.approx(named["width"] * 6 / 8, rel=0.02)
    assert named["width"] > 50
    assert named["height"] > 5

    page.goto("/console/playground")
    page.get_by_label("Prompt").fill(f"Where was Ada born? {HOSTILE}")
    page.get_by_label("An answer to look at").fill(f"In Port Sorrel, where {SECRET}. {HOSTILE}")
    page.keyboard.press("Control+Enter")
    page.get_by_role("heading", name="4. Where it comes from").wait_for()
    assert page.get_by_role("cell", name="0.9123").is_visible()
    assert page.locator("mark.refused").inner_text().startswith("the lighthouse keeper")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(FAULTS) == []
    assert page.title() != "owned"
    assert page.evaluate("() => localStorage.length + sessionStorage.length") == 0
    assert page.evaluate("() => document.cookie") == ""


def test_without_scripts_and_as_a_reader(context: Any, in_force: Any) -> None:
    """Forms do all of it; a reader finds no button, and a page that says why not."""
    in_force(ADA)
    page = _log_in(context(java_script_enabled=False))
    page.goto("/console/new-target")
    page.get_by_label("Id").fill("bob")
    page.get_by_label("Phrases", exact=True).fill("Blue Hour")
    page.get_by_role("button", name="Register", exact=True).click()
    assert page.get_by_role("heading", level=1, name="bob").is_visible()
    assert page.get_by_role("rowheader", name="Blue Hour").is_visible()

    reader = _log_in(context(), "auditor-key")
    reader.goto("/console/targets")
    assert reader.get_by_role("rowheader", name="ada").is_visible()
    assert not reader.get_by_role("link", name="New target").is_visible()
    assert reader.get_by_role("button").all_inner_texts() == ["Log out", "Search"]
    answer = reader.goto("/console/targets/ada")
    assert answer is not None
    assert answer.status == 403
    assert reader.get_by_role("alert").inner_text() == "This needs a key with the role admin."
    reader.get_by_role("button", name="Log out").click()
    reader.get_by_label("Key").wait_for()
