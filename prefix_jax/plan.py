"""`python -m prefix_jax.plan --config configs/NAME.py --topology v5e:4x4 [--config.model.source=gpt2-xl] [--search]`

Compiles the training step of a configuration for a TPU topology, from shapes alone, and says what it costs a chip and
whether it fits. Needs libtpu (`pip install 'jax[tpu]'`), and no TPU.
"""

import json
import sys

from absl import flags

from prefix_jax import cli

_CONFIG = cli.define_recipe()
_TOPOLOGY = flags.DEFINE_string("topology", None, "A chip and a shape: v5e:4x4, v6e:16x16, v5p:4x4x8.")
_ROWS = flags.DEFINE_integer("rows", 0, "Packed rows of a step; 0: training.batch.", lower_bound=0)
_COLUMNS = flags.DEFINE_integer("columns", 0, "Columns of a row; 0: the longest record's.", lower_bound=0)
_TARGETS = flags.DEFINE_integer("targets", 0, "Target tokens of a row; 0: data.max_target_length.", lower_bound=0)
_SEARCH = flags.DEFINE_bool("search", False, "Try the promising meshes and rank them, in place of the configuration's.")
_MOST = flags.DEFINE_integer("most", 6, "Meshes that --search compiles, at most.", lower_bound=1)
_JSON = flags.DEFINE_bool("json", False, "Print JSON: an object, or with --search a list.")


def main() -> None:
    cli.required(config=_CONFIG.value, topology=_TOPOLOGY.value)
    from prefix_jax.planning import topologies

    topologies.prepare_environment()
    topology = topologies.parse(str(_TOPOLOGY.value))
    from prefix_jax.planning import plan as planning
    from prefix_jax.planning import report, shapes

    config = _CONFIG.value
    model_config = shapes.spec_of(config.model.source)
    work = planning.work_of(config, model_config, _ROWS.value, _COLUMNS.value, _TARGETS.value)
    if not _SEARCH.value:
        found = planning.plan(config, model_config, topology, work)
        print(json.dumps(found.as_json()) if _JSON.value else report.told(config.model.source, found))
        return

    def tell(plan: planning.Plan) -> None:
        print(f"compiled {vars(plan.mesh)} in {plan.compile_seconds:.0f} s", file=sys.stderr)

    plans = planning.search(config, model_config, topology, work, _MOST.value, tell)
    if _JSON.value:
        print(json.dumps([plan.as_json() for plan in plans]))
    else:
        print(f"{report.told(config.model.source, plans[0])}\n\n{report.ranked(plans)}")


if __name__ == "__main__":
    cli.run(main)
