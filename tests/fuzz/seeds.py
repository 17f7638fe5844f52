#!/usr/bin/env python3
"""Writes the seeds of the file readers' corpora: one valid small file of each kind.

    usage: seeds.py CORPUS_FOLDER

weight_file's seeds are a byte and rrs::serialize_weight's output for small layers. What fuzzing found
since lies beside them, named by its hash.
"""
import json
import pathlib
import random
import struct
import sys

RNG = random.Random(1)
MERGES = [("\u0120", "t"), ("h", "e"), ("\u0120t", "he"), ("l", "l"), ("he", "ll"), ("1", "2")]
SPECIAL = ["<s>", "<end>"]


def byte_characters():
    """The 256 letters of the byte-level alphabet, in byte order."""
    shown = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    hidden = iter(range(256, 512))
    return [chr(b) if b in shown else chr(next(hidden)) for b in range(256)]


def vocabulary():
    return byte_characters() + [a + b for a, b in MERGES]


def floats(count):
    return struct.pack(f"<{count}f", *[RNG.gauss(0, 0.1) for _ in range(count)])


def safetensors():
    tensors = {"a": ("F32", [2, 3], floats(6)), "b": ("F16", [4], bytes(8)),
               "c": ("I64", [1], bytes(8)), "empty": ("BF16", [0, 5], b"")}
    header, data = {"__metadata__": {"made": "by hand"}}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def gguf_string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_pair(key, value):
    head = gguf_string(key)
    if isinstance(value, bool):
        return head + struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return head + struct.pack("<II", 4, value)
    if isinstance(value, float):
        return head + struct.pack("<If", 6, value)
    if isinstance(value, str):
        return head + struct.pack("<I", 8) + gguf_string(value)
    if isinstance(value[0], str):
        return head + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(gguf_string, value))
    return head + struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)


def gguf_tensors(hidden, ffn, tokens):
    """name, dimensions (innermost first), type, bytes: F32 for vectors, Q8_0 and Q4_0 for matrices."""
    def matrix(name, rows, columns, quantized):
        blocks = rows * columns // 32
        data = b"".join(b"\x00\x2c" + RNG.randbytes(32 if quantized == 8 else 16)
                        for _ in range(blocks))
        return name, (columns, rows), quantized, data

    yield matrix("token_embd.weight", tokens, hidden, 8)
    yield "output_norm.weight", (hidden,), 0, floats(hidden)
    for name in ("attn_norm", "ffn_norm"):
        yield f"blk.0.{name}.weight", (hidden,), 0, floats(hidden)
    for name, rows, columns in (("attn_q", hidden, hidden), ("attn_k", hidden // 2, hidden),
                                ("attn_v", hidden // 2, hidden), ("attn_output", hidden, hidden),
                                ("ffn_gate", ffn, hidden), ("ffn_up", ffn, hidden),
                                ("ffn_down", hidden, ffn)):
        yield matrix(f"blk.0.{name}.weight", rows, columns, 2)


def gguf():
    tokens = vocabulary() + SPECIAL
    pairs = {"general.architecture": "llama", "llama.block_count": 1, "llama.embedding_length": 32,
             "llama.feed_forward_length": 32, "llama.attention.head_count": 2,
             "llama.attention.head_count_kv": 1, "llama.context_length": 64,
             "llama.rope.freq_base": 10000.0, "llama.attention.layer_norm_rms_epsilon": 1e-5,
             "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
             "tokenizer.ggml.tokens": tokens,
             "tokenizer.ggml.token_type": [1] * len(vocabulary()) + [3] * len(SPECIAL),
             "tokenizer.ggml.merges": [a + " " + b for a, b in MERGES],
             "tokenizer.ggml.bos_token_id": len(tokens) - 2,
             "tokenizer.ggml.eos_token_id": len(tokens) - 1,
             "tokenizer.ggml.add_bos_token": False}
    tensors = list(gguf_tensors(32, 32, len(tokens)))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    head += b"".join(gguf_pair(k, v) for k, v in pairs.items())
    data = b""
    for name, dims, kind, content in tensors:
        head += gguf_string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, len(data))
        data += content + bytes(-len(content) % 32)
    return head + bytes(-len(head) % 32) + data


def tokenizer_json():
    tokens = vocabulary()
    added = [{"id": len(tokens) + i, "content": text, "special": True, "lstrip": False}
             for i, text in enumerate(SPECIAL)]
    pre = {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]}
    model = {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)},
             "merges": [a + " " + b for a, b in MERGES]}
    config = {"bos_token": "<s>", "eos_token": {"content": "<end>"}, "add_bos_token": True}
    text = json.dumps({"added_tokens": added, "normalizer": None, "pre_tokenizer": pre,
                       "model": model}, ensure_ascii=False)
    return text.encode() + b"\0" + json.dumps(config).encode()


def recipe_json():
    settings = [{"pattern": "", "set": "sign-seed=3"},
                {"pattern": "blk.1.ffn_down", "set": "activation-bits=8,clip=0.9,window=one"},
                {"pattern": "blk.?.attn_*", "set": "a6,w8,weight-range=full,solver=gptq,rank=8"},
                {"pattern": "ffn_gate", "set": "fp"}, {"pattern": "blk.0.attn_q", "set": "exempt=16"}]
    log = [{"module": "blk.1.ffn_down", "set": "activation-bits=8", "saves": 0.0125, "mean_cost": 4.1}]
    held_out = {"windows": 3, "context": 24}
    for name in ("uniform_kl", "recipe_kl", "saved", "standard_error", "uniform_perplexity",
                 "recipe_perplexity", "fp_perplexity"):
        held_out[name] = round(RNG.random() * 20, 4)
    return json.dumps({"format": "rrs-llm recipe", "version": 1, "model": "0123456789abcdef",
                       "model_name": "tiny", "method": "rrs-gptq-zigzag", "cost": "bits",
                       "mean_cost": 4.25, "verdict": "one exception", "settings": settings, "log": log,
                       "held_out": held_out}).encode()


def main():
    folder = pathlib.Path(sys.argv[1])
    for name, content in (("safetensors", safetensors()), ("gguf", gguf()),
                          ("tokenizer_json", tokenizer_json()), ("recipe_json", recipe_json())):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "seed").write_bytes(content)
    return 0


sys.exit(main() if len(sys.argv) == 2 else print(__doc__, file=sys.stderr) or 2)
