"""`python -m experiments.documents --workdir DIR`: recovery against compression; see README.md.

Writes `results.jsonl`, a line for each seed, method and length, and the table and plot of README.md from it. The same
command resumes; `--only_tables` writes the last two alone.
"""

import hashlib
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments.documents import report
from experiments.documents.facts import Document, Fact, document
from prefix_jax import cli
from prefix_jax.config import default_config
from prefix_jax.distillation import closed_form, distill, fidelity, framing, study
from prefix_jax.distillation import document as reading
from prefix_jax.distillation.fidelity import TEACHER
from prefix_jax.inference import write_texts
from prefix_jax.models.prefix import Prefix
from prefix_jax.training import run_directory
from prefix_jax.training.session import Session, open_session
from prefix_jax.tuning import TunedState


def define_flags() -> None:
    cli.define_path("workdir", "runs/documents", "Where runs are kept.")
    flags.DEFINE_string("model", "smollm2-135m", "The model.")
    flags.DEFINE_list("seeds", ["1"], "Of the documents.")
    flags.DEFINE_list("lengths", ["16", "32", "64", "128", "256"], "Slots.")
    flags.DEFINE_list("trained", ["16", "64", "256"], "Lengths that are trained too.")
    flags.DEFINE_integer("asked", 48, "Facts that each prefix is asked for, in generated text.")
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
    made = document(seed)
    trained = [int(length) for length in options.trained]
    base = _session(options, 1)
    frame = framing.framed(base, made.text, chat=False)
    session, teacher = _opened(base, frame, Path(options.workdir))
    facts = made.facts[:: max(1, len(made.facts) // options.asked)][: options.asked]
    done = {(line["seed"], line["method"], line["length"]) for line in report.read()}
    wanted = [(TEACHER, 0), ("bare", 0), *((m, int(n)) for n in options.lengths for m in report.STARTS)]
    wanted += [("train", length) for length in trained]
    left = [(method, length) for method, length in wanted if (seed, method, length) not in done]
    sets = _answers(session, made, Path(options.workdir) / f"facts-{seed}")
    for method, length, prefix, more in _prefixes(options, made, session, teacher, frame.ids, left, seed):
        students = {} if method == TEACHER else {method: prefix}
        found = fidelity.measure(session, teacher, students, sets, rows=8)[method]
        exact = _exact(session, prefix, facts)
        line = {"seed": seed, "method": method, "length": length, "tokens": len(frame.ids), **found._asdict()}
        report.add({**line, "exact": exact, "facts": len(made.facts), "asked": len(facts), **more, **_about(options)})


def _about(options: flags.FlagValues) -> dict[str, Any]:
    return {
        "model": options.model,
        "commit": run_directory.commit(),
        "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _session(options: flags.FlagValues, length: int) -> Session:
    config = default_config()
    config.model.source = options.model
    changes = {"training.steps": options.steps, "optimizer.learning_rate": options.learning_rate}
    changes |= {"training.tensorboard": False, "training.checkpoint_every": 20, "training.log_every": 5}
    return open_session(distill.configured(config, distill.Options(length=length), changes))


def _opened(session: Session, frame: framing.Frame, folder: Path) -> tuple[Session, Prefix]:
    ids = np.asarray(frame.ids, np.int32)
    after = session.of(distill.with_document(session.config, frame, len(ids), folder))
    return after, reading.read(session.model, session.base, ids)


def _answers(session: Session, made: Document, folder: Path) -> Any:
    """Returns the token ids of all facts' questions and answers."""
    rows = [{"number": i, "source": f.question, "target": f"{f.answer}."} for i, f in enumerate(made.facts)]
    distill.write_study_splits(folder, {"test": rows})
    config = session.config.copy_and_resolve_references()
    config.data.path = str(folder / distill.STUDY)
    return distill.token_ids(session.of(config), "test")


Line = tuple[str, int, Prefix | None, Mapping[str, Any]]


def _prefixes(
    options: flags.FlagValues,
    made: Document,
    session: Session,
    teacher: Prefix,
    ids: list[int],
    left: list[tuple[str, int]],
    seed: int,
) -> Iterator[Line]:
    """Yields method, length, prefix, and what else is known of each that is left to measure."""
    queries = None
    for method, length in left:
        start = time.perf_counter()
        if method in (TEACHER, "bare"):
            yield method, length, teacher if method == TEACHER else None, {}
        elif method == "first":
            yield method, length, reading.first(teacher, length), {}
        elif method == "chunks":
            yield method, length, reading.spread(teacher, length), {}
        elif method == "closed_form":
            if queries is None:
                again = study.chunks(ids, distill.Options().reread)
                queries = reading.queries(session.model, session.base, teacher, again, distill.Options().queries)
            prefix, errors = closed_form.compress(teacher, queries, length)
            seconds = round(time.perf_counter() - start, 1)
            means = {name: float(part.mean()) for name, part in errors._asdict().items()}
            yield method, length, prefix, {"seconds": seconds, "errors": means}
        else:
            chosen = distill.Options(length=length, method="train", held_out=16, chat=False, asking=_ASKING)
            asked = [question for fact in made.facts for question in fact.training]
            rest = sorted(asked, key=lambda question: hash_of(question))
            folder = Path(options.workdir) / f"train-{seed}-{length}"
            config = _session(options, length).config
            found = distill.distill(session.of(config), made.text, folder, chosen, cli.command_line(), rest)
            more = {"seconds": round(time.perf_counter() - start, 1), "steps": options.steps}
            yield method, length, found.prefix, {**more, "learning_rate": options.learning_rate, "questions": len(rest)}


_ASKING = study.Asking(answer_tokens=16)


def hash_of(text: str) -> str:
    """Returns a hash by which questions are put in an order of no meaning."""
    return hashlib.sha256(text.encode()).hexdigest()


def _exact(session: Session, prefix: Prefix | None, facts: tuple[Fact, ...]) -> float:
    """Returns the share of answers that hold the fact's words, of greedy texts."""
    config = session.config.copy_and_resolve_references()
    config.decoding.update(strategy="greedy", max_length=16)
    kept = None if prefix is None else TunedState(prefix)
    texts = write_texts(session.of(config), kept, [fact.question for fact in facts], progress=False, where="")
    return sum(fact.answer.lower() in text.lower() for fact, text in zip(facts, texts, strict=True)) / len(facts)


if __name__ == "__main__":
    cli.run(main, define_flags)
