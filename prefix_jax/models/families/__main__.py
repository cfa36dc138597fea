"""`python -m prefix_jax.models.families` prints the table of model families as Markdown."""

from prefix_jax.models.families import FAMILIES
from prefix_jax.models.families.family import Family

_SHOWN = 4


def table() -> str:
    """Returns a line for each family: title, `model_type`s, GGUF architectures, and sizes that the planner knows."""
    head = ["| family | `model_type` | GGUF | sizes known by name |", "|---|---|---|---|"]
    return "\n".join([*head, *map(_line, sorted(FAMILIES.values(), key=lambda family: family.title.lower()))])


def _line(family: Family) -> str:
    code = lambda names: ", ".join(f"`{name}`" for name in names)
    known = list(family.known)
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return f"| {family.title} | {code(family.readers)} | {code(family.gguf)} | {code(known[:_SHOWN])}{more} |"


if __name__ == "__main__":
    print(table())
