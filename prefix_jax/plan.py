"""`python -m prefix_jax.plan --config configs/NAME.py --topology v5e:4x4 [--config.model.source=gpt2-xl] [--search]`

Compiles the training step of a configuration for a TPU topology, from shapes alone, and reports its cost per chip and
whether it fits. Requires libtpu (`pip install 'prefix_jax[plan]'`) but no TPU.
"""

import json
import sys

from absl import flags

from prefix_jax import cli
from prefix_jax.errors import UserError

# Former names of flags.
_FORMER = {"rows": "batch", "columns": "sequence_length"}


def define_flags() -> None:
    cli.define_recipe()
    flags.DEFINE_string("topology", None, "A chip and a shape: v5e:4x4, v6e:16x16, v5p:4x4x8.")
    flags.DEFINE_integer("batch", 0, "Packed rows of a step; 0: training.batch.", lower_bound=0)
    flags.DEFINE_integer("sequence_length", 0, "Tokens of a row; 0: the longest record's.", lower_bound=0)
    for old, new in _FORMER.items():
        flags.DEFINE_integer(old, 0, f"The former name of --{new}.", lower_bound=0)
    flags.DEFINE_integer("targets", 0, "Target tokens of a row; 0: data.max_target_length.", lower_bound=0)
    flags.DEFINE_bool("search", False, "Try the promising meshes and rank them, in place of the configuration's.")
    flags.DEFINE_integer("most", 6, "Meshes that --search compiles, at most.", lower_bound=1)
    flags.DEFINE_bool("json", False, "Print JSON: an object, or with --search a list.")


def main(options: flags.FlagValues) -> None:
    cli.required(config=options.config, topology=options.topology)
    from prefix_jax.planning import topologies

    topology = topologies.parse(str(options.topology))
    from prefix_jax.planning import plan as planning
    from prefix_jax.planning import report, shapes

    config = options.config
    model_config = shapes.spec_of(config.model.source)
    batch, sequence_length = (_value(options, old, new) for old, new in _FORMER.items())
    work = planning.work_of(config, model_config, batch, sequence_length, options.targets)
    if not options.search:
        found = planning.plan(config, model_config, topology, work)
        print(json.dumps(found.as_json()) if options.json else report.told(config.model.source, found))
        return

    def tell(plan: planning.Plan) -> None:
        print(f"compiled {vars(plan.mesh)} in {plan.compile_seconds:.0f} s", file=sys.stderr)

    plans = planning.search(config, model_config, topology, work, options.most, tell)
    if options.json:
        print(json.dumps([plan.as_json() for plan in plans]))
    else:
        print(f"{report.told(config.model.source, plans[0])}\n\n{report.ranked(plans)}")


def _value(options: flags.FlagValues, old: str, new: str) -> int:
    """Returns a flag's value, which may stand under its former name."""
    if not options[old].present:
        return int(options[new].value or 0)
    print(f"--{old} is now called --{new}", file=sys.stderr)
    if options[new].present:
        raise UserError(f"--{old} is the former name of --{new}, and both are given; leave out --{old}")
    return int(options[old].value or 0)


if __name__ == "__main__":
    from prefix_jax.planning.topologies import prepare_environment

    prepare_environment()  # before a recipe imports jax
    cli.run(main, define_flags)
