"""``python -m iql_fast.export RUN --to FORMAT``: a run's policy as a file for other programs, or as
a folder for a hub of models."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from iql_fast.policies import formats
from iql_fast.runs import trained
from iql_fast.runs.folder import RunFolder
from iql_fast.runs.trained import TrainedPolicy
from iql_fast.support import cli
from iql_fast.support.errors import UserError
from iql_fast.support.files import written_beside

FloatArray = NDArray[np.float32]

#: How far the file's actions may be from the policy's, as a fraction of half their range.
TOLERANCE = 1e-5
REMEDY = "pip install 'iql-fast[export]'"


@dataclass
class Options:
    """Write a run's policy, from the environment's observations to its mean actions, to a file, or
    to a folder that can be published as it is."""

    run: Annotated[Path, tyro.conf.Positional]
    """folder of the run"""
    to: Literal["onnx", "torch", "safetensors", "hub-folder"]
    """onnx: a graph for onnxruntime and others; torch: a program of torch.export, .pt2;
    safetensors: weights and units by name, as iql_fast/policies/safetensors_file.py lists them;
    hub-folder: those with a model card and pictures, for the Hugging Face Hub"""
    out: Path | None = None
    """the file or folder (default: policy.onnx, .pt2, .safetensors or hub in the run, with the seed
    in its name where the run has several, and the step where --checkpoint names one). A former
    export is replaced, anything else is not"""
    seed: int | None = None
    """training seed (default: the run's first)"""
    checkpoint: int | None = None
    """step of the checkpoint (default: the last)"""


def main() -> None:
    """Parse the command line, write the file, compare it with the policy, and give it its name."""
    options = tyro.cli(Options, prog="python -m iql_fast.export")
    policy = trained.load(options.run, options.seed, options.checkpoint)
    if not isinstance(policy, TrainedPolicy):
        raise UserError(
            f"The policy of {options.run} acts by the whole of its episode so far, so that it is "
            "no function of one observation that could be exported. `iql_fast.load_policy` runs it "
            "from Python, with numpy alone."
        )
    out = options.out or _default(options, policy)
    checked = _write_folder(out, options, policy) if options.to == "hub-folder" else (
        _write_file(out, options.to, policy)
    )  # fmt: skip
    print(f"{policy.data}, seed {policy.seed}, step {policy.step:,}: {checked}")
    if options.to == "hub-folder":
        print(f"upload it with: {shlex.join(['hf', 'upload', 'USER/NAME', str(out)])}")
    print(out)


def _write_file(out: Path, to: str, policy: TrainedPolicy) -> str:
    _check_name(out)
    format_ = formats.FORMATS[to]
    try:
        content = format_.encode(policy.whole, trained.about(policy))
    except ImportError as error:
        raise UserError(f"--to {to} needs {error.name or error}: {REMEDY}.") from None
    with written_beside(out) as partial:
        partial.write_bytes(content)
        try:
            return _compare(format_.decode(partial.read_bytes()), policy)
        except ImportError as error:
            return f"not checked, since {error.name or error} is not installed: {REMEDY}"


def _write_folder(out: Path, options: Options, policy: TrainedPolicy) -> str:
    from iql_fast.runs import publishing  # loads what the other formats can do without

    for note in publishing.write(out, RunFolder(options.run), policy):
        print(f"note    {note}")
    return _compare(trained.load(out), policy)


def _default(options: Options, policy: TrainedPolicy) -> Path:
    several = len(trained.seeds(RunFolder(options.run).read_config())) > 1
    seed = f"-seed{policy.seed}" if several else ""
    step = "" if options.checkpoint is None else f"-step{policy.step}"
    if options.to == "hub-folder":
        return options.run / f"hub{seed}{step}"
    return options.run / f"policy{seed}{step}{formats.FORMATS[options.to].suffix}"


def _check_name(out: Path) -> None:
    """That nothing is lost by writing to ``out``."""
    if out.is_dir():
        raise UserError(f"{out} is a folder. Name a file with --out.")
    if out.exists() and not formats.is_export(out):
        raise UserError(
            f"{out} exists, and is no former export, so it will not be touched. Remove it, or name "
            "another file with --out."
        )


def _compare(run: Callable[[FloatArray], FloatArray], policy: TrainedPolicy) -> str:
    """What a file computes, beside the policy, on a batch and on one row.

    Raises:
        UserError: they differ.
    """
    whole = policy.whole
    drawn = np.random.default_rng(0).standard_normal((1000, policy.obs_dim))
    observations = (whole.obs_mean + whole.obs_scale * drawn).astype(np.float32)
    # Actions are float32: where they are large, their last digit is too.
    last_digit = np.finfo(np.float32).eps * (np.abs(whole.act_middle) + whole.act_half)
    widest = 0.0
    for rows in (observations, observations[:1]):
        apart = np.abs(run(rows) - policy(rows))
        widest = max(widest, float(apart.max()))
        if not np.all(apart <= TOLERANCE * whole.act_half + last_digit):  # nor does NaN pass
            raise UserError(
                f"The file's actions and the policy's differ by up to {apart.max():.3g}, so it was "
                "not written. This is a fault of the exporter, or of what runs its files here: "
                "please report it, with the versions that `python -m iql_fast.info` prints."
            )
    return f"its actions are the policy's within {widest:.1g}"


if __name__ == "__main__":
    cli.main(main)
