#!/usr/bin/env bash
# rliable 1.2.0, with which the field reports interquartile means, cannot be imported as pip installs
# it today: it asks for arch below 8.0 and for any pandas from 1.0 on, and arch 7.2.0, the newest that
# it allows, raises a TypeError as it is imported with pandas 3 (deprecate_kwarg() missing 1 required
# positional argument: 'new_arg_name'). With pandas below 3 it works.
#
# Seen with Python 3.11, pandas 3.1.1 and 2.3.3.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet rliable==1.2.0 arch==7.2.0 pandas==3.1.1
if message=$("$work/venv/bin/python" -c "import rliable.library" 2>&1); then
  echo "CHANGED: rliable.library is imported with pandas 3"
  exit 1
fi
grep -q "TypeError: deprecate_kwarg() missing 1 required positional argument" <<<"$message" || {
  echo "CHANGED: $message"
  exit 1
}
echo "with pandas 3.1.1: ${message##*$'\n'}"
"$work/venv/bin/pip" install --quiet pandas==2.3.3
"$work/venv/bin/python" -c "
import numpy as np
import rliable.library
from rliable import metrics
print('with pandas 2.3.3: interquartile mean', metrics.aggregate_iqm(np.arange(8.0)[None]))
assert metrics.aggregate_iqm(np.arange(8.0)[None]) == 3.5"
