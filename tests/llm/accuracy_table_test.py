#!/usr/bin/env python3
"""accuracy_table.py over a stand-in for rrs-llm: which methods it is asked for, what is kept.

Usage: accuracy_table_test.py ACCURACY_TABLE.PY
"""

import json
import pathlib
import subprocess
import sys
import tempfile

# Writes one record per method, as `perplexity --json` does, and notes how it was called.
STAND_IN = '''#!/usr/bin/env python3
import json, pathlib, sys
a = sys.argv[1:]
value = lambda key: a[a.index(key) + 1]
kv = int(value("--kv"))
methods = [m for m in value("--method").split(",") if m != "fp" or kv != 16]
with open(pathlib.Path(__file__).parent / "calls", "a") as log:
    log.write(value("--method") + " " + str(kv) + "\\n")
record = lambda m, bits, i: {
    "method": m, "kv_bits": bits, "windows": int(value("--windows")),
    "context": int(value("--context")), "perplexity": 20.0 + i, "standard_error": 1.0, "ratio": 1.0,
    "kld_mean": 0.0, "kld_p99": 0.0, "top1": 1.0, "bits_per_weight": 4.5, "tokens_per_second": 1.0,
    "linears": [{"count": 210, "precision": "w4a4", "kernel": "k"}], "simulated": False,
    "config_hash": "%016x" % (0x0123456789abcdef + (i << 32))}
records = [record("fp", 16, 0)] + [record(m, kv, i + 1) for i, m in enumerate(methods)]
pathlib.Path(value("--json")).write_text(json.dumps(records))
'''


def main():
    script = pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        llm = pathlib.Path(folder) / "rrs-llm"
        llm.write_text(STAND_IN)
        llm.chmod(0o755)
        recipe = "rrs-plan@recipe=" + str(pathlib.Path(folder) / "kv4" / "plan.json")
        methods = ["fp", "rrs", recipe, "rrs/kv4", recipe + "/kv4"]
        command = [sys.executable, str(script), "--llm", str(llm), "--model", "m", "--out",
                   str(pathlib.Path(folder) / "records"), "--seeded", "", "--methods",
                   " ".join(methods)]
        printed = [subprocess.run(c, check=True, stdout=subprocess.PIPE, text=True).stdout
                   for c in (command, command, command + ["--render"])]
        calls = (pathlib.Path(folder) / "calls").read_text().splitlines()
        assert calls == [f"fp,rrs,{recipe} 16", f"rrs,{recipe} 4"], calls  # the second took nothing
        assert printed[0] == printed[1] == printed[2]
        lines = printed[2].splitlines()
        cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
        assert len({len(c) for c in cells}) == 1, cells
        at = cells[0].index("config hash")
        found = {(c[0], c[1]): c[at] for c in cells[2:]}
        expected = {("`fp`", "16"): "01234567", ("`rrs`", "16"): "01234568",
                    (f"`{recipe}`", "16"): "01234569", ("`rrs`", "4"): "01234568",
                    (f"`{recipe}`", "4"): "01234569"}
        for key, digits in expected.items():
            assert found.get(key) == digits, (key, found)
        kept = sorted((pathlib.Path(folder) / "records").glob("*.json"))
        assert len(kept) == len(methods), kept
        one = json.loads(kept[0].read_text())
        assert "config_hash" in one
        print(f"accuracy_table: {len(expected)} rows checked")


main()
