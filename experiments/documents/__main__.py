"""`python -m experiments.documents --workdir DIR`: recovery against compression; see README.md.

Writes `results.jsonl`, a line for each seed, method and length, and the table and plot of README.md from it. The same
command resumes; `--only_tables` writes the last two alone.
"""

import dataclasses
import functools
import hashlib
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.documents import report
from experiments.documents.facts import Fact, document
from prefix_jax import cli
from prefix_jax.config import Config, default_config
from prefix_jax.distillation import closed_form, distill, fidelity, framing, study
from prefix_jax.distillation import document as reading
from prefix_jax.distillation.fidelity import TEACHER
from prefix_jax.inference import write_texts
from prefix_jax.models.prefix import Prefix, PrefixKV
from prefix_jax.training import run_directory
from prefix_jax.training.session import Session, open_session
from prefix_jax.tuning import TunedState
from prefix_jax.workdir import write_study

# Answers are short.
ASKING = study.Asking(answer_tokens=16)


def define_flags() -> None:
    cli.define_path("workdir", "runs/documents", "Where runs are kept.")
    flags.DEFINE_string("model", "smollm2-135m", "The model.")
    flags.DEFINE_list("seeds", ["1"], "Of the documents.")
    flags.DEFINE_list("lengths", ["16", "32", "64", "128", "256"], "Slots.")
    flags.DEFINE_list("trained", ["16", "64", "256"], "Lengths that are trained too.")
    flags.DEFINE_integer("asked", 48, "Facts that each prefix is asked for.")
    flags.DEFINE_integer("steps", 60, "Of training.")
    flags.DEFINE_float("learning_rate", 1e-2, "Of training.")
    flags.DEFINE_boolean("only_tables", False, "Whether only the tables and the plot are written.")


def main(options: flags.FlagValues) -> None:
    cli.enable_compile_cache()
    if not options.only_tables:
        for seed in map(int, options.seeds):
            _measure(options, seed)
    report.write()


def _measure(options: flags.FlagValues, seed: int) -> None:
    done = {(line["seed"], line["method"], line["length"]) for line in report.read()}
    wanted = [(TEACHER, 0), ("bare", 0), *((m, int(n)) for n in options.lengths for m in report.STARTS)]
    wanted += [("train", int(length)) for length in options.trained]
    left = [one for one in wanted if (seed, *one) not in done]
    if not left:
        return
    case = Case(options, seed)
    widest = max(int(length) for length in [*options.lengths, *options.trained])
    for group in _groups(left):
        made = {one: case.prefix(*one) for one in group}
        # All with the same shape, which is one program.
        students = {name(*one): _padded(prefix, widest) for one, (prefix, _) in made.items() if one[0] != TEACHER}
        found = fidelity.measure(case.session, case.teacher, students, case.answers, rows=8)
        for (method, length), (prefix, more) in made.items():
            own = students.get(name(method, length), prefix)
            line = {"seed": seed, "method": method, "length": length, "tokens": len(case.ids)}
            line |= {**found[name(method, length)]._asdict(), "exact": _exact(case.session, own, case.facts)}
            counts = {"facts": len(case.facts), "questions": len(case.asked)}
            report.add({**line, **counts, **more, **_about(options)})


def name(method: str, length: int) -> str:
    return method if method == TEACHER else f"{method} {length}"


