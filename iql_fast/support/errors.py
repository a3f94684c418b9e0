"""The errors that a user is meant to read."""


class UserError(Exception):
    """Something the user can put right: the message says what is wrong, where, and what to do.

    Every command line of the package prints it as one paragraph, without a traceback, and exits
    with status 2. It is raised before any work starts wherever that is possible.
    """


class NonFiniteLoss(Exception):
    """Training produced a NaN or an infinity and stopped at that step.

    Attributes:
        step: the (1-based) training step whose loss was not finite.
        seed: the seed whose networks produced it.
        network: ``"value"``, ``"critic"`` or ``"actor"``, the first in update order.
        statistics: named statistics of the batch of that step.
    """

    def __init__(self, step: int, seed: int, network: str, statistics: dict[str, float]) -> None:
        self.step = step
        self.seed = seed
        self.network = network
        self.statistics = statistics
        listing = ", ".join(f"{name} {value:.6g}" for name, value in statistics.items())
        super().__init__(
            f"The {network} loss of seed {seed} is not finite at step {step}. "
            f"Statistics of the batch: {listing}."
        )
