"""What may be written for a server's address, and what gRPC makes of it."""

import pytest

import saeserve
from saeserve.transport.target import parse_target


@pytest.mark.parametrize(
    ("given", "address", "several", "local"),
    [
        ("127.0.0.1:50051", "127.0.0.1:50051", False, True),
        ("localhost:50051", "localhost:50051", False, True),
        ("[::1]:50051", "[::1]:50051", False, True),
        ("unix:/run/saeserve", "unix:/run/saeserve", False, True),
        ("10.0.0.1:50051", "10.0.0.1:50051", False, False),
        ("localhost.example:50051", "localhost.example:50051", False, False),
        (" 10.0.0.1:50051 ", "10.0.0.1:50051", False, False),
        (["10.0.0.1:50051"], "10.0.0.1:50051", False, False),
        (["127.0.0.1:1", "127.0.0.2:2"], "ipv4:127.0.0.1:1,127.0.0.2:2", True, True),
        ("127.0.0.1:1, 10.0.0.1:2", "ipv4:127.0.0.1:1,10.0.0.1:2", True, False),
        (["127.0.0.1:1,127.0.0.1:2", "127.0.0.1:3"], "ipv4:127.0.0.1:1,127.0.0.1:2,127.0.0.1:3", True, True),
        (["127.0.0.1:1", "localhost:2"], "ipv4:127.0.0.1:1,127.0.0.1:2", True, True),
        (["[::1]:1", "[::1]:2"], "ipv6:[::1]:1,[::1]:2", True, True),
        ("dns:///saeserve:50051", "dns:///saeserve:50051", True, False),
        ("dns:localhost:50051", "dns:localhost:50051", True, True),
        ("dns://8.8.8.8/saeserve:50051", "dns://8.8.8.8/saeserve:50051", True, False),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", "ipv4:10.0.0.1:1,10.0.0.2:1", True, False),
        ("ipv4:127.0.0.1:1", "ipv4:127.0.0.1:1", False, True),
        ("xds:///saeserve", "xds:///saeserve", True, False),
    ],
)
def test_targets(given, address, several, local):
    target = parse_target(given)
    assert (target.address, target.several, target.local) == (address, several, local)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "no port"),
        ("localhost", "no port; HOST:PORT"),
        ("10.0.0.1", "no port"),
        ("[::1]", "no port"),
        ("dns:///saeserve", "'dns:///saeserve' has no port"),
        (["127.0.0.1:1", "localhost"], "'localhost' has no port"),
        ("127.0.0.1:1,", "no port"),
        ([], "no target"),
        ("::1:50051", "brackets"),
        ("http://localhost:50051", "is a URL"),
        ("localhost:http", "from 1 to 65535"),
        ("localhost:0", "from 1 to 65535"),
        ("localhost:65536", "from 1 to 65535"),
        (":50051", "no address"),
        ("a b:50051", "no address"),
        (["127.0.0.1:1", "[::1]:2"], "all of IPv4 or all of IPv6"),
        (["dns:///a:1", "127.0.0.1:1"], "no address|URL"),
    ],
)
def test_what_is_no_target(given, says):
    with pytest.raises(ValueError, match=says):
        parse_target(given)


def test_names_that_nobody_knows_are_left_out_unless_none_is_known(caplog):
    assert parse_target(["127.0.0.1:1", "nobody.invalid:1"]).address == "ipv4:127.0.0.1:1"
    assert "nobody.invalid" in caplog.text
    with pytest.raises(saeserve.Unavailable, match=r"nobody\.invalid"):
        parse_target(["nobody.invalid:1", "nothing.invalid:1"])


def test_the_name_that_several_have_in_common():
    assert parse_target("localhost:1,localhost:2").server_name == "localhost"
    assert parse_target("127.0.0.1:1,127.0.0.2:1").server_name is None
