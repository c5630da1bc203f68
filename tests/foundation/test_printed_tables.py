from stablequant.foundation.tables import columns


def test_columns_are_as_wide_as_their_widest_cell():
    assert columns([("name", "n"), ("a", "10"), ("bcdef", "2")], "<>") == ["name    n", "a      10", "bcdef   2"]


def test_the_last_cell_of_a_short_row_has_its_own_width():
    rows = [("site", "bits", "low"), ("a", "float: it is too long to be a column"), ("b", "w8a8", "0.1")]
    assert columns(rows, "<>>") == ["site  bits  low", "a     float: it is too long to be a column", "b     w8a8  0.1"]


def test_nothing_is_no_table():
    assert columns([]) == []
