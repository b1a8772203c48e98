"""Checkpoints: whole files, no pickles, and damage that is named."""

import json

import pytest
import torch
from torch import nn

from rcnas_edge.checkpoint import (
    load_weights,
    pack,
    read_checkpoint,
    read_json,
    read_state,
    unpack,
    write_checkpoint,
    write_state,
    write_whole,
)
from rcnas_edge.errors import InputError
from rcnas_edge.nets import family
from rcnas_edge.nets.wrn_rows import network


def small_network():
    config = network("wrn-10-1", image=(1, 8, 8), classes=3, mean=(0.3,), std=(0.4,))
    return config, family("wrn").build(config).eval()


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    config, model = small_network()
    write_checkpoint(tmp_path, model, config, family="wrn", facts={"threat": "linf:0.1:10"})
    checkpoint = read_checkpoint(tmp_path)
    again, same = checkpoint.build()
    images = torch.rand(2, 1, 8, 8)
    assert same == config
    assert torch.equal(again(images), model(images))
    assert checkpoint.facts == {"threat": "linf:0.1:10"}


@pytest.mark.parametrize("change", [{"family": ["wrn"]}, {"network": None}, {"facts": []}])
def test_a_description_of_other_types_is_refused(tmp_path, change):
    values = {"schema": 1, "family": "wrn", "network": {}, "facts": {}, **change}
    (tmp_path / "network.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="must name a family and hold a network"):
        read_checkpoint(tmp_path)


def test_changed_weights_are_refused(tmp_path):
    config, model = small_network()
    write_checkpoint(tmp_path, model, config, family="wrn", facts={})
    raw = bytearray((tmp_path / "weights.safetensors").read_bytes())
    raw[-3] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(raw)
    with pytest.raises(InputError, match="by sha256"):
        read_checkpoint(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fails(aside):
        aside.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fails)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_state_keeps_tensors_and_values_together(tmp_path):
    tensors: dict = {}
    state = {"policy": {"weight": torch.arange(6.0).view(2, 3)}, "seen": [[1, 2], [3]], "best": 0.5, "none": None}
    write_state(tmp_path / "state", tensors, {"state": pack(state, tensors)})
    read, values = read_state(tmp_path / "state")
    again = unpack(values["state"], read)
    assert torch.equal(again["policy"]["weight"], state["policy"]["weight"])
    assert {key: again[key] for key in ("seen", "best", "none")} == {"seen": [[1, 2], [3]], "best": 0.5, "none": None}


def test_weights_from_plain_files(tmp_path):
    model = nn.Linear(2, 3)
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, tmp_path / "a.pt"
    )
    assert set(load_weights(tmp_path / "a.pt")) == {"module.weight", "module.bias"}
    write_state(tmp_path / "a.safetensors", model.state_dict(), {})
    assert torch.equal(load_weights(tmp_path / "a.safetensors")["weight"], model.weight)


def test_anything_that_needs_code_to_unpickle_is_refused(tmp_path):
    torch.save(nn.Linear(2, 3), tmp_path / "module.pt")
    with pytest.raises(InputError, match="weights_only=True"):
        load_weights(tmp_path / "module.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"{}")
    with pytest.raises(InputError, match="whole safetensors"):
        load_weights(tmp_path / "broken.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="holds a list"):
        load_weights(tmp_path / "list.pt")
    torch.save({0: torch.zeros(1)}, tmp_path / "numbers.pt")
    with pytest.raises(InputError, match="names to tensors"):
        load_weights(tmp_path / "numbers.pt")
    with pytest.raises(InputError, match="is not one"):
        load_weights(tmp_path / "missing.pt")


def test_broken_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"a": 1})[:-1])
    with pytest.raises(InputError, match=r"a\.json must be a JSON file"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"cannot be read"):
        read_json(tmp_path / "b.json")
