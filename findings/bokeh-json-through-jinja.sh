#!/usr/bin/env bash
# Bokeh's JSON depends on the order of its keys, which Jinja2's own filter for JSON changes. An object of
# a plot is written out where it is met first and named by its id from there on; `tojson` sorts keys
# unless its policy says otherwise, so names come before what they name, and BokehJS, which reads in
# order, says "reference p1001 isn't known" in place of a figure. With
# environment.policies["json.dumps_kwargs"] = {"sort_keys": False} the order stays.
#
# Seen with Python 3.11, Bokeh 3.9.2 and Jinja2 3.1.6: none of the ids is named too early in Bokeh's own
# order and in the unsorted one, and one is in the sorted one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet bokeh==3.9.2 jinja2==3.1.6
"$work/venv/bin/python" - <<'PYTHON'
import json

from bokeh.embed import json_item
from bokeh.plotting import figure
from jinja2 import Environment


def too_early(text):
    """Ids that are named before the object that has them is written, by a reader in order."""
    known, early = set(), set()

    def pairs(found):
        return found  # of an object, in the order of the text

    def visit(node):
        if isinstance(node, tuple):  # an object
            keys = [key for key, _ in node[1]]
            own = dict(node[1]).get("id")
            if "id" in keys and "type" not in keys and len(keys) == 1:
                if own not in known:
                    early.add(own)
                return
            if "type" in keys and isinstance(own, str):
                known.add(own)
            for _, value in node[1]:
                visit(value)
        elif isinstance(node, list):
            for value in node:
                visit(value)

    visit(json.loads(text, object_pairs_hook=lambda found: ("object", pairs(found))))
    return early


plot = figure()
plot.line([0, 1], [0, 1])
item = json_item(plot)
usual, unsorted = Environment(), Environment()
unsorted.policies["json.dumps_kwargs"] = {"sort_keys": False}
found = {
    "Bokeh's own order": too_early(json.dumps(item)),
    "tojson": too_early(usual.from_string("{{ item | tojson }}").render(item=item)),
    "tojson, unsorted": too_early(unsorted.from_string("{{ item | tojson }}").render(item=item)),
}
for name, early in found.items():
    print(f"{name}: {len(early)} ids are named before they are there")
assert not found["Bokeh's own order"], "CHANGED: Bokeh names ids before they are there"
assert found["tojson"], "CHANGED: tojson keeps an order that Bokeh can read"
assert not found["tojson, unsorted"], "CHANGED: the unsorted order cannot be read"
PYTHON
