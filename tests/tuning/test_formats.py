"""Prefixes from and to PEFT, adapters, the original code and P-tuning-v2, and the command line that converts them."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prefix_jax import cli
from prefix_jax.convert import convert, define_flags, main
from prefix_jax.errors import UserError
from prefix_jax.tuning.formats import adapters, layout, original, peft
from tests.models import torch_models as tm
from tests.models.torch_models import torch
from tests.parity.cases import named, params
from tests.tuning.test_files import BART, GPT2, IDENTITY, LLAMA, T5, assert_equal, load, make, save

PEFT_CASES = named("peft")
TOKENS = np.random.default_rng(0).integers(0, 61, (2, 9))


@pytest.fixture(scope="module", params=params(PEFT_CASES))
def pair(request):
    case = PEFT_CASES[request.param]
    return case.pair(**case.peft)


def _peft():
    return pytest.importorskip("peft")


@pytest.fixture(scope="module")
def own(pair):
    """Our logits and gradients with a prefix of length 5, compiled once for each model."""

    @tm.jit
    def run(trained, prefix, cotangent):
        def loss(trained):
            whole = tm.with_leaves(prefix, trained)
            logits = pair.model.apply(pair.variables, jnp.asarray(TOKENS), prefix=whole)
            return (logits * cotangent).sum(), logits

        return jax.grad(loss, has_aux=True)(trained)

    return lambda prefix, cotangent: run(tm.differentiable(prefix), prefix, cotangent)


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "CARTRIDGE", "projected"])
def test_peft_import_parity(pair, own, tmp_path, kind):
    """PEFT's own model, saved by PEFT, gives our logits (and our gradients) after its adapter is imported.

    `trap_12`: the shapes come from KV heads and head_dim, not from hidden / heads.
    """
    lib, length = _peft(), 5
    torch.manual_seed(3)
    options: dict = dict(task_type="CAUSAL_LM", num_virtual_tokens=length)
    if pair.model_config.family in ("mpt", "falcon"):  # of which PEFT does not find the heads of the cache
        heads = pair.model_config.cached_heads
        options |= dict(num_attention_heads=heads, token_dim=heads * pair.model_config.head_dim)
    if kind == "CARTRIDGE":
        config = lib.CartridgeConfig(**options, num_frozen_tokens=1)
    else:
        config = lib.PrefixTuningConfig(**options, prefix_projection=kind == "projected", encoder_hidden_size=7)
    try:
        model = lib.get_peft_model(pair.torch, config)
        model.save_pretrained(tmp_path / "peft")
        model.train(kind == "PREFIX_TUNING")  # no dropout in Llama; GPT-2's is set to 0
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        cotangent = np.random.default_rng(1).standard_normal((*TOKENS.shape, 61), np.float32)
        mask = torch.ones(TOKENS.shape, dtype=torch.long)
        logits = model(input_ids=torch.tensor(TOKENS), attention_mask=mask).logits
        if kind == "PREFIX_TUNING":
            (logits * torch.tensor(cotangent)).sum().backward()
            weight = model.prompt_encoder["default"].embedding.weight.grad.numpy()
    finally:
        pair.torch.eval()

    if pair.model_config.cached_heads != pair.model_config.kv_heads:
        pair.torch.config.save_pretrained(tmp_path / "base")
        with pytest.raises(UserError, match="several share one"):
            convert(str(tmp_path / "peft"), "prefix_jax", str(tmp_path / "ours"), model=str(tmp_path / "base"))
        return
    convert(str(tmp_path / "peft"), "prefix_jax", str(tmp_path / "ours"))
    prefix, meta = load(tmp_path / "ours", pair.model_config)
    assert int(prefix.position_offset) == length and meta["sites"] == ["decoder"]
    gradients, found = own(prefix, cotangent)
    np.testing.assert_allclose(found, logits.detach().numpy(), atol=2e-5, rtol=2e-5)
    if kind == "PREFIX_TUNING":
        assert np.abs(weight).max() > 1e-3
        expected = layout.from_flat(weight, pair.model_config.kv_heads, pair.model_config.head_dim)
        for part in ("key", "value"):
            np.testing.assert_allclose(gradients["decoder"][part], getattr(expected, part), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("offset", ["length", "zero"])
def test_peft_export_parity(pair, own, tmp_path, offset):
    """What we export PEFT loads, and gives our logits; RoPE keys for tokens from 0 on are turned first (trap 8)."""
    lib = _peft()
    prefix = tm.random_prefix(pair.model_config, 5, offset=5 if offset == "length" else 0)
    save(tmp_path / "tuned", prefix, {"name": "a/model"}, pair.model_config)
    if offset == "zero" and (pair.model_config.positions == "learned" or pair.model_config.alibi is not None):
        with pytest.raises(UserError, match="learned positions|prefix.alibi=distance"):
            convert(str(tmp_path), "peft", str(tmp_path / "peft"))
        return
    convert(str(tmp_path), "peft", str(tmp_path / "peft"))
    try:
        model = lib.PeftModel.from_pretrained(pair.torch, str(tmp_path / "peft")).eval()
        mask = torch.ones(TOKENS.shape, dtype=torch.long)
        logits = model(input_ids=torch.tensor(TOKENS), attention_mask=mask).logits.detach().numpy()
    finally:
        pair.torch.eval()
    found = own(prefix, np.ones((*TOKENS.shape, 61), np.float32))[1]
    np.testing.assert_allclose(found, logits, atol=5e-5, rtol=5e-5)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    width = pair.model_config.cached_heads * pair.model_config.head_dim
    assert config["token_dim"] == width and not config["prefix_projection"]
    if offset == "length" and pair.model_config.cached_heads != pair.model_config.kv_heads:
        pair.torch.config.save_pretrained(tmp_path / "base")
        base = str(tmp_path / "base")
        convert(str(tmp_path / "peft"), "prefix_jax", str(tmp_path / "again"), model=base)
        assert_equal(load(tmp_path / "again", pair.model_config)[0], prefix)


def run(words):
    return cli.call(main, define_flags, words)


def _run(folder, prefix, model_config):
    save(folder / "tuned", prefix, IDENTITY, model_config)
    return str(folder)


@pytest.mark.parametrize("model_config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_peft_round_trip_is_bit_exact(tmp_path, model_config):
    prefix = make(model_config)
    source = _run(tmp_path, prefix, model_config)
    assert "bit for bit" in convert(source, "peft", str(tmp_path / "peft"))
    convert(str(tmp_path / "peft"), "prefix_jax", str(tmp_path / "again"))
    assert_equal(load(tmp_path / "again", model_config)[0], prefix)


def test_peft_column_order(tmp_path):
    """Column ((2l + kv) * H + h) * D + d of slot v, looked up one by one."""
    prefix = make(LLAMA)
    convert(_run(tmp_path, prefix, LLAMA), "peft", str(tmp_path / "peft"))
    flat = load_file(tmp_path / "peft" / "adapter_model.safetensors")["prompt_embeddings"]
    heads, dim = LLAMA.kv_heads, LLAMA.head_dim
    assert flat.shape == (4, 2 * LLAMA.layers * heads * dim)
    for slot, layer, kv, head, d in [(0, 0, 0, 0, 0), (3, 2, 1, 1, 5), (1, 1, 0, 1, 2), (2, 0, 1, 0, 4)]:
        site = (prefix.decoder.key, prefix.decoder.value)[kv]
        assert flat[slot, ((2 * layer + kv) * heads + head) * dim + d] == site[layer, head, slot, d]


def test_trap_08_rotary_conversion_is_exact():
    """K_0 = R(-m) K_m, against rotations written out in float64, and back."""
    prefix = make(LLAMA, length=7)
    moved = layout.with_offset(prefix, LLAMA, 0)
    assert int(moved.position_offset) == 0
    half = LLAMA.head_dim // 2
    frequency = 1.0 / 1e4 ** (np.arange(half) / half)
    wave, (factor, low, high, original_length) = 2 * np.pi / frequency, LLAMA.rope_scaling[1:]
    ramp = np.clip((original_length / wave - low) / (high - low), 0, 1)
    frequency = (1 - ramp) * frequency / factor + ramp * frequency
    key = np.asarray(prefix.decoder.key, np.float64)
    complex_key = (key[..., :half] + 1j * key[..., half:]) * np.exp(-7j * frequency)
    expected = np.concatenate([complex_key.real, complex_key.imag], -1)
    np.testing.assert_allclose(moved.decoder.key, expected, atol=2e-6)
    np.testing.assert_array_equal(moved.decoder.value, prefix.decoder.value)
    back = layout.with_offset(moved, LLAMA, 7)
    np.testing.assert_allclose(back.decoder.key, prefix.decoder.key, atol=1e-6)


ADAPTERS_CASES = {
    "t5": (T5, {}),
    "t5_subsets": (T5, {"encoder": (1,), "decoder": (0, 2), "cross": (0, 2)}),
    "gpt2": (GPT2, {}),
    "gpt2_subset": (GPT2, {"decoder": (1,)}),
    "llama": (LLAMA, {}),
    "llama_subset": (dataclasses.replace(LLAMA, d_model=24), {"decoder": (0, 2)}),
}


@pytest.mark.parametrize("case", ADAPTERS_CASES)
def test_adapters_round_trip(tmp_path, case):
    """Bit for bit, with the layers that are left out."""
    model_config, layers = ADAPTERS_CASES[case]
    model_config = dataclasses.replace(model_config, d_model=model_config.heads * model_config.head_dim)
    prefix = make(model_config, layers=layers, offset=0)
    convert(_run(tmp_path, prefix, model_config), "adapters", str(tmp_path / "adapters"), name="mine")
    again, identity = adapters.read(tmp_path / "adapters", model_config)
    assert_equal(again, prefix)
    assert identity["name"] == IDENTITY["name"]


def test_adapters_file_is_what_the_format_says(tmp_path):
    prefix = make(T5, layers={"encoder": (1,), "decoder": (0, 2), "cross": (0, 2)}, offset=0)
    convert(_run(tmp_path, prefix, T5), "adapters", str(tmp_path / "out"), name="mine")
    tensors = load_file(tmp_path / "out" / "adapter.safetensors")
    base = "prefix_tuning.prefix_tunings.mine."
    assert set(tensors) == {f"{base}{p}_prefix.control_trans" for p in ("encoder", "self", "cross")}
    cross = tensors[f"{base}cross_prefix.control_trans"]
    assert cross.shape == (4 * 2 * 2 * T5.heads * T5.head_dim,)
    shaped = cross.reshape(4, 2 * 2, T5.heads, T5.head_dim)  # as FlatPrefixTuning views it
    np.testing.assert_array_equal(shaped[:, 3], np.moveaxis(np.asarray(prefix.cross.value[1]), 1, 0))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    # The two encoder layers are 0 and 1; the three decoder layers follow.
    assert config["config"]["leave_out"] == [0, 3] and config["config"]["prefix_length"] == 4
    assert config["config"]["encoder_prefix"] and config["config"]["cross_prefix"] and config["config"]["flat"]


def test_adapters_repeats_grouped_heads(tmp_path):
    model_config = dataclasses.replace(LLAMA, d_model=24)
    prefix = make(model_config, offset=0)
    convert(_run(tmp_path, prefix, model_config), "adapters", str(tmp_path / "out"))
    (flat,) = load_file(tmp_path / "out" / "adapter.safetensors").values()
    heads = flat.reshape(4, 2 * model_config.layers, model_config.heads, model_config.head_dim)
    np.testing.assert_array_equal(heads[:, :, 0], heads[:, :, 1])
    np.testing.assert_array_equal(heads[:, 1, 3], prefix.decoder.value[0, 1])
    broken = flat.copy()
    broken[0] += 1
    _rewrite(tmp_path / "out" / "adapter.safetensors", broken)
    with pytest.raises(UserError, match="share a KV head"):
        adapters.read(tmp_path / "out", model_config)


def _rewrite(path, numbers):
    (name,) = load_file(path)
    save_file({name: numbers}, path)


def test_adapters_mlp_is_evaluated(tmp_path):
    """Weights named and shaped as adapters saves them, against its forward pass done by torch."""
    torch.manual_seed(0)
    length, width = 3, 7
    tensors, expected = {}, {}
    for location, layers in (("encoder_prefix", 2), ("self_prefix", 3)):
        table = torch.nn.Embedding(length, T5.d_model)
        count = layers * 2 * T5.heads * T5.head_dim
        layers_ = (torch.nn.Linear(T5.d_model, width), torch.nn.Tanh(), torch.nn.Linear(width, count))
        trans = torch.nn.Sequential(*layers_)
        base = f"base.prefix_tuning.prefix_tunings.a.b.{location}."
        tensors |= {f"{base}wte.weight": table.weight}
        tensors |= {f"{base}control_trans.{k}": v for k, v in trans.state_dict().items()}
        view = trans(table.weight[None]).view(1, length, layers * 2, T5.heads, T5.head_dim)
        expected[location] = [p.detach().numpy()[:, 0] for p in view.permute(2, 0, 3, 1, 4).split(2)]
    torch.save({k: v.detach() for k, v in tensors.items()}, tmp_path / "pytorch_adapter.bin")
    config = dict(architecture="prefix_tuning", prefix_length=length, flat=False, leave_out=[])
    (tmp_path / "adapter_config.json").write_text(json.dumps({"config": config, "model_name": "t5"}))
    prefix, identity = adapters.read(tmp_path, T5)
    assert identity == {"name": "t5"} and prefix.cross is None and prefix.position_offset == 0
    for site, location in ((prefix.encoder, "encoder_prefix"), (prefix.decoder, "self_prefix")):
        for layer, (key, value) in enumerate(expected[location]):
            np.testing.assert_allclose(site.key[layer], key, atol=1e-6)
            np.testing.assert_allclose(site.value[layer], value, atol=1e-6)


def test_trap_07_adapters_start_tokens_at_zero(tmp_path):
    """RoPE keys are turned on the way out and back; a GPT-2 prefix for tokens from m on is refused."""
    model_config = dataclasses.replace(LLAMA, d_model=24)
    prefix = make(model_config)
    assert "exact to float32 rounding" in convert(
        _run(tmp_path, prefix, model_config), "adapters", str(tmp_path / "out")
    )
    again, _ = adapters.read(tmp_path / "out", model_config)
    assert int(again.position_offset) == 0 and np.abs(again.decoder.key - prefix.decoder.key).max() > 0.1
    back = layout.with_offset(again, model_config, 4)
    np.testing.assert_allclose(back.decoder.key, prefix.decoder.key, atol=1e-6)
    np.testing.assert_array_equal(back.decoder.value, prefix.decoder.value)
    with pytest.raises(UserError, match="learned positions"):
        convert(_run(tmp_path / "gpt2", make(GPT2), GPT2), "adapters", str(tmp_path / "no"))


@pytest.mark.parametrize("form", ["mlp", "deep", "flat", "words"])
def test_original_weights(tmp_path, form):
    """A `pytorch_model.bin` with the names of the original code, against its get_prompt written out."""
    torch.manual_seed(0)
    length, width = 3, GPT2.layers * 2 * GPT2.heads * GPT2.head_dim
    if form == "flat":
        tensors = {"control_trans": torch.randn(length * width)}
        numbers = tensors["control_trans"].view(1, length, GPT2.layers * 2, GPT2.heads, GPT2.head_dim)
    elif form == "words":
        tensors = {"control_trans": torch.randn(GPT2.layers * 2, 1, GPT2.heads, length, GPT2.head_dim)}
        numbers = tensors["control_trans"].permute(1, 3, 0, 2, 4)
    else:
        sizes = [GPT2.d_model, 7, *([7] if form == "deep" else []), width]
        parts = []
        for a, b in itertools.pairwise(sizes):
            parts += [torch.nn.Linear(a, b), torch.nn.Tanh()]
        trans = torch.nn.Sequential(*parts[:-1])
        table = torch.randn(length, GPT2.d_model)
        tensors = {"wte.weight": table} | {f"control_trans.{k}": v for k, v in trans.state_dict().items()}
        numbers = trans(table[None]).view(1, length, GPT2.layers * 2, GPT2.heads, GPT2.head_dim)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    prefix, _ = original.read(tmp_path, GPT2)
    assert prefix.position_offset == length
    for layer, (key, value) in enumerate(numbers.detach().permute(2, 0, 3, 1, 4).split(2)):
        np.testing.assert_allclose(prefix.decoder.key[layer], key[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(prefix.decoder.value[layer], value[0].numpy(), atol=1e-6)


def test_original_three_sites(tmp_path):
    model_config = dataclasses.replace(T5, encoder_depth=3)
    width, names = 3 * 2 * T5.heads * T5.head_dim, {"encoder": "_enc", "cross": "2", "decoder": ""}
    tensors = {}
    for seed, mark in enumerate(names.values()):
        torch.manual_seed(seed)
        tensors[f"wte{mark}.weight"] = torch.randn(2, T5.d_model)
        for index, (a, b) in ((0, (T5.d_model, 4)), (2, (4, width))):
            tensors[f"control_trans{mark}.{index}.weight"] = torch.randn(b, a)
            tensors[f"control_trans{mark}.{index}.bias"] = torch.randn(b)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    prefix, _ = original.read(tmp_path, model_config)
    for site, mark in names.items():
        hidden = torch.tanh(tensors[f"wte{mark}.weight"] @ tensors[f"control_trans{mark}.0.weight"].T
                            + tensors[f"control_trans{mark}.0.bias"])  # fmt: skip
        flat = hidden @ tensors[f"control_trans{mark}.2.weight"].T + tensors[f"control_trans{mark}.2.bias"]
        np.testing.assert_allclose(layout.to_flat(getattr(prefix, site)), flat.numpy(), atol=1e-5)


def test_original_round_trip_is_read_by_torch(tmp_path):
    prefix = make(GPT2)
    convert(_run(tmp_path, prefix, GPT2), "original", str(tmp_path / "out"))
    state = torch.load(tmp_path / "out" / "pytorch_model.bin", weights_only=True)
    assert list(state) == ["control_trans"] and state["control_trans"].dtype == torch.float32
    view = state["control_trans"].view(4, GPT2.layers * 2, GPT2.heads, GPT2.head_dim)
    np.testing.assert_array_equal(view[2, 3].numpy(), prefix.decoder.value[1, :, 2])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["preseqlen"] == 4
    assert_equal(original.read(tmp_path / "out", GPT2)[0], prefix)


@pytest.mark.parametrize("projected", [True, False])
def test_p_tuning_v2_weights(tmp_path, projected):
    width = GPT2.layers * 2 * GPT2.heads * GPT2.head_dim
    flat = torch.randn(3, width)
    if projected:
        table = torch.randn(3, GPT2.d_model)
        trans = torch.nn.Sequential(torch.nn.Linear(GPT2.d_model, 5), torch.nn.Tanh(), torch.nn.Linear(5, width))
        flat = trans(table).detach()
        tensors = {f"prefix_encoder.trans.{k}": v for k, v in trans.state_dict().items()}
        tensors["prefix_encoder.embedding.weight"] = table
    else:
        tensors = {"prefix_encoder.embedding.weight": flat}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    prefix, _ = original.read(tmp_path, GPT2)
    np.testing.assert_allclose(layout.to_flat(prefix.decoder), flat.numpy(), atol=1e-6)


def _other_peft(folder, **changes):
    convert(_run(folder, make(GPT2), GPT2), "peft", str(folder / "peft"))
    path = folder / "peft" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return str(folder / "peft")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"peft_type": "IA3"}, "holds a IA3 adapter"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "encoder-decoder"),
        ({"num_transformer_submodules": 2}, "encoder-decoder"),
        ({"num_virtual_tokens": 5}, "prompt_embeddings"),
        ({"num_layers": 4}, "prompt_embeddings"),
        ({"token_dim": None}, "does not say token_dim"),
    ],
)
def test_foreign_damage_is_one_sentence(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        convert(_other_peft(tmp_path, **changes), "prefix_jax", str(tmp_path / "out"))


@pytest.mark.parametrize(
    "model_config, options, target, words",
    [
        (T5, {}, "peft", "encoder-decoder"),
        (GPT2, {"layers": {"decoder": (1,)}}, "peft", "on layers 1 only"),
        (GPT2, {"bias": True}, "peft", "bias on its slots"),
        (T5, {"bias": True, "offset": 0}, "adapters", "bias on its slots"),
        (T5, {"layers": {"cross": (1,)}, "offset": 0}, "adapters", "together"),
        (LLAMA, {}, "adapters", "head's width"),
        (LLAMA, {}, "original", "GPT-2 only"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(tmp_path, model_config, options, target, words):
    model_config = (
        dataclasses.replace(model_config, d_model=13)
        if model_config is LLAMA and target == "adapters"
        else model_config
    )
    with pytest.raises(UserError, match=words):
        convert(_run(tmp_path, make(model_config, **options), model_config), target, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "model_config, target, words",
    [(T5, "peft", "use --to adapters"), (BART, "peft", "keep it as prefix_jax"), (BART, "adapters", "BART")],
    ids=["t5", "bart", "bart-adapters"],
)
def test_an_encoder_decoders_prefix_on_one_site_is_no_decoder_only_models(tmp_path, model_config, target, words):
    prefix = make(model_config, offset=0)
    run = _run(tmp_path, prefix.replace(encoder=None, cross=None), model_config)
    with pytest.raises(UserError, match=words):
        convert(run, target, str(tmp_path / "out"))


@pytest.mark.parametrize("target", ["peft", "adapters", "original"])
def test_an_infix_is_not_written_as_a_prefix(tmp_path, target):
    with pytest.raises(UserError, match="infix"):
        convert(_run(tmp_path, make(GPT2).replace(infix=True), GPT2), target, str(tmp_path / "out"))


def test_tensors_beside_a_prefix_are_not_dropped(tmp_path):
    folder = _other_peft(tmp_path)
    path = tmp_path / "peft" / "adapter_model.safetensors"
    save_file({**load_file(path), "base_model.score.weight": np.ones(3, np.float32)}, path)
    with pytest.raises(UserError, match="base_model.score.weight"):
        convert(folder, "prefix_jax", str(tmp_path / "out"))


def test_a_window_into_which_peft_counts_the_prefix_is_said(tmp_path):
    model_config = dataclasses.replace(LLAMA, sliding_window=5)
    assert "window of 5 tokens" in convert(
        _run(tmp_path, make(model_config), model_config), "peft", str(tmp_path / "out")
    )


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Harm:
        def __reduce__(self):
            return (print, ("harm",))

    torch.save({"control_trans": Harm()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="print"):
        convert(str(tmp_path), "prefix_jax", str(tmp_path / "out"), model=_config(tmp_path / "base"))


def _config(folder, **changes):
    """A model directory that has only GPT2's config.json."""
    folder.mkdir()
    config = dict(model_type="gpt2", vocab_size=50, n_layer=3, n_embd=12, n_head=4, n_positions=32, n_inner=16)
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return str(folder)


