#!/usr/bin/env bash
# Build the image of the steps: containers/build.sh IMAGE
# In the environment: ENGINE (docker, buildah or podman; else the first that is there),
# BASE_IMAGE, and BUILD_FLAGS, words that the engine gets as they are.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# A docker without an engine behind it, and without a builder, is of no use.
if [ -z "${ENGINE:-}" ]; then
  if docker info > /dev/null 2>&1; then ENGINE=docker
  elif command -v buildah > /dev/null; then ENGINE=buildah
  elif command -v podman > /dev/null; then ENGINE=podman
  else
    echo 'error: expected docker (with its engine running), buildah or podman, found none' >&2
    exit 1
  fi
fi
case $ENGINE in
  docker) command=(docker build) && export DOCKER_BUILDKIT=1 ;;
  buildah) command=(buildah bud) ;;
  podman) command=(podman build) ;;
  *) echo "error: expected ENGINE=docker, buildah or podman, got $ENGINE" >&2 && exit 1 ;;
esac

arguments=(--build-arg "VERSION=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)")
if revision=$(git rev-parse HEAD 2> /dev/null); then
  git diff --quiet HEAD || revision+=-changed
  arguments+=(--build-arg "REVISION=$revision")
fi
if [ -n "${BASE_IMAGE:-}" ]; then arguments+=(--build-arg "BASE_IMAGE=$BASE_IMAGE"); fi
# shellcheck disable=SC2206  # words are what BUILD_FLAGS holds
flags=(${BUILD_FLAGS:-})

"${command[@]}" "${flags[@]}" "${arguments[@]}" --tag "$1" --file containers/Containerfile .
