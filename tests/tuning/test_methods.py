"""The methods beside prefix tuning, against PEFT and torch on random weights: logits and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from prefix_jax import tuning
from prefix_jax.config import default_config
from prefix_jax.errors import UserError
from prefix_jax.tuning import lora, prompt
from tests.models import torch_models as tm
from tests.models.torch_models import torch
from tests.parity import adapters
from tests.parity.cases import CASES, named, params

peft = pytest.importorskip("peft")

ALIBI = ("bloom", "mpt")  # where transformers gives a slot of an infix a distance
PAIRS = {"gpt2": tm.gpt2, "llama": tm.llama, "t5": tm.t5, "bart": tm.bart}
ROWS, COLUMNS = 2, 9
TOLERANCE = 2e-5
rng = np.random.default_rng(3)
TOKENS = rng.integers(3, 60, (ROWS, COLUMNS), dtype=np.int32)
ENCODED = rng.integers(3, 60, (ROWS, COLUMNS + 2), dtype=np.int32)
COTANGENT = rng.standard_normal((ROWS, COLUMNS, 61)).astype(np.float32)


def method_of(pair, name: str, words=None, **options):
    config = default_config()
    config.method = name
    for section in tuning.names(config):
        config[section].update({k: v for k, v in options.items() if k in config[section]})
    return tuning.build(config, pair.model, words)


def inputs(pair) -> dict[str, np.ndarray]:
    return {"tokens": TOKENS, **({"encoder_tokens": ENCODED} if pair.model_config.is_encoder_decoder else {})}


def torch_logits(pair, network):
    if pair.model_config.is_encoder_decoder:
        out = network(input_ids=torch.tensor(ENCODED).long(), decoder_input_ids=torch.tensor(TOKENS).long())
    else:
        out = network(input_ids=torch.tensor(TOKENS).long())
    return out.logits


def ours(pair, method, trainable):
    """Logits, and the gradient of their product with COTANGENT."""

    def loss(trainable, base):
        variables, prefix = method.materialise(trainable, base, None)
        logits = pair.model.apply(variables, **inputs(pair), prefix=prefix)
        return (logits * COTANGENT).sum(), logits

    gradient, logits = tm.jit(jax.grad(loss, has_aux=True))(trainable, pair.variables)
    return logits, gradient


def randomised(tree, seed: int = 0):
    """Trained numbers after some training, as it were: nothing is zero."""
    leaves, form = jax.tree.flatten(tree)
    draw = np.random.default_rng(seed)
    return jax.tree.unflatten(
        form, [leaf + 0.1 * draw.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves]
    )


def close(found, expected, tolerance: float = TOLERANCE) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    np.testing.assert_allclose(found, expected, atol=tolerance * max(1.0, float(np.abs(expected).max())))


# LoRA -----------------------------------------------------------------------------------------------------------------

NAMES = {
    "gpt2": {"c_attn": ("attention", "qkv"), "c_proj": ("attention", "out")},
    "llama": {
        "q_proj": ("attention", "qkv", "query"), "v_proj": ("attention", "qkv", "value"),
        "o_proj": ("attention", "out"), "gate_proj": ("mlp", "gate"), "down_proj": ("mlp", "down"),
    },
}  # fmt: skip


def _lora_pairs(network, name: str):
    """PEFT's A and B of a module's name in each layer, in order."""
    modules = [m for path, m in network.named_modules() if path.endswith(name) and hasattr(m, "lora_A")]
    return [(m.lora_A["default"].weight, m.lora_B["default"].weight) for m in modules]


@pytest.mark.parametrize("targets", ["query,value", "out,gate,down", "all"])
def test_lora_parity_with_peft(targets):
    pair = tm.llama()
    here = {
        "query,value": ["q_proj", "v_proj"], "out,gate,down": ["o_proj", "gate_proj", "down_proj"],
        "all": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    }[targets]  # fmt: skip
    names = {**NAMES["llama"], "k_proj": ("attention", "qkv", "key"), "up_proj": ("mlp", "up")}
    method = method_of(pair, "lora", rank=3, alpha=5.0, targets=targets)
    trainable = randomised(method.init(jax.random.key(0), pair.variables))
    network = peft.get_peft_model(
        tm.llama().torch, peft.LoraConfig(r=3, lora_alpha=5, target_modules=here, task_type="CAUSAL_LM")
    )
    for name in here:
        leaves = trainable["layers"]
        for part in names[name]:
            leaves = leaves[part]
        for layer, (a, b) in enumerate(_lora_pairs(network, name)):
            with torch.no_grad():
                a.copy_(torch.tensor(np.asarray(leaves["a"][layer]).T))
                b.copy_(torch.tensor(np.asarray(leaves["b"][layer]).reshape(3, -1).T))
    logits = torch_logits(pair, network)
    (logits * torch.tensor(COTANGENT)).sum().backward()
    found, gradient = ours(pair, method, trainable)
    close(found, logits.detach())
    for name in here:
        leaves = gradient["layers"]
        for part in names[name]:
            leaves = leaves[part]
        for layer, (a, b) in enumerate(_lora_pairs(network, name)):
            close(leaves["a"][layer].T, a.grad)
            close(np.asarray(leaves["b"][layer]).reshape(3, -1).T, b.grad)


@pytest.mark.parametrize(
    "family", [pytest.param(one, marks=pytest.mark.nightly) if one in ("gpt2", "bart") else one for one in PAIRS]
)
def test_merged_lora_computes_the_same(family):
    pair = PAIRS[family]()
    method = method_of(pair, "lora", rank=2, targets="all")
    trainable = randomised(method.init(jax.random.key(0), pair.variables))
    beside, _ = ours(pair, method, trainable)
    kept = method.export(trainable, pair.variables, None)
    merged = lora.merged(pair.variables["params"], kept.collections["lora"])
    close(pair.model.apply({"params": merged}, **inputs(pair)), beside)


# Prompts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", PAIRS)
def test_prompt_parity_with_peft(family):
    """Reserved places before the input hold what PEFT puts before its embeddings."""
    pair, length = PAIRS[family](), 4
    method = method_of(pair, "prompt", length=length)
    trainable = randomised(method.init(jax.random.key(0), pair.variables))
    task = "SEQ_2_SEQ_LM" if pair.model_config.is_encoder_decoder else "CAUSAL_LM"
    network = peft.get_peft_model(
        PAIRS[family]().torch, peft.PromptTuningConfig(num_virtual_tokens=length, task_type=task)
    ).eval()
    weight = network.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        weight[:length] = torch.tensor(np.asarray(trainable["embeddings"]))
    expected = torch_logits(pair, network)[:, -COLUMNS:]
    (expected * torch.tensor(COTANGENT)).sum().backward()

    def loss(trainable, base):
        variables, _ = method.materialise(trainable, base, None)
        given = inputs(pair)
        side = "encoder_tokens" if pair.model_config.is_encoder_decoder else "tokens"
        given[side] = np.pad(given[side], ((0, 0), (length, 0)))
        logits = pair.model.apply(variables, **given)[:, -COLUMNS:]
        return (logits * COTANGENT).sum(), logits

    gradient, logits = tm.jit(jax.grad(loss, has_aux=True))(trainable, pair.variables)
    close(logits, expected.detach())
    close(gradient["embeddings"], weight.grad[:length])


def test_p_tuning_parity_with_pefts_encoder():
    """The recurrent encoder, with torch's weights in our tree."""
    width, hidden, length = 24, 10, 5
    options = peft.PromptEncoderConfig(
        num_virtual_tokens=length, token_dim=width, encoder_hidden_size=hidden, encoder_num_layers=2,
        encoder_reparameterization_type="LSTM", num_transformer_submodules=1, task_type="CAUSAL_LM",
    )  # fmt: skip
    theirs = peft.PromptEncoder(options)

    def array(weight):
        return jnp.asarray(weight.detach().numpy())

    def side(layer: int, end: str) -> dict:
        weights = [getattr(theirs.lstm_head, f"{name}_l{layer}{end}") for name in ("weight_ih", "weight_hh")]
        biases = [getattr(theirs.lstm_head, f"{name}_l{layer}{end}") for name in ("bias_ih", "bias_hh")]
        return {"kernel": array(weights[0]).T, "recurrent": array(weights[1]).T, "bias": sum(map(array, biases))}

    first, _, last = theirs.mlp_head
    pair = tm.gpt2()
    shapes = method_of(pair, "prompt", reparameterisation="lstm", hidden=hidden, length=length).init(
        jax.random.key(0), pair.variables
    )
    tree = {
        "embeddings": array(theirs.embedding.weight),
        "lstm": [{"forward": side(n, ""), "backward": side(n, "_reverse")} for n in range(2)],
        "hidden": {"kernel": array(first.weight).T, "bias": array(first.bias)},
        "out": {"kernel": array(last.weight).T, "bias": array(last.bias)},
    }
    assert jax.tree.map(jnp.shape, tree) == jax.tree.map(jnp.shape, shapes)
    close(prompt.encoded(tree), theirs(torch.arange(length)[None])[0].detach())


