"""The metrics that a configuration chooses, by name or by module path."""

from collections.abc import Sequence
from typing import cast

from prefix_jax import plugins
from prefix_jax.errors import UserError, did_you_mean
from prefix_jax.metrics.metric import Function, Metric
from prefix_jax.metrics.shared import METRICS

OPTION = "evaluation.metrics"


def chosen(names: str, own: Sequence[Metric]) -> tuple[Metric, ...]:
    """Returns the metrics that comma-separated names choose.

    A name is looked up in the task's own metrics, then in `METRICS`; a module path names a `Metric`, a function of
    (rows, how), or a module with a `METRIC`.

    Args:
      names: the names; empty: the task's own metrics.
      own: the task's own metrics.

    Raises:
      UserError: an unknown name, a module path that leads to no metric, or two metrics of one name.
    """
    wanted = dict.fromkeys(name.strip() for name in names.split(",") if name.strip())
    if not wanted:
        return tuple(own)
    found = tuple(_metric(name, own) for name in wanted)
    known = [metric.name for metric in found]
    for name in known:
        if known.count(name) > 1:
            raise UserError(f'{OPTION} names two metrics that are called "{name}"; rename one of them')
    return found


def _metric(name: str, own: Sequence[Metric]) -> Metric:
    known = METRICS | {metric.name: metric for metric in own}
    if name in known:
        return known[name]
    if not plugins.is_path(name):
        hint = did_you_mean(name, list(known))
        raise UserError(f'{OPTION} names "{name}", which is not a metric{hint}')
    found = plugins.load(name, "METRIC", OPTION)
    if isinstance(found, Metric):
        return found
    if callable(found):
        return Metric(getattr(found, "__name__", name), cast(Function, found))
    raise UserError(f'{OPTION} names "{name}", which is neither a Metric nor a function; give one of them')
