"""Jobs one after the other, in this process."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from iql_fast.sweeps import jobs
from iql_fast.sweeps.jobs import Job, Reached
from iql_fast.sweeps.plan import Plan
from iql_fast.sweeps.showing import duration
from iql_fast.sweeps.storage import Storage


class InSequence:
    """An executor that shows each run as ``python -m iql_fast.train`` does.

    Args:
        cores: of each job; None: all.
        storage: where folders are brought, too.
    """

    def __init__(self, cores: int | None = None, storage: Storage | None = None) -> None:
        self.cores = cores
        self.storage = storage

    def run(self, plan: Plan) -> None:
        """See ``Executor``."""
        begun, done, trained, spent = 0, 0, 0, 0.0
        last = Reached(0, 0)

        def tell(job: Job, where: Reached) -> bool:
            nonlocal last
            last = where
            return plan.reached(job, where)

        while (job := plan.next()) is not None:
            begun += 1
            left = plan.seed_steps - done
            estimate = f"; about {duration(left * spent / trained)} left" if trained else ""
            print(f"{job.title}: {begun} of {plan.known}{estimate}", flush=True)
            start, last = time.monotonic(), Reached(0, 0)
            placed = replace(job, options=jobs.placed(job.options, self.cores, shared=False))
            outcome = jobs.train(placed, partial(tell, job), self.storage)
            if outcome.kind == "failed":
                print(f"{job.title}: {outcome.why}", flush=True)
            spent += time.monotonic() - start
            trained += (last.step - last.began) * job.options.seeds
            done += job.seed_steps
            plan.ended(job, outcome)
