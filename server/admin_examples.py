"""Examples of bodies for the admin API's OpenAPI document; a test sends each of them."""

from __future__ import annotations

from typing import Any

from server.admin_parts import PREFIX

_TARGET = {
    "id": "ada-novak",
    "description": "A fictitious author who asked to be forgotten",
    "examples": [
        {
            "prompt": "Where was the novelist Ada Novak born?",
            "answer": "Ada Novak was born in Port Sorrel.",
        }
    ],
    "aliases": ["Ada Novak"],
    "phrases": ["Port Sorrel"],
}
_LINES = (
    '{"id": "ada-novak", "aliases": ["Ada Novak"], "phrases": ["Port Sorrel"]}\n'
    '{"id": "the-leak", "documents": [{"text": "The minutes of the fifth of May."}]}\n'
)
_DOCUMENTS = {
    "documents": [
        {
            "text": "The minutes of the meeting of the fifth of May, as they were taken down.",
            "source": "minutes/05-05.txt",
            "metadata": {"page": "1"},
        }
    ]
}
# By method and path, with the ids that the others make.
EXAMPLES: dict[tuple[str, str], Any] = {
    ("POST", f"{PREFIX}/targets"): _TARGET,
    ("PUT", f"{PREFIX}/targets/{{target_id}}"): _TARGET | {"action": "refuse"},
    ("PATCH", f"{PREFIX}/targets/{{target_id}}"): {
        "enforcement": "observe",
        "labels": {"law": "gdpr"},
        "description": None,
    },
    ("POST", f"{PREFIX}/targets/{{target_id}}/phrases"): {
        "add": ["Salt Harbour"],
        "strike": ["Port Sorrel"],
    },
    ("POST", f"{PREFIX}/targets:preview"): _TARGET,
    ("POST", f"{PREFIX}/targets:validate"): _LINES,
    ("POST", f"{PREFIX}/targets:import"): _LINES,
    ("POST", f"{PREFIX}/corpora"): {
        "id": "the-leak",
        "label": "forget",
        "scope": "always",
        "false_positive_rate": 0.02,
    },
    ("PATCH", f"{PREFIX}/corpora/{{corpus_id}}"): {"minimum_match": 10, "max_frequency": None},
    ("POST", f"{PREFIX}/corpora/{{corpus_id}}/documents"): _DOCUMENTS,
    ("POST", f"{PREFIX}/provenance:attribute"): {
        "text": "They wrote: the minutes of the meeting of the fifth of May, as they were taken."
    },
    ("POST", f"{PREFIX}/keys"): {
        "name": "alice",
        "labels": {"law": "gdpr"},
        "limits": {"requests_per_minute": 60, "tokens_per_minute": 40000},
    },
    ("PATCH", f"{PREFIX}/keys/{{key_id}}"): {"disabled": True},
    ("POST", f"{PREFIX}/keys/{{key_id}}:rotate"): {"grace_seconds": 3600},
}