# Infix ----------------------------------------------------------------------------------------------------------------


FIRST = [case for case in named("peft") if case == CASES[case].family and case not in ALIBI]


@pytest.mark.parametrize("case", params(FIRST))
def test_infix_parity_with_two_passes_of_transformers(case):
    pair = CASES[case].pair(**CASES[case].peft)
    found, expected = adapters.with_infix(pair)
    bare = adapters.theirs(pair, pair.torch)[:, adapters.SOURCE :]
    assert np.abs(expected - bare).max() > 1e-2
    close(found, expected)


# Adapters -------------------------------------------------------------------------------------------------------------

MODULES = {
    "gpt2": {"attention_adapter": "attn", "mlp_adapter": "mlp"},
    "llama": {"attention_adapter": "self_attn", "mlp_adapter": "mlp"},
    "t5": {
        "attention_adapter": "SelfAttention", "cross_adapter": "EncDecAttention", "mlp_adapter": "DenseReluDense",
    },
    "bart": {"attention_adapter": "self_attn", "cross_adapter": "encoder_attn", "mlp_adapter": "fc2"},
}  # fmt: skip


@pytest.mark.parametrize("family", PAIRS)
def test_adapters_parity_with_bottlenecks_hooked_into_torch(family):
    pair = PAIRS[family]()
    method = method_of(pair, "adapter", width=5)
    trainable = randomised(method.init(jax.random.key(0), pair.variables))

    def hook(leaves, layer):
        down, up = ({k: torch.tensor(np.asarray(v[layer])) for k, v in leaves[n].items()} for n in ("down", "up"))

        def run(module, given, out):
            x = out[0] if isinstance(out, tuple) else out
            y = x + torch.relu(x @ down["kernel"] + down["bias"]) @ up["kernel"] + up["bias"]
            return (y, *out[1:]) if isinstance(out, tuple) else y

        return run

    handles = []
    for path, tree in _stacks(trainable):
        for name, module in MODULES[family].items():
            inside = [m for p, m in pair.torch.named_modules() if p.endswith(f".{module}") and path in f"{p}."]
            for layer, one in enumerate(inside if name in tree else []):
                handles.append(one.register_forward_hook(hook(tree[name], layer)))
    with torch.no_grad():
        expected = torch_logits(pair, pair.torch)
    for handle in handles:
        handle.remove()
    assert len(handles) == sum(len(jax.tree.leaves(t)) // 4 * _depth(t) for _, t in _stacks(trainable))
    close(ours(pair, method, trainable)[0], expected)


def _stacks(tree):
    if "layers" in tree:
        return [("", tree["layers"])]
    return [(f"{side}.", tree[side]["layers"]) for side in ("encoder", "decoder")]


def _depth(tree) -> int:
    return len(jax.tree.leaves(tree)[0])


@pytest.mark.parametrize("family", PAIRS)
@pytest.mark.parametrize("name", ["adapter", "lora", "prefix", "finetune"])
def test_what_should_start_at_the_frozen_model_does(family, name):
    """Updates and bottlenecks that begin at zero, weights that begin at the model's own, slots that begin closed."""
    pair = PAIRS[family]()
    method = method_of(pair, name, gate=40.0, position_offset="zero", length=3, reparameterisation="none")
    trainable = method.init(jax.random.key(0), pair.variables)
    logits, gradient = ours(pair, method, trainable)
    close(logits, pair.model.apply(pair.variables, **inputs(pair)), 1e-6)
    # ... and can leave it.
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient) if leaf.size) or name in (
        "lora", "adapter",  # the first of two factors has none while the second is zero
    )  # fmt: skip


