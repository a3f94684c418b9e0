"""The published numbers that come with the package."""

import pytest

from iql_fast.tasks import catalogue, published


@pytest.mark.parametrize(("family", "count"), [("locomotion-v2", 9), ("antmaze-v0", 6)])
def test_the_rows_of_table_1_add_up_to_the_totals_printed_below_them(family, count):
    table = published.table1()
    kind, version = family.split("-")
    rows = [
        name
        for name in table
        if name in catalogue.names()
        and catalogue.get(name).family == kind
        and name.endswith(version)
    ]
    assert len(rows) == count
    for method, total in table[f"{family} total"].items():
        assert sum(table[row][method] for row in rows) == pytest.approx(total, abs=1e-6)


def test_table_2_has_a_score_before_and_after_of_every_task_and_method():
    before, after = published.table2("before"), published.table2("after")
    assert list(before) == list(after)
    assert set(before) <= set(catalogue.names())
    assert len(before) == 9
    for table in (before, after):
        assert {tuple(scores) for scores in table.values()} == {("AWAC", "CQL", "IQL")}
    assert (before["pen-binary-v0"]["AWAC"], after["pen-binary-v0"]["AWAC"]) == (44.6, 70.3)
    # The offline scores of AWAC on antmaze stand in both tables.
    for task in (name for name in before if name.startswith("antmaze")):
        assert before[task]["AWAC"] == published.table1()[task]["AWAC"]


def test_scores_of_iql_come_from_the_paper_and_from_other_implementations():
    assert published.iql_scores()["hopper-medium-v2"] == {
        "paper": 66.2, "CORL": 67.5, "OfflineRL-Kit": 65.7, "IQL-PyTorch": 61.2, "JAX-CORL": 56.8
    }  # fmt: skip
    assert published.iql_scores()["antmaze-large-play-v0"] == {"paper": 39.6}
    assert published.iql_scores()["antmaze-large-play-v2"] == {"CORL": 42.0}
    assert set(published.iql_scores()) <= set(catalogue.names())
    assert published.table1()[published.RUNTIME]["IQL"] == 20
    assert published.methods()[0] == "BC"
    assert published.methods()[-1] == "IQL"
