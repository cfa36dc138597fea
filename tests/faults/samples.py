"""Sound files of every kind that a reader of outside files reads: what the instrument damages."""

import csv
import functools
import gzip
import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests import tiny

CHAT = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}<s>assistant:"
SOURCE = "name : Place 1 | food : Thai | area : centre"


class Samples:
    """Builds each kind of sound folder once, below `root`, which a later process may use again."""

    def __init__(self, root: Path, models: Mapping[str, Path] | None = None) -> None:
        """`models`: tiny models of the families, if they are made already."""
        self.root, self._made = root, models

    @functools.cached_property
    def models(self) -> dict[str, Path]:
        from transformers import AutoTokenizer

        found = {name: self.root / "models" / name for name in ("gpt2", "llama", "t5")}
        if (self.root / "models").is_dir():
            return found
        for name, folder in found.items():
            shutil.copytree(self._made[name], folder) if self._made else tiny.save_model(folder, name)
        tokenizer = AutoTokenizer.from_pretrained(found["llama"])
        tokenizer.chat_template = CHAT
        tokenizer.save_pretrained(found["llama"])
        return found

    @functools.cached_property
    def session(self) -> Any:
        """A loaded session of the tiny GPT-2."""
        from prefix_jax.training import session

        return session.open_session(tiny.configuration(self.models["gpt2"], self.root))

    @functools.cached_property
    def chat_session(self) -> Any:
        from prefix_jax.training import session

        return session.open_session(tiny.configuration(self.models["llama"], self.root))

    @functools.cached_property
    def engine(self) -> Any:
        """A server's engine that checks requests and runs none."""
        from prefix_jax.decoding.bank import Kind
        from prefix_jax.serving.engine import Engine

        opened = self.session
        return Engine(opened.model, opened.base, slots=2, capacity=64, kind=Kind(8, False, False), prefixes=2)

    @functools.cached_property
    def run(self) -> Path:
        """A run directory with everything in it, scored and looked into."""
        import prefix_jax as pj
        from prefix_jax import inspect as command
        from prefix_jax.cli import call

        workdir = self.root / "run"
        if workdir.is_dir():
            return workdir
        lm = pj.load_model(self.models["gpt2"])
        rows = tiny.save_rows(self.root / "rows.jsonl", 24)
        options = {"training.batch": 4, "training.log_every": 1, "training.evaluate_every": 2, "data.task": "text"}
        options |= {"decoding.strategy": "greedy", "decoding.max_length": 4, "training.tensorboard": False}
        pj.tune(lm, str(rows), pj.Prefix(length=3, hidden=8), steps=4, workdir=workdir, options=options)
        self._evaluate(workdir)
        assert call(command.main, command.define_flags, [f"--workdir={workdir}", "--limit=2"]) == 0
        assert (workdir / "inspection.json").exists() and (workdir / "scores.json").exists()
        return workdir

    def _evaluate(self, workdir: Path) -> None:
        from prefix_jax import evaluate
        from prefix_jax.cli import call

        words = [f"--workdir={workdir}", "--split=test", "--limit=2", "--bare"]
        assert call(evaluate.main, evaluate.define_flags, words) == 0


def rows_of_samples() -> list[dict[str, str]]:
    return tiny.rows(12)


def model_configs(folder: Path, _: Samples) -> None:
    """A `config.json` of every kind of model, with transformers' defaults."""
    import transformers

    from prefix_jax.models.families import FAMILIES

    for family in FAMILIES.values():
        for kind in family.readers:
            try:
                config = transformers.AutoConfig.for_model(kind).to_dict()
            except ValueError:  # of no model of transformers: a part of one, or a name of ours
                continue
            config = {name: value for name, value in config.items() if value is not None}
            (folder / f"{kind}.json").write_text(json.dumps({**config, "model_type": kind}))


def copied(name: str) -> Callable[[Path, Samples], None]:
    """Files of a model's directory."""
    return lambda folder, samples: _copy(samples.models[name], folder)


def _copy(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder, dirs_exist_ok=True)


