"""Exit code 0 if this Python has all that a requirements file names, at versions that fit, and what that needs in turn.

scripts/setup.sh asks it at every start of a script: pip's dry run takes seconds for the same answer.
"""

import functools
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def requirements(path):
    """The lines of a requirements file, and of those that it includes."""
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            yield from requirements(path.parent / line.removeprefix("-r ").strip())
        elif line:
            yield line


def satisfied(lines):
    """Whether the packages that the lines name are installed, and what they need in turn."""
    from packaging.requirements import Requirement  # accelerate needs it: where it is missing, more is

    @functools.cache
    def installed(name):
        found = distribution(name)
        return found.version, [Requirement(line) for line in found.requires or []]

    todo, seen = [(Requirement(line), "") for line in lines], set()
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        version, needed = installed(requirement.name)
        if not requirement.specifier.contains(version, prereleases=True):
            return False
        for wanted in {(requirement.name, extra) for extra in ("", *requirement.extras)} - seen:
            seen.add(wanted)
            todo += [(each, wanted[1]) for each in needed]
    return True


if __name__ == "__main__":
    try:
        sys.exit(not satisfied(requirements(Path(sys.argv[1]))))
    except (ImportError, PackageNotFoundError):
        sys.exit(1)
