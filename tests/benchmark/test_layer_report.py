import pytest

from lambda_keras.benchmark.layer_report import to_markdown
from lambda_keras.benchmark.layer_report import write_report
from lambda_keras.benchmark.layer_results import find_results
from lambda_keras.benchmark.layer_results import mean_speed_up
from tests.benchmark.layer_records import layer_record

RECORDS = [
    layer_record("auto/tf_jit", [6, 6, 6], memory=3_000_000),
    layer_record("auto/jax", [4, 5, 7], memory=4_000_000),
    layer_record("blocked/jax", [4, 4, 4]),
    layer_record("query_first/jax", [9, 9, 9]),
    layer_record("plain_convolution/jax", [1, 1, 1], memory=1),
    layer_record("timm/eager", [30, 30, 30], memory=6_000_000),
    layer_record("timm/compiled", [], error="ValueError: no compiler"),
    layer_record("listing/compiled", [10, 10, 10], memory=9_000_000),
]


def test_ours_is_compared_with_the_fastest_and_the_leanest_of_others():
    (result,) = find_results(RECORDS)
    assert result.auto.name == "auto/jax"
    assert result.foreign.name == "listing/compiled"
    assert result.speed_up == 2
    assert result.auto_memory.name == "auto/tf_jit"
    assert result.foreign_memory.name == "timm/eager"
    assert result.memory_saved == 2


def test_the_plan_is_compared_with_the_implementations_of_its_engine():
    (result,) = find_results(RECORDS)
    assert result.plan_excess == {"jax": 0.25}


def test_without_others_there_is_no_speed_up():
    (result,) = find_results(RECORDS[:4])
    assert result.speed_up is None and result.memory_saved is None
    assert mean_speed_up([result], "training") is None


def test_the_mean_is_geometric_and_of_images_in_one_mode():
    pairs = [
        ("14", "training", 2),
        ("32", "training", 8),
        ("sequence", "training", 100),
        ("14", "forward", 100),
    ]
    records = [
        layer_record(name, [value], shape, mode)
        for shape, mode, factor in pairs
        for name, value in (("auto/tf_jit", 1), ("listing/eager", factor))
    ]
    results = find_results(records)
    assert mean_speed_up(results, "training") == pytest.approx(4)
    assert mean_speed_up(results, "forward") == pytest.approx(100)


def test_the_report_has_every_figure():
    text = to_markdown(find_results(RECORDS), ["Not measured: jax."])
    rows = {
        row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")]
        for row in text.splitlines()
        if row.startswith("| ")
    }
    summary = rows["14"]
    for figure in ("auto/jax", "5.00", "listing/compiled", "2.00", "+25%"):
        assert figure in summary
    assert rows["auto/jax"][2:8] == [
        *("blocked", "5.00", "60%", "4.0", "1.2", "1.00")
    ]
    assert rows["timm/eager"][-2] == "6.00"
    assert "- timm/compiled: ValueError: no compiler" in text
    assert "training: 2.00 times faster" in text
    assert "Not measured: jax." in text
    assert "2 x a processor (CPU), float32" in text


def test_the_picture_and_the_report_are_written(tmp_path):
    text = write_report(RECORDS, tmp_path)
    assert (tmp_path / "report.md").read_text() == f"{text}\n"
    assert (tmp_path / "layers.png").read_bytes()[1:4] == b"PNG"
    assert len(list(tmp_path.iterdir())) == 2


def test_where_all_failed_there_is_a_report_all_the_same(tmp_path):
    failed = [layer_record("auto/jax", [], error="out of memory", memory=None)]
    assert "- auto/jax: out of memory" in write_report(failed, tmp_path)
