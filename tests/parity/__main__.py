"""`python -m tests.parity [FAMILY ...]` prints, for each family, how far it is from transformers and PEFT in float32.

One line per family, with the largest absolute differences over its cases (`cases.py`): logits, with and without a
prefix, of rows that are full, padded on the right, and on the left; packed rows; gradients of a prefix (divided by the
largest of an array where that is above 1); rows whose
greedily written tokens differ; scores of beams; logits with PEFT's prefix, LoRA and prompt; and with an infix, of which
transformers computes the two parts. Exit code 1: a difference is above 1e-4, or tokens differ.
"""

import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


def main(families: list[str]) -> int:
    """Prints a line for each family, all by default; returns the exit code."""
    from prefix_jax.models import FAMILIES

    if unknown := sorted(set(families) - set(FAMILIES)):
        print(f"error: no family {', '.join(unknown)}; known: {', '.join(FAMILIES)}", file=sys.stderr)
        return 2
    import warnings

    import transformers

    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    from tests.parity.measures import COLUMNS, measures

    chosen = families or list(FAMILIES)
    width, good = max(map(len, chosen)), True
    print(" ".join(["family".ljust(width), *(column.rjust(8) for column in COLUMNS)]))
    for family in chosen:
        found = measures(family)
        cells = (f"{found[column]}" if column in found else "-" for column in COLUMNS)
        wrong = [column for column, measure in found.items() if not measure.good]
        said = f"  above 1e-4 or different: {', '.join(wrong)}" if wrong else ""
        print(" ".join([family.ljust(width), *(cell.rjust(8) for cell in cells)]) + said, flush=True)
        good &= not wrong
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
