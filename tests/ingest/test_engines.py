"""What an engine may do to a run, whichever it is; and what the Ray engine decides without Ray."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from vidsift.errors import EngineError
from vidsift.index import Index
from vidsift.ingest.decode import read_here
from vidsift.ingest.encode import encode_here
from vidsift.ingest.plan import Work
from vidsift.ingest.ray_engine import Layout, Order, _judged, make_groups, plan_layout
from vidsift.ingest.ray_stages import Encoder, Job, Trouble, Unseen, read_group, unpack
from vidsift.ingest.reading import Clip, Done, Failed, Opened, ReadSettings
from vidsift.ingest.results import Encoded, Lost
from vidsift.ingest.walk import Candidate
from vidsift.models import load_model
from vidsift.video import Geometry, SegmentConfig


@pytest.fixture
def engine(monkeypatch):
    """Put a function over the local engine's results: `engine(change)`."""

    def put(change) -> None:
        def read(works, settings, model, fingerprint):
            yield from change(encode_here(read_here(works, settings), model, settings.segmentation))

        monkeypatch.setattr("vidsift.ingest.pipeline.choose_engine", lambda *args: read)

    return put


def table_of(place) -> pa.Table:
    index = Index.open(place.index)
    return index._store().rows(list(index.files())).sort_by([("path", "ascending"), ("clip", "ascending")])


def test_a_file_that_begins_anew_has_each_clip_once(place, engine):
    def twice(results):
        held: list[Any] = []
        for work, result in results:
            held.append((work, result))
            yield work, result
            if isinstance(result, Encoded) and result.record.start == 10.0:
                yield from held
            held = [] if isinstance(result, Done) else held

    place.put("a.mp4", "a 4")
    place.put("b.mp4", "b 1")
    told = []
    engine(twice)
    report = place.sync(progress=told.append)
    assert (report.added, report.clips, told[-1].clips) == (2, 5, 5)
    assert report.stages["encode"].clips == 5
    assert table_of(place).column("start").to_pylist() == [0.0, 10.0, 20.0, 30.0, 0.0]


def test_a_lost_file_is_reported_and_left_for_another_run(place, engine):
    def losing(results):
        for work, result in results:
            if not work.file.path.endswith("b.mp4") or isinstance(result, Opened):
                yield work, result
            elif isinstance(result, Done):
                yield work, Lost("lost with its worker")

    place.put("b.mp4", "old 2")
    place.sync()
    place.put("a.mp4", "a 1")
    place.put("b.mp4", "new 3")
    engine(losing)
    report = place.sync()
    assert [(Path(p.path).name, p.reason) for p in report.failed] == [("b.mp4", "lost with its worker")]
    assert (report.added, report.updated, report.clips) == (1, 0, 3)
    engine(lambda results: results)
    report = place.sync()
    assert (report.updated, report.unchanged, report.clips, report.failed) == (1, 1, 4, [])


def test_events_come_in_order_and_once_whichever_way_they_arrive():
    events = {0: [Opened(4.0), "a", "b", Done(4.0, None, {})], 1: [Failed("no")], 2: [Opened(1.0), "c"]}
    sent = [(file, number, event) for file, list_ in events.items() for number, event in enumerate(list_)]
    for seed in range(20):
        order, got = Order(), {0: [], 1: [], 2: []}
        arriving = sent * 2
        random.Random(seed).shuffle(arriving)
        for file, number, event in arriving:
            got[file] += order.take(file, number, event)
        assert got == events
        assert order.ended == {0, 1}


def works(*sizes: int) -> list[Work]:
    return [Work(Candidate(f"/{i}", size, 1, (0, 0), False), f"p{i}", False) for i, size in enumerate(sizes)]


def test_small_files_go_together_and_large_ones_alone():
    small, large = 1 << 20, 1 << 30
    assert make_groups(works(*[small] * 40), range(40), readers=1) == [
        list(range(begin, begin + 10)) for begin in (0, 10, 20, 30)
    ]
    assert make_groups(works(small, large, small, small), [0, 1, 2, 3], readers=1) == [[0], [1], [2], [3]]
    many = make_groups(works(*[small] * 20, large, *[small] * 79), range(100), readers=2)
    assert [file for group in many for file in group] == list(range(100))
    assert [20] in many
    assert max(map(len, many)) == 13
    assert max(map(len, make_groups(works(*[1] * 1000), range(1000), readers=2))) == 16


def test_a_cluster_is_shared_out_as_one_machine_is():
    assert plan_layout([{"CPU": 2.0}], None, None) == Layout(2, 1, 2, 0)
    assert plan_layout([{"CPU": 2.0}], None, None, cores=1) == Layout(2, 2, 1, 0)
    assert plan_layout([{}, *[{"CPU": 1.0}] * 3], 5, None) == Layout(5, 3, 1, 0)
    assert plan_layout([{"CPU": 16.0}, {"CPU": 6.0}], None, None) == Layout(22, 5, 4, 0)
    assert plan_layout([{"CPU": 16.0, "GPU": 2.0}, {"CPU": 8.0}], None, None) == Layout(24, 2, 1, 1)
    assert plan_layout([{"CPU": 16.0, "GPU": 2.0}], None, "cpu") == Layout(16, 4, 4, 0)
    assert Layout(24, 3, 4, 0).for_groups(2) == Layout(2, 2, 4, 0)
    with pytest.raises(EngineError, match="no CPU"):
        plan_layout([{"memory": 1.0}], None, None)
    with pytest.raises(EngineError, match="no GPU"):
        plan_layout([{"CPU": 8.0}], None, "cuda")