def test_foreign_weights_need_the_model(tmp_path):
    torch.save({"control_trans": torch.zeros(2 * 72)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="--model"):
        convert(str(tmp_path), "prefix_jax", str(tmp_path / "out"))
    model = _config(tmp_path / "base")
    convert(str(tmp_path), "prefix_jax", str(tmp_path / "out"), model=model)
    prefix, meta = load(tmp_path / "out")
    assert prefix.decoder.key.shape == (3, 4, 2, 3) and meta["model"]["name"] == model
    with pytest.raises(UserError, match="another"):
        convert(str(tmp_path), "prefix_jax", str(tmp_path / "no"), model=_config(tmp_path / "two", n_layer=5))


def test_a_peft_prefix_for_another_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="use the model the prefix was made for"):
        convert(_other_peft(tmp_path), "prefix_jax", str(tmp_path / "out"), model=_config(tmp_path / "b", n_layer=2))


def test_out_must_be_empty(tmp_path):
    source = _run(tmp_path, make(GPT2), GPT2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        convert(source, "peft", str(tmp_path / "out"))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["notes.txt"]
    convert(source, "peft", str(tmp_path / "out"), overwrite=True)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert peft.is_mine(tmp_path / "out")


@pytest.mark.parametrize(
    "words, says",
    [
        (["--from", "{}/absent", "--to", "peft", "--out", "{}/o"], "does not exist"),
        (["--from", "{}", "--to", "peft", "--out", "{}/o"], "holds no prefix"),
        (["--from", "{}", "--to", "petf", "--out", "{}/o"], "petf"),
        (["--from", "{}", "--to", "peft"], "--out"),
    ],
)
def test_command_line_ends_with_code_2_and_a_sentence(tmp_path, capsys, words, says):
    code = run([word.format(tmp_path) for word in words])
    error = capsys.readouterr().err
    assert code == 2 and says in error and error.count("\n") == 1


def test_command_line_converts_and_back(tmp_path, capsys):
    source = _run(tmp_path, make(T5, offset=0), T5)
    assert run(["--from", source, "--to", "adapters", "--out", str(tmp_path / "a"), "--name", "x"]) == 0
    assert "encoder, decoder, cross, bit for bit" in capsys.readouterr().out
    run(["--from", source, "--to", "prefix_jax", "--out", str(tmp_path / "b")])
    assert_equal(load(tmp_path / "b", T5, IDENTITY)[0], make(T5, offset=0))


def test_another_kind_of_adapter_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"config": {"architecture": "lora"}}')
    with pytest.raises(UserError, match='architecture "lora"'):
        convert(str(tmp_path), "prefix_jax", str(tmp_path / "out"))
