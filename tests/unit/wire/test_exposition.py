"""Prometheus' text format, with names from strangers."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from g8node.wire.exposition import Sample, render

LINE = re.compile(
    r'[a-zA-Z_][a-zA-Z0-9_]*(\{([a-zA-Z_][a-zA-Z0-9_]*="([^"\\\n]|\\.)*"(,|(?=\})))*\})? [-+.0-9a-zA-Z]+'
)


def test_page_has_families_with_type_and_help() -> None:
    page = render(
        [
            Sample("jobs", "gauge", 3, help="Jobs\nnow."),
            Sample("bytes", "counter", 1.5, (("id", "a"),)),
            Sample("jobs", "gauge", 4, (("id", "b"),)),
        ]
    )
    assert page == (
        "# HELP jobs Jobs\\nnow.\n# TYPE jobs gauge\njobs 3\n"
        'jobs{id="b"} 4\n# TYPE bytes_total counter\nbytes_total{id="a"} 1.5\n'
    )


def test_same_name_and_labels_are_written_once() -> None:
    page = render([Sample("a.b", "gauge", 1), Sample("a-b", "gauge", 2)])
    assert page == "# TYPE a_b gauge\na_b 1\n"


def test_family_keeps_its_kind() -> None:
    assert (
        render([Sample("a_total", "gauge", 1), Sample("a", "counter", 2)])
        == "# TYPE a_total gauge\na_total 1\n"
    )


def test_odd_values_have_the_format_s_names() -> None:
    page = render([Sample(name, "gauge", float(name)) for name in ("inf", "-inf", "nan")])
    assert [line for line in page.splitlines() if not line.startswith("#")] == [
        "inf +Inf",
        "_inf -Inf",
        "nan NaN",
    ]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.builds(
            Sample,
            st.text(max_size=8),
            st.sampled_from(["gauge", "counter"]),
            st.floats(),
            st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=3).map(tuple),
        ),
        max_size=5,
    )
)
def test_any_names_make_a_page_of_the_format(samples: list[Sample]) -> None:
    page = render(samples)
    names = []
    for line in page.split("\n")[:-1]:
        if line.startswith("#") or not line:
            continue
        assert LINE.fullmatch(line), line
        names.append(line.rpartition(" ")[0])
    assert len(names) == len(set(names))
