"""List what is installed where this runs, as CycloneDX 1.6: Python and Debian packages.

It needs the standard library only and runs in the image itself:
`docker run --rm -i IMAGE python3 - < containers/sbom.py`. The same image gives the same bytes.
"""

import json
import subprocess
import sys
from importlib.metadata import Distribution, distributions, version
from urllib.parse import quote

# dpkg prints a line per package: name, version, architecture.
_DEBIAN = ("dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Architecture}\n")


def main() -> None:
    """Print the list."""
    components = sorted([*python_packages(), *debian_packages()], key=lambda one: one["purl"])
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "name": "mixprint",
                "version": version("mixprint"),
            }
        },
        "components": components,
    }
    json.dump(document, sys.stdout, indent=1)
    sys.stdout.write("\n")


def python_packages() -> list[dict[str, object]]:
    """List the distributions that this interpreter finds."""
    # A distribution of the environment hides one of the system.
    found: dict[str, Distribution] = {}
    for one in distributions():
        found.setdefault(one.metadata["Name"].lower().replace("_", "-"), one)
    return [
        _component(name, one.version, f"pkg:pypi/{name}@{quote(one.version)}") | _licences(one)
        for name, one in found.items()
    ]


def debian_packages() -> list[dict[str, object]]:
    """List the packages of the base image."""
    shown = subprocess.run(_DEBIAN, check=True, capture_output=True, text=True).stdout
    return [
        _component(name, version, f"pkg:deb/debian/{name}@{quote(version)}?arch={architecture}")
        for name, version, architecture in (line.split() for line in shown.splitlines())
    ]


def _component(name: str, version: str, purl: str) -> dict[str, object]:
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    }


def _licences(one: Distribution) -> dict[str, object]:
    """Return the licence that a distribution states as an SPDX expression, where it does."""
    stated = one.metadata.get("License-Expression")
    return {"licenses": [{"expression": stated}]} if stated else {}


if __name__ == "__main__":
    main()
