#!/usr/bin/env bash
# Write what is in an image as CycloneDX JSON: containers/sbom.sh IMAGE FILE
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")

if docker info > /dev/null 2>&1; then engine=docker
elif command -v podman > /dev/null; then engine=podman
else
  echo 'error: expected docker (with its engine running) or podman, found neither' >&2
  exit 1
fi

temporary=$(mktemp "$(dirname "$2")/.writing-XXXXXX")
trap 'rm -f "$temporary"' EXIT
"$engine" run --rm --interactive --network none --read-only --cap-drop all \
  --security-opt no-new-privileges "$1" python3 - < "$here/sbom.py" > "$temporary"
chmod 644 "$temporary"
mv "$temporary" "$2"
echo "wrote $2"
