"""What is told before a teacher is trained, and the record of how it did under attack."""

import numpy as np
import pytest
import torch
from torch import nn

from rcnas_edge.attacks import Threat
from rcnas_edge.errors import InputError
from rcnas_edge.pipeline.console import Silent
from rcnas_edge.pipeline.flags import attacked_flags
from rcnas_edge.pipeline.teach import TeacherSetting, teach


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"level": "total"}, "--level is one of smoke"),
        ({"seed": -1}, "--seed is between 0"),
        ({"recipe": "rslad"}, "distils"),
        ({"learning_rate": float("inf")}, "learning rate"),
        ({"learning_rate": float("nan")}, "learning rate"),
    ],
)
def test_a_misfit_is_told_before_anything_is_trained(tmp_path, change, words):
    with pytest.raises(InputError, match=words):
        teach(TeacherSetting(subset=300, **change), tmp_path / "teacher", Silent())
    assert not (tmp_path / "teacher").exists()


class Brighter(nn.Module):
    """Class 1 for images brighter than a half, class 0 for others; no parameters, and never many images at once."""

    def forward(self, images):
        assert len(images) <= 256
        over = images.flatten(1).mean(1) - 0.5
        return torch.stack([-over, over], dim=1)


def test_flags_of_a_threshold_are_known_by_hand():
    """An image falls if epsilon moves its mean over the threshold: |mean - 0.5| < epsilon."""
    means = np.linspace(0.2, 0.8, 301, dtype=np.float32)  # none at the border
    means = means[np.abs(np.abs(means - 0.5) - 0.1) > 1e-3]
    images = np.broadcast_to(means[:, None, None, None], (len(means), 1, 4, 4)).copy()
    labels = (means > 0.5).astype(np.int64)
    labels[0] = 1  # wrong without an attack
    threat = Threat.parse("linf:0.1:5")
    clean, robust = attacked_flags(Brighter(), images, labels, threat, level="smoke", advance=lambda share, text: None)
    right = labels == (means > 0.5)
    assert (clean == right).all()
    assert (robust == (right & (np.abs(means - 0.5) > 0.1))).all()
