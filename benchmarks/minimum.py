"""The lowest versions that pyproject.toml allows, as a constraints file for pip.

    python benchmarks/minimum.py > lowest.txt && pip install -c lowest.txt -e '.[dev]'

Needs the standard library alone. `make test-minimum` runs the tests of the core with these versions.
"""

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[[^\]]*\])?>=(?P<version>[\w.]+)(?P<marker> *;.*)?")


def lowest(pyproject: Path = PYPROJECT) -> list[str]:
    """One line `name==version` for each direct dependency that has a lower bound, extras included."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(line for extra in extras for line in extra)]
    matches = filter(None, map(REQUIREMENT.fullmatch, requirements))
    return [f"{m['name']}=={m['version']}{m['marker'] or ''}" for m in matches]


if __name__ == "__main__":
    sys.stdout.write("\n".join(lowest()) + "\n")
