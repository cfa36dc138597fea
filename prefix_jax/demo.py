"""`python -m prefix_jax.demo [--workdir runs/demo]`: the full pipeline from training to report, as in `make demo`."""

import runpy
import sys

from absl import flags

from prefix_jax import cli
from prefix_jax.errors import UserError
from prefix_jax.options import Config


def define_flags() -> None:
    cli.define_path("workdir", "runs/demo", "The run directory: created, or resumed if it exists.")
    cli.define_path("recipe", "demo", "The recipe to run: a file, or a name.")


def main(options: flags.FlagValues) -> None:
    workdir = cli.new_directory(options.workdir)
    cli.enable_compile_cache()
    from prefix_jax import inference, inspection
    from prefix_jax.evaluation import scorers
    from prefix_jax.reporting.report import write_report
    from prefix_jax.reporting.tables import entry_table, samples_side_by_side
    from prefix_jax.training import pipeline
    from prefix_jax.workdir import read_samples

    config = _recipe(options.recipe)
    scorers.try_out(config)
    outcome = pipeline.tune(config, workdir, cli.command_line())
    if not outcome.finished:
        print(f"stopped at step {outcome.step}; run the same command again to resume", file=sys.stderr)
        return
    entry, tuned = inference.evaluate_opened(workdir, "test", bare=True)
    print()
    print(entry_table(entry, f"{entry['records']} held-out records"))
    print()
    print(samples_side_by_side(read_samples(workdir)[:4]))
    inspection.write(workdir, tuned.session, tuned.kept, "test")
    print(f"\nThe report: {write_report(workdir)}")
    cli.say_next("the same on your own rows", "prefix-jax train --model flan-t5-small --data rows.jsonl")
    cli.end_failed_run(entry["verdict"], config.evaluation.failed_run)


def _recipe(path: str) -> Config:
    try:
        return runpy.run_path(cli.recipe(path))["get_config"]()
    except FileNotFoundError:
        raise UserError(f"there is no recipe {path}; known: {', '.join(cli.recipes())}") from None


if __name__ == "__main__":
    cli.run(main, define_flags)
