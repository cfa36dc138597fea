"""What a session makes of the options of a model, and what it says of the data it reads."""

import io
import re

import pytest

from prefix_jax.config import default_config
from prefix_jax.data import hub
from prefix_jax.training import selection, session


def test_attention_for_tpus_is_plain_elsewhere_and_says_so(tiny_models, capsys):
    config = default_config()
    config.model.update(source=str(tiny_models["gpt2"]), attention="fused")
    assert not session.open_session(config).model.kernel
    assert (
        "model.attention=fused is a kernel for TPUs and NVIDIA GPUs from Ampere on; on this cpu attention is plain."
        in capsys.readouterr().err
    )


def rows_in(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, count in files.items():
        rows = [f'{{"source": "{name} {row}", "target": "b"}}\n' for row in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(rows))
    config = default_config()
    config.data.update(task="text", path=str(folder))
    return config


def test_what_is_read_is_said_once(tmp_path, capsys):
    config = rows_in(tmp_path, train_0=3, train_1=4, test=2)
    for _ in range(2):
        selection.text_pairs(config, "train")
        selection.text_pairs(config, "test")
        selection.text_inputs(config, "test")
    assert capsys.readouterr().err == (
        f"train: 7 records of 2 files in {tmp_path} (train_0.jsonl, train_1.jsonl)\n"
        f"test: 2 records of 1 file ({tmp_path}/test.jsonl)\n"
    )


def test_that_one_file_is_divided_is_said(tmp_path, capsys):
    config = rows_in(tmp_path, rows=20)
    config.data.path = str(tmp_path / "rows.jsonl")
    selection.text_inputs(config, "validation")
    assert capsys.readouterr().err == (
        f"validation: 2 records of 1 file ({tmp_path}/rows.jsonl), which names no split: 20 records divided 80/10/10 "
        "by a hash of the source\n"
    )


def test_the_embedded_set_is_said(capsys):
    selection._say_once.cache_clear()
    selection.text_inputs(default_config(), "validation")
    assert re.fullmatch(r"validation: \d+ records \(200 inputs\) of the embedded set\n", capsys.readouterr().err)


def test_the_hub_and_rows_left_out_are_said(monkeypatch, capsys):
    rows = [{"document": "a", "summary": "b"}, {"document": "", "summary": "c"}]
    monkeypatch.delenv("PREFIX_JAX_DATA", raising=False)
    monkeypatch.setattr(hub, "_load", lambda name, configuration, split: (rows, "a1" * 20))
    config = default_config()
    config.data.task = "xsum"
    selection.text_pairs(config, "train")
    assert capsys.readouterr().err == (
        f"train: 1 record of EdinburghNLP/xsum from the hub (revision {'a1' * 20}); 1 left out: rows with an empty "
        "field\n"
    )


def test_a_warning_of_the_reader_is_said(tmp_path, capsys):
    config = rows_in(tmp_path, test=1)
    (tmp_path / "train.csv").write_text('source,target\n"a,x1\nb",x2\n')
    selection.text_pairs(config, "train")
    assert f"warning: lines 2 and 3 of {tmp_path}/train.csv are read as one row" in capsys.readouterr().err


@pytest.mark.parametrize("stream", [None, "closed"])
def test_what_is_read_is_said_only_where_someone_listens(tmp_path, monkeypatch, capsys, stream):
    config = rows_in(tmp_path, train=2)
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stderr", closed if stream else None)
    assert len(selection.text_pairs(config, "train")) == 2
    assert capsys.readouterr().out == ""


def test_only_process_0_says_what_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("prefix_jax.parallel.distributed.is_primary", lambda: False)
    selection.text_pairs(rows_in(tmp_path, train=2), "train")
    assert capsys.readouterr().err == ""
