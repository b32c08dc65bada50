from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from tests.strategies import describe_exactly, make_record, recordings
from varprobe import recording_file
from varprobe.errors import RecordingFormatError
from varprobe.moments import LinearInput, Moments
from varprobe.recording import Recording, Unobserved

RECORDING = Recording(
    records=(
        make_record(0.1, exponents={-3: 4}, shape=(2, 2), fan_in=2, fan_out=8),
        make_record(
            linear_input=LinearInput(
                second_moment=1.0, energy=2.0, common_energy=0.5, effective_samples=1.5, positions=4
            )
        ),
    ),
    meta={"model": "MLP", "seed": 0, "input": {"shape": [2, 2], "dtype": "float32"}},
    unobserved=(Unobserved(module="head", reason="never called"),),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recording.json"


@pytest.fixture
def saved(path: Path) -> Path:
    RECORDING.save(path)
    return path


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Apply ``change`` to the document in the file."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


class TestRoundTrip:
    @given(recordings)
    def test_what_is_loaded_is_what_was_saved(
        self, tmp_path_factory: pytest.TempPathFactory, recording: Recording
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "round_trip.json"
        recording.save(path)
        assert describe_exactly(Recording.load(path)) == describe_exactly(recording)

    def test_a_plain_recording_comes_back_equal(self, saved: Path) -> None:
        assert Recording.load(saved) == RECORDING

    def test_nan_and_infinity_survive_in_fields_and_in_meta(self, path: Path) -> None:
        moments = Moments(numel=3, mean=math.nan, m2=math.inf, abs_max=-math.inf, nan=1, inf=2)
        facts = {"loss": math.nan, "bounds": [-math.inf, math.inf], "name": "nan"}
        Recording(records=(make_record(moments=moments),), meta=facts).save(path)
        loaded = Recording.load(path)
        kept = loaded.records[0].moments
        assert math.isnan(kept.mean)
        assert (kept.m2, kept.abs_max) == (math.inf, -math.inf)
        assert math.isnan(loaded.meta["loss"])
        assert loaded.meta["bounds"] == [-math.inf, math.inf]
        assert loaded.meta["name"] == "nan"

    @pytest.mark.parametrize("value", [5e-324, sys.float_info.max, 0.1, -0.0, 2.0**53 + 2])
    def test_floats_come_back_bit_for_bit(self, path: Path, value: float) -> None:
        Recording(records=(make_record(value),)).save(path)
        assert Recording.load(path).records[0].moments.mean.hex() == value.hex()

    def test_a_path_may_be_a_string(self, path: Path) -> None:
        RECORDING.save(str(path))
        assert Recording.load(str(path)) == RECORDING

    def test_merging_after_loading_is_merging_before(self, saved: Path) -> None:
        assert Recording.load(saved).merge(RECORDING) == RECORDING.merge(RECORDING)


class TestFile:
    def test_it_is_one_document_of_standard_json(self, path: Path) -> None:
        moments = Moments(numel=1, mean=math.nan, m2=math.inf, abs_max=0.0, nan=1)
        Recording(records=(make_record(moments=moments),), meta={"loss": math.inf}).save(path)

        def refuse(constant: str) -> None:
            pytest.fail(f"{constant} is no JSON")

        document = json.loads(path.read_text("ascii"), parse_constant=refuse)
        assert document["format"] == "varprobe recording"
        assert document["version"] == recording_file.VERSION
        assert document["records"][0]["moments"]["mean"] == "nan"
        assert document["meta"] == {"loss": {"$float": "inf"}}

    def test_it_has_a_line_for_each_record(self, saved: Path) -> None:
        lines = saved.read_text().splitlines()
        assert [json.loads(line.removesuffix(","))["depth"] for line in lines[4:-1]] == [0, 0]

    def test_the_same_recording_gives_the_same_bytes(self, saved: Path) -> None:
        first = saved.read_bytes()
        Recording.load(saved).save(saved)
        assert saved.read_bytes() == first

    def test_a_number_without_fraction_is_a_float_where_one_is_due(self, saved: Path) -> None:
        # What other programs make of 1.0.
        edit(saved, lambda d: d["records"][1]["moments"].update(mean=1))
        mean = Recording.load(saved).records[1].moments.mean
        assert isinstance(mean, float)
        assert mean == 1.0

    def test_loading_needs_no_torch(self, saved: Path) -> None:
        code = (
            "import sys; from varprobe.recording import Recording; Recording.load(sys.argv[1]); "
            "print('torch' in sys.modules)"
        )
        command = [sys.executable, "-c", code, str(saved)]
        assert subprocess.check_output(command, text=True).strip() == "False"

    @pytest.mark.parametrize("version", [1, 2])
    def test_a_file_of_an_older_version_is_read(self, saved: Path, version: int) -> None:
        def go_back(document: dict[str, Any]) -> None:
            document["version"] = version
            for record in document["records"]:
                assert record.pop("distinct_rows") is None
                received = record["linear_input"] or {"sample_spread": None, "token_spread": None}
                assert (received.pop("sample_spread"), received.pop("token_spread")) == (None, None)
                if version == 1:
                    assert record.pop("sampling") is None

        edit(saved, go_back)
        assert Recording.load(saved) == RECORDING


class TestWriting:
    @pytest.mark.parametrize(
        ("meta", "message"),
        [
            ({"dtype": complex}, r"meta\['dtype'\] is <class 'complex'>, expected None, a bool"),
            ({"a": [0, (1, 2)]}, r"meta\['a'\]\[1\] is \(1, 2\), expected"),
            ({"a": {1: 2}}, r"meta\['a'\] is \{1: 2\}, expected .* a dict with string keys"),
        ],
    )
    def test_meta_that_json_cannot_hold_is_refused(
        self, path: Path, meta: dict[str, object], message: str
    ) -> None:
        with pytest.raises(TypeError, match=message):
            Recording(records=(), meta=meta).save(path)
        assert not path.exists()

    @pytest.mark.parametrize(("field", "value"), [("numel", 4.0), ("mean", "0"), ("zeros", True)])
    def test_a_field_of_the_wrong_type_is_refused_before_it_cannot_be_loaded(
        self, path: Path, field: str, value: object
    ) -> None:
        fields = {"numel": 4, "mean": 0.0, "m2": 0.0, "abs_max": 0.0, field: value}
        message = rf"records\[0\]\.moments\.{field} is {value!r}, expected a"
        with pytest.raises(TypeError, match=message):
            Recording(records=(make_record(moments=Moments(**fields)),)).save(path)

    def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(
        self, saved: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = saved.read_bytes()

        def fail(descriptor: int) -> None:
            raise OSError("no space left on device")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="no space left"):
            Recording(records=()).save(saved)
        assert saved.read_bytes() == before
        assert list(saved.parent.iterdir()) == [saved]

    def test_a_link_keeps_pointing_to_the_file(self, saved: Path) -> None:
        link = saved.with_name("link.json")
        link.symlink_to(saved)
        Recording(records=()).save(link)
        assert link.is_symlink()
        assert Recording.load(saved) == Recording(records=())


class TestReadingBadFiles:
    def test_every_truncation_is_noticed(self, saved: Path) -> None:
        content = saved.read_bytes().rstrip()
        for length in range(len(content)):
            saved.write_bytes(content[:length])
            with pytest.raises(RecordingFormatError):
                Recording.load(saved)

    def test_a_truncated_file_is_told_from_a_foreign_one(self, saved: Path) -> None:
        saved.write_bytes(saved.read_bytes()[:-10])
        with pytest.raises(RecordingFormatError) as caught:
            Recording.load(saved)
        assert str(caught.value).startswith(f"{saved} begins as a recording and cannot be read to")
        assert "copy or save the recording again" in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (b"", "nothing"),
            (pickle.dumps({"state": 1}), "bytes that are no JSON"),
            (b"module,mean\n0,1.0\n", "bytes that are no JSON"),
            (b"[" * 100_000, "bytes that are no JSON"),
            (b"null", "the JSON value None"),
            (b"[1, 2]", r"the JSON value \[1, 2\]"),
            (b'{"model": "MLP"}', 'an object with "format": None'),
            (b'{"format": "onnx"}', "an object with \"format\": 'onnx'"),
        ],
    )
    def test_a_foreign_file_is_named_as_such(self, path: Path, content: bytes, found: str) -> None:
        path.write_bytes(content)
        with pytest.raises(RecordingFormatError, match=found) as caught:
            Recording.load(path)
        assert f"{path} is not a recording: it holds" in str(caught.value)
        assert "Give a file that Recording.save wrote." in str(caught.value)

    def test_a_newer_version_asks_for_an_upgrade(self, saved: Path) -> None:
        newer = recording_file.VERSION + 1
        edit(saved, lambda d: d.update(version=newer, records="in another shape"))
        with pytest.raises(RecordingFormatError) as caught:
            Recording.load(saved)
        assert str(caught.value) == (
            f"{saved} is a recording of format version {newer}, and this varprobe reads up to "
            f"version {recording_file.VERSION}. Upgrade varprobe to read it."
        )

    @pytest.mark.parametrize("version", [None, "1", 0, 1.0, True])
    def test_a_version_that_is_none_is_damage(self, saved: Path, version: object) -> None:
        edit(saved, lambda d: d.update(version=version))
        with pytest.raises(RecordingFormatError, match=r"its version is .*, expected a whole"):
            Recording.load(saved)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda d: d.update(records={}), r"records is \{\}, expected a list"),
            (lambda d: d.update(meta=[]), r"meta is \[\], expected an object"),
            (lambda d: d.pop("unobserved"), "the document is .*, expected an object of exactly"),
            (lambda d: d.update(extra=1), "the document is .*, expected an object of exactly"),
            (lambda d: d["unobserved"][0].pop("reason"), r"unobserved\[0\] is .* exactly module"),
            (lambda d: d["records"][0].update(depth="3"), r"records\[0\]\.depth is '3', expected"),
            (lambda d: d["records"][0].update(depth=True), r"depth is True, expected a whole"),
            (lambda d: d["records"][0].update(depth=3.5), r"depth is 3\.5, expected a whole"),
            (lambda d: d["records"][0].update(kind=None), "kind is None, expected a string"),
            (lambda d: d["records"][0].update(shape=[2, "2"]), r"shape\[1\] is '2', expected a"),
            (lambda d: d["records"][0].update(fan_in=[]), r"fan_in is \[\], expected a whole"),
            (lambda d: d["records"][0].update(moments=None), "moments is None, expected an obj"),
            (lambda d: d["records"][0].update(exponents=[1]), r"exponents is \[1\], expected an"),
            (lambda d: d["records"][0].update(exponents={"03": 1}), "exponents is '03', expected"),
            (lambda d: d["records"][0].update(exponents={"3": "1"}), r"exponents\[3\] is '1'"),
            (lambda d: d["records"][0]["moments"].update(mean="NaN"), "mean is 'NaN', expected a"),
            (lambda d: d["records"][0]["moments"].update(mean=None), "mean is None, expected a"),
            (lambda d: d["records"][0]["moments"].update(mean=False), "mean is False, expected a"),
            (lambda d: d["records"][0]["moments"].update(mean=10**400), r"mean is 1000.*…, expec"),
            (
                lambda d: d["records"][0]["site"].update(signal="grad"),
                r"records\[0\]\.site\.signal is 'grad', expected one of activation, gradient",
            ),
            (lambda d: d["meta"].update(loss={"$float": "big"}), r"meta\['loss'\] is 'big', exp"),
        ],
    )
    def test_a_field_of_another_type_is_named_with_what_was_expected(
        self, saved: Path, change: Callable[[Any], object], message: str
    ) -> None:
        edit(saved, change)
        with pytest.raises(RecordingFormatError, match=message) as caught:
            Recording.load(saved)
        assert str(caught.value).startswith(f"{saved} is a damaged recording: ")
        assert str(caught.value).endswith("save the recording again.")

    def test_a_number_too_large_for_a_float_is_not_taken_for_infinity(self, saved: Path) -> None:
        saved.write_text(saved.read_text().replace('"mean": 0.1,', '"mean": 1e999,'))
        with pytest.raises(RecordingFormatError, match="mean is inf, expected a finite number"):
            Recording.load(saved)

    def test_literals_that_only_python_reads_are_refused(self, saved: Path) -> None:
        saved.write_text(saved.read_text().replace('"mean": 0.1,', '"mean": NaN,'))
        with pytest.raises(RecordingFormatError, match="NaN is no JSON value"):
            Recording.load(saved)

    def test_a_missing_file_is_the_usual_error(self, path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Recording.load(path)
