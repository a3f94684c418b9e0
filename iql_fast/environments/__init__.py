"""Where policies are scored: simulators, reference scores, episodes.

Importing it registers the environments of the paper's tasks in Gymnasium, as ``iql_fast/hopper-v2``
and so on.
"""

from contextlib import suppress

from iql_fast.environments.register import register

# Without Gymnasium nothing can be scored, which simulator.require says where it matters.
with suppress(ImportError):
    register()
