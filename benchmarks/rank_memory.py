"""Peak host memory of building a model: four processes that shard it (FSDP) against one that holds it whole.

``python benchmarks/rank_memory.py [--processes 4] [--width 768] [--layers 12] [--vocabulary 32000]``

A model of that shape with random weights is written in bfloat16, as models are published, and loaded in float32, as
they are trained. What is counted is what each process adds to its memory after everything is imported: the most private
memory it has before the first forward pass (``RssAnon``: without the pages of files, which all share), summed over the
processes.
"""

import argparse
import multiprocessing
import os
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

MIB = 2**20
MOST = 1.5


def main() -> None:
    """Print the peaks and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("processes", 4), ("width", 768), ("layers", 12), ("vocabulary", 32000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = _in_processes(_write, 1, Path(folder), options.width, options.layers, options.vocabulary)[0]
        alone = sum(_in_processes(_peak, 1, Path(folder)))
        together = _in_processes(_peak, options.processes, Path(folder))
    print(f"weights in float32             {size / MIB:8.0f} MiB")
    print(f"one process, whole             {alone / MIB:8.0f} MiB")
    each = ", ".join(f"{peak / MIB:.0f}" for peak in together)
    print(f"{options.processes} processes, sharded         {sum(together) / MIB:8.0f} MiB  ({each})")
    print(f"ratio                          {sum(together) / alone:8.2f}  (at most {MOST})")
    sys.exit(sum(together) > MOST * alone)


def _in_processes(target, number, *arguments):
    """Results of ``target(rank, number, port, *arguments)`` in processes of their own."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with context.Pool(number) as pool:
        results = pool.starmap(target, [(rank, number, port, *arguments) for rank in range(number)], chunksize=1)
        pool.close()
        pool.join()
    return results


def _write(_rank, _number, _port, folder, width, layers, vocabulary):
    import torch

    from dlm.data.tokenizer_training import train_tokenizer
    from dlm.model.from_scratch import model_from_config
    from dlm.model.tokenizer import ensure_mask_token

    tokenizer = train_tokenizer(["a text of a few words"] * 8, vocab_size=280)
    heads = {"num_attention_heads": width // 64, "num_key_value_heads": width // 64, "head_dim": 64}
    shape = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers, **heads}
    model = model_from_config(
        {**shape, "vocab_size": vocabulary}, vocab_size=280, mask_token_id=ensure_mask_token(tokenizer, None)
    )
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    model.to(torch.bfloat16).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "texts.jsonl").write_text('{"text": "a text of a few words"}\n' * 64, encoding="utf-8")
    return size


def _peak(rank, number, port, folder):
    """What building the run adds to this process's memory, at most."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if number > 1:
        values = (rank, rank, number, number, "127.0.0.1", port)
        os.environ.update(zip(names, map(str, values), strict=True))
    os.environ["OMP_NUM_THREADS"] = "1"
    from dlm.config import load_config
    from dlm.training import meta_model
    from dlm.training.assembly import assemble, build_accelerator

    run_file = folder / f"run-{number}-{rank}.yaml"
    run_file.write_text(
        f"model: {{name_or_path: {folder}/model, dtype: float32}}\n"
        f"training: {{output_dir: {folder}/out, max_steps: 1, batch_size: 1, parallel: {{shard: {number}}}}}\n"
        f"dataset: {{name: {folder}/texts.jsonl, max_length: 8}}\n"
        "evaluation: {do_eval_loss: false}\n",
        encoding="utf-8",
    )
    loaded = load_config(run_file)
    accelerator = build_accelerator(loaded.config)
    before, peak, is_done = _private_bytes(), [0], threading.Event()

    def watch():
        while not is_done.is_set():
            peak[0] = max(peak[0], _private_bytes() - before)
            time.sleep(0.002)

    # A forward pass gathers layer after layer, on the GPU where there is one: this is about what comes before.
    meta_model.prove = lambda *_: is_done.set()
    watcher = threading.Thread(target=watch)
    watcher.start()
    engine = assemble(loaded, accelerator)
    is_done.set()
    watcher.join()
    accelerator.wait_for_everyone()
    del engine
    return peak[0]


def _private_bytes():
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
