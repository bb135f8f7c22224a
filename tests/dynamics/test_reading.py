"""The reader: what it takes, and each refusal on its words."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residyn.dynamics import read_csv
from residyn.errors import InputError

GOOD = "t,x,y\n0,1,2\n0.5,3,4\n1.5,5,6\n"


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "data.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_plain_file(tmp_path):
    data = read_csv(write(tmp_path, GOOD))
    assert data.names == ["x", "y"]
    assert data.t[0].tolist() == [0.0, 0.5, 1.5]
    assert data.x[0].tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    assert data.derivative is None
    assert data.control is None


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(tmp_path, encoding):
    assert read_csv(write(tmp_path, GOOD, encoding)).names == ["x", "y"]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_blank_lines_comments_and_line_ends(tmp_path, separator):
    text = "# made by a logger\n" + GOOD.replace(",", separator).replace("\n", "\r\n") + "\r\n"
    assert read_csv(write(tmp_path, text)).samples == 3


def test_trajectories_may_be_interleaved(tmp_path):
    text = "run,t,x,u\na,0,1,7\nb,0,2,8\na,1,3,9\nb,2,4,10\n"
    data = read_csv(write(tmp_path, text))
    assert data.ids == ["a", "b"]
    assert [x.flatten().tolist() for x in data.x] == [[1, 3], [2, 4]]
    assert [u.flatten().tolist() for u in data.control] == [[7, 9], [8, 10]]
    assert data.t[1].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("header", "names", "derivative", "order"),
    [
        ("t,x,y,dx,dy", ["x", "y"], [3, 4], 1),
        ("t,x,y,x_dot,y_dot", ["x", "y"], [3, 4], 1),
        ("t,x,y,vx,vy", ["x", "y", "vx", "vy"], None, 2),
        ("t,x,vx,ax,n_2", ["x", "vx", "ax", "n_2"], None, 1),  # n_2 has no velocity: not a whole second-order system
        ("t,x,x_dot,x_ddot,u1", ["x", "x_dot"], [2, 3], 2),
        ("time,day,age,ax,b", ["day", "age", "ax", "b"], None, 1),
    ],
)
def test_parts_follow_from_names(tmp_path, header, names, derivative, order):
    data = read_csv(write(tmp_path, f"{header}\n0,1,2,3,4\n1,1,2,3,4\n"))
    assert (data.names, data.order) == (names, order)
    assert (None if data.derivative is None else data.derivative[0][0].tolist()) == derivative


def test_arguments_overrule_names(tmp_path):
    path = write(tmp_path, "clock,dx,x,u\n0,1,2,3\n1,4,5,6\n")
    data = read_csv(path, time="clock", state=["x", "u"], control=["dx"])
    assert (data.names, data.controls) == (["x", "u"], ["dx"])
    assert read_csv(path, time="clock", state=["x"], derivative=["dx"]).derivative[0].tolist() == [[1], [4]]


BAD = {
    "": "line 1 must begin with a header line",
    "t,x\n": "at least 2 rows of data, got none",
    "t,x\n0,1\n": "line 2 must have at least 2 rows a trajectory, got 1 row in the file",
    "run,t,x\na,0,1\na,1,1\nb,0,1\n": "line 4 must have at least 2 rows a trajectory, got 1 row in trajectory 'b'",
    "t,x\n0,1\n1\n": "line 3 must have 2 cells, as the header, got 1 cells",
    "t,x\n0,1\n1,2,3\n": "line 3 must have 2 cells, as the header, got 3 cells",
    "t,x\n0,1\n1,\n": "line 3, column 'x' must have no missing value, got ''",
    "t,x\n0,1\n1,NaN\n": "line 3, column 'x' must have no missing value, got 'NaN'",
    "t,x\n0,1\n1,inf\n": "line 3, column 'x' must hold finite numbers, got 'inf'",
    "t,x\n0,1\n1,two\n": "line 3, column 'x' must hold numbers only, got 'two'",
    't,x\n0,1\n1,"2,5"\n': "got '2,5'; write the decimal sign as a point",
    "t,x\n0,1\n1,1_0\n": "line 3, column 'x' must hold numbers only, got '1_0'",
    "t,x\n0,1\n0,2\n": "line 3, column 't' must hold increasing times, got 0, a repeated time",
    "t,x\n1,1\n0,2\n": "line 3, column 't' must hold increasing times, got 0, a time after 1",
    "id,t,x\na,1,1\na,0,1\n": "must hold increasing times within a trajectory",
    "id,t,x\na,1,1\n,2,1\n": "line 3, column 'id' must have no missing value, got an empty cell",
    "a,x\n0,1\n1,2\n": "line 1 must have a column of times named t or time, got a, x",
    "t,x,x\n0,1,2\n": "each column name once, got 'x' 2 times",
    "t,,x\n0,1,2\n": "must name every column, got an empty name in column 2",
    "0,1\n1,2\n": "line 1 must name the columns, got numbers, 0, 1",
    "t,u\n0,1\n1,2\n": "must name at least one column besides the time, got none",
    't,x\n0,"1\n1,2\n': "must be CSV",
}


@pytest.mark.parametrize("text", BAD)
def test_refusals_name_file_place_rule_value_and_fix(tmp_path, text):
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_csv(path)
    message = str(caught.value)
    assert BAD[text] in message
    assert message.startswith(str(path))
    assert ";" in message
    assert "\n" not in message


def test_refusals_of_files_and_arguments(tmp_path):
    with pytest.raises(InputError, match=r"absent\.csv: must be a file that can be read, got: No such file"):
        read_csv(tmp_path / "absent.csv")
    with pytest.raises(InputError, match=r"must be a file that can be read, got: Is a directory"):
        read_csv(tmp_path)
    with pytest.raises(InputError, match=r"must be UTF-8 text, got bytes that are not"):
        read_csv(write(tmp_path, "t,ä\n0,1\n1,2\n", "latin-1"))
    path = write(tmp_path, GOOD)
    with pytest.raises(InputError, match=r"`state` must name columns of the file, got 'z'; it has t, x, y"):
        read_csv(path, state=["z"])
    with pytest.raises(InputError, match=r"each column must have one part, got 'x' in two"):
        read_csv(path, state=["x"], control=["x"])
    with pytest.raises(InputError, match=r"`order` 2 must come with a velocity for each position, got 1 state columns"):
        read_csv(path, state=["x"], order=2)
    with pytest.raises(InputError, match=r"`derivative` must name one column for each of the 2 state columns, got 1"):
        read_csv(write(tmp_path, "t,x,y,z\n0,1,2,3\n1,2,3,4\n"), derivative=["z"])
    with pytest.raises(InputError, match=r"`order` must be 1 or 2, got 3"):
        read_csv(path, order=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2), min_size=2, max_size=12))
def test_what_is_written_is_read_back_bit_for_bit(tmp_path_factory, rows):
    text = "t,x,y\n" + "".join(f"{i},{a!r},{b!r}\n" for i, (a, b) in enumerate(rows))
    data = read_csv(write(tmp_path_factory.mktemp("csv"), text))
    assert data.x[0].tolist() == rows


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="t,x;\n\r\t\"'0123456789.e-+ña\0_#", max_size=60))
def test_any_text_is_read_or_refused_in_one_line(tmp_path_factory, text):
    path = write(tmp_path_factory.mktemp("csv"), text)
    try:
        data = read_csv(path)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert all(bool(torch.isfinite(x).all()) and bool((t.diff() > 0).all()) for t, x in data)


def test_large_file_is_read_row_by_row(tmp_path):
    path = tmp_path / "large.csv"
    with path.open("w") as file:
        file.write("t,x\n")
        file.writelines(f"{i},{math.sin(i):.6f}\n" for i in range(200_000))
    data = read_csv(path)
    assert data.samples == 200_000
    assert data.x[0][-1].item() == pytest.approx(math.sin(199_999), abs=1e-6)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas_where_they_part_no_cells(tmp_path, separator):
    rows = [["t", "x"], ["0", "1,5"], ["0,5", "-,25"], ["1,0", "1e-3"], ["1,5", "2,5E+02"]]
    path = tmp_path / "x.csv"
    path.write_text("\n".join(separator.join(row) for row in rows))
    data = read_csv(path)
    assert data.t[0].tolist() == [0.0, 0.5, 1.0, 1.5]
    assert data.x[0].flatten().tolist() == [1.5, -0.25, 0.001, 250.0]


def test_units_in_the_header(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("Time [s],x (m),vx (m/s),u (N),run\n0,1,0,0,a\n1,2,1,0,a\n")
    data = read_csv(path)
    assert (data.names, data.controls, data.order) == (["x (m)", "vx (m/s)"], ["u (N)"], 2)
    assert read_csv(path, time="time", state=["x"]).names == ["x (m)"]
    path.write_text("t (s),x (m),x (rad)\n0,1,0\n1,2,1\n")
    assert read_csv(path).names == ["x (m)", "x (rad)"]
    with pytest.raises(InputError, match="`state` must name columns of the file, got 'x'"):
        read_csv(path, state=["x"])
