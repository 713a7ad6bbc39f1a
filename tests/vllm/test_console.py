"""The console's playground beside a real engine: decision, answer and sources of one request."""

import html
import re

import httpx
import pytest

pytestmark = pytest.mark.vllm

PLAYGROUND = "/console/playground"
FORGOTTEN = "In which city and country was Basil Mahfouz Al-Kuwaiti born?"
RETAINED = "Where was Samir Khoury born?"


def words(page):
    """A page's text after its form."""
    shown = page.partition("Follow it</button>")[2]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", shown)).split())


@pytest.fixture
def follow(pair):
    """Follows a request of an admin who has logged in."""
    with httpx.Client(base_url=pair.admin_http.base_url, timeout=60) as browser:
        browser.post("/console/login", data={"key": pair.admin_key})
        csrf = re.search(r'name="csrf" value="(\w+)"', browser.get(PLAYGROUND).text)[1]

        def ask(prompt):
            form = {"csrf": csrf, "prompt": prompt, "generate": "yes"}
            answer = browser.post(PLAYGROUND, data=form)
            assert answer.status_code == 200
            return words(answer.text)

        yield ask


def test_a_forgotten_fact(pair, follow):
    """Is forbidden, and not in the answer that the model is then asked for."""
    told = follow(FORGOTTEN)
    forbidden, _, answered = told.partition("3. The answer")

    assert "1. Decision steer" in told
    assert "alias strong 1.0000 1.0000" in told
    assert "Kuwait City (name, the target)" in forbidden
    assert "Decision steer Generation" in answered
    assert "No forbidden phrase is in it." in answered
    assert "Kuwait City" not in answered


def test_another_question(pair, follow):
    """Goes to the model as it came."""
    told = follow(RETAINED)

    assert "1. Decision allow" in told
    assert "the request goes to the model as it came" in told
    assert pair.ask(pair.guarded, RETAINED).choices[0].message.content.split()[0] in told
