"""Tables of /proc/net."""

from g8node.linux.netinfo import inet_listeners, unix_listeners

TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0
   1: 0100007F:18EB 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0
"""
TCP6 = """  sl  local_address                         remote_address                        st tx_queue
   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 4713 1
   1: 0000000000000000FFFF00000100007F:0017 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 4714 1
"""
UNIX = """Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 4715 /run/with a space
0000000000000000: 00000002 00000000 00010000 0001 01 4716
0000000000000000: 00000003 00000000 00000000 0001 03 4717 /run/connected
0000000000000000: 00000002 00000000 00010000 0001 01 4718 @abstract
"""


def test_only_sockets_that_wait_are_listed() -> None:
    assert inet_listeners("tcp", "0A", TCP) == [({"network": "tcp", "port": 6379, "ip": "127.0.0.1"}, "4711")]


def test_ipv6_words_are_in_the_machines_order() -> None:
    rows = [row for row, _ in inet_listeners("tcp6", "0A", TCP6)]
    assert [(row["ip"], row["port"]) for row in rows] == [("::", 22), ("127.0.0.1", 23)]


def test_missing_table_is_no_sockets() -> None:
    assert inet_listeners("tcp6", "0A", "") == []


def test_unix_sockets_are_those_with_a_name_that_accept() -> None:
    assert unix_listeners(UNIX) == [
        ({"network": "unix", "unix": "/run/with a space"}, "4715"),
        ({"network": "unix", "unix": "@abstract"}, "4718"),
    ]
