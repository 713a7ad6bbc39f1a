"""Print what is installed, with licences, as a CycloneDX bill of materials.

    .venv/bin/python deploy/inventory.py > sbom.json
    .venv/bin/python deploy/inventory.py --licences     # one line per package instead

The image keeps its own in /opt/lethegate/sbom.json. Licences are what the packages say of
themselves; "not stated" is told, not guessed.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions, version

NOT_STATED = "not stated"
_LONGEST_NAME = 80


@dataclass(frozen=True, order=True)
class Package:
    """One installed distribution."""

    name: str
    version: str
    licence: str

    @property
    def component(self) -> dict[str, object]:
        """The package in CycloneDX's form."""
        found: dict[str, object] = {
            "type": "library",
            "name": self.name,
            "version": self.version,
            "purl": f"pkg:pypi/{self.name}@{self.version}",
        }
        if self.licence != NOT_STATED:
            found["licenses"] = [{"license": {"name": self.licence}}]
        return found


def packages() -> list[Package]:
    """All distributions of this environment but Lethegate itself, by name."""
    found = {Package(_name(each), each.version, licence(each)) for each in distributions()}
    return sorted(package for package in found if package.name != "lethegate")


def licence(distribution: Distribution) -> str:
    """What the package's metadata says: an expression, else classifiers, else a short text."""
    metadata = distribution.metadata
    if expressions := metadata.get_all("License-Expression"):
        return str(expressions[0])
    classifiers = metadata.get_all("Classifier") or []
    named = [each.rsplit(" :: ", 1)[-1] for each in classifiers if each.startswith("License :: ")]
    if named := [name for name in named if not name.endswith("pproved")]:
        return " AND ".join(named)
    stated = str((metadata.get_all("License") or [""])[0]).strip().split("\n")[0]
    if len(stated) <= _LONGEST_NAME and stated.upper() not in ("", "UNKNOWN"):
        return stated
    return NOT_STATED


def bill(found: list[Package]) -> dict[str, object]:
    """A CycloneDX 1.5 document; the same environment always gives the same."""
    own = {"type": "application", "name": "lethegate", "version": version("lethegate")}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": own},
        "components": [package.component for package in found],
    }


def _name(distribution: Distribution) -> str:
    return re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()


def lines(found: list[Package]) -> Iterator[str]:
    """The licence list."""
    for package in found:
        yield f"{package.name}\t{package.version}\t{package.licence}"


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--licences"]):
        sys.exit("usage: inventory.py [--licences]")
    installed = packages()
    as_lines = "\n".join(lines(installed))
    print(as_lines if sys.argv[1:] else json.dumps(bill(installed), indent=1))