def sharded(folder: Path, samples: Samples) -> None:
    from safetensors.numpy import load_file, save_file

    _copy(samples.models["t5"], folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    places = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def torch_model(folder: Path, samples: Samples) -> None:
    import torch
    from safetensors.torch import load_file

    _copy(samples.models["gpt2"], folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def fp8(folder: Path, samples: Samples) -> None:
    """Llama with 8-bit floats and their scales."""
    import ml_dtypes
    from safetensors.numpy import load_file

    from prefix_jax.models.leaves import from_array
    from prefix_jax.models.pretrained import safetensors_file

    _copy(samples.models["llama"], folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        rows, columns = tensors[name].shape
        tensors[name] = tensors[name].astype(ml_dtypes.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = np.ones((-(-rows // 16), -(-columns // 16)), np.float32)
    safetensors_file.write(folder / "model.safetensors", {n: from_array(v) for n, v in tensors.items()}, {})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    (folder / "config.json").write_text(json.dumps(config))


def multimodal(folder: Path, samples: Samples) -> None:
    """Llama as the language model of another, in transformers' names."""
    from safetensors.numpy import load_file, save_file

    _copy(samples.models["llama"], folder)
    tensors = {f"language_model.{n}": v for n, v in load_file(folder / "model.safetensors").items()}
    save_file({**tensors, "vision_tower.x": np.ones(3, np.float32)}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    whole = {"model_type": "llava", "text_config": config, "vision_config": {}, "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(whole))


def gguf(folder: Path, _: Samples) -> None:
    import gguf as library

    from tests.models.pretrained.test_pretrained_formats import _small_gguf

    _small_gguf(library, "llama", folder)


def onnx(folder: Path, _: Samples) -> None:
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)

    def tensor(name: str, array: np.ndarray) -> Any:
        return numpy_helper.from_array(array, name)

    made = [
        tensor("shared.weight_quantized", rng.integers(0, 255, (9, 4)).astype(np.uint8)),
        tensor("shared.weight_scale", np.float32(0.1)),
        tensor("shared.weight_zero_point", np.uint8(128)),
        tensor("onnx::MatMul_1_quantized", rng.integers(0, 255, (4, 8)).astype(np.uint8)),
        tensor("onnx::MatMul_1_scale", np.ones(8, np.float32)),
        tensor("onnx::MatMul_1_zero_point", np.zeros(8, np.uint8)),
        tensor("norm.weight", np.ones(4, np.float32)),
    ]
    node = helper.make_node("MatMulInteger", ["x", "onnx::MatMul_1_quantized"], ["y"], "/block/q/MatMul_quant")
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 8])], made,
    )  # fmt: skip
    (folder / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())


def slow_tokenizer(folder: Path, samples: Samples) -> None:
    """GPT-2's two files, and what says how they are used."""
    inner = json.loads((samples.models["gpt2"] / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps({**inner["vocab"], "<|endoftext|>": len(inner["vocab"])}))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in inner["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 64, "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))


def pieces(folder: Path, _: Samples) -> None:
    """A SentencePiece model alone."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tiny.texts()), model_writer=model, vocab_size=120, hard_vocab_limit=False,
        minloglevel=2, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))


def pieces_alone(folder: Path, samples: Samples) -> None:
    """A SentencePiece model whose use nothing says."""
    pieces(folder, samples)
    (folder / "tokenizer_config.json").unlink()


def tuned(folder: Path, samples: Samples) -> None:
    _copy(samples.run / "tuned", folder / "tuned")


def collections(folder: Path, samples: Samples) -> None:
    import prefix_jax as pj

    lm = pj.load_model(samples.models["gpt2"])
    options = {"training.batch": 4, "training.tensorboard": False, "data.task": "text"}
    rows = tiny.save_rows(samples.root / "few.jsonl", 12)
    workdir = samples.root / "lora"
    if not workdir.exists():
        pj.tune(lm, str(rows), pj.LoRA(rank=2), steps=1, workdir=workdir, options=options)
    _copy(workdir / "tuned", folder / "tuned")


def _converted(folder: Path, samples: Samples, source: Path, target: str) -> None:
    from prefix_jax.convert import convert

    convert(str(source), target, str(folder), model=str(samples.models["gpt2"]), overwrite=True)


def peft_prefix(folder: Path, samples: Samples) -> None:
    _converted(folder, samples, samples.run, "peft")


def peft_lora(folder: Path, samples: Samples) -> None:
    inner = samples.root / "lora-files"
    if not inner.exists():
        collections(inner, samples)
    _converted(folder, samples, inner, "peft")


def peft_prompt(folder: Path, samples: Samples) -> None:
    import jax.numpy as jnp

    from prefix_jax.tuning.formats import peft_prompt as form

    tree = {"embeddings": jnp.ones((4, 32), jnp.float32)}
    for name, content in form.encode(tree, samples.session.model_config, {"name": "gpt2"}).items():
        (folder / name).write_bytes(content)


def of_adapters(folder: Path, samples: Samples) -> None:
    from prefix_jax.tuning.formats import adapters
    from tests.tuning.test_files import make

    model_config = samples.chat_session.model_config
    prefix = make(model_config, offset=0)
    for name, content in adapters.encode(prefix, model_config, {"name": "some/llama"}, "mine").items():
        (folder / name).write_bytes(content)


def original(folder: Path, samples: Samples) -> None:
    _converted(folder, samples, samples.run, "original")


def p_tuning(folder: Path, _: Samples) -> None:
    import torch

    width = 2 * 2 * 32
    tensors = {"prefix_encoder.embedding.weight": torch.randn(3, 32)}
    for index, (a, b) in ((0, (32, 5)), (2, (5, width))):
        tensors[f"prefix_encoder.trans.{index}.weight"] = torch.randn(b, a)
        tensors[f"prefix_encoder.trans.{index}.bias"] = torch.randn(b)
    torch.save(tensors, folder / "pytorch_model.bin")


def run_directory(folder: Path, samples: Samples) -> None:
    for name in ("config.json", "metrics.jsonl", "scores.json", "samples.jsonl", "inspection.json"):
        shutil.copy(samples.run / name, folder / name)
    _copy(samples.run / "tuned", folder / "tuned")


def sweep_rows(samples: Samples) -> list[Any]:
    """The rows of a sweep over prefix length and seed."""
    from prefix_jax.sweeping.rows import Row

    found = []
    for length in (1, 3):
        config = tiny.configuration(samples.models["gpt2"], samples.root)
        config.prefix.length = length
        found.append(Row(f"length={length}", {"prefix.length": length}, config))
    return found


def sweep_directory(folder: Path, samples: Samples) -> None:
    """A sweep's directory with a scored row and one that waits, as `SweepState` writes it."""
    from prefix_jax.sweeping.state import SweepState

    about = {"command": "python -m prefix_jax.sweep"}
    state = SweepState(folder, sweep_rows(samples), 2, {"split": "test", "limit": 2}, about)
    asked = state.asked(state.rows["length=1"])
    state.set("length=1", "scored", scores={"bleu": 1.5, "edits": 2.0}, asked=asked)
    state.set("length=3", "waiting")
    run = folder / "runs" / "length=1"
    run.mkdir(parents=True)
    run_directory(run, samples)
    config = {
        **json.loads((run / "config.json").read_text()),
        "config": json.loads(sweep_rows(samples)[0].config.to_json()),
    }
    (run / "config.json").write_text(json.dumps(config))


def _table(rows: list[dict[str, Any]], suffix: str) -> bytes:
    if suffix in (".csv", ".tsv"):
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]), delimiter="," if suffix == ".csv" else "\t")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue().encode()
    if suffix == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if suffix == ".json":
        return json.dumps({"data": rows}).encode()
    import pyarrow as pa
    import pyarrow.parquet

    table, sink = pa.Table.from_pylist(rows), io.BytesIO()
    if suffix == ".parquet":
        pyarrow.parquet.write_table(table, sink)
    else:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


def tables(folder: Path, _: Samples) -> None:
    """The same rows in every format of tables."""
    import pyarrow as pa

    rows: list[dict[str, Any]] = [{**row, "more": {"a": [1, None]}} for row in rows_of_samples()]
    for suffix in (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".arrow"):
        flat = [{k: v for k, v in row.items() if k != "more"} for row in rows]
        (folder / f"rows{suffix}").write_bytes(_table(flat if suffix in (".csv", ".tsv") else rows, suffix))
    text = _table(rows_of_samples(), ".jsonl")
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress(text))
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(text)
    (folder / "packed.jsonl.zst").write_bytes(sink.getvalue().to_pybytes())


