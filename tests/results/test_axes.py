"""Labels of axes: text that knows what it names, also after a copy and a file."""

import copy
import pickle

import torch

from vitlens.results.axes import ComponentLabel, TokenLabel, head_bias_label, head_label, neuron_label, patch_label
from vitlens.results.result import Result, load_result


def test_labels_are_the_text_they_were():
    assert patch_label(3, 7) == "(3, 7)"
    assert f"{head_label(9, 3)}" == "L9H3"
    assert [head_bias_label(0, 1), neuron_label(2, 5)].index("L2 neuron 5") == 1
    assert {patch_label(0, 0): 1}["(0, 0)"] == 1


def test_copies_and_pickles_know_what_the_original_knew():
    for label in (patch_label(3, 7), TokenLabel("class", "prefix"), neuron_label(2, 5)):
        for other in (copy.deepcopy(label), pickle.loads(pickle.dumps(label)), label.renamed(f"the {label}")):
            assert vars(other) == vars(label)
            assert type(other) is type(label)


def test_files_keep_what_labels_know(tmp_path):
    tokens = [TokenLabel("class", "prefix"), patch_label(0, 0)]
    parts = [head_label(0, 1), ComponentLabel("constant", "constant")]
    Result(torch.eye(2), {"token": tokens, "component": parts}, "logit").save(tmp_path / "labels.safetensors")
    axes = load_result(tmp_path / "labels.safetensors").axes
    assert axes == {"token": tokens, "component": parts}
    assert (axes["token"][1].kind, axes["token"][1].row) == ("patch", 0)
    assert axes["component"][0].head == 1
    assert axes["component"][0].neuron is None


def test_tables_show_plain_text():
    frame = Result(torch.zeros(1), {"token": [patch_label(1, 2)]}, "logit").to_frame()
    assert str(frame["token"][0]) == "(1, 2)"