def stages(paths: list[Path], job: Job) -> list[tuple[int, int, Any]]:
    group = pa.table(
        {
            "file": range(len(paths)),
            "path": [str(path).encode() for path in paths],
            "fingerprint": [f"print{i}" for i in range(len(paths))],
        }
    )
    encoder = Encoder(job, threads=None)
    rows = [row for table in read_group(group, job) for row in unpack(encoder(table))]
    return [(file, number, event) for file, number, _, event in rows]


def test_the_stages_make_of_files_what_the_local_engine_makes(tmp_path, video):
    model = load_model("vidsift-tiny")
    settings = ReadSettings(
        model.frames_per_clip, model.preprocess.geometry, SegmentConfig("windows", 0.5, 1)
    )
    video(tmp_path / "a.mp4", seed=1, frames=25)
    (tmp_path / "b.mp4").write_bytes(b"garbage" * 100)
    paths = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    job = Job(settings, "vidsift-tiny", model.fingerprint(), "cpu")
    todo = [
        Work(Candidate(str(path), 1, 1, (0, 0), False), f"print{i}", False) for i, path in enumerate(paths)
    ]
    expected = [
        (todo.index(work), event)
        for work, event in encode_here(read_here(todo, settings), model, settings.segmentation)
    ]
    got = stages(paths, job)
    assert [(file, number) for file, number, _ in got] == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0)]
    for (_, wanted), (_, _, event) in zip(expected, got, strict=True):
        if isinstance(wanted, Encoded):
            assert event.record.clip_id == wanted.record.clip_id
            assert event.record.vectors.coarse.tobytes() == wanted.record.vectors.coarse.tobytes()
            assert event.record.vectors.frames.tobytes() == wanted.record.vectors.frames.tobytes()
            assert event.record.parts == wanted.record.parts
        else:
            assert event == wanted
    assert not any(isinstance(event, Clip) for _, _, event in got)


def test_a_machine_that_cannot_do_its_part_says_why(tmp_path, video):
    video(tmp_path / "a.mp4", seed=1)
    settings = ReadSettings(3, Geometry(16), SegmentConfig())
    for job, reason in [
        (Job(settings, "vidsift-tiny", "f" * 16, "cpu"), "other weights"),
        (Job(settings, "no such model", "f" * 16, "cpu"), "no model 'no such model'"),
        (Job(settings, "vidsift-tiny", "f" * 16, "cpu", version="9.9"), "9.9; install the same"),
    ]:
        (_, _, event), *_ = stages([tmp_path / "a.mp4"], job)
        assert isinstance(event, Trouble)
        assert reason in event.reason
        with pytest.raises(EngineError, match=reason.partition(";")[0]):
            _judged(works(1)[0], event)


def test_a_file_that_only_some_machines_see_is_no_failed_file(tmp_path):
    here = Work(Candidate(str(tmp_path), 1, 1, (0, 0), False), "print", False)
    with pytest.raises(EngineError, match=r"node7: cannot open .* mount it at the same path"):
        _judged(here, Unseen("node7", "No such file or directory"))
    gone = Work(Candidate(str(tmp_path / "gone"), 1, 1, (0, 0), False), "print", False)
    assert _judged(gone, Unseen("node7", "No such file or directory")) == Failed("No such file or directory")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"engine": "spark"}, "engine must be one of local, ray"),
        ({"address": "auto"}, "address 'auto' is for engine 'ray'"),
        ({"engine": "ray", "workers": 0, "model": "vidsift-tiny"}, "workers must be 1 or more"),
        ({"engine": "ray", "workers": 1}, "name or folder"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(place, monkeypatch, settings, reason):
    monkeypatch.setattr("vidsift.ingest.ray_engine.check_installed", lambda: None)
    place.put("a.mp4", "a 1")
    with pytest.raises(ValueError, match=reason):
        place.sync(**settings)
    assert not place.index.exists()


def test_without_the_extra_ray_is_not_missed_until_it_is_asked_for(tmp_path, video):
    (tmp_path / "lib").mkdir()
    video(tmp_path / "lib" / "a.mp4", seed=1)
    script = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'ray' else find(name, *rest)\n"
        "from vidsift.cli import main\n"
        f"folder = {str(tmp_path)!r}\n"
        "for engine in ('local', 'ray'):\n"
        "    sys.argv = ['vidsift', 'index', folder + '/lib', '-i', folder + '/' + engine, '-q',\n"
        "                '-m', 'vidsift-tiny', '--workers', '1', '--engine', engine]\n"
        "    try:\n        main()\n"
        "    except SystemExit as end:\n        print(engine, end.code)\n"
        "print([name for name in sys.modules if name.partition('.')[0] == 'ray'])\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout.splitlines()[1:] == ["local 0", "ray 3", "[]"]
    assert run.stderr.splitlines() == ["vidsift: engine 'ray' needs Ray: pip install 'vidsift[ray]'"]
    assert not (tmp_path / "ray").exists()
