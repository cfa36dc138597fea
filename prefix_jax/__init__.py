"""prefix_jax: tune, compare, measure and use prefixes on frozen language models in JAX."""

__version__ = "0.1.0"


def _quiet_start() -> None:
    """Lets an interrupt end a command while it loads; `surroundings.prepare` takes over later."""
    import os
    import signal
    import sys

    def leave(*_: object) -> None:
        os.write(2, b"interrupted\n")
        os._exit(130)

    # Value of argv[0] while Python looks for the module of -m.
    if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)


_quiet_start()
