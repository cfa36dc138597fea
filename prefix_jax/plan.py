"""`python -m prefix_jax.plan --config configs/NAME.py --topology v5e:4x4 [--config.model.source=gpt2-xl] [--search]`

Compiles the training step of a configuration for a TPU topology, from shapes alone, and reports its cost per chip and
whether it fits. Requires libtpu (`pip install 'jax[tpu]'`) but no TPU.
"""

import json
import sys

from absl import flags

from prefix_jax import cli


def define_flags() -> None:
    cli.define_recipe()
    flags.DEFINE_string("topology", None, "A chip and a shape: v5e:4x4, v6e:16x16, v5p:4x4x8.")
    flags.DEFINE_integer("rows", 0, "Packed rows per step; 0: training.batch.", lower_bound=0)
    flags.DEFINE_integer("columns", 0, "Columns per row; 0: the longest record's.", lower_bound=0)
    flags.DEFINE_integer("targets", 0, "Target tokens per row; 0: data.max_target_length.", lower_bound=0)
    flags.DEFINE_bool("search", False, "Rank the promising meshes, instead of using the configuration's.")
    flags.DEFINE_integer("most", 6, "Maximum number of meshes that --search compiles.", lower_bound=1)
    flags.DEFINE_bool("json", False, "Print JSON: an object, or with --search a list.")


def main(options: flags.FlagValues) -> None:
    cli.required(config=options.config, topology=options.topology)
    from prefix_jax.planning import topologies

    topology = topologies.parse(str(options.topology))
    from prefix_jax.planning import plan as planning
    from prefix_jax.planning import report, shapes

    config = options.config
    model_config = shapes.spec_of(config.model.source)
    work = planning.work_of(config, model_config, options.rows, options.columns, options.targets)
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


if __name__ == "__main__":
    from prefix_jax.planning.topologies import prepare_environment

    prepare_environment()  # before a recipe imports jax
    cli.run(main, define_flags)
