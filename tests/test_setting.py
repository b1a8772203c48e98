"""Task settings: files, flags and the sentences for what does not fit."""

import tomllib

import pytest

from rcnas_edge.errors import InputError
from rcnas_edge.setting import TaskSetting, read_task


def test_a_task_file_comes_back_as_it_was(tmp_path):
    setting = TaskSetting(dataset="folder", data_root='C:\\a "b"\r\té', max_macs="40%", min_robust=0.5, image_size=32)
    (tmp_path / "task.toml").write_text(setting.to_toml(), encoding="utf-8", newline="")
    assert TaskSetting.from_dict(read_task(tmp_path / "task.toml")) == setting


def test_budgets_are_the_given_ones_or_the_default():
    assert TaskSetting().limits_of("host") == {"macs": "40%", "latency": "60%"}
    assert TaskSetting(max_params="1M").limits_of("host") == {"params": "1M"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_mac": "1M"}, "did you mean 'max_macs'"),
        ({"evaluations": "12"}, "--evaluations is of type int, got '12'"),
        ({"evaluations": 0}, "at least 1"),
        ({"evaluations": True}, "--evaluations is of type int, got True"),
        ({"data_root": "\udcff"}, "--data-root is text that UTF-8 can write"),
        ({"min-robust": 45}, "fraction between 0 and 1"),
        ({"precision": "int4"}, "--precision is one or more of fp32, fp16, int8, got 'int4'"),
        ({"precision": "fp32,fp32"}, "names each precision once, got 'fp32,fp32'"),
        ({"precision": "fp32", "target-precision": "int8"}, r"is one of --precision \(fp32\), got 'int8': add it"),
        ({"qat-epochs": 2}, "--qat-epochs fine-tunes for int8, --precision is fp32"),
        ({"qat-epochs": -1}, "--qat-epochs is 0 .* or more, got -1"),
        ({"device": "tpu"}, "auto, cpu or cuda"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_a_misfit_is_one_sentence(values, words):
    with pytest.raises(InputError, match=words):
        TaskSetting.from_dict(values)


def test_a_file_that_is_not_toml_is_named(tmp_path):
    (tmp_path / "a.toml").write_text("dataset = ")
    with pytest.raises(InputError, match=r"a\.toml is not"):
        read_task(tmp_path / "a.toml")
    with pytest.raises(InputError, match="cannot be read"):
        read_task(tmp_path / "b.toml")


def test_budgets_are_about_the_target_precision():
    assert TaskSetting(precision="fp32, int8").aim == "fp32"
    asked = TaskSetting(precision="fp32,int8", target_precision="int8", threads=2)
    assert asked.precisions == ("fp32", "int8")
    assert [str(target) for target in asked.targets] == ["host/int8/2"]
    assert TaskSetting.from_dict(tomllib.loads(asked.to_toml())) == asked