def of_tasks(folder: Path, _: Samples) -> None:
    """A file of each task that has a form of its own."""
    dart = [{"tripleset": [["A", "born", "1923"]], "annotations": [{"source": "x", "text": "A was born in 1923."}]}] * 3
    (folder / "dart.json").write_text(json.dumps(dart))
    texts = [{"lex": "A was born in 1923.", "comment": "good", "lid": "Id1"}]
    triples = [{"subject": "A", "property": "born", "object": "1923"}]
    entry = {"category": "Person", "lexicalisations": texts, "modifiedtripleset": triples, "size": "1"}
    (folder / "webnlg.json").write_text(json.dumps({"entries": [{"1": entry}, {"2": entry}]}))
    asked = {"question": "Where?", "id": "1", "answers": [{"text": "here", "answer_start": 3}]}
    squad = {"data": [{"paragraphs": [{"context": "It is here.", "qas": [asked, {**asked, "id": "2"}]}]}]}
    (folder / "squad.json").write_text(json.dumps(squad))
    (folder / "e2e.txt").write_text("name : A | Type : pub||A is a pub .\n" * 3)
    (folder / "e2e.csv").write_text('mr,ref\n"name[A], eatType[pub]",A is a pub.\n"name[B]",B is.\n')
    (folder / "perplexity.txt").write_text("A text.\n\nAnother one.\n" * 4)
    labels = [{"text": f"text {i}", "label": i % 2, "source": f"s {i}", "target": str(i % 2)} for i in range(8)]
    (folder / "classification.jsonl").write_bytes(_table(labels, ".jsonl"))
    choices = [{"question": f"q {i}", "choices": ["a", "b"], "answer": i % 2} for i in range(4)]
    (folder / "multiple_choice.jsonl").write_bytes(_table(choices, ".jsonl"))
    (folder / "translation.jsonl").write_bytes(_table([{"translation": {"source": "a", "target": "b"}}] * 3, ".jsonl"))
    (folder / "gsm8k.jsonl").write_bytes(_table([{"question": "1+1", "answer": "2\n#### 2"}] * 3, ".jsonl"))


