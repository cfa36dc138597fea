"""Plans as text and as table rows."""

from collections.abc import Sequence

from prefix_jax.planning.plan import Plan
from prefix_jax.planning.topologies import GIB
from prefix_jax.reporting.tables import text_table

_BOUND = {
    "compute": "the matrix units",
    "memory": "the chip's memory",
    "links": "the links between chips",
    "compiler": "the cores, by the compiler's own estimate",
}
COLUMNS = ["data", "fsdp", "tensor", "GiB a chip", "fits", "ms a step", "tokens/s", "bound by"]


def told(name: str, plan: Plan) -> str:
    """Returns a plan as a few lines of text."""
    mesh, work, cost = plan.mesh, plan.work, plan.cost
    lines = [
        f"{name} on {plan.topology.name}, {plan.topology.chips} chips: data {mesh.data} x fsdp {mesh.fsdp} x "
        f"tensor {mesh.tensor}",
        f"  a step    {work.rows} rows of {work.columns:,} columns, {plan.tokens:,} tokens",
        f"  memory    {gib(plan.used)} of {gib(plan.available)} a chip: {verdict(plan)}",
    ]
    if cost is None:
        return "\n".join(lines)
    sent = ", ".join(f"{int(k['count'])} {kind} of {gib(k['bytes'])}" for kind, k in cost.collectives.items())
    times = {name: f"{1e3 * seconds:,.2f} ms" for name, seconds in plan.seconds.items()}
    lines += [
        f"  compute   {cost.flops / 1e12:,.3f} TFLOP a chip: at least {times['compute']}",
        f"  moved     {gib(cost.bytes_moved)} to and from memory: about {times['memory']}",
        f"  sent      {gib(cost.bytes_sent)} a chip ({sent or 'nothing'}): about {times['links']}",
    ]
    if cost.kernel_flops:
        lines.append(
            f"  kernels   {cost.kernel_flops / 1e12:,.3f} TFLOP of these, taken at the matrix units' peak: the "
            "compiler has no estimate of them"
        )
    if "compiler" in times:
        lines.append(f"  compiler  its own estimate of what the cores do, one after another: {times['compiler']}")
    lines.append(
        f"  so        about {1e3 * plan.step_seconds:,.2f} ms a step at best, {plan.tokens_per_second:,.0f} "
        f"tokens/s; bound by {_BOUND[plan.bound]}"
    )
    return "\n".join(lines)


def ranked(plans: Sequence[Plan]) -> str:
    """Returns one line per plan."""
    return text_table([row(plan) for plan in plans], COLUMNS)


def row(plan: Plan) -> list[object]:
    """Returns the cells for `COLUMNS`."""
    known = plan.cost is not None
    return [
        plan.mesh.data,
        plan.mesh.fsdp,
        plan.mesh.tensor,
        f"{plan.used / GIB:.2f}",
        verdict(plan),
        f"{1e3 * plan.step_seconds:,.1f}" if known else None,
        f"{plan.tokens_per_second:,.0f}" if known else None,
        plan.bound if known else None,
    ]


def verdict(plan: Plan) -> str:
    return f"does not fit, {gib(plan.shortfall)} too much" if plan.shortfall else "fits"


def gib(size: float) -> str:
    return f"{size / GIB:,.2f} GiB"
