#!/usr/bin/env python3
"""Measures methods with rrs-llm perplexity and prints them as a markdown table.

One command, which may be stopped and run again: every method's record is kept in --out, and what is
there is not measured again. Methods run in batches, so that the float model, which each comparison
needs, runs once per batch. Bits do not depend on the machine or the number of threads; tokens per
second do, so measure those on an idle machine.

A task is a method as --method takes it, settings and all (`rrs-plan@recipe=/a/plan.json`); NAME/kv4
at its end is the bits of the KV cache. The table's last column but one is the beginning of a record's
config_hash: equal for equal runs on any machine.

A method's sign seeds are measured when its name is in --seeded: `rrs` with 4-bit activations moves
by a percent or two with the signs in front of its rotation, and nothing closer is a ranking.

    examples/llm/accuracy_table.py --llm build/examples/rrs-llm --model MODEL.gguf --out records
    examples/llm/accuracy_table.py --out records --render        # the table of what is there
    examples/llm/accuracy_table.py ... --costs                   # what preparing a method takes

--costs runs `quantize` for every method (fp aside): processor seconds, elapsed seconds and peak
resident memory of the whole program, calibration included, the file thrown away.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

METHODS = (
    "fp q4_0-native smoothquant_w8a8 rrs_w4a16 rrs_w4a8 rrs rrs_g64 rrs_g128 rrs_rows16 rrs_whole "
    "rrs_published quarot_g32 quarot rtn rs_g32 rs smoothquant_w4a4 fp/kv8 fp/kv4 rrs/kv4"
)
SEEDED = "rrs quarot_g32 quarot rrs_published rrs_g64 rrs_g128 rrs_rows16 rrs_whole"
LLAMA_CPP = [  # the same protocol on the first 3 windows, made from the same weights
    ("llama.cpp, float", 22.8988),
    ("llama.cpp, Q4_K_M", 24.41),
    ("llama.cpp, Q4_0", 29.39),
]


def parse_arguments():
    here = pathlib.Path(__file__).resolve().parent
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--llm", default="build/examples/rrs-llm", help="the program")
    p.add_argument("--model", help="a GGUF file or a Hugging Face folder")
    p.add_argument("--text", default=str(here.parent / "data" / "wiki.test.raw"))
    p.add_argument("--out", required=True, help="folder of the records")
    p.add_argument("--methods", default=METHODS, help="in the table's order; NAME/kv4 sets the cache")
    p.add_argument("--seeded", default=SEEDED, help="methods that also run with sign seeds")
    p.add_argument("--seeds", default="1 2 3")
    p.add_argument("--windows", type=int, default=20)
    p.add_argument("--context", type=int, default=2048)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--batch", type=int, default=4, help="methods per run of the program")
    p.add_argument("--calibration", help="text for methods that calibrate")
    p.add_argument("--render", action="store_true", help="measure nothing")
    p.add_argument("--costs", action="store_true", help="measure preparation instead of accuracy")
    return p.parse_args()


def parse_task(task):
    """Method and bits of the cache; other slashes are the method's own, as in a recipe's path."""
    method, bits = re.fullmatch(r"(.*?)(?:/kv(\d+))?", task).groups()
    return method, bits or "16"


def split_list(text):
    return text.replace(",", " ").split()


def record_path(out, task):
    return pathlib.Path(out) / (task.replace("/", "+") + ".json")


def load(args, task):
    """The record of a task, or None; one of another protocol is an error, not a row."""
    path = record_path(args.out, task)
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    if (record["windows"], record["context"]) != (args.windows, args.context):
        sys.exit(f"{path}: has {record['windows']} windows of {record['context']}, "
                 f"not {args.windows} of {args.context}")
    return record


def store(args, task, record):
    path = record_path(args.out, task)
    half = path.with_suffix(".half")
    half.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(half, path)


def seed_tasks(args, method):
    return [f"{method}@sign-seed={s}" for s in split_list(args.seeds)]


def all_tasks(args):
    tasks = split_list(args.methods)
    seeded = split_list(args.seeded)
    return tasks + [t for m in tasks if m in seeded for t in seed_tasks(args, m)]


def run_batch(args, tasks, kv):
    names = [parse_task(t)[0] for t in tasks]
    half = pathlib.Path(args.out) / "batch.half"
    command = [args.llm, "perplexity", "--model", args.model, "--text", args.text,
               "--windows", str(args.windows), "--context", str(args.context),
               "--threads", str(args.threads), "--kv", kv, "--json", str(half),
               "--method", ",".join(names)]
    if args.calibration:
        command += ["--calibration", args.calibration]
    print("running:", " ".join(names), "kv", kv, file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        print(f"failed ({done.returncode}): {' '.join(names)}", file=sys.stderr, flush=True)
        return False
    records = json.loads(half.read_text())
    half.unlink()
    if load(args, "fp") is None:
        store(args, "fp", records[0])
    # In the order asked for, after fp with a 16-bit cache, which always runs and is not repeated.
    asked = [t for t, n in zip(tasks, names) if n != "fp" or kv != "16"]
    if len(records) != 1 + len(asked):
        sys.exit(f"{len(records)} records for fp and {' '.join(asked)}")
    for task, record in zip(asked, records[1:]):
        store(args, task, record)
    return True


def measure(args):
    pathlib.Path(args.out).mkdir(parents=True, exist_ok=True)
    waiting = [t for t in all_tasks(args) if load(args, t) is None]
    while waiting:
        kv = parse_task(waiting[0])[1]
        same = [t for t in waiting if parse_task(t)[1] == kv]
        batch = same[: args.batch]
        waiting = [t for t in waiting if t not in batch]
        if not run_batch(args, batch, kv) and len(batch) > 1:
            for task in batch:  # one bad method does not take the others with it
                if load(args, task) is None:
                    run_batch(args, [task], kv)


def cost_path(out, task):
    return record_path(pathlib.Path(out) / "costs", task)


def measure_costs(args):
    """One `quantize` per method; its memory is the kernel's high-water mark of that process."""
    (pathlib.Path(args.out) / "costs").mkdir(parents=True, exist_ok=True)
    for task in split_list(args.methods):
        method, kv = parse_task(task)
        if method.startswith("fp") or kv != "16" or cost_path(args.out, task).exists():
            continue
        with tempfile.TemporaryDirectory(dir=args.out) as folder:
            command = [args.llm, "quantize", "--model", args.model, "--method", method, "--threads",
                       str(args.threads), "--out", os.path.join(folder, "out.safetensors")]
            if args.calibration:
                command += ["--calibration", args.calibration]
            print("running:", " ".join(command), file=sys.stderr, flush=True)
            start = time.monotonic()
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            elapsed = time.monotonic() - start
        if status != 0:
            print(f"failed ({status}): {task}", file=sys.stderr, flush=True)
            continue
        cost_path(args.out, task).write_text(json.dumps({
            "elapsed_seconds": elapsed, "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_mb": usage.ru_maxrss / 1024, "threads": args.threads}) + "\n")