def talks() -> list[dict[str, Any]]:
    talk = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Where?"}]
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    return [
        {"messages": [*talk, {"role": "assistant", "content": "Here."}]},
        {"messages": [*talk, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "1"},
                      {"role": "assistant", "content": [{"type": "text", "text": "One."}]}], "tools": [{"name": "f"}]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}], "system": "x"},
        {"prompt": "A?", "response": "B.", "chat_template_kwargs": {"thinking": True}},
    ]  # fmt: skip


def conversations(folder: Path, samples: Samples) -> None:
    (folder / "talks.jsonl").write_bytes(_table(talks(), ".jsonl"))
    (folder / "template.jinja").write_text(CHAT)


def scored_rows(folder: Path, _: Samples) -> None:
    rows = [{"hypothesis": "a b c", "references": ["a b", "c"], "category": "X", "choices": ["a", "b"]}] * 3
    (folder / "rows.jsonl").write_bytes(_table(rows, ".jsonl"))


BODIES: Mapping[str, dict[str, Any]] = {
    "completions": {
        "model": "m", "prompt": ["name : A", "name : B"], "max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "n": 2,
        "seed": 3, "stop": ["x", "y"], "stream": True, "stream_options": {"include_usage": True}, "logprobs": 2,
        "echo": False, "top_k": 4, "min_tokens": 0, "user": "u",
    },
    "ids": {"model": "m", "prompt": [[3, 4], [5]], "raw": True, "echo": True, "logprobs": 0},
    "chat": {
        "model": "m", "messages": talks()[1]["messages"], "tools": [{"name": "f"}], "max_completion_tokens": 4,
        "logprobs": True, "top_logprobs": 2,
    },
    "load": {"lora_name": "a", "lora_path": "b"},
    "unload": {"lora_name": "a"},
}  # fmt: skip


def bodies(folder: Path, _: Samples) -> None:
    for name, body in BODIES.items():
        (folder / f"{name}.json").write_text(json.dumps(body))


def jobs(folder: Path, _: Samples) -> None:
    (folder / "job.json").write_text(json.dumps({"job": "12345", "cluster": "local"}))
