"""Tiny models of every family with a tokenizer, as Hugging Face directories."""

import json
from pathlib import Path

FAMILIES = ("gpt2", "llama", "t5", "bart")


def tokenizer(folder: Path, texts: list[str]):
    """Trains a byte-level BPE of 400 tokens and saves it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, special_tokens=["<pad>", "</s>", "<s>"], initial_alphabet=alphabet)
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", bos_token="<s>")
    fast.save_pretrained(str(folder))
    return fast


def save_model(folder: Path, family: str, seed: int = 0, heads: int = 4, scale: float = 1.0) -> Path:
    """Writes a random model of the family with two layers, and its tokenizer; Llama has two KV heads.

    With a `scale` of 8 or so, what it writes depends on all that it sees.
    """
    import torch
    import transformers as hf

    torch.manual_seed(seed)
    ids = dict(pad_token_id=0, eos_token_id=1, bos_token_id=2)
    if family == "gpt2":
        config = hf.GPT2Config(vocab_size=400, n_layer=2, n_embd=32, n_head=heads, n_positions=256, **ids)
        model = hf.GPT2LMHeadModel(config)
    elif family == "llama":
        config = hf.LlamaConfig(
            vocab_size=400, num_hidden_layers=2, hidden_size=32, num_attention_heads=heads, num_key_value_heads=2,
            head_dim=8, intermediate_size=48, max_position_embeddings=512, tie_word_embeddings=True, **ids,
        )  # fmt: skip
        model = hf.LlamaForCausalLM(config)
    elif family == "mixtral":
        config = hf.MixtralConfig(
            vocab_size=400, num_hidden_layers=2, hidden_size=32, num_attention_heads=heads, num_key_value_heads=2,
            head_dim=8, intermediate_size=48, num_local_experts=4, max_position_embeddings=512, **ids,
        )  # fmt: skip
        model = hf.MixtralForCausalLM(config)
    elif family == "bart":
        sizes = dict(encoder_layers=2, decoder_layers=2, encoder_ffn_dim=48, decoder_ffn_dim=48)
        config = hf.BartConfig(
            vocab_size=400, d_model=32, encoder_attention_heads=heads, decoder_attention_heads=heads, **sizes,
            max_position_embeddings=128, decoder_start_token_id=1, **ids,
        )  # fmt: skip
        model = hf.BartForConditionalGeneration(config)
    else:
        config = hf.T5Config(
            vocab_size=400, num_layers=2, d_model=32, d_kv=12, num_heads=heads, d_ff=48, feed_forward_proj="gated-gelu",
            decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
        )  # fmt: skip
        model = hf.T5ForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale if parameter.ndim > 1 else 1.0)
    model.save_pretrained(folder)
    tokenizer(folder, texts())
    return folder


def texts() -> list[str]:
    return [row["source"] + " " + row["target"] for row in rows(40)]


def rows(count: int) -> list[dict[str, str]]:
    """Rows of a small table-to-text set."""
    foods, areas = ("French", "Thai", "Greek", "Indian"), ("riverside", "centre", "harbour")
    return [
        {
            "source": f"name : Place {i} | food : {foods[i % 4]} | area : {areas[i % 3]}",
            "target": f"Place {i} serves {foods[i % 4]} food by the {areas[i % 3]} .",
        }
        for i in range(count)
    ]


def save_rows(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(count)), encoding="utf-8")
    return path


def configuration(source: Path, folder: Path):
    """Returns a configuration of a tiny model on 40 rows, which it writes to `folder`, with a prefix of 3."""
    from prefix_jax.config import default_config

    config = default_config()
    config.model.source = str(source)
    config.data.update(task="text", path=str(save_rows(folder / "rows.jsonl", 40)))
    config.prefix.update(length=3, hidden=16)
    return config
