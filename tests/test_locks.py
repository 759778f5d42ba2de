"""What is installed: one set of versions, whichever tool installs it, from the public index alone."""

import re
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from support import CHECKOUT

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
LOCK = (CHECKOUT / "uv.lock").read_text()
EXTRAS = PROJECT["optional-dependencies"]


def locked():
    """Every version of each package in `uv.lock`."""
    versions = {}
    for package in tomllib.loads(LOCK)["package"]:
        versions.setdefault(package["name"], set()).add(package.get("version"))
    return versions


def pinned():
    """Every version of each package in `requirements.lock`."""
    versions = {}
    for line in (CHECKOUT / "requirements.lock").read_text().splitlines():
        requirement = Requirement(line)
        (pin,) = requirement.specifier
        assert pin.operator == "==", line
        versions.setdefault(canonicalize_name(requirement.name), set()).add(pin.version)
    return versions


def test_the_lock_names_the_public_index_alone():
    hosts = set(re.findall(r"https?://([^/\"]+)", LOCK))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}
    assert "://" not in (CHECKOUT / "requirements.lock").read_text()


def test_requirements_lock_is_what_uv_lock_says():
    assert {name: versions for name, versions in locked().items() if name in pinned()} == pinned()
    assert locked().keys() - pinned().keys() <= {"tuner"}


def test_the_lock_is_of_this_pyproject():
    versions = locked()
    for text in (*PROJECT["dependencies"], *(one for extra in EXTRAS.values() for one in extra)):
        requirement = Requirement(text)
        if requirement.name != "tuner":
            found = versions[canonicalize_name(requirement.name)]
            assert all(version in requirement.specifier for version in found), text


def test_environment_yml_gives_these_versions():
    """Its names and ranges are the project's; conda itself is not run."""
    given = yaml.safe_load((CHECKOUT / "environment.yml").read_text())["dependencies"]
    ranges = {canonicalize_name(one.name): one.specifier for one in map(Requirement, PROJECT["dependencies"])}
    ranges |= {"python": SpecifierSet(PROJECT["requires-python"]), "pip": SpecifierSet()}
    for text in (one for one in given if isinstance(one, str)):
        requirement = Requirement(text.replace(" ", "", 1))
        assert ranges[canonicalize_name(requirement.name)] == requirement.specifier, text
    (lines,) = (one["pip"] for one in given if isinstance(one, dict))
    assert "-c requirements.lock" in lines
    (extras,) = re.findall(r"^-e \.\[(.+)\]$", "\n".join(lines), re.M)
    assert set(extras.split(",")) <= EXTRAS.keys()
