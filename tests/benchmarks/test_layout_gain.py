"""The data of the experiment on layout gain: colours follow height, and the control arm has maps of other meshes."""

import json

import cv2
import numpy as np

from benchmarks.layout_gain import ARMS, SIDE, two_tones, write_dataset
from texdiff.demo.palette import COLOURS
from texdiff.uv.layout.map_image import read_map


def test_the_upper_half_has_the_first_colour_and_the_lower_the_second():
    for number in range(7):
        texture, positions, text = two_tones(number)
        top, _, _, bottom, *_ = text.split()
        height = positions[..., 1] / 65535
        for name, half in ((top, height > 0.5), (bottom, (height > 0) & (height < 0.5))):
            mean = texture[half].mean(axis=0) / 255
            assert np.abs(mean - COLOURS[name]).max() < 0.12, text


def test_in_the_control_arm_no_texture_has_its_own_map(tmp_path):
    assert [*ARMS] == ["own", "other"]
    for arm in ARMS:
        write_dataset(tmp_path / arm, range(9), own_maps=arm == "own")
    rows = [json.loads(line) for line in (tmp_path / "own/train/metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 9
    for row in rows:
        own, other = (read_map(tmp_path / arm / "train" / row["layout_file_name"]) for arm in ARMS)
        mask = cv2.imread(str(tmp_path / "other/train" / row["mask_file_name"]), cv2.IMREAD_GRAYSCALE)
        assert mask.shape == (SIDE, SIDE)
        np.testing.assert_array_equal(own.any(axis=2), mask > 0)
        assert (own != other).any()
