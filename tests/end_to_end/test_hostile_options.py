"""Every option of a configuration with values nobody should give: one sentence, or a run that can be prepared."""

import pytest
from absl import flags
from ml_collections import config_flags

from prefix_jax import cli
from prefix_jax.config import default_config, flat
from prefix_jax.decoding import GenerationConfig as Decoding
from prefix_jax.errors import one_line
from prefix_jax.training import session
from prefix_jax.training.trainer import prepare
from prefix_jax.tuning import METHODS
from tests import tiny

HUGE = "9" * 20
NASTY = "a\nb\x1b[31m\u202e" + "x" * 3000
TEXTS = ("~nouser", NASTY, "all,", "")
NUMBERS = (HUGE, f"-{HUGE}", "-1", "nan", "-inf", "2147483648", "0", "many")
OTHERS = (*TEXTS, *NUMBERS, "(1,'a')", "[]", f"({HUGE},)")


def values(name: str) -> tuple[str, ...]:
    kind = type(flat(default_config().to_dict())[name])
    return TEXTS if kind is str else NUMBERS if kind in (int, float, bool) else OTHERS


def prepared(word: str, config, workdir) -> None:
    """Does what `train --config.SECTION.OPTION=VALUE` does before the first step."""
    found, words = flags.FlagValues(), ["train", word]
    config_flags.DEFINE_config_dict("config", config, flag_values=found, sys_argv=words)
    with cli.user_errors():
        cli.parsed(lambda: found(words))
        config = found["config"].value
        Decoding.from_config(config.decoding)
        prepare(session.open_session(config), workdir, [])


@pytest.mark.parametrize("name", sorted(flat(default_config().to_dict())))
def test_an_option_is_refused_with_a_sentence_or_works(name, tiny_models, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PREFIX_JAX_CACHE", str(tmp_path / "cache"))
    section = name.split(".")[0]
    for number, value in enumerate(values(name)):
        config = tiny.configuration(tiny_models["gpt2"], tmp_path)
        config.training.update(steps=2, batch=4, tensorboard=False)
        config.method = section if section in METHODS else "prefix"
        try:
            prepared(f"--config.{name}={value}", config, tmp_path / str(number))
        except SystemExit as ended:
            assert ended.code == cli.BAD_INPUT
            said = capsys.readouterr().err
            *before, error, end = said.split("\n")
            assert error.startswith("error: ") and not end, said
            assert not any(line.startswith(("error", "Traceback")) for line in before), said
            assert error.isprintable() and len(error) < 2000, said


def test_messages_spell_out_what_a_terminal_would_obey_and_leave_out_the_middle():
    assert one_line("é 中\x1b[31m\na\u202eb") == "é 中\\x1b[31m\\na\\u202eb"
    assert one_line("x" * 10_000) == "x" * 1000 + " ... " + "x" * 500
