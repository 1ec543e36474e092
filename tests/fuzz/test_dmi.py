"""dmidecode prints what the firmware's makers wrote."""

from hypothesis import given
from hypothesis import strategies as st

from g8node.wire import dmi

LINES = st.sampled_from(
    [
        "Handle 0x0000, DMI type 0, 24 bytes",
        "BIOS Information",
        "\tVendor: x",
        "\t\titem",
        "# d",
        "",
        "\t",
        "\t\t\t:",
        ":",
        "Handle 0x1, DMI type 999, 0 bytes",
    ]
)


@given(st.lists(st.one_of(LINES, st.text(max_size=40)), max_size=60))
def test_no_output_is_an_error(lines: list[str]) -> None:
    for section in dmi.parse("\n".join(lines))["sections"]:
        assert section.keys() == {"handleline", "typestr", "typenum", "subsections"}
