"""Times out of ninja's log."""

from build_tools.build_times import build_times, report

LOG = """# ninja log v5
0\t9000\t1\tbuild/a.cu.o\tabc
9000\t9500\t1\tbuild/b.cpp.o\tdef
0\t4000\t2\tbuild/a.cu.o\tabd
"""


def test_the_last_build_of_a_file_counts() -> None:
    assert build_times(LOG) == {"build/a.cu.o": 4.0, "build/b.cpp.o": 0.5}


def test_the_slowest_file_comes_first() -> None:
    files = [line.split()[-1] for line in report(build_times(LOG)).splitlines()]
    assert files == ["a.cu.o", "b.cpp.o", "all"]
