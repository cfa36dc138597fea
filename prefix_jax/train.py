"""`python -m prefix_jax.train --config configs/NAME.py --workdir DIR [--config.SECTION.OPTION=VALUE ...]`

Tunes a prefix (or what `config.method` names) on a frozen model. The same command goes on with a run that was stopped.
Started once a host, the processes find each other under SLURM, Open MPI, Cloud TPU and Kubernetes; elsewhere add
`--coordinator HOST:PORT --processes N --process I`.
"""

import sys

from prefix_jax import cli

_CONFIG = cli.define_recipe()
_WORKDIR = cli.define_path("workdir", None, "The run directory: made, or gone on with.")
_JOIN = cli.define_hosts()


def main() -> None:
    cli.required(config=_CONFIG.value, workdir=_WORKDIR.value)
    workdir = cli.new_directory(_WORKDIR.value)
    cli.enable_compile_cache()
    from prefix_jax.config import flat
    from prefix_jax.decoding import GenerationConfig as Decoding
    from prefix_jax.parallel import distributed
    from prefix_jax.training import pipeline

    Decoding.from_config(_CONFIG.value.decoding)  # what is wrong with them shows before the training
    _JOIN({"workdir": _WORKDIR.value, **flat(_CONFIG.value.to_dict())})
    outcome = pipeline.tune(_CONFIG.value, workdir, cli.command_line())
    if not outcome.finished and distributed.is_primary():
        print(f"stopped at step {outcome.step}; run the same command again to go on", file=sys.stderr)
    cli.end_failed_run(pipeline.judged(outcome), _CONFIG.value.evaluation.failed_run)


if __name__ == "__main__":
    cli.run(main)
