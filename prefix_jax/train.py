"""`prefix-jax train --config NAME --workdir DIR [--config.SECTION.OPTION=VALUE ...]`, or without a recipe
`prefix-jax train --model NAME --data FILE [--task TASK] [--method prefix] [--steps N] [--workdir DIR]`

Tunes a prefix (or the methods in `config.method`) on a frozen model. The same command resumes a stopped run.
Started once per host, processes find each other under SLURM, Open MPI, Cloud TPU and Kubernetes; elsewhere add
`--coordinator HOST:PORT --processes N --process I`.
"""

import shlex
import sys

from absl import flags

from prefix_jax import cli


def define_flags() -> None:
    cli.define_recipe_or_run()
    cli.define_path("workdir", None, "The run directory: created, or resumed if it exists.")
    cli.define_hosts()


def main(options: flags.FlagValues) -> None:
    config = cli.configured(options)
    if cli.names_a_recipe():
        cli.required(workdir=options.workdir)
    workdir = cli.new_directory(options.workdir or cli.directory_of(config))
    cli.enable_compile_cache()
    from prefix_jax.config import flat
    from prefix_jax.decoding import GenerationConfig as Decoding
    from prefix_jax.parallel import distributed
    from prefix_jax.training import pipeline

    Decoding.from_config(config.decoding)  # finds invalid options before training
    cli.join_hosts(options, {"workdir": str(workdir), **flat(config.to_dict())})
    outcome = pipeline.tune(config, workdir, cli.command_line())
    if not outcome.finished and distributed.is_primary():
        print(f"stopped at step {outcome.step}; run the same command again to resume", file=sys.stderr)
    elif distributed.is_primary():
        where = shlex.quote(str(workdir))
        cli.say_next(f"the tuned state is in {where}", "prefix-jax evaluate --workdir", where, "--bare")
    cli.end_failed_run(pipeline.judged(outcome), config.evaluation.failed_run)


if __name__ == "__main__":
    cli.run(main, define_flags)
