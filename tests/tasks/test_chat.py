"""Chat: masks against transformers' own, templates of several kinds, losses against transformers, and whole runs."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import transformers

import prefix_jax as pj
from prefix_jax import inference
from prefix_jax.config import default_config
from prefix_jax.data import conversations
from prefix_jax.data.chat_template import ChatTemplate
from prefix_jax.data.conversations import Conversation
from prefix_jax.data.files import EmptyField
from prefix_jax.errors import UserError
from prefix_jax.evaluation import likelihood
from prefix_jax.inspection import attention
from prefix_jax.inspection.data_summary import data_summary
from prefix_jax.models.pretrained import open_checkpoint
from prefix_jax.reporting.data_terminal import data_text
from prefix_jax.training import conversations as ids_of
from prefix_jax.training import pipeline, session, trainer
from prefix_jax.training.selection import text_pairs
from prefix_jax.workdir import read_metrics
from tests import tiny

MARKED = "{% generation %}", "{% endgeneration %}"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['role'] == 'assistant' %}OPEN{{ m['content'] + '<|im_end|>' }}CLOSE"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' }}"
    "{% if m['role'] == 'assistant' %}OPEN{{ m['content'] | trim + '<|eot_id|>' }}CLOSE"
    "{% else %}{{ m['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{{ '<start_of_turn>model\\n' }}OPEN{{ m['content'] | trim + '<end_of_turn>' }}"
    "CLOSE"
    "{% else %}{{ '<start_of_turn>' + m['role'] + '\\n' + m['content'] | trim + '<end_of_turn>' }}{% endif %}"
    "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
# As Qwen3: the thinking of turns before the last question is left out.
QWEN = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['role'] == 'assistant' and loop.index0 < ns.last %}"
    "{{ m['content'].split('</think>')[-1].lstrip('\\n') }}{% else %}{{ m['content'] }}"
    "{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TOKENS = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>"]
TOKENS += ["<end_of_turn>"]
TALK = [
    {"role": "user", "content": "Where does Place 3 stand?"},
    {"role": "assistant", "content": "By the harbour — über dem Wasser.\n\nTruly."},
    {"role": "user", "content": "\nAnd the food? 2+2"},
    {"role": "assistant", "content": "Thai"},
    {"role": "user", "content": "name : Place 4"},
    {"role": "assistant", "content": " Place 4 serves Greek food ."},
]
SYSTEM = {"role": "system", "content": "Be short."}


def unmarked(template):
    return template.replace("OPEN", "").replace("CLOSE", "")


def marked(template):
    return template.replace("OPEN", MARKED[0]).replace("CLOSE", MARKED[1])


@pytest.fixture(scope="module")
def tokenizer(tiny_models):
    found = transformers.AutoTokenizer.from_pretrained(tiny_models["llama"])
    found.add_special_tokens({"additional_special_tokens": TOKENS})
    return found


@pytest.fixture(scope="module")
def smollm():
    found = open_checkpoint("smollm2-135m").tokenizer.read()
    return found


def of_transformers(tokenizer, template, messages, **options):
    """Returns ids and mask of transformers for a template with `{% generation %}`."""
    found = tokenizer.apply_chat_template(
        messages, chat_template=template, return_dict=True, return_assistant_tokens_mask=True, **options
    )
    return found["input_ids"], [bool(one) for one in found["assistant_masks"]]


@pytest.mark.parametrize("messages", [TALK[:2], TALK, [SYSTEM, *TALK[:4]]], ids=["one", "three", "system"])
@pytest.mark.parametrize("template", [CHATML, LLAMA3, GEMMA], ids=["chatml", "llama3", "gemma"])
def test_masks_are_those_of_transformers_with_and_without_marks(tokenizer, template, messages):
    own = ChatTemplate(tokenizer, marked(template)), ChatTemplate(tokenizer, unmarked(template))
    conversation = Conversation(tuple(messages))
    if template == GEMMA and messages[0] == SYSTEM:
        for one in own:
            with pytest.raises(UserError, match=r"row 1: the chat template cannot .*\(System role not supported\)"):
                one.examples(conversation, "row 1")
        return
    ids, mask = of_transformers(tokenizer, marked(template), messages)
    for one in own:
        (found,) = one.examples(conversation, "row 1")
        assert found.ids == ids and found.trained.tolist() == mask
        assert one.prompt(conversation.until(len(messages) - 1), "row 1")[0] == tokenizer.apply_chat_template(
            messages[:-1], chat_template=unmarked(template), add_generation_prompt=True, return_dict=False
        )


def test_the_mask_of_the_default_model_is_that_of_its_template_with_marks(smollm):
    theirs, end = smollm.chat_template, "message['content'] + '<|im_end|>' + '\n'}}"
    spoken = "'' }}{% if message['role'] == 'assistant' %}" + MARKED[0] + "{{ message['content'] + '<|im_end|>' }}"
    spoken += MARKED[1] + "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}"
    assert theirs.count(end) == 1
    ours = theirs.replace(end, spoken)
    for messages in (TALK, [SYSTEM, *TALK]):
        assert smollm.apply_chat_template(messages, tokenize=False) == smollm.apply_chat_template(
            messages, tokenize=False, chat_template=ours
        )
        (found,) = ChatTemplate(smollm).examples(Conversation(tuple(messages)), "")
        ids, mask = of_transformers(smollm, ours, messages)
        assert found.ids == ids and found.trained.tolist() == mask
        trained = smollm.decode(np.asarray(ids)[found.trained])
        assert trained == "".join(m["content"] + "<|im_end|>" for m in messages if m["role"] == "assistant")


def test_a_template_that_rewrites_earlier_turns_gives_an_example_a_turn(tokenizer):
    said = ["<think>\nhm\n</think>\n\nBy the harbour.", "<think>\nfood\n</think>\n\nThai."]
    messages = [TALK[0], {"role": "assistant", "content": said[0]}, TALK[2], {"role": "assistant", "content": said[1]}]
    template = ChatTemplate(tokenizer, QWEN)
    found = template.examples(Conversation(tuple(messages)), "")
    assert [tokenizer.decode(np.asarray(one.ids)[one.trained]) for one in found] == [
        f"{text}<|im_end|>" for text in said
    ]
    # What stands before each turn is what a prompt holds there: the first turn without its thinking.
    for one, place in zip(found, (1, 3), strict=True):
        prompt, _ = template.prompt(Conversation(tuple(messages[:place])), "")
        assert one.ids[: int(one.trained.argmax())] == prompt
    assert "hm" not in tokenizer.decode(found[1].ids)
    plain = [m | {"content": m["content"].split("\n\n")[-1]} for m in messages]
    assert len(template.examples(Conversation(tuple(plain)), "")) == 1
    assert len(template.examples(Conversation(tuple(plain)), "", apart=True)) == 2


def test_templates_that_say_too_little_are_refused(tokenizer):
    talk = Conversation(tuple(TALK))
    with pytest.raises(UserError, match=r"has no chat template; name a file with one by --config\.data\.chat_template"):
        ChatTemplate(tokenizer)
    with pytest.raises(UserError, match="neither a file nor a template of the tokenizer"):
        ChatTemplate(tokenizer, "rag")
    thinks = unmarked(CHATML).replace("assistant\\n' }}{% endif", "assistant\\n<think>' }}{% endif")
    silent = unmarked(CHATML).partition("{% if add_generation_prompt")[0]
    for template in (thinks, silent):
        with pytest.raises(UserError, match=r"record 7: the chat template begins .*% generation %"):
            ChatTemplate(tokenizer, template).examples(talk, "record 7")
    with pytest.raises(UserError, match="marks nothing"):
        ChatTemplate(tokenizer, unmarked(CHATML) + "{% generation %}{% endgeneration %}").examples(talk, "record 7")
    with pytest.raises(UserError, match="cannot write this conversation"):
        ChatTemplate(tokenizer, "{% for m in %}").examples(talk, "record 7")


def test_white_space_ends_a_turn_where_no_token_does(tokenizer):
    template = "{% for m in messages %}{{ m['role'] + ':\\n' + m['content'] + '\\n' }}{% endfor %}"
    template += "{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}"
    (found,) = ChatTemplate(tokenizer, template).examples(Conversation(tuple(TALK[:4])), "")
    said = tokenizer.decode(np.asarray(found.ids)[found.trained])
    assert said == f"{TALK[1]['content']}\n{TALK[3]['content']}\n"


def test_tools_and_variables_reach_the_template(tokenizer):
    call = {"type": "function", "function": {"name": "find", "arguments": {"place": 3}}}
    row = {
        "messages": [
            TALK[0], {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "harbour"}, TALK[3],
        ],
        "tools": json.dumps([{"type": "function", "function": {"name": "find"}}]),
        "chat_template_kwargs": {"mood": "calm"},
    }  # fmt: skip
    template = "{{ tools | tojson }}{{ mood }}{% for m in messages %}[{{ m.role }}]"
    template += "{{ m.content if m.content is defined else m.tool_calls | tojson }}<|im_end|>{% endfor %}"
    template += "{% if add_generation_prompt %}[assistant]{% endif %}"
    conversation = conversations.answered(("row 1", row))
    assert conversations.parse(conversation.text()) == conversation
    (found,) = ChatTemplate(tokenizer, template).examples(conversation, "")
    assert tokenizer.decode(found.ids).startswith('[{"type": "function", "function": {"name": "find"}}]calm[user]')
    said = tokenizer.decode(np.asarray(found.ids)[found.trained])
    assert said == f"{json.dumps([call])}<|im_end|>Thai<|im_end|>"


FORMS = {
    "messages": {"messages": [SYSTEM, *TALK[:2]]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": TALK[0]["content"]}, {"from": "gpt", "value": TALK[1]["content"]}],
        "system": "Be short.",
    },
    "texts": {"system": "Be short.", "prompt": TALK[0]["content"], "response": TALK[1]["content"]},
    "lists": {"prompt": [SYSTEM, TALK[0]], "completion": [TALK[1]]},
    "parts": {
        "messages": [SYSTEM, TALK[0], {"role": "assistant", "content": [{"type": "text", "text": TALK[1]["content"]}]}]
    },
    "json": {"messages": json.dumps([SYSTEM, *TALK[:2]])},
    "columns": {"source": [SYSTEM, TALK[0]], "target": TALK[1]["content"]},
    "with a question after": {"messages": [SYSTEM, *TALK[:3]], "tools": "[]", "source": "a collection"},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_rows_is_the_same_conversation(form):
    assert conversations.answered(("row 1", FORMS[form])) == Conversation((SYSTEM, *TALK[:2]))


BAD = {
    "no assistant": ({"messages": TALK[:1]}, EmptyField, 'row 1 has no message of the role "assistant"'),
    "empty": ({"messages": []}, EmptyField, 'row 1 has an empty "messages"'),
    "empty content": ({"messages": [TALK[0], {"role": "assistant", "content": " "}]}, EmptyField, "message 2 .*empty"),
    "no role": ({"messages": [{"content": "x"}]}, UserError, 'message 1 of "messages" in row 1 has no "role"'),
    "a text": ({"messages": ["x"]}, UserError, "is str; give"),
    "a picture": ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, UserError, 'of type "image"'),
    "a number": ({"messages": [{"role": "user", "content": 3}]}, UserError, 'a "content" that is int'),
    "no columns": ({"message": "x"}, UserError, 'no column "messages".*did you mean|no column "messages"'),
}


@pytest.mark.parametrize("name", BAD)
def test_rows_that_are_no_conversation_are_refused(name):
    row, kind, said = BAD[name]
    with pytest.raises(kind, match=said):
        conversations.answered(("row 1", row))


def talks(count):
    return [
        [
            {"role": "user", "content": row["source"]}, {"role": "assistant", "content": row["target"]},
            {"role": "user", "content": f"{'More ' * (1 + i % 2)}?"},
            {"role": "assistant", "content": f"Place {i} is all ."},
        ]
        for i, row in enumerate(tiny.rows(count))
    ]  # fmt: skip


TEMPLATE = (
    "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)


@pytest.fixture
def folder(tmp_path):
    for split, start, end in (("train", 0, 12), ("validation", 12, 17), ("test", 17, 21)):
        lines = [json.dumps({"messages": messages}) for messages in talks(21)[start:end]]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "chat.jinja").write_text(TEMPLATE, encoding="utf-8")
    return tmp_path


def configured(model, folder, **options):
    config = default_config()
    config.model.source = str(model)
    config.data.update(task="chat", path=str(folder), chat_template=str(folder / "chat.jinja"))
    config.prefix.update(length=3, hidden=16)
    config.training.update(steps=4, batch=4, evaluate_every=4, evaluate_records=0, log_every=1, tensorboard=False)
    config.optimizer.learning_rate = 1e-2
    config.decoding.update(strategy="greedy", max_length=8)
    config.update_from_flattened_dict(options)
    return config


def loss_of_transformers(model, messages):
    """Returns the summed cross-entropy of the labels of a conversation, and their number."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    network = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
    spoken = "[{{ m['role'] }}]{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + eos_token }}"
    spoken += "{% endgeneration %}{% else %}{{ m['content'] + eos_token }}{% endif %}{{ '\n' }}"
    ids, mask = of_transformers(tokenizer, "{% for m in messages %}" + spoken + "{% endfor %}", messages)
    labels = [id if trained else -100 for id, trained in zip(ids, mask, strict=True)]
    with torch.no_grad():
        mean = network(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
    return float(mean) * sum(mask), sum(mask)


def test_losses_are_those_of_transformers_with_masked_labels(tiny_models, folder):
    """In packed rows: by the metric of each conversation, and by a run's validation."""
    model = tiny_models["llama"]
    opened = session.open_session(configured(model, folder))
    records = [one for split in ("train", "validation", "test") for one in text_pairs(opened.config, split)]
    expected = [loss_of_transformers(model, messages) for messages in talks(21)]
    found = likelihood.of_conversations(opened, None, records)
    for said, (nats, count) in zip(found, expected, strict=True):
        assert f" nats over {count} tokens" in said
        assert float(said.split()[0]) == pytest.approx(nats, rel=2e-5)
    (outcome,) = pipeline.run(trainer.prepare(opened, folder / "run", []))
    assert outcome.finished
    bare = [line["bare_validation_loss"] for line in read_metrics(folder / "run") if "bare_validation_loss" in line]
    nats, counts = zip(*expected[12:17], strict=True)
    assert bare[0] == pytest.approx(sum(nats) / sum(counts), rel=2e-5)


def test_a_run_is_scored_and_continues_a_conversation(tiny_models, folder):
    config = configured(tiny_models["llama"], folder, **{"training.steps": 8})
    workdir = folder / "run"
    pipeline.tune(config, workdir, [])
    assert pipeline.tune(config, workdir, []).finished  # resumes
    (folder / "chat.jinja").unlink()  # what was tuned holds its template
    entry = inference.evaluate(workdir, "test", bare=True)
    assert list(entry["tuned"])[:2] == ["perplexity", "loss"] and "exact_match" in entry["tuned"]
    expected = [loss_of_transformers(tiny_models["llama"], messages) for messages in talks(21)[17:]]
    loss = sum(nats for nats, _ in expected) / sum(count for _, count in expected)
    assert entry["bare"]["loss"] == pytest.approx(loss, rel=2e-5)
    assert entry["bare"]["perplexity"] == pytest.approx(math.exp(loss), rel=2e-4)
    assert entry["tuned"]["loss"] < entry["bare"]["loss"]
    assert entry["metrics"]["loss"] == {"decimals": 4, "higher_is_better": False}
    samples = inference.read_samples(workdir)
    assert samples[0]["references"] == ["Place 17 is all ."] and set(samples[0]["likelihoods"]) == {"tuned", "bare"}
    alone = inference.evaluate(workdir, "test", overrides={"evaluation.metrics": "loss"})
    assert alone["tuned"] == pytest.approx({"loss": entry["tuned"]["loss"]})
    # Prompts are rendered as transformers does, and decoded as for any other source.
    tuned = inference.open_tuned(workdir)
    row = {"messages": talks(21)[17]}
    record, typed = inference.unanswered(tuned.session, [("row 1", row), "name : Place 3"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_models["llama"])
    for one, messages in ((record, talks(21)[17][:3]), (typed, [{"role": "user", "content": "name : Place 3"}])):
        wanted = tokenizer.apply_chat_template(messages, chat_template=TEMPLATE, add_generation_prompt=True)[
            "input_ids"
        ]
        assert ids_of.prompts(tuned.session, [one.source])[0].tolist() == wanted
    assert inference.outputs(tuned.session, tuned.kept, [record], progress=False) == [samples[0]["tuned"]]
    assert tuned.session.printer.ends == (1,) and tuned.session.printer.closed
    maps = attention(tuned.session, tuned.kept, record.source, "Place 17 .")
    assert maps["decoder"].keys[-1] == "."


def test_python_reads_rows_of_messages(tiny_models, folder, capsys):
    lm = pj.load_model(str(tiny_models["llama"]))
    lm.tokenizer.chat_template = TEMPLATE
    rows = [{"messages": messages, "source": "a collection"} for messages in talks(12)]
    how = {"steps": 2, "options": {"training.batch": 4}}
    tuned = pj.tune(lm, rows, pj.Prefix(length=3, hidden=16), **how)
    assert tuned.options["data"]["task"] == "chat"
    pairs = [{"prompt": row["source"], "response": row["target"]} for row in tiny.rows(8)]
    asked = {"steps": 1, "options": {"training.batch": 4, "data.task": "chat"}}
    assert pj.tune(lm, pairs, pj.Prefix(length=3, hidden=16), **asked).options["data"]["task"] == "chat"
    scores = tuned.evaluate(rows[:3], metrics=["loss"])
    assert scores["loss"] > 0
    bare = lm.evaluate(rows[:3], metrics=["loss"])
    expected = [loss_of_transformers(tiny_models["llama"], messages) for messages in talks(3)]
    assert bare["loss"] == pytest.approx(sum(n for n, _ in expected) / sum(c for _, c in expected), rel=2e-5)
    batch = lm.batch(rows[:2])
    total, weight = pj.loss(lm.model, lm.variables, None, batch)
    assert float(total) == pytest.approx(sum(nats for nats, _ in expected[:2]), rel=2e-5)
    assert int(weight) == sum(count for _, count in expected[:2])
    assert lm.generate(rows[0], strategy="greedy", max_length=3) == lm.generate(
        {"messages": rows[0]["messages"][:3]}, strategy="greedy", max_length=3
    )


@pytest.mark.parametrize("how", ["cut", "drop", "refuse"])
def test_conversations_that_are_too_long(tiny_models, folder, how):
    config = configured(tiny_models["llama"], folder, **{"data.too_long": how})
    opened = session.open_without_weights(config)
    records = text_pairs(opened.config, "train")
    whole = ids_of.token_ids(opened, records)
    lengths = whole.sources.lengths + whole.targets.lengths
    limit = int(lengths.max()) - 1
    config.data.max_source_length = limit
    opened = session.open_without_weights(config)
    if how == "refuse":
        with pytest.raises(UserError, match=rf"of 12 conversations are longer than {limit} tokens"):
            ids_of.fitting(opened, records, "train")
        return
    found, said = ids_of.fitting(opened, records, "train")
    long = int((lengths > limit).sum())
    assert f"{long} of 12 conversations are" in said["cut"]
    assert len(found) == (12 if how == "cut" else 12 - long)
    assert (found.sources.lengths + found.targets.lengths).max() <= limit
    prompt, short = opened.chat.prompt(conversations.parse(records[0].source), "input 1", 40)
    assert short and len(prompt) <= 40
    with pytest.raises(UserError, match="input 1 has .* without its earlier turns"):
        opened.chat.prompt(conversations.parse(records[0].source), "input 1", 5)


def test_each_turn_is_an_example_for_infixes_and_encoder_decoders(tiny_models, folder):
    for family, method in (("llama", "infix"), ("t5", "prefix")):
        opened = session.open_without_weights(configured(tiny_models[family], folder, method=method))
        data = ids_of.token_ids(opened, text_pairs(opened.config, "train"))
        assert len(data) == 24 and data.trained.all() and data.owners.tolist() == [i // 2 for i in range(24)]
        assert opened.tokenizer.decode(data.targets[1]) == "Place 0 is all .</s>"


def test_the_data_command_shows_which_tokens_have_a_loss(tiny_models, folder):
    found = data_summary(configured(tiny_models["gpt2"], folder))
    kinds = [part["kind"] for part in found["rows"][0]["parts"]]
    assert kinds == ["source", "target", "source", "target"]
    said = ["".join(part["tokens"]) for part in found["rows"][0]["parts"]]
    assert said[3] == "Place 0 is all .</s>" and said[2] == "\n[user]More ?</s>\n[assistant]"
    assert found["packing"]["steps"] == 4 and found["splits"]["train"]["target"]["tokens"] > 0
    assert "conversation" in data_text(found)


def test_formats_are_refused_and_normal_forms_are_kept(tiny_models, folder):
    opened = session.open_without_weights(configured(tiny_models["gpt2"], folder, **{"data.target_format": "{target}"}))
    with pytest.raises(UserError, match="data.source_format and data.target_format are not for conversations"):
        assert opened.formats
    row = ("row 1", {"messages": [{"role": "user", "content": "e\u0301"}, {"role": "assistant", "content": "\uff02"}]})
    found = conversations.answered(row, unicode="NFKC")
    assert [message["content"] for message in found.messages] == ["\u00e9", '"']
    assert dataclasses.replace(found) == conversations.parse(found.text())