def _groups(left: Sequence[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    """Returns what is measured together, so that the teacher is asked once: all but trained prefixes, then each."""
    plain, trained = [one for one in left if one[0] != "train"], [one for one in left if one[0] == "train"]
    return [*([plain] if plain else []), *([one] for one in trained)]


def _padded(prefix: Prefix | None, slots: int) -> Prefix | None:
    """Returns a prefix with closed slots after its own, which no query sees."""
    if prefix is None or prefix.decoder is None:
        return None
    site = prefix.decoder
    more = slots - site.key.shape[2]
    bias = jnp.zeros(site.key.shape[:3]) if site.bias is None else site.bias
    widened = [jnp.pad(part, ((0, 0), (0, 0), (0, more), (0, 0))) for part in (site.key, site.value)]
    closed = jnp.pad(bias, ((0, 0), (0, 0), (0, more)), constant_values=-jnp.inf)
    return dataclasses.replace(prefix, decoder=PrefixKV(widened[0], widened[1], closed))


def _about(options: flags.FlagValues) -> dict[str, Any]:
    return {
        "model": options.model,
        "commit": run_directory.commit(),
        "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _config(options: flags.FlagValues, length: int) -> Config:
    config = default_config()
    config.model.source = options.model
    changes = {"training.steps": options.steps, "optimizer.learning_rate": options.learning_rate}
    changes |= {"training.tensorboard": False, "training.checkpoint_every": 20, "training.log_every": 5}
    return distill.configured(config, distill.Options(length=length), changes)


class Case:
    """A document with its teacher, the answers that measure, and the teacher's answers to other questions."""

    def __init__(self, options: flags.FlagValues, seed: int):
        self.options, self.seed, self.made = options, seed, document(seed)
        base = open_session(_config(options, 2))
        frame = framing.framed(base, self.made.text, chat=False)
        self.ids = frame.ids
        folder = Path(options.workdir) / f"document-{seed}"
        self.session = base.of(distill.with_document(base.config, frame, len(frame.ids), folder))
        self.teacher = reading.read(base.model, base.base, np.asarray(frame.ids, np.int32))
        self.facts = self.made.facts[:: max(1, len(self.made.facts) // options.asked)][: options.asked]
        gold = [{"source": fact.question, "target": f"{fact.answer}."} for fact in self.facts]
        every = [question for fact in self.made.facts for question in fact.training]
        # In an order of no meaning.
        self.given = sorted(every, key=lambda text: hashlib.sha256(text.encode()).hexdigest())
        self.asked = study.rows(
            self.session, self.teacher, self.made.text, len(every), ASKING, folder, self.given, progress=False
        )
        distill.write_study_splits(folder, {"test": gold, "train": self.asked})
        self.answers = distill.token_ids(self.session, "test")

    @functools.cached_property
    def queries(self) -> Mapping[str, np.ndarray]:
        """Queries of the questions and their answers, of reading the document again, and of half of each."""
        asked, parts = distill.token_ids(self.session, "train"), study.chunks(self.ids, distill.Options().reread)
        texts = {"asked": distill.whole(asked), "reread": parts}
        opened, most = self.session, distill.Options().queries
        found = {n: reading.queries(opened.model, opened.base, self.teacher, t, most) for n, t in texts.items()}
        return {**found, "closed_form": np.concatenate([found[n][:, :, ::2] for n in ("reread", "asked")], 2)}

    def prefix(self, method: str, length: int) -> tuple[Prefix | None, Mapping[str, Any]]:
        """Returns the prefix of a method, and what else is known of it."""
        if method in (TEACHER, "bare"):
            return self.teacher if method == TEACHER else None, {}
        if method in ("first", "chunks"):
            return {"first": reading.first, "chunks": reading.spread}[method](self.teacher, length), {}
        if method != "train":
            start = time.perf_counter()
            prefix, errors = closed_form.compress(self.teacher, self.queries[method], length)
            means = {part: float(error.mean()) for part, error in errors._asdict().items()}
            return prefix, {"errors": means, "seconds": round(time.perf_counter() - start, 1)}
        chosen = distill.Options(length=length, method="train", held_out=16, chat=False, asking=ASKING)
        folder = Path(self.options.workdir) / f"train-{self.seed}-{length}"
        write_study(folder, self.asked)
        session = self.session.of(_config(self.options, length))
        found = distill.distill(session, self.made.text, folder, chosen, cli.command_line(), self.given)
        return found.prefix, {"steps": self.options.steps, "learning_rate": self.options.learning_rate}


def _exact(session: Session, prefix: Prefix | None, facts: tuple[Fact, ...]) -> float:
    """Returns the share of answers that hold the fact's words, of greedy texts."""
    config = session.config.copy_and_resolve_references()
    config.decoding.update(strategy="greedy", max_length=16)
    kept = None if prefix is None else TunedState(prefix)
    texts = write_texts(session.of(config), kept, [fact.question for fact in facts], progress=False, where="")
    return sum(fact.answer.lower() in text.lower() for fact, text in zip(facts, texts, strict=True)) / len(facts)


if __name__ == "__main__":
    cli.run(main, define_flags)
