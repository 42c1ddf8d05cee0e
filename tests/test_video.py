"""Videos: every frame once, in order, of the right colors; files that can be watched."""

from contextlib import closing

import cv2
import numpy as np
import pytest
from fake_predictor import write_video

from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.inference.jobs.video import VideoFile, count_frames, is_live, read_frames


def test_frames_in_order_and_upright_colors(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 12, fps=8.0)
    frames = list(read_frames(path))
    assert [frame.number for frame in frames] == list(range(12))
    assert [round(float(frame.image.mean()), -1) for frame in frames] == [10 * n for n in range(12)]
    assert frames[0].fps == 8.0
    assert frames[4].seconds == pytest.approx(0.5)
    assert count_frames(path) == 12


@pytest.mark.parametrize(("every", "wanted"), [(2, [0, 2, 4, 6]), (3, [0, 3, 6]), (7, [0]), (99, [0])])
def test_the_first_of_every_so_many(tmp_path, every, wanted):
    path = write_video(tmp_path / "clip.mp4", 7)
    assert [frame.number for frame in read_frames(path, every=every)] == wanted
    assert count_frames(path, every=every) == len(wanted)


def test_nothing_is_read_ahead_and_the_file_is_let_go(tmp_path):
    frames = read_frames(write_video(tmp_path / "clip.mp4", 5))
    assert next(frames).number == 0
    frames.close()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "file does not exist"),
        (b"", "cannot be opened: not a video"),
        (b"RIFF" * 99, "cannot be opened"),
    ],
)
def test_what_is_no_video(tmp_path, content, text):
    path = tmp_path / "clip.avi"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadImageError, match=text):
        next(read_frames(path))
    assert count_frames(path) == 0


def test_a_video_that_ends_too_early_is_told(tmp_path):
    path = tmp_path / "clip.avi"  # whose index is at its end, so that OpenCV opens what is cut off
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 64))
    rng = np.random.default_rng(0)
    for _ in range(40):
        writer.write(rng.integers(0, 255, (64, 64, 3), np.uint8))
    writer.release()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    seen = []
    with pytest.raises(BadImageError, match=r"ends after \d+ of 40 frames: file is truncated"):
        seen.extend(read_frames(path))
    assert 5 < len(seen) < 30


@pytest.mark.parametrize("hw", [(32, 48), (33, 47), (2, 2)])
def test_a_written_file_has_the_frames_and_the_colors(tmp_path, hw):
    path = tmp_path / "new" / "out.mp4"
    image = np.zeros((*hw, 3), np.uint8)
    image[..., 0] = 200  # red
    with closing(VideoFile(path, fps=12.5)) as file:
        for _ in range(6):
            file.write(image)
        assert not path.exists()  # not before it is whole
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert len(frames) == 6
    height, width = (size + size % 2 for size in hw)
    assert frames[0].shape == (height, width, 3)
    assert np.abs(frames[0].astype(int) - (0, 0, 200)).max() < 12  # blue, green, red
    assert [each.name for each in path.parent.iterdir()] == ["out.mp4"]


def test_a_live_video_keeps_its_time(tmp_path):
    with closing(VideoFile(tmp_path / "out.mp4", fps=10.0)) as file:
        for seconds in (0.0, 0.1, 0.7, 1.0):  # the model was slow once
            file.write(np.zeros((16, 16, 3), np.uint8), until=seconds)
    assert count_frames(tmp_path / "out.mp4") == 10


def test_no_frame_makes_no_file(tmp_path):
    with closing(VideoFile(tmp_path / "out.mp4", fps=10.0)):
        pass
    assert not list(tmp_path.iterdir())


def test_what_was_written_before_an_error_can_be_watched(tmp_path):
    def stop():
        with closing(VideoFile(tmp_path / "out.mp4", fps=10.0)) as file:
            file.write(np.zeros((16, 16, 3), np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert count_frames(tmp_path / "out.mp4") == 1


def test_frames_of_one_size_only(tmp_path):
    with closing(VideoFile(tmp_path / "out.mp4", fps=10.0)) as file:
        file.write(np.zeros((16, 16, 3), np.uint8))
        with pytest.raises(ValueError, match="frame 1 has 8 x 16 pixels, the first had 16 x 16"):
            file.write(np.zeros((8, 16, 3), np.uint8))


def test_what_is_live(tmp_path):
    assert is_live(0)
    assert is_live("rtsp://host")
    assert not is_live(tmp_path / "clip.mp4")
