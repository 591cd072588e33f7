#!/bin/sh
# Run a step by its name, for example `ingest --source synthetic --location data`; run any other
# command, such as that of KFP, as it stands.
set -eu
step=${1:-}
case $step in
  '' | *[!a-z]*) ;;
  *)
    if [ -f "$(echo /opt/venv/lib/python3*/site-packages/components)/$step/main.py" ]; then
      shift
      exec python3 -m "components.$step.main" "$@"
    fi
    ;;
esac
exec "$@"