# Fine-tuning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("family", PAIRS)
def test_fine_tuning_parity_with_torchs_gradients(family, layers):
    pair = PAIRS[family]()
    method = method_of(pair, "finetune", layers=layers)
    trainable = method.init(jax.random.key(0), pair.variables)
    if layers:  # nothing below the layers that are trained is in the tree, or has a gradient
        stacks = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(trainable) if "layers" in str(path)]
        assert {len(leaf) for leaf in stacks} == {2}
    _, gradient = ours(pair, method, trainable)
    for parameter in pair.torch.parameters():
        parameter.requires_grad_(True)
    (torch_logits(pair, pair.torch) * torch.tensor(COTANGENT)).sum().backward()
    side = gradient["decoder"] if pair.model_config.is_encoder_decoder else gradient
    found = {name: value for name, value in pair.torch.named_parameters()}
    norm, mlp = {
        "gpt2": ("transformer.ln_f.weight", "transformer.h.{}.mlp.c_fc.weight"),
        "llama": ("model.norm.weight", "model.layers.{}.mlp.gate_proj.weight"),
        "t5": ("decoder.final_layer_norm.weight", "decoder.block.{}.layer.2.DenseReluDense.wi.weight"),
        "bart": (None, "model.decoder.layers.{}.fc1.weight"),  # no norm after its layers
    }[family]
    if norm:
        close(side["final_norm"]["scale"], found[norm].grad)
    kernels = side["layers"]["mlp"]["gate" if family == "llama" else "up"]["kernel"]
    for row, layer in enumerate(range(pair.model_config.layers - len(kernels), pair.model_config.layers)):
        expected = found[mlp.format(layer)].grad
        close(kernels[row], expected if family == "gpt2" else expected.T)
    if not layers:
        name = {
            "gpt2": "transformer.wte.weight", "llama": "model.embed_tokens.weight", "t5": "shared.weight",
            "bart": "model.shared.weight",
        }[family]  # fmt: skip
        close(gradient["embedding"]["tokens"], found[name].grad)


