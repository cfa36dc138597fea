"""`python -m tests.parity [--markdown] [FAMILY ...]` prints how far families are from transformers and PEFT in float32.

One line per family, with the largest absolute differences over its cases (`cases.py`): logits, with and without a
prefix, of rows that are full, padded on the right, and on the left; packed rows; gradients of a prefix (divided by the
largest of an array where that is above 1); rows whose greedily written tokens differ; scores of beams; logits with
PEFT's prefix, LoRA and prompt; and with an infix, of which transformers computes the two parts. Exit code 1: a
difference is above 1e-4, or tokens differ. `--markdown` prints the table of docs/families.md.
"""

import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


def main(arguments: list[str]) -> int:
    """Prints a line for each family, all by default; returns the exit code."""
    from prefix_jax.models import FAMILIES

    families = [argument for argument in arguments if argument != "--markdown"]
    if unknown := sorted(set(families) - set(FAMILIES)):
        print(f"error: no family {', '.join(unknown)}; known: {', '.join(FAMILIES)}", file=sys.stderr)
        return 2
    import warnings

    import transformers

    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    from tests.parity.measures import COLUMNS, measures

    write, good = _markdown if "--markdown" in arguments else _plain, True
    write("family", list(COLUMNS), True)
    for family in families or list(FAMILIES):
        found = measures(family)
        write(family, [f"{found[column]}" if column in found else "-" for column in COLUMNS], False)
        if wrong := [column for column, measure in found.items() if not measure.good]:
            good = False
            print(f"error: {family}: above 1e-4, or different tokens: {', '.join(wrong)}", file=sys.stderr)
    return 0 if good else 1


def _plain(name: str, cells: list[str], head: bool) -> None:
    print(" ".join([name.ljust(16), *(cell.rjust(8) for cell in cells)]), flush=True)


def _markdown(name: str, cells: list[str], head: bool) -> None:
    print(f"| {name if head else f'`{name}`'} | {' | '.join(cells)} |", flush=True)
    if head:
        print("|---" * (1 + len(cells)) + "|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
