#!/bin/sh
# Runs the study, retrains its model on subsets, and judges the scores with quanda, from a fresh clone on.
# quanda gets an environment of its own in venv/, with Python 3.11 or 3.12. What was computed before is kept.
#   PYTHON     the Python of that environment, if it is not to be searched for
#   INFLUENCE  the command of Influence Assets, if it is installed elsewhere than in the repository's .venv
set -eu
cd "$(dirname "$0")"

if [ -z "${INFLUENCE:-}" ]; then
    make -C ../.. .venv/installed
    INFLUENCE=$PWD/../../.venv/bin/influence
fi

suits_quanda() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2> /dev/null; }

if [ ! -e venv/installed ]; then
    for python in ${PYTHON:-python3.12 python3.11 python3 none}; do
        if suits_quanda "$python"; then break; fi
    done
    if ! suits_quanda "$python"; then
        echo "quanda 0.5.0 needs Python 3.11 or 3.12: name one, as in PYTHON=/path/to/python3.12 ./run.sh" >&2
        exit 1
    fi
    "$python" -m venv venv
    venv/bin/pip install --quiet --requirement requirements.txt
    touch venv/installed
fi

venv/bin/python facts.py
"$INFLUENCE" run
"$INFLUENCE" evaluate
venv/bin/python evaluate.py "$INFLUENCE"