# Halves of prefixes, and combinations --------------------------------------------------------------------------------


@pytest.mark.parametrize(("trained", "still"), [("keys", "value"), ("values", "key")])
def test_one_half_of_a_prefix_is_masked(trained, still):
    pair = tm.llama()
    method = method_of(pair, "prefix", trained=trained, length=3, reparameterisation="none")
    mask = method.mask(method.init(jax.random.key(0), pair.variables))
    assert [name for name, moves in mask["decoder"].items() if not moves] == [still]


def test_methods_together_are_both_there():
    pair = tm.llama()
    both = method_of(pair, "prefix+lora", length=3, rank=2)
    trainable = randomised(both.init(jax.random.key(0), pair.variables))
    kept = both.export(trainable, pair.variables, None)
    assert kept.prefix is not None and list(kept.collections) == ["lora"]
    found, gradient = ours(pair, both, trainable)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradient))
    merged = lora.merged(pair.variables["params"], kept.collections["lora"])
    close(found, pair.model.apply({"params": merged}, **inputs(pair), prefix=kept.prefix))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("lorra", {}, 'there is no method "lorra"; did you mean "lora"'),
        ("prefix+infix", {}, "a model takes prefix or infix, not both"),
        ("lora+lora", {}, "names lora twice"),
        ("lora", {"rank": 0}, "lora.rank is 0"),
        ("lora", {"targets": "query,values"}, 'lora.targets has "values"; did you mean "value"'),
        ("adapter", {"places": "mpl"}, 'adapter.places has "mpl"; did you mean "mlp"'),
        ("adapter", {"places": "cross"}, "this model has no such attention"),
        ("finetune", {"layers": 9}, "finetune.layers is 9"),
        ("prompt", {"reparameterisation": "lsmt"}, "did you mean"),
        ("prompt", {"initialisation": "text"}, "prompt.text names no words"),
        ("prefix", {"trained": "keys"}, "reparameterisation=none"),
    ],
)
def test_bad_options_are_one_sentence(name, options, words):
    with pytest.raises(UserError, match=words):
        method_of(tm.llama(), name, **options)


def test_an_infix_is_refused_by_an_encoder_decoder():
    with pytest.raises(UserError, match="an infix is for decoder-only models"):
        method_of(tm.t5(), "infix")
