"""What scripts/setup.sh goes by: whether a Python has what a requirements file names."""

import pytest

from scripts import satisfied


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that makes Python believe in a package: its metadata alone."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name, version, *requires):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        lines = [f"Requires-Dist: {requirement}" for requirement in requires]
        (folder / "METADATA").write_text(
            "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines])
        )

    return install


def check(*lines):
    try:
        return satisfied.satisfied(lines)
    except satisfied.PackageNotFoundError:
        return False


def test_versions_decide(install):
    install("macs_first", "1.5+cpu")
    assert check("macs-first>=1.2,<2") and check("macs_first==1.5") and check("macs_first", "macs-first>1")
    assert not check("macs-first>=1.6") and not check("macs_first<1.5")
    assert not check("macs_first", "macs_no_such_package")


def test_what_a_package_needs_counts(install):
    install("macs_first", "1.0", "macs_second>=2", 'macs_third; extra == "more"', 'macs_fourth; python_version < "3"')
    assert not check("macs_first")
    install("macs_second", "2.1", "macs_first")  # in a circle
    assert check("macs_first") and not check("macs_first[more]")
    install("macs_third", "1.0")
    assert check("macs_first[more]")


def test_files_include_others(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "requirements.txt").write_text("# a comment\none>=1\n\ntwo[extra]<3  # another\n")
    (tmp_path / "inner" / "requirements.txt").write_text("-r ../requirements.txt\nthree\n")
    assert list(satisfied.requirements(tmp_path / "inner" / "requirements.txt")) == ["one>=1", "two[extra]<3", "three"]
