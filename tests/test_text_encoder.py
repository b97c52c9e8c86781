"""The text encoder against the original's numbers, and its causality."""

import numpy as np
import pytest
import torch

from mask2former.modeling.layers import MLP
from oneformer.text_encoder import TextEncoder
from tests.conftest import SHARED, needs_shared


@needs_shared
def test_against_the_original():
    """Stored in float32: a float64 run agrees to its rounding."""
    load_file = pytest.importorskip("safetensors.torch").load_file
    from weights import keys_original
    from weights.translate import Layout

    folder = SHARED / "reference/units"
    native, unknown = Layout(keys_original.TEXT_BRANCH).to_native(load_file(folder / "text_encoder.safetensors"))
    assert not unknown
    encoder, projector = TextEncoder(400, 77, 128, 2), MLP(128, 64, 64, 2)
    for module, prefix in ((encoder, "text_encoder."), (projector, "text_projector.")):
        module.load_state_dict({k.removeprefix(prefix): v for k, v in native.items() if k.startswith(prefix)})
    stored = {name: torch.from_numpy(array) for name, array in np.load(folder / "text_encoder.npz").items()}
    with torch.no_grad():
        encoded = encoder.double()(stored["tokens"])
        projected = projector.double()(encoded)
    for actual, name in ((encoded, "text_encoder_out"), (projected, "text_projector_out")):
        assert (actual - stored[name]).abs().max() <= 2e-6 * stored[name].abs().max()


def test_what_follows_the_end_token_does_not_matter():
    encoder = TextEncoder(50, 12, 64, 2)
    tokens = torch.randint(1, 49, (3, 12))
    tokens[:, 5] = 49
    changed = tokens.clone()
    changed[:, 6:] = 7
    with torch.no_grad():
        expected = encoder(tokens)
        torch.testing.assert_close(encoder(changed), expected)
        changed[:, 4] = (changed[:, 4] + 1) % 49
        assert (encoder(changed) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("tokens", [torch.zeros(3, 11, dtype=torch.int64), torch.zeros(3, 12)])
def test_wrong_tokens(tokens):
    with pytest.raises(ValueError, match=r"expected integer ids \(texts, 12\)"):
        TextEncoder(50, 12, 64, 1)(tokens)
