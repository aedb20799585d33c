"""An absent broker's complaints: a few lines, then one a minute, with how many were left out."""

import logging

from streams.quiet import BURST, Quiet


def record(name: str, level: int = logging.ERROR, text: str = "no %s") -> logging.LogRecord:
    return logging.LogRecord(name, level, "", 0, text, ("broker",), None)


def test_a_storm_becomes_a_line_a_minute():
    now = [0.0]
    quiet = Quiet(lambda: now[0])
    passed = []
    for second in range(300):
        now[0] = float(second)
        for _ in range(100):
            line = record("aiokafka.client" if second % 2 else "faust.app")
            if quiet.filter(line):
                passed.append(line)
    assert len(passed) == BURST + 4
    assert passed[0].getMessage() == "no broker"
    assert "lines like this were left out" in passed[-1].getMessage()
    told = sum(int(p.getMessage().split("(")[1].split()[0]) for p in passed if "(" in p.getMessage())
    assert told <= 300 * 100 - len(passed)


def test_what_is_not_a_clients_complaint_passes():
    quiet = Quiet(lambda: 0.0)
    for _ in range(100):
        assert quiet.filter(record("fleetwatch.worker"))
        assert quiet.filter(record("aiokafka", logging.INFO))
        assert quiet.filter(record("faust", logging.CRITICAL))
        assert quiet.filter(record("fausty"))
