"""prefix_jax: tune, compare, measure and use prefixes on frozen language models in JAX.

The public names are those of `prefix_jax.api`, which is imported with the first of them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefix_jax.api import (
        Adapter,
        AttentionMaps,
        Bank,
        Finetune,
        History,
        Infix,
        LanguageModel,
        LoRA,
        MethodOptions,
        Plot,
        Prefix,
        PrefixKV,
        Prompt,
        Scores,
        Tuned,
        UserError,
        distill,
        hyperparameters,
        initial_state,
        load,
        load_model,
        loss,
        make_step,
        prefix,
        tune,
    )

__version__ = "0.2.0"
__all__ = [
    "Adapter",
    "AttentionMaps",
    "Bank",
    "Finetune",
    "History",
    "Infix",
    "LanguageModel",
    "LoRA",
    "MethodOptions",
    "Plot",
    "Prefix",
    "PrefixKV",
    "Prompt",
    "Scores",
    "Tuned",
    "UserError",
    "distill",
    "hyperparameters",
    "initial_state",
    "load",
    "load_model",
    "loss",
    "make_step",
    "prefix",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from prefix_jax import api

        return getattr(api, name)
    raise AttributeError(f"module 'prefix_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _quiet_start() -> None:
    """Lets an interrupt end a command while it loads; `surroundings.prepare` takes over later."""
    import os
    import signal
    import sys

    def leave(*_: object) -> None:
        os.write(2, b"interrupted\n")
        os._exit(130)

    # Value of argv[0] while Python looks for the module of -m; else the installed script.
    if (
        sys.argv[:1]
        and os.path.basename(sys.argv[0]) in ("-m", "prefix-jax")
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, leave)


_quiet_start()
