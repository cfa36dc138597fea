"""What was tuned: text, scores, history, attention, and files."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefix_jax import inference, inspection, sharing
from prefix_jax.api.configuring import user_errors
from prefix_jax.api.language_model import LanguageModel, chat, evaluate, facts_of, generate, name_of, stream
from prefix_jax.api.results import AttentionMaps, History, Plot, Scores, facts_table
from prefix_jax.disk import write_text
from prefix_jax.errors import UserError
from prefix_jax.evaluation import forgetting
from prefix_jax.models import prefix as pytree
from prefix_jax.training.session import Session
from prefix_jax.tuning import TunedState, declared, store
from prefix_jax.workdir import CHECKPOINTS, METRICS, TUNED, read_scores, write_config


class Tuned:
    """A frozen model with what was tuned for it, as `tune` and `load` return it.

    Attributes:
      workdir: the run directory; None where it was temporary.
      record: what `config.json` says of the run; empty where there is none.

    >>> tuned
    Tuned('tiny-gpt2', prefix, 384 numbers, 4 steps)
    >>> len(tuned.generate([source for source, target in pairs[:2]], max_length=4))
    2
    """

    def __init__(
        self,
        session: Session,
        kept: TunedState,
        *,
        history: History | None = None,
        record: Mapping[str, Any] | None = None,
        workdir: Path | None = None,
        step: int = 0,
        merged: bool = False,
    ):
        self._session, self._kept, self._lines = session, kept, history or History()
        self.record, self.workdir, self._step, self._merged = dict(record or {}), workdir, step, merged

    @classmethod
    def from_prefix(cls, lm: LanguageModel, prefix: pytree.Prefix) -> "Tuned":
        """Returns a model with a prefix of your own making (see `prefix_jax.prefix`), to be used and saved as a tuned
        one.

        >>> own = pj.Tuned.from_prefix(lm, tuned.prefix)
        >>> text, how = pairs[0][0], {"strategy": "greedy", "max_length": 4}
        >>> own.generate(text, **how) == tuned.generate(text, **how)
        True
        """
        pytree.check(prefix, lm.config)
        return cls(lm._session, TunedState(prefix))

    @property
    def model(self) -> Any:
        """The network, a Flax module: `model.apply(variables, tokens, prefix=prefix)`."""
        return self._session.model

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes first: the frozen parameters, and the collections that the method keeps."""
        return self._kept.onto(self._session.base)

    @property
    def prefix(self) -> pytree.Prefix | None:
        """The prefix that `model.apply` takes; None for methods without one."""
        return self._kept.prefix

    @property
    def lm(self) -> LanguageModel:
        """The frozen model alone."""
        return LanguageModel(self._session)

    @property
    def options(self) -> dict[str, Any]:
        """The configuration, as nested dictionaries."""
        return self._session.config.to_dict()

    @property
    def history(self) -> Any:
        """The lines of the run's metrics: a pandas DataFrame, or where pandas is not installed, a `History`."""
        return self._lines.frame()

    def plot(self, name: str = "loss") -> Plot:
        """Returns a plot of a column of the history against the step.

        Raises:
          UserError: there is no such column, as where what was tuned comes without its run's metrics.
        """
        return self._lines.plot(name)

    def generate(self, texts: str | Sequence[str], *, progress: bool = False, **options: Any) -> Any:
        """Returns the model's text for a source, or a list of them for a list.

        Args:
          texts: sources, as those of the training data, or rows as mappings with the columns of these.
          progress: whether to show a progress bar.
          **options: of the section `decoding`, such as `strategy="greedy"`, `beams=5` and `max_length=60`.

        Raises:
          UserError: a text is empty or too long, or an option is out of its range.

        >>> isinstance(tuned.generate(pairs[0][0], strategy="greedy", max_length=4), str)
        True
        """
        return generate(self._session, self._kept, texts, progress, options)

    def stream(self, text: str, **options: Any) -> Iterator[str]:
        """Yields the model's text for a source piece by piece, as it is generated.

        Args:
          text: the source.
          **options: of the section `decoding`; the strategy is greedy unless it is `sample`.

        Raises:
          UserError: the text is empty or too long, or an option cannot be used in a stream, as beam search.

        >>> text, how = pairs[0][0], {"strategy": "greedy", "max_length": 6}
        >>> "".join(tuned.stream(text, **how)) == tuned.generate(text, **how)
        True
        """
        return stream(self._session, self._kept, text, options)

    def chat(self, messages: Any, *, stream: bool = False, **options: Any) -> Any:
        """Returns the model's next message of a conversation, by the chat template of its tokenizer.

        Args:
          messages: mappings with "role" and "content"; or a text, the user's first message.
          stream: whether to yield the message piece by piece.
          **options: of the section `decoding`; the strategy is greedy unless it is `sample`.

        Raises:
          UserError: the model has no chat template, or the conversation is too long.
        """
        return chat(self._session, self._kept, messages, stream, options)

    def evaluate(self, data: Any = None, *, metrics: Sequence[str] = (), **options: Any) -> Scores:
        """Returns the scores of the task's metrics, by name; `lm.evaluate` returns those of the bare model.

        Pairs with the same source are one input with several references.

        Args:
          data: pairs and the like (see `tune`), a file, a task's name, or one of train, validation and test: a split
            of the run's own data. None: its test split. Of a task of plain text: a file, or a list of texts.
          metrics: names of metrics, or paths of modules with your own; none: the task's.
          **options: of the section `decoding`.

        Raises:
          UserError: the data are missing or hold no pairs, or a scorer is unavailable.

        >>> tuned.evaluate(test_pairs, strategy="greedy", max_length=8)["BLEU"] >= 0
        True
        """
        return evaluate(self._session, self._kept, data, metrics, options)

    def forgetting(self, texts: str | Sequence[str]) -> dict[str, Any]:
        """Returns how much worse plain text is predicted with what was tuned than without, as `evaluate --forgetting`.

        Args:
          texts: plain text without the task; of several texts, each is read on its own.

        Returns:
          `change`, the difference of the losses in nats per token, and loss, perplexity and bits per byte of both.

        Raises:
          UserError: there is too little text, or the model's outputs are not finite.

        >>> found = tuned.forgetting("The harbour was quiet, and the shops were closed.")
        >>> found["change"] == found["loss_tuned"] - found["loss_bare"]
        True
        """
        return forgetting.measure(self._session, self._kept, texts)

    def attention(self, text: str, target: str | None = None) -> AttentionMaps:
        """Returns the attention weights of a text, by site.

        Args:
          text: the source.
          target: text that follows it; None: what the model generates.

        >>> tuned.attention(pairs[0][0], pairs[0][1])["decoder"].prefix_share().shape
        (2, 4)
        """
        return AttentionMaps(inspection.attention(self._session, self._kept, text, target))

    def next_words(self, text: str, target: str, count: int = 3) -> list[inspection.Place]:
        """Returns the likeliest next tokens of the tuned and the bare model at each token of a target, and how far
        their distribution moves, in nats.

        >>> place = tuned.next_words(*pairs[0], count=1)[0]
        >>> place.change >= 0, len(place.tuned)
        (True, 1)
        """
        return inspection.next_words(self._session, self._kept, text, target, count)

    def merge(self) -> "Tuned":
        """Returns the model with LoRA's updates merged into copies of its matrices: as fast as the bare model.

        A prefix or an adapter stays. What is merged cannot be saved.

        Raises:
          UserError: nothing of LoRA was tuned, or the weights have 8 bits.
        """
        found = inference.with_merged_lora(inference.Tuned(self._session, self._kept, None))
        return Tuned(
            found.session,
            found.kept,
            history=self._lines,
            record=self.record,
            workdir=self.workdir,
            step=self._step,
            merged=True,
        )

    def save(self, path: str | os.PathLike) -> Path:
        """Writes a run directory, which `load` and the commands read, and returns its path.

        It holds `tuned/`, and `config.json` and `metrics.jsonl` of the run.

        Raises:
          UserError: the folder holds the checkpoints of another run, LoRA was merged, or the disk is full.

        >>> folder = tuned.save(tmp / "saved")
        >>> pj.load(folder, lm).generate(pairs[0][0]) == tuned.generate(pairs[0][0])
        True
        """
        folder = Path(path)
        if (folder / CHECKPOINTS).exists() and folder.resolve() != (self.workdir or folder / ".").resolve():
            raise UserError(f"{folder} holds a run with its checkpoints; name another folder")
        with user_errors():
            self._write_tuned(folder)
            if self.record:
                write_config(folder, self.record)
            if self._lines and folder.resolve() != (self.workdir or Path()).resolve():
                self._write_metrics(folder)
        return folder

    def to_peft(self, path: str | os.PathLike, overwrite: bool = False) -> Path:
        """Writes what was tuned as an adapter of PEFT, and returns its path: LoRA, prompts, decoder-only prefixes.

        Raises:
          UserError: PEFT has no such thing, or the folder is not empty.

        >>> sorted(file.name for file in tuned.to_peft(tmp / "peft").iterdir())
        ['adapter_config.json', 'adapter_model.safetensors']
        """
        from prefix_jax.convert import convert

        with tempfile.TemporaryDirectory() as folder, user_errors():
            self._write_tuned(Path(folder))
            convert(folder, "peft", os.fspath(path), overwrite=overwrite)
        return Path(path)

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool = False,
        token: str | None = None,
        scores: Mapping[str, float] | None = None,
        base_model: str = "",
        license: str = "",
    ) -> str:
        """Uploads what was tuned to the Hugging Face hub, and returns the address of its repository.

        The repository holds a card, files for `load`, and PEFT's files for LoRA, prompts and decoder-only prefixes. The
        card has the scores of the run directory's `scores.json`.

        Args:
          repo: "user/name", created if it is absent; files of an earlier upload are replaced.
          private: whether only its owner may see it.
          token: None: `$HF_TOKEN`, or the one that `hf auth login` stored.
          scores: what `evaluate` returned for the test split, for the card.
          base_model: the base model's name on the hub, if it was loaded from a directory.
          license: as the hub names it, such as "apache-2.0"; empty: that of the base model.

        Raises:
          UserError: the hub does not know the token or refuses it, cannot be reached or fails; LoRA was merged.
        """
        run = self._shared()
        if scores is not None:
            run = sharing.with_scores(run, "test", scores, len(getattr(scores, "texts", ())))
        return sharing.publish(run, repo, private=private, token=token, base=base_model, license=license)

    def _shared(self) -> sharing.Run:
        """Returns what is shared.

        Raises:
          UserError: LoRA was merged.
        """
        self._check_whole()
        session = self._session
        about = {"method": session.config.method, "step": self._step, "config": session.config.to_dict()}
        meta = {"model": session.pretrained.identity, **about}
        scores = read_scores(self.workdir) if self.workdir else {}
        return sharing.Run(self._kept, meta, session.model_config, self.record, list(self._lines), scores)

    def _check_whole(self) -> None:
        if self._merged:
            raise UserError("merged updates cannot be saved; save what was tuned before it is merged")

    def _write_tuned(self, folder: Path) -> None:
        self._check_whole()
        session = self._session
        extra = {"method": session.config.method, "step": self._step, "config": session.config.to_dict()}
        store.save(folder / TUNED, self._kept, session.pretrained.identity, session.model_config, extra)
        names = store.encode(self._kept, session.pretrained.identity, session.model_config, extra)
        for old in (folder / TUNED).glob("*"):  # of what was there before
            if old.name not in names and old.suffix in (".json", ".safetensors"):
                old.unlink()

    def _write_metrics(self, folder: Path) -> None:
        write_text(folder / METRICS, self._lines.text())

    def _facts(self) -> list[tuple[str, object]]:
        rows = [(title, value) for title, value in facts_of(self._session)]
        titles = " and ".join(method.title for method in declared(self._session.config.method).values())
        rows += [("Method", titles), ("Numbers kept", f"{self._kept.count():,}"), ("Steps", f"{self._step:,}")]
        last = {name: value for line in self._lines for name, value in line.items()}
        names = {"loss": "Loss", "validation_loss": "Validation loss"}
        return rows + [(title, f"{last[name]:.4g}") for name, title in names.items() if name in last]

    def __repr__(self) -> str:
        found = f"{name_of(self._session)!r}, {self._session.config.method}, {self._kept.count():,} numbers"
        return f"Tuned({found}, {self._step:,} steps{', merged' if self._merged else ''})"

    def _repr_html_(self) -> str:
        plot = self._lines.plot().svg if any("loss" in line for line in self._lines) else ""
        return f"{facts_table(self._facts(), repr(self))}{plot}"
