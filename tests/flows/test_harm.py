"""The harmed weights: what is changed, and that it is the same every time."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from flows.demo.harm import HERE, NOISE, harm


def test_last_two_convolutions_get_noise_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "harmed.safetensors"
    harm(path)
    good, harmed = load_file(HERE / "allcnn.safetensors"), load_file(path)
    assert good.keys() == harmed.keys()
    changed = [name for name in good if not torch.equal(good[name], harmed[name])]
    assert changed == [name for name in good if good[name].dim() == 4][-2:]
    for name in changed:
        noise = (harmed[name] - good[name]) / good[name].std()
        assert abs(noise.std().item() - NOISE) < 0.1 * NOISE


def test_the_same_every_time(tmp_path: Path) -> None:
    harm(tmp_path / "a")
    harm(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
