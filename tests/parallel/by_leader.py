"""What a process of `test_by_leader` does: a result of process 0, then its failure."""

import sys

from prefix_jax import cli
from prefix_jax.errors import UserError
from prefix_jax.parallel import distributed


def main(port: str, process: str) -> None:
    distributed.join(f"127.0.0.1:{port}", 2, int(process), 60)
    print(distributed.by_primary(lambda: {"text": "é" * 3, "number": None} if process == "0" else 1 / 0), flush=True)

    def fail() -> None:
        raise UserError("the scorer fails here")

    with cli.user_errors():
        distributed.by_primary(fail)


if __name__ == "__main__":
    main(*sys.argv[1:])
