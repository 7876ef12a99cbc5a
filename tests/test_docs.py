"""README and docs/: links, images, anchors, commands and options exist, and the lists of requirements agree."""

import contextlib
import importlib
import io
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "asset/macs-tiny/README.md"]
PAGES += [ROOT / "tests/reference/README.md", *sorted((ROOT / "docs").glob("*.md"))]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
SCRIPTS = ["train.py", "inference.py", "train_separator.py", "scripts/evaluate.py", "storyboard.py", "film.py"]
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page):
    """[(script, its options)] of the code of a page that runs a Python script or a .sh file, lines joined."""
    text = page.read_text().replace("\\\n", " ")
    code = "\n".join(BLOCK.findall(text)) + "\n" + "\n".join(re.findall(r"`([^`\n]+)`", BLOCK.sub("", text)))
    found = []
    for line in code.splitlines():
        line = re.sub(r"\s#.*", "", line)
        for script, rest in re.findall(r"(?:python|bash|launch) ([\w./*<>-]+\.(?:py|sh))(.*)", line):
            found.append((script, re.findall(r"(?<!\S)--([a-zA-Z]\w*)", rest)))
    return found


@pages
def test_links_and_images(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text()))
    broken = []
    for target in targets:
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or anchor and anchor not in anchors(file):
            broken.append(target)
    assert not broken


def test_readme_is_short_and_leads_to_every_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.encode()) <= 14 * 1024
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name}" not in text] == []


@pages
def test_scripts_exist(page):
    assert [script for script, _ in commands(page) if "<" not in script and not list(ROOT.glob(script))] == []


@pytest.fixture(scope="session")
def options():
    """{script: the options its --help lists}; a .sh file passes its arguments to the script it is named for."""

    def read(script):
        module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
            module.parse_args(["--help"])
        return set(re.findall(r"--([a-zA-Z]\w*)", printed.getvalue()))

    found = {script: read(script) for script in SCRIPTS}
    return found | {script.removesuffix(".py") + ".sh": names for script, names in found.items()}


def test_options_exist(options):
    shown = [(page.name, script, name) for page in PAGES for script, names in commands(page) for name in names]
    checked = [case for case in shown if case[1] in options]
    assert len(checked) > 10
    assert [case for case in checked if case[2] not in options[case[1]]] == []
    # those named alone, `--option`, in the two pages about training and inference
    for page, scripts in [("docs/training.md", SCRIPTS[:1] + SCRIPTS[2:3]), ("docs/weights.md", SCRIPTS[1:2])]:
        known = set().union(*(options[script] for script in scripts))
        alone = re.findall(r"`--([a-zA-Z]\w*)[^`]*`", (ROOT / page).read_text())
        assert alone and set(alone) <= known


def test_requirement_lists_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra, file in [("dev", "requirements-dev.txt"), ("youtube", "download/requirements.txt")]:
        lines = [line.strip() for line in (ROOT / file).read_text().splitlines()]
        assert sorted(line for line in lines if line and line[0] not in "#-") == sorted(
            project["optional-dependencies"][extra]
        )
