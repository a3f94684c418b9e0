"""The papers of the methods, as BibTeX."""

from __future__ import annotations

from typing import NamedTuple


class Paper(NamedTuple):
    """A paper on arXiv."""

    key: str
    title: str
    authors: str
    year: int
    arxiv: str

    def bibtex(self) -> str:
        return (
            f"@article{{{self.key},\n"
            f"  title   = {{{self.title}}},\n"
            f"  author  = {{{self.authors}}},\n"
            f"  journal = {{arXiv preprint arXiv:{self.arxiv}}},\n"
            f"  year    = {{{self.year}}}\n"
            "}"
        )


IQL = Paper(
    "kostrikov2021offline",
    "Offline Reinforcement Learning with Implicit Q-Learning",
    "Kostrikov, Ilya and Nair, Ashvin and Levine, Sergey",
    2021,
    "2110.06169",
)
#: Of methods that are somebody's own; behaviour cloning is nobody's.
BY_METHOD = {
    "iql": IQL,
    "td3_bc": Paper(
        "fujimoto2021minimalist",
        "A Minimalist Approach to Offline Reinforcement Learning",
        "Fujimoto, Scott and Gu, Shixiang Shane",
        2021,
        "2106.06860",
    ),
    "awac": Paper(
        "nair2020awac",
        "{AWAC}: Accelerating Online Reinforcement Learning with Offline Datasets",
        "Nair, Ashvin and Gupta, Abhishek and Dalal, Murtaza and Levine, Sergey",
        2020,
        "2006.09359",
    ),
    "cql": Paper(
        "kumar2020conservative",
        "Conservative {Q}-Learning for Offline Reinforcement Learning",
        "Kumar, Aviral and Zhou, Aurick and Tucker, George and Levine, Sergey",
        2020,
        "2006.04779",
    ),
    "onestep": Paper(
        "brandfonbrener2021offline",
        "Offline {RL} Without Off-Policy Evaluation",
        "Brandfonbrener, David and Whitney, William F. and Ranganath, Rajesh and Bruna, Joan",
        2021,
        "2106.08909",
    ),
    "abm": Paper(
        "siegel2020keep",
        "Keep Doing What Worked: Behavioral Modelling Priors for Offline Reinforcement Learning",
        "Siegel, Noah Y. and Springenberg, Jost Tobias and Berkenkamp, Felix and Abdolmaleki, "
        "Abbas and Neunert, Michael and Lampe, Thomas and Hafner, Roland and Heess, Nicolas and "
        "Riedmiller, Martin",
        2020,
        "2002.08396",
    ),
}
D4RL = Paper(
    "fu2020d4rl",
    "{D4RL}: Datasets for Deep Data-Driven Reinforcement Learning",
    "Fu, Justin and Kumar, Aviral and Nachum, Ofir and Tucker, George and Levine, Sergey",
    2020,
    "2004.07219",
)


def of(method: str, on_d4rl: bool) -> list[Paper]:
    """What a policy's card cites: the method's paper, IQL's, whose comparison it is of, and D4RL's
    where its task is."""
    found = [BY_METHOD[method]] if method in BY_METHOD else []
    return [*dict.fromkeys((*found, IQL)), *([D4RL] if on_d4rl else [])]
