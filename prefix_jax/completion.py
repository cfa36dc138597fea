"""`prefix-jax completion bash|zsh|fish`

Prints a script that completes commands, options, and the names of recipes, tasks and methods. In bash and zsh:
`source <(prefix-jax completion bash)`; in fish: `prefix-jax completion fish | source`.
"""

import importlib
from collections.abc import Mapping, Sequence

from absl import flags

from prefix_jax import cli
from prefix_jax.errors import UserError, did_you_mean

_BASH = """\
_prefix_jax() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words
  [ "$word" = "=" ] && word=""
  [ "$before" = "=" ] && before="${{COMP_WORDS[COMP_CWORD-2]}}"
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{commands}" -- "$word"))
    return
  fi
  case "${{COMP_WORDS[1]}} $before" in
{values}
    *)
      case "${{COMP_WORDS[1]}}" in
{options}
      esac
      COMPREPLY=($(compgen -W "$words" -- "$word"))
      [ "${{word#-}}" = "$word" ] && COMPREPLY+=($(compgen -f -- "$word")) ;;
  esac
}}
complete -o filenames -F _prefix_jax prefix-jax
"""
_ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"


def define_flags() -> None:
    """Defines no flags: the command takes a word."""


def main(options: flags.FlagValues, words: list[str]) -> None:
    scripts = {"bash": bash, "zsh": lambda: _ZSH + bash(), "fish": fish}
    shell = words[0] if len(words) == 1 else ""
    if shell not in scripts:
        raise UserError(f"name one shell: bash, zsh or fish{did_you_mean(shell, tuple(scripts)) if shell else ''}")
    print(scripts[shell](), end="")


def bash() -> str:
    """Returns the script for bash."""
    commands = _commands()
    values = [
        f'    {pattern}) COMPREPLY=($(compgen -W "{" ".join(known)}" -- "$word") $(compgen -f -- "$word")) ;;'
        for pattern, known in _patterns().items()
    ]
    options = [
        f'        {name}) words="{" ".join(f"--{option}" for option in found)}" ;;' for name, found in commands.items()
    ]
    return _BASH.format(commands=" ".join(commands), values="\n".join(values), options="\n".join(options))


def fish() -> str:
    """Returns the script for fish."""
    from prefix_jax.__main__ import COMMANDS

    commands, values, own = _commands(), _values(), _own_values()
    lines = [
        f"complete -c prefix-jax -n __fish_use_subcommand -f -a {name} -d '{_quoted(COMMANDS[name][1])}'"
        for name in commands
    ]
    for name, found in commands.items():
        for option, about in found.items():
            found_values = own.get((name, option), values.get(option))
            known = f" -x -a '{' '.join(found_values)}'" if found_values else ""
            seen = f"-n '__fish_seen_subcommand_from {name}'"
            lines.append(f"complete -c prefix-jax {seen} -l {option} -d '{_quoted(about)}'{known}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("'", "\\'")


def _values() -> Mapping[str, Sequence[str]]:
    """Returns the known values of options."""
    from prefix_jax.tasks import TASKS
    from prefix_jax.tuning.methods import METHODS

    tasks = sorted(TASKS)
    return {"config": cli.recipes(), "task": tasks, "data": tasks, "method": list(METHODS)}


def _own_values() -> Mapping[tuple[str, str], Sequence[str]]:
    """Returns the known values of options that are other ones in a command than in the rest."""
    from prefix_jax.distillation.distill import METHODS

    return {("distill", "method"): METHODS}


def _patterns() -> dict[str, Sequence[str]]:
    """Returns the values by the shell's patterns of a command and an option; the first that fits counts."""
    own = {f'"{command} --{option}"': known for (command, option), known in _own_values().items()}
    return {**own, **{f'*" --{name}"': known for name, known in _values().items()}}


def _commands() -> dict[str, dict[str, str]]:
    """Returns the options of each command with what they are about."""
    from prefix_jax.__main__ import COMMANDS

    return {name: _options(f"prefix_jax.{module}") for name, (module, _) in COMMANDS.items()}


def _options(module: str) -> dict[str, str]:
    command = importlib.import_module(module)
    if hasattr(command, "__path__"):
        command = importlib.import_module(f"{module}.__main__")
    if not hasattr(command, "define_flags"):
        return {}  # another package's command line
    before = set(flags.FLAGS)
    command.define_flags()
    own = sorted(set(flags.FLAGS) - before)
    about = {name: flags.FLAGS[name].help or "" for name in own}
    flags.FLAGS.remove_flag_values({name: flags.FLAGS[name] for name in own})
    return about


if __name__ == "__main__":
    cli.run_with_arguments(main, define_flags)
