#!/usr/bin/env python3
"""Writes the library as one header: every header of include/rrs that rrs/rrs.hpp reaches, in the
order of inclusion, each once.

    usage: amalgamate.py OUT.hpp        OUT.hpp is then used as `#include "OUT.hpp"`, nothing else

Not included: calibrate/ and reference/, as in rrs/rrs.hpp. Every project header has `#pragma once`
and includes only at namespace scope, outside every target region: that is what makes pasting safe,
and .ci/check_routes builds the result, runs it and compares its bits with the conformance vectors. It names
its version and carries the license, since it travels alone.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = ROOT / "include"
OWN = re.compile(r'^#include "(rrs/[\w/]+\.hpp)"$')


def paste(name: str, seen: set) -> list:
    if name in seen:
        return []
    seen.add(name)
    out = [f"// ---- {name}"]
    for line in (INCLUDE / name).read_text(encoding="ascii").splitlines():
        own = OWN.match(line)
        if own:
            out += paste(own.group(1), seen)
        elif line != "#pragma once":
            out.append(line)
    return out


def head() -> list:
    """What the file says of itself: the version and the license, as comments."""
    header = (INCLUDE / "rrs/core/version.hpp").read_text(encoding="ascii")
    version = ".".join(re.findall(r"#define RRS_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header))
    license_lines = (ROOT / "LICENSE").read_text(encoding="ascii").splitlines()
    return [f"// rrs {version} as one header, made by cmake/amalgamate.py: do not edit.", "//",
            *(f"// {line}".rstrip() for line in license_lines), "#pragma once"]


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    seen = set()
    text = [*head(), "#if defined(RRS_EXTERNAL_KERNELS) && RRS_EXTERNAL_KERNELS",
            '#error "the single header contains its kernels: RRS_EXTERNAL_KERNELS is not for it"',
            "#endif"]
    text += paste("rrs/rrs.hpp", seen)
    pathlib.Path(sys.argv[1]).write_text("\n".join(text) + "\n", encoding="ascii")
    print(f"amalgamated: {len(seen)} headers, {len(text)} lines")
    return 0


sys.exit(main())
