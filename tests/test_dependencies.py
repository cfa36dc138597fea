"""The keys of what is kept: every declared input changes them, and results do not change without a new version."""

import dataclasses
import hashlib
import inspect
import itertools
import json

import numpy as np
import pytest

from prefix_jax import dependencies
from prefix_jax.data import chat_template, packing, tokens
from prefix_jax.data.conversations import Conversation
from prefix_jax.data.records import pair
from prefix_jax.dependencies import key
from prefix_jax.models import from_hf
from prefix_jax.models.leaves import from_array
from prefix_jax.models.pretrained import loading, tokenizers
from prefix_jax.models.pretrained.mapping import to_tree

KINDS = [kind for _, kind in inspect.getmembers(dependencies, dataclasses.is_dataclass)]
# A value for each annotation, and another one.
VALUES = {
    "int": (1, 2), "str": ("a", "b"), "bool": (False, True), "tuple[int, ...]": ((1, 2), (1, 3)),
    "tuple[int, ...] | None": (None, (1, 2, 3)), "Sequence[str]": (["ab", "c"], ["a", "bc"]),
    "ndarray": (np.zeros((2, 2), np.int64), np.zeros((4,), np.int64)),
}  # fmt: skip


def values(field):
    name = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
    for known, pair_ in VALUES.items():
        if known in (name, str(field.type).replace("collections.abc.", "")):
            return pair_
    return pytest.fail(f"{field.name} is of type {field.type}, of which this test has no two values")


@pytest.mark.parametrize(("kind", "name"), [(kind, field.name) for kind in KINDS for field in dataclasses.fields(kind)])
def test_every_declared_input_changes_the_key(kind, name):
    fields = {field.name: values(field) for field in dataclasses.fields(kind)}
    example = kind(**{field: pair_[0] for field, pair_ in fields.items()})
    assert key(example) == key(dataclasses.replace(example))
    assert key(dataclasses.replace(example, **{name: fields[name][1]})) != key(example)


def test_values_are_told_apart_with_their_types_and_bounds():
    told_apart = [
        None, "", b"", [], {}, 0, 0.0, False, "0", "None", b"None", 1, 1.0, True, "1", b"1", ["1"], [["1"]], [b"1"],
        ["ab", "c"], ["a", "bc"], ["abc"], ["ab", "c", ""], [["ab"], "c"], {"a": "b"}, {"a": ["b"]}, ["a", "b"],
        "é", "e\u0301", "\ud800", np.zeros(2, np.int32), np.zeros(2, np.uint32), np.zeros(1, np.int64),
        np.zeros((1, 2), np.int32), np.zeros((2, 1), np.int32), -1, 2**64,
    ]  # fmt: skip
    for one, other in itertools.combinations(told_apart, 2):
        assert key(one) != key(other), (one, other)
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})
    assert key(np.int64(3)) == key(3)


def test_a_value_without_a_certain_form_is_refused():
    for value in ({1, 2}, object(), [lambda: 0]):
        with pytest.raises(TypeError, match="cannot be hashed"):
            key(value)


class Letters:
    """A tokenizer of one id a character."""

    bos_token_id, eos_token_id = 1, 2

    def __call__(self, texts, **_):
        ids = [[3 + ord(letter) % 90 for letter in text] for text in ([texts] if isinstance(texts, str) else texts)]
        return {"input_ids": ids[0] if isinstance(texts, str) else ids}


def made_tokens():
    records = [pair(f"source {'of some length ' * (i % 4)}{i}", f"target {i % 3}", None, f"{i}", 0) for i in range(7)]
    formats = tokens.Formats("{bos}{source}\n", " {target}{eos}")
    made = tokens.tokenise(records, Letters(), formats, tokens.Limits(source=30, target=20))
    defaults = [dataclasses.astuple(tokens.default_formats(Letters(), kind)) for kind in (True, False)]
    return [*defaults, made.sources.ids, made.sources.offsets, made.targets.ids, made.targets.offsets]


def made_plan():
    sizes = np.array([[3 + (7 * i) % 23, 1 + (5 * i) % 11] for i in range(200)])
    plan = packing.make_plan(sizes, packing.choose_shape(sizes, 8), 8, 3)
    return [np.array(dataclasses.astuple(plan.shape)), *vars(plan.epoch(0)).values(), *vars(plan.epoch(1)).values()]


def made_weights():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    sizes = dict(vocab_size=11, num_layers=1, d_model=4, d_kv=2, num_heads=2, d_ff=6, feed_forward_proj="gated-gelu")
    llama = dict(
        vocab_size=11, hidden_size=4, num_hidden_layers=2, intermediate_size=6, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=8,
    )  # fmt: skip
    found = []
    for family, options, kind in (
        ("t5", {**sizes, "decoder_start_token_id": 0}, transformers.T5ForConditionalGeneration),
        ("llama", llama, transformers.LlamaForCausalLM),
    ):
        config = transformers.AutoConfig.for_model(family, **options)
        with torch.device("meta"):
            state = kind(config).state_dict()
        table = {
            name: from_array(((np.arange(value.numel()) + len(name)) % 97 / 8).astype(np.float32).reshape(value.shape))
            for name, value in sorted(state.items())
            if family != "t5" or "embed_tokens" not in name
        }
        leaves = loading.flatten(to_tree(from_hf(config.to_dict()), table))
        found += [part for path in sorted(leaves) for part in (path, leaves[path].all())]
    return found


def made_tokenizers():
    letters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 512))][:256]
    vocabulary = {letter: i for i, letter in enumerate([*letters, "th", "the", "<|endoftext|>"])}
    roles = dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>")
    made = tokenizers._byte_level(vocabulary, [("t", "h"), ("th", "e")], roles)
    return [json.dumps(made(text)["input_ids"]) for text in ("the then 12", "other<|endoftext|>  x")]


def made_conversations():
    letters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 512))][:256]
    made = tokenizers._byte_level({letter: i for i, letter in enumerate([*letters, "<|end|>"])}, [], {"eos": "<|end|>"})
    turns = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>\n{% endfor %}"
    template = chat_template.ChatTemplate(made, turns + "{% if add_generation_prompt %}[assistant]{% endif %}")
    said = [{"role": role, "content": f"some {role} text {i}"} for i in range(2) for role in ("user", "assistant")]
    found = template.examples(Conversation(tuple(said)), "") + template.examples(Conversation(tuple(said)), "", True)
    return [part for one in found for part in (json.dumps(one.ids), one.trained)]


# What each version of the code makes of a fixed input. Where a line fails, raise the version beside that code and
# replace the line: what users have in their caches is no longer what would be made.
GOLDEN = {
    "tokens": (tokens, made_tokens, 2, "c24195991de00bb7"),
    "conversations": (chat_template, made_conversations, 1, "bd6680b33b7bf4ef"),
    "plans": (packing, made_plan, 1, "d16519df1b9ff48f"),
    "converted": (loading, made_weights, 3, "c5fe67ab71b6a624"),
    "tokenizers": (tokenizers, made_tokenizers, 3, "1a864d6dfea1eec5"),
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_results_do_not_change_without_a_new_version(kind):
    module, make, version, golden = GOLDEN[kind]
    digest = hashlib.sha256()
    for part in make():
        digest.update(key(part).encode())
    assert (module.VERSION, digest.hexdigest()[:16]) == (version, golden), f"raise {module.__name__}.VERSION"