def cost_cells(args, task):
    path = cost_path(args.out, task)
    if not path.exists():
        return ["", ""]
    cost = json.loads(path.read_text())
    return [f"{cost['cpu_seconds']:.0f}", f"{cost['peak_mb']:.0f}"]


def spread_text(args, method):
    if method not in split_list(args.seeded):
        return ""
    found = [r["perplexity"] for r in (load(args, t) for t in seed_tasks(args, method)) if r]
    if not found:
        return "?"
    mean = sum(found) / len(found)
    return f"{min(found):.2f} to {max(found):.2f}, mean {mean:.2f} ({len(found)})"


def linears_text(record):
    parts = [f"{c['count']} {c['precision']}, `{c['kernel']}`" for c in record["linears"]]
    return "; ".join(parts) + (" (simulated)" if record["simulated"] else "")


def render(args):
    rows = [["method", "KV", "perplexity", "s.e.", "ratio", "over sign seeds", "KLD mean",
             "KLD 99 %", "same top 1", "bits per weight", "CPU s to prepare", "peak MB",
             "tokens/s", "config hash", "linears"]]
    missing = []
    for task in split_list(args.methods):
        r = load(args, task)
        if r is None:
            missing.append(task)
            continue
        rows.append([f"`{r['method']}`", r["kv_bits"], f"{r['perplexity']:.2f}",
                     f"{r['standard_error']:.2f}", f"{r['ratio']:.3f}", spread_text(args, task),
                     f"{r['kld_mean']:.4f}", f"{r['kld_p99']:.3f}", f"{100 * r['top1']:.1f} %",
                     f"{r['bits_per_weight']:.2f}", *cost_cells(args, task),
                     f"{r['tokens_per_second']:.0f}", r.get("config_hash", "")[:8],
                     linears_text(r)])
    for name, perplexity in LLAMA_CPP:
        rows.append([name + " (3 windows)", 16, f"{perplexity:.2f}", "",
                     f"{perplexity / LLAMA_CPP[0][1]:.3f}"] + [""] * 10)
    for i, row in enumerate(rows):
        print("| " + " | ".join(str(cell) for cell in row) + " |")
        if i == 0:
            print("|" + "---|" * len(row))
    if missing:
        print("\nNot measured yet: " + ", ".join(missing))


def main():
    args = parse_arguments()
    if not args.render:
        if not args.model:
            sys.exit("--model is required")
        (measure_costs if args.costs else measure)(args)
    render(args)


main()
