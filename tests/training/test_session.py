"""What a session makes of the options of a model."""

from prefix_jax.config import default_config
from prefix_jax.training import session


def test_attention_for_tpus_is_plain_elsewhere_and_says_so(tiny_models, capsys):
    config = default_config()
    config.model.update(source=str(tiny_models["gpt2"]), attention="fused")
    assert not session.open_session(config).model.fused
    assert "model.attention=fused is a kernel for TPUs; on this cpu attention is plain." in capsys.readouterr().err
