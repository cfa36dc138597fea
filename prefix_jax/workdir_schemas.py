"""Schemas of the JSON files of run directories and sweeps, of this version and of earlier ones (see `schema`)."""

from typing import Any, NotRequired, TypedDict

from prefix_jax.schema import Size, matching, within

Numbers = dict[str, float | None]
Matrix = list[list[float]]
# A folder of a sweep's `runs/`.
Directory = matching(r"^runs/(?!\.{1,2}$)[^/\\]+$")
Decimals = within(0, 20)
Count = within(1, 2**50)


class Config(TypedDict):
    """`config.json` of a run."""

    config: dict[str, Any]
    command: NotRequired[str]
    started: NotRequired[str]
    batch_shape: NotRequired[list[Size]]
    commit: NotRequired[str | None]
    platform: NotRequired[str]
    versions: NotRequired[dict[str, str]]
    parameters: NotRequired[dict[str, Size]]
    model: NotRequired[dict[str, str | None]]
    tokenizer: NotRequired[str | None]
    inputs: NotRequired[dict[str, dict[str, str]]]
    audit: NotRequired[dict[str, Any]]


class Finding(TypedDict):
    """What speaks against a run."""

    finding: NotRequired[str]
    detail: str


class Question(TypedDict):
    """A line of `questions.jsonl`."""

    number: int
    source: str
    target: str


class Distillation(TypedDict):
    """`distillation.json`."""

    document: dict[str, Any]
    model: dict[str, Any]
    asking: dict[str, Any]
    given: str
    method: NotRequired[str]


class About(TypedDict):
    """A metric that is not a built-in task's."""

    decimals: Decimals
    higher_is_better: bool
    largest: NotRequired[float | None]


class Forgetting(TypedDict):
    """The losses of a plain text, bare and tuned."""

    change: float
    file: NotRequired[str]
    checksum: NotRequired[str]
    tokens: NotRequired[int]
    loss_bare: NotRequired[float]
    loss_tuned: NotRequired[float]


class Scores(TypedDict):
    """A split's entry of `scores.json`."""

    task: NotRequired[str]
    tuned: NotRequired[Numbers]
    bare: NotRequired[Numbers | None]
    metrics: NotRequired[dict[str, About]]
    prefix: NotRequired[str | None]
    inputs: NotRequired[dict[str, str]]
    seconds: NotRequired[dict[str, float]]
    unscored: NotRequired[dict[str, Any]]
    scoring: NotRequired[dict[str, Any]]
    decoding: NotRequired[dict[str, Any]]
    not_measured: NotRequired[dict[str, str]]
    signatures: NotRequired[dict[str, str]]
    details: NotRequired[dict[str, dict[str, Any]]]
    forgetting: NotRequired[Forgetting]
    verdict: NotRequired[list[Finding]]
    command: NotRequired[str]


class Sample(TypedDict):
    """A row of `samples.jsonl`."""

    source: str
    split: NotRequired[str]
    id: NotRequired[str | int]
    references: NotRequired[list[str]]
    choices: NotRequired[list[str]]
    tuned: NotRequired[str | None]
    bare: NotRequired[str | None]
    likelihoods: NotRequired[dict[str, Any]]


class Head(TypedDict):
    """An attention head of `inspection.json`."""

    layer: Size
    head: Size
    share: float
    slots: Size
    queries: list[str]
    keys: list[str]
    weights: Matrix


class Place(TypedDict):
    """A place of a text, with the likeliest next words."""

    token: str
    change: float
    bare: list[tuple[str, float]]
    tuned: list[tuple[str, float]]


class Parameters(TypedDict):
    """Parameter counts: trained, stored and of the model by method; curves over "length"."""

    by_method: NotRequired[dict[str, tuple[Count, Count, Count]]]
    by_length: NotRequired[dict[str, list[Count]]]


class Inspection(TypedDict):
    """`inspection.json`."""

    change: float
    changed_words: float
    tokens: NotRequired[Size]
    records: NotRequired[Size]
    split: NotRequired[str]
    source: NotRequired[str]
    target: NotRequired[str]
    against: NotRequired[str]
    command: NotRequired[str]
    prefix_share: NotRequired[dict[str, Matrix]]
    change_by_place: NotRequired[list[float]]
    attention: NotRequired[dict[str, Head]]
    parameters: NotRequired[Parameters]
    next_words: NotRequired[list[Place]]
    nearest_words: NotRequired[list[list[str]]]
    distance: NotRequired[dict[str, dict[str, dict[str, list[float]]]]]


class SweepRow(TypedDict):
    """A row of `sweep.json`; its directory is below the sweep's."""

    name: str
    options: dict[str, Any]
    directory: Directory
    status: str
    config: NotRequired[dict[str, Any]]
    scores: NotRequired[Numbers]
    asked: NotRequired[dict[str, Any]]
    error: NotRequired[str]
    verdict: NotRequired[list[Finding]]


class Sweep(TypedDict):
    """`sweep.json`."""

    rows: NotRequired[list[SweepRow]]
    groups: NotRequired[list[list[str]]]
    split: NotRequired[str]
    limit: NotRequired[Size]
    command: NotRequired[str]
