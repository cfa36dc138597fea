"""The declaration of a tuning method: its options, and what configuration, reports and sweeps know about it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prefix_jax.options import check_choice, check_range

if TYPE_CHECKING:
    from prefix_jax.tuning.method import Method

Section = Mapping[str, Any]
# Name, value and remark: a row of the facts in a report.
Fact = tuple[str, Any, str | None]


def _no_note(section: Section) -> str | None:
    return None


@dataclass(frozen=True)
class Declaration:
    """One row of the table of methods.

    Attributes:
      name: the word in `config.method`, and the name of the section of the configuration. It is stored in files, and so
        never changes.
      title: the name in reports, such as "Prefix tuning".
      section: returns the options with their defaults.
      build: `(model, section, init_token_ids) -> Method`; the ids are those of the words in `section.text`, if any.
      kind: `(section, share) -> str`, the name without its size in tables; `share` is the stored part of the model.
      label: `(section, share) -> str`, the name with its size, such as "LoRA, rank 8".
      ranges: for each key of `options.RANGES`, the options that must lie in the range.
      choices: the values of options that have a fixed set of them.
      sets: options that list names in any order.
      all_of: for some of `sets`, the names that "all" stands for.
      traced: options in which the members of one program may differ; "length" among them is a number of virtual tokens.
      axes: the ends of paths of trained arrays and their axes, as in `parallel.rules`; others are replicated.
      takes: the argument of the model that the method occupies ("prefix"); two such methods exclude each other.
      fused: whether the fused attention kernel has it.
      encoder_decoder: whether encoder-decoders can have it.
      changes_base: whether it replaces weights of the model.
      grows_by: the option in proportion to which its size grows, for counts given as a share of the model.
      examples: titles and options of the rows in the table that counts parameters. An option "method" names another
        value of `config.method`; "share" is a percentage of the model, set through `grows_by`.
      note: `section -> str | None`, a remark beside the title in a report.
      facts: `(section, saved) -> facts` of a report, where `saved` is the JSON of the saved prefix. None: one row that
        lists the options.
    """

    name: str
    title: str
    section: Callable[[], dict[str, Any]]
    build: "Callable[[Any, Any, Sequence[int]], Method]"
    kind: Callable[[Section, float], str]
    label: Callable[[Section, float], str]
    ranges: Mapping[str, Sequence[str]] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sets: tuple[str, ...] = ()
    all_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    traced: tuple[str, ...] = ()
    axes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    takes: str = ""
    fused: bool = True
    encoder_decoder: bool = True
    changes_base: bool = False
    grows_by: str = ""
    examples: tuple[tuple[str, Section], ...] = ()
    note: Callable[[Section], str | None] = _no_note
    facts: Callable[[Section, Section], list[Fact]] | None = None

    def check_ranges(self, section: Section) -> None:
        """Raises UserError if a number is out of its range."""
        for words, options in self.ranges.items():
            for option in options:
                check_range(f"{self.name}.{option}", section[option], words)

    def check_choices(self, section: Section) -> None:
        """Raises UserError if an option is not one of its choices."""
        for option, known in self.choices.items():
            check_choice(f"{self.name}.{option}", section[option], known)
